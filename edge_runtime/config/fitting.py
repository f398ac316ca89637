"""Options that depend on the bundle, the machine or each other: what `auto` means, what is refused, what is cut.

Functions of the table's entries. Each imports what it needs when it is called: the table itself must stay light.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from edge_runtime.base.errors import ConfigError
from edge_runtime.config.kinds import Kind
from edge_runtime.config.option import AUTO, Facts

_WORKLOAD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class BackendName(Kind):
    """Name of a registered backend."""

    metavar = "auto|cpu|cuda"

    def convert(self, value: Any, where: str) -> str:
        """See `Kind.convert`."""
        from edge_runtime.backends import backend_named

        backend_named(str(value), where)
        return str(value)

    def schema(self) -> dict[str, Any]:
        """See `Kind.schema`: backends of the project; what others register no published schema can know."""
        names = [name for name in self.metavar.split("|") if name != AUTO]
        return {"type": "string", "pattern": f"^({'|'.join(names)})(:.*)?$"}


class WorkloadName(Kind):
    """Name of a workload, part of the name of a file."""

    metavar = "NAME"

    def convert(self, value: Any, where: str) -> str:
        """See `Kind.convert`."""
        if not _WORKLOAD.fullmatch(str(value)):
            raise ConfigError(
                f"{where}: expected a name of up to 64 letters, digits, dots and dashes, such as chat, got "
                f"{value!r:.80}."
            )
        return str(value)


def all_cpus(facts: Facts | None) -> int:
    """`threads`: affinity and quota say how many."""
    from edge_runtime.config.limits import available_cpus

    return available_cpus()


def warn_of_more_threads_than_cpus(value: int, where: str, facts: Facts) -> int:
    """`threads`: more than the CPUs are taken, with a warning: they wait for each other at every layer."""
    from edge_runtime.config.limits import available_cpus

    cpus = available_cpus()
    if value > cpus:
        logging.getLogger(__name__).warning(
            "%s: %d threads on %d %s are slower than %d. Leave it out to use them all.",
            where, value, cpus, "CPU" if cpus == 1 else "CPUs", cpus,
        )  # fmt: skip
    return value


warned: set[str] = set()
"""Backends whose hardware is unused, as said in this process."""


def backend_of_machine(facts: Facts | None) -> str:
    """`backend`: the CPU. A GPU that is passed over is named, once a process, with the reason."""
    from edge_runtime.backends import passed_over

    for name, why in passed_over("cpu").items():
        if name not in warned:
            warned.add(name)
            logging.getLogger(__name__).warning(
                "backend: auto computes on the cpu and leaves the hardware of %s unused: %s. --backend %s asks for it.",
                name, why.rstrip("."), name,
            )  # fmt: skip
    return "cpu"


def available_backend(value: str, where: str, facts: Facts) -> str:
    """Refuse a backend this version does not have.

    Raises:
        DeviceError: it is never replaced by another one silently.
    """
    from edge_runtime.backends import find_backend

    find_backend(value, where)
    return value


def context_limit(facts: Facts | None) -> int:
    """`context`: what the model was trained for."""
    assert facts is not None
    return facts.manifest.model.context_limit


def within_context(value: int, where: str, facts: Facts) -> int:
    """Refuse more than the model's limit."""
    limit = facts.manifest.model.context_limit
    if value > limit:
        raise ConfigError(
            f"{where}: expected 1 to {limit} (the model's own limit), got {value}. Give a number in this range."
        )
    return value


def cut_context(value: int, facts: Facts) -> int:
    """Cut a profile's context to the model's limit."""
    return min(value, facts.manifest.model.context_limit)


def deepest_tier(facts: Facts | None) -> int:
    """`tier`: the deepest progressive one; bfloat16 only for who asks."""
    assert facts is not None
    return max(_progressive(facts))


def stored_tier(value: int, where: str, facts: Facts) -> int:
    """Refuse a tier the bundle does not have."""
    from edge_runtime.bundle.record import BF16

    tiers = facts.manifest.experts.tiers
    if value not in tiers:
        names = ", ".join("bf16" if tier == BF16 else str(tier) for tier in tiers)
        raise ConfigError(f"{where}: expected one of this bundle's tiers {names}, got '{value}'.")
    return value


def nearest_tier(value: int, facts: Facts) -> int:
    """Return the profile's tier, or the next below that the bundle has, or its lowest."""
    tiers = _progressive(facts)
    return max([tier for tier in tiers if tier <= value] or [min(tiers)])


def _progressive(facts: Facts) -> list[int]:
    from edge_runtime.bundle.record import BF16

    return [tier for tier in facts.manifest.experts.tiers if tier != BF16]


def check_policy(text: str, where: str) -> None:
    """Refuse what `parse_policy` does."""
    from edge_runtime.policy import parse_policy

    parse_policy(text, where=where)


def check_eviction(text: str, where: str) -> None:
    """Refuse what `parse_rule` does."""
    from edge_runtime.experts.eviction import parse_rule

    parse_rule(text, where)


def check_prefetch(text: str, where: str) -> None:
    """Refuse what `parse_prefetch` does."""
    from edge_runtime.prefetch import parse_prefetch

    parse_prefetch(text, where)


def check_power_meter(text: str, where: str) -> None:
    """Refuse what `parse_choice` does."""
    from edge_runtime.telemetry.power import parse_choice

    parse_choice(text, where)


def left_open(facts: Facts | None) -> str:
    """`prefetch`: the policy says whether experts may be read ahead, once it is built; see `ActivePolicy.choose`."""
    return AUTO
