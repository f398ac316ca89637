"""Requests together: tokens as alone, bounded queue, cancellation, prefix reuse, limits, reload, drain, kill."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from patience import PATIENCE_S, until
from service_process import ServiceProcess

from edge_runtime.base.errors import BudgetError, ConfigError
from edge_runtime.engine.api import Engine
from edge_runtime.engine.job import Event, Job, Outcome, TokenEvent
from edge_runtime.engine.reload import Reload
from edge_runtime.engine.sampler import SamplingParams
from edge_runtime.service.config import ServiceConfig
from edge_runtime.service.openai.api_errors import ApiError
from edge_runtime.service.ops.health import Phase
from edge_runtime.service.service import Service

PROMPTS = ["Once upon a time", "def main():", "The quick brown fox " * 12, "1 2 3", "import os\n" * 30, "A"]


class Collector:
    """Receives a job's events."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.done = threading.Event()
        self.on_token: Callable[[int], None] = lambda count: None

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, TokenEvent):
            self.on_token(len(self.tokens))
        else:
            self.done.set()

    @property
    def tokens(self) -> list[int]:
        return [e.delta.token_id for e in self.events if isinstance(e, TokenEvent)]

    def outcome(self) -> Outcome:
        assert self.done.wait(PATIENCE_S)
        last = self.events[-1]
        assert isinstance(last, Outcome), last
        return last


def start(bundle: Path, **more: Any) -> Service:
    options = {"context": 512, "parallel": 4, "threads": 1, **more.pop("options", {})}
    service = Service(ServiceConfig(bundle, options=options, verify=False, **more))
    service.start()
    assert service.readiness.wait_until_loaded(PATIENCE_S) is Phase.READY, service.readiness.reason
    return service


@pytest.fixture(scope="module")
def service(model_bundle: Path) -> Iterator[Service]:
    # an arena far smaller than the model, so that experts really stream
    started = start(model_bundle, options={"expert_memory": "2MiB", "eviction": "lru"})
    yield started
    started.close()


def hold(until_set: threading.Event) -> None:
    """Hold the serving loop, which delivers events, until something has happened."""
    assert until_set.wait(PATIENCE_S)


def submit(service: Service, prompt: str, collector: Collector, **params: Any) -> Job:
    ids = np.asarray(service.tokenizer.encode(prompt), np.int32)
    time_limit_s = params.pop("time_limit_s", None)
    policy = params.pop("policy", None)
    job = Job(ids, SamplingParams(**params), collector, time_limit_s=time_limit_s, policy=policy)
    service.submit(job)
    return job


def test_together_each_gets_the_tokens_it_gets_alone(service: Service, model_bundle: Path) -> None:
    params = {"max_tokens": 40, "ignore_eos": True}
    collectors = [Collector() for _ in PROMPTS]
    for prompt, collector in zip(PROMPTS, collectors, strict=True):
        submit(service, prompt, collector, **params)
    outcomes = [collector.outcome() for collector in collectors]
    assert max(o.concurrent for o in outcomes) == 4
    assert sum(o.experts["misses"] for o in outcomes) > 0
    with Engine.open(model_bundle, context=512, threads=1, self_check=False) as engine:
        for prompt, collector in zip(PROMPTS, collectors, strict=True):
            assert collector.tokens == engine.generate(prompt, SamplingParams(**params)).token_ids


def test_four_together_read_less_than_one_after_another(service: Service) -> None:
    def bytes_read() -> int:
        for _ in range(2):  # the view that is published next may have been begun already
            seen = service.stats.engine
            until(lambda seen=seen: service.stats.engine is not seen)  # type: ignore[misc]
        assert service.stats.engine is not None
        return service.stats.engine.experts.bytes_read

    def run(together: bool, seed: str) -> int:
        before = bytes_read()
        service.reload(Reload())  # forget what widths took: on a busy machine narrower ones may seem to pay
        all_wait = threading.Event()
        collectors = [Collector() for _ in range(4)]
        if together:
            collectors[0].on_token = lambda count: hold(all_wait)
        for i, collector in enumerate(collectors):
            submit(service, f"{seed} {i}", collector, max_tokens=16, ignore_eos=True)
            if not together:
                collector.outcome()
        all_wait.set()
        for collector in collectors:
            collector.outcome()
        return bytes_read() - before

    assert run(True, "Tell me") < 0.8 * run(False, "Tell us")


def test_a_prefix_serves_requests_of_its_own_policy_alone(service: Service) -> None:
    prompt = "Rivers run between the hills and through the woods. " * 3

    def cached(policy: str | None) -> int:
        collector = Collector()
        submit(service, prompt, collector, max_tokens=2, ignore_eos=True, policy=policy)
        return collector.outcome().timings.cached_n

    length = len(service.tokenizer.encode(prompt))
    assert [cached(policy) for policy in ("cumsum", None, "cumsum", "lossless", "max-rank")] == [
        0, 0, length - 1, length - 1, 0,
    ]  # fmt: skip


