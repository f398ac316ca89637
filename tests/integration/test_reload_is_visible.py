"""A reload is said to be done once everybody can see it, and to be refused only where it never comes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from patience import PATIENCE_S, until

from edge_runtime.engine.job import Event, Job, TokenEvent
from edge_runtime.engine.reload import Reload
from edge_runtime.engine.sampler import SamplingParams
from edge_runtime.service.config import ServiceConfig
from edge_runtime.service.ops.health import Phase
from edge_runtime.service.service import Service

MIB = 1 << 20
MEMORY, OTHER = "512MiB", "448MiB"


class HeldRequest:
    """A request that stands still after each of its tokens until it may go on; the serving loop stands still with it."""

    def __init__(self) -> None:
        self.tokens, self.is_over = 0, threading.Event()
        self._permits = threading.Semaphore(0)

    def __call__(self, event: Event) -> None:
        if isinstance(event, TokenEvent):
            self.tokens += 1
            assert self._permits.acquire(timeout=PATIENCE_S)
        else:
            self.is_over.set()

    def goes_on(self, count: int = 1) -> None:
        self._permits.release(count)


@contextmanager
def held(service: Service) -> Iterator[HeldRequest]:
    """Start a request that stands still after its first token; it goes on to its end afterwards."""
    request = HeldRequest()
    ids = np.asarray(service.tokenizer.encode("Once upon"), np.int32)
    service.submit(Job(ids, SamplingParams(max_tokens=60, ignore_eos=True), request))
    until(lambda: request.tokens == 1, "the first token")
    try:
        yield request
    finally:
        request.goes_on(100)
    assert request.is_over.wait(PATIENCE_S)


@pytest.fixture
def service(model_bundle: Path) -> Iterator[Service]:
    options = {"context": 256, "threads": 1, "memory": MEMORY, "expert_memory": "2MiB"}
    started = Service(ServiceConfig(model_bundle, options, environment={}, self_check=False, verify=False))
    started.start()
    assert started.readiness.wait_until_loaded(PATIENCE_S) is Phase.READY, started.readiness.reason
    yield started
    started.close()


def budget(service: Service) -> int:
    return int(service.stats_report()["memory"]["budget_bytes"])


def test_what_a_reload_changed_is_seen_when_it_returns_while_a_request_runs(service: Service) -> None:
    with held(service) as request:
        reload = threading.Thread(target=service.reload, args=(Reload(memory=OTHER),))
        reload.start()
        for _ in range(20):  # it waits for the end of a step; the request stands still again in the step after
            request.goes_on()
            reload.join(0.25)
            if not reload.is_alive():
                break
        assert not reload.is_alive()
        assert budget(service) == 448 * MIB


def test_what_a_reload_changed_is_seen_when_it_returns_while_nothing_runs(service: Service) -> None:
    for memory, size in ((OTHER, 448), (MEMORY, 512)) * 5:
        service.reload(Reload(memory=memory))
        assert budget(service) == size * MIB


def test_a_reload_given_up_never_comes(service: Service) -> None:
    with held(service), pytest.raises(TimeoutError, match="no step ended"):
        service.reload(Reload(memory=OTHER), timeout_s=0.05)
    assert budget(service) == 512 * MIB
    service.reload(Reload(memory=OTHER))
    assert budget(service) == 448 * MIB


def test_a_service_ends_with_a_reload_given_up(service: Service) -> None:
    ends = threading.Thread(target=service.close)
    with held(service):
        with pytest.raises(TimeoutError):
            service.reload(Reload(memory=OTHER), timeout_s=0.05)
        ends.start()  # the request is told of it
    ends.join(PATIENCE_S)
    assert not ends.is_alive()
    assert service.join(PATIENCE_S)
