"""`hobbit serve --backend late`, the backend found as an installed package's: requests together, and a reload."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from patience import until
from service_process import ServiceProcess

from edge_runtime import SamplingParams, backends
from edge_runtime.base.errors import ConfigError, DeviceError
from late_backend import both
from late_backend.installed import offer

PROMPTS = ["Once upon a time", "import os\n" * 8, "The quick brown fox"]


def test_the_service_gives_the_cpu_backends_text(model_bundle, tmp_path, monkeypatch):
    with both.opened(model_bundle, "cpu", slots=both.ALL) as engine:
        memory = f"{engine.parts.plan.slot_bytes * 40 // 1024}KiB"
        params = SamplingParams(max_tokens=12, ignore_eos=True)
        expected = [engine.generate(prompt, params).text for prompt in PROMPTS]
    env = {**offer(tmp_path / "site", "late", "late_backend:make", Path(both.__file__).parents[1])}
    settings = tmp_path / "hobbit.env"
    settings.write_text(f"HOBBIT_EXPERT_MEMORY={memory}\n")
    flags = ("--backend", "late", "--settings", str(settings), "--context", "256", "--threads", "1", "--parallel", "3")
    with ServiceProcess(model_bundle, tmp_path / "log", *flags, "--tier", "8", env=env) as service:

        def ask(prompt: str) -> str:
            body = {"prompt": prompt, "max_tokens": 12, "temperature": 0, "ignore_eos": True, "model": service.model}
            with service.client() as client:
                return client.post("/v1/completions", json=body).json()["choices"][0]["text"]

        def ask_all() -> list[str]:
            with ThreadPoolExecutor(len(PROMPTS)) as pool:
                return list(pool.map(ask, PROMPTS))

        assert ask_all() == expected
        settings.write_text("HOBBIT_EXPERT_MEMORY=2MiB\n")
        service.process.send_signal(signal.SIGHUP)
        until(lambda: service.stats()["memory"]["cache_bytes"] <= 2 << 20, "the reload is applied")
        assert ask_all() == expected
        assert service.stop() == 0


@pytest.mark.parametrize(("make", "problem"), [("absent_package:make", "No module"), ("late_backend:built", "built")])
def test_a_backend_that_does_not_load_is_an_error_that_helps(model_bundle, tmp_path, monkeypatch, make, problem):
    monkeypatch.syspath_prepend(offer(tmp_path, "broken", make)["PYTHONPATH"])
    with pytest.raises(DeviceError, match=f"backend 'broken': {make} cannot be imported: .*{problem}.*Reinstall"):
        both.opened(model_bundle, "broken", slots=40)


def test_a_misspelt_name_is_held_against_installed_backends_too(model_bundle, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(offer(tmp_path, "opencl", "absent_package:make")["PYTHONPATH"])
    with pytest.raises(ConfigError, match=r"cpu, cuda, .*opencl, got 'opencll'\. Did you mean 'opencl'\?"):
        both.opened(model_bundle, "opencll", slots=40)


@pytest.mark.parametrize("name", ["lait", "late"])
def test_a_backend_nobody_offers_is_an_error_that_helps(model_bundle, monkeypatch, name):
    monkeypatch.delitem(backends.BACKENDS, "late")
    with pytest.raises(ConfigError, match=f"expected one of auto, cpu, cuda, got '{name}'"):
        both.opened(model_bundle, name, slots=40)
