"""Which tensor of a checkpoint is what: every weight a model needs is found, every other tensor is accounted for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_runtime.backends.cpu.trunk.weights import layer_weight_shapes, top_weight_shapes
from edge_runtime.base.errors import BundleError
from edge_runtime.base.spec import AttentionSpec, ModelSpec
from edge_runtime.bundle.router_data import router_arrays
from hobbit_export.arch.names import ALWAYS_LEFT_OUT, ExpertLayout, LeftOut, Names, block_in
from hobbit_export.checkpoint import RAW_DTYPES
from hobbit_export.weight_parts import RowBlock
from hobbit_export.weights import Weight

INTEGERS = {"I64": "<i8", "I32": "<i4", "I16": "<i2", "U8": "u1"}
"""safetensors types of expert numbers, and numpy's."""


@dataclass(frozen=True)
class Omitted:
    """Tensors of a checkpoint that are not exported, for one reason.

    Attributes:
        reason: what they are.
        names: sorted.
        bytes: of all of them; None: not known.
    """

    reason: str
    names: tuple[str, ...]
    bytes: int | None

    def to_json(self) -> dict[str, Any]:
        """Return plain data for `--json`."""
        return {"reason": self.reason, "tensors": len(self.names), "bytes": self.bytes, "first": self.names[0]}


def account_for(
    weights: Mapping[str, Weight], used: set[str], stated: tuple[LeftOut, ...], family: str
) -> tuple[Omitted, ...]:
    """Return what is left out, by reason in the order reasons are stated.

    Args:
        weights: all there are.
        used: names of those that something reads.
        stated: what the family's adapter leaves out.
        family: for messages.

    Raises:
        BundleError: names a tensor that nothing reads and nobody leaves out.
    """
    rules = (*stated, *ALWAYS_LEFT_OUT)
    found: dict[str, list[str]] = {rule.reason: [] for rule in rules}
    for name in sorted(set(weights) - used):
        reason = next((rule.reason for rule in rules if rule.pattern.fullmatch(name)), None)
        if reason is None:
            raise BundleError(
                f"{weights[name].file.name}: tensor {name!r}: not part of a {family} model of this config. "
                "Leaving it out could change the model's output: check config.json."
            )
        found[reason].append(name)
    return tuple(Omitted(reason, tuple(names), _bytes(weights, names)) for reason, names in found.items() if names)


def _bytes(weights: Mapping[str, Weight], names: list[str]) -> int | None:
    known = all(weights[name].is_known for name in names)
    return sum(weights[name].num_bytes for name in names) if known else None


