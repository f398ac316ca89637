"""`benchmarks/bench_predictions.py` goes on with samples of the same thing, and with no others."""

from __future__ import annotations

import json

import pytest

from benchmarks.bench_predictions import gone_on_with

ABOUT = {"bundle_id": "b", "num_slots": 100, "settings": [{}, {"expert_memory": 60}]}


@pytest.fixture
def files(tmp_path):
    out, trace = tmp_path / "p.json", tmp_path / "p.trace"
    out.write_text(json.dumps({"about": ABOUT, "done": {"0 reads": [1.0]}}))
    trace.touch()
    return out, trace


def test_samples_of_the_same_are_gone_on_with(files):
    out, trace = files
    assert gone_on_with(out, ABOUT, trace) == {"0 reads": [1.0]}
    assert trace.exists()


@pytest.mark.parametrize("other", [{"num_slots": 99}, {"settings": [{}]}, {"bundle_id": "c"}], ids=str)
def test_samples_of_another_plan_are_set_aside_and_that_is_said(files, capsys, other):
    out, trace = files
    assert gone_on_with(out, ABOUT | other, trace) == {}
    (name,) = other
    said = capsys.readouterr().out
    assert f"other {name} than now" in said
    aside = out.with_suffix(".old.json")
    assert str(aside) in said
    assert json.loads(aside.read_text())["done"]
    assert not out.exists()
    assert not trace.exists(), "it is of other requests"


def test_samples_that_do_not_say_what_of_are_set_aside(files):
    out, trace = files
    out.write_text(json.dumps({"0 reads": [1.0]}))
    assert gone_on_with(out, ABOUT, trace) == {}
    assert out.with_suffix(".old.json").exists()
    out.unlink(missing_ok=True)
    trace.touch()
    assert gone_on_with(out, ABOUT, trace) == {}
    assert not trace.exists(), "a trace without samples is of nobody knows what"
