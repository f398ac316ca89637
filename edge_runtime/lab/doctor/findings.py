"""What a check is, what it finds, and the registry of checks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from edge_runtime.lab.doctor.device import Device

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Found:
    """What a check saw; `fix` where this machine's differs from the check's."""

    text: str
    fix: str = ""


@dataclass(frozen=True)
class Check:
    """One trap.

    Attributes:
        name: short, with dashes; unique.
        severity: 'error': something does not work or is wrong; 'warning': it is slow, or will fail under load.
        about: what it looks for, as a line of documentation.
        why: why that matters.
        fix: command or step that mends it.
        where: on which machines it looks.
        look: sees it; yields nothing on a machine without the trap, or where the files say nothing.
    """

    name: str
    severity: Severity
    about: str
    why: str
    fix: str
    where: str
    look: Callable[[Device], Iterable[Found]]


@dataclass(frozen=True)
class Finding:
    """A trap that was found, with what to do."""

    check: str
    severity: Severity
    finding: str
    why: str
    fix: str

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


CHECKS: dict[str, Check] = {}
"""By name, in the order they are looked for; filled when `edge_runtime.lab.doctor.checks` is imported."""
Look = Callable[[Device], Iterable[Found]]


def check(
    name: str, severity: Severity, about: str, *, why: str, fix: str, where: str = "all"
) -> Callable[[Look], Look]:
    """Register a function as a check; takes the attributes of `Check`."""

    def register(look: Look) -> Look:
        assert name not in CHECKS, name
        CHECKS[name] = Check(name, severity, about, why, fix, where, look)
        return look

    return register


def findings_of(one: Check, device: Device) -> list[Finding]:
    """Return what a check finds on a machine."""
    return [
        Finding(one.name, one.severity, found.text, one.why, found.fix or one.fix) for found in one.look(device)
    ]  # fmt: skip
