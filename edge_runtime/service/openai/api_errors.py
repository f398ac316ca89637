"""Errors as OpenAI's clients expect them: one object with message, type, param and code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_runtime.base.errors import ExpertReadError, HobbitError, RequestError
from edge_runtime.engine.queue import ShuttingDownError

INVALID = "invalid_request_error"


class ApiError(Exception):
    """A request that cannot be served, with the status and error object to answer.

    Attributes:
        status: HTTP status.
        message: for people.
        type: class of the error.
        param: the field at fault, dotted, or None.
        code: what a program may test for, or None.
        headers: to send along.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.type, self.param, self.code = status, message, type, param, code
        self.headers = dict(headers or {})

    def to_json(self) -> dict[str, Any]:
        """Return the error object."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


def bad_field(param: str, message: str, code: str | None = "invalid_value") -> ApiError:
    """A field is wrong."""
    return ApiError(400, f"{param}: {message}", param=param, code=code)


def unsupported(param: str, message: str) -> ApiError:
    """A field is known, but not served here."""
    return bad_field(param, message, "unsupported_parameter")


def queue_full(waiting: int, retry_after_s: int) -> ApiError:
    """Too many requests wait already."""
    return ApiError(
        429,
        f"{waiting} requests are waiting already, which is all this server lets wait. Try again later.",
        type="rate_limit_error",
        code="queue_full",
        headers={"Retry-After": str(retry_after_s)},
    )


def unavailable(reason: str, code: str) -> ApiError:
    """Not ready: loading, draining or failed."""
    return ApiError(
        503, f"The server is not ready: {reason}.", type="server_error", code=code, headers={"Retry-After": "5"}
    )


def from_exception(err: Exception) -> ApiError:
    """Return what to answer when a request failed inside the engine. Details of unexpected errors stay in the log."""
    if isinstance(err, ApiError):
        return err
    if isinstance(err, ShuttingDownError):
        return unavailable("it is shutting down", "draining")
    if isinstance(err, RequestError):
        return ApiError(400, str(err), code="invalid_request")
    if isinstance(err, ExpertReadError):
        return ApiError(503, str(err), type="server_error", code="expert_read_failed")
    if isinstance(err, HobbitError):
        return ApiError(500, str(err), type="server_error", code="engine_error")
    return ApiError(500, "The server failed; see its log.", type="server_error", code="internal_error")
