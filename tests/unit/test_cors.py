"""Which web pages may use the API: those of named origins, told by preflights and by every answer, errors included."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from edge_runtime.base.errors import ConfigError
from edge_runtime.config.environment import given, values_of
from edge_runtime.config.options import BY_NAME, ServiceOptions
from edge_runtime.service.http.app import Guard
from edge_runtime.service.http.cors import Cors, check_origins

PAGE, OTHER = "http://localhost:3000", "http://localhost:3001"
KEY = "k" * 32
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}


async def inner(scope: Scope, receive: Receive, send: Send) -> None:
    await JSONResponse({"method": scope["method"]}, headers={"Vary": "Accept"})(scope, receive, send)


def ask(app: ASGIApp, method: str = "GET", **headers: str) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8080") as client:
            return await client.request(method, "/v1/models", headers=headers)

    return asyncio.run(send())


def cors_headers(response: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name.startswith("access-control")}


@pytest.fixture
def app() -> ASGIApp:
    return Cors(Guard(inner, [KEY], local_only=False), [PAGE, "https://chat.example"])


@pytest.mark.parametrize("origin", [PAGE, "https://chat.example"])
def test_a_named_page_may_ask_and_read(app: ASGIApp, origin: str) -> None:
    asked = ask(app, "OPTIONS", Origin=origin, **PREFLIGHT)
    assert asked.status_code == 204, "without the key: browsers never send it with this question"
    assert cors_headers(asked) == {
        "access-control-allow-origin": origin,
        "access-control-allow-methods": "GET, POST",
        "access-control-allow-headers": "authorization,content-type",
        "access-control-max-age": "600",
    }
    assert asked.headers["Vary"] == "Origin"
    answer = ask(app, Origin=origin, Authorization=f"Bearer {KEY}")
    assert answer.json() == {"method": "GET"}
    assert answer.headers["access-control-allow-origin"] == origin
    assert {name.strip() for name in answer.headers["Vary"].split(",")} == {"Accept", "Origin"}
    refused = ask(app, Origin=origin)
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, origin)


@pytest.mark.parametrize(
    "origin", [OTHER, "null", "http://LOCALHOST:3000", "https://localhost:3000", PAGE + ".evil", "http://localhost"]
)
def test_another_page_may_not(app: ASGIApp, origin: str) -> None:
    asked = ask(app, "OPTIONS", Origin=origin, **PREFLIGHT)
    assert (asked.status_code, asked.json()["error"]["code"]) == (403, "origin_not_allowed")
    assert cors_headers(asked) == {}
    answer = ask(app, Origin=origin, Authorization=f"Bearer {KEY}")
    assert cors_headers(answer) == {}
    assert "Origin" in answer.headers["Vary"]


def test_programs_notice_nothing(app: ASGIApp) -> None:
    answer = ask(app, Authorization=f"Bearer {KEY}")
    assert cors_headers(answer) == {}
    assert answer.headers["Vary"] == "Accept"
    # OPTIONS without a preflight's header goes on to the application
    assert ask(app, "OPTIONS", Origin=PAGE, Authorization=f"Bearer {KEY}").json() == {"method": "OPTIONS"}


def test_any_page_with_a_key_and_never_with_credentials() -> None:
    app = Cors(Guard(inner, [KEY], local_only=False), ["*"])
    for response in (
        ask(app, "OPTIONS", Origin=OTHER, **PREFLIGHT), ask(app, Origin=OTHER), ask(app, Origin="null"),
    ):  # fmt: skip
        assert response.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in response.headers


def test_names_of_headers_are_given_back_only_if_they_are_names(app: ASGIApp) -> None:
    for asked, is_good in (
        ("x-stainless-os, x-stainless-lang", True),
        ("a" * 2000, False),
        ("a;b", False),
        ("", False),
    ):
        answer = ask(app, "OPTIONS", Origin=PAGE, **PREFLIGHT | {"Access-Control-Request-Headers": asked})
        assert answer.headers.get("access-control-allow-headers") == (asked if is_good else None)


def test_a_page_from_the_network_may_reach_this_machine_if_it_is_named(app: ASGIApp) -> None:
    private = {"Access-Control-Request-Private-Network": "true"}
    assert (
        ask(app, "OPTIONS", Origin=PAGE, **PREFLIGHT, **private).headers["access-control-allow-private-network"]
        == "true"
    )
    assert (
        "access-control-allow-private-network" not in ask(app, "OPTIONS", Origin=OTHER, **PREFLIGHT, **private).headers
    )


@pytest.mark.parametrize(
    ("origins", "has_key", "message"),
    [
        (["*"], False, "no API key is set"),
        (["*", PAGE], True, "Give it alone"),
        ([PAGE], False, ""),
        (["*"], True, ""),
        ([], False, ""),
    ],
)
def test_every_page_needs_a_key(origins: list[str], has_key: bool, message: str) -> None:
    if not message:
        check_origins(origins, has_key=has_key)
        return
    with pytest.raises(ConfigError, match=message):
        check_origins(origins, has_key=has_key)


def origins(flags: Any = None, **env: str) -> tuple[str, ...]:
    return values_of(ServiceOptions, given({} if flags is None else {"allow_origin": flags}, env)).allow_origin


def test_origins_are_written_in_several_ways() -> None:
    assert origins() == ()
    assert origins([PAGE, OTHER]) == origins(HOBBIT_ALLOW_ORIGIN=f"{PAGE} {OTHER}") == (PAGE, OTHER)
    assert origins(HOBBIT_ALLOW_ORIGIN=f"{PAGE},{OTHER}, {PAGE}") == (PAGE, OTHER)
    # as browsers write them
    assert origins(["HTTP://Localhost:3000/", "http://a:80", "https://b:443", "https://c:80"]) == (
        "http://localhost:3000", "http://a", "https://b", "https://c:80",
    )  # fmt: skip
    assert origins(["tauri://localhost", "http://[::1]:3000", "*"]) == ("tauri://localhost", "http://[::1]:3000", "*")


@pytest.mark.parametrize(
    "wrong", ["localhost:3000", "null", "http://a/b", "http://*.example", "http://u@h", "http://", "https://a?b"]
)
def test_what_is_no_origin_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match="^allow-origin: expected an origin as browsers name it"):
        origins([wrong])
    with pytest.raises(ConfigError, match="^HOBBIT_ALLOW_ORIGIN: expected an origin as browsers name it"):
        origins(HOBBIT_ALLOW_ORIGIN=f"{PAGE} {wrong}")
    assert BY_NAME["allow_origin"].kind.repeats
