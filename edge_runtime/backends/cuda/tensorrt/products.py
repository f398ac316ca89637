"""Attention as products and a softmax, over the cache a graph writes to: for shapes a library has no kernel for.

Inputs, outputs and their types stay what they are, so that nothing else of a trunk learns which form was built.
"""

from __future__ import annotations

from dataclasses import replace

from edge_runtime.backends.cuda.tensorrt.graph import Lowered, Step
from edge_runtime.backends.cuda.tensorrt.onnx_bytes import FLOAT, FLOAT16


def by_products(low: Lowered) -> Lowered:
    """Return a graph without Attention; the graph itself where it has none.

    Args:
        low: as `modernise` left it: attention of queries [1, H, T, C] in half precision over a cache [1, G, S, C], with
            a mask [1, 1, T, S] of numbers that half precision has.
    """
    if all(step.op != "Attention" for step in low.steps):
        return low
    plain = replace(low, steps=[], weights=dict(low.weights))
    caches = {step.outputs[0]: low.inputs[step.inputs[0]].dims for step in low.steps if step.op == "TensorScatter"}
    for step in low.steps:
        if step.op == "Attention":
            _attend(plain, step, caches[step.inputs[1]])
        else:
            plain.steps.append(step)
    return plain


def _attend(out: Lowered, step: Step, cache: tuple[int | str, ...]) -> None:
    """Products in half precision, as in a kernel; the softmax in float32, as in one too."""
    queries, keys, values, mask = step.inputs
    _, groups, _, dim = cache
    assert isinstance(groups, int)
    assert isinstance(dim, int)
    scale = float(step.attributes["scale"])  # type: ignore[arg-type]
    scaled = out.add("Cast", out.add("Mul", out.add("Cast", queries, to=FLOAT), out.scalar(scale)), to=FLOAT16)
    grouped = out.add("Reshape", scaled, out.ints(groups, -1, 0, dim))  # [G, H / G, T, C]
    turned = out.add("Transpose", keys, perm=(1, 0, 3, 2))  # [G, 1, C, S]
    scores = out.add("Cast", out.add("MatMul", grouped, turned), to=FLOAT)
    masked = out.add("Add", scores, out.add("Cast", mask, to=FLOAT))
    probs = out.add("Cast", out.add("Softmax", masked, axis=-1), to=FLOAT16)
    seen = out.add("MatMul", probs, out.add("Transpose", values, perm=(1, 0, 2, 3)))
    out.add("Reshape", seen, out.ints(1, -1, 0, dim), out=step.outputs[0])