def test_a_cancelled_request_stops_within_one_token(service: Service) -> None:
    collector = Collector()
    job: Job | None = None

    def cancel(count: int) -> None:
        if count == 5:
            assert job is not None
            job.cancel()

    collector.on_token = cancel
    job = submit(service, "Once", collector, max_tokens=400, ignore_eos=True)
    assert collector.outcome().finish_reason == "cancelled"
    assert len(collector.tokens) == 5


def test_a_request_ends_at_its_time_limit(service: Service) -> None:
    collector = Collector()
    collector.on_token = lambda count: time.sleep(0.05)  # all 400 tokens would take 20 s at least
    submit(service, "Once", collector, max_tokens=400, ignore_eos=True, time_limit_s=2.0)
    outcome = collector.outcome()
    assert (outcome.finish_reason, outcome.limit) == ("length", "time")
    assert len(collector.tokens) < 400


def test_the_next_turn_finds_its_prefix_though_others_ran_between(service: Service) -> None:
    text = "A conversation about rings and mountains. " * 3
    before = service.stats.read()
    first = Collector()
    submit(service, text, first, max_tokens=8)
    first.outcome()
    other = Collector()
    submit(service, "Something else entirely, at some length. " * 4, other, max_tokens=8)
    other.outcome()
    answer = service.tokenizer.decode(first.tokens)
    second = Collector()
    job = submit(service, text + answer + " And then?", second, max_tokens=4)
    kept = second.outcome().timings.cached_n
    assert kept >= len(service.tokenizer.encode(text)) - 1
    figures = service.stats.read()
    assert figures.cached_tokens - before.cached_tokens >= kept
    prompts = [text, "Something else entirely, at some length. " * 4]
    total = len(job.prompt_ids) + sum(len(service.tokenizer.encode(prompt)) for prompt in prompts)
    assert figures.prompt_tokens - before.prompt_tokens == total


def test_a_request_may_name_its_policy(service: Service) -> None:
    plain, named = Collector(), Collector()
    submit(service, "Once", plain, max_tokens=8)
    submit(service, "Once", named, max_tokens=8, policy="lossless:")
    assert named.outcome().policy["name"] == "lossless"
    plain.outcome()
    assert plain.tokens == named.tokens
    with pytest.raises(ApiError, match=r"hobbit\.policy"):
        service.check_policy("loosless")
    with pytest.raises(ApiError, match="opened for 8") as refused:
        service.check_policy("hobbit")
    assert refused.value.status == 400


def test_a_policy_named_in_a_request_is_that_one_after_a_reload_too(service: Service) -> None:
    service.reload(Reload(policy="max-rank:m=6"))
    try:
        named, plain = Collector(), Collector()
        submit(service, "Once", named, max_tokens=4, policy="lossless")
        submit(service, "Once", plain, max_tokens=4)
        assert named.outcome().policy["name"] == "lossless"
        assert plain.outcome().policy["name"] == "max-rank"
    finally:
        service.reload(Reload(policy="lossless"))


def test_a_constraint_that_cannot_go_on_fails_its_request_alone(service: Service) -> None:
    class Stuck:
        is_complete = False

        def allowed(self) -> Any:
            raise RuntimeError("scripted")

        def accept(self, token_id: int) -> None: ...

    bad, good = Collector(), Collector()
    ids = np.asarray(service.tokenizer.encode("Once"), np.int32)
    service.submit(Job(ids, SamplingParams(max_tokens=4), bad, constraint=Stuck()))
    submit(service, "Once", good, max_tokens=4)
    assert good.outcome().finish_reason == "length"
    assert bad.done.wait(PATIENCE_S)
    assert isinstance(bad.events[-1], RuntimeError)


def test_reload_changes_memory_and_policy_under_a_running_request(service: Service) -> None:
    collector, alone = Collector(), Collector()
    submit(service, "Once upon", alone, max_tokens=60, ignore_eos=True)
    alone.outcome()
    submit(service, "Once upon", collector, max_tokens=60, ignore_eos=True)
    service.reload(Reload(policy="lossless", expert_memory="3MiB"))
    service.reload(Reload(expert_memory="2MiB"))
    with pytest.raises(ConfigError, match="policy"):
        service.reload(Reload(policy="nonsense"))
    with pytest.raises(BudgetError):
        service.reload(Reload(expert_memory="1KiB"))
    collector.outcome()
    assert collector.tokens == alone.tokens


def test_heartbeat_beats_idle_and_busy(service: Service) -> None:
    beats: list[float] = []
    service.heartbeat.listeners.append(lambda: beats.append(time.monotonic()))
    try:
        until(lambda: len(beats) >= 2, "beats while idle")
        idle = len(beats)
        collector = Collector()
        submit(service, "Once", collector, max_tokens=20, ignore_eos=True)
        collector.outcome()
        assert len(beats) - idle >= 20
    finally:
        service.heartbeat.listeners.clear()


