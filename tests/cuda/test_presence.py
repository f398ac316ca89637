"""What a machine lacks is named, with how to get it; what is there and unused is said once."""

from __future__ import annotations

import ctypes
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from cuda.build import Fakes
from cuda.engines import FEW, opened
from service_figures import service

from edge_runtime import SamplingParams, backends
from edge_runtime.backends.cuda import presence
from edge_runtime.backends.cuda.cubins import load_kernels
from edge_runtime.backends.cuda.driver import Device, Driver
from edge_runtime.backends.cuda.nvrtc import Nvrtc
from edge_runtime.backends.cuda.presence import UNPROVEN, has_gpu, why_missing
from edge_runtime.base.jetpack import DRIVER_LIBRARY
from edge_runtime.config import fitting
from edge_runtime.lab.doctor.report import CHECKS
from edge_runtime.service.config import ServiceConfig
from edge_runtime.service.ops.metrics import Exposition
from edge_runtime.service.service import Service


def test_each_missing_piece_is_named_with_how_to_get_it(fakes: Fakes, fake: ctypes.CDLL, tmp_path: Path):
    def missing(**given: object) -> str:
        found = {"make_driver": lambda: Driver(fake), "compiler": lambda: Nvrtc(str(fakes.libnvrtc)), **given}
        return why_missing(**found, folder=tmp_path)  # type: ignore[arg-type]

    assert missing() == ""
    no_driver = missing(make_driver=lambda: Driver(str(tmp_path / "libcuda.so.1")))
    assert "libcuda.so.1 does not load" in no_driver
    assert f"On a Jetson: {DRIVER_LIBRARY}." in no_driver
    assert DRIVER_LIBRARY in CHECKS["no-driver"].fix, "what doctor says"
    no_compiler = missing(compiler=lambda: Nvrtc(str(tmp_path / "libnvrtc.so.12")))
    assert (
        "JetPack 6.2: sudo apt install cuda-nvrtc-12-6. JetPack 7.2: sudo apt install cuda-nvrtc-13-2." in no_compiler
    )
    fake.fake_device(11080, 87, 1)
    assert "install JetPack 6 or newer" in missing()
    fake.fake_device(12060, 72, 1)
    assert "compute capability 7.2" in missing()
    fake.fake_device(12060, 87, 0)
    assert "there is no GPU 0" in missing()
    fake.fake_device(12060, 87, 1)
    with Device(Driver(fake)) as device:
        load_kernels(device, folder=tmp_path, compiler=lambda: Nvrtc(str(fakes.libnvrtc))).close()
    assert missing(compiler=lambda: Nvrtc("/nowhere")) == "", "kernels that are there need no compiler"


def test_a_gpu_is_known_by_its_drivers_files(tmp_path: Path):
    sign = tmp_path / "nvmap"
    assert not has_gpu((str(sign),))
    sign.touch()
    assert has_gpu((str(sign),))


def test_a_gpu_is_passed_over_for_a_reason_that_loads_nothing(monkeypatch: pytest.MonkeyPatch):
    for there, why in ((False, ""), (True, UNPROVEN)):
        presence.why_passed_over.cache_clear()
        monkeypatch.setattr(presence, "has_gpu", lambda found=there: found)
        monkeypatch.setattr(presence, "why_missing", lambda: pytest.fail("this loads the driver"))
        assert presence.why_passed_over() == why
    presence.why_passed_over.cache_clear()


@pytest.fixture
def unused_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine has a GPU that `auto` passes over."""
    real = backends.BACKENDS["cuda"]
    there = backends.RegisteredBackend(real.make, "", why_passed_over=lambda: UNPROVEN)
    monkeypatch.setitem(backends.BACKENDS, "cuda", there)


@pytest.mark.usefixtures("unused_gpu")
def test_auto_says_once_why_a_gpu_is_not_used(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setattr(fitting, "warned", set())
    assert backends.passed_over("cpu") == {"cuda": UNPROVEN}
    assert backends.passed_over("cuda") == {}
    with caplog.at_level(logging.WARNING):
        assert [fitting.backend_of_machine(None) for _ in range(2)] == ["cpu", "cpu"]
    assert [record.message for record in caplog.records] == [
        f"backend: auto computes on the cpu and leaves the hardware of cuda unused: {UNPROVEN}. "
        "--backend cuda asks for it."
    ]


@pytest.mark.usefixtures("unused_gpu")
def test_reports_and_metrics_say_so_too(model_bundle: Path):
    with opened(model_bundle, "auto", FEW) as engine:
        report = engine.generate([1], SamplingParams(max_tokens=1)).to_json()
    assert report["passed_over"] == {"cuda": UNPROVEN}
    info = Service(ServiceConfig(model_bundle, options={"memory": "1GiB", "context": 64}, verify=False)).info
    stats, readiness, _ = service()
    for told, line in ((info, True), (replace(info, passed_over={}), False)):
        text = Exposition(stats, readiness, told).render()[0].decode()
        found = f'hobbit_backend_passed_over{{backend="cuda",model_name="{model_bundle.name}"}} 1.0' in text
        assert found == line, text
