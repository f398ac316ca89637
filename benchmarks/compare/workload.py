"""What is compared: models, regimes, sides, the order of cells, and the tokens all sides are given. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol

Result = Mapping[str, Any]

RESIDENT = "resident"
CAPS = ("75", "50", "35", "25")
"""Percent of the peer's file that the whole process may use."""
REGIMES = (RESIDENT, *CAPS)

OURS, LOSSLESS, HOBBIT = "ours", "lossless", "hobbit"
PROMPT_TOKENS = 128
WARM_STEPS = 64
MEASURED_STEPS = 64
CONTEXT = 512
THREADS = 2
_ROUND_TOKENS = 512
_FILL_PROMPTS, _FILL_TOKENS = 4, 384


@dataclass(frozen=True)
class Model:
    """One checkpoint in both formats.

    Attributes:
        name: as the report calls it.
        stream: token ids of the checkpoint's prepared stream (stream.json).
        text: the same as text (stream.txt).
        bundle: ours.
        gguf: the peers', made from the same checkpoint.
        gguf_bytes: its size, of which the caps are shares.
    """

    name: str
    stream: tuple[int, ...]
    text: Path
    bundle: Path
    gguf: Path
    gguf_bytes: int


class PeerMode(Protocol):
    """A way of running a peer.

    Attributes:
        name: as the report calls it.
        read_ahead_kib: of the drive while it runs; None leaves it alone.
    """

    @property
    def name(self) -> str:
        """See the class."""
        ...

    @property
    def read_ahead_kib(self) -> int | None:
        """See the class."""
        ...


@dataclass(frozen=True)
class PlainMode:
    """A way of running a peer that only its adapter knows more of."""

    name: str
    read_ahead_kib: int | None = None


@dataclass(frozen=True)
class Mode:
    """How llama.cpp loads its weights.

    Attributes:
        name: as the report calls it.
        load: 'mmap', 'none' (read into anonymous memory) or 'dio' (the same with direct I/O).
        repack: let it keep a second, repacked copy of its weights.
        read_ahead_kib: of the drive while it runs; None leaves it alone.
    """

    name: str
    load: str
    repack: bool
    read_ahead_kib: int | None = None


MODES = (
    Mode("mmap", "mmap", repack=False),
    Mode("mmap+repack", "mmap", repack=True),
    Mode("mmap+ra128", "mmap", repack=False, read_ahead_kib=128),
    Mode("mmap+ra512", "mmap", repack=False, read_ahead_kib=512),
    Mode("mmap+ra2048", "mmap", repack=False, read_ahead_kib=2048),
    Mode("none", "none", repack=False),
    Mode("none+repack", "none", repack=True),
    Mode("dio", "dio", repack=False),
)


@dataclass(frozen=True)
class Cell:
    """One measurement: a side in a regime in a round."""

    model: str
    regime: str
    round: int
    side: str
    """'ours', or a peer's name."""
    variant: str
    """Our policy, or the peer's mode."""
    machine: str
    """Processor, cores and instruction set: results of different ones are never mixed."""


def cap_bytes(model: Model, regime: str) -> int | None:
    """Return the memory a process may use in a regime; None: no cap."""
    return None if regime == RESIDENT else model.gguf_bytes * int(regime) // 100


def modes_for(regime: str, loads: Iterable[str]) -> list[Mode]:
    """Return llama.cpp's modes to try, among those its build has.

    Reading everything into memory without mmap cannot fit below 100 %, so at a cap only direct I/O of that kind is
    tried (its failure is then on record); repacked weights are tried everywhere.
    """
    known = set(loads)
    names = (
        ("mmap+repack", "mmap", "none+repack")
        if regime == RESIDENT
        else ("mmap", "mmap+ra128", "mmap+ra512", "mmap+ra2048", "mmap+repack", "dio")
    )
    return [mode for mode in MODES if mode.name in names and mode.load in known]


def cells_of_round(
    model: str, regime: str, number: int, modes: Mapping[str, Sequence[PeerMode]], machine: str, *, hobbit: bool
) -> list[Cell]:
    """Return a round's cells: ours and the peers', alternating.

    Args:
        model: its name.
        regime: the cap.
        number: of the round.
        modes: to run, by peer.
        machine: where.
        hobbit: run ours with HOBBIT as well, at a cap.
    """
    ours = [Cell(model, regime, number, OURS, LOSSLESS, machine)]
    if hobbit and regime != RESIDENT:
        ours.append(Cell(model, regime, number, OURS, HOBBIT, machine))
    sides = [
        ours,
        *([Cell(model, regime, number, name, m.name, machine) for m in each] for name, each in modes.items()),
    ]
    return [cell for group in zip_longest(*sides) for cell in group if cell is not None]


def kept_modes(name: str, modes: Sequence[PeerMode], first_round: Iterable[Result]) -> list[PeerMode]:
    """Return a peer's modes for later rounds: the two fastest at decode and the fastest at prefill of the first round.

    Before the first round all are kept; a mode that failed in it is not tried again.
    """
    found = {r["variant"]: r["measured"] for r in first_round if r["side"] == name and r.get("measured")}
    if not found:
        return list(modes)
    by_decode = sorted(found, key=lambda each: -rate(found[each]["decode"]))
    by_prefill = sorted(found, key=lambda each: -rate(found[each]["prefill"]) if "prefill" in found[each] else 0.0)
    keep = {*by_decode[:2], *by_prefill[:1]}
    return [mode for mode in modes if mode.name in keep]


def rate(stage: Mapping[str, Any]) -> float:
    """Return tokens a second of a measured stage ``{"n", "ms", ...}``."""
    return float(1000 * stage["n"] / stage["ms"])


@dataclass(frozen=True)
class Tokens:
    """Token ids of one cell.

    Attributes:
        fill: prompts run before anything is measured, where everything fits: they bring all weights into memory.
        first: the prompt that decoding goes on from.
        second: the prompt of the steady-state prefill.
        seed: of sampling.
    """

    fill: list[list[int]]
    first: list[int]
    second: list[int]
    seed: int


def tokens_of(stream: Sequence[int], regime: str, number: int) -> Tokens:
    """Cut a round's prompts from the stream; the same for both sides.

    Raises:
        ValueError: the stream is too short.
    """
    half = len(stream) // 2
    need = max(2 * _ROUND_TOKENS, 2 * _FILL_PROMPTS * _FILL_TOKENS)
    if len(stream) < need:
        raise ValueError(f"stream: expected at least {need} tokens, got {len(stream)}")
    start = number * _ROUND_TOKENS % (half // _ROUND_TOKENS * _ROUND_TOKENS)
    middle = start + 2 * PROMPT_TOKENS
    fill = [list(stream[half + i * _FILL_TOKENS :][:_FILL_TOKENS]) for i in range(_FILL_PROMPTS)]
    return Tokens(
        fill=fill if regime == RESIDENT else [],
        first=list(stream[start : start + PROMPT_TOKENS]),
        second=list(stream[middle : middle + PROMPT_TOKENS]),
        seed=1 + number,
    )
