"""Looking ahead in the trunk engine: the same routers as the layers', loaded only where wanted, within the plan."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
from specs import layer, model_spec
from trunk_bundles import write_trunk

from edge_runtime import Engine, SamplingParams
from edge_runtime.backends.cpu.trunk.ort import OrtTrunk
from edge_runtime.backends.cpu.trunk.reference import ReferenceTrunk
from edge_runtime.backends.cpu.trunk.router_stack import load_routers, routers_bytes
from edge_runtime.backends.cpu.trunk.weights import layer_weight_shapes, top_weight_shapes
from edge_runtime.base.errors import BundleError
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle import manifest_file as manifests
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.part_names import ROUTERS, trunk_file
from edge_runtime.prefetch.prefetcher import Predictor

SPEC = model_spec(
    layer(), layer(dense=72), layer(), layer(), vocab_size=97, hidden=64, num_heads=4, num_kv_heads=2, max_context=256,
    num_experts=8, qk_norm="per_head",
)  # fmt: skip


class Weights:
    """From a seed."""

    def __init__(self, spec: ModelSpec = SPEC) -> None:
        rng = np.random.default_rng(5)
        shapes = top_weight_shapes(spec)
        for i in range(spec.num_layers):
            shapes |= layer_weight_shapes(spec, i)
        self._arrays = {name: rng.standard_normal(s, dtype=np.float32) for name, s in shapes.items()}

    def get(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        return self._arrays[name][start:stop]


@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_both_engines_apply_the_next_layers_routers(tmp_path, precision):
    """A dense layer in between is passed over; near the end fewer layers are left; the state is that of the call."""
    weights = Weights()
    write_trunk(SPEC, weights, tmp_path, precision)
    routers = np.stack([weights.get(f"layers.{i}.router").T for i in SPEC.sparse_layers])
    np.testing.assert_array_equal(np.fromfile(tmp_path / ROUTERS, "<f4"), routers.ravel())
    engine = OrtTrunk(tmp_path, SPEC, threads=1, max_chunk=8, routers=np.ascontiguousarray(routers))
    rng = np.random.default_rng(0)
    for layer_idx, depth, coming, tokens in (
        (0, 1, [2], 1), (0, 5, [2, 3], 1), (2, 2, [3], 3), (3, 2, [], 1), (0, 1, [2], 3), (0, 1, [2], 1),
    ):  # fmt: skip
        x = rng.standard_normal((tokens, SPEC.hidden), dtype=np.float32)
        wanted = [x @ weights.get(f"layers.{i}.router").T for i in coming]
        wanted = np.array(wanted).reshape(-1, tokens, SPEC.num_experts)
        for trunk in (engine, ReferenceTrunk(SPEC, weights)):
            found = trunk.look_ahead(x, layer_idx, depth)
            assert found.shape == wanted.shape
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    engine.close()


def test_routers_with_a_norm_of_their_own_are_applied_behind_it(tmp_path):
    """What a layer hands on is the same for all routers: the weight of each one's norm is in its matrix."""
    spec = dataclasses.replace(SPEC, router=dataclasses.replace(SPEC.router, norm_scale=0.25))
    weights = Weights(spec)
    weights.get("embed")[...] = np.round(8 * weights.get("embed")) / 8  # bfloat16 holds it
    write_trunk(spec, weights, tmp_path, "fp32")
    routers = np.fromfile(tmp_path / ROUTERS, "<f4").reshape(3, spec.hidden, spec.num_experts)
    engine = OrtTrunk(tmp_path, spec, threads=1, max_chunk=8, routers=routers)
    ids, found = np.array([3, 1, 4], np.int32), []
    for trunk in (engine, ReferenceTrunk(spec, weights)):
        chunk = trunk.begin(ids, trunk.new_kv_cache(8))
        out = trunk.run_layer(chunk, 0, None)
        assert out.seen is not out.x
        own = out.seen * (0.25 * weights.get("layers.0.router_norm")) @ weights.get("layers.0.router").T
        np.testing.assert_allclose(out.router_logits, own, rtol=1e-4, atol=1e-4)
        coming = out.seen * (0.25 * weights.get("layers.2.router_norm")) @ weights.get("layers.2.router").T
        ahead = trunk.look_ahead(out.seen, 0, 1)
        np.testing.assert_allclose(ahead[0], coming, rtol=1e-4, atol=1e-4)
        found.append((out.seen.copy(), ahead.copy()))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    engine.close()


