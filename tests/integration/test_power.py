"""Energy of answers where the board has a sensor: of the Python API, `hobbit run`, the service; and nothing without."""

from __future__ import annotations

import json
import re
import threading

import board_trees
import pytest
from patience import until
from serving import served

from edge_runtime import Engine, SamplingParams
from edge_runtime.__main__ import main

ENGINE = {"memory": "1GiB", "context": "256", "tier": "4", "self_check": False}
FLAGS = ("--context", "256", "--tier", "4", "--no-self-check")
WATTS = 4.964 * 1.192


@pytest.fixture
def board(tmp_path):
    board_trees.nano(tmp_path)
    return tmp_path


def check_energy(energy: dict, tokens: int) -> None:
    assert energy["mean_w"] == pytest.approx(WATTS, rel=1e-6)
    assert set(energy["rails"]) == {"VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"}
    assert energy["rails"]["VDD_IN"]["joules"] == energy["joules"] > 0, "the input rail alone is the total"
    assert energy["joules_per_token"] == pytest.approx(energy["joules"] / tokens, rel=1e-3)
    assert energy["samples"] >= 3
    assert "INA3221" in energy["method"]


def test_a_request_has_the_energy_of_its_own_time(model_bundle, board):
    with Engine.open(model_bundle, power_meter=f"ina:hz=100,root={board}", **ENGINE) as engine:
        sampler = engine.parts.power
        for number, _ in enumerate(engine.stream([1, 2, 3], SamplingParams(max_tokens=8, ignore_eos=True))):
            if number == 4:  # a slow reader: enough readings fall into this request
                before = sampler.now()[1]["VDD_IN"]
                until(lambda now=before: sampler.now()[1]["VDD_IN"] > now + 0.1 * WATTS)
        first = engine.last_report().energy
        check_energy(first, 8)
        used = sampler.now()[1]["VDD_IN"]
        until(lambda: sampler.now()[1]["VDD_IN"] > used + 0.1 * WATTS)
        assert engine.last_report().energy["joules"] == pytest.approx(first["joules"], rel=0.01), "it is over"
    assert "hobbit-power" not in {thread.name for thread in threading.enumerate()}


def test_run_prints_it_and_a_pi_prints_none(model_bundle, board, tmp_path, capsys):
    command = ["run", str(model_bundle), "--memory", "1GiB", *FLAGS, "--prompt", "def f(x):", "-n", "200"]
    assert main([*command, "--ignore-eos", "--power-meter", f"ina:hz=100,root={board}"]) == 0
    err = capsys.readouterr().err
    assert " J a token" in err
    assert "VDD_CPU_GPU_CV" in err
    board_trees.pi5(tmp_path / "pi")
    assert main([*command[:-1], "4", "--json", "--power-meter", f"auto:root={tmp_path / 'pi'}"]) == 0
    assert json.loads(capsys.readouterr().out)["energy"] is None


def test_a_meter_asked_for_that_is_not_there_ends_the_start(model_bundle, tmp_path, capsys):
    command = ["run", str(model_bundle), "--memory", "1GiB", *FLAGS, "--prompt", "x", "-n", "2"]
    assert main([*command, "--power-meter", f"ina:root={tmp_path}"]) == 1
    assert "ina: no INA3221 or INA238" in capsys.readouterr().err
    assert main([*command, "--power-meter", "watts"]) == 78
    assert "expected one of auto, none, ina" in capsys.readouterr().err


def test_the_service_shows_power_everywhere(model_bundle, board):
    flags = ("--memory", "1GiB", *FLAGS, "--power-meter", f"ina:hz=100,root={board}")
    with served(model_bundle, *flags) as service:
        body = {"model": model_bundle.name, "prompt": "def f(x):", "max_tokens": 200, "temperature": 0}
        answer = json.loads(service.get("/v1/completions", body))
        check_energy(answer["hobbit"]["energy"], answer["usage"]["completion_tokens"])
        text = service.get("/metrics")
        assert re.search(r'hobbit_power_watts\{.*rail="VDD_IN".*\} 5\.917', text)
        assert re.search(r'hobbit_throttle_events_total\{.*source="oc3".*\} 3\.0', text)

        def energy() -> dict:
            return json.loads(service.get("/v1/stats"))["energy"]

        assert energy()["watts"] == pytest.approx(WATTS)
        assert until(lambda: energy()["idle_w"], "a reading between requests") == pytest.approx(WATTS)
        assert json.loads(service.get("/v1/stats"))["conditions"]["power_mode"]["name"] == "25W"
