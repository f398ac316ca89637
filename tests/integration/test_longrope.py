"""phimoe beyond its original context: the long factors for the whole sequence, which transformers 5.24 never uses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from families import make_checkpoint
from families.phimoe import longrope

from edge_runtime import Engine, SamplingParams
from edge_runtime.bundle.self_check import self_check

pytestmark = pytest.mark.oracle
CASE, ORIGINAL = "phimoe_longrope_biases", 256
LOGIT_TOLERANCE = 2e-3  # of the largest logit


def oracle(checkpoint: Path):
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()


def oracle_logits(model, ids: list[int]) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def use_long_factors(model) -> None:
    """Make transformers rotate as the model's authors do in sequences beyond the original context."""
    from functools import partial

    rotary = model.model.rotary_emb
    rotary.rope_init_fn = partial(rotary.rope_init_fn, seq_len=ORIGINAL + 1)
    config = model.config.rope_parameters
    config["short_mscale"] = config["long_mscale"]


@pytest.fixture(scope="module")
def bundle(exported, shared_folder: Path) -> Path:
    checkpoint = shared_folder / f"checkpoint-{CASE}"
    if not checkpoint.exists():
        make_checkpoint(CASE, checkpoint)
    return exported(checkpoint, "--tiers", "8,bf16", "--trunk", "fp32")


@pytest.mark.parametrize("context", [ORIGINAL, ORIGINAL + 44])
def test_a_context_beyond_the_original_one_has_the_long_factors(bundle, shared_folder, context):
    model = oracle(shared_folder / f"checkpoint-{CASE}")
    if context > ORIGINAL:
        use_long_factors(model)
    ids = np.random.default_rng(4).integers(1, model.config.vocab_size, context).tolist()
    with Engine.open(bundle, tier="bf16", memory="2GiB", context=context, self_check=False) as engine:
        expected = oracle_logits(model, ids)
        for chunk in (context, 40):
            error = np.abs(engine.logits(ids, chunk=chunk) - expected).max() / np.abs(expected).max()
            print(f"max |dlogit| / max |logit| = {error:.2e}")
            assert error <= LOGIT_TOLERANCE
        engine.generate(ids[:8], SamplingParams(max_tokens=4, ignore_eos=True))
        found = self_check(engine, engine.parts.bundle, 16, context=context)
    assert found.max_relative_error < LOGIT_TOLERANCE


def test_the_two_rotations_differ(bundle):
    """Else the test above says nothing."""
    reference = np.load(bundle / "calibration" / "reference.npz")
    assert np.abs(reference["logits"] - reference["long_logits"]).max() > 0.1
    rope = json.loads((bundle / "manifest.json").read_text())["model"]["layers"][0]["attention"]["rope"]
    assert rope["long_factor"] == longrope(32, ORIGINAL)["rope_parameters"]["long_factor"]
