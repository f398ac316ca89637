"""The demo on the CPU backend and on the fake GPU, and how close they have to be."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge_runtime import Engine, SamplingParams
from edge_runtime.bundle.manifest_file import read

MODEL = Path(__file__).parents[2] / "examples/tiny-moe"
TEXT = (MODEL / "heldout_python.txt").read_text()[:600]
ALL, FEW, TIER = 256, 12, 4
"""Slots for every expert of the demo, and for less than a layer of a prompt needs."""
CLOSE = 2e-3
"""Of the largest logit: the claim of docs/quality.md."""


def opened(bundle: Path, backend: str, slots: int, **options: object) -> Engine:
    """Open a bundle with room for so many experts."""
    memory = slots * read(bundle).layout.tier_bytes(TIER)
    settings = {"context": 128, "prefill_chunk": 16, "threads": 1, "self_check": False, "tier": TIER} | options
    return Engine.open(bundle, backend=backend, expert_memory=memory, **settings)


def logits(engine: Engine) -> np.ndarray:
    """A prompt in a chunk, and a token by itself. Short: every weight is multiplied on a CPU that plays a GPU."""
    ids = engine.tokenizer.encode(TEXT)
    return np.concatenate([engine.logits(ids[:4], chunk=4), engine.logits(ids[4:5], chunk=1)])


def one_token(engine: Engine) -> np.ndarray:
    """The last row of `logits`, for a fifth of the time."""
    return engine.logits(engine.tokenizer.encode(TEXT)[4:5], chunk=1)


def tokens(engine: Engine) -> list[int]:
    """Of a greedy request."""
    ids = engine.tokenizer.encode(TEXT)[:3]
    return engine.generate(ids, SamplingParams(max_tokens=3, ignore_eos=True)).token_ids


def make_all_resident(engine: Engine) -> None:
    """Read every expert, also those no token of a text chooses; after a pass, as rules of eviction expect."""
    engine.logits([1], chunk=1)
    every = np.full(engine.spec.num_experts, engine.parts.config.tier, np.uint8)
    for layer_idx in engine.spec.sparse_layers:
        list(engine.parts.cache.stream(layer_idx, every))


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    """Compare logits with the CPU backend's."""
    off = np.abs(found - expected).max() / np.abs(expected).max()
    assert off <= CLOSE, f"logits differ by {off:.2g} of the largest, {CLOSE:g} are allowed"
