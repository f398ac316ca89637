"""Hostile bundles with checksums that are true: each kind of part changed where its structure is."""

from __future__ import annotations

import copy
import io
import json
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from bundle_copies import read_manifest, replace_part, write_manifest
from fuzz.mutations import any_value, change, changed, damaged
from onnx import TensorProto, helper
from published_tokenizers import PATTERNS, PUBLISHED, split, tokenizer_json

from edge_runtime.base.checksum import crc32c
from edge_runtime.bundle.self_check import REFERENCE

Fault = Callable[[random.Random, Path], None]
TOKENIZER, CALIBRATION, CONFIG = (
    "tokenizer/tokenizer.json",
    "calibration/experts.json",
    "tokenizer/tokenizer_config.json",
)
_OPERATORS = (
    "Loop", "If", "Scan", "Range", "ConstantOfShape", "Expand", "Tile", "Gather", "Identity", "Cast", "Einsum", "Resize",
    "Add", "Mul", "MatMul", "Concat", "Reshape", "Split", "Transpose", "Softmax", "Relu", "Sigmoid", "Shape",
)  # fmt: skip


def manifest(rng: random.Random, bundle: Path) -> None:
    """The index: any field."""
    data = changed(rng, read_manifest(bundle))
    write_manifest(bundle, data if isinstance(data, dict) else {})


def model(rng: random.Random, bundle: Path) -> None:
    """The index: the model's shape, which everything else must follow."""
    data = read_manifest(bundle)
    data["model"] = changed(rng, data["model"])
    write_manifest(bundle, data)


def manifest_bytes(rng: random.Random, bundle: Path) -> None:
    """The index as bytes."""
    raw = damaged(rng, (bundle / "manifest.json").read_bytes())
    (bundle / "manifest.json").unlink()
    (bundle / "manifest.json").write_bytes(raw)


def tokenizer(rng: random.Random, bundle: Path) -> None:
    """The bundle's own tokenizer."""
    data = json.loads((bundle / TOKENIZER).read_bytes())
    replace_part(bundle, TOKENIZER, _json(changed(rng, data)))


def tokenizer_parts(rng: random.Random, bundle: Path) -> None:
    """The parts of a published tokenizer around a small vocabulary."""
    parts = copy.deepcopy(PUBLISHED[rng.choice(list(PUBLISHED))])
    if rng.random() < 0.3:
        pattern = list(rng.choice(list(PATTERNS.values())))
        for _ in range(rng.randrange(1, 6)):
            pattern.insert(
                rng.randrange(len(pattern) + 1), rng.choice([*"()[]{}*+?|\\^$.", "{1000}", "(?:", "a", r"\p{L}"])
            )
        parts["pre_tokenizer"] = split("".join(pattern))
    data = tokenizer_json(**parts)
    for place in ("normalizer", "pre_tokenizer", "post_processor", "decoder", "truncation", "padding", "added_tokens"):
        if isinstance(data[place], (dict, list)) and rng.random() < 0.1:
            change(rng, data[place])
    if rng.random() < 0.1:
        change(rng, data["model"])
    replace_part(bundle, TOKENIZER, _json(data))


def tokenizer_bytes(rng: random.Random, bundle: Path) -> None:
    """tokenizer.json as bytes."""
    replace_part(bundle, TOKENIZER, damaged(rng, (bundle / TOKENIZER).read_bytes()))


def tokenizer_config(rng: random.Random, bundle: Path) -> None:
    """Special tokens and templates."""
    data = json.loads((bundle / CONFIG).read_bytes())
    replace_part(bundle, CONFIG, _json(changed(rng, data)))


def graph(rng: random.Random, bundle: Path) -> None:
    """A graph: its nodes, attributes, tensors, inputs and outputs."""
    name = _a_graph(rng, bundle)
    found = onnx.load(bundle / name, load_external_data=False)
    for _ in range(rng.choice([1, 1, 2, 5])):
        _change_graph(rng, found)
    replace_part(bundle, name, found.SerializeToString())