def test_memory_is_taken_only_where_it_looks_ahead(model_bundle):
    """The plan and the loaded trunk grow by the same bytes; with room for all experts nothing is loaded.

    The native trunk has the routers in any case and takes nothing more.
    """
    spec = manifests.read(model_bundle).model
    options = {"memory": "1GiB", "self_check": False, "context": 64}

    def sizes(prefetch: str, *, trunk: str = "onnx", **memory) -> tuple[int, int]:
        with Engine.open(model_bundle, prefetch=prefetch, trunk=trunk, **options, **memory) as e:
            trunk = next(line.bytes for line in e.plan.lines if line.name == "trunk")
            return trunk, e.parts.trunk.weight_bytes

    small = {"expert_memory": "3MiB"}
    off, on = sizes("off", **small), sizes("lookahead", **small)
    assert on[0] - off[0] == routers_bytes(spec)
    assert off[1] < on[1] <= off[1] + routers_bytes(spec)
    assert sizes("lookahead")[1] == off[1]
    assert sizes("lookahead", trunk="native", **small) == sizes("off", trunk="native", **small)


def without(bundle, *names: str, at):
    """A copy of a bundle that does not list these parts and has not got them."""
    old = shutil.copytree(bundle, at)
    listed = manifests.read(bundle)
    rest = [part for part in listed.parts if part.name not in names]
    assert len(rest) == len(listed.parts) - len(names)
    for name in names:
        (old / name).unlink()
    manifests.write(old, dataclasses.replace(listed, parts=rest, bundle_id=""))
    return old


def test_a_bundle_without_the_block_looks_ahead_the_same(model_bundle, tmp_path):
    """Bundles written before there was the block hold each router in its layer's graph alone: the same matrices."""
    old = without(model_bundle, ROUTERS, at=tmp_path / "old")
    block = load_routers(Bundle.open(model_bundle))
    assert block.dtype == np.float32
    np.testing.assert_array_equal(load_routers(Bundle.open(old)), block)
    tokens = []
    for path, trunk in ((model_bundle, "onnx"), (old, "onnx"), (old, "native")):
        options = {"memory": "1GiB", "expert_memory": "3MiB", "self_check": False, "context": 64, "trunk": trunk}
        with Engine.open(path, prefetch="lookahead:adaptive=false", **options) as engine:
            result = engine.generate("def", SamplingParams(max_tokens=8))
            assert result.experts["prefetch"]["issued"] > 0
            tokens.append(result.token_ids)
    assert tokens[0] == tokens[1] == tokens[2]


def test_an_older_bundle_says_what_to_do(model_bundle, tmp_path):
    """Bundles written before there was the graph run as before; only ONNX Runtime cannot look ahead."""
    old = without(model_bundle, ROUTERS, trunk_file("routers"), at=tmp_path / "old")
    options = {"memory": "1GiB", "expert_memory": "3MiB", "self_check": False, "context": 64}
    with pytest.raises(BundleError, match=r"routers\.onnx: .*Export it again, or use --prefetch statistical"):
        Engine.open(old, prefetch="lookahead", trunk="onnx", **options)
    with Engine.open(old, prefetch="lookahead", trunk="native", **options) as engine:
        assert engine.generate("def", SamplingParams(max_tokens=2)).token_ids
    for own in ({}, {"prefetch": "statistical"}):
        with Engine.open(old, **own, **options) as engine:
            assert engine.parts.active.prefetch == own.get("prefetch", "off")
            assert engine.generate("def", SamplingParams(max_tokens=2)).token_ids


class Judged:
    """A predictor that passes another one's predictions on and counts which come true in the next layer.

    Args:
        inner: predicts.
        at_once: it is asked before any expert of a layer was computed.
    """

    max_tokens, predicts_logits, native_depth = 1, True, None

    def __init__(self, inner: Predictor, *, at_once: bool) -> None:
        self.inner, self.at_once, self.coming, self.right, self.all = inner, at_once, None, 0, 0

    @property
    def first(self):
        return self.inner.first

    def gains_by_experts(self, layer_idx: int) -> bool:
        return not self.at_once and self.inner.gains_by_experts(layer_idx)

    def predict(self, layer_idx, x, routing):
        if self.coming is not None and self.coming[0] == layer_idx:
            self.right += len(np.intersect1d(self.coming[1], routing.topk_ids[0]))
            self.all += routing.topk_ids.shape[1]
        found = list(self.inner.predict(layer_idx, x, routing))
        self.coming = (found[0][0], found[0][1].topk_ids[0].copy()) if found else None
        return iter(found)


def test_what_the_experts_in_memory_give_makes_predictions_truer(model_bundle):
    """On a trained model: four of five choices come true by the state of the layer, nine of ten with its experts."""
    shares, tokens = [], []
    for at_once in (True, False):
        with Engine.open(
            model_bundle, tier=4, context=256, memory="1GiB", expert_memory="6MiB", self_check=False,
            prefetch="lookahead:depth=1,adaptive=false",
        ) as engine:  # fmt: skip
            prefetcher = engine.parts.decoder.prefetcher
            prefetcher.predictor = judged = Judged(prefetcher.predictor, at_once=at_once)
            tokens.append(engine.generate("def main(", SamplingParams(max_tokens=60, ignore_eos=True)).token_ids)
            shares.append(judged.right / judged.all)
    assert tokens[0] == tokens[1]
    assert shares[1] > shares[0] + 0.02
