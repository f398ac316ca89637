"""What an NVIDIA board could reach while decoding, on paper: bytes, launches and instructions against its rates.

    python tools/roofline.py            writes the tables of docs/cuda.md, and docs/roofline.md: every board, model,
                                        tier and share of experts in memory
    python tools/roofline.py --check    exits with 1 if a table is out of date

Nothing here was measured on a board. docs/cuda.md says what is assumed.

    seconds a token = missed bytes / drive
                    + the longer of (touched bytes / (0.75 memory rate), instructions / issue rate)
                    + launches x launch time
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import marked_page
from board_table import MODELS, hit_rate, spec_of, trunk_bytes
from token_launches import token_launches

from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.record import record_layout

ROOT = Path(__file__).parents[1]
PAGE, FULL_PAGE = ROOT / "docs/cuda.md", ROOT / "docs/roofline.md"
FIGURES = ROOT / "benchmarks/results/gpu_compile.json"
SEGMENTS = 4
REACHED = 0.75
"""Part of the pin rate a plain read gets: 152.8 of 204.8 GB/s reported for an AGX Orin."""
LAUNCH_S = 5e-6
"""Of one kernel without a captured graph (assumed)."""
SHARES = (0.25, 0.5, 0.75, 1.0)
SHOWN_TIER = 4
TIERS = (2, 4, 6, 8)


@dataclass(frozen=True)
class Board:
    """Rates of a board, from data sheets and reports.

    Attributes:
        name: what it is called here.
        gigabytes: of memory.
        multiprocessors: of its GPU; each issues instructions of 128 threads a clock.
        ghz: of the GPU.
        memory_gb_s: pin rate.
        drive_gb_s: assumed.
    """

    name: str
    gigabytes: int
    multiprocessors: int
    ghz: float
    memory_gb_s: float
    drive_gb_s: float

    @property
    def instructions_s(self) -> float:
        """Instructions a second, counted for each thread."""
        return self.multiprocessors * 128 * self.ghz * 1e9


BOARDS = (
    Board("Orin Nano 8GB, 15 W", 8, 8, 0.625, 68, 1.6),
    Board("Orin Nano 8GB Super", 8, 8, 1.02, 102.4, 1.6),
    Board("Orin NX 16GB", 16, 8, 0.918, 102.4, 3.0),
    Board("AGX Orin 32GB", 32, 14, 0.93, 204.8, 3.0),
    Board("AGX Orin 64GB", 64, 16, 1.3, 204.8, 3.0),
    Board("Thor 128GB", 128, 20, 1.57, 273, 6.0),
)


@dataclass(frozen=True)
class Goal:
    """A speed nobody has shown yet.

    Attributes:
        model: a name of `MODELS`.
        board: name of a board.
        tok_s: tokens a second while decoding.
        how: what may be given up for it.
    """

    model: str
    board: str
    tok_s: float
    how: str


GOALS = (
    Goal("Qwen3-30B-A3B", "Orin Nano 8GB Super", 5, "exact"),
    Goal("Qwen3.5-35B-A3B", "Orin NX 16GB", 7, "exact"),
    Goal("Qwen3.5-35B-A3B", "Orin NX 16GB", 12, "at a stated KLD"),
)
GOAL_TIERS = (2, 4, 8)


@dataclass(frozen=True)
class Token:
    """What one token takes.

    Attributes:
        expert_bytes: of the experts it goes through.
        trunk_bytes: of everything else, at the exporter's default precision.
        instructions: of the expert kernels, counted for each thread.
        launches: of kernels.
        stored_bytes: of all experts.
    """

    expert_bytes: int
    trunk_bytes: int
    instructions: float
    launches: int
    stored_bytes: int


@cache
def instructions_a_weight(tier: int) -> float:
    """Return the larger of both decode kernels' figures, as compiled for an Orin by NVRTC 12.6."""
    results = json.loads(FIGURES.read_text(encoding="utf-8"))["results"]
    (kernels,) = [r["kernels"] for r in results if (r["compiler"], r["arch"]) == ("nvrtc 12.6", "sm_87")]
    return max(float(kernels[f"hb_{name}_{tier}"]["instructions_a_weight"]) for name in ("gate_up", "down"))


def token_of(spec: ModelSpec, tier: int) -> Token:
    """Return what a token of a model takes at a tier."""
    layout, sparse = record_layout(spec, SEGMENTS), len(spec.sparse_layers)
    used = sparse * spec.top_k
    return Token(
        used * layout.tier_bytes(tier),
        trunk_bytes(spec),
        used * layout.num_weights * instructions_a_weight(tier),
        token_launches(spec),
        sparse * spec.num_experts * layout.tier_bytes(tier),
    )


def room_bytes(board: Board, token: Token) -> float:
    """Return the memory left for experts: 93 % of the label, less the trunk and 2 GiB for system and runtime."""
    return (0.93 * board.gigabytes - 2) * 2**30 - token.trunk_bytes


def seconds(board: Board, token: Token, share: float) -> float:
    """Return the least seconds of a token with a share of the experts in memory."""
    drive = token.expert_bytes * (1 - hit_rate(share)) / (board.drive_gb_s * 1e9)
    return drive + resident_seconds(board, token)


