"""Verbs that measure leave the GPU to what they measure: whoever plans first has closed it again by then."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path
from typing import Any

import pytest

from edge_runtime import Engine
from edge_runtime.__main__ import main
from edge_runtime.base.errors import DeviceError
from edge_runtime.config.resolve import EngineOptions
from edge_runtime.engine.preparation import plan_only, prepare
from edge_runtime.lab.tune import processes

pytestmark = pytest.mark.usefixtures("over_fake")
OPTIONS = {"backend": "cuda", "context": 512, "prefill_chunk": 16, "threads": 1, "tier": 4}
FLAGS = [word for name, value in OPTIONS.items() for word in (f"--{name.replace('_', '-')}", str(value))]


@pytest.fixture
def left_open(fake: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What was open on the GPU whenever something was about to be measured; it is not measured then."""
    found: list[bytes] = []

    def note(*_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
        found.append(fake.fake_live_said())
        return subprocess.CompletedProcess((), 1, '{"failed": "as far as this test goes"}\n', "")

    def refuse(*_: Any, **__: Any) -> Engine:
        note()
        raise DeviceError("as far as this test goes")

    monkeypatch.setattr(processes.subprocess, "run", note)
    monkeypatch.setattr(Engine, "open", refuse)
    return found


@pytest.mark.parametrize("words", ["tune", "bench --probe-seconds 0 --no-png", "probe --probe kernels"])
def test_no_gpu_is_open_beside_what_is_measured(
    model_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left_open: list[bytes], words: str, capsys
):
    monkeypatch.chdir(tmp_path)
    verb, *more = words.split()
    assert main([verb, str(model_bundle), *more, *FLAGS]) != 0
    said = capsys.readouterr()
    assert "as far as this test goes" in said.out + said.err
    assert left_open == [b""]


def test_a_plan_says_what_it_computes_on_and_leaves_no_gpu_open(model_bundle: Path, fake: ctypes.CDLL):
    options = EngineOptions.from_keywords(OPTIONS)
    planned = plan_only(model_bundle, options, names_bits=True)
    assert fake.fake_live_said() == b""
    ready = prepare(model_bundle, options)
    try:
        assert fake.fake_live_said() != b"", "what an engine goes on with is open"
        assert (planned.isa, planned.computes_on) == (ready.backend.isa, ready.backend.fingerprint)
    finally:
        ready.backend.close()
    assert plan_only(model_bundle, options).computes_on == ""
