"""Any other peer, through a small adapter: a program that is told what to run as JSON and says what it took.

``PROGRAM --describe`` prints ``{"name": ..., "version": ..., "modes": {"resident": [...], "cap": [...]}}``.
``PROGRAM --run`` reads one object and prints one, alone in the cell's memory cgroup::

    in   {"mode", "regime", "cap_bytes", "checkpoint", "gguf", "fill", "first", "second", "seed", "temperature",
          "warm_steps", "measured_steps", "threads", "context"}            prompts are lists of token ids
    out  {"load_ms", "prefill_cold": STAGE, "decode": STAGE, "prefill": STAGE}
    STAGE {"n": tokens, "ms": milliseconds, "read_bytes": from the drive, or null}

`prefill` is the prompt after decoding, and may be left out. Order and meaning of the steps: docs/benchmarks.md.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.compare.builds import build_of
from benchmarks.compare.group import MemoryGroup
from benchmarks.compare.peer import PeerError
from benchmarks.compare.workload import (
    CONTEXT,
    MEASURED_STEPS,
    PROMPT_TOKENS,
    RESIDENT,
    THREADS,
    WARM_STEPS,
    Model,
    PeerMode,
    PlainMode,
    Tokens,
    cap_bytes,
)

_ANSWER_S = 1800.0
_STAGES = {"prefill_cold": PROMPT_TOKENS, "decode": MEASURED_STEPS, "prefill": PROMPT_TOKENS}


class CommandPeer:
    """A peer behind an adapter.

    Args:
        program: the adapter.

    Raises:
        SystemExit: it is not there, or does not describe itself.
    """

    def __init__(self, program: Path) -> None:
        self._program = program.resolve()
        try:
            done = subprocess.run(
                [self._program, "--describe"], capture_output=True, text=True, check=False, timeout=_ANSWER_S
            )
            said = json.loads(done.stdout)
            self.name, self.version = str(said["name"]), str(said["version"])
            self.build = str(said.get("build", "")) or build_of(self._program)
            self._modes = {place: [str(mode) for mode in said["modes"][place]] for place in ("resident", "cap")}
        except (OSError, ValueError, LookupError, TypeError) as err:
            raise SystemExit(
                f"{program} --describe: expected an object with name, version and modes (resident, cap): {err!r}."
            ) from err

    def modes(self, regime: str) -> Sequence[PeerMode]:
        """See `Peer.modes`."""
        return [PlainMode(name) for name in self._modes["resident" if regime == RESIDENT else "cap"]]

    def measure(
        self, model: Model, mode: PeerMode, regime: str, tokens: Tokens, group: MemoryGroup
    ) -> Mapping[str, Any]:
        """See `Peer.measure`."""
        job = vars(tokens) | {
            "mode": mode.name, "regime": regime, "cap_bytes": cap_bytes(model, regime),
            "gguf": str(model.gguf.resolve()),
            "checkpoint": str(model.text.resolve().parent), "temperature": 1.0, "warm_steps": WARM_STEPS,
            "measured_steps": MEASURED_STEPS, "threads": THREADS, "context": CONTEXT,
        }  # fmt: skip
        argv = group.command([str(self._program), "--run"])
        try:
            done = subprocess.run(
                argv, input=json.dumps(job), capture_output=True, text=True, check=False, timeout=_ANSWER_S
            )
        except subprocess.TimeoutExpired as err:
            raise PeerError(f"no answer within {_ANSWER_S:g} s") from err
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or [f"code {done.returncode}"]
            raise PeerError("does not fit: killed for exceeding the cap" if group.oom_kills else last[0][:500])
        return checked_stages(done.stdout)


def checked_stages(text: str) -> dict[str, Any]:
    """Return what an adapter printed, once it is of the form asked for.

    Raises:
        PeerError: a stage is missing, or of another number of tokens.
    """
    try:
        said = json.loads(text)
        found: dict[str, Any] = {"load_ms": float(said.get("load_ms", 0.0))}
        for name, count in _STAGES.items():
            if name == "prefill" and said.get(name) is None:
                continue
            stage = said[name]
            n, ms, read = int(stage["n"]), float(stage["ms"]), stage.get("read_bytes")
            if n != count or not ms > 0:
                raise PeerError(f"{name}: expected {count} tokens in more than 0 ms, got {n} in {ms:g}")
            found[name] = {"n": n, "ms": ms, "read_bytes": None if read is None else int(read)}
    except (ValueError, LookupError, TypeError, AttributeError) as err:
        raise PeerError(f"expected the adapter to print the three stages, got {text[:200]!r}: {err!r}") from err
    return found
