"""Checkable tasks: names a text repeats, and slips of brackets and indents, by hand and on real code."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import MODEL

from edge_runtime.lab.tasks import completed, python_slips, repeated_names, score


def test_repeated_names_by_hand():
    pieces = ["def ", "ru", "nner", "(", "x", "):\n  ", "runner", "(", "par", "ent", ")", " par", "ent"]
    assert repeated_names(pieces) == [range(6, 7), range(11, 13)]


def test_a_name_counts_only_if_every_token_is_right():
    hits = np.array([0, 0, 1, 1, 0, 1], np.bool_)
    assert completed([range(2, 4), range(3, 5), range(5, 6)], hits) == [True, False, True]
    assert score([True, False], [True, True]).to_json() == {"items": 2, "correct": 0.5, "baseline_correct": 1.0}
    assert score([], []).correct is None


@pytest.mark.parametrize(
    ("code", "slips"),
    [
        ("f(a, [1, {2: 3}])\n", 0),
        ("f(a]\n", 1),
        ("x)\n", 1),
        ("if x:\n    y\nz\n", 0),
        ("if x:\ny\nz\n", 1),
        ("a\n    b\nc\n", 1),
        ("if x:\n        y\n    z\nw\n", 1),
        ("if x:\n    if y:\n        z\n    w\nv\n", 0),
        ("f(a,\n  b,\n      c)\nd\n", 0),
        ("s = ')' + \"]\" # )\nt\n", 0),
        ('"""doc ( [\n   )\n"""\nx\n', 0),
        ("x = {'a': 1,\n", 0),
        ("if x:\n    y = (", 0),
        ("d = {'a':\n 1}\ne\n", 0),
        ("s = 'it\\'s )'\nx\n", 0),
        ("# only (\n\n\nx\n", 0),
        ("s = 'open\nx)\n", 1),
        ("class A:\n    # (\n    def f(self):\n        return [\n1]\n\n    x = 1\n", 0),
    ],
)
def test_python_slips(code, slips):
    assert python_slips(code) == slips


def test_real_code_has_no_slips_wherever_it_breaks_off():
    """The held-out files are sound Python; a cut at any line end must not count."""
    code = (MODEL / "heldout_python.txt").read_text()[:9000]
    lines = code.split("\n")
    for count in range(1, len(lines), 7):
        assert python_slips("\n".join(lines[:count])) == 0, lines[count - 1]
