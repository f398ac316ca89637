"""The trunk on the GPU for the families it knows: logits of tiny models are the CPU backend's."""

from __future__ import annotations

import numpy as np
import pytest
from cuda.engines import assert_close
from families import make_checkpoint

from edge_runtime import Engine

CASES = [
    "mixtral_sliding_tied",
    "olmoe_clip_bias",
    "qwen2_moe_sparse_step_dynamic",
    "qwen3_moe_bias_sliding",
    "gpt_oss_all_full_truncated",
]
pytestmark = [pytest.mark.oracle, pytest.mark.usefixtures("over_fake")]


@pytest.mark.parametrize("case", CASES)
def test_logits_are_the_cpu_backends(exported, shared_folder, case: str):
    checkpoint = make_checkpoint(case, shared_folder / f"cuda-{case}")
    # at the exact tier: at others a last bit may turn the rounding of an activation, and tokens behind it see that
    bundle = exported(checkpoint, "--tiers", "8,bf16", "--trunk", "fp32")
    ids, found = np.arange(1, 9, dtype=np.int32), []
    settings = {"context": 64, "prefill_chunk": 16, "threads": 1, "self_check": False, "memory": "4GiB", "tier": "bf16"}
    for backend in ("cpu", "cuda:trunk=cuda"):
        with Engine.open(bundle, backend=backend, **settings) as engine:
            found.append(np.concatenate([engine.logits(ids[:6], chunk=4), engine.logits(ids[:2], chunk=1)]))
    assert_close(found[1], found[0])
