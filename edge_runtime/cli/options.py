"""Flags of the verbs, from the table of options. A flag that is not given is None: other sources decide then."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from edge_runtime.base.sampling import NUMBERS
from edge_runtime.config.kinds import Named, OnlyOn, Switch
from edge_runtime.config.option import Option
from edge_runtime.config.options import BY_NAME, COMMAND_OPTIONS, ENGINE_OPTIONS, OPTIONS

if TYPE_CHECKING:
    from edge_runtime.config.environment import Variables

# an argument group, or the parser itself: argparse has no public name for what they share
Flags = Any


def add_engine_arguments(
    parser: argparse.ArgumentParser, *, opens_engine: bool = True, needs_bundle: bool = True
) -> None:
    """Add BUNDLE, the flags all verbs share and those of the engine. Call it last: help shows flags in this order.

    Args:
        parser: of the verb.
        opens_engine: the verb opens an engine to use it, so that its start can skip the self-check.
        needs_bundle: it can do nothing without one.
    """
    add_options(parser, [o for o in COMMAND_OPTIONS if opens_engine or o.name != "no_self_check"])
    # the usage line has the verb's own flags only: engine flags would bury them
    usage = parser.format_usage().removeprefix("usage: ").strip().replace("%", "%%")
    parser.usage = f"{usage} [ENGINE FLAGS] BUNDLE"
    parser.add_argument(
        "bundle", metavar="BUNDLE", nargs=None if needs_bundle else "?", help="directory written by hobbit-export"
    )
    group = parser.add_argument_group(
        "engine", "Each has a variable, such as HOBBIT_MEMORY. A flag beats the variable, which beats the profile."
    )
    add_options(group, ENGINE_OPTIONS)


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """Add --json alone, for verbs without an engine."""
    add_options(parser, [BY_NAME["json"]])


def add_options(flags: Flags, table: Iterable[Option]) -> None:
    """Add a flag for each option of a table."""
    for option in table:
        names = ([f"-{option.letter}"] if option.letter else []) + [f"--{option.dashed}"]
        flags.add_argument(*names, dest=option.name, default=None, help=_help(option), **_action(option))


def _action(option: Option) -> dict[str, Any]:
    if isinstance(option.kind, OnlyOn):
        return {"action": "store_true"}
    if isinstance(option.kind, Switch):
        return {"action": argparse.BooleanOptionalAction}
    return {"metavar": option.kind.metavar} | ({"action": "append"} if option.kind.repeats else {})


def _help(option: Option) -> str:
    names = f": {', '.join(option.kind.names)}" if isinstance(option.kind, Named) else ""
    default = "" if isinstance(option.kind, OnlyOn) else f" (default: {option.shown_default})"
    return f"{option.help}{names}{default}".replace("%", "%%")


def add_sampling_arguments(parser: argparse.ArgumentParser, *, max_tokens: int | None = 128) -> None:
    """Add the sampling flags; `max_tokens` is the default of its flag, None what the context leaves."""
    group = parser.add_argument_group("sampling")
    text = "tokens to generate" if max_tokens else "tokens of an answer (default: what the context leaves)"
    group.add_argument("-n", "--max-tokens", type=int, default=max_tokens, metavar="N", help=text)
    for number in NUMBERS:
        otherwise = f" (default: the model's own, else {number.default:g})" if number.of_model else ""
        group.add_argument(
            f"--{number.name.replace('_', '-')}", type=type(number.default), metavar=number.metavar,
            default=None if number.of_model else number.default, help=number.help + otherwise,
        )  # fmt: skip
    group.add_argument(
        "--logit-bias", action="append", default=[], metavar="ID=X", help="make a token likelier or less so; repeatable"
    )
    group.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text; repeatable")
    group.add_argument("--ignore-eos", action="store_true", help="go on after the model's end token")


def said_flags(args: argparse.Namespace, table: Collection[Option] = OPTIONS) -> dict[str, Any]:
    """Return the options the user gave as flags, by name."""
    values = {option.name: getattr(args, option.name, None) for option in table}
    return {name: value for name, value in values.items() if value is not None}


def set_command_options(args: argparse.Namespace, env: Variables) -> None:
    """Give `--json` and its like their values: flag, variable, default.

    Raises:
        ConfigError: a variable is wrong, or its name is unknown.
    """
    from edge_runtime.config.environment import given

    sources = given(said_flags(args, COMMAND_OPTIONS), env)
    for option in COMMAND_OPTIONS:
        if hasattr(args, option.name):
            setattr(args, option.name, sources.pick(option))


def engine_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the engine options the user gave as flags."""
    setup_logging(verbose=args.verbose)
    return said_flags(args, ENGINE_OPTIONS)


def repeatable_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the same for verbs that count reads: nothing is read ahead by the clock unless the user asked for it."""
    said = engine_options(args)
    return said if os.environ.get(BY_NAME["prefetch"].variable) else {"prefetch": "off"} | said


def with_policy(options: Mapping[str, Any], policy: str) -> dict[str, Any]:
    """Return engine options with another policy, without those that would choose one."""
    from edge_runtime.config.policy_choice import POLICY_PARAMETERS

    return {name: value for name, value in options.items() if name not in POLICY_PARAMETERS} | {"policy": policy}


def setup_logging(*, verbose: bool) -> None:
    """Send warnings (or everything) to stderr. Only commands do this, never the library."""
    level = logging.DEBUG if verbose else logging.WARNING
    logging.basicConfig(stream=sys.stderr, level=level, format="%(levelname)s %(name)s: %(message)s")
