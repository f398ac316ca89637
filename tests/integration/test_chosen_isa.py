"""benchmarks/compare: an engine of a chosen instruction set computes with it everywhere, and the same."""

from __future__ import annotations

import pytest

from benchmarks.compare import chosen_isa
from benchmarks.compare.machine import identity
from edge_runtime import Engine
from edge_runtime.backends.cpu.kernels import available_isas
from edge_runtime.backends.cpu.trunk.native import layers, trunk
from edge_runtime.policy import routing

PROMPT = [3, 5, 8, 13]


def replaced_by(record, name, original, position):
    """A maker that notes which instruction set it was given."""

    def make(*args, **named):
        record[name] = named.get("isa", args[position] if position is not None else "auto")
        return original(*args, **named)

    return make


@pytest.mark.parametrize("isa", available_isas())
def test_everything_that_computes_takes_it(isa, model_bundle, monkeypatch):
    with Engine.open(model_bundle, self_check=False, threads=1, trunk="native") as engine:
        expected = engine.logits(PROMPT)
    for place, name in chosen_isa.PLACES:
        monkeypatch.setattr(place, name, getattr(place, name))  # put back when the test ends
    seen: dict[str, str] = {}
    monkeypatch.setattr(trunk, "DenseTrunk", replaced_by(seen, "trunk", trunk.DenseTrunk, 3))
    monkeypatch.setattr(layers, "GraphTensors", replaced_by(seen, "matrices", layers.GraphTensors, 3))
    monkeypatch.setattr(routing, "NativeRouter", replaced_by(seen, "router", routing.NativeRouter, None))
    chosen_isa.choose(isa)
    with Engine.open(model_bundle, self_check=False, threads=1, trunk="native") as engine:
        assert engine.parts.kernels.native.isa == engine.parts.backend.isa == isa
        assert engine.logits(PROMPT).tobytes() == expected.tobytes()
    wanted = {"trunk": isa, "matrices": isa, "router": chosen_isa.ROUTERS.get(isa, "base")}
    assert seen == wanted


def test_what_the_machine_does_not_have_is_refused():
    with pytest.raises(SystemExit, match="--isa mmx: expected one of .*scalar, which this machine has"):
        chosen_isa.check("mmx")


def test_results_say_what_was_chosen_and_what_there_is(tmp_path):
    best, least = available_isas()[0], available_isas()[-1]
    assert identity(tmp_path)["isa"] == best
    assert "best_isa" not in identity(tmp_path, best)
    if least != best:
        assert identity(tmp_path, least) | {"isa": least, "best_isa": best} == identity(tmp_path, least)
