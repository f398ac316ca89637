"""The peer's side: what its help says it can do, its server's command line, and its streamed answers. Pure parsing.

llama-server is used, not llama-bench: it takes a prompt as token ids and gives its own timings with every token, so
warm-up and measured tokens come from one request in one process. llama-bench feeds random tokens, without locality.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.compare.workload import CONTEXT, MEASURED_STEPS, RESIDENT, THREADS, WARM_STEPS, Mode

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


def request_body(ids: Sequence[int], num_tokens: int, seed: int) -> dict[str, Any]:
    """Return the request for `num_tokens` tokens after a prompt, sampled at temperature 1 from everything."""
    return {
        "prompt": list(ids), "n_predict": num_tokens, "stream": True, "cache_prompt": False, "ignore_eos": True,
        "samplers": ["temperature"], "temperature": 1.0, "seed": seed, "timings_per_token": True,
        "return_tokens": True,
    }  # fmt: skip


def events(lines: Iterable[bytes]) -> Iterable[dict[str, Any]]:
    """Yield the objects of a stream of server-sent events, up to and with the one that says `stop`.

    Raises:
        PeerError: the server sent an error, or stopped short.
    """
    for line in lines:
        if line.startswith((b"error:", b'{"error"')):
            raise PeerError(line.decode(errors="replace")[:500])
        if not line.startswith(b"data:"):
            continue
        text = line[5:].strip()
        if text == b"[DONE]":
            return
        event = json.loads(text)
        if "error" in event:
            raise PeerError(str(event["error"])[:500])
        yield event
        if event.get("stop"):
            return
    raise PeerError("the stream ended before its last token")


def stages(
    stream: Iterable[dict[str, Any]], num_prompt: int, read_bytes: Callable[[], int | None], before: int | None
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Divide one streamed answer into its prompt and, if it was long enough, its measured steps.

    Times are the server's own: `predicted_ms` runs from the end of the prompt's pass, whose logits give the first
    token; so the steps after `WARM_STEPS` lie between token 1 + WARM_STEPS and the last one. Bytes are counted when
    tokens arrive.

    Args:
        stream: of `events`.
        num_prompt: tokens the prompt has; the server must have run all of them.
        read_bytes: bytes the process read so far.
        before: the same, before the request.

    Raises:
        PeerError: another number of tokens than asked for, or no timings.
    """
    seen: dict[int, tuple[float, int | None]] = {}
    prompt: dict[str, Any] | None = None
    for event in stream:
        timings = event.get("timings")
        if not timings:
            raise PeerError("an event without timings: this build does not know timings_per_token")
        count = int(timings["predicted_n"])
        now = read_bytes()
        if prompt is None:
            prompt = {
                "n": int(timings["prompt_n"]),
                "ms": float(timings["prompt_ms"]),
                "read_bytes": _less(now, before),
            }
        seen.setdefault(count, (float(timings["predicted_ms"]), now))
    if prompt is None or prompt["n"] != num_prompt:
        raise PeerError(f"expected a prompt of {num_prompt} tokens to be run, got {prompt and prompt['n']}")
    first, last = 1 + WARM_STEPS, 1 + WARM_STEPS + MEASURED_STEPS
    if max(seen) < last:
        return prompt, None
    # a token that is no whole character comes with the next one, so the count may jump over `first`
    first = min(count for count in seen if count >= first)
    last = max(seen)
    (early, read_early), (late, read_late) = seen[first], seen[last]
    return prompt, {"n": last - first, "ms": round(late - early, 3), "read_bytes": _less(read_late, read_early)}


def _less(now: int | None, before: int | None) -> int | None:
    return None if now is None or before is None else now - before
