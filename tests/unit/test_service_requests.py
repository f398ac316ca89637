"""Requests are read strictly: what is wrong is named, `null` is not given, what changes nothing is accepted."""

from __future__ import annotations

import json
import re
from typing import Any, get_type_hints

import msgspec
import openai.types.chat.completion_create_params as chat_params
import openai.types.completion_create_params as completion_params
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.bundle.sampling_defaults import SamplingDefaults
from edge_runtime.service.openai.api_errors import ApiError
from edge_runtime.service.openai.field_errors import to_api_error
from edge_runtime.service.openai.openapi import openapi_document
from edge_runtime.service.openai.parser import parse_request
from edge_runtime.service.openai.requests import ChatRequest, CompletionRequest
from edge_runtime.service.ops.figures import ServiceInfo

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
COMPLETION: dict[str, Any] = {"model": "m", "prompt": "Hi"}
NOTHING = SamplingDefaults()
TOOL = {"type": "function", "function": {"name": "f"}}


def parse_chat(**change: Any) -> ChatRequest:
    return parse_request(json.dumps({**CHAT, **change}).encode(), ChatRequest)


def parse_completion(**change: Any) -> CompletionRequest:
    return parse_request(json.dumps({**COMPLETION, **change}).encode(), CompletionRequest)


def message(**fields: Any) -> dict[str, Any]:
    return {"messages": [fields]}


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"model": 5}, "model", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": None}, "messages", "missing_required_parameter"),
        (message(role="user"), "messages.0.content", "missing_required_parameter"),
        (message(role="user", content=None), "messages.0.content", "missing_required_parameter"),
        (message(content="Hi"), "messages.0.role", "missing_required_parameter"),
        (message(role="wizard", content=""), "messages.0.role", "invalid_value"),
        (message(role=None, content=""), "messages.0.role", "invalid_value"),
        (message(role="user", content="", colour=1), "messages.0.colour", "unknown_parameter"),
        (message(role="user", content=[{"type": "image_url", "image_url": {}}]), "messages.0.content.0.type",
         "unsupported_parameter"),
        (message(role="user", content=[5]), "messages.0.content.0", "invalid_value"),
        (message(role="assistant", tool_calls=[{"function": {"name": "f", "arguments": "{"}}]),
         "messages.0.tool_calls.0.function.arguments", "invalid_value"),
        (message(role="assistant", audio={"id": "a"}), "messages.0.audio", "unsupported_parameter"),
        ({"n": 0}, "n", "invalid_value"),
        ({"n": 65}, "n", "invalid_value"),
        ({"n": 1.5}, "n", "invalid_value"),
        ({"n": True}, "n", "invalid_value"),
        ({"frequency_penalty": 2.1}, "frequency_penalty", "invalid_value"),
        ({"presence_penalty": "much"}, "presence_penalty", "invalid_value"),
        ({"presence_penalty": -2.1}, "presence_penalty", "invalid_value"),
        ({"logit_bias": {"5": 101}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"five": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"-5": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"05": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": [5]}, "logit_bias", "invalid_value"),
        ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias", "invalid_value"),
        ({"store": True}, "store", "unsupported_parameter"),
        ({"modalities": ["audio"]}, "modalities.0", "unsupported_parameter"),
        ({"functions": []}, "functions", "unsupported_parameter"),
        ({"stream_options": {}}, "stream_options", "invalid_value"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "unknown_parameter"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation",
         "unsupported_parameter"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": 1.5}, "max_tokens", "invalid_value"),
        ({"max_tokens": 10**400}, "max_tokens", "invalid_value"),
        ({"seed": 1 << 63}, "seed", "invalid_value"),
        ({"temperature": "hot"}, "temperature", "invalid_value"),
        ({"temperature": 2.1}, "temperature", "invalid_value"),
        ({"temperature": False}, "temperature", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"stop": ["", "x"]}, "stop.0", "invalid_value"),
        ({"stop": ["x"] * 17}, "stop", "invalid_value"),
        ({"top_logprobs": 3}, "top_logprobs", "invalid_value"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing_required_parameter"),
        ({"response_format": {"type": "regex"}}, "response_format.pattern", "missing_required_parameter"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name", "invalid_value"),
        ({"tools": [{"type": "function", "function": {"name": "a\n"}}]}, "tools.0.function.name", "invalid_value"),
        ({"tools": [{"type": "function"}]}, "tools.0.function", "missing_required_parameter"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
         "tool_choice.function.name", "invalid_value"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": ""}}},
         "tool_choice.function.name", "invalid_value"),
        ({"chat_template_kwargs": {"messages": "x"}}, "chat_template_kwargs.messages", "invalid_value"),
        ({"chat_template_kwargs": {"x": []}}, "chat_template_kwargs.x", "invalid_value"),
        ({"hobbit": {"polcy": "lossless"}}, "hobbit.polcy", "unknown_parameter"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(change: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_chat(**change)
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, param, code)
    assert caught.value.message.startswith(f"{param}: ")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"max_tokens": 0}, "expected a whole number from 1 to 2147483648."),
        ({"temperature": 3}, "expected a number from 0 to 2."),
        ({"top_p": 0}, "expected a number above 0, at most 1."),
        ({"stream": "yes"}, "expected true or false."),
        ({"service_tier": "flex"}, "expected one of auto, default."),
        ({"stop": 5}, "expected a string that is not empty or a list of 0 to 16 entries."),
        ({"stop": ""}, "expected a string that is not empty or a list of 0 to 16 entries."),
        ({"presence_penalty": 3}, "expected a number from -2 to 2."),
        ({"n": 100}, "expected a whole number from 1 to 64."),
        ({"store": "no"}, "is not supported; only false is accepted."),
        ({"prediction": {}}, "is not supported; only null is accepted."),
        ({"logit_bias": {"5": "x"}}, "expected an object of names, each with a number from -100 to 100."),
        ({"logit_bias": {"x": 5}}, "expected token ids as keys, got 'x'."),
        ({"tool_choice": "sometimes"}, "expected one of auto, none, required or an object."),
        (
            {"tools": [{"type": "function", "function": {"name": ""}}]},
            "expected 1 to 64 letters, digits, '_', '-' or '.'.",
        ),
        ({"strem": True}, "unknown or unsupported field. Did you mean 'stream'?"),
        (message(role="user", content="", nam="x"), "unknown or unsupported field. Did you mean 'name'?"),
        # what other roles have is no suggestion
        (message(role="user", content="", tool_call=[]), "unknown or unsupported field."),
    ],
)
def test_messages_say_what_was_expected(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_chat(**change)
    assert caught.value.message.partition(": ")[2] == expected


def test_requests_are_read_with_openais_defaults() -> None:
    chat = parse_chat(stop="x", seed=-1, max_completion_tokens=5, n=1, presence_penalty=0.0)
    sampling = chat.sampling(NOTHING)
    assert (sampling.temperature, sampling.top_p, sampling.stop) == (1.0, 1.0, ("x",))
    assert (sampling.seed, sampling.max_tokens) == ((1 << 64) - 1, 5)
    assert (bool(chat.stream), chat.alternatives, chat.choice, chat.format) == (False, None, "none", None)
    assert parse_chat(logprobs=True).alternatives == 0
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    (developer,) = parse_chat(**message(role="developer", content=parts)).messages
    assert developer.to_template() == {"role": "system", "content": "ab"}
    completion = parse_completion(prompt=["x"], user="me")
    assert (completion.prompts, completion.sampling(NOTHING).max_tokens) == (["x"], 16)


@pytest.mark.parametrize(
    ("given", "prompts"),
    [("x", ["x"]), ([1, 2], [[1, 2]]), (["x", "y"], ["x", "y"]), ([[1, 2], [3]], [[1, 2], [3]]), ([[1, 2]], [[1, 2]])],
)
def test_one_prompt_or_several(given: Any, prompts: list[Any]) -> None:
    assert parse_completion(prompt=given).prompts == prompts


@pytest.mark.parametrize("mixture", [[1, "x"], ["x", 1], ["x", [1]], [[1], 2]])
def test_prompts_of_several_kinds_are_refused(mixture: Any) -> None:
    with pytest.raises(
        ApiError, match=r"prompt: expected strings, or token ids, or lists of token ids; not a mixture\."
    ):
        parse_completion(prompt=mixture)


def test_answers_to_one_request_are_bounded() -> None:
    assert len(parse_completion(prompt=["x"] * 64).prompts) == 64
    assert parse_completion(prompt=["x"] * 16, n=4).answers == 4
    for change, param in (({"prompt": ["x"] * 65}, "prompt"), ({"prompt": ["x"] * 33, "n": 2}, "n")):
        with pytest.raises(ApiError, match="expected at most 64 for one request") as caught:
            parse_completion(**change)
        assert caught.value.param == param


def test_best_of_is_accepted_only_where_it_changes_nothing() -> None:
    assert parse_completion(best_of=3, n=3).answers == 3
    for change in ({"best_of": 3}, {"best_of": 2, "n": 1}, {"best_of": 1, "n": 2}):
        with pytest.raises(ApiError, match="only the value of n is accepted") as caught:
            parse_completion(**change)
        assert (caught.value.param, caught.value.code) == ("best_of", "unsupported_parameter")


def test_penalties_and_biases_reach_the_sampler() -> None:
    sampling = parse_chat(
        presence_penalty=0.5, frequency_penalty=-1, logit_bias={"0": -100, "4095": 2.5}, n=3
    ).sampling(NOTHING)  # fmt: skip
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -1)
    assert sampling.logit_bias == {0: -100, 4095: 2.5}


def test_what_a_request_does_not_say_the_model_does() -> None:
    model = SamplingDefaults(temperature=0.6, top_k=20, top_p=0.95)
    sampling = parse_chat().sampling(model)
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (0.6, 20, 0.95, 0)
    sampling = parse_chat(temperature=0, top_k=0, top_p=None).sampling(model)
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0, 0, 0.95)
    assert parse_chat().sampling(SamplingDefaults(temperature=0)).temperature == 0
    assert parse_chat().sampling(NOTHING).temperature == 1


