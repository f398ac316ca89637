"""A reload equals a restart: the same tokens, reads and counts from the next request on, for every pair of policies."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from policy_cases import NEUTRAL
from reload_cases import LESS_MEMORY, PROMPTS, judge_nothing_by_the_clock, opened, ran, reload, setting
from service_process import ServiceProcess

from edge_runtime.config.options import BY_NAME

# without hints, which are cancelled or not as the drive is fast, and with so many fallbacks that four tokens have some
OVER_A_BASE = "rate-distortion:max_kld=0.02,base=true,upgrades=0"
POLICIES = sorted("mobile:ahead=0,fallbacks=0.5" if name == "mobile" else name for name in NEUTRAL)
DEFAULT_RULE = str(BY_NAME["eviction"].default)
BASE_MEMORY = "8MiB"


@pytest.fixture(autouse=True)
def _nothing_is_tried_by_the_clock(monkeypatch):
    judge_nothing_by_the_clock(monkeypatch)


def name_of(policy: str) -> str:
    return policy.partition(":")[0]


def every_pair(names: list[str]) -> Iterator[str]:
    """Walk all ordered pairs, each once: an Eulerian circuit through the complete graph with loops."""
    left = {name: list(reversed(names)) for name in names}
    stack, circuit = [names[0]], []
    while stack:
        if left[stack[-1]]:
            stack.append(left[stack[-1]].pop())
        else:
            circuit.append(stack.pop())
    return reversed(circuit)


@pytest.mark.parametrize("eviction", [DEFAULT_RULE, "lfru", "rate-distortion"])
def test_every_pair_of_policies(calibrated_bundle, eviction):
    walk = list(every_pair(POLICIES))
    pairs = set(pairwise(walk))
    assert len(pairs) == len(walk) - 1 == len(POLICIES) ** 2
    follow(calibrated_bundle, walk, eviction=eviction)


def test_every_policy_from_and_to_one_over_a_base(calibrated_bundle):
    walk = [OVER_A_BASE, OVER_A_BASE, *(text for policy in POLICIES for text in (policy, OVER_A_BASE))]
    follow(calibrated_bundle, walk, expert_memory=BASE_MEMORY)


def follow(bundle: Path, walk: list[str], **options: Any) -> None:
    """Reload along a walk, and hold each policy to what it does from a start."""
    started: dict[str, Any] = {}
    for policy in set(walk):
        with opened(bundle, policy, **options) as engine:
            started[policy] = (setting(engine), ran(engine))
    before: Any = None
    with opened(bundle, walk[0], **options) as engine:
        assert (setting(engine), ran(engine)) == started[walk[0]]
        for old, new in pairwise(walk):
            reload(engine, policy=new)
            assert (setting(engine), ran(engine)) == started[new], f"{old} -> {new}"
            after = engine.parts.cache.counters
            assert before is None or after.lookups > before.lookups, "totals go on"
            before = after


@pytest.mark.parametrize(
    ("change", "options"),
    [
        ({"eviction": "layer-sizes"}, {"eviction": "layer-sizes"}),
        ({"eviction": "mdc", "policy": "hobbit"}, {"eviction": "mdc", "policy": "hobbit"}),
        ({"prefetch": "off"}, {"prefetch": "off"}),
        ({"policy": "skip", "expert_memory": LESS_MEMORY}, {"policy": "skip", "expert_memory": LESS_MEMORY}),
    ],
)
def test_other_changes_start_over_as_well(calibrated_bundle, change, options):
    with opened(calibrated_bundle, **({"policy": "lossless"} | options)) as engine:
        started = (setting(engine), ran(engine))
    with opened(calibrated_bundle, "lossless") as engine:
        ran(engine)
        reload(engine, **change)
        assert (setting(engine), ran(engine)) == started


def test_a_start_begins_alike_whether_or_not_the_bundle_was_checked(model_bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    seen = []
    for _ in range(2):  # the first of them runs the self-check
        with opened(model_bundle, "cache-prior", self_check=True) as engine:
            seen.append(ran(engine))
    assert seen[0] == seen[1]


def test_sighup_to_a_policy_is_a_start_with_it(calibrated_bundle, tmp_path):
    """Through `hobbit serve`: from look-ahead to a policy with lower tiers, to one over a base, and back."""
    policies = ("lossless", "hobbit", OVER_A_BASE)
    settings = tmp_path / "hobbit.env"
    flags = ("--expert-memory", BASE_MEMORY, "--context", "64", "--threads", "1", "--settings", str(settings))

    def asked(service: ServiceProcess, policy: str) -> list[Any]:
        found = []
        for prompt in PROMPTS:
            before = service.stats()["experts"]
            with service.client() as client:
                body = {"model": service.model, "prompt": prompt, "max_tokens": 4, "temperature": 0, "ignore_eos": True}
                answer = client.post("/v1/completions", json=body).json()
            assert answer["hobbit"]["policy"]["name"] == name_of(policy)
            experts = answer["hobbit"]["experts"]
            found.append(
                (answer["choices"][0]["text"], answer["usage"]["prompt_tokens_details"]["cached_tokens"],
                 *(experts[name] for name in ("lookups", "substituted", "skipped")))  # reads ahead change the others
            )  # fmt: skip
            assert before is not None
        return found

    started = {}
    for policy in policies:
        settings.write_text(f"HOBBIT_POLICY={policy}\n")
        with ServiceProcess(calibrated_bundle, tmp_path / name_of(policy), *flags) as service:
            started[policy] = asked(service, policy)
    settings.write_text("HOBBIT_POLICY=lossless\n")
    with ServiceProcess(calibrated_bundle, tmp_path / "log", *flags) as service:
        assert asked(service, policies[0]) == started[policies[0]]
        for policy in (*policies[1:], policies[0]):
            settings.write_text(f"HOBBIT_POLICY={policy}\n")
            service.process.send_signal(signal.SIGHUP)
            deadline = time.monotonic() + 30
            while (service.stats()["policy"] or {}).get("name") != name_of(policy):
                assert time.monotonic() < deadline, json.dumps(service.stats())
                time.sleep(0.05)
            assert asked(service, policy) == started[policy], policy
