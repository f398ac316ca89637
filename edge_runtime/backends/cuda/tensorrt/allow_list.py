"""What a TensorRT version's parser takes, as data (operators.json), and the check of a lowered graph against it.

The tables are of what each version documents. A parser may take more, and does; what a device's version is not said to
take is refused here, on any machine, instead of there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from edge_runtime.backends.cuda.tensorrt.graph import Lowered, Step
from edge_runtime.backends.cuda.tensorrt.onnx_bytes import FLOAT, FLOAT16, INT4, INT64

_TABLE = Path(__file__).with_name("operators.json")
_NAMES = {FLOAT: "FP32", FLOAT16: "FP16", INT64: "INT64", INT4: "INT4"}
_OTHER_INPUTS = {"Reshape": 1, "Split": 1, "Slice": 1, "ReduceMean": 1, "DequantizeLinear": 1, "TensorScatter": 2}
"""Operators whose inputs from this one on are of another type than the first."""
_ATTENTION_INPUTS, _RANK = 4, 4


@dataclass(frozen=True)
class Version:
    """What a version takes.

    Attributes:
        name: "10.3".
        jetpack: that brings it.
        opset: the highest of a graph.
        operators: types of each operator's first input.
        constant_inputs: inputs of an operator that must be stored.
    """

    name: str
    jetpack: str
    opset: int
    operators: Mapping[str, Sequence[str]]
    constant_inputs: Mapping[str, Sequence[int]]


@cache
def versions() -> Mapping[str, Version]:
    """Return the versions there are lowerings for, oldest first."""
    table = json.loads(_TABLE.read_text(encoding="utf-8"))
    return {
        name: Version(name, each["jetpack"], each["opset"], each["operators"], each["constant_inputs"])
        for name, each in table.items()
    }


def version_for(library: str) -> Version | None:
    """Return the newest version that a library's is at least, of the same major one; None if there is none."""
    found = _numbers(library)
    fitting = [v for v in versions().values() if _numbers(v.name)[0] == found[0] and _numbers(v.name) <= found]
    return fitting[-1] if fitting else None


def _numbers(version: str) -> tuple[int, int]:
    major, minor = (*version.split("."), "0")[:2]
    return int(major), int(minor)


def refusals(low: Lowered, version: Version) -> Iterator[str]:
    """Yield what a version is not said to take of a graph."""
    if low.opset > version.opset:
        yield f"opset {low.opset}, expected at most {version.opset}"
    try:
        kinds = kinds_of(low)
    except ValueError as err:
        yield str(err)
        return
    for step in low.steps:
        yield from (f"{step.op}: {each}" for each in _step_refusals(step, low, version, kinds))


def kinds_of(low: Lowered) -> dict[str, int]:
    """Return the number type of every value of a strongly typed graph.

    Raises:
        ValueError: inputs that must be of one type are not.
    """
    kinds = {name: weight.kind for name, weight in low.weights.items()}
    kinds |= {name: value.kind for name, value in low.inputs.items()}
    for step in low.steps:
        same = [kinds[name] for name in step.inputs[: _OTHER_INPUTS.get(step.op, len(step.inputs))]]
        if len(set(same)) != 1:
            raise ValueError(
                f"{step.op}: inputs of types {', '.join(_NAMES[kind] for kind in same)}, expected one type"
            )
        out = {"Cast": step.attributes.get("to"), "Shape": INT64}.get(step.op, same[0])
        if step.op == "DequantizeLinear":
            out = kinds[step.inputs[1]]
        assert isinstance(out, int)
        kinds |= dict.fromkeys(step.outputs, out)
    for name, value in low.outputs.items():
        if kinds[name] != value.kind:
            raise ValueError(f"output {name}: of type {_NAMES[kinds[name]]}, expected {_NAMES[value.kind]}")
    return kinds


def _step_refusals(step: Step, low: Lowered, version: Version, kinds: Mapping[str, int]) -> Iterator[str]:
    types = version.operators.get(step.op)
    if types is None:
        yield f"not an operator of TensorRT {version.name}"
        return
    kind = _NAMES[kinds[step.inputs[0]]]
    if kind not in types:
        yield f"of type {kind}, expected one of {', '.join(types)}"
    for index in version.constant_inputs.get(step.op, ()):
        if step.inputs[index] not in low.weights:
            yield f"input {index} must be stored"
    yield from _special(step, low)


def _special(step: Step, low: Lowered) -> Iterator[str]:
    """What the tables say in words."""
    if step.op == "DequantizeLinear":
        scales = low.weights.get(step.inputs[1])
        if len(step.inputs) > 2:
            yield "a zero point"
        if scales is None or scales.kind not in (FLOAT, FLOAT16):
            yield "scales must be stored, in FP32 or FP16"
        elif not _all_positive(b"".join(scales.blocks()), scales.kind):
            yield "scales must be above zero"
    if step.op == "LayerNormalization" and len(step.outputs) != 1:
        yield "more than the first output"
    if step.op == "TensorScatter" and step.attributes.get("axis") != -2:
        yield "an axis other than -2"
    if step.op == "Attention" and (len(step.inputs) != _ATTENTION_INPUTS or len(step.outputs) != 1):
        yield "inputs other than queries, keys, values and mask, or more than one output"


def _all_positive(raw: bytes, kind: int) -> bool:
    return bool((np.frombuffer(raw, "<f2" if kind == FLOAT16 else "<f4") > 0).all())
