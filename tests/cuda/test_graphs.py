"""A token that needs no host is one graph: the same bits, one launch, one wait."""

from __future__ import annotations

import ctypes
from collections import Counter
from typing import Any

import numpy as np
import pytest
from cuda.engines import ALL, TEXT, make_all_resident, opened

from edge_runtime import Engine
from edge_runtime.backends.cuda.driver import Device, Stream
from edge_runtime.backends.cuda.driver.held import LEAST
from edge_runtime.backends.cuda.resident_router import CudaResidentRouter
from edge_runtime.backends.cuda.trunk.launches import TrunkLaunches

TOKENS = 5


def decoded(engine: Engine) -> np.ndarray:
    """Logits of tokens one at a time, all experts in memory."""
    make_all_resident(engine)
    return engine.logits(engine.tokenizer.encode(TEXT)[:TOKENS], chunk=1)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Calls of the driver, by name."""
    made, call, status = Counter[str](), Device.call, Device.status

    def count(self: Device, name: str, *arguments: object, detail: str = "") -> None:
        made[name] += 1
        call(self, name, *arguments, detail=detail)

    def count_status(self: Device, name: str, *arguments: object) -> int:
        made[name] += 1
        return status(self, name, *arguments)

    monkeypatch.setattr(Device, "call", count)
    monkeypatch.setattr(Device, "status", count_status)
    return made


WAITS = ("cuEventSynchronize", "cuStreamSynchronize", "cuCtxSynchronize")
LOOKS = (*WAITS, "cuEventQuery")
"""Calls by which the host waits; and one by which it asks, as the clock of single launches does for each phase."""


@pytest.mark.usefixtures("over_fake")
@pytest.mark.parametrize("mode", [(0, 1), *((1, seed) for seed in (1, 2, 3, 4))])
def test_graph_and_no_graph_give_the_same_bits(
    model_bundle, fake: ctypes.CDLL, calls: Counter[str], mode: tuple[int, int]
):
    fake.fake_mode(*mode)
    with opened(model_bundle, "cuda:graph=false", ALL) as engine:
        want = decoded(engine)
        assert calls["cuGraphLaunch"] == 0
        calls.clear()
        engine.logits(engine.tokenizer.encode(TEXT)[:1], chunk=1)
        plain = calls["cuLaunchKernel"]
    with opened(model_bundle, "cuda", ALL) as engine:
        assert (decoded(engine) == want).all()
        calls.clear()
        assert (engine.logits(engine.tokenizer.encode(TEXT)[:TOKENS], chunk=1) == want).all()
        assert calls["cuGraphLaunch"] >= TOKENS - 2, "the first two of a cache are started one by one and captured"
        assert calls["cuLaunchKernel"] <= 2 * plain
        assert sum(calls[name] for name in WAITS) <= 4 * TOKENS, "logits, the end of the chunk, what was chosen"


@pytest.mark.usefixtures("over_fake")
@pytest.mark.parametrize("graph", ["true", "false"])
def test_a_token_whose_experts_are_resident_waits_for_no_layer(
    model_bundle, calls: Counter[str], monkeypatch: pytest.MonkeyPatch, graph: str
):
    def waits(tokens: int) -> int:
        calls.clear()
        engine.logits(ids[:tokens], chunk=1)
        return sum(calls[name] for name in (LOOKS if graph == "true" else WAITS))

    with opened(model_bundle, f"cuda:graph={graph}", ALL) as engine:
        make_all_resident(engine)
        ids, layers = engine.tokenizer.encode(TEXT), len(engine.spec.sparse_layers)
        waits(TOKENS)  # captured by now
        a_token = (waits(TOKENS) - waits(1)) / (TOKENS - 1)
        assert a_token <= 4 < layers, f"{a_token} waits a token, {layers} layers"
        run = CudaResidentRouter.run

        def and_wait(self: CudaResidentRouter, *arguments: Any) -> Any:
            found = run(self, *arguments)
            self._stream.synchronize()
            return found

        monkeypatch.setattr(CudaResidentRouter, "run", and_wait)
        assert (waits(TOKENS) - waits(1)) / (TOKENS - 1) >= a_token + layers, "a wait a layer shows"


def test_what_is_held_back_runs_before_whatever_else_is_asked(bench):
    stream, numbers = Stream(bench.device), np.arange(64, dtype=np.float32)
    launches, at, one = TrunkLaunches(bench.module, stream), bench.room(np.float32, 64), np.ones(64, np.float32)
    more = bench.put(one)
    bench.stream.synchronize()
    for times in (1, LEAST, LEAST, LEAST, 3):
        at.write(numbers, stream)
        stream.holds = True
        for _ in range(times):
            launches.add(at.address, more, 64)
        got = np.empty(64, np.float32)
        at.read(got, stream)
        stream.synchronize()
        np.testing.assert_array_equal(got, numbers + times)
        stream.holds = False
    stream.close()


def test_a_failed_capture_leaves_the_stream_usable(bench, fake: ctypes.CDLL):
    from edge_runtime.backends.cuda.driver import CudaError

    stream, one = Stream(bench.device), np.ones(64, np.float32)
    launches, at, more = TrunkLaunches(bench.module, stream), bench.room(np.float32, 64), bench.put(one)
    bench.stream.synchronize()

    def run() -> np.ndarray:
        at.write(one, stream)
        stream.holds = True
        for _ in range(LEAST):
            launches.add(at.address, more, 64)
        got = np.empty(64, np.float32)
        at.read(got, stream)
        stream.synchronize()
        return got

    run()
    fake.fake_fail(b"cuGraphInstantiateWithFlags", 2, 0)
    with pytest.raises(CudaError, match="cuGraphInstantiateWithFlags"):
        run()
    for _ in range(3):
        np.testing.assert_array_equal(run(), one * (1 + LEAST))
    stream.close()
