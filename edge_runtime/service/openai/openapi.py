"""The OpenAPI document of the service, written from what the parsers accept; schemathesis holds the two together."""

from __future__ import annotations

from typing import Any

from edge_runtime.service.openai.chat_parser import MAX_MESSAGES, MAX_TOOLS
from edge_runtime.service.openai.request_parser import MAX_STOPS, MAX_TOP_LOGPROBS
from edge_runtime.service.ops.events import ServiceInfo

Schema = dict[str, Any]
_TEXT: Schema = {"type": "string"}
_ERRORS = {
    "400": "A field is wrong, unknown or unsupported, or the context would overflow; `param` names the field.",
    "401": "The API key is missing or wrong.",
    "403": "The Host header names another machine.",
    "404": "There is no such path or model.",
    "408": "The body took too long to arrive.",
    "413": "The body is too large.",
    "415": "The body is not declared as application/json.",
    "429": "The queue is full.",
    "503": "Loading, draining, or the drive failed.",
}


def openapi_document(info: ServiceInfo, *, needs_key: bool) -> dict[str, Any]:
    """Return the document.

    Args:
        info: of the service.
        needs_key: whether a bearer key is asked for.
    """
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "Hobbit Edge", "version": info.version, "description": "OpenAI-compatible, local."},
        "paths": {
            "/v1/chat/completions": {"post": _generation("ChatRequest", "ChatCompletion", "chat completion")},
            "/v1/completions": {"post": _generation("CompletionRequest", "Completion", "text completion")},
            "/v1/models": {"get": _get("The model served here.", _ref("ModelList"), "401", "403")},
            "/v1/models/{model}": {
                "get": {
                    **_get("A model.", _ref("Model"), "401", "403", "404"),
                    "parameters": [{"name": "model", "in": "path", "required": True, "schema": _TEXT}],
                }
            },
            "/v1/stats": {"get": _get("Live figures; see docs/metrics.md.", {"type": "object"}, "401", "403")},
            "/health": {"get": _open(_get("Alive.", {"type": "object"}, "403", "503"))},
            "/health/ready": {"get": _open(_get("Takes requests.", {"type": "object"}, "403", "503"))},
            "/metrics": {"get": _metrics()},
        },
        "components": {"schemas": _schemas(info)},
    }
    if needs_key:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    return document


def _generation(request: str, answer: str, what: str) -> Schema:
    content = {
        "application/json": {"schema": _ref(answer)},
        "text/event-stream": {"schema": {"type": "string", "description": f"data: chunks of a {what}, then [DONE]"}},
    }
    body = {"required": True, "content": {"application/json": {"schema": _ref(request)}}}
    return {
        "summary": f"Create a {what}.",
        "requestBody": body,
        "responses": {"200": {"description": "The answer.", "content": content}, **_errors(*_ERRORS)},
    }


def _get(summary: str, schema: Schema, *errors: str) -> Schema:
    ok = {"description": "OK", "content": {"application/json": {"schema": schema}}}
    return {"summary": summary, "responses": {"200": ok, **_errors(*errors)}}


def _metrics() -> Schema:
    content = {"text/plain": {"schema": _TEXT}, "application/openmetrics-text": {"schema": _TEXT}}
    ok = {"description": "Prometheus text.", "content": content}
    return {"summary": "Metrics; see docs/metrics.md.", "responses": {"200": ok, **_errors("401", "403")}}


def _open(operation: Schema) -> Schema:
    return {**operation, "security": []}


def _errors(*statuses: str) -> Schema:
    content = {"application/json": {"schema": _ref("Error")}}
    return {status: {"description": _ERRORS[status], "content": content} for status in statuses}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: list[str], properties: dict[str, Schema], **more: Any) -> Schema:
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False, **more}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _list(items: Schema, most: int, least: int = 0) -> Schema:
    return {"type": "array", "items": items, "maxItems": most, "minItems": least}


