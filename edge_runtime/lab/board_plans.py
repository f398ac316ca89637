"""`hobbit plan --boards`: one model against every device profile, with the planner that the engine uses."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from edge_runtime.backends.base import MemoryFormulas
from edge_runtime.base.errors import BudgetError
from edge_runtime.base.sizes import format_size
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.manifest import Manifest
from edge_runtime.config.boards import identify, profile_of, read_board
from edge_runtime.config.device_profile import DeviceProfile
from edge_runtime.config.environment import Environment, Variables, given
from edge_runtime.config.limits import Ceiling, SystemLimits, memory_ceiling, read_limits
from edge_runtime.config.memory_needs import MemoryNeeds
from edge_runtime.config.memory_plan import MemoryPlan, plan_memory
from edge_runtime.config.options import RuntimeConfig
from edge_runtime.config.profiles import load_profile, profile_names
from edge_runtime.config.resolve import EngineOptions, resolve
from edge_runtime.engine.preparation import make_backend
from edge_runtime.engine.replanning import ceiling_here
from edge_runtime.engine.sizing import size_model
from edge_runtime.engine.tokenizer import Tokenizer
from edge_runtime.lab.plan_speed import KnownRate, estimate_speed, known_rate
from edge_runtime.lab.speed_estimate import SpeedEstimate

AddNeeds = Callable[[RuntimeConfig, MemoryFormulas, Ceiling], MemoryNeeds]
"""Adds up what a model needs under options, a backend's formulas and a ceiling."""


@dataclass(frozen=True)
class BoardPlan:
    """One model on one board.

    Attributes:
        profile: of the board.
        is_here: the board is this machine, planned with what it has available now.
        needs: what the process needs there; libraries are those measured on this machine.
        ceiling: None: the profile does not say how much memory the board has.
        plan: None: it does not fit, or `ceiling` is None.
        speed: of the plan.
        rates: of drive and memory, behind the speed.
    """

    profile: DeviceProfile
    is_here: bool
    needs: MemoryNeeds
    ceiling: Ceiling | None
    plan: MemoryPlan | None
    speed: SpeedEstimate | None
    rates: tuple[KnownRate, ...]

    @property
    def basis(self) -> str:
        """'measured' if all rates are, else 'assumed'."""
        return "measured" if all(rate.is_measured for rate in self.rates) else "assumed"

    @property
    def verdict(self) -> str:
        """'fits', 'does not fit' or 'unknown': the profile states no memory."""
        return "unknown" if self.ceiling is None else "does not fit" if self.plan is None else "fits"

    @property
    def all_bytes(self) -> int:
        """What keeps every expert in memory."""
        needs = self.needs
        return needs.floor_bytes() + (needs.all_experts - needs.least_slots()) * needs.slot_bytes[needs.tier]

    def to_json(self) -> dict[str, Any]:
        """Return plain data; what is not known is null."""
        plan, speed = self.plan, self.speed
        return {
            "profile": self.profile.name,
            "board": self.profile.board,
            "is_this_machine": self.is_here,
            "verdict": self.verdict,
            "budget_bytes": None if self.ceiling is None else self.ceiling.bytes,
            "floor_bytes": self.needs.floor_bytes(),
            "all_resident_bytes": self.all_bytes,
            "tier": self.needs.tier,
            "context": self.needs.context,
            "arena_bytes": None if plan is None else plan.arena_bytes,
            "cache_share": None if plan is None else round(plan.cache_share, 4),
            "basis": self.basis,
            "rates": {rate.name: rate.to_json() for rate in self.rates},
            "speed": None if speed is None else speed.to_json(),
        }