def resident_seconds(board: Board, token: Token) -> float:
    """Return the least seconds of a token that reads nothing from the drive."""
    memory = (token.expert_bytes + token.trunk_bytes) / (REACHED * board.memory_gb_s * 1e9)
    return max(memory, token.instructions / board.instructions_s) + token.launches * LAUNCH_S


def hits_needed(board: Board, token: Token, tok_s: float) -> float | None:
    """Return the share of a token's experts that has to be in memory for a speed; None: it is too little if all are."""
    left_s = 1 / tok_s - resident_seconds(board, token)
    return None if left_s < 0 else max(0.0, 1 - left_s * board.drive_gb_s * 1e9 / token.expert_bytes)


def fitting_share(board: Board, token: Token) -> float:
    """Return the share of the experts that fits the memory."""
    return min(1.0, max(0.0, room_bytes(board, token) / token.stored_bytes))


def goal_rows() -> Iterator[str]:
    """Yield a table: which share of a token's experts each goal needs in memory, and which is assumed to be there."""
    tiers = " | ".join(f"{tier} bits" for tier in GOAL_TIERS)
    yield f"| goal | board | {tiers} |"
    yield "|---" * (2 + len(GOAL_TIERS)) + "|"
    boards = {board.name: board for board in BOARDS}
    for goal in GOALS:
        board, cells = boards[goal.board], []
        for tier in GOAL_TIERS:
            token = token_of(spec_of(goal.model), tier)
            needed, found = hits_needed(board, token, goal.tok_s), hit_rate(fitting_share(board, token))
            said = "too little if all are" if needed is None else f"{100 * needed:.0f} % needed"
            cells.append(f"{said}, {100 * found:.0f} % assumed")
        yield f"| {goal.model}, {goal.tok_s:g} tok/s {goal.how} | {goal.board} | {' | '.join(cells)} |"


def speed(value: float) -> str:
    """Print tokens a second."""
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def cells(board: Board, token: Token) -> list[str]:
    """Return a cell for each share: the bound, or a dash where so much does not fit."""
    fits = room_bytes(board, token) / token.stored_bytes
    return [speed(1 / seconds(board, token, share)) if share <= fits else "-" for share in SHARES]


def rows(tiers: tuple[int, ...]) -> Iterator[str]:
    """Yield a table: a line for each tier, model and board."""
    shares = " | ".join(f"{100 * share:.0f} %" for share in SHARES)
    yield f"| model | bits | board | experts a token | trunk a token | launches | fits: tok/s | {shares} |"
    yield "|---" * (7 + len(SHARES)) + "|"
    for tier in tiers:
        for name in MODELS:
            token = token_of(spec_of(name), tier)
            for board in BOARDS:
                figures = [
                    f"{token.expert_bytes / 1e6:.0f} MB",
                    f"{token.trunk_bytes / 1e6:.0f} MB",
                    str(token.launches),
                ]
                line = [name, str(tier), board.name, *figures, fitting(board, token), *cells(board, token)]
                yield f"| {' | '.join(line)} |"


def fitting(board: Board, token: Token) -> str:
    """Return which share of the experts fits, and the bound with it; a dash where none does."""
    fits = fitting_share(board, token)
    return f"{100 * fits:.0f} %: {speed(1 / seconds(board, token, fits))}" if fits else "-"


def fitting_rows() -> Iterator[str]:
    """Yield a table: for each model and tier what fits each board, and the bound with it."""
    yield f"| model | bits | {' | '.join(board.name for board in BOARDS)} |"
    yield "|---" * (2 + len(BOARDS)) + "|"
    for name in MODELS:
        for tier in TIERS:
            token = token_of(spec_of(name), tier)
            yield f"| {name} | {tier} | {' | '.join(fitting(board, token) for board in BOARDS)} |"


FULL_HEAD = """# What boards could reach, on paper: every precision and share

Written by `tools/roofline.py`, never by hand. Nothing was measured on a board; [cuda.md](cuda.md)
says what is assumed. Tokens a second while decoding, with as many experts in memory as fit and with
a share of them; a dash: that share does not fit.
"""


def full_page() -> str:
    """Return the page that has every tier."""
    parts = [line for tier in TIERS for line in ("", f"## Experts at {tier} bits", "", *rows((tier,)))]
    return "\n".join((FULL_HEAD.rstrip("\n"), *parts)) + "\n"


def page_with(path: Path = PAGE) -> str:
    """Return the page of the GPU with its tables."""
    parts = {"roofline": rows((SHOWN_TIER,)), "fitting": fitting_rows(), "goals": goal_rows()}
    return marked_page.put_all(path, "roofline", parts)


def main(arguments: list[str] | None = None) -> int:
    """Write or check."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="say whether the tables are up to date")
    options = parser.parse_args(arguments)
    return marked_page.write({PAGE: page_with(), FULL_PAGE: full_page()}, check=options.check)


if __name__ == "__main__":
    sys.exit(main())
