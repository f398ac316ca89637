"""The demo on either backend, and what is compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MODEL

from edge_runtime import Engine, SamplingParams
from edge_runtime.bundle.manifest_file import read

TEXT = (MODEL / "heldout_python.txt").read_text()[:600]
ALL = 300
"""More slots than the demo has experts."""
FEW = 12
"""Less than one layer of a prompt needs: its experts come in waves."""


def opened(bundle: Path, backend: str, *, slots: int, tier: int = 8, **options: Any) -> Engine:
    """Open a bundle with room for so many experts."""
    memory = slots * read(bundle).layout.tier_bytes(tier)
    settings = {"context": 256, "prefill_chunk": 32, "threads": 1, "prefetch": "off", "self_check": False} | options
    return Engine.open(bundle, backend=backend, tier=tier, expert_memory=memory, **settings)


def logits(engine: Engine) -> np.ndarray:
    """A prompt in chunks, and tokens one at a time."""
    ids = engine.tokenizer.encode(TEXT)
    return np.concatenate([engine.logits(ids[:50], chunk=24), engine.logits(ids[50:60], chunk=1)])


def tokens(engine: Engine, count: int = 12) -> list[int]:
    """Of a greedy request."""
    return engine.generate(TEXT[:150], SamplingParams(max_tokens=count, ignore_eos=True)).token_ids


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    """Compare bit for bit; NaN is never the same."""
    assert found.shape == expected.shape
    assert (found == expected).all(), "other numbers"


def make_all_resident(engine: Engine) -> None:
    """Read every expert, also those no token of a text chooses."""
    every = np.full(engine.spec.num_experts, engine.parts.config.tier, np.uint8)
    for layer_idx in engine.spec.sparse_layers:
        list(engine.parts.cache.stream(layer_idx, every))


def give_up_a_pass(engine: Engine, after_layers: int = 5) -> None:
    """Run some layers of a pass, then raise."""
    layers = iter(range(after_layers))

    def before_layer() -> None:
        if next(layers, None) is None:
            raise InterruptedError

    kv = engine.parts.trunk.new_kv_cache(64)
    with pytest.raises(InterruptedError):
        engine.parts.decoder.forward(np.arange(20, dtype=np.int32), kv, slice(0), before_layer)
    assert kv.length == 0
