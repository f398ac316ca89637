"""Numerics against an implementation nobody here wrote: transformers, for every family and the bundled model."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import families
import numpy as np
import pytest
from conftest import MODEL
from families import FAMILY_CASES, load_model, make_checkpoint

from edge_runtime import Engine, SamplingParams
from edge_runtime.lab.evaluation import QualityMeter

pytestmark = pytest.mark.oracle
LOGIT_TOLERANCE = 2e-3  # of the largest logit; the claim of docs/quality.md


def oracle_model(checkpoint: Path, *, round_experts: bool = False):
    import torch

    model = load_model(checkpoint, dtype=torch.float32)
    if round_experts:  # the bf16 tier stores fp16 and fp32 experts rounded to bfloat16
        for name, weight in model.named_parameters():
            if ".experts." in name:
                weight.data = weight.data.to(torch.bfloat16).to(torch.float32)
    return model


def oracle_logits(model, ids: list[int]) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].float().numpy()


def oracle_greedy(model, ids: list[int], count: int) -> list[int]:
    import torch

    # the argument's name changed in 5.3x; what comes back kept its own
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    past, out, feed = None, [], torch.tensor([ids])
    with torch.no_grad():
        for _ in range(count):
            step = model(feed, **{name: past}, use_cache=True)
            past = step.past_key_values
            out.append(int(step.logits[0, -1].argmax()))
            feed = torch.tensor([[out[-1]]])
    return out


def compare(bundle: Path, model, ids: list[int]) -> float:
    """Hold a bundle to transformers; return the largest difference of logits, in units of the largest one."""
    expected = oracle_logits(model, ids)
    with Engine.open(bundle, tier="bf16", memory="2GiB", context=max(len(ids), 88), self_check=False) as engine:
        # dynamic rope depends on where a pass ends: it must end where transformers' one pass does
        actual = engine.logits(ids, chunk=len(ids))
        error = np.abs(actual - expected).max() / np.abs(expected).max()
        print(f"max |dlogit| / max |logit| = {error:.2e}")
        assert error <= LOGIT_TOLERANCE
        tokens = engine.generate(ids[:24], SamplingParams(max_tokens=64, ignore_eos=True)).token_ids
    assert tokens == oracle_greedy(model, ids[:24], 64)
    return float(error)


@pytest.mark.parametrize("case", FAMILY_CASES)
def test_every_family_agrees_with_transformers(case, exported, shared_folder, request):
    checkpoint = shared_folder / f"checkpoint-{case}"
    if not checkpoint.exists():
        make_checkpoint(case, checkpoint)
    bundle = exported(checkpoint, "--tiers", "8,bf16", "--trunk", "fp32")
    model = oracle_model(checkpoint)
    ids = np.random.default_rng(1).integers(1, model.config.get_text_config().vocab_size, 72).tolist()
    difference = compare(bundle, model, ids)
    if (results := request.config.getoption("--family-results")) is not None:
        line = {"case": case, "family": families.family_of(case), "difference": float(f"{difference:.2e}")}
        with open(results, "a") as file:
            file.write(json.dumps(line) + "\n")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_other_source_dtypes_agree(dtype, exported, shared_folder):
    case = next(c for c in FAMILY_CASES if c.startswith("qwen3_moe"))
    checkpoint = make_checkpoint(case, shared_folder / f"checkpoint-{case}-{dtype}", dtype=dtype, sharded=True)
    bundle = exported(checkpoint, "--tiers", "8,bf16", "--trunk", "fp32")
    model = oracle_model(checkpoint, round_experts=True)
    compare(bundle, model, np.random.default_rng(2).integers(1, model.config.get_text_config().vocab_size, 40).tolist())


def test_the_bundled_model_agrees_with_transformers(model_bundle):
    from transformers import AutoTokenizer

    model = oracle_model(MODEL)
    ids = AutoTokenizer.from_pretrained(MODEL).encode((MODEL / "heldout_python.txt").read_text())[:200]
    compare(model_bundle, model, ids)


@pytest.mark.slow
def test_quality_of_each_tier_on_held_out_text(model_bundle):
    model = oracle_model(MODEL)
    figures = {}
    for tier in (8, 6, 4, 2):
        meter = QualityMeter()
        with Engine.open(model_bundle, tier=tier, memory="2GiB", context=512, self_check=False) as engine:
            for name in ("heldout_python.txt", "heldout_prose.txt"):
                ids = engine.tokenizer.encode((MODEL / name).read_text())[:1024]
                for start in range(0, len(ids), 512):
                    window = ids[start : start + 512]
                    expected, actual = oracle_logits(model, window), engine.logits(window)
                    for i in range(len(window)):
                        meter.add(expected[i], actual[i], window[i + 1] if i + 1 < len(window) else None)
        figures[tier] = meter.result()
        q = figures[tier]
        print(
            f"tier {tier}: KLD {q.kld_mean:.6f}, top-1 {100 * q.top1_agreement:.2f} %, ppl {q.ppl:.3f}/{q.baseline_ppl:.3f}"
        )
    assert figures[8].kld_mean <= 0.002
    assert figures[8].top1_agreement >= 0.98
    assert figures[8].kld_mean <= figures[6].kld_mean <= figures[4].kld_mean <= figures[2].kld_mean
