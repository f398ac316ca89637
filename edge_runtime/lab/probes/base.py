"""What every probe gets and gives: a subject to measure, and a result that goes to JSON with its samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from edge_runtime.base.errors import ConfigError
from edge_runtime.config.resolve import EngineOptions
from edge_runtime.engine.api import Engine
from edge_runtime.engine.preparation import Planned, plan_only
from edge_runtime.lab.bench.surroundings import record_extents
from edge_runtime.telemetry.drive_probe import Extent

SUSTAINED_LEAST_S, MOST_S = 30.0, 3600.0
"""Drives take some 20 s to become hot: a sustained probe is at least so long."""


class Result(Protocol):
    """What a probe measured."""

    def to_json(self) -> dict[str, Any]:
        """Return plain data, samples included."""
        ...

    def lines(self) -> list[str]:
        """Return it for people."""
        ...


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Attributes:
        path: the bundle.
        options: of the engine.
        seconds: for each point of a probe.
        sustained_s: of the probe that runs long; 0 leaves it out.
        root: where /proc and /sys are; tests pass a fake tree.

    Raises:
        ConfigError: a time is out of range.
    """

    path: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.5
    sustained_s: float = 0.0
    root: Path = Path("/")

    def __post_init__(self) -> None:
        if not 0.01 <= self.seconds <= 60:
            raise ConfigError(f"--seconds: expected 0.01 to 60, got {self.seconds:g}.")
        if self.sustained_s and not SUSTAINED_LEAST_S <= self.sustained_s <= MOST_S:
            raise ConfigError(
                f"--sustained: expected {SUSTAINED_LEAST_S:g} to {MOST_S:g} seconds, or 0 to leave it out, got "
                f"{self.sustained_s:g}: a drive takes so long to become hot."
            )

    @cached_property
    def planned(self) -> Planned:
        """The bundle checked, options resolved, memory planned; nothing big loaded, no GPU left open."""
        return plan_only(self.path, EngineOptions.from_keywords(self.options), names_bits=True)

    @cached_property
    def extents(self) -> list[Extent]:
        """Where the experts' records lie."""
        return record_extents(self.planned.bundle, self.planned.config.tier)

    def open_engine(self, **options: Any) -> Engine:
        """Open an engine on the subject, some options replaced. Its numerical self-check is the first start's."""
        return Engine.open(self.path, self_check=False, **{**self.options, **options})


@dataclass(frozen=True)
class RegisteredProbe:
    """A probe that can be asked for by name.

    Attributes:
        run: measures; raises DeviceError where nothing can be measured, and says why.
        summary: what it measures, in a few words.
    """

    run: Callable[[Subject], Result]
    summary: str