@dataclass(frozen=True)
class Matcher:
    """Finds the weights of a model among those of its source.

    Every method raises BundleError if one is missing, misshapen or of a type that cannot be exported.

    Attributes:
        weights: by the names adapters know; those an adapter says are stored transposed are turned in place, and those
            it says are parts of others are added.
        where: the source's name, for messages.
    """

    weights: dict[str, Weight]
    spec: ModelSpec
    names: Names
    where: str

    def trunk(self) -> dict[str, str]:
        """Find every dense weight, by canonical name."""
        shapes = top_weight_shapes(self.spec)
        for layer_idx in range(self.spec.num_layers):
            shapes |= layer_weight_shapes(self.spec, layer_idx)
        found = {}
        for canonical, shape in shapes.items():
            name = "embed" if canonical == "head" and self.spec.tied_embeddings else canonical
            found[canonical] = self._match(name, shape, tuple(RAW_DTYPES))
        return found

    def router(self) -> dict[str, str]:
        """Find what routers add to their matrices, by canonical name.

        A hashed layer compares nothing, so it may lack the bias of the choice.
        """
        spec, names = self.spec, self.names
        found, hashed = {}, spec.sparse_layers[: spec.router.hashed_layers]
        for name, (kind, (layers, *shape)) in router_arrays(spec).items():
            for layer_idx in spec.sparse_layers[:layers]:
                canonical = f"layers.{layer_idx}.router_{name}"
                if name == "selection_bias" and layer_idx in hashed and not names.present(canonical, self.weights):
                    continue
                types = tuple(RAW_DTYPES) if kind == "<f4" else tuple(INTEGERS)
                found[canonical] = self._match(canonical, tuple(shape), types, one_row=True)
        return found

    def experts(self, layer_idx: int) -> ExpertLayout:
        """Find how a layer's experts are stored."""
        spec = self.spec
        layouts = [layout for layout in self.names.layouts if layout.fits(spec.experts)]
        if not layouts:
            raise BundleError(f"{spec.family}: the adapter names no tensors for experts such as {spec.experts}.")
        sizes = (spec.num_experts, spec.hidden, spec.experts.intermediate)
        named = [x for x in layouts if x.tensor(layer_idx, 0, "down") in self.weights] or layouts[:1]
        layout = next((x for x in named if self._has_shapes_of(x, layer_idx, sizes)), named[0])
        count = range(1 if layout.fused else spec.num_experts)
        if layout.transposed:
            for name in {layout.tensor(layer_idx, e, matrix) for matrix in spec.experts.matrices for e in count}:
                self._transpose(name)
        for matrix in spec.experts.matrices:
            for expert_idx in count:
                self._check(layout.tensor(layer_idx, expert_idx, matrix), layout.shape(matrix, *sizes))
                if spec.experts.bias:
                    name = layout.tensor(layer_idx, expert_idx, matrix, bias=True)
                    self._check(name, layout.bias_shape(matrix, *sizes))
        return layout

    def _has_shapes_of(self, layout: ExpertLayout, layer_idx: int, sizes: tuple[int, int, int]) -> bool:
        """Whether the first expert's matrices are stored so: layouts may differ in their shapes alone."""
        for matrix in self.spec.experts.matrices:
            weight = self.weights.get(layout.tensor(layer_idx, 0, matrix))
            shape = () if weight is None else weight.shape
            shape = (*shape[:-2], *shape[:-3:-1]) if layout.transposed else shape
            if shape != layout.shape(matrix, *sizes):
                return False
        return True

    def _match(
        self, canonical: str, shape: tuple[int, ...], dtypes: tuple[str, ...], *, one_row: bool = False
    ) -> str:  # fmt: skip
        """Return the weight of a canonical name; with `one_row` it may have a first dimension of 1 besides."""
        present = self.names.present(canonical, self.weights)
        name = present[0] if present else self.names.candidates(canonical)[0]
        if present and (block := block_in(name)) is not None:
            whole = self.weights[block[0]].asked_for((block[2] * shape[0], *shape[1:]), dtypes)
            self.weights[block[0]], self.weights[name] = whole, RowBlock.of(whole, name, *block[1:])
        if one_row and present and self.weights[name].shape == (1, *shape):
            shape = (1, *shape)
        derived, attention = self.names.derived(canonical), self._attention(canonical)
        self._check(name, shape if derived is None else derived.stored_shape(attention, shape), dtypes)
        if derived is None:
            return name
        part = f"{name}, of which {canonical}"
        self.weights[part] = derived.view(self.weights[name], attention, shape)
        return part

    def _attention(self, canonical: str) -> AttentionSpec | None:
        """The attention of the layer a weight belongs to."""
        layer = canonical.split(".")[1:2]
        return self.spec.layers[int(layer[0])].attention if layer else None

    def _transpose(self, name: str) -> None:
        weight = self.weights.get(name)
        if weight is not None and len(weight.shape) >= 2:
            self.weights[name] = weight.transposed()

    def _check(self, name: str, shape: tuple[int, ...], dtypes: tuple[str, ...] = tuple(RAW_DTYPES)) -> None:
        weight = self.weights.get(name)
        if weight is None:
            raise BundleError(f"{self.where}: tensor {name!r} is missing. Download the checkpoint again.")
        weight = self.weights[name] = weight.asked_for(shape, dtypes)
        where = f"{weight.file.name}: tensor {name!r}"
        if weight.shape != shape:
            raise BundleError(
                f"{where}: expected shape {list(shape)}, got {list(weight.shape)}. The configuration does not fit it."
            )
        if weight.dtype not in dtypes:
            advice = "Export from the unquantised checkpoint." if "F32" in dtypes else "Download the checkpoint again."
            raise BundleError(
                f"{where}: expected {', '.join(dtypes[:-1])} or {dtypes[-1]} weights, got {weight.dtype}. {advice}"
            )
