"""Strict loading names what is wrong; sizes parse and print as people write them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.base.errors import ConfigError
from edge_runtime.base.sizes import GIB, MIB, align_up, format_size, parse_size
from edge_runtime.base.strict import from_mapping


@dataclass(frozen=True)
class Inner:
    count: int


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    ratio: float = 1.0
    kind: Literal["a", "b"] = "a"
    items: list[int] = field(default_factory=list)
    maybe: int | None = None
    params: dict[str, float | bool] = field(default_factory=dict)


def test_good_data_becomes_dataclasses():
    data = {"name": "x", "inner": {"count": 3}, "ratio": 2, "items": [1, 2], "params": {"on": True, "x": 1}}
    outer = from_mapping(Outer, data, "cfg")
    assert outer == Outer("x", Inner(3), 2.0, "a", [1, 2], None, {"on": True, "x": 1.0})
    assert isinstance(outer.params["on"], bool)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nam": "y"}, "unknown key 'nam'. Did you mean 'name'"),
        ({"inner": {}}, "cfg.inner: key 'count' is missing"),
        ({"inner": {"count": True}}, "cfg.inner.count: expected int, got True"),
        ({"inner": {"count": "3"}}, "cfg.inner.count: expected int"),
        ({"ratio": float("inf")}, "cfg.ratio: expected a finite number"),
        ({"kind": "c"}, "cfg.kind: expected one of a, b"),
        ({"items": [1, None]}, r"cfg.items\[1\]: expected int"),
        ({"maybe": "x"}, "cfg.maybe: expected int"),
        ({"params": [1]}, "cfg.params: expected an object"),
    ],
)
def test_bad_data_is_named(change: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        from_mapping(Outer, {"name": "x", "inner": {"count": 3}} | change, "cfg")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "inner", "count", "x"]), inner)
    ),
    max_leaves=8,
)


@given(json_values)
def test_any_data_gives_a_value_error_or_an_object(data):
    try:
        assert isinstance(from_mapping(Outer, data, "cfg"), Outer)
    except ValueError:
        pass


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("512MiB", 512 * MIB),
        ("4GiB", 4 * GIB),
        ("4g", 4 * GIB),
        ("1.5 GiB", 3 * GIB // 2),
        ("4000MB", 4 * 10**9),
        (7, 7),
    ],
)
def test_sizes_parse(text, expected):
    assert parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "4 apples", "0", "1e3", "nan", None, True])
def test_bad_sizes_name_their_place(text):
    with pytest.raises(ConfigError, match="HOBBIT_MEMORY: expected a size"):
        parse_size(text, "HOBBIT_MEMORY")


@given(st.integers(1, 1 << 60))
def test_printed_sizes_parse_back_within_rounding(count):
    assert parse_size(format_size(count)) == pytest.approx(count, rel=0.01)


@given(st.integers(0, 1 << 40), st.integers(1, 1 << 20))
def test_align_up(count, step):
    up = align_up(count, step)
    assert up % step == 0
    assert 0 <= up - count < step
