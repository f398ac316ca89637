"""BenchSettings: how often, how long, from which cache state; what cannot work is refused at once."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from edge_runtime.base.errors import RequestError

MAX_SAMPLES = 100_000
"""Most inter-token gaps one report keeps, so that the report and the memory for it stay small."""
MAX_REPEAT = 1000


@dataclass(frozen=True)
class BenchSettings:
    """What is run.

    Attributes:
        prompt_tokens: tokens of each prompt.
        gen_tokens: tokens generated after each; at least 2, as one has no gap.
        repeat: measured requests.
        warmup: requests before them that are not measured; none of them if `cache` is 'cold'.
        cache: 'warm': one engine, its expert cache as the requests before left it; 'cold': a new engine for each
            request, its expert cache empty and the bundle's files out of the page cache.
        temperature: of sampling; 0 is greedy.
        seed: of prompts and sampling; request i uses seed + i.
        probe_s: seconds of each of the two drive probes; 0 leaves them out.
        sentinel: the same request is run before the measured ones and after them, to see whether the machine changed.
        gate_rise_c: how much hotter than before the first request it may be before another, in degrees.
        gate_s: longest wait for that.
        idle_s: seconds of idle power measured before the engine opens, where there is a meter.
        trace_tokens: tokens of the request at the end whose spans are recorded; 0: none is.
    """

    prompt_tokens: int = 128
    gen_tokens: int = 128
    repeat: int = 5
    warmup: int = 1
    cache: Literal["warm", "cold"] = "warm"
    temperature: float = 1.0
    seed: int = 0
    probe_s: float = 1.0
    sentinel: bool = True
    gate_rise_c: float = 5.0
    gate_s: float = 60.0
    idle_s: float = 3.0
    trace_tokens: int = 4

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            RequestError: names the setting, what was expected and what was given.
        """
        for name, value, low, high in (
            ("prompt-tokens", self.prompt_tokens, 1, 1 << 20),
            ("gen-tokens", self.gen_tokens, 2, MAX_SAMPLES),
            ("repeat", self.repeat, 1, MAX_REPEAT),
            ("warmup", self.warmup, 0, MAX_REPEAT),
            ("temperature", self.temperature, 0, 100),
            ("probe-seconds", self.probe_s, 0, 60),
            ("gate-rise", self.gate_rise_c, 0, 100),
            ("gate-seconds", self.gate_s, 0, 3600),
            ("idle-seconds", self.idle_s, 0, 3600),
            ("trace-tokens", self.trace_tokens, 0, 64),
        ):
            if not low <= value <= high:
                raise RequestError(f"{name}: expected {low} to {high}, got {value}. Give a number in this range.")
        if self.repeat * self.gen_tokens > MAX_SAMPLES:
            raise RequestError(
                f"repeat: {self.repeat} x {self.gen_tokens} tokens are more than the {MAX_SAMPLES} samples a report "
                "keeps. Lower --repeat or --gen-tokens."
            )

    def check_context(self, context: int) -> None:
        """Check that a request fits the KV cache.

        Raises:
            RequestError: it does not.
        """
        need = self.prompt_tokens + max(self.gen_tokens, self.trace_tokens)
        if need > context:
            raise RequestError(
                f"prompt-tokens: {self.prompt_tokens} and {self.gen_tokens} generated exceed the context of {context}. "
                f"Pass --context {need} or shorten them."
            )

    @property
    def num_requests(self) -> int:
        """Requests that are run, those at the edges included."""
        return self.warmup + self.repeat + 2 * self.sentinel

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)