def test_the_model_may_be_left_out() -> None:
    body = {key: value for key, value in CHAT.items() if key != "model"}
    assert parse_request(json.dumps(body).encode(), ChatRequest).model is None
    assert parse_chat(model=None).model is None


def test_whole_numbers_may_have_a_point() -> None:
    """JSON does not tell 5.0 from 5, and some clients write all numbers so."""
    chat = parse_chat(max_tokens=5.0, n=1.0, seed=-2.0, top_logprobs=2.0, logprobs=True)
    assert (chat.token_limit, chat.seed, chat.alternatives) == (5, -2, 2)
    with pytest.raises(ApiError, match="seed: expected a whole number"):
        parse_chat(seed=2.0**53)


def test_null_counts_as_not_given_for_every_field_openai_knows() -> None:
    params = get_type_hints(chat_params.CompletionCreateParamsStreaming).keys()
    nothing = dict.fromkeys(params - CHAT.keys())
    assert len(nothing) > 30
    assert parse_chat(**nothing) == parse_chat()
    params = get_type_hints(completion_params.CompletionCreateParamsStreaming).keys()
    assert parse_completion(**dict.fromkeys(params - COMPLETION.keys())) == parse_completion()
    own = [field for field in ChatRequest.__struct_fields__ if field not in CHAT]
    assert parse_chat(**dict.fromkeys(own)) == parse_chat()