def _optional(properties: dict[str, Schema]) -> dict[str, Schema]:
    return {name: _or_null(schema) for name, schema in properties.items()}


def _schemas(info: ServiceInfo) -> dict[str, Schema]:
    return {
        "Error": {
            "type": "object",
            "required": ["error"],
            "properties": {
                "error": {
                    "type": "object",
                    "required": ["message", "type", "param", "code"],
                    "properties": {
                        "message": _TEXT,
                        "type": _TEXT,
                        "param": {"type": ["string", "null"]},
                        "code": {"type": ["string", "integer", "null"]},
                    },
                }
            },
        },
        "Model": _object(
            ["id", "object", "created", "owned_by"],
            {
                "id": _TEXT, "object": {"const": "model"}, "created": {"type": "integer"}, "owned_by": _TEXT,
                "max_model_len": {"type": "integer"},
            },
        ),
        "ModelList": _object(
            ["object", "data"], {"object": {"const": "list"}, "data": {"type": "array", "items": _ref("Model")}}
        ),
        "ChatRequest": _chat_request(info),
        "CompletionRequest": _completion_request(info),
        "ChatCompletion": _answer("chat.completion", "message"),
        "Completion": _answer("text_completion", "text"),
        "Message": _message(),
        "Tool": _tool(),
        "ResponseFormat": _response_format(),
    }  # fmt: skip


def _answer(kind: str, content: str) -> Schema:
    choice = {
        "type": "object",
        "required": ["index", content, "finish_reason", "logprobs"],
        "properties": {"finish_reason": {"enum": ["stop", "length", "tool_calls"]}, "index": {"const": 0}},
    }
    return {
        "type": "object",
        "required": ["id", "object", "created", "model", "choices", "usage", "timings", "hobbit"],
        "properties": {
            "id": _TEXT,
            "object": {"const": kind},
            "created": {"type": "integer"},
            "model": _TEXT,
            "choices": _list(choice, 1, 1),
            "usage": {"type": "object", "required": ["prompt_tokens", "completion_tokens", "total_tokens"]},
            "timings": {"type": "object"},
            "hobbit": {"type": "object"},
        },
    }


def _integer(low: int, high: int) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high}


def _common() -> dict[str, Schema]:
    properties: dict[str, Schema] = {
        "n": {"enum": [1]},
        "frequency_penalty": {"enum": [0]},
        "presence_penalty": {"enum": [0]},
        "logit_bias": {"type": "object", "maxProperties": 0},
        "stream": {"type": "boolean"},
        "seed": _integer(-(1 << 63), (1 << 63) - 1),
        "temperature": {"type": "number", "minimum": 0, "maximum": 2},
        "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        "top_k": _integer(0, 1 << 20),
        "min_p": {"type": "number", "minimum": 0, "maximum": 1},
        "repetition_penalty": {"type": "number", "exclusiveMinimum": 0, "maximum": 100},
        "ignore_eos": {"type": "boolean"},
        "max_tokens": _integer(1, 1 << 31),
        "stop": {"anyOf": [{"type": "string", "minLength": 1}, _list({"type": "string", "minLength": 1}, MAX_STOPS)]},
        "stream_options": _object(
            [], _optional({"include_usage": {"type": "boolean"}, "include_obfuscation": {"enum": [False]}})
        ),
        "response_format": _ref("ResponseFormat"),
        "hobbit": _object([], _optional({"policy": _TEXT})),
    }
    return {**_optional(properties), "user": {}}


