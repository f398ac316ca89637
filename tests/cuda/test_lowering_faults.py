"""Faults planted in the rules that lower graphs for TensorRT: each is found by what a lowered graph computes or holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cuda.test_tensorrt_lowering import NEW, OLD, PAST, SLOTS, TOKENS, feeds_for, run, spec_of
from random_weights import RandomWeights
from trunk_bundles import write_trunk

from edge_runtime.backends.cpu.trunk.graph_file import read_graph
from edge_runtime.backends.cuda.tensorrt import half_weights, lowering, modern, products
from edge_runtime.backends.cuda.tensorrt.allow_list import refusals
from edge_runtime.backends.cuda.tensorrt.graph import Lowered
from edge_runtime.base.spec import SoftmaxAttention

pytestmark = pytest.mark.oracle
HALVES, PAIRS, PART = "qwen3_moe", "ernie4_5_moe", "glm4_moe"
BOUND = 3e-2
"""Of the largest: quantised, ONNX Runtime rounds activations to 8 bits where half precision does not."""


@dataclass(frozen=True)
class Fault:
    """A text of a module replaced.

    Attributes:
        name: what is wrong then.
        module: which rules.
        old: as it is.
        new: as it is planted.
        case: a family's model in which it shows.
    """

    name: str
    module: ModuleType
    old: str
    new: str
    case: str = HALVES


FAULTS = [
    Fault("epsilon outside the root", lowering, 'out.add("Sqrt", out.add("Add", mean, out.scalar(epsilon)))',
          'out.add("Add", out.add("Sqrt", mean), out.scalar(epsilon + 0.1))'),
    Fault("a norm over the tokens", lowering, '"ReduceMean", square, out.ints(-1)', '"ReduceMean", square, out.ints(1)'),
    Fault("a norm's weights left out", lowering, 'out.add("Mul", out.add("Div", x, root), gamma, out=name)',
          'out.add("Mul", out.add("Div", x, root), out.scalar(1.0), out=name)'),
    Fault("the stream before the sum is normed", lowering, "_rms(low.out, total, gamma", "_rms(low.out, a, gamma"),
    Fault("scores not scaled", lowering, "scaled = queries if alpha == 1 else", "scaled = queries if True else"),
    Fault("keys not turned", lowering, "(*range(rank - 2), rank - 1, rank - 2)", "(*range(rank - 2), rank - 2, rank - 1)"),
    Fault("what int4 codes lack left out", lowering,
          'both = out.add("Add", out.add("MatMul", half, weights), out.add("MatMul", means, missing))',
          'both = out.add("MatMul", half, weights)'),
    Fault("sums for means", lowering, 'out.add("ReduceMean", by_block', 'out.add("ReduceSum", by_block'),
    Fault("blocks along the outputs", lowering, "scales, axis=0", "scales, axis=1"),
    Fault("rotation the other way", lowering, 'out.add("Sub", out.add("Mul", a, cos)', 'out.add("Add", out.add("Mul", a, cos)'),
    Fault("sine and cosine exchanged", lowering, 'out.add("Mul", b, cos), out.add("Mul", a, sin)',
          'out.add("Mul", b, sin), out.add("Mul", a, cos)'),
    Fault("neighbours not brought to halves", lowering, 'if node.attributes.get("interleaved"):', "if False:", PAIRS),
    Fault("what is not turned left out", lowering, "first, second, *rest, out=", "first, second, *rest[:0], out=", PART),
    Fault("what is not turned in front", lowering, '"Concat", first, second, *rest', '"Concat", *rest, first, second', PART),
    Fault("codes not inverted under scales below zero", half_weights, "signed ^ 15, signed)", "signed, signed)"),
    Fault("a zero point of zero", half_weights, "signed = low ^ 8", "signed = low ^ 0"),
    Fault("two outputs of a byte exchanged", half_weights, "signed[:, 0::2] | (signed[:, 1::2] << 4)",
          "signed[:, 1::2] | (signed[:, 0::2] << 4)"),
    Fault("scales with their sign", half_weights, "np.maximum(np.abs(self.scales).T", "np.maximum((self.scales).T"),
    Fault("a mean not times its block", half_weights, "self.positive_scales() * np.float16(self.block)", "self.positive_scales()"),
    Fault("another epsilon", modern, "axis=-1, epsilon=epsilon", "axis=-1, epsilon=epsilon + 0.1"),
    Fault("what is written lies elsewhere", modern, "POSITION, out=present, axis=-2", "POSITION, out=present, axis=-1"),
    Fault("keys written to the values", modern, "for past, new in (found.keys, found.values):",
          "for past, new in ((found.keys[0], found.values[1]), (found.values[0], found.keys[1])):"),
    Fault("attention's scale of one", modern, "presents, mask, scale=found.scale", "presents, mask, scale=1.0"),
    Fault("attention without its mask", modern, "queries, *presents, mask, scale", "queries, *presents, scale"),
    Fault("cosine for sine", modern, 'angles["cos"], angles["sin"], out=out', 'angles["cos"], angles["cos"], out=out'),
    Fault("products without a scale", products, "out.scalar(scale)), to=FLOAT16)", "out.scalar(1.0)), to=FLOAT16)"),
    Fault("products without a mask", products, 'out.add("Add", scores, out.add("Cast", mask, to=FLOAT))', "scores"),
    Fault("a softmax over the tokens", products, '"Softmax", masked, axis=-1', '"Softmax", masked, axis=-2'),
    Fault("heads of other groups", products, "out.ints(groups, -1, 0, dim))", "out.ints(-1, groups, 0, dim))"),
]  # fmt: skip


class Rules:
    """The modules that lower graphs, one of them with a fault."""

    def __init__(self, fault: Fault | None, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lower, self.modernise, self.by_products = lowering.lower, modern.modernise, products.by_products
        if fault is None:
            return
        assert fault.module.__file__ is not None
        text = Path(fault.module.__file__).read_text()
        assert text.count(fault.old) == 1, f"{fault.name}: its text is there {text.count(fault.old)} times"
        planted: dict[str, Any] = {"__name__": fault.module.__name__, "__file__": fault.module.__file__}
        exec(compile(text.replace(fault.old, fault.new), fault.module.__file__, "exec"), planted)
        if fault.module is half_weights:
            monkeypatch.setattr(lowering, "StoredMatrix", planted["StoredMatrix"])
        for name in ("lower", "modernise", "by_products"):
            if name in planted and fault.module is not half_weights and name in _OWN[fault.module]:
                setattr(self, name, planted[name])

    def forms(self, path: Path) -> Iterator[tuple[Lowered, bool]]:
        """What a graph becomes for both versions, and whether that writes its cache."""
        low = self.lower(path.stem, read_graph(path.read_bytes()), path.with_suffix(".data"))
        assert list(refusals(low, OLD)) == []
        newer = self.modernise(low, SLOTS)
        for i, form in enumerate((low, newer, self.by_products(newer))):
            if i:
                assert list(refusals(form, NEW)) == []
            yield replace(form, name=f"{form.name}-{i}"), "at" in form.inputs


_OWN: dict[ModuleType, tuple[str, ...]] = {lowering: ("lower",), modern: ("modernise",), products: ("by_products",)}


@dataclass(frozen=True)
class Trunk:
    """A folder of graphs, and in which order their keys' numbers lie once lowered; None: as before."""

    folder: Path
    order: list[int] | None


