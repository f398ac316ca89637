"""The ASGI application: routes, who may use them, and errors as OpenAI's clients expect them."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Sequence
from functools import cache
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from edge_runtime.base.errors import HobbitError
from edge_runtime.service.http.cors import Cors
from edge_runtime.service.http.exchange import Disconnected, HttpLimits
from edge_runtime.service.http.status_page import CHAT_HEADERS, CHAT_PAGE, HEADERS, PAGE
from edge_runtime.service.openai.api_errors import ApiError, from_exception
from edge_runtime.service.openai.endpoints import Endpoints
from edge_runtime.service.openai.openapi import openapi_document
from edge_runtime.service.ops.metrics import Exposition
from edge_runtime.service.service import Service

_LOG = logging.getLogger(__name__)
_OPEN_PATHS = ("/", "/chat", "/health", "/health/ready", "/openapi.json")
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


def create_app(
    service: Service,
    limits: HttpLimits,
    *,
    api_keys: Sequence[str] = (),
    local_only: bool = False,
    allowed_origins: Sequence[str] = (),
) -> ASGIApp:
    """Return the application.

    Args:
        service: what it serves.
        limits: of one exchange.
        api_keys: bearer keys; with any, every path but health, the OpenAPI document and the pages needs one.
        local_only: refuse requests whose Host is not this machine, so that no web page can reach the API by a name of
            its own that resolves to 127.0.0.1.
        allowed_origins: of web pages that may use the API beside the server's own.
    """
    api = Endpoints(service, limits)
    exposition = Exposition(service.stats, service.readiness, service.info)

    @cache
    def document() -> dict[str, Any]:
        return openapi_document(service.info, needs_key=bool(api_keys))

    async def openapi(request: Request) -> Response:
        return JSONResponse(document())

    async def metrics(request: Request) -> Response:
        page, content_type = exposition.render(request.headers.get("accept", ""))
        return Response(page, headers={"Content-Type": content_type})

    async def status_page(request: Request) -> Response:
        return Response(PAGE, headers=HEADERS)

    async def chat_page(request: Request) -> Response:
        return Response(CHAT_PAGE, headers=CHAT_HEADERS)

    routes = [
        Route("/v1/chat/completions", api.chat, methods=["POST"]),
        Route("/v1/completions", api.completion, methods=["POST"]),
        Route("/v1/models", api.models, methods=["GET"]),
        Route("/v1/models/{model:path}", api.model, methods=["GET"]),
        Route("/v1/stats", api.stats, methods=["GET"]),
        Route("/health", api.health, methods=["GET"]),
        Route("/health/ready", api.ready, methods=["GET"]),
        Route("/metrics", metrics, methods=["GET"]),
        Route("/openapi.json", openapi, methods=["GET"]),
        Route("/", status_page, methods=["GET"]),
        Route("/chat", chat_page, methods=["GET"]),
    ]
    handlers = {ApiError: _api_error, HTTPException: _http_error, Disconnected: _gone}
    handlers |= {HobbitError: _unexpected, Exception: _unexpected}
    app = Starlette(routes=routes, exception_handlers=handlers)  # type: ignore[arg-type]
    app.router.redirect_slashes = False
    guarded = Guard(app, api_keys, local_only=local_only)
    return Cors(guarded, allowed_origins) if allowed_origins else guarded


class Guard:
    """Checks Host and key before anything else is read.

    Args:
        app: what is guarded.
        api_keys: the keys, none without.
        local_only: see `create_app`.
    """

    def __init__(self, app: ASGIApp, api_keys: Sequence[str], *, local_only: bool) -> None:
        self._app, self._local_only = app, local_only
        self._keys = [key.encode() for key in api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve an exchange, or refuse it."""
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            refusal = self._refusal(scope["path"], headers)
            if refusal is not None:
                response = JSONResponse(refusal.to_json(), refusal.status, headers=refusal.headers)
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, path: str, headers: dict[bytes, bytes]) -> ApiError | None:
        if b"content-length" in headers and b"transfer-encoding" in headers:
            # whoever stands between may see another end of the body, and take the rest for a request
            return ApiError(
                400, "Content-Length and Transfer-Encoding: expected one of them.", code="ambiguous_length",
                headers={"Connection": "close"},
            )  # fmt: skip
        if self._local_only and not _is_local(headers.get(b"host", b"").decode("latin-1")):
            return ApiError(403, "Host: this server answers to localhost only.", code="host_not_allowed")
        if not self._keys or path in _OPEN_PATHS:
            return None
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        # every key is compared, so that the time tells nothing
        matches = [hmac.compare_digest(given.strip(), key) for key in self._keys]
        if scheme.lower() == b"bearer" and any(matches):
            return None
        return ApiError(
            401,
            "The API key is missing or wrong. Send it as: Authorization: Bearer KEY",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )


def _is_local(host: str) -> bool:
    name = host[1 : host.find("]")] if host.startswith("[") else host.partition(":")[0]
    return not name or name.lower() in _LOCAL_NAMES


async def _api_error(request: Request, err: ApiError) -> Response:
    return JSONResponse(err.to_json(), err.status, headers=err.headers)


async def _http_error(request: Request, err: HTTPException) -> Response:
    message = {404: "There is nothing at this path.", 405: "This path does not take this method."}
    code = {404: "not_found", 405: "method_not_allowed"}.get(err.status_code, "http_error")
    error = ApiError(err.status_code, message.get(err.status_code, str(err.detail)), code=code, headers=err.headers)
    return await _api_error(request, error)


async def _gone(request: Request, err: Disconnected) -> Response:
    return Response(status_code=499)  # nobody is there to read it


async def _unexpected(request: Request, err: Exception) -> Response:
    error = from_exception(err)
    if error.code == "internal_error":
        _LOG.error("%s %s failed", request.method, request.url.path, exc_info=err)
    return await _api_error(request, error)
