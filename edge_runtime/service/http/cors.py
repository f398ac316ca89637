"""Which web pages may use the API: cross-origin answers for the origins somebody named, and for no other.

No cookies are ever involved, so nothing here allows credentials: a page that needs the API key sends it itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge_runtime.base.errors import ConfigError
from edge_runtime.service.openai.api_errors import ApiError

ANY = "*"
_METHODS = "GET, POST"
_EXPOSED = "Retry-After"
_MAX_AGE_S = 600
_NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, -]{0,1024}")


def check_origins(origins: Sequence[str], *, has_key: bool) -> None:
    """Refuse to open the API to every page there is, unless a key keeps them out.

    Raises:
        ConfigError: `*` without a key, or beside other origins.
    """
    if ANY in origins and not has_key:
        raise ConfigError(
            "allow-origin: '*' would let every web page use this server, and no API key is set. "
            "Set --api-key-file, or name the origins, such as http://localhost:3000."
        )
    if ANY in origins and len(origins) > 1:
        raise ConfigError("allow-origin: '*' allows every origin already. Give it alone, or name origins.")


class Cors:
    """Answers preflights, and says of other answers which page may read them.

    Args:
        app: the rest of the application.
        origins: that may use it, or `*` alone.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self._app, self._origins = app, frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve an exchange."""
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        origin = headers.get("origin")
        if origin is None:
            await self._app(scope, receive, send)
        elif scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            await self._preflight(origin, headers)(scope, receive, send)
        else:
            await self._app(scope, receive, self._marked(origin, send))

    def _allows(self, origin: str) -> bool:
        return ANY in self._origins or origin in self._origins

    def _preflight(self, origin: str, headers: Headers) -> Response:
        """Answer a browser's question whether a page may ask something; it comes without the key."""
        if not self._allows(origin):
            message = "Origin: pages of this origin may not use this server. See its option --allow-origin."
            error = ApiError(403, message, code="origin_not_allowed")
            return JSONResponse(error.to_json(), error.status, headers={"Vary": "Origin"})
        answer = {
            "Access-Control-Allow-Methods": _METHODS,
            "Access-Control-Max-Age": str(_MAX_AGE_S),
            **self._allowed(origin),
        }
        asked = headers.get("access-control-request-headers", "")
        if asked and _NAMES.fullmatch(asked):
            answer["Access-Control-Allow-Headers"] = asked
        if headers.get("access-control-request-private-network") == "true":
            answer["Access-Control-Allow-Private-Network"] = "true"
        return Response(status_code=204, headers=answer)

    def _allowed(self, origin: str) -> dict[str, str]:
        return {"Access-Control-Allow-Origin": ANY if ANY in self._origins else origin, "Vary": "Origin"}

    def _marked(self, origin: str, send: Send) -> Send:
        """Let an allowed page read the answer, errors too."""

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.add_vary_header("Origin")
                if self._allows(origin):
                    headers["Access-Control-Allow-Origin"] = self._allowed(origin)["Access-Control-Allow-Origin"]
                    headers["Access-Control-Expose-Headers"] = _EXPOSED
            await send(message)

        return marked
