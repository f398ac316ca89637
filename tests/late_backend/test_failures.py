"""What fails on the device ends a request, not the engine; what is interrupted or refused leaves no trace."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge_runtime import SamplingParams
from edge_runtime.base.errors import BudgetError, DeviceError, ExpertReadError
from edge_runtime.engine.job import Job, TokenEvent
from edge_runtime.engine.observer import SchedulerObserver
from edge_runtime.engine.pass_parts import SequenceStep
from edge_runtime.engine.sessions import SessionPool
from late_backend import MODES, both
from late_backend.device import COMPUTE, Device
from late_backend.kernels import LateKernels
from late_backend.trunk import LateKVCache, LateTrunk


@pytest.fixture(scope="module")
def expected(model_bundle) -> np.ndarray:
    with both.opened(model_bundle, "cpu", slots=both.ALL) as engine:
        return both.logits(engine)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("kind", "error", "match"),
    [
        ("transfer", ExpertReadError, "its transfer to the device failed: device: scripted failure"),
        ("experts", DeviceError, "scripted failure of experts"),
        ("trunk", DeviceError, "scripted failure of trunk"),
        ("to_host", DeviceError, "scripted failure of to_host"),
    ],
)
def test_the_next_request_is_right_after_one_failed(model_bundle, expected, monkeypatch, mode, kind, error, match):
    monkeypatch.setenv("LATE_BACKEND", mode)
    with both.opened(model_bundle, "late", slots=both.FEW) as engine:
        for _ in range(2):
            engine.parts.backend.device.finish()
            engine.parts.backend.device.fail_next(kind)
            with pytest.raises(error, match=match):
                both.logits(engine)
            both.assert_same(both.logits(engine), expected)


@pytest.mark.parametrize(("policy", "kind"), [("lossless", "routed experts"), ("hobbit", "experts")])
def test_no_prefix_is_kept_of_a_chunk_that_failed(model_bundle, policy, kind):
    """A chunk in the middle of a prompt asks for no logits: whether its last layer failed is known before it counts."""
    with both.opened(model_bundle, "late", slots=both.ALL, policy=policy) as engine:
        ids, params = engine.tokenizer.encode(both.TEXT)[:80], SamplingParams(max_tokens=8, ignore_eos=True)
        both.make_all_resident(engine)
        expected = engine.generate(ids, params).token_ids
        device = engine.parts.backend.device
        device.finish()
        device.fail_next(kind, skip=engine.spec.num_layers - 1)
        with pytest.raises(DeviceError, match=f"scripted failure of {kind}"):
            engine.generate(ids, params)
        again = engine.generate(ids, params, reuse_prefix=True)
        assert again.timings["cached_n"] == 0
        assert again.token_ids == expected


def test_what_the_device_chose_in_a_pass_that_was_given_up_is_not_counted(model_bundle, expected):
    with both.opened(model_bundle, "late", slots=both.ALL) as engine:
        both.make_all_resident(engine)
        counted = []
        for gives_up in (False, True):
            before = engine.parts.cache.counters
            if gives_up:
                both.give_up_a_pass(engine)
            both.assert_same(both.logits(engine), expected)
            counted.append(engine.parts.cache.counters.since(before).hits)
        assert counted[0] == counted[1] > 0


def test_a_failed_pass_ends_its_own_requests_only(model_bundle, monkeypatch):
    """What failed in the last layer is heard after all layers: the next pass must not hear of it again."""
    params = SamplingParams(max_tokens=4, ignore_eos=True)
    with both.opened(model_bundle, "late", slots=60, parallel=2) as engine:
        ids = np.array(engine.tokenizer.encode(both.TEXT)[:60], np.int32)
        expected = engine.generate(ids[::-1], params).token_ids
        device, last = engine.parts.backend.device, engine.spec.sparse_layers[-1]
        scheduler = engine.hand_over(SessionPool.of(engine.parts), SchedulerObserver())
        events: list[list[Any]] = [[], []]
        for prompt, seen in zip((ids, ids[::-1].copy()), events, strict=True):
            scheduler.begin(Job(prompt, params, seen.append))
        layers, begin = iter(engine.spec.sparse_layers), LateKernels.begin

        def begin_and_fail(*args: Any) -> None:
            if next(layers, None) == last:
                device.fail_next("experts")
            begin(*args)

        monkeypatch.setattr(LateKernels, "begin", begin_and_fail)
        while scheduler.step():
            pass
    assert [type(event) for event in events[0]] == [DeviceError]
    assert [event.delta.token_id for event in events[1] if isinstance(event, TokenEvent)] == expected


def test_a_copy_between_caches_that_fails_ends_the_request_it_was_for(model_bundle, monkeypatch):
    params = SamplingParams(max_tokens=6, ignore_eos=True)
    with both.opened(model_bundle, "late", slots=60, parallel=2) as engine:
        ids = np.array(engine.tokenizer.encode(both.TEXT)[:60], np.int32)
        expected = engine.generate(ids, params).token_ids
        scheduler = engine.hand_over(SessionPool.of(engine.parts), SchedulerObserver())
        events: list[list[Any]] = [[], []]
        scheduler.begin(Job(ids, params, events[0].append, reuse_prefix=False))
        while not events[0]:
            scheduler.step()
        with monkeypatch.context() as patched:

            def refuse(kv: LateKVCache, other: LateKVCache, length: int) -> None:
                raise DeviceError("no copy")

            patched.setattr(LateKVCache, "copy_from", refuse)
            scheduler.begin(Job(ids, params, events[1].append))
            while not events[1] and scheduler.step():
                pass
        assert [str(event) for event in events[1]] == ["no copy"]
        scheduler.begin(Job(ids, params, events[1].append))
        while scheduler.step():
            pass
    tokens = [[event.delta.token_id for event in seen if isinstance(event, TokenEvent)] for seen in events]
    assert tokens == [expected, expected]


def test_a_pass_counts_for_all_its_sequences_or_for_none(model_bundle, monkeypatch):
    commit, committed = LateTrunk.commit, []

    def commit_the_first(trunk: LateTrunk, chunk: Any) -> None:
        if committed:
            raise DeviceError("the second")
        committed.append(chunk)
        commit(trunk, chunk)

    monkeypatch.setattr(LateTrunk, "commit", commit_the_first)
    with both.opened(model_bundle, "late", slots=both.FEW, parallel=2) as engine:
        caches = [engine.parts.trunk.new_kv_cache(16) for _ in range(2)]
        steps = [SequenceStep(np.array([token], np.int32), kv, slice(0, 1)) for token, kv in enumerate(caches, 5)]
        with pytest.raises(DeviceError, match="the second"):
            engine.parts.decoder.step(steps)
        assert [kv.length for kv in caches] == [0, 0]


@pytest.mark.parametrize("mode", MODES[:2])
def test_the_next_request_is_right_after_one_was_interrupted_anywhere(model_bundle, expected, monkeypatch, mode):
    monkeypatch.setenv("LATE_BACKEND", mode)
    left = [1 << 30]
    push = Device.push

    def push_or_interrupt(device: Device, *args) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        push(device, *args)

    monkeypatch.setattr(Device, "push", push_or_interrupt)
    with both.opened(model_bundle, "late", slots=both.FEW) as engine:
        for number in (3, 17, 18, 19, 20, 21, 40, 41, 42, 43, 44, 150, 151, 152, 153):
            left[0] = number
            with pytest.raises(KeyboardInterrupt):
                both.logits(engine)
        both.assert_same(both.logits(engine), expected)
        assert engine.parts.cache.space.transfers.room == engine.parts.config.io_threads, "no staging buffer was lost"


def test_memory_the_device_refuses_leaves_the_size_as_it_was(model_bundle, expected):
    with both.opened(model_bundle, "late", slots=20) as engine:
        memory, slot_bytes = engine.parts.backend.memory, engine.parts.plan.slot_bytes
        memory.limit_bytes = 30 * slot_bytes
        with pytest.raises(BudgetError, match="do not fit"):
            engine.resize(expert_memory=40 * slot_bytes)
        assert engine.parts.cache.num_slots == 20
        assert memory.nbytes == 20 * slot_bytes
        both.assert_same(both.logits(engine), expected)
        engine.resize(expert_memory=30 * slot_bytes)
        both.assert_same(both.logits(engine), expected)


@pytest.mark.parametrize("mode", MODES)
def test_closing_in_the_middle_of_a_request_gives_everything_back(model_bundle, monkeypatch, mode):
    monkeypatch.setenv("LATE_BACKEND", mode)
    engine = both.opened(model_bundle, "late", slots=both.FEW)
    memory = engine.parts.backend.memory
    texts = engine.stream(both.TEXT[:100])
    next(texts)
    assert memory.nbytes > 0
    engine.close()
    texts.close()
    assert engine.is_released
    assert memory.nbytes == 0


@pytest.mark.parametrize("kind", ["experts", "trunk"])
def test_closing_after_a_failure_nobody_heard_of_gives_everything_back(model_bundle, caplog, kind):
    engine = both.opened(model_bundle, "late", slots=both.ALL)
    both.logits(engine)
    memory, device = engine.parts.backend.memory, engine.parts.backend.device
    device.finish()
    both.give_up_a_pass(engine)
    device.push(COMPUTE, kind, lambda: None)
    device.fail_next(kind)
    engine.close()
    assert f"given up: device: scripted failure of {kind}" in caplog.text
    assert (memory.nbytes, device.is_closed) == (0, True)