def test_what_changes_nothing_is_accepted() -> None:
    same = {
        "n": 1, "store": False, "frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "modalities": ["text"],
        "service_tier": "auto", "metadata": {"a": ["b"]}, "user": "me", "safety_identifier": "s", "prompt_cache_key": "k",
    }  # fmt: skip
    assert parse_chat(**same).sampling(NOTHING) == parse_chat().sampling(NOTHING)
    assert parse_chat(stream=True, stream_options={"include_obfuscation": False, "include_usage": None}).stream
    assert parse_completion(best_of=1, suffix="").sampling(NOTHING) == parse_completion().sampling(NOTHING)


def test_an_answer_may_be_sent_back_as_it_came() -> None:
    call = {
        "id": "call_1", "type": "function", "index": 0,
        "function": {"name": "f", "arguments": '{"a": [1]}', "parsed_arguments": {"a": [1]}},
    }  # fmt: skip
    answer = {
        "role": "assistant", "content": None, "index": 0, "parsed": {"a": 1}, "reasoning": "hm", "refusal": None,
        "annotations": [], "audio": None, "function_call": None, "tool_calls": [call], "name": None,
    }  # fmt: skip
    (found,) = parse_chat(messages=[answer]).messages
    function = {"name": "f", "arguments": {"a": [1]}}
    assert found.to_template() == {
        "role": "assistant", "content": "", "reasoning_content": "hm",
        "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
    }  # fmt: skip
    for refusal, content, expected in (("no", None, "no"), ("", "yes", "yes"), (None, None, "")):
        (found,) = parse_chat(**message(role="assistant", content=content, refusal=refusal)).messages
        assert found.to_template() == {"role": "assistant", "content": expected}
    (found,) = parse_chat(**message(role="tool", content="Rain.", tool_call_id="call_1")).messages
    assert found.to_template() == {"role": "tool", "content": "Rain.", "tool_call_id": "call_1"}


