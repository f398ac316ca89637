"""The peer's side: what its help says it can do, its server's command line, and its answers. Pure.

llama-server is used, not llama-bench: it takes a prompt as token ids, goes on from its own answer, and gives its own
timings, so warm-up and measured tokens come from one process. llama-bench feeds random tokens, without locality.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.compare.workload import CONTEXT, RESIDENT, THREADS, Mode

SERVER = "llama-server"


class PeerError(Exception):
    """The peer did not do what was asked; the cell is recorded as failed."""


@dataclass(frozen=True)
class Abilities:
    """What a build offers, read from the help text of its server.

    Attributes:
        flags: every long or short option it names.
        loads: load modes among 'mmap', 'none', 'dio'.
    """

    flags: frozenset[str]
    loads: tuple[str, ...]

    @staticmethod
    def parse(help_text: str) -> Abilities:
        """Read the help of any version: newer ones have --load-mode, older ones --no-mmap and perhaps --direct-io."""
        flags = frozenset(re.findall(r"(?<![\w-])--?[a-z][\w-]*", help_text))
        if "--load-mode" in flags:
            loads = ("mmap", "none", *(["dio"] if re.search(r"^\s*-?\s*dio\b", help_text, re.MULTILINE) else []))
        else:
            loads = ("mmap", "none", *(["dio"] if "--direct-io" in flags else []))
        return Abilities(flags, loads)


def command(binary: Path, gguf: Path, mode: Mode, able: Abilities, *, regime: str, port: int) -> list[str]:
    """Return the server's command line. Options a build does not name are left out, except where they change the mode.

    Raises:
        PeerError: the build cannot do this mode.
    """
    argv = [str(binary), "-m", str(gguf), "--host", "127.0.0.1", "--port", str(port)]
    argv += ["-c", str(CONTEXT), "-np", "1", "-t", str(THREADS), "-tb", str(THREADS)]
    if mode.load not in able.loads:
        raise PeerError(f"this build has no load mode {mode.load!r}")
    if "--load-mode" in able.flags:
        argv += ["--load-mode", mode.load]
    else:
        argv += {"mmap": [], "none": ["--no-mmap"], "dio": ["--direct-io"]}[mode.load]
    if not mode.repack:
        if "--no-repack" not in able.flags:
            raise PeerError("this build cannot leave weights as they are (--no-repack)")
        argv.append("--no-repack")
    if regime != RESIDENT and "--no-warmup" in able.flags:
        argv.append("--no-warmup")  # its warm-up reads every expert: the first prompt would not be cold
    for flag, *values in (("--fit", "off"), ("--cache-ram", "0"), ("--ctx-checkpoints", "0"), ("--no-slots",)):
        if flag in able.flags:
            argv += [flag, *values]
    if "--no-ui" in able.flags or "--no-webui" in able.flags:
        argv.append("--no-ui" if "--no-ui" in able.flags else "--no-webui")
    return argv


def request_body(ids: Sequence[int], num_tokens: int, seed: int, *, go_on: bool = False) -> dict[str, Any]:
    """Return the request for `num_tokens` tokens after a prompt, sampled at temperature 1 from everything.

    Nothing is streamed: no token waits for a client, and no client takes time from the two cores.

    Args:
        ids: the prompt.
        num_tokens: tokens wanted.
        seed: of sampling.
        go_on: the prompt is the one before with its answer, whose keys and values are to be kept.
    """
    return {
        "prompt": list(ids), "n_predict": num_tokens, "stream": False, "cache_prompt": go_on, "ignore_eos": True,
        "samplers": ["temperature"], "temperature": 1.0, "seed": seed, "return_tokens": True,
    }  # fmt: skip


def checked(answer: dict[str, Any], *, prompt_n: int, predicted_n: int) -> dict[str, Any]:
    """Return an answer's timings, once it is what was asked for.

    `prompt_ms` is the prompt's pass; `predicted_ms` runs from its end, whose logits give the first token, so it holds
    one step less than `predicted_n`.

    Raises:
        PeerError: an error, no timings, or another number of tokens.
    """
    timings = answer.get("timings")
    if not timings:
        raise PeerError(f"an answer without timings: {str(answer.get('error', answer))[:300]}")
    got = int(timings["prompt_n"]), int(timings["predicted_n"])
    if got != (prompt_n, predicted_n):
        raise PeerError(
            f"expected {prompt_n} tokens of prompt to be run and {predicted_n} generated, got {got[0]} and {got[1]}"
        )
    return dict(timings)


def prompt_stage(timings: dict[str, Any], read_bytes: int | None = None) -> dict[str, Any]:
    """Return the stage of a prompt."""
    return {"n": int(timings["prompt_n"]), "ms": float(timings["prompt_ms"]), "read_bytes": read_bytes}


def decode_stage(timings: dict[str, Any], read_bytes: int | None) -> dict[str, Any]:
    """Return the stage of an answer that goes on: its steps; the bytes are those of one pass more."""
    steps = int(timings["predicted_n"]) - 1
    return {"n": steps, "ms": float(timings["predicted_ms"]), "read_bytes": read_bytes, "read_passes": steps + 1}


def less(now: int | None, before: int | None) -> int | None:
    """Return a difference of counters; None if one is unknown."""
    return None if now is None or before is None else now - before
