"""Thousands of mixed requests: memory and descriptors stay flat, answers do not get more expensive."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from patience import until
from service_process import ServiceProcess

REQUESTS = 4000
WARM_UP = 800
WORKERS = 6


def ask(client: httpx.Client, model: str, number: int) -> None:
    """One request of a kind its number decides."""
    rng = random.Random(number)
    body = {"model": model, "max_tokens": rng.randint(1, 6), "temperature": rng.choice([0, 1]), "seed": number}
    words = " ".join(rng.choice(["ring", "shire", "mountain", "tea"]) for _ in range(rng.randint(1, 12)))
    kind = number % 10
    if kind == 0:  # a client that goes away
        with suppress(httpx.TimeoutException):
            client.post("/v1/completions", json={**body, "prompt": words, "max_tokens": 60}, timeout=0.02)
    elif kind == 1:  # a mistake
        assert client.post("/v1/completions", json={**body, "prompt": words, "nonsense": 1}).status_code == 400
    elif kind in (2, 3, 4):
        with client.stream("POST", "/v1/completions", json={**body, "prompt": words, "stream": True}) as stream:
            assert stream.status_code == 200
            assert "data: [DONE]" in list(stream.iter_lines())
    elif kind == 5:
        pattern = {"type": "regex", "pattern": f"[a-z]{{{1 + number % 3}}}[0-9]"}
        answer = client.post("/v1/completions", json={**body, "prompt": words, "response_format": pattern})
        assert answer.status_code == 200, answer.text
    else:
        messages = [{"role": "user", "content": words}]
        answer = client.post("/v1/chat/completions", json={**body, "messages": messages, "logprobs": kind == 6})
        assert answer.status_code == 200, answer.text


def rest_a_while(service: ServiceProcess) -> None:
    """Wait for the pause in which a service returns what it freed: before it, the allocator holds on to some."""
    service.wait_until_idle()
    time.sleep(2.5)


@pytest.mark.slow
def test_thousands_of_requests_leave_nothing_behind(model_bundle: Path, tmp_path: Path) -> None:
    # an arena that is full after the warm-up: one that still fills up grows as it should
    flags = ("--parallel", "3", "--context", "128", "--max-waiting", "64", "--threads", "1", "--expert-memory", "6MiB")
    with ServiceProcess(model_bundle, tmp_path / "log", *flags) as service, service.client() as client:
        with ThreadPoolExecutor(WORKERS) as pool:
            cpu_s = [service.cpu_s()]
            for numbers in (range(WARM_UP), range(WARM_UP, REQUESTS)):
                list(pool.map(lambda n: ask(client, service.model, n), numbers))
                cpu_s.append(service.cpu_s())
                rest_a_while(service)
                if len(cpu_s) == 2:
                    rss, fds = service.rss(), service.fds()
        requests = service.stats()["requests"]
        # CPU time, because how long an answer takes depends on what else the machine does
        cost = [(cpu_s[1] - cpu_s[0]) / WARM_UP, (cpu_s[2] - cpu_s[1]) / (REQUESTS - WARM_UP)]
        print(f"RSS {rss} -> {service.rss()}, fds {fds} -> {service.fds()}, CPU a request {cost} s")
        until(lambda: service.rss() <= 1.02 * rss, "memory goes back", pause_s=1.0)
        # connections that no request uses are closed after a while
        until(lambda: service.fds() <= fds, "descriptors are closed", pause_s=1.0)
        assert requests["finished"]["error"] == 0
        assert cost[1] < 1.5 * cost[0] + 0.002
