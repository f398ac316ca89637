"""`hobbit serve`: the HTTP service. Loopback by default; every flag has an environment twin HOBBIT_..."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from edge_runtime.cli.options import ENGINE_FLAGS, add_engine_arguments, add_self_check_argument

if TYPE_CHECKING:
    from edge_runtime.service.http.listen import Listeners
    from edge_runtime.service.service import ServiceConfig

Value = TypeVar("Value")
# names of the service's own settings, beside the engine's
SERVICE_FLAGS = (
    "host", "port", "socket", "api_key_file", "model_name", "max_waiting", "max_tokens_limit", "time_limit",
    "body_limit", "drain_timeout", "settings", "log_format", "verify",
)  # fmt: skip
_ELSEWHERE = ("bundle", "no_self_check")  # set by units and scripts, not by this verb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's flags."""
    add_engine_arguments(parser)
    add_self_check_argument(parser)
    group = parser.add_argument_group("service (environment twins: HOBBIT_HOST, HOBBIT_PORT, ...)")
    group.add_argument("--host", metavar="ADDR", help="address to listen on (127.0.0.1); others need an API key")
    group.add_argument("--port", metavar="N", help="port (8080); 0 takes a free one")
    group.add_argument("--socket", metavar="PATH", help="listen on a unix socket instead")
    group.add_argument("--api-key-file", metavar="FILE", help="require one of the keys in FILE, one a line")
    group.add_argument("--model-name", metavar="ID", help="id of the model (the bundle's folder name)")
    group.add_argument("--max-waiting", metavar="N", help="requests that may wait (16)")
    group.add_argument("--max-tokens-limit", metavar="N", help="most tokens a request may ask for (the context)")
    group.add_argument("--time-limit", metavar="S", help="longest time of a request in seconds, 0: none (600)")
    group.add_argument("--body-limit", metavar="SIZE", help="largest request body (2MiB)")
    group.add_argument("--drain-timeout", metavar="S", help="seconds to finish requests when stopping (90)")
    group.add_argument("--settings", metavar="FILE", help="NAME=value lines that SIGHUP reads again")
    group.add_argument("--log-format", metavar="text|json", help="form of the log on stderr (text)")
    group.add_argument(
        "--verify",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="check every hash before taking requests, once for each change of the bundle (on)",
    )


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    from edge_runtime.base.errors import ConfigError
    from edge_runtime.service.ops.logs import setup_service_logging

    said = _Said(args)
    log_format = said.pick("log_format", str, "text")
    if log_format not in ("text", "json"):
        raise ConfigError(f"log-format: expected text or json, got {log_format!r}.")
    setup_service_logging(log_format, verbose=args.verbose)
    try:
        from edge_runtime.service.http.server import serve
        from edge_runtime.service.service import Service
    except ImportError as err:
        raise ConfigError(f"serve: a library is missing: {err}. Install it: pip install 'hobbit-edge[serve]'") from err
    from edge_runtime.base.sizes import parse_size
    from edge_runtime.service.http.exchange import HttpLimits
    from edge_runtime.service.http.listen import read_api_keys
    from edge_runtime.service.ops.settings import Settings

    fixed = [name for name in ENGINE_FLAGS if getattr(args, name) is not None]
    path = said.pick("settings", Path, None)
    settings = Settings(os.environ, path, fixed=fixed, known=(*SERVICE_FLAGS, *_ELSEWHERE))
    keys = read_api_keys(said.pick("api_key_file", str, None))
    service = Service(_config(args, said))
    limits = HttpLimits(body_bytes=said.pick("body_limit", lambda v: parse_size(v, "body-limit"), 2 << 20))
    drain = said.pick("drain_timeout", _number("drain-timeout", 0, 86400), 90.0)
    listeners = _listen(said, keys)
    serve(service, listeners, settings, limits=limits, api_keys=keys, drain_timeout_s=drain)
    return 0


def _config(args: argparse.Namespace, said: _Said) -> ServiceConfig:
    from edge_runtime.service.service import ServiceConfig

    return ServiceConfig(
        bundle=Path(args.bundle),
        options={name: getattr(args, name) for name in ENGINE_FLAGS if getattr(args, name) is not None},
        model_name=said.pick("model_name", str, None),
        max_waiting=int(said.pick("max_waiting", _number("max-waiting", 0, 4096), 16)),
        time_limit_s=said.pick("time_limit", _number("time-limit", 0, 1e6), 600.0) or None,
        token_limit=said.pick("max_tokens_limit", lambda v: int(_number("max-tokens-limit", 1, 1 << 31)(v)), None),
        self_check=not args.no_self_check,
        verify=said.pick("verify", _switch, True),
    )


def _listen(said: _Said, keys: Sequence[str]) -> Listeners:
    from edge_runtime.base.errors import ConfigError
    from edge_runtime.service.http.listen import adopt, listen_tcp, listen_unix
    from edge_runtime.service.ops.notify import inherited_sockets

    inherited = inherited_sockets(os.environ)
    if inherited:
        return adopt(inherited, has_key=bool(keys))
    host, port = said.pick("host", str, None), said.pick("port", _number("port", 0, 65535), None)
    path = said.pick("socket", Path, None)
    if path is not None:
        if host is not None or port is not None:
            raise ConfigError("socket: cannot be combined with host or port.")
        return listen_unix(path)
    return listen_tcp(host or "127.0.0.1", 8080 if port is None else int(port), has_key=bool(keys))


class _Said:
    """Service settings: the flag, then the environment, then a default."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args

    def pick(self, name: str, convert: Callable[[Any], Value], default: Any) -> Any:
        value = getattr(self._args, name)
        if value is None:
            value = os.environ.get(f"HOBBIT_{name.upper()}") or None
        return default if value is None else convert(value)


def _number(name: str, low: float, high: float) -> Callable[[Any], float]:
    def convert(value: Any) -> float:
        from edge_runtime.base.errors import ConfigError

        try:
            number = float(value)
        except ValueError as err:
            raise ConfigError(f"{name}: expected a number, got {value!r}.") from err
        if not low <= number <= high:
            raise ConfigError(f"{name}: expected {low:g} to {high:g}, got {value!r}.")
        return number

    return convert


def _switch(value: Any) -> bool:
    from edge_runtime.base.errors import ConfigError

    words = {True: True, False: False, "1": True, "on": True, "true": True, "0": False, "off": False, "false": False}
    key = value if isinstance(value, bool) else str(value).lower()
    if key not in words:
        raise ConfigError(f"verify: expected on or off, got {value!r}.")
    return words[key]
