"""From a lowered graph to one of opset 24, with RMSNormalization, RotaryEmbedding, Attention and TensorScatter.

Each is recognised by what it was lowered to, and put in its place; whatever is not recognised stays as it is. Attention
then reads one cache that the graph itself writes to: `past_k` and `present_k` are the same memory. TensorRT has kernels
for attention in half precision alone; so that is for trunks whose matrices are, and a float32 trunk keeps its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from edge_runtime.backends.cuda.tensorrt.graph import Lowered, Step, Value
from edge_runtime.backends.cuda.tensorrt.onnx_bytes import FLOAT, FLOAT16, INT64

OPSET = 24
POSITION = "at"
"""Input of a graph that writes its cache: int64 [1], tokens in it."""
_KEYS_TURNED = (0, 1, 3, 2)


class _Attention(NamedTuple):
    """Softmax attention as it was lowered.

    Attributes:
        queries: [1, H, T, C].
        scale: of the scores.
        keys: past and new.
        values: past and new.
        out: name of the output [1, H, T, C].
    """

    queries: str
    scale: float
    keys: tuple[str, str]
    values: tuple[str, str]
    out: str


class Modern:
    """A lowered graph while its patterns are replaced.

    Args:
        low: stays as it is.
        slots: of a cache. TensorRT writes to caches of one size only.
    """

    def __init__(self, low: Lowered, slots: int) -> None:
        self._slots = slots
        self._is_half = any(weight.kind == FLOAT16 for weight in low.weights.values())
        self._low = replace(
            low, steps=list(low.steps), weights=dict(low.weights), inputs=dict(low.inputs), outputs=dict(low.outputs)
        )
        self._by = {name: step for step in low.steps for name in step.outputs}
        self._users: dict[str, list[Step]] = {}
        for step in low.steps:
            for name in step.inputs:
                self._users.setdefault(name, []).append(step)

    def run(self) -> Lowered:
        """Return the graph with what was recognised replaced."""
        low, steps = self._low, self._low.steps
        low.steps, low.opset = [], OPSET
        angles: dict[str, str] = {name: self._angles(name) for name in ("cos", "sin") if name in low.inputs}
        for step in steps:
            if not (self._norm(step) or self._rotary(step, angles) or self._attention(step)):
                low.steps.append(step)
        _drop_unused(low)
        return low

    def _angles(self, name: str) -> str:
        width = self._low.inputs[name].dims[-1]
        assert isinstance(width, int)
        return self._low.add("Reshape", name, self._low.ints(1, -1, width))

    def _made(self, name: str, op: str) -> Step | None:
        """Return the step that makes a value, if it is of a type."""
        step = self._by.get(name)
        return step if step is not None and step.op == op else None

    def _chain(self, name: str, *ops: str) -> Step | None:
        """Follow first inputs up through steps of these types; return the last of them."""
        step = None
        for op in ops:
            step = self._made(name, op)
            if step is None:
                return None
            name = step.inputs[0]
        return step

    def _norm(self, step: Step) -> bool:
        if step.op != "Mul" or (divided := self._made(step.inputs[0], "Div")) is None:
            return False
        gamma = self._low.weights.get(step.inputs[1])
        root, power = (
            self._made(divided.inputs[1], "Sqrt"),
            self._chain(divided.inputs[1], "Sqrt", "Add", "ReduceMean", "Pow"),
        )
        if gamma is None or len(gamma.dims) != 1 or root is None or power is None:
            return False
        epsilon, exponent = self._number(self._by[root.inputs[0]].inputs[1]), self._number(power.inputs[1])
        if power.inputs[0] != divided.inputs[0] or epsilon is None or exponent != 2:
            return False
        self._low.add(
            "RMSNormalization", divided.inputs[0], step.inputs[1], out=step.outputs[0], axis=-1, epsilon=epsilon
        )
        return True

    def _rotary(self, step: Step, angles: dict[str, str]) -> bool:
        if step.op != "Concat" or len(step.inputs) < 2 or not angles:
            return False
        first, second, *rest = step.inputs
        whole = self._turned(first, "Sub", ("cos", "sin")), self._turned(second, "Add", ("sin", "cos"))
        if whole[0] is None or whole[0] != whole[1]:
            return False
        split = self._made(whole[0][0], "Split")
        if split is None or split.outputs != whole[0]:
            return False
        out, low = ("" if rest else step.outputs[0]), self._low
        turned = low.add("RotaryEmbedding", split.inputs[0], angles["cos"], angles["sin"], out=out)
        if rest:
            low.add("Concat", turned, *rest, out=step.outputs[0], axis=-1)
        return True

    def _turned(self, name: str, op: str, angles: tuple[str, str]) -> tuple[str, str] | None:
        """Return the halves (a, b) of a * first - b * second, or of b * second + a * first."""
        joined = self._made(name, op)
        products = [self._made(each, "Mul") for each in joined.inputs] if joined is not None else []
        if len(products) != 2 or products[0] is None or products[1] is None:
            return None
        by_angle = {product.inputs[1]: product.inputs[0] for product in products if product is not None}
        if by_angle.keys() != {"cos", "sin"}:
            return None
        return by_angle[angles[0]], by_angle[angles[1]]

    def _attention(self, step: Step) -> bool:
        found = self._matched(step) if step.op == "Reshape" and self._is_half else None
        if found is None:
            return False
        low, presents = self._low, []
        for past, new in (found.keys, found.values):
            present = f"present_{past.removeprefix('past_')}"
            low.add("TensorScatter", past, low.add("Cast", new, to=FLOAT16), POSITION, out=present, axis=-2)
            low.inputs[past] = low.outputs[present] = self._fixed(low.inputs[past])
            low.outputs.pop(new, None)
            presents.append(present)
        low.inputs["mask"] = Value(FLOAT, (1, 1, "T", self._slots))
        low.inputs[POSITION] = Value(INT64, (1,))
        queries, mask = (low.add("Cast", name, to=FLOAT16) for name in (found.queries, "mask"))
        low.add("Cast", low.add("Attention", queries, *presents, mask, scale=found.scale), out=found.out, to=FLOAT)
        return True

    def _fixed(self, cache: Value) -> Value:
        return Value(FLOAT16, tuple(self._slots if dim == "S" else dim for dim in cache.dims))

    def _matched(self, step: Step) -> _Attention | None:
        """Look for attention whose output this reshaping is."""
        added = self._made(step.inputs[0], "Add")
        products = [self._made(each, "MatMul") for each in added.inputs] if added is not None else []
        if len(products) != 2 or products[0] is None or products[1] is None:
            return None
        (past_p, past_v), (new_p, new_v) = products[0].inputs, products[1].inputs
        split = self._made(past_p, "Split")
        if split is None or split.outputs != (past_p, new_p) or past_v not in self._low.inputs:
            return None
        masked = self._chain(past_p, "Split", "Reshape", "Softmax", "Add")
        if masked is None or masked.inputs[1] != "mask":
            return None
        joined = self._chain(masked.inputs[0], "Reshape", "Concat")
        sides = [self._side(each) for each in joined.inputs] if joined is not None else []
        if len(sides) != 2 or sides[0] is None or sides[1] is None or sides[0][:2] != sides[1][:2]:
            return None
        (queries, scale, past_k), new_k = sides[0], sides[1][2]
        if past_k not in self._low.inputs or past_k == past_v:
            return None
        return _Attention(queries, scale, (past_k, new_k), (past_v, new_v), step.outputs[0])

    def _side(self, name: str) -> tuple[str, float, str] | None:
        """Return queries [1, H, T, C], the scale and the keys of a product of folded queries with turned keys."""
        product = self._made(name, "MatMul")
        turned = None if product is None else self._made(product.inputs[1], "Transpose")
        if product is None or turned is None or turned.attributes.get("perm") != _KEYS_TURNED:
            return None
        queries, scale = self._unscaled(product.inputs[0])
        folded = self._made(queries, "Reshape")
        if folded is None:
            return None
        queries, inner = self._unscaled(folded.inputs[0])
        return queries, scale * inner, turned.inputs[0]

    def _unscaled(self, name: str) -> tuple[str, float]:
        product = self._made(name, "Mul")
        factor = None if product is None else self._number(product.inputs[1])
        return (name, 1.0) if product is None or factor is None else (product.inputs[0], factor)

    def _number(self, name: str) -> float | None:
        """Return the value of a stored scalar; None of anything else."""
        weight = self._low.weights.get(name)
        return None if weight is None else weight.number


def modernise(low: Lowered, slots: int) -> Lowered:
    """Return a lowered graph with operators of opset 24 where they do the same, for caches of so many slots."""
    return Modern(low, slots).run()


def _drop_unused(low: Lowered) -> None:
    """Take out steps and weights that nothing comes of."""
    needed, kept = set(low.outputs), list[Step]()
    for step in reversed(low.steps):
        if needed.intersection(step.outputs):
            kept.append(step)
            needed.update(step.inputs)
    low.steps = kept[::-1]
    low.weights = {name: weight for name, weight in low.weights.items() if name in needed}
    _check_order(low.steps, [*low.inputs, *low.weights])


def _check_order(steps: Iterable[Step], known: Iterable[str]) -> None:
    """Fail where a step reads what was not made before it: a fault of a rule here."""
    made = set(known)
    for step in steps:
        assert made.issuperset(step.inputs), f"{step.op} reads {sorted(set(step.inputs) - made)} too early"
        made.update(step.outputs)
