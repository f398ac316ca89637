"""Candidate: options that differ from what the machine runs with now, and the axes along which candidates differ."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_runtime.base.sizes import format_size

_SIZES = ("expert_memory", "read_chunk")


@dataclass(frozen=True)
class Candidate:
    """Options on top of those everything is compared with; none for these themselves.

    Attributes:
        changes: (name, value) in the order of names.
    """

    changes: tuple[tuple[str, Any], ...] = ()

    @staticmethod
    def of(options: Mapping[str, Any]) -> Candidate:
        """Return the candidate that sets these options."""
        return Candidate(tuple(sorted(options.items())))

    def having(self, options: Mapping[str, Any]) -> Candidate:
        """Return this with other values; None takes an option back."""
        merged = {**self.options, **options}
        return Candidate.of({name: value for name, value in merged.items() if value is not None})

    @property
    def options(self) -> dict[str, Any]:
        """The options by name."""
        return dict(self.changes)

    @property
    def key(self) -> str:
        """Names it in the journal: the same for the same options."""
        return json.dumps(self.options, sort_keys=True)

    def __str__(self) -> str:
        if not self.changes:
            return "as it is"
        return ", ".join(f"{name.replace('_', '-')} {_shown(name, value)}" for name, value in self.changes)


def _shown(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return format_size(value) if name in _SIZES and isinstance(value, int) else str(value)


@dataclass(frozen=True)
class Axis:
    """One thing that is varied while everything else stays.

    Attributes:
        name: of it, for the report.
        choices: options of each alternative; None as a value means "as it is".
        is_lossy: alternatives change what is said, so they are held to the budget of KL divergence.
    """

    name: str
    choices: tuple[Mapping[str, Any], ...]
    is_lossy: bool = False

    @property
    def options(self) -> set[str]:
        """Names it sets."""
        return {name for choice in self.choices for name in choice}

    def around(self, best: Candidate) -> list[Candidate]:
        """Return the candidates that differ from `best` in this alone."""
        found = [best.having(choice) for choice in self.choices]
        return [*dict.fromkeys(candidate for candidate in found if candidate != best)]


@dataclass(frozen=True)
class Space:
    """What there is to choose from on a machine, for a bundle.

    Attributes:
        cpus: that may compute.
        slot_bytes: of an expert at the full tier.
        num_slots: S with nothing changed.
        least_slots: K.
        fits_all: every expert stays in memory, so that nothing is read.
        eviction: rules that can be built, with parameters.
        prefetch: predictors that can be built.
        read_chunks, io_threads: that the drive was probed with.
        policies: of `max_kld`, with parameters; () without a budget.
        tiers: below the present one, with a budget; () without.
        power_modes: other than the present one, if they may be changed.
    """

    cpus: int
    slot_bytes: int
    num_slots: int
    least_slots: int
    fits_all: bool = False
    eviction: Sequence[str] = ()
    prefetch: Sequence[str] = ()
    read_chunks: Sequence[int] = ()
    io_threads: Sequence[int] = ()
    policies: Sequence[str] = ()
    tiers: Sequence[int] = ()
    power_modes: Sequence[str] = ()


_CACHE_SHARES = (0.85, 0.7, 0.55)
"""Beyond some size of the cache speed can fall while hits rise: it takes memory from everything else."""


def axes(space: Space, given: Collection[str] = ()) -> list[Axis]:
    """Return what is varied, in the order it is: what reads first, as everything behind depends on it.

    Args:
        space: what there is.
        given: options the user stated, which are left alone.
    """
    compute = Axis("threads", tuple({"threads": n} for n in thread_counts(space.cpus)))
    slots = sorted({max(space.least_slots, int(share * space.num_slots)) for share in _CACHE_SHARES}, reverse=True)
    streaming = [
        Axis(
            "reads",
            tuple({"io_threads": n, "read_chunk": size} for size in space.read_chunks for n in space.io_threads),
        ),
        Axis("page cache", ({"direct_io": False}, {"direct_io": None})),
        Axis("eviction", tuple({"eviction": rule} for rule in space.eviction)),
        Axis("cache size", tuple({"expert_memory": n * space.slot_bytes} for n in slots if n < space.num_slots)),
        Axis("look-ahead", tuple({"prefetch": name} for name in space.prefetch)),
        Axis("overlap", ({"overlap": False}, {"overlap": None})),
    ]
    lossy = Axis(
        "tiers and policy",
        (*({"policy": text} for text in space.policies), *({"tier": tier} for tier in space.tiers)),
        is_lossy=True,
    )
    modes = Axis("power mode", tuple({"power_mode": name} for name in space.power_modes))
    found = [compute, modes] if space.fits_all else [*streaming, compute, modes]
    return [axis for axis in (*found, lossy) if axis.choices and not axis.options & set(given)]


def thread_counts(cpus: int) -> list[int]:
    """All CPUs, one fewer for everything else, half of them (cores with two threads each)."""
    return sorted({n for n in (cpus, cpus - 1, cpus // 2) if n >= 1}, reverse=True)
