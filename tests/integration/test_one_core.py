"""Engine and service run requests through one core: the same tokens, counters and prefixes, however a request ends."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interrupts import Interrupt, interrupted
from patience import PATIENCE_S

import edge_runtime.engine
from edge_runtime import Engine, SamplingParams
from edge_runtime.base.errors import RequestError
from edge_runtime.engine.job import Event, Job, Outcome, TokenEvent
from edge_runtime.service.ops.health import Phase
from edge_runtime.service.service import Service, ServiceConfig

OPTIONS = {
    "memory": "4GiB",
    "context": 256,
    "threads": 1,
    "expert_memory": "2MiB",
    "eviction": "lru",
    "prefetch": "off",
}
PROMPTS = ("Once upon a time", "import os\n" * 12, "A")
SAMPLING = (
    {"max_tokens": 12, "ignore_eos": True},
    {"max_tokens": 12, "temperature": 0.8, "top_p": 0.9, "seed": 7},
    {"max_tokens": 30, "stop": ("e",), "repetition_penalty": 1.3},
)
# not where locks are held: a tracer can raise where `with` has left its block and not yet its lock, a signal cannot
CORE = tuple(
    str(Path(edge_runtime.engine.__file__).parent / f"{name}.py")
    for name in ("scheduler", "sequence", "sessions", "continuation", "sampler", "decoder", "policy_pass")
)
COUNTED = ("lookups", "hits", "misses", "bytes_read", "by_tier", "substituted", "skipped")


class Answer:
    """Collects the events of a job given to a service."""

    def __init__(self, service: Service, ids: Any, **sampling: Any) -> None:
        self.events: list[Event] = []
        self._done = threading.Event()
        service.submit(Job(np.asarray(ids, np.int32), SamplingParams(**sampling), self._take))
        assert self._done.wait(PATIENCE_S)
        assert isinstance(self.events[-1], Outcome), self.events[-1]
        self.outcome = self.events[-1]
        self.deltas = [event.delta for event in self.events if isinstance(event, TokenEvent)]
        self.token_ids, self.text = [d.token_id for d in self.deltas], "".join(d.text for d in self.deltas)

    def _take(self, event: Event) -> None:
        self.events.append(event)
        if not isinstance(event, TokenEvent):
            self._done.set()


@pytest.fixture
def engine(model_bundle: Path) -> Iterator[Engine]:
    with Engine.open(model_bundle, self_check=False, **OPTIONS) as opened:
        yield opened


@pytest.fixture
def service(model_bundle: Path) -> Iterator[Service]:
    started = Service(ServiceConfig(model_bundle, options=OPTIONS, verify=False, self_check=False))
    started.start()
    assert started.readiness.wait_until_loaded(60) is Phase.READY, started.readiness.reason
    yield started
    started.close()


def test_both_give_the_same_tokens_reasons_and_counters(engine: Engine, service: Service) -> None:
    engine.generate([0], SamplingParams(max_tokens=2, ignore_eos=True))  # what the service's warm-up runs
    for prompt in PROMPTS:
        for sampling in SAMPLING:
            ids = engine.tokenizer.encode(prompt)
            report = engine.generate(ids, SamplingParams(**sampling), reuse_prefix=True)
            answer = Answer(service, ids, **sampling)
            assert answer.token_ids == report.token_ids
            assert (answer.text, answer.outcome.finish_reason) == (report.text, report.finish_reason)
            assert {n: answer.outcome.experts[n] for n in COUNTED} == {n: report.experts[n] for n in COUNTED}
            assert answer.outcome.policy == report.policy
            timings = answer.outcome.timings
            assert (timings.prompt_n, timings.cached_n) == (report.timings["prompt_n"], report.timings["cached_n"])


def test_both_use_the_engines_seed_where_a_request_has_none(model_bundle: Path) -> None:
    options, sampling = {**OPTIONS, "seed": 11}, {"max_tokens": 12, "temperature": 1.0, "ignore_eos": True}
    with Engine.open(model_bundle, self_check=False, **options) as engine:
        ids = engine.tokenizer.encode("Once")
        want = engine.generate(ids, SamplingParams(**sampling)).token_ids
        assert engine.generate(ids, SamplingParams(**sampling)).token_ids == want
    service = Service(ServiceConfig(model_bundle, options=options, verify=False, self_check=False))
    service.start()
    try:
        assert service.readiness.wait_until_loaded(60) is Phase.READY
        assert Answer(service, ids, **sampling).token_ids == want
    finally:
        service.close()


def test_both_find_the_prefix_of_the_request_before(engine: Engine, service: Service) -> None:
    first = engine.tokenizer.encode("A conversation about rings and mountains. " * 2)
    params = {"max_tokens": 6, "ignore_eos": True}
    said = engine.generate(first, SamplingParams(**params), reuse_prefix=True).token_ids
    assert Answer(service, first, **params).token_ids == said
    # all of both but the last token, which was not run: it had nothing to follow it
    following = [*first, *said, *engine.tokenizer.encode(" And then?")]
    report = engine.generate(following, SamplingParams(**params), reuse_prefix=True)
    answer = Answer(service, following, **params)
    assert report.timings["cached_n"] == answer.outcome.timings.cached_n == len(first) + len(said) - 1
    assert report.token_ids == answer.token_ids
    # the same prompt once more: its last token is run again, to have logits
    again = engine.generate(following, SamplingParams(**params), reuse_prefix=True)
    assert again.timings["cached_n"] == len(following) - 1
    assert again.token_ids == report.token_ids


def test_without_reuse_nothing_is_kept_and_scored_texts_leave_no_prefix(engine: Engine) -> None:
    ids = engine.tokenizer.encode("A conversation about rings. ")
    params = SamplingParams(max_tokens=4, ignore_eos=True)
    want = engine.generate(ids, params).token_ids
    assert engine.generate(ids, params).timings["cached_n"] == 0
    engine.logits(ids, chunk=1)
    report = engine.generate(ids, params, reuse_prefix=True)
    assert (report.timings["cached_n"], report.token_ids) == (0, want)


def test_an_abandoned_stream_keeps_its_tokens_and_lets_the_next_request_in(engine: Engine) -> None:
    ids = engine.tokenizer.encode("Once upon a time")
    params = SamplingParams(max_tokens=40, ignore_eos=True)
    want = engine.generate(ids, params).token_ids
    stream = engine.stream(ids, params)
    got = [next(stream).token_id for _ in range(5)]
    with pytest.raises(RequestError, match="another request is running"):
        engine.generate(ids, params)
    assert engine.last_report().token_ids == got == want[:5]
    stream.close()  # type: ignore[attr-defined]
    assert list(stream) == []
    report = engine.generate([*ids, *got], params, reuse_prefix=True)
    assert report.timings["cached_n"] == len(ids) + 4
    assert report.token_ids[:20] == want[5:25]
    # nobody closes this one
    forgotten = engine.stream(ids, params)
    next(forgotten)
    gone = weakref.ref(forgotten)
    del forgotten
    gc.collect()
    assert gone() is None
    assert engine.generate(ids, params).token_ids == want


def test_a_stream_that_never_started_and_scores_half_read_block_nobody(engine: Engine) -> None:
    ids = engine.tokenizer.encode("Once upon a time")
    params = SamplingParams(max_tokens=5, ignore_eos=True)
    want = engine.generate(ids, params).token_ids
    engine.stream(ids, params)  # nothing runs before the first token is asked for
    scores = engine.logit_chunks(np.asarray(ids, np.int32), chunk=1)
    next(scores)
    with pytest.raises(RequestError, match="another request is running"):
        next(engine.stream(ids, params))
    scores.close()  # type: ignore[attr-defined]
    assert engine.generate(ids, params).token_ids == want
    assert list(engine.logit_chunks(np.empty(0, np.int32))) == []


def test_an_engine_closed_in_mid_stream_says_so_and_releases(model_bundle: Path) -> None:
    engine = Engine.open(model_bundle, self_check=False, **OPTIONS)
    stream = engine.stream("Once", SamplingParams(max_tokens=40, ignore_eos=True))
    next(stream)
    engine.close()
    assert engine.is_released
    with pytest.raises(RequestError, match="it was closed"):
        next(stream)
    assert list(stream) == []


def test_a_token_takes_no_time_of_a_slow_reader(engine: Engine) -> None:
    pause = threading.Event()
    for _ in engine.stream("Once", SamplingParams(max_tokens=3, ignore_eos=True)):
        pause.wait(0.3)
    assert engine.last_report().timings["itl_ms"]["p99"] < 300


def test_an_engine_handed_over_refuses_requests_of_its_own(engine: Engine) -> None:
    from edge_runtime.engine.observer import SchedulerObserver
    from edge_runtime.engine.sessions import SessionPool

    scheduler = engine.hand_over(SessionPool.of(engine.parts), SchedulerObserver())
    assert scheduler.step() is False
    with pytest.raises(RequestError, match="another request is running"):
        engine.generate("Once")
    with pytest.raises(RequestError, match="it was handed over. Ask whoever drives it"):
        engine.resize(expert_memory="3MiB")


def test_a_request_interrupted_at_lines_of_the_core(engine: Engine) -> None:
    """KeyboardInterrupt at the n-th line the core runs: the next request is that of a fresh engine."""
    params, prompt = SamplingParams(max_tokens=3, ignore_eos=True), [5, 9, 20, 31]
    want = engine.generate(prompt, params).token_ids

    def run(at: int) -> Interrupt:
        return interrupted(lambda: engine.generate(prompt, params, reuse_prefix=True), at, CORE.__contains__)

    lines = run(-1).count
    assert lines > 500
    for at in range(1, lines, max(1, lines // 60)):
        where = run(at).where
        try:
            assert engine.generate(prompt, params).token_ids == want
            assert engine.generate(prompt, params, reuse_prefix=True).token_ids == want
        except Exception as err:
            raise AssertionError(f"interrupted at {where}") from err
