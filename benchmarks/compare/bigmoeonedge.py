"""BigMoeOnEdge as a peer: its `bmoe-cli` in session mode, which streams experts past the page cache into its own cache.

One process is given all prompts of a cell as text, one a line. It reports each generated token as a row of CSV with
the time of its pass and the bytes read for it, and each prompt's time in the line that ends it.
"""

from __future__ import annotations

import csv
import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.compare.builds import build_of
from benchmarks.compare.group import MemoryGroup
from benchmarks.compare.peer import PeerError
from benchmarks.compare.workload import (
    CONTEXT,
    MEASURED_STEPS,
    RESIDENT,
    THREADS,
    WARM_STEPS,
    Model,
    PeerMode,
    Tokens,
    cap_bytes,
)
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.engine.tokenizer import Tokenizer

PROGRAM = "bmoe-cli"
_ANSWER_S = 1800.0
_MIB = 1 << 20


@dataclass(frozen=True)
class CacheMode:
    """How it is run.

    Attributes:
        percent: expert cache, in percent of the cap; where everything fits, of the file.
        overlap: reads while a layer computes, which needs a llama.cpp with its hook.
    """

    percent: int
    overlap: bool
    read_ahead_kib: int | None = None

    @property
    def name(self) -> str:
        """As the report calls it."""
        return f"{'overlap' if self.overlap else 'serial'}+cache{self.percent}"


class BigMoeOnEdge:
    """A folder with BigMoeOnEdge's program.

    Raises:
        SystemExit: it is not there, or does not start.
    """

    name = "bigmoeonedge"

    def __init__(self, folder: Path) -> None:
        self._binary = folder / PROGRAM
        try:
            done = subprocess.run([self._binary, "--version"], capture_output=True, text=True, check=False)
        except OSError as err:
            raise SystemExit(f"{folder}: expected BigMoeOnEdge's {PROGRAM} in it ({err.strerror}).") from err
        lines = (done.stdout + done.stderr).strip().splitlines()
        self.version, self.build = lines[0] if lines else "unknown", build_of(self._binary)

    def modes(self, regime: str) -> Sequence[PeerMode]:
        """See `Peer.modes`: the cache that is best is not known before, and too large a one is killed."""
        if regime == RESIDENT:
            return [CacheMode(100, overlap) for overlap in (True, False)]
        return [*(CacheMode(percent, True) for percent in (80, 70, 60, 50)), CacheMode(70, False)]

    def measure(
        self, model: Model, mode: PeerMode, regime: str, tokens: Tokens, group: MemoryGroup
    ) -> Mapping[str, Any]:
        """See `Peer.measure`."""
        assert isinstance(mode, CacheMode)
        prompts = [*tokens.fill, tokens.first, tokens.second]
        counts = [1] * len(tokens.fill) + [1 + WARM_STEPS + MEASURED_STEPS, 1]
        with tempfile.NamedTemporaryFile(suffix=".csv") as rows:
            argv = command(self._binary, model, mode, regime, tokens.seed, Path(rows.name))
            try:
                done = subprocess.run(
                    group.command(argv), input=requests(texts(model.bundle, prompts), counts), capture_output=True,
                    text=True, check=False, timeout=_ANSWER_S, errors="replace",
                )  # fmt: skip
            except subprocess.TimeoutExpired as err:
                raise PeerError(f"no answer within {_ANSWER_S:g} s") from err
            table = Path(rows.name).read_text(errors="replace")
        if group.oom_kills:
            raise PeerError("does not fit: killed for exceeding the cap")
        return stages(done.stdout, table, [len(prompt) for prompt in prompts], counts)


