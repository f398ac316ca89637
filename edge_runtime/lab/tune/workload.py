"""What is run to measure: prompts from a text, or random tokens, and answers of a stated length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_runtime.base.errors import RequestError
from edge_runtime.engine.sampler import SamplingParams
from edge_runtime.lab.bench.prompts import random_prompts, text_prompts
from edge_runtime.lab.tune.measurement import Workload

_TEXT_BYTES = 4 << 20


def make_workload(
    tokenizer: Any, vocab_size: int, *, text: Path | None, prompt_tokens: int, gen_tokens: int, requests: int, seed: int
) -> Workload:
    """Build it: one request that does not count, then `requests` of them.

    Raises:
        RequestError: the text cannot be read or is too short, or a number is out of range.
    """
    for name, value, low in (
        ("prompt-tokens", prompt_tokens, 1),
        ("gen-tokens", gen_tokens, 3),
        ("repeat", requests, 1),
    ):
        if not low <= value <= 1 << 16:
            raise RequestError(f"{name}: expected {low} to {1 << 16}, got {value}. Give a number in this range.")
    if text is None:
        prompt = random_prompts(vocab_size, prompt_tokens, seed)
    else:
        prompt = text_prompts(_encoded(tokenizer, text, prompt_tokens * (1 + requests)), prompt_tokens, text.name)
    return Workload([prompt(number).tolist() for number in range(1 + requests)], gen_tokens, seed)


def sampling(workload: Workload, number: int) -> SamplingParams:
    """Return how tokens of a request are drawn: each request has a seed of its own."""
    return SamplingParams(
        max_tokens=workload.gen_tokens, temperature=workload.temperature, seed=workload.seed + number, ignore_eos=True
    )


def _encoded(tokenizer: Any, path: Path, limit: int) -> list[int]:
    try:
        with open(path, encoding="utf-8") as file:
            found: list[int] = tokenizer.encode(file.read(_TEXT_BYTES))[:limit]
    except (OSError, UnicodeDecodeError) as err:
        raise RequestError(f"text: cannot read {path}: {err}.") from err
    return found
