"""The memory plan of a model with MLA counts the compressed cache."""

from __future__ import annotations

import pytest
from families import make_checkpoint

from edge_runtime import Engine
from edge_runtime.backends.cpu.trunk.kv_cache import HostKVCache

pytestmark = pytest.mark.oracle


def test_the_plan_counts_the_compressed_cache(exported, shared_folder):
    checkpoint = shared_folder / "checkpoint-deepseek_v2"
    if not (checkpoint / "tokenizer.json").exists():
        make_checkpoint("deepseek_v2", checkpoint)
    bundle = exported(checkpoint, "--tiers", "8,bf16", "--trunk", "fp32")
    with Engine.open(bundle, tier=8, memory="1GiB", context=96, self_check=False) as engine:
        (line,) = (line for line in engine.plan.lines if line.name.startswith("KV cache"))
        assert line.bytes == HostKVCache.bytes_for(engine.parts.bundle.manifest.model, 96) == 3 * 96 * (32 + 8) * 4
