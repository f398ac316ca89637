"""`hobbit serve`: the HTTP service. Loopback by default; every flag has an environment twin HOBBIT_..."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.cli.options import add_engine_arguments, add_options, said_flags
from edge_runtime.config.options import BY_NAME, ENGINE_OPTIONS, SERVICE_OPTIONS, CommandOptions, ServiceOptions

if TYPE_CHECKING:
    from edge_runtime.config.environment import Environment
    from edge_runtime.service.config import ServiceConfig
    from edge_runtime.service.http.listen import Listeners


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's flags."""
    group = parser.add_argument_group("service", "Each has a variable, such as HOBBIT_PORT, which it beats.")
    add_options(group, SERVICE_OPTIONS)
    add_engine_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    from edge_runtime.base.errors import ConfigError
    from edge_runtime.config.environment import given, values_of
    from edge_runtime.service.ops.logs import setup_service_logging
    from edge_runtime.service.ops.settings import Settings

    flags: dict[str, Any] = args.flags
    settings = Settings(os.environ, given(flags, os.environ).pick(BY_NAME["settings"]), flags=flags)
    sources = given(flags, settings.environment)
    options, command = values_of(ServiceOptions, sources), values_of(CommandOptions, sources)
    setup_service_logging(options.log_format, verbose=command.verbose)
    try:
        from edge_runtime.service.http.server import serve
        from edge_runtime.service.service import Service
    except ImportError as err:
        from edge_runtime.base.extras import install_extra

        raise ConfigError(f"serve: a library is missing: {err}. {install_extra('serve')}") from err
    from edge_runtime.service.http.cors import check_origins
    from edge_runtime.service.http.exchange import HttpLimits
    from edge_runtime.service.http.listen import read_api_keys

    keys = read_api_keys(options.api_key_file)
    check_origins(options.allow_origin, has_key=bool(keys))
    service = Service(_config(args, options, command, settings.environment))
    serve(
        service,
        _listen(options, keys),
        settings,
        limits=HttpLimits(body_bytes=options.body_limit),
        api_keys=keys,
        allowed_origins=options.allow_origin,
        drain_timeout_s=options.drain_timeout,
    )
    return 0


def _config(
    args: argparse.Namespace, options: ServiceOptions, command: CommandOptions, environment: Environment
) -> ServiceConfig:
    from edge_runtime.service.config import ServiceConfig
    from edge_runtime.service.http.bodies import request_bytes

    return ServiceConfig(
        bundle=Path(args.bundle),
        options=said_flags(args, ENGINE_OPTIONS),
        environment=environment,
        model_name=options.model_name,
        request_bytes=request_bytes(options.body_limit),
        max_waiting=options.max_waiting,
        time_limit_s=options.time_limit or None,
        token_limit=options.max_tokens_limit,
        self_check=not command.no_self_check,
        verify=options.verify,
    )


def _listen(options: ServiceOptions, keys: Sequence[str]) -> Listeners:
    from edge_runtime.base.errors import ConfigError
    from edge_runtime.service.http.listen import adopt, listen_tcp, listen_unix
    from edge_runtime.service.ops.notify import inherited_sockets

    inherited = inherited_sockets(os.environ)
    if inherited:
        return adopt(inherited, has_key=bool(keys))
    if options.socket is None:
        return listen_tcp(
            options.host or "127.0.0.1", 8080 if options.port is None else options.port, has_key=bool(keys)
        )
    if options.host is not None or options.port is not None:
        raise ConfigError("socket: cannot be combined with host or port.")
    return listen_unix(options.socket)