@pytest.fixture(scope="module")
def trunks(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trunk]:
    """Int4 trunks with random weights, made once."""
    made: dict[str, Trunk] = {}

    def trunk(case: str) -> Trunk:
        if case not in made:
            folder = tmp_path_factory.mktemp(case)
            spec = spec_of(case, folder)
            write_trunk(spec, RandomWeights(spec), folder, "int4")
            rope, attention = spec.ropes[0], spec.layers[0].attention
            assert isinstance(attention, SoftmaxAttention)
            order = [*range(0, rope.dim, 2), *range(1, rope.dim, 2), *range(rope.dim, attention.head_dim)]
            made[case] = Trunk(folder / "trunk", order if rope.pairs else None)
        return made[case]

    return trunk


def problem(rules: Rules, trunk: Trunk, out: Path) -> str:
    """Return what is wrong with the lowered graphs of a trunk, "" if nothing is."""
    for path in sorted(trunk.folder.glob("*.onnx")):
        if path.stem == "routers":  # applied by a kernel
            continue
        feeds = feeds_for(path)
        wanted = run(path, feeds)
        if trunk.order and "past_k" in feeds:  # lowered, neighbours lie in halves
            feeds["past_k"] = np.ascontiguousarray(feeds["past_k"][..., trunk.order])
            wanted["new_k"] = wanted["new_k"][..., trunk.order]
        try:
            for form, in_place in rules.forms(path):
                found = run(form.write(out), in_cache(feeds) if in_place else feeds)
                for name, values in wanted.items():
                    got = found[name] if name in found else written(found, name)
                    error = np.abs(got - values).max() / np.abs(values).max()
                    if not error <= BOUND:
                        return f"{form.name}, {name}: off by {error:.3g}"
        except Exception as err:  # noqa: BLE001 - a graph that is refused, whoever refuses it
            return f"{path.stem}: {type(err).__name__}: {err}"
    return ""


def in_cache(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a graph that writes its cache is given for the same."""
    given, joint = feeds | {"at": np.array([PAST], np.int64)}, feeds["mask"]
    given["mask"] = np.ascontiguousarray(joint[..., :SLOTS])
    given["mask"][..., PAST : PAST + TOKENS] = joint[..., SLOTS:]
    return given | {name: feeds[name].astype(np.float16) for name in ("past_k", "past_v")}


def written(found: dict[str, np.ndarray], name: str) -> np.ndarray:
    return np.asarray(found[f"present_{name.removeprefix('new_')}"][:, :, PAST : PAST + TOKENS])


@pytest.mark.parametrize("case", [HALVES, PAIRS, PART])
def test_rules_without_a_fault_are_right(trunks, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert problem(Rules(None, monkeypatch), trunks(case), tmp_path) == ""


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_found(trunks, fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    said = problem(Rules(fault, monkeypatch), trunks(fault.case), tmp_path)
    print(said)
    assert said, fault.name
