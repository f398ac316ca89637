"""The OpenAPI document of the service. Requests are described by their types, so document and parser cannot differ."""

from __future__ import annotations

from typing import Any

import msgspec

from edge_runtime.service.openai.generation import MAX_ANSWERS
from edge_runtime.service.openai.requests import ChatRequest, CompletionRequest
from edge_runtime.service.ops.figures import ServiceInfo

Schema = dict[str, Any]
_TEXT: Schema = {"type": "string"}
_ERRORS = {
    "400": "A field is wrong, unknown or unsupported, or the context would overflow; `param` names the field.",
    "401": "The API key is missing or wrong.",
    "403": "The Host header names another machine, or a page's origin is not allowed.",
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
    event = {  # the schema of a stream describes each of its events
        "type": "object",
        "required": ["data"],
        "properties": {"data": {"type": "string", "description": f"An update of the {what} as JSON; at last [DONE]."}},
    }
    content = {"application/json": {"schema": _ref(answer)}, "text/event-stream": {"schema": event}}
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


def _requests(info: ServiceInfo) -> dict[str, Schema]:
    template = "#/components/schemas/{name}"
    _, schemas = msgspec.json.schema_components((ChatRequest, CompletionRequest), ref_template=template)
    for request in (ChatRequest, CompletionRequest):
        schemas[request.__name__]["properties"]["model"] = {"enum": [info.model_name, None]}
    return schemas


def _schemas(info: ServiceInfo) -> dict[str, Schema]:
    return {
        **_requests(info),
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
                "max_model_len": {"type": "integer"}, "sampling": {"type": "object"},
            },
        ),
        "ModelList": _object(
            ["object", "data"], {"object": {"const": "list"}, "data": {"type": "array", "items": _ref("Model")}}
        ),
        "ChatCompletion": _answer("chat.completion", "message"),
        "Completion": _answer("text_completion", "text"),
    }  # fmt: skip


def _answer(kind: str, content: str) -> Schema:
    choice = {
        "type": "object",
        "required": ["index", content, "finish_reason", "logprobs"],
        "properties": {
            "finish_reason": {"enum": ["stop", "length", "tool_calls"]},
            "index": {"type": "integer", "minimum": 0, "maximum": MAX_ANSWERS - 1},
        },
    }
    return {
        "type": "object",
        "required": ["id", "object", "created", "model", "choices", "usage", "timings", "hobbit"],
        "properties": {
            "id": _TEXT,
            "object": {"const": kind},
            "created": {"type": "integer"},
            "model": _TEXT,
            "choices": {"type": "array", "items": choice, "minItems": 1, "maxItems": MAX_ANSWERS},
            "usage": {"type": "object", "required": ["prompt_tokens", "completion_tokens", "total_tokens"]},
            "timings": {"type": "object"},
            "hobbit": {"type": "object"},
        },
    }
