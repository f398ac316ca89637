"""calibration/experts.json is untrusted: what does not fit the model is a BundleError that names it."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifests import small_spec

from edge_runtime.base.errors import BundleError
from edge_runtime.bundle.calibration import parse, read

SPEC = small_spec()


def layer(index: int, **more: Any) -> dict[str, Any]:
    return {"layer": index, "errors": {"2": [0.3] * 4, "4": [0.1] * 4}} | more


PLAIN = {"version": 2, "layers": [layer(0), layer(1)]}
MEASURED = {
    "version": 2,
    "layers": [
        layer(
            i,
            counts=[1, 2, 3, 4],
            output_errors={"2": [0.3] * 4, "4": [0] * 4},
            norms=[1.5] * 4,
            sensitivity={"quantise": 0.1, "skip": 0.2, "substitute": 0.3},
        )
        for i in (0, 1)
    ],
    "tokens": 5,
    "full_tier": 4,
    "score_quantiles": [i / 100 for i in range(101)],
    "checks": [{"tier": 2, "measured_kld": 0.1, "predicted_kld": 0.11}],
}


def test_good_files_are_read():
    assert not parse(json.dumps(PLAIN), SPEC).is_measured
    found = parse(json.dumps(MEASURED), SPEC)
    assert found.is_measured
    assert found.layers[1].sensitivity.skip == 0.2


LIES: dict[str, tuple[tuple[Any, ...], Any, str]] = {
    "old version": (("version",), 1, "version: expected 2"),
    "unknown key": (("extra",), 1, "unknown key 'extra'"),
    "layer missing": (("layers",), MEASURED["layers"][:1], "layers: expected"),
    "wrong layer": (("layers", 1, "layer"), 7, "layers: expected"),
    "too few errors": (("layers", 0, "errors", "2"), [0.1], "errors.2: expected 4"),
    "negative norm": (("layers", 0, "norms"), [1, 1, 1, -1], "norms"),
    "no norms": (("layers", 0, "norms"), None, "some of it"),
    "no text": (("tokens",), None, "some of it"),
    "tier": (("layers", 0, "output_errors", "3"), [0] * 4, "expected a tier"),
    "negative sensitivity": (("layers", 0, "sensitivity", "skip"), -1.0, "sensitivity"),
    "infinite": (("layers", 0, "sensitivity", "skip"), float("inf"), "finite"),
    "not a number": (("layers", 0, "norms"), [float("nan")] * 4, "finite"),
    "scores descend": (("score_quantiles",), [1.0 - i / 100 for i in range(101)], "ascending"),
    "few scores": (("score_quantiles",), [0.0], "101"),
    "text for numbers": (("layers", 0, "norms"), ["1"] * 4, "norms"),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies(lie):
    path, value, what = LIES[lie]
    data = copy.deepcopy(MEASURED)
    place: Any = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(BundleError, match=r"calibration/experts\.json") as caught:
        parse(json.dumps(data), SPEC)
    assert what in str(caught.value)


@settings(max_examples=80)
@given(
    st.recursive(
        st.none() | st.integers() | st.floats() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)
    )
)
def test_any_json_is_refused_or_read(value):
    with pytest.raises(BundleError):
        parse(json.dumps(value), SPEC)


@pytest.mark.parametrize("text", ["", "[", "\ud800", "[" * 100000])
def test_not_json(text):
    with pytest.raises(BundleError):
        parse(text, SPEC)


def test_a_missing_or_huge_file(tmp_path):
    with pytest.raises(BundleError, match="cannot be opened"):
        read(tmp_path, SPEC)
    (tmp_path / "calibration").mkdir()
    with open(tmp_path / "calibration/experts.json", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(BundleError, match="at most"):
        read(tmp_path, SPEC)
