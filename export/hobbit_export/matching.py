"""Which tensor of a checkpoint is what: every weight a model needs is found, every other tensor is accounted for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edge_runtime.backends.cpu.trunk.weights import layer_weight_shapes, top_weight_shapes
from edge_runtime.base.errors import BundleError
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.router_data import router_arrays
from hobbit_export.arch.names import ALWAYS_LEFT_OUT, ExpertLayout, LeftOut, Names
from hobbit_export.checkpoint import RAW_DTYPES, Checkpoint

INTEGERS = {"I64": "<i8", "I32": "<i4", "I16": "<i2", "U8": "u1"}
"""safetensors types of expert numbers, and numpy's."""


@dataclass(frozen=True)
class Omitted:
    """Tensors of a checkpoint that are not exported, for one reason.

    Attributes:
        reason: what they are.
        names: sorted.
        bytes: of all of them.
    """

    reason: str
    names: tuple[str, ...]
    bytes: int

    def to_json(self) -> dict[str, Any]:
        """Return plain data for `--json`."""
        return {"reason": self.reason, "tensors": len(self.names), "bytes": self.bytes, "first": self.names[0]}


def account_for(
    checkpoint: Checkpoint, used: set[str], stated: tuple[LeftOut, ...], family: str
) -> tuple[Omitted, ...]:
    """Return what is left out, by reason in the order reasons are stated.

    Args:
        checkpoint: all its tensors.
        used: names of those that something reads.
        stated: what the family's adapter leaves out.
        family: for messages.

    Raises:
        BundleError: names a tensor that nothing reads and nobody leaves out.
    """
    rules = (*stated, *ALWAYS_LEFT_OUT)
    found: dict[str, list[str]] = {rule.reason: [] for rule in rules}
    for name in sorted(set(checkpoint.tensors) - used):
        reason = next((rule.reason for rule in rules if rule.pattern.fullmatch(name)), None)
        if reason is None:
            raise BundleError(
                f"{checkpoint.tensors[name].file.name}: tensor {name!r}: not part of a {family} model of this config. "
                "Leaving it out could change the model's output: check config.json."
            )
        found[reason].append(name)
    return tuple(
        Omitted(reason, tuple(names), sum(checkpoint.tensors[name].num_bytes for name in names))
        for reason, names in found.items()
        if names
    )


def match_trunk(checkpoint: Checkpoint, spec: ModelSpec, names: Names) -> dict[str, str]:
    """Find the tensor of every dense weight, by canonical name.

    Raises:
        BundleError: one is missing, misshapen or of a type that cannot be exported.
    """
    shapes = top_weight_shapes(spec)
    for layer_idx in range(spec.num_layers):
        shapes |= layer_weight_shapes(spec, layer_idx)
    found = {}
    for canonical, shape in shapes.items():
        name = "embed" if canonical == "head" and spec.tied_embeddings else canonical
        found[canonical] = _match(checkpoint, names, name, shape, tuple(RAW_DTYPES))
    return found


def match_router(checkpoint: Checkpoint, spec: ModelSpec, names: Names) -> dict[str, str]:
    """Find the tensors of what routers add to their matrices, by canonical name.

    A hashed layer compares nothing, so it may lack the bias of the choice.

    Raises:
        BundleError: as for `match_trunk`.
    """
    found, hashed = {}, spec.sparse_layers[: spec.router.hashed_layers]
    for name, (kind, (layers, *shape)) in router_arrays(spec).items():
        for layer_idx in spec.sparse_layers[:layers]:
            canonical = f"layers.{layer_idx}.router_{name}"
            if name == "selection_bias" and layer_idx in hashed and not names.present(canonical, checkpoint.tensors):
                continue
            types = tuple(RAW_DTYPES) if kind == "<f4" else tuple(INTEGERS)
            found[canonical] = _match(checkpoint, names, canonical, tuple(shape), types)
    return found


def _match(
    checkpoint: Checkpoint, names: Names, canonical: str, shape: tuple[int, ...], dtypes: tuple[str, ...]
) -> str:
    """Return the tensor of a canonical name."""
    present = names.present(canonical, checkpoint.tensors)
    if not present:
        first = names.candidates(canonical)[0]
        raise BundleError(f"{checkpoint.path.name}: tensor {first!r} is missing. Download the checkpoint again.")
    _check_tensor(checkpoint, present[0], shape, dtypes)
    return present[0]


def match_experts(checkpoint: Checkpoint, spec: ModelSpec, names: Names, layer_idx: int) -> ExpertLayout:
    """Find how a layer's experts are stored.

    Raises:
        BundleError: as for `match_trunk`.
    """
    layouts = [layout for layout in names.layouts if layout.fits(spec.experts)]
    if not layouts:
        raise BundleError(f"{spec.family}: the adapter names no tensors for experts such as {spec.experts}.")
    layout = next((x for x in layouts if x.tensor(layer_idx, 0, "down") in checkpoint.tensors), layouts[0])
    sizes = (spec.num_experts, spec.hidden, spec.experts.intermediate)
    for matrix in spec.experts.matrices:
        for expert_idx in range(1 if layout.fused else spec.num_experts):
            _check_tensor(checkpoint, layout.tensor(layer_idx, expert_idx, matrix), layout.shape(matrix, *sizes))
            if spec.experts.bias:
                name = layout.tensor(layer_idx, expert_idx, matrix, bias=True)
                _check_tensor(checkpoint, name, layout.bias_shape(matrix, *sizes))
    return layout


def _check_tensor(
    checkpoint: Checkpoint, name: str, shape: tuple[int, ...], dtypes: tuple[str, ...] = tuple(RAW_DTYPES)
) -> None:
    info = checkpoint.tensors.get(name)
    if info is None:
        raise BundleError(f"{checkpoint.path.name}: tensor {name!r} is missing. Download the checkpoint again.")
    where = f"{info.file.name}: tensor {name!r}"
    if info.shape != shape:
        raise BundleError(
            f"{where}: expected shape {list(shape)}, got {list(info.shape)}. config.json does not fit it."
        )
    if info.dtype not in dtypes:
        advice = "Export from the unquantised checkpoint." if "F32" in dtypes else "Download the checkpoint again."
        raise BundleError(
            f"{where}: expected {', '.join(dtypes[:-1])} or {dtypes[-1]} weights, got {info.dtype}. {advice}"
        )