def test_a_full_queue_refuses_in_order_and_a_drain_finishes_what_was_accepted(model_bundle: Path) -> None:
    service = start(model_bundle, max_waiting=2, options={"parallel": 1})
    order: list[int] = []
    collectors = [Collector() for _ in range(3)]
    running, may_go_on = threading.Event(), threading.Event()

    def note(number: int) -> None:
        order.append(number)
        running.set()
        assert may_go_on.wait(PATIENCE_S)  # holds the loop at the first token, until the queue has been looked at

    try:
        for i, collector in enumerate(collectors):
            collector.on_token = lambda count, i=i: note(i)  # type: ignore[misc]
            submit(service, "Once", collector, max_tokens=20, ignore_eos=True)
            assert running.wait(PATIENCE_S)
        with pytest.raises(ApiError) as refused:
            submit(service, "Once", Collector(), max_tokens=5)
        assert refused.value.status == 429
        assert int(refused.value.headers["Retry-After"]) >= 1
        service.drain()
        with pytest.raises(ApiError) as late:
            submit(service, "Once", Collector(), max_tokens=5)
        assert late.value.status == 503
        may_go_on.set()
        for collector in collectors:
            assert collector.outcome().finish_reason == "length"
        assert order == sorted(order)
        assert service.join(PATIENCE_S)
        figures = service.stats.read()
        assert figures.rejected["queue_full"] == 1
        assert figures.finished["length"] == 3
        assert (figures.running, figures.waiting) == (0, 0)
    finally:
        may_go_on.set()
        service.close()
    assert service.readiness.phase is Phase.STOPPED


def test_while_loading_and_after_a_failure_it_says_so(model_bundle: Path, tmp_path: Path) -> None:
    service = Service(ServiceConfig(model_bundle, options={"memory": "40MiB"}, verify=False))
    with pytest.raises(ApiError) as overlap:
        service.require_ready()
    assert overlap.value.status == 503
    service.start()
    assert service.readiness.wait_until_loaded(PATIENCE_S) is Phase.FAILED
    assert isinstance(service.error, BudgetError)
    with pytest.raises(ConfigError):
        Service(ServiceConfig(model_bundle, options={"policy": "nonsense"}))


def test_kill_in_the_middle_of_a_request_and_start_again(model_bundle: Path, tmp_path: Path) -> None:
    flags = ("--context", "2048", "--threads", "1")
    body = {
        "model": model_bundle.name, "prompt": "Once", "max_tokens": 2000, "ignore_eos": True, "stream": True,
    }  # fmt: skip
    with ServiceProcess(model_bundle, tmp_path / "first", *flags) as first:
        port = str(first.address[1])
        with first.client() as client, client.stream("POST", "/v1/completions", json=body) as stream:
            lines = stream.iter_lines()
            assert next(lines).startswith("data: ")
            first.stop(signal.SIGKILL)
            rest: list[str] = []
            with pytest.raises(httpx.TransportError):
                rest.extend(lines)
            assert "data: [DONE]" not in rest
    with ServiceProcess(model_bundle, tmp_path / "second", *flags, "--port", port) as second:
        assert second.chat()["choices"][0]["finish_reason"] == "length"


def test_sigterm_finishes_the_request_under_way(model_bundle: Path, tmp_path: Path) -> None:
    with ServiceProcess(model_bundle, tmp_path / "log", "--context", "512") as service:
        body = {"model": service.model, "prompt": "Once", "max_tokens": 200, "ignore_eos": True, "stream": True}
        body["stream_options"] = {"include_usage": True}
        with service.client() as client, client.stream("POST", "/v1/completions", json=body) as stream:
            lines = stream.iter_lines()
            assert next(lines).startswith("data: ")
            service.process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert json.loads(rest[-2].removeprefix("data: "))["usage"]["completion_tokens"] == 200
        assert service.process.wait(PATIENCE_S) == 0


def test_a_disconnected_client_frees_its_slot_within_a_token(model_bundle: Path, tmp_path: Path) -> None:
    with ServiceProcess(model_bundle, tmp_path / "log", "--context", "2048", "--threads", "1") as service:
        for stream in (True, False):
            body = {"model": service.model, "prompt": "Once", "max_tokens": 2000, "ignore_eos": True, "stream": stream}
            with service.client() as client:
                if stream:
                    with client.stream("POST", "/v1/completions", json=body) as response:
                        next(response.iter_lines())
                else:
                    with pytest.raises(httpx.ReadTimeout):
                        client.post("/v1/completions", json=body, timeout=httpx.Timeout(PATIENCE_S, read=0.3))
            service.wait_until_idle()
        stats = service.stats()
        assert stats["requests"]["finished"]["cancelled"] == 2
        assert stats["tokens"]["generated"] < 2 * 2000