def _chat_request(info: ServiceInfo) -> Schema:
    function = _object(["name"], {"name": _TEXT})
    named = _object(["type", "function"], {"type": {"const": "function"}, "function": function})
    properties = {
        "max_completion_tokens": _integer(1, 1 << 31),
        "logprobs": {"type": "boolean"},
        "top_logprobs": _integer(0, MAX_TOP_LOGPROBS),
        "tools": _list(_ref("Tool"), MAX_TOOLS),
        "tool_choice": {
            "anyOf": [
                {"enum": ["none", "auto", "required"]},
                named,
            ]
        },
        "parallel_tool_calls": {"type": "boolean"},
        "store": {"enum": [False]},
        "modalities": {"const": ["text"]},
        "service_tier": {"enum": ["auto", "default"]},
        "chat_template_kwargs": {
            "type": "object",
            "additionalProperties": {"type": ["string", "boolean", "number"]},
            "propertyNames": {"not": {"enum": ["messages", "tools", "add_generation_prompt"]}},
        },
    }  # fmt: skip
    labels: dict[str, Schema] = {name: {} for name in ("metadata", "safety_identifier", "prompt_cache_key")}
    return _object(
        ["model", "messages"],
        {
            "model": {"const": info.model_name},
            "messages": _list(_ref("Message"), MAX_MESSAGES, 1),
            **_common(),
            **_optional(properties),
            **labels,
        },
    )


def _completion_request(info: ServiceInfo) -> Schema:
    ids = _list({"type": "integer", "minimum": 0}, 1 << 20, 1)
    one = {"anyOf": [{"type": "string", "minLength": 1}, ids]}
    properties: dict[str, Schema] = {
        "best_of": {"enum": [1]},
        "suffix": {"enum": [""]},
        "logprobs": _integer(0, MAX_TOP_LOGPROBS),
        "echo": {"type": "boolean"},
    }
    return _object(
        ["model", "prompt"],
        {
            "model": {"const": info.model_name},
            "prompt": {"anyOf": [one, _list(one, 1, 1)]},
            **_common(),
            **_optional(properties),
        },
    )


def _message() -> Schema:
    part = _object(["type", "text"], {"type": {"const": "text"}, "text": _TEXT})
    content = {"anyOf": [_TEXT, {"type": "array", "items": part}]}
    call = _object(
        ["function"],
        {
            "id": _or_null(_TEXT),
            "type": _or_null({"const": "function"}),
            "function": _object(["name"], {"name": _TEXT, "arguments": _or_null(_TEXT)}),
        },
    )
    name = _or_null(_TEXT)
    plain = _object(
        ["role", "content"],
        {"role": {"enum": ["system", "developer", "user"]}, "content": content, "name": name},
    )
    assistant = _object(
        ["role"],
        {
            "role": {"const": "assistant"},
            "content": _or_null(content),
            "name": name,
            "refusal": {"type": "null"},
            "audio": {"type": "null"},
            "annotations": _or_null({"const": []}),
            "function_call": {"type": "null"},
            "reasoning_content": _or_null(_TEXT),
            "tool_calls": _or_null(_list(call, MAX_TOOLS)),
        },
    )
    tool = _object(
        ["role", "content"],
        {"role": {"const": "tool"}, "content": content, "name": name, "tool_call_id": _or_null(_TEXT)},
    )
    return {"oneOf": [plain, assistant, tool]}


def _tool() -> Schema:
    function = _object(
        ["name"],
        {
            "name": {"type": "string", "pattern": "^[a-zA-Z0-9_.-]{1,64}$"},
            "description": _or_null(_TEXT),
            "parameters": _or_null({"type": "object"}),
            "strict": _or_null({"type": "boolean"}),
        },
    )
    return _object(["type", "function"], {"type": {"const": "function"}, "function": function})


def _response_format() -> Schema:
    properties: dict[str, Schema] = {
        "name": _TEXT,
        "description": _TEXT,
        "strict": {"type": "boolean"},
        "schema": {"type": "object"},
    }
    inner = _object([], _optional(properties))
    return {
        "oneOf": [
            _object(["type"], {"type": {"enum": ["text", "json_object"]}}),
            _object(["type", "json_schema"], {"type": {"const": "json_schema"}, "json_schema": inner}),
            _object(["type", "pattern"], {"type": {"const": "regex"}, "pattern": _TEXT}),
        ]
    }
