"""Drafts change no token and no logit, wherever they run; where they cannot, the engine says so."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MODEL
from given_text import GivenText
from serving import served

from edge_runtime import Engine, SamplingParams
from edge_runtime.base.errors import ConfigError, HobbitError, RequestError
from edge_runtime.bundle.manifest_file import read
from edge_runtime.engine.job import Event, Job, Outcome, TokenEvent
from edge_runtime.engine.observer import SchedulerObserver
from edge_runtime.engine.pass_parts import nothing
from edge_runtime.engine.scheduler import Scheduler
from edge_runtime.engine.sessions import SessionPool
from edge_runtime.lab.simulator.recording import record
from edge_runtime.lab.simulator.replay import ReplaySettings, simulate
from edge_runtime.lab.simulator.trace import Trace

TEXT = (MODEL / "heldout_python.txt").read_text()
CODE = TEXT[:700]
GREEDY = SamplingParams(max_tokens=48, ignore_eos=True)


def opened(bundle: Path, speculate: str = "ngram", **options: Any) -> Engine:
    given = {"memory": "2GiB", "context": 1024, "threads": 1, "tier": 4, "self_check": False, **options}
    return Engine.open(bundle, speculate=speculate, **given)


def slots(bundle: Path, share: float) -> int:
    """Memory for that share of the experts at four bits."""
    manifest = read(bundle)
    every = manifest.model.num_experts * len(manifest.model.sparse_layers)
    return int(share * every) * manifest.layout.tier_bytes(4)


@contextmanager
def scheduled(engine: Engine, before_layer: Callable[[], None] = nothing) -> Iterator[Scheduler]:
    with engine:
        yield engine.hand_over(SessionPool.of(engine.parts), SchedulerObserver(), before_layer)


def run(scheduler: Scheduler, prompt: Sequence[int], params: SamplingParams = GREEDY, **job: Any) -> list[Event]:
    found: list[Event] = []
    scheduler.begin(Job(np.array(prompt, np.int32), params, found.append, **job))
    while scheduler.step():
        pass
    return found


def tokens_of(events: Sequence[Event]) -> list[int]:
    return [event.delta.token_id for event in events if isinstance(event, TokenEvent)]


def outcome_of(events: Sequence[Event]) -> Outcome:
    assert isinstance(events[-1], Outcome), events[-1]
    return events[-1]


@pytest.fixture(scope="module")
def plain(model_bundle) -> list[int]:
    """What the model says without drafts, everything in memory."""
    with opened(model_bundle, "off") as engine:
        report = engine.generate(CODE, GREEDY)
        assert report.speculation is None
        return report.token_ids


@pytest.mark.parametrize("more", [{}, {"prefetch": "lookahead:adaptive=false"}, {"eviction": "lru", "prefetch": "off"}])
@pytest.mark.parametrize("share", [1, 0.8, 0.5, 0.2])
def test_greedy_tokens_are_those_without_drafts(model_bundle, plain, share, more):
    with opened(model_bundle, expert_memory=slots(model_bundle, share), **more) as engine:
        for _ in range(2):
            report = engine.generate(CODE, GREEDY)
            assert report.token_ids == plain
    found = report.speculation
    assert found["drafted"] >= found["accepted"] + found["cut"]
    assert report.timings["predicted_n"] == len(plain)
    if share == 1:
        assert found["accepted"] > 5
        assert found["cut"] == 0
    if share == 0.2:
        assert found["cut"] > 0


def test_every_logit_of_a_text_that_is_given_has_the_same_bits(model_bundle):
    """Its drafts are right, so that nearly every logit comes from a pass of several tokens."""
    events = {}
    for mode in ("off", "ngram"):
        with scheduled(opened(model_bundle, mode, expert_memory=slots(model_bundle, 0.9))) as scheduler:
            prompt = np.random.default_rng(1).integers(0, 200, 20).tolist()
            text, vocab = prompt * 4, read(model_bundle).model.vocab_size
            params = SamplingParams(max_tokens=len(text), ignore_eos=True)
            events[mode] = run(scheduler, prompt, params, constraint=GivenText(text, vocab), logprobs=5)
    assert tokens_of(events["ngram"]) == text
    assert events["ngram"][:-1] == events["off"][:-1], "log probabilities and the likeliest tokens of every place"
    found = outcome_of(events["ngram"]).speculation
    assert found["accepted"] > 20


def test_sampling_with_a_seed_draws_the_same_tokens(model_bundle):
    params = SamplingParams(max_tokens=60, temperature=0.8, top_p=0.9, frequency_penalty=0.2, seed=5, ignore_eos=True)
    found = []
    for mode in ("off", "ngram", "auto"):
        with opened(model_bundle, mode) as engine:
            found.append(engine.generate(CODE, params))
    assert found[0].token_ids == found[1].token_ids == found[2].token_ids
    assert found[1].speculation["accepted"] > 0


@pytest.mark.parametrize("count", range(1, 9))
def test_a_limit_or_a_full_context_ends_where_it_does_without_drafts(model_bundle, plain, count):
    with opened(model_bundle) as engine:
        prompt = engine.tokenizer.encode(CODE)
        report = engine.generate(CODE, SamplingParams(max_tokens=count, ignore_eos=True))
        assert (report.token_ids, report.finish_reason) == (plain[:count], "length")
    with opened(model_bundle, context=len(prompt) + 20 + count) as engine:
        report = engine.generate(CODE, SamplingParams(ignore_eos=True))
        assert report.token_ids == plain[: 21 + count]
        assert engine.parts.kv.length == engine.parts.kv.context


def test_a_stop_string_within_a_draft_ends_the_text_there(model_bundle):
    with opened(model_bundle, "off") as engine:
        text = engine.generate(CODE, GREEDY).text
    with opened(model_bundle) as engine, opened(model_bundle, "off") as other:
        for start in range(4, 40, 5):
            params = SamplingParams(max_tokens=48, ignore_eos=True, stop=(text[start : start + 4],))
            found, expected = engine.generate(CODE, params), other.generate(CODE, params)
            assert (found.text, found.token_ids) == (expected.text, expected.token_ids)
            assert found.finish_reason == expected.finish_reason
            assert engine.parts.kv.length == other.parts.kv.length, "nothing behind the end is kept"


def test_the_end_token_within_a_draft_ends_the_text(model_bundle):
    """The text comes twice; its end token is drafted with what followed it the first time."""
    with scheduled(opened(model_bundle)) as scheduler:
        spec = read(model_bundle).model
        eos = next(iter(spec.eos_token_ids))
        text = [*range(40, 50), eos]
        events = run(
            scheduler, [*text, *range(60, 70), 40], SamplingParams(max_tokens=40),
            constraint=GivenText(text[1:], spec.vocab_size),
        )  # fmt: skip
        assert tokens_of(events) == text[1:]
        assert outcome_of(events).finish_reason == "stop"
        assert outcome_of(events).speculation["accepted"] > 3


def test_a_stream_that_is_left_and_one_that_goes_on_from_it(model_bundle):
    with opened(model_bundle, "off") as engine:
        prompt = list(engine.tokenizer.encode(CODE))
        expected = engine.generate(prompt, GREEDY).token_ids
    with opened(model_bundle) as engine:
        taken = []
        for chunk in engine.stream(prompt, GREEDY):
            taken.append(chunk.token_id)
            if len(taken) == 17:
                break
        assert taken == expected[:17]
        longer = prompt + expected[:12]
        again = engine.generate(longer, SamplingParams(max_tokens=36, ignore_eos=True), reuse_prefix=True)
        assert again.token_ids == expected[12:]
        assert again.timings["cached_n"] >= len(prompt) + 10


def test_a_request_that_is_cancelled_hears_of_no_token_more(model_bundle):
    with scheduled(opened(model_bundle)) as scheduler:
        text = list(range(50, 62))
        events: list[Event] = []

        def deliver(event: Event) -> None:
            events.append(event)
            if len(tokens_of(events)) == 15:
                job.cancel()

        given = GivenText(text * 6, read(model_bundle).model.vocab_size)
        params = SamplingParams(max_tokens=60, ignore_eos=True)
        job = Job(np.array(text, np.int32), params, deliver, constraint=given)
        scheduler.begin(job)
        while scheduler.step():
            pass
        assert len(tokens_of(events)) == 15
        assert outcome_of(events).finish_reason == "cancelled"
        assert outcome_of(events).speculation["accepted"] > 5
        again = run(scheduler, text, params, constraint=GivenText(text * 6, read(model_bundle).model.vocab_size))
        assert tokens_of(again) == text * 5


def test_a_constraint_that_fails_within_a_draft_fails_behind_the_tokens_before(model_bundle):
    found = {}
    for mode in ("off", "ngram"):
        with scheduled(opened(model_bundle, mode)) as scheduler:
            text = list(range(50, 62))
            given = GivenText(text * 6, read(model_bundle).model.vocab_size, fails_at=26)
            found[mode] = run(scheduler, text, SamplingParams(max_tokens=60, ignore_eos=True), constraint=given)
            assert isinstance(found[mode][-1], RequestError)
    assert tokens_of(found["ngram"]) == tokens_of(found["off"])
    assert len(tokens_of(found["off"])) == 26


def test_several_requests_get_their_tokens_and_only_one_by_itself_has_drafts(model_bundle):
    prompts = [TEXT[:400], TEXT[900:1300], TEXT[2000:2300]]
    with opened(model_bundle, "off") as engine:
        ids = [list(engine.tokenizer.encode(prompt)) for prompt in prompts]
        alone = [engine.generate(each, SamplingParams(max_tokens=n, ignore_eos=True)).token_ids
                 for each, n in zip(ids, (8, 8, 60), strict=True)]  # fmt: skip
    engine = opened(model_bundle, parallel=3, expert_memory=slots(model_bundle, 0.6))
    with scheduled(engine) as scheduler:
        events: list[list[Event]] = [[] for _ in prompts]
        for each, n, seen in zip(ids, (8, 8, 60), events, strict=True):
            params = SamplingParams(max_tokens=n, ignore_eos=True)
            scheduler.begin(Job(np.array(each, np.int32), params, seen.append))
        while scheduler.step():
            if scheduler.num_running > 1:
                assert engine.parts.speculation.totals.passes == 0
        assert [tokens_of(seen) for seen in events] == alone
        assert engine.parts.speculation.totals.passes > 0


def test_memory_and_policy_may_change_while_drafts_run(model_bundle, plain):
    with opened(model_bundle, "auto") as engine:
        found = []
        for number, chunk in enumerate(engine.stream(CODE, GREEDY)):
            found.append(chunk.token_id)
            if number in (10, 25):
                engine.resize(expert_memory=slots(model_bundle, 0.3 if number == 10 else 0.9))
        assert found == plain
        assert engine.last_report().speculation["is_on"] in (True, False)


def test_a_pass_that_fails_leaves_nothing(model_bundle, plain):
    calls = [0, -1]

    def before_layer() -> None:
        calls[0] += 1
        if calls[0] == calls[1]:
            raise RequestError("a layer failed")

    engine = opened(model_bundle)
    with scheduled(engine, before_layer) as scheduler:
        prompt = list(engine.tokenizer.encode(CODE))
        assert tokens_of(run(scheduler, prompt, reuse_prefix=False)) == plain
        layers = calls[0]
        for fails_at in range(layers // 2, layers, layers // 7):
            calls[:] = [0, fails_at]
            events = run(scheduler, prompt, reuse_prefix=False)
            assert isinstance(events[-1], RequestError)
            done = tokens_of(events)
            assert done == plain[: len(done)]
            calls[:] = [0, -1]
            left = SamplingParams(max_tokens=48 - len(done), ignore_eos=True)
            assert tokens_of(run(scheduler, prompt + done, left)) == plain[len(done) :]


@pytest.mark.parametrize("policy", ["hobbit", "cache-prior:lambda=0.4", "cumsum"])
def test_lossy_policies_have_no_drafts_and_say_why(model_bundle, policy):
    with opened(model_bundle, policy=policy, expert_memory=slots(model_bundle, 0.5), tier=8) as engine:
        found = engine.generate(CODE, GREEDY)
    assert found.speculation["drafted"] == 0
    assert "decides for the tokens of a pass together" in found.speculation["off_because"]


def test_a_trunk_that_promises_nothing_is_refused_by_name_or_left_alone(model_bundle):
    with pytest.raises(ConfigError, match="speculate: ngram .*same bits in a pass of several.*--speculate auto or off"):
        opened(model_bundle, trunk="onnx")
    with opened(model_bundle, "auto", trunk="onnx") as engine:
        report = engine.generate(CODE, SamplingParams(max_tokens=4))
    assert "same bits" in report.speculation["off_because"]
    assert report.speculation["is_on"] is False


def test_a_word_that_is_no_mode_is_refused(model_bundle):
    with pytest.raises(ConfigError, match="expected one of off, ngram, auto, got 'medusa'"):
        opened(model_bundle, "medusa")
    with pytest.raises(HobbitError):
        opened(model_bundle, "")


def test_passes_of_one_token_have_no_room_for_drafts(model_bundle, plain):
    with opened(model_bundle, prefill_chunk=1) as engine:
        report = engine.generate(CODE, GREEDY)
    assert report.token_ids == plain
    assert report.speculation["drafted"] == 0


def test_a_trace_is_recorded_token_by_token_whatever_is_drafted(model_bundle, tmp_path):
    path, few = tmp_path / "trace", 40
    options = {"expert_memory": few * read(model_bundle).layout.tier_bytes(4), "eviction": "lru", "prefetch": "off"}
    with opened(model_bundle, **options) as engine:
        ids = list(engine.tokenizer.encode(CODE))[:60]
        assert record(engine, [ids], path) == 60
        ran = engine.parts.cache.counters
    found = simulate(Trace(path), ReplaySettings(few, "lossless", "lru")).counters
    assert (found.hits, found.misses, found.bytes_read) == (ran.hits, ran.misses, ran.bytes_read)


LIST = {"type": "array", "minItems": 6, "maxItems": 6, "items": {"enum": ["north by northwest", "north by northeast"]}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "list", "schema": LIST, "strict": True}}


def events_of(text: str) -> list[Any]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


def test_the_service_answers_grammars_and_streams_as_without_drafts(model_bundle):
    """The last of each pair has drafts; what is said of tokens is the same, and of drafts what the figures count."""
    asked = [
        {"prompt": CODE, "max_tokens": 40, "logprobs": 2},
        {"prompt": "A list:", "max_tokens": 90, "response_format": SCHEMA},
        {"prompt": CODE, "max_tokens": 40, "stop": ["return"], "stream": True, "stream_options": {"include_usage": True}},
        {"prompt": CODE, "max_tokens": 40, "temperature": 0.7, "seed": 3, "n": 2},
    ]  # fmt: skip
    found, drafts = [], []
    for mode in ("off", "ngram"):
        flags = [
            "--context",
            "1024",
            "--threads",
            "1",
            "--parallel",
            "2",
            "--speculate",
            mode,
            "--no-self-check",
            "--model-name",
            "m",
        ]
        with served(model_bundle, *flags) as service:
            said = []
            for body in asked:
                text = service.get("/v1/completions", {"model": "m", "temperature": 0, **body})
                parts = events_of(text) if body.get("stream") else [json.loads(text)]
                last = [part["hobbit"]["speculation"] for part in parts if "hobbit" in part][-1]
                drafts.append(last)
                said.append([(part["choices"], part.get("usage")) for part in parts])
            found.append(said)
            tokens = json.loads(service.get("/v1/stats"))["tokens"]
            metrics = service.get("/metrics")
    assert found[0] == found[1]
    assert drafts[:4] == [None] * 4
    accepted = [one["accepted"] for one in drafts[4:]]
    assert accepted[0] > 0
    assert accepted[1] > 10, "the list says the same over and over"
    assert accepted[2] > 0
    assert sum(accepted) <= tokens["accepted"] < tokens["drafted"]
    assert "spec_decode_num_accepted_tokens_total{model_name" in metrics
