"""A reload equals a restart: the same tokens, reads and counts from the next request on, for every pair of policies."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from policy_cases import NEUTRAL
from service_process import ServiceProcess

from edge_runtime.config.options import BY_NAME
from edge_runtime.engine import assembly
from edge_runtime.engine.api import Engine
from edge_runtime.engine.job import Job, Outcome
from edge_runtime.engine.observer import SchedulerObserver
from edge_runtime.engine.reload import Reload
from edge_runtime.engine.sampler import SamplingParams
from edge_runtime.engine.sessions import SessionPool
from edge_runtime.prefetch.governor import Governor

# without hints, which are cancelled or not as the drive is fast, and with so many fallbacks that four tokens have some
OVER_A_BASE = "rate-distortion:max_kld=0.02,base=true,upgrades=0"
POLICIES = sorted("mobile:ahead=0,fallbacks=0.5" if name == "mobile" else name for name in NEUTRAL)
DEFAULT_RULE = str(BY_NAME["eviction"].default)
# three requests: a new text, its continuation from the kept prefix, another text
PROMPTS = ["The quick brown fox jumps", "The quick brown fox jumps over", "import os, sys and json"]
MEMORY, LESS_MEMORY, BASE_MEMORY = "3MiB", "2MiB", "8MiB"
TIMES = ("read_busy_ns", "stall_ns", "read_ns", "read_buckets")


class NeverOn(Governor):
    """Whether reading ahead pays is judged by the clock, and what is read ahead depends on the drive: kept out here."""

    def token(self, cost_ns: float) -> None:
        self.is_on = False


@pytest.fixture(autouse=True)
def _nothing_is_tried_by_the_clock(monkeypatch):
    monkeypatch.setattr(assembly, "Governor", NeverOn)


def opened(bundle: Path, policy: str, **more: Any) -> Engine:
    options = {"expert_memory": MEMORY, "context": 64, "threads": 1, "self_check": False, **more}
    return Engine.open(bundle, policy=policy, **options)


def ran(engine: Engine) -> list[Any]:
    """Run the requests; return of each the tokens, the prefix that was kept, and what was counted, without times."""
    seen = []
    for prompt in PROMPTS:
        before = engine.parts.cache.counters
        report = engine.generate(prompt, SamplingParams(max_tokens=4, ignore_eos=True), reuse_prefix=True)
        engine.parts.cache.finish_reads()
        counted = late_as_hits(vars(engine.parts.cache.counters.since(before)))
        seen.append((report.token_ids, report.timings["cached_n"], report.policy, counted))
    return seen


def late_as_hits(counted: dict[str, Any]) -> dict[str, Any]:
    """Whether a read that was hinted at had landed when it was asked for, the drive decides: late counts as a hit."""
    counted["hits"] += counted.pop("late")
    late = counted.pop("late_by_tier")
    counted["hits_by_tier"] = {t: counted["hits_by_tier"].get(t, 0) + late.get(t, 0) for t in (2, 4, 6, 8)}
    counted["prefetch_used"] += counted.pop("prefetch_late")
    return {name: clean(value) for name, value in counted.items() if name not in TIMES}


def clean(value: Any) -> Any:
    """Without zeros: totals of both lives are kept, a tier that only the former one used shows as 0."""
    if isinstance(value, dict):
        return {key: count for key, count in value.items() if count}
    return round(value, 9) if isinstance(value, float) else value


def name_of(policy: str) -> str:
    return policy.partition(":")[0]


def setting(engine: Engine) -> tuple[Any, ...]:
    """What is in force beside what the counts show."""
    parts, prefetcher = engine.parts, engine.parts.decoder.prefetcher
    ahead = None if prefetcher is None else (type(prefetcher.predictor).__name__, prefetcher.is_on)
    return (
        parts.active.text, parts.active.eviction, parts.active.prefetch, ahead, parts.cache.residents.min_tier,
        parts.cache.num_slots, parts.trunk.weight_bytes, parts.plan.planned_bytes - parts.needs.runtime_bytes,
    )  # fmt: skip


def reload(engine: Engine, **change: Any) -> None:
    engine.reload(Reload(**change))


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


def test_layer_sizes_follow_a_change_of_memory_which_keeps_experts(calibrated_bundle):
    with opened(calibrated_bundle, "lossless", eviction="layer-sizes", expert_memory=LESS_MEMORY) as engine:
        expected = engine.parts.active.rule.sizes.tolist()
    with opened(calibrated_bundle, "lossless", eviction="layer-sizes") as engine:
        ran(engine)
        policy, rule = engine.parts.active.policy, engine.parts.active.rule
        assert rule.sizes.tolist() != expected
        reload(engine, expert_memory=LESS_MEMORY)
        assert rule.sizes.tolist() == expected
        assert (engine.parts.active.policy, engine.parts.active.rule) == (policy, rule)
        cache = engine.parts.cache
        assert sum((cache.resident_tiers(layer) > 0).sum() for layer in engine.spec.sparse_layers) == cache.num_slots


@pytest.mark.parametrize("trunk", ["native", "onnx"])
def test_memory_for_everything_ends_looking_ahead_and_less_begins_it_again(model_bundle, trunk):
    with opened(model_bundle, "lossless", prefetch="lookahead:adaptive=false", trunk=trunk) as engine:
        bytes_before = engine.parts.trunk.weight_bytes
        assert engine.parts.decoder.prefetcher is not None
        engine.resize(expert_memory="1GiB")
        assert engine.parts.decoder.prefetcher is None
        freed = bytes_before - engine.parts.trunk.weight_bytes
        assert freed > 0 if trunk == "onnx" else freed == 0, "the native trunk has the routers in any case"
        engine.resize(expert_memory=LESS_MEMORY)
        assert engine.parts.trunk.weight_bytes == bytes_before
        assert engine.generate(PROMPTS[0], SamplingParams(max_tokens=8)).experts["prefetch"]["issued"] > 0


def test_a_change_that_is_impossible_changes_nothing(model_bundle):
    with opened(model_bundle, "lossless", prefetch="off") as engine:
        was, tokens = setting(engine), ran(engine)[0][0]
        for change in (
            {"policy": "nonsense"},
            {"policy": "rate-distortion"},
            {"policy": "skip", "expert_memory": "1KiB"},
        ):
            with pytest.raises(Exception, match=r"policy|eviction|expert-memory"):
                reload(engine, **change)
            assert setting(engine) == was
            assert ran(engine)[0][0] == tokens


def test_a_request_that_runs_goes_on_and_what_it_computed_is_not_used_again(model_bundle):
    with opened(model_bundle, "hobbit") as engine:
        scheduler = engine.hand_over(SessionPool.of(engine.parts), SchedulerObserver())

        def begin(prompt: str, max_tokens: int) -> list[Any]:
            ids, events = np.array(engine.tokenizer.encode(prompt), np.int32), []
            scheduler.begin(Job(ids, SamplingParams(max_tokens=max_tokens, ignore_eos=True), events.append))
            return events

        running = begin(PROMPTS[0], 8)
        while not running:
            scheduler.step()
        scheduler.apply(Reload(policy="lossless"))
        while scheduler.step():
            pass
        assert len(running) == 9
        assert isinstance(running[-1], Outcome)
        following = begin(PROMPTS[1], 4)
        while scheduler.step():
            pass
        assert following[-1].timings.cached_n == 0
    with opened(model_bundle, "lossless") as engine:
        expected = engine.generate(PROMPTS[1], SamplingParams(max_tokens=4, ignore_eos=True))
        assert [event.delta.token_id for event in following[:-1]] == expected.token_ids


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
