"""Closing and resizing an engine while a request runs in another thread, and Ctrl-C on the real store."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pytest
from expert_files import num_threads, wait_for_threads
from interrupts import Interrupt, interrupted
from patience import PATIENCE_S

import edge_runtime.experts
from edge_runtime.base.errors import RequestError
from edge_runtime.engine.api import Engine, SamplingParams
from edge_runtime.experts.store.base import DEFAULT_READ_TIMEOUT_S

FOLDER = str(Path(edge_runtime.experts.__file__).parent)
OPTIONS = {"memory": "4GiB", "context": 256, "self_check": False, "backend": "cpu"}
LONG = SamplingParams(max_tokens=200, ignore_eos=True)


def open_engine(bundle, **options) -> Engine:
    return Engine.open(bundle, **{**OPTIONS, "expert_memory": "2MiB", **options})


@pytest.mark.parametrize("delay_s", [0.0, 0.03, 0.1, 0.25])
def test_close_while_a_request_runs(model_bundle, delay_s):
    engine, started, ended = open_engine(model_bundle), threading.Event(), []

    def work() -> None:
        try:
            while True:
                for _ in engine.stream(list(range(1, 41)), LONG):
                    started.set()
        except RequestError as err:
            ended.append(str(err))

    thread = threading.Thread(target=work)
    thread.start()
    assert started.wait(PATIENCE_S)
    assert engine.resize(expert_memory="3MiB").num_slots > engine.resize(expert_memory="2MiB").num_slots
    time.sleep(delay_s)
    engine.close()
    thread.join(PATIENCE_S)
    assert ended == ["engine: it was closed. Open the bundle again."]
    engine.close()


def test_after_close_everything_is_refused(model_bundle):
    engine = open_engine(model_bundle)
    suspended = engine.stream("def read", LONG)
    next(suspended)
    engine.close()
    engine.close()
    for use in (
        lambda: next(suspended),
        lambda: engine.stream("def read"),
        lambda: engine.logits([1, 2, 3]),
        lambda: list(engine.logit_chunks([1, 2])),
        lambda: engine.resize(expert_memory="3MiB"),
        lambda: engine.routing_counts([1, 2], max_tokens=2),
        lambda: engine.generate("def read"),
    ):
        with pytest.raises(RequestError, match="engine: it was closed"):
            use()


def test_close_from_inside_a_request(model_bundle):
    """As a signal handler may: the request ends, then everything is released."""
    threads = num_threads()
    engine = open_engine(model_bundle, threads=1)

    def work() -> None:
        while True:
            engine.generate([1, 2, 3], LONG)

    before = signal.signal(signal.SIGALRM, lambda *_: engine.close())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(RequestError, match="it was closed"):
            work()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert engine.is_released
    wait_for_threads(threads)


def test_counting_routes_waits_for_nobody_and_swaps_nothing(model_bundle):
    with open_engine(model_bundle) as engine:
        policy = engine.parts.active.policy
        suspended = engine.stream("def read", LONG)
        next(suspended)
        with pytest.raises(RequestError, match="another request is running"):
            engine.routing_counts([1, 2, 3], max_tokens=3)
        assert engine.parts.active.policy is policy
        suspended.close()
        assert engine.routing_counts([1, 2, 3], max_tokens=3).layers
        assert engine.parts.active.policy is policy


@pytest.mark.parametrize("policy", ["lossless", "hobbit"])
def test_a_request_interrupted_at_lines_of_the_expert_path(model_bundle, policy):
    """KeyboardInterrupt at the n-th line run in edge_runtime/experts: the next request is that of a fresh engine."""
    params, prompt = SamplingParams(max_tokens=3, ignore_eos=True), [5, 9, 20, 31]
    options = {"policy": policy, "io_threads": 2, "expert_memory": "1MiB", "threads": 1}
    with open_engine(model_bundle, **options) as engine:
        is_exact = policy == "lossless"
        want = engine.generate(prompt, params).token_ids

        def run(at: int) -> Interrupt:
            return interrupted(lambda: engine.generate(prompt, params), at, lambda file: file.startswith(FOLDER))

        lines = run(-1).count
        for at in range(1, lines, max(1, lines // 60)):
            where = run(at).where
            started = time.monotonic()
            got = engine.generate(prompt, params).token_ids
            assert len(got) == len(want), where
            assert not is_exact or got == want, where
            assert time.monotonic() - started < DEFAULT_READ_TIMEOUT_S, f"waited for a read that is over, after {where}"
            engine.parts.cache.begin_request()
            cache = engine.parts.cache
            table, ledger = cache.residents.table, cache.residents.ledger
            assert (table.num_pinned, table.num_reading, cache.num_reading) == (0, 0, 0), where
            planes = sum(len(table.planes_of(slot)) for slot in range(table.num_slots))
            used = table.num_resident * ledger.sizes.core_bytes + planes * ledger.sizes.plane_bytes
            assert ledger.used_bytes == used, where


def test_a_request_interrupted_where_decisions_look_at_residents(model_bundle):
    """What is kept beside the cache for decisions holds nothing back after an interrupt at any of its lines.

    A policy that decides in Python: a native decision has no lines to be interrupted at.
    """
    params, prompt = SamplingParams(max_tokens=4, ignore_eos=True), [5, 9, 20, 31]
    with open_engine(model_bundle, policy="cumsum", io_threads=2, expert_memory="1MiB", threads=1) as engine:

        def run(at: int) -> Interrupt:
            return interrupted(
                lambda: engine.generate(prompt, params), at, lambda file: file.endswith("without_ahead.py")
            )

        lines = run(-1).count
        assert lines > 100
        for at in range(1, lines // 2):
            run(at)
        assert len(engine.generate(prompt, params).token_ids) == 4
