"""Warm start: what a workload used is remembered, and read again in its order, behind everybody else."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from fakes import FakeStore

from edge_runtime.backends.cpu.space import HostSpace
from edge_runtime.base.errors import ConfigError
from edge_runtime.config.options import BY_NAME
from edge_runtime.engine.warm.preload import Preload, prime
from edge_runtime.engine.warm.usage import UsageFile, preload_order
from edge_runtime.experts.cache import ExpertCache
from edge_runtime.experts.eviction import RULES, RuleContext, create_rule
from edge_runtime.experts.expert_memory import ExpertMemory
from edge_runtime.experts.residents import Residents
from edge_runtime.experts.store.base import Priority
from edge_runtime.experts.units import UnitLedger, UnitSizes

PAGE, L, E, K, TIER = 4096, 3, 8, 2, 4
USES = np.array([[0, 9, 0, 4, 0, 0, 0, 1], [5, 0, 0, 0, 0, 4, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0]], np.int64)
ORDER = [(0, 1), (1, 0), (0, 3), (1, 5), (0, 7)]


def residents(slots: int, rule: str = "lru") -> Residents:
    ledger = UnitLedger(UnitSizes(TIER, TIER, PAGE), slots * PAGE, L * E)
    context = RuleContext(num_layers=L, num_experts=E, tier_bytes={4: 1}, full_tier=4, top_k=K, capacity=slots)
    return Residents(ledger, create_rule(rule, context), num_layers=L, num_experts=E)


def make(slots: int, rule: str = "lru", **script) -> tuple[ExpertCache, FakeStore]:
    store, held = FakeStore(PAGE, **script), residents(slots, rule)
    return ExpertCache(held, ExpertMemory(HostSpace(), held.ledger), store), store


def file(tmp_path, uses=USES) -> UsageFile:
    found = UsageFile.of("b" * 64, "chat", (L, E), tmp_path)
    if uses is not None:
        found.add(uses)
    return found


def ask(cache: ExpertCache, layer: int, *experts: int) -> None:
    tiers = np.zeros(E, np.uint8)
    tiers[list(experts)] = TIER
    for _ in cache.stream(layer, tiers):
        pass


def finish(preload: Preload, store: FakeStore) -> None:
    for _ in range(100):
        if not preload.step():
            return
        store.now += 1
    raise AssertionError("it goes on for ever")


def test_the_most_used_come_first_and_unused_ones_never():
    assert preload_order(USES.astype(float)) == ORDER


def test_uses_are_remembered_and_older_ones_fade(tmp_path):
    found = file(tmp_path, None)
    assert found.read() is None
    found.add(np.zeros((L, E), np.int64))
    assert not found.path.exists(), "nothing ran: nothing is remembered"
    found.add(USES)
    assert (found.read() == USES).all()
    found.add(USES)
    assert (found.read() == 1.5 * USES).all()


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"version": 2}', '{"version": 1}', '{"version": 1, "uses": [[1, 2]]}', "[" * 100_000,
     json.dumps({"version": 1, "uses": [[-1] * E] * L}), json.dumps({"version": 1, "uses": [["x"] * E] * L}),
     json.dumps({"version": 1, "uses": [[float("nan")] * E] * L}), " " * (1 << 20),
     json.dumps({"version": 1, "uses": [[10**400] * E] * L})],
)  # fmt: skip
def test_a_damaged_file_preloads_nothing_and_says_so(tmp_path, text, caplog):
    found = file(tmp_path)
    found.path.write_text(text)
    assert found.read() is None
    assert "cannot be used" in caplog.text
    found.add(USES)
    assert (found.read() == USES).all(), "and is replaced"


def test_a_pipe_in_its_place_hangs_nothing(tmp_path, caplog):
    found = file(tmp_path)
    found.path.unlink()
    os.mkfifo(found.path)
    assert found.read() is None
    assert "expected a plain file" in caplog.text


def test_a_folder_that_cannot_be_written_is_no_failure_and_loses_no_uses(tmp_path, caplog):
    (tmp_path / "warm").write_text("a file where a folder should be")
    cache, store = make(8)
    preload = Preload(cache, file(tmp_path, None), top_k=K, depth=8)
    finish(preload, store)
    ask(cache, 0, 5)
    preload.save()
    assert "cannot be written" in caplog.text
    (tmp_path / "warm").unlink()
    ask(cache, 0, 5)
    for _ in range(2):
        preload.save()
        assert file(tmp_path, None).read()[0, 5] == 2, "both uses, once"


@pytest.mark.parametrize("name", ["", "../x", "a b", ".x", "x" * 65])
def test_names_of_workloads_are_names_of_files(name):
    option = BY_NAME["warm_start"]
    with pytest.raises(ConfigError, match="--warm-start"):
        option.kind.convert(name, "--warm-start")
    assert option.kind.convert("chat-2.de", "") == "chat-2.de"


def test_they_are_read_in_order_a_few_at_once_and_behind_others(tmp_path):
    cache, store = make(8)
    preload = Preload(cache, file(tmp_path), top_k=K, depth=2)
    assert preload.step()
    assert [(key.layer_idx, key.expert_idx) for key, _ in store.submitted] == ORDER[:2]
    assert {priority for _, priority in store.submitted} == {Priority.SPECULATIVE}
    finish(preload, store)
    assert [(key.layer_idx, key.expert_idx) for key, _ in store.submitted] == ORDER
    state = preload.to_json()
    assert (state["preloaded"], state["wanted"], state["nbytes"]) == (5, 5, 5 * PAGE)
    assert state["is_over"]
    before = cache.counters.misses
    ask(cache, 0, 1, 3)
    assert cache.counters.misses == before


def test_nothing_is_evicted_for_it(tmp_path):
    cache, store = make(4)
    ask(cache, 2, 1, 2, 3)
    preload = Preload(cache, file(tmp_path), top_k=K, depth=4)
    finish(preload, store)
    assert cache.counters.evicted == 0
    assert (cache.resident_tiers(2)[[1, 2, 3]] == TIER).all()
    assert cache.resident_tiers(0)[1] == TIER, "the most used one had room"
    assert preload.to_json()["preloaded"] == 1


def test_what_a_request_gave_up_is_read_later(tmp_path):
    cache, store = make(8, latency=lambda key: 5)
    preload = Preload(cache, file(tmp_path), top_k=K, depth=2)
    preload.step()
    cache.begin_request()  # gives up reads nobody asked for
    finish(preload, store)
    assert all(cache.resident_tiers(layer)[expert] == TIER for layer, expert in ORDER)


def test_an_emptied_cache_is_filled_as_another_run_would(tmp_path):
    cache, store = make(8)
    preload = Preload(cache, file(tmp_path), top_k=K, depth=8)
    finish(preload, store)
    for _ in range(20):
        ask(cache, 0, 5)
    store.submitted.clear()
    preload.save()
    cache.start_over(residents(8))
    finish(preload, store)
    assert [(key.layer_idx, key.expert_idx) for key, _ in store.submitted] == [(0, 5), *ORDER]
    assert file(tmp_path, None).read()[0, 5] == 20
    ask(cache, 0, 5)
    preload.save()
    assert file(tmp_path, None).read()[0, 5] == 1 + 20 / 2


def test_where_nothing_can_be_written_a_cache_is_filled_from_what_was_remembered(tmp_path, caplog):
    cache, store = make(8)
    remembered = file(tmp_path)
    preload = Preload(cache, remembered, top_k=K, depth=8)
    finish(preload, store)
    ask(cache, 0, 5)
    remembered.path.with_name(f"{remembered.path.name}.part").mkdir()
    preload.save()
    cache.start_over(residents(8))
    finish(preload, store)
    assert "cannot be written" in caplog.text
    assert [e for e in range(E) if cache.resident_tiers(0)[e]] == [1, 3, 7]
    remembered.path.with_name(f"{remembered.path.name}.part").rmdir()
    preload.save()
    assert remembered.read()[0].tolist() == [0, 4.5, 0, 2, 0, 1, 0, 0.5], "the use before counts with those after it"


def test_what_is_to_be_forgotten_is_not_remembered(tmp_path):
    cache, store = make(8)
    preload = Preload(cache, file(tmp_path, None), top_k=K, depth=8)
    finish(preload, store)
    ask(cache, 0, 5)
    preload.forget()
    cache.start_over(residents(8))
    finish(preload, store)
    preload.save()
    assert file(tmp_path, None).read() is None


def test_a_failing_drive_ends_it_and_nothing_else(tmp_path):
    cache, _ = make(8, fails=lambda key: key == (0, 1))
    preload = Preload(cache, file(tmp_path), top_k=K, depth=8)
    for _ in range(30):
        preload.step()
        ask(cache, 2)
    ask(cache, 1, 0)
    assert cache.resident_tiers(1)[0] == TIER


@pytest.mark.parametrize("rule", [name for name, entry in RULES.items() if not entry.needs_calibration])
def test_rules_let_the_least_used_of_the_remembered_go_first(rule):
    """What was preloaded has no history of its own: a rule that was told nothing would let the hottest go."""
    held = residents(24, rule)
    uses = np.array([[8, 4, 2, 1, 0, 0, 0, 0]] * L, float)
    prime(held.rule, uses, top_k=1, tier=TIER)
    keys = np.arange(4)
    scores = held.rule.scores(keys, 1)
    assert scores[0] >= scores[1] >= scores[3]
    assert scores[0] > scores[3]