def command(binary: Path, model: Model, mode: CacheMode, regime: str, seed: int, table: Path) -> list[str]:
    """Return its command line: sampled at temperature 1 from everything, as on the other sides."""
    of = cap_bytes(model, regime) or model.gguf_bytes
    argv = [
        str(binary),
        "-m",
        str(model.gguf),
        "-t",
        str(THREADS),
        "-c",
        str(CONTEXT),
        "--session",
        "--csv",
        str(table),
    ]
    argv += ["--temp", "1", "--top-k", "0", "--top-p", "1", "--seed", str(seed), "--moe-stream", "--force-cache"]
    argv += ["--cache-mb", str(of * mode.percent // 100 // _MIB), "--dense-weights", "anon"]
    return [*argv, "--overlap"] if mode.overlap else argv


def texts(bundle: Path, prompts: Sequence[Sequence[int]]) -> list[str]:
    """Return prompts as texts that are read as the very tokens.

    Raises:
        PeerError: a prompt has no such text.
    """
    tokenizer = Tokenizer.from_bundle(Bundle.open(bundle))
    found = []
    for ids in prompts:
        text = tokenizer.decode(list(ids))
        if list(tokenizer.encode(text)) != list(ids):
            raise PeerError("a prompt's tokens cannot be written as text that is read as the same tokens")
        found.append(text)
    return found


def requests(prompts: Sequence[str], counts: Sequence[int]) -> str:
    """Return the lines it reads: a prompt and how many tokens each, then the end."""
    lines = [
        {"cmd": "generate", "id": number, "prompt": text, "n_predict": count, "clear_kv": True}
        for number, (text, count) in enumerate(zip(prompts, counts, strict=True), 1)
    ]
    return "".join(json.dumps(line) + "\n" for line in [*lines, {"cmd": "close"}])


def stages(said: str, table: str, prompts: Sequence[int], counts: Sequence[int]) -> dict[str, Any]:
    """Return the stages of a cell from what it printed and its table of tokens.

    Args:
        said: lines it printed, of which those that begin with BMOE_ are its reports.
        table: CSV, a row for each generated token; rows follow each other, of all prompts.
        prompts: tokens each prompt has.
        counts: tokens each was to generate.

    Raises:
        PeerError: an error, or other numbers of tokens than asked for.
    """
    reports = list(_reports(said))
    errors = [str(report.get("msg")) for kind, report in reports if kind == "BMOE_ERROR"]
    done = [report for kind, report in reports if kind == "BMOE_DONE"]
    ready = next((report for kind, report in reports if kind == "BMOE_READY"), {})
    if errors or len(done) != len(prompts):
        raise PeerError(errors[0] if errors else f"ended after {len(done)} of {len(prompts)} prompts")
    got = [(int(report["n_prompt"]), int(report["tokens"])) for report in done]
    if got != (asked := list(zip(prompts, counts, strict=True))):
        raise PeerError(f"expected (prompt, generated) tokens {asked}, got {got}")
    rows = list(csv.DictReader(line for line in table.splitlines() if line and not line.startswith("#")))
    if len(rows) != sum(counts):
        raise PeerError(f"expected a row for each of {sum(counts)} tokens, got {len(rows)}")
    last = len(rows) - counts[-1]
    measured = rows[last - MEASURED_STEPS : last]
    cold, steady = done[-2], done[-1]
    return {
        "load_ms": round(1000 * float(ready.get("load_s", 0.0)), 1),
        "prefill_cold": {"n": prompts[-2], "ms": 1000 * float(cold["prefill_s"]), "read_bytes": None},
        "decode": {
            "n": MEASURED_STEPS,
            "ms": round(sum(float(row["wall_ms"]) for row in measured), 3),  # its own speed: sampling is not in it
            "read_bytes": sum(int(row["read_bytes"]) for row in measured),
        },
        "prefill": {"n": prompts[-1], "ms": 1000 * float(steady["prefill_s"]), "read_bytes": None},
        "cache_hit_percent": float(cold["cache_hit_pct"]),
    }


def _reports(said: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for line in said.splitlines():
        kind, _, rest = line.partition(" ")
        if kind in ("BMOE_READY", "BMOE_DONE", "BMOE_ERROR"):
            try:
                yield kind, dict(json.loads(rest, strict=False))
            except ValueError as err:
                raise PeerError(f"expected an object after {kind}, got {rest[:200]!r}") from err