def graph_bytes(rng: random.Random, bundle: Path) -> None:
    """A graph as bytes."""
    name = _a_graph(rng, bundle)
    replace_part(bundle, name, damaged(rng, (bundle / name).read_bytes()))


def weights(rng: random.Random, bundle: Path) -> None:
    """Weights of the trunk: other numbers, infinite ones, or a file of another size."""
    names = sorted(part["name"] for part in read_manifest(bundle)["parts"] if part["role"] in ("trunk", "embedding"))
    name = rng.choice([name for name in names if not name.endswith(".onnx")])
    raw = bytearray((bundle / name).read_bytes())
    how = rng.randrange(4)
    if how == 0:
        raw = bytearray(damaged(rng, bytes(raw)))
    elif how == 1:
        raw[:] = rng.choice([b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\xff\xff\x7f\x7f"]) * (len(raw) // 4)
    else:
        at = rng.randrange(0, len(raw) - 4, 4)
        raw[at : at + 4] = struct.pack("<f", rng.choice([1e30, float("nan"), float("inf"), -1.0, 1e-40]))
    replace_part(bundle, name, bytes(raw))


def expert_header(rng: random.Random, bundle: Path) -> None:
    """The header of an expert file, its checksum true; those of the records are left as they are, and true."""
    name = _an_expert_file(rng, bundle)
    raw = bytearray((bundle / name).read_bytes())
    size = struct.unpack_from("<Q", raw, 40)[0]
    for _ in range(rng.choice([1, 1, 3])):
        at = rng.choice([8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60, 64, 72, 80, 88, 92])
        struct.pack_into("<I", raw, at, rng.choice([0, 1, 2, 3, 4, 32, 4096, 2**31, 2**32 - 1, rng.getrandbits(32)]))
    struct.pack_into("<I", raw, size - 4, crc32c(bytes(raw[: size - 4])))
    replace_part(bundle, name, bytes(raw))


def expert_records(rng: random.Random, bundle: Path) -> None:
    """Records of experts, the checksums of their segments true."""
    name = _an_expert_file(rng, bundle)
    raw = bytearray((bundle / name).read_bytes())
    experts, segments = struct.unpack_from("<I", raw, 20)[0], struct.unpack_from("<I", raw, 32)[0]
    size, stride = struct.unpack_from("<QQ", raw, 40)
    sizes = struct.unpack_from("<4Q", raw, 56)[:segments]
    for _ in range(rng.choice([1, 8, 100])):
        raw[rng.randrange(size, len(raw))] = rng.choice([0, 255, 127, 128, rng.getrandbits(8)])
    if rng.random() < 0.3:
        expert = rng.randrange(experts)
        raw[size + expert * stride : size + (expert + 1) * stride] = rng.choice([b"\xff", b"\x00", b"\x7f"]) * stride
    for expert in range(experts):
        at = size + expert * stride
        for segment, length in enumerate(sizes):
            struct.pack_into("<I", raw, 96 + 4 * (expert * segments + segment), crc32c(bytes(raw[at : at + length])))
            at += length
    struct.pack_into("<I", raw, size - 4, crc32c(bytes(raw[: size - 4])))
    replace_part(bundle, name, bytes(raw))


def calibration(rng: random.Random, bundle: Path) -> None:
    """What tiers cost."""
    data = json.loads((bundle / CALIBRATION).read_bytes())
    replace_part(bundle, CALIBRATION, _json(changed(rng, data)))


def reference(rng: random.Random, bundle: Path) -> None:
    """The archive of the self-check: other arrays, headers, members and methods."""
    with np.load(bundle / REFERENCE) as found:
        ids, logits = found["token_ids"], found["logits"]
    how, raw = rng.randrange(7), io.BytesIO()
    if how == 0:
        replace_part(bundle, REFERENCE, damaged(rng, (bundle / REFERENCE).read_bytes()))
        return
    with zipfile.ZipFile(raw, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        for name, array in (("token_ids", ids), ("logits", logits)):
            if how == 1:
                array = array.astype(rng.choice(["<f8", "<i8", "O", "S4", "<u2"]))
            elif how == 2:
                array = array[: rng.randrange(len(array) + 1)]
            elif how == 3:
                array = array[None] if rng.random() < 0.5 else array * np.float32(rng.choice([0, 1e30, np.nan]))
            elif how == 4 and name == "token_ids":
                array = (array + rng.choice([-1, 1 << 20, 2**31 - 1])).astype(np.int32)
            member = io.BytesIO()
            np.save(member, array, allow_pickle=True)
            content = member.getvalue()
            if how == 5:
                content = content.replace(b"'shape': (", b"'shape': (99999999999, ", 1)
            elif how == 6:
                content = content[:10] + damaged(rng, content[10:128]) + content[128:]
            archive.writestr(f"{name}.npy", content)
        if rng.random() < 0.2:
            archive.writestr("more.npy", bytes(1 << 20))
    replace_part(bundle, REFERENCE, raw.getvalue())


KINDS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        manifest, model, manifest_bytes, tokenizer, tokenizer_parts, tokenizer_bytes, tokenizer_config, graph,
        graph_bytes, weights, expert_header, expert_records, calibration, reference,
    )
}  # fmt: skip


def _json(data: object) -> bytes:
    return json.dumps(data).encode()


def _a_graph(rng: random.Random, bundle: Path) -> str:
    return rng.choice(sorted(str(path.relative_to(bundle)) for path in (bundle / "trunk").glob("*.onnx")))


def _an_expert_file(rng: random.Random, bundle: Path) -> str:
    return rng.choice(sorted(str(path.relative_to(bundle)) for path in (bundle / "experts").glob("*.hbx")))


def _change_graph(rng: random.Random, found: onnx.ModelProto) -> None:  # noqa: C901 - a list of changes
    g = found.graph
    if not g.node:
        g.node.append(helper.make_node("Add", ["resid", "resid"], ["y"]))
    node = rng.choice(g.node)
    names = [*(i.name for i in g.initializer), *(v.name for v in g.input), *(o for n in g.node for o in n.output if o)]
    how = rng.randrange(10)
    if how == 0:
        node.op_type = rng.choice(_OPERATORS)
    elif how == 1 and node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice([*names, "", "nowhere"])
    elif how == 2 and node.attribute:
        attribute = rng.choice(node.attribute)
        number = rng.choice([0, 1, -1, 2, 3, 64, 2**31, 2**62, -(2**62)])
        attribute.CopyFrom(helper.make_attribute(attribute.name, rng.choice([number, float(number), [number] * 4])))
    elif how == 3:
        node.attribute.append(
            helper.make_attribute(rng.choice(["axis", "to", "num_heads", "transA"]), rng.randrange(9))
        )
    elif how == 4 and g.initializer:
        tensor = rng.choice(g.initializer)
        dims = [rng.choice([0, 1, 2, 32, 2**20, 2**31, -1]) for _ in range(rng.randrange(4))]
        tensor.dims[:] = dims or [1]
    elif how == 5 and g.initializer:
        tensor = rng.choice(g.initializer)
        for entry in tensor.external_data:
            entry.value = rng.choice(
                [entry.value, "0", "-1", str(2**62), "../x", "/etc/passwd", str(any_value(rng))[:99]]
            )
        if tensor.raw_data:
            tensor.raw_data = damaged(rng, tensor.raw_data)
    elif how == 6 and g.input:
        value = rng.choice([*g.input, *g.output])
        value.type.tensor_type.elem_type = rng.choice([1, 2, 7, 10, 11, 8])
    elif how == 7:
        inputs = rng.choices(names, k=2)
        g.node.append(helper.make_node(rng.choice(_OPERATORS), inputs, [f"added_{len(g.node)}"]))
    elif how == 8:
        g.initializer.append(
            helper.make_tensor(f"t{len(g.initializer)}", TensorProto.INT64, [1], [rng.getrandbits(62)])
        )
        node.input.append(g.initializer[-1].name)
    else:
        del g.node[rng.randrange(len(g.node))]