def plan_boards(path: str | os.PathLike[str], options: EngineOptions, env: Variables | None = None) -> list[BoardPlan]:
    """Plan a bundle for every packaged profile, this machine, and a profile file that was asked for.

    Args:
        path: the bundle.
        options: hold on every board, but for the profile.
        env: variables; those of the process if left out.

    Returns:
        The boards by memory, the smallest first; those that state none last.

    Raises:
        ConfigError, BundleError, DeviceError: as `prepare`.
    """
    bundle = Bundle.open(path)
    tokenizer = Tokenizer.from_bundle(bundle)  # planned is a process that has it loaded
    variables = Environment.of(os.environ if env is None else env)
    here = identify(read_board()).profile.name
    said = {name: value for name, value in options.said.items() if name != "profile"}
    profiles = [load_profile(name) for name in profile_names()]
    asked = profile_of(given(options.said, variables))
    profiles += [asked] if asked not in profiles else []
    options = replace(options, said=said)

    def add_needs(config: RuntimeConfig, formulas: MemoryFormulas, most: Ceiling) -> MemoryNeeds:
        return size_model(bundle, config, formulas, most, request_bytes=options.request_bytes).needs

    plans = [
        plan_board(bundle.manifest, options, variables, profile, add_needs, is_here=profile.name == here)
        for profile in profiles
    ]
    del tokenizer
    return sorted(plans, key=_memory)


def _memory(board: BoardPlan) -> tuple[bool, int]:
    size = board.profile.memory_bytes or (read_limits().total_bytes if board.is_here else 0)
    return board.ceiling is None, size


def plan_board(
    manifest: Manifest,
    options: EngineOptions,
    env: Environment,
    profile: DeviceProfile,
    add_needs: AddNeeds,
    *,
    is_here: bool = False,
) -> BoardPlan:
    """Plan a model on one board.

    Args:
        manifest: of the bundle, or of one to come.
        options: hold on every board, but for the profile.
        env: variables.
        profile: of the board.
        add_needs: adds up what the model needs.
        is_here: the board is this machine.

    Raises:
        ConfigError, DeviceError: as `prepare`.
    """
    config = resolve(options, env, manifest, profile)
    if not is_here and profile.cores and "threads" not in options.said:
        config = replace(config, threads=profile.cores)
    with closing(make_backend(manifest.model, config)) as backend:
        ceiling = ceiling_here(config, backend) if is_here else _ceiling(profile, config.memory, config.os_reserve)
        needs = add_needs(config, backend.formulas, ceiling or Ceiling(1 << 62, "no memory stated"))
    rates = known_rate("drive", profile), known_rate("memory", profile)
    plan = speed = None
    if ceiling is not None:
        plan = _fitting(needs, ceiling, config.expert_memory)
    if plan is not None:
        speed = estimate_speed(manifest, plan, drive=rates[0], memory=rates[1], threads=config.threads)
    return BoardPlan(profile, is_here, needs, ceiling, plan, speed, rates)


def _ceiling(profile: DeviceProfile, requested: int | None, reserve: int) -> Ceiling | None:
    size = profile.memory_bytes
    if size is None:
        return None
    return memory_ceiling(SystemLimits(size, size), requested=requested, reserve_bytes=reserve)


def _fitting(needs: MemoryNeeds, ceiling: Ceiling, expert_memory: int | None) -> MemoryPlan | None:
    try:
        return plan_memory(needs, ceiling, expert_memory=expert_memory)
    except BudgetError:
        return None


def board_lines(boards: Sequence[BoardPlan]) -> Iterator[str]:
    """Yield a table for people."""
    width = max(len(board.profile.name) for board in boards)
    yield f"{'board':<{width}}  {'memory':>10}  {'experts':>10}  {'cached':>7}  {'tok/s, at most':>14}  rates"
    for board in boards:
        budget = format_size(board.ceiling.bytes) if board.ceiling else "not stated"
        yield f"{board.profile.name:<{width}}  {budget:>10}  {_outcome(board)}".rstrip()
    yield "memory: what the process may use. Rates are assumed unless marked; docs/boards.md has the arithmetic."


def _outcome(board: BoardPlan) -> str:
    if board.plan is None or board.speed is None:
        needs = f"needs {format_size(board.needs.floor_bytes())}, with every expert {format_size(board.all_bytes)}"
        return needs if board.ceiling is None else f"does not fit: {needs}"
    plan, speed = board.plan, board.speed
    shown = f"{speed.tok_s:.{0 if speed.tok_s >= 10 else 1}f}"
    cells = f"{format_size(plan.arena_bytes):>10}  {100 * plan.cache_share:>5.0f} %  {shown:>14}"
    measured = [rate.name for rate in board.rates if rate.is_measured]
    marks = f"{', '.join(measured)} measured" if measured else "assumed"
    return f"{cells}  {marks}{', this machine' if board.is_here else ''}"
