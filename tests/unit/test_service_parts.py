"""The service's pure parts: strict fields, the splitter of the model's marks, sessions, listening, joint decisions."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MODEL
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_cases import context

from edge_runtime.backends.cpu.trunk.kv_cache import HostKVCache
from edge_runtime.base.errors import ConfigError
from edge_runtime.base.spec import StateArray
from edge_runtime.engine.sessions import SessionPool
from edge_runtime.engine.tokenizer import Tokenizer
from edge_runtime.policy.base import Decision, ResidencyView, Routing
from edge_runtime.policy.joint import PassPolicies
from edge_runtime.policy.lossless import Lossless
from edge_runtime.service.http.listen import adopt, listen_tcp, listen_unix, read_api_keys
from edge_runtime.service.openai.call_formats.hermes import Hermes
from edge_runtime.service.openai.copied_constraint import CopiedConstraint
from edge_runtime.service.openai.formats import Format
from edge_runtime.service.openai.grammar import Vocabulary
from edge_runtime.service.openai.messages import Tool
from edge_runtime.service.openai.output_splitter import Delta, OutputSplitter

ARRAYS = [[StateArray("k", (1, 2), True), StateArray("v", (1, 2), True)]]


def joined(deltas: list[Delta]) -> tuple[str, str, list[dict[str, Any]]]:
    content, reasoning = "".join(d.content for d in deltas), "".join(d.reasoning for d in deltas)
    return content, reasoning, [d.call["function"] for d in deltas if d.call is not None]


@settings(deadline=None)
@given(st.lists(st.integers(0, 60), max_size=12))
def test_marks_are_found_however_the_text_is_cut(cuts: list[int]) -> None:
    call = '<tool_call>\n{"name": "f", "arguments": {"a": [1, "<b>"]}}\n</tool_call>'
    text = f"<think>\nhm < x\n</think>\n\nSure. {call}\n{call}<tool"
    splitter = OutputSplitter(with_calls=True, with_thinking=True, thinking=False)
    deltas, at = [], 0
    for cut in cuts:
        deltas += splitter.push(text[at : at + cut])
        at += cut
    deltas += splitter.push(text[at:]) + splitter.flush()
    function = {"name": "f", "arguments": '{"a": [1, "<b>"]}'}
    assert joined(deltas) == ("Sure. <tool", "hm < x\n", [function, function])
    assert splitter.count_calls(text) == 2


@pytest.mark.parametrize(
    "text",
    ["<tool_call>{nonsense}</tool_call>", "<tool_call>[1]</tool_call>", '<tool_call>{"name": "f"', "a <tool_cal"],
)
def test_what_is_no_call_is_text(text: str) -> None:
    splitter = OutputSplitter(with_calls=True, with_thinking=False, thinking=False)
    assert joined(splitter.push(text) + splitter.flush()) == (text, "", [])


def test_without_marks_text_passes_untouched_and_a_prompt_may_open_the_thinking() -> None:
    plain = OutputSplitter(with_calls=False, with_thinking=False, thinking=False)
    assert joined(plain.push(" <think>") + plain.flush()) == (" <think>", "", [])
    thinking = OutputSplitter(with_calls=False, with_thinking=True, thinking=True)
    assert joined(thinking.push("\nhm</think>\n\nyes") + thinking.flush()) == ("yes", "hm", [])


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def fill(pool: SessionPool, *tokens: int) -> None:
    session, kept = pool.acquire(ids(*tokens))
    session.kv.advance(len(tokens) - kept)
    session.extend(ids(*tokens[kept:]))
    pool.release(session)


def test_a_prompt_gets_the_session_with_its_prefix() -> None:
    pool = SessionPool([HostKVCache(ARRAYS, 64) for _ in range(3)])
    fill(pool, 1, 2, 3, 4)
    fill(pool, 9, 8, 7)
    session, kept = pool.acquire(ids(1, 2, 3, 4, 5))
    assert (kept, session.tokens, session.kv.length) == (4, (1, 2, 3, 4), 4)
    # busy: the same prefix must go elsewhere, into the session never used
    other, kept = pool.acquire(ids(1, 2, 3, 4, 5))
    assert (kept, other.tokens) == (0, ())
    assert pool.num_busy == 2
    pool.release(session)
    # the same prompt again: its last token is run, to have logits
    assert pool.acquire(ids(1, 2, 3, 4))[1] == 3


def test_a_prefix_that_another_policy_decided_on_is_not_used() -> None:
    pool = SessionPool([HostKVCache(ARRAYS, 64) for _ in range(2)])
    fill(pool, 1, 2, 3, 4)
    session, kept = pool.acquire(ids(1, 2, 3, 4, 5), policy="hobbit")
    assert (kept, session.tokens) == (0, ()), "and the session with the prefix is left alone"
    pool.release(session)
    again, kept = pool.acquire(ids(1, 2, 3, 4, 5))
    assert (kept, again is session) == (4, False)
    # with one session there is no choice: what it holds goes
    single = SessionPool([HostKVCache(ARRAYS, 64)])
    fill(single, 1, 2, 3, 4)
    for policy in ("hobbit", "lossless", None):
        session, kept = single.acquire(ids(1, 2, 3, 4, 5), policy=policy)
        assert (kept, session.num_tokens, session.kv.length) == (0, 0, 0)
        session.kv.advance(4)
        session.extend(ids(1, 2, 3, 4))
        single.release(session)
        session, kept = single.acquire(ids(1, 2, 3, 4, 5), policy=policy)
        assert kept == 4
        single.release(session)


def test_a_prompt_takes_over_what_a_busy_session_holds() -> None:
    pool = SessionPool([HostKVCache(ARRAYS, 64) for _ in range(3)])
    first, _ = pool.acquire(ids(*range(10, 30)))
    first.kv.require(20)
    first.kv.advance(20)
    first.extend(ids(*range(10, 30)))
    second, kept = pool.acquire(ids(*range(10, 26), 50))
    assert kept == 0
    assert second.copy_prefix(ids(*range(10, 26), 50), [first]) == 16
    assert (second.tokens, second.kv.length, second.num_tokens) == (tuple(range(10, 26)), 16, 16)
    assert (first.num_tokens, first.tokens) == (20, tuple(range(10, 30)))
    # three tokens are not copied, the same prompt is but for its last, and nothing is from before a reload
    third, _ = pool.acquire(ids(10, 11, 12, 60))
    assert third.copy_prefix(ids(10, 11, 12, 60), [first, second]) == 0
    assert third.copy_prefix(ids(*range(10, 30)), [second, first]) == 19
    third.truncate(0)
    pool.forget()
    assert third.copy_prefix(ids(*range(10, 30)), [second, first]) == 0


def test_a_short_common_beginning_does_not_cost_another_conversation_its_tail() -> None:
    pool = SessionPool([HostKVCache(ARRAYS, 64) for _ in range(2)])
    fill(pool, 1, *range(10, 30))
    session, kept = pool.acquire(ids(1, 50, 51))
    assert (kept, session.tokens) == (0, ())
    pool.release(session)
    # with one session there is no choice
    single = SessionPool([HostKVCache(ARRAYS, 64)])
    fill(single, 1, *range(10, 30))
    assert single.acquire(ids(1, 50, 51))[1] == 1


class Halves:
    """A policy that drops the second expert of every token."""

    name = "halves"

    @property
    def params(self) -> dict[str, float | int | str | bool]:
        return {}

    reads_residency = False
    follows_router = False
    native = None
    keeps_history = False
    price = 0.0

    def predict_tiers(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> np.ndarray:
        return self.decide(layer_idx, routing, residency).tiers

    def decide(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> Decision:
        weights = routing.topk_weights.copy()
        weights[:, 1] = 0
        tiers = np.zeros(routing.logits.shape[1], np.uint8)
        tiers[routing.topk_ids[:, 0]] = 4
        return Decision(routing.topk_ids, weights, tiers, substituted=1, skipped=len(weights))

    def begin_sequence(self) -> None: ...


def test_policies_of_several_requests_are_joined_into_one_plan() -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((5, 6)).astype(np.float32)
    top = np.argsort(-logits, 1)[:, :2].astype(np.int32)
    routing = Routing(logits, top, np.full((5, 2), 0.5, np.float32))
    exact, halves = Lossless(context(num_experts=6, top_k=2)), Halves()
    view: Any = None
    # sequences of 1, 3 and 1 tokens; the one in the middle is lossy
    decision = PassPolicies([exact, halves, exact], [1, 3, 1]).decide(0, routing, view)
    assert decision.topk_weights.tolist() == [[0.5, 0.5], [0.5, 0], [0.5, 0], [0.5, 0], [0.5, 0.5]]
    wanted = np.zeros(6, np.uint8)
    wanted[top[1:4, 0]] = 4
    wanted[top[[0, 4]]] = 8
    assert decision.tiers.tolist() == wanted.tolist()
    assert (decision.substituted, decision.skipped) == (1, 3)
    alone = PassPolicies([exact] * 3, [1, 3, 1]).decide(0, routing, view)
    np.testing.assert_array_equal(alone.tiers, exact.decide(0, routing, view).tiers)


def test_keys_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# ours\n" + "a" * 20 + "\n\n" + "b" * 16 + "\n")
    assert read_api_keys(str(path)) == ("a" * 20, "b" * 16)
    assert read_api_keys(None) == ()
    for text in ("", "short", "with a space in it", "é" * 20):
        path.write_text(text)
        with pytest.raises(ConfigError, match="api-key-file"):
            read_api_keys(str(path))
    with pytest.raises(ConfigError, match="cannot read"):
        read_api_keys(str(tmp_path / "nowhere"))


def test_other_machines_are_let_in_with_a_key_only(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::"):
        with pytest.raises(ConfigError, match="API key"):
            listen_tcp(host, 0, has_key=False)
    found = listen_tcp("0.0.0.0", 0, has_key=True)
    assert not found.local_only
    with pytest.raises(ConfigError, match="API key"):
        adopt(found.sockets, has_key=False)
    found.close()
    local = listen_tcp("127.0.0.1", 0, has_key=False)
    port = local.sockets[0].getsockname()[1]
    with pytest.raises(ConfigError, match="Choose another --port"):
        listen_tcp("127.0.0.1", port, has_key=False)
    local.close()
    with pytest.raises(ConfigError, match="no address"):
        listen_tcp("nowhere.invalid", 0, has_key=True)


def test_a_unix_socket_replaces_a_stale_one_only(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    found = listen_unix(path)
    assert path.stat().st_mode & 0o777 == 0o660
    with pytest.raises(ConfigError, match="another server"):
        listen_unix(path)
    found.close()
    assert not path.exists()
    path.write_text("a file of somebody's")
    with pytest.raises(ConfigError, match="cannot use"):
        listen_unix(path)
    assert path.read_text() == "a file of somebody's"


def test_one_call_where_only_one_is_wanted() -> None:
    call = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    splitter = OutputSplitter(with_calls=True, with_thinking=False, thinking=False, only_one_call=True)
    content, _, calls = joined(splitter.push(f"Sure. {call}\n{call} and") + splitter.push(" more") + splitter.flush())
    assert (content, len(calls)) == ("Sure. ", 1)
    assert splitter.count_calls(f"{call}{call}") == 1


def test_answers_have_a_grammar_each_and_none_before_its_first_token() -> None:
    vocabulary = Vocabulary((MODEL / "tokenizer.json").read_bytes(), 4096, (0,))
    original = vocabulary.of_format(Format("regex", pattern="ab|cd"))
    copies = [CopiedConstraint(original) for _ in range(2)]
    tokens = {letter: Tokenizer.from_folder(MODEL).encode(letter)[0] for letter in "abcd"}
    copies[0].accept(tokens["a"])
    assert [bool(copies[0].allowed()[tokens[letter]]) for letter in "bd"] == [True, False]
    copies[1].accept(tokens["c"])
    assert [bool(copies[1].allowed()[tokens[letter]]) for letter in "bd"] == [False, True]
    copies[0].accept(tokens["b"])
    assert copies[0].is_complete
    assert not copies[1].is_complete
    assert original.allowed()[tokens["a"]]


TOOLS = (
    Tool("weather", "", {"type": "object", "properties": {"days": {"type": "integer"}}, "required": ["days"],
                         "additionalProperties": False}, strict=True),
    Tool("free", "", {"type": "object", "properties": {"days": {"type": "integer"}}}),
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "is_allowed"),
    [
        ("It rains.", True),
        ('Hm. <tool_call>\n{"name": "weather", "arguments": {"days": 3}}\n</tool_call>', True),
        ('<tool_call>\n{"name": "weather", "arguments": {"days": 3}}\n</tool_call> And: <tool_call>\n{"name', True),
        ('<tool_call>\n{"name": "weather", "arguments": {"days": "three"', False),
        ('<tool_call>\n{"name": "wind"', False),
        ('<tool_call>\n{"name": "free", "arguments": {"days": "three"}}\n</tool_call>', True),
    ],
)
def test_calls_of_strict_tools_follow_their_schema_in_free_text(text: str, is_allowed: bool) -> None:
    vocabulary = Vocabulary((MODEL / "tokenizer.json").read_bytes(), 4096, (0,))
    tokenizer = Tokenizer.from_folder(MODEL)
    grammar = vocabulary.of_strict_tools(TOOLS, Hermes())
    follows = True
    for token in tokenizer.encode(text):
        follows = follows and bool(grammar.allowed()[token])
        if follows:
            grammar.accept(token)
    assert follows is is_allowed
