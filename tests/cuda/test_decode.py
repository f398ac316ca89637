"""The whole decode loop over the fake driver: the demo, streamed and resident, in every order work may run in."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
from cuda.engines import ALL, FEW, assert_close, logits, opened, tokens

MODES = [pytest.param((0, 1), id="late"), *(pytest.param((1, seed), id=f"random {seed}") for seed in (1, 2, 3))]
pytestmark = pytest.mark.usefixtures("over_fake")


@pytest.fixture(scope="module")
def of_cpu(model_bundle: Path) -> tuple[np.ndarray, list[int]]:
    with opened(model_bundle, "cpu", ALL) as engine:
        return logits(engine), tokens(engine)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("slots", [FEW, ALL])
def test_tokens_are_the_cpu_backends(model_bundle, of_cpu, fake: ctypes.CDLL, mode: tuple[int, int], slots: int):
    fake.fake_mode(*mode)
    before = fake.fake_live_regions()
    with opened(model_bundle, "cuda", slots, io_threads=4) as engine:
        first = logits(engine)
        assert_close(first, of_cpu[0])
        assert tokens(engine) == of_cpu[1]
        assert (logits(engine) == first).all(), "whatever is resident by now"
        assert engine.last_report().backend == "cuda"
        assert (engine.parts.cache.counters.evicted > 0) == (slots < ALL)
    assert fake.fake_live_regions() == before, "all memory was given back"


@pytest.mark.parametrize("kind", ["registered", "pinned", "device"])
def test_every_kind_of_memory_gives_the_same_bits(model_bundle, of_cpu, fake: ctypes.CDLL, kind: str):
    fake.fake_mode(1, 5)
    with opened(model_bundle, f"cuda:memory={kind}", FEW, io_threads=3) as engine:
        found = logits(engine)
        assert engine.parts.cache.space.kind == kind
        staged = engine.parts.plan.lines
    with opened(model_bundle, "cuda:memory=auto", FEW) as engine:
        assert engine.parts.cache.space.kind == "registered", "the fake GPU shares the system's memory"
        assert (logits(engine) == found).all()
        scratch = {line.name: line.bytes for line in engine.parts.plan.lines}["scratch"]
        landing = {line.name: line.bytes for line in staged}["scratch"] - scratch
        assert landing == (3 * engine.parts.plan.slot_bytes if kind == "device" else 0)
    assert_close(found, of_cpu[0])
