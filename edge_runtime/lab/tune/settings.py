"""How a tuning goes about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from edge_runtime.base.errors import ConfigError
from edge_runtime.lab.tune.policies import LossAllowed


@dataclass(frozen=True)
class TuneSettings:
    """How a tuning goes about it.

    Attributes:
        out: the profile to write; journal and trace lie beside it meanwhile.
        text: prompts come from it; None: random tokens.
        prompt_tokens, gen_tokens, requests: of each measurement.
        rounds: measurements of each finalist.
        finalists: candidates measured of each axis.
        budget_s: time for all of it.
        max_kld: nats a token that a change may cost; None: only what changes nothing is tried.
        base_resident: whether what changes something keeps every expert in memory at its lowest tier; None: try both.
        change_power_mode: also try the power modes of this board, which changes them for everything on it meanwhile.
        seed: of prompts and sampling.
        root: where /proc and /sys are; tests pass a fake tree.
    """

    out: Path
    text: Path | None = None
    prompt_tokens: int = 32
    gen_tokens: int = 64
    requests: int = 2
    rounds: int = 5
    finalists: int = 3
    budget_s: float = 3600.0
    max_kld: float | None = None
    base_resident: bool | None = None
    change_power_mode: bool = False
    seed: int = 0
    root: Path = field(default_factory=lambda: Path("/"))

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: names the setting, what was expected and what was given.
        """
        for name, value, low, high in (
            ("rounds", self.rounds, 3, 100),
            ("finalists", self.finalists, 1, 100),
            ("time-budget", self.budget_s, 10, 7 * 86400),
        ):
            if not low <= value <= high:
                raise ConfigError(f"--{name}: expected {low} to {high}, got {value:g}.")
        if self.base_resident and self.max_kld is None:
            raise ConfigError(
                "--base-resident: it changes what is said, and a tuning has to know by how much it may. Add --max-kld, "
                "the nats a token that a change may cost, or leave it out."
            )

    @property
    def allowed(self) -> LossAllowed:
        """What a change may cost."""
        return LossAllowed(self.max_kld, self.base_resident)

    @property
    def journal(self) -> Path:
        """Where measurements are noted as they are made."""
        return self.out.with_name(self.out.name + ".journal")

    @property
    def trace(self) -> Path:
        """Where the trace lies."""
        return self.out.with_name(self.out.name + ".trace")