def test_tools_are_offered_as_the_choice_says() -> None:
    other = {"type": "function", "function": {"name": "g", "description": "d", "parameters": None, "strict": True}}
    named = {"type": "function", "function": {"name": "g"}}
    for choice, names in ((None, "fg"), ("none", ""), ("auto", "fg"), ("required", "fg"), (named, "g")):
        chat = parse_chat(tools=[TOOL, other], tool_choice=choice)
        assert "".join(tool.name for tool in chat.offered_tools) == names
    empty = {"type": "object", "properties": {}}
    assert [(t.description, t.parameters, t.strict) for t in chat.offered_tools] == [("d", empty, True)]
    assert chat.choice == "function:g"


def test_the_last_of_two_equal_keys_counts() -> None:
    chat = parse_request(b'{"model":"m","messages":[{"role":"user","content":"a"}],"seed":"x","seed":7}', ChatRequest)
    assert chat.seed == 7


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b'{"model":"\xc3\x28"}', b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b"[" * 60_000, b'{"model":NaN}', b'{"model":-Infinity}', b"1" * 60_000, b'{"model":"\\ud800"}',
        b'{"model":"m","messages":[],"\\udfff":1}', b'{"metadata":' + b"[" * 64 + b"]" * 64 + b"}", b"{} {}",
    ],
)  # fmt: skip
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        parse_request(body, ChatRequest)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "invalid_json", None)
    assert len(caught.value.message) < 400


def test_a_huge_or_strange_key_is_named_in_short() -> None:
    for key in ("k" * 1_000_000, "` - at `$" * 100_000, "a.b", "` - at `$.messages[7].content", "\x00", ""):
        with pytest.raises(ApiError) as caught:
            parse_chat(**{key: 1})
        assert caught.value.code == "unknown_parameter"
        assert len(caught.value.message) < 600


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda s: st.lists(s) | st.dictionaries(st.text() | st.sampled_from(ChatRequest.__struct_fields__), s),
    max_leaves=20,
)


@settings(deadline=None)
@given(json_values)
def test_any_json_is_read_or_refused(value: Any) -> None:
    try:
        parse_chat(**(value if isinstance(value, dict) else {"metadata": value}))
    except ApiError as err:
        answer = err
    else:
        return
    assert 400 <= answer.status < 500
    assert set(answer.to_json()["error"]) == {"message", "type", "param", "code"}


def test_the_document_has_every_field_and_no_other() -> None:
    info = ServiceInfo("m", "qwen3_moe", 1, 2, 1, 8, "cpu", "0")
    schemas = openapi_document(info, needs_key=False)["components"]["schemas"]
    for kind in (ChatRequest, CompletionRequest):
        assert set(schemas[kind.__name__]["properties"]) == set(kind.__struct_fields__)
        assert not schemas[kind.__name__]["additionalProperties"]
        assert schemas[kind.__name__]["properties"]["model"] == {"enum": ["m", None]}
    text = json.dumps(schemas)
    assert set(re.findall(r'"#/components/schemas/(\w+)"', text)) <= schemas.keys()


def test_of_msgspec_only_the_form_of_its_messages_is_relied_on() -> None:
    """If a release words them in another way, the request is refused all the same, but the field is not named."""
    for text, param in (
        ("Object contains unknown field `x` - at `$.messages[0]`", "messages.0.x"),
        ("Object missing required field `content` - at `$.messages[0]`", "messages.0.content"),
        ("Whatever it says - at `$.max_tokens`", "max_tokens"),
        ("Whatever it says - at `$.nothing[3].of[...].ours`", "nothing.3.of.ours"),
        ("Whatever it says", ""),
    ):
        error = to_api_error(msgspec.ValidationError(text), ChatRequest, CHAT)
        assert (error.status, error.param) == (400, param)
