"""Flags every verb shares. None means not said: environment and profile decide then."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from typing import Any

ENGINE_FLAGS = (
    "profile", "memory", "expert_memory", "tier", "policy", "max_kld", "eviction", "prefetch", "backend", "threads",
    "io_threads", "direct_io", "context", "parallel", "seed",
)  # fmt: skip


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Add BUNDLE and the common flags of the contract."""
    parser.add_argument("bundle", metavar="BUNDLE", help="directory written by hobbit-export")
    group = parser.add_argument_group("engine (environment twins: HOBBIT_MEMORY, HOBBIT_TIER, ...)")
    group.add_argument(
        "--profile", metavar="NAME|PATH", help="device profile, such as orin-nano-8gb (default: generic)"
    )
    group.add_argument("--memory", metavar="SIZE|auto", help="ceiling for the whole process, such as 2GiB")
    group.add_argument("--expert-memory", metavar="SIZE", help="ceiling for cached experts alone, within --memory")
    group.add_argument("--tier", metavar="8|6|4|2|bf16", help="precision that counts as full (default: deepest stored)")
    group.add_argument("--policy", metavar="NAME[:K=V,...]", help="which experts to read at which tier (lossless)")
    group.add_argument("--max-kld", metavar="X", help="quality budget of the rate-distortion policy")
    group.add_argument("--eviction", metavar="NAME[:K=V,...]", help="which expert leaves: lru, lcu, lfru, mdc")
    group.add_argument(
        "--prefetch", metavar="NAME[:K=V,...]",
        help="read experts ahead: off, lookahead, expert-map, statistical (lossless: lookahead:depth=1, else off)",
    )  # fmt: skip
    group.add_argument("--backend", metavar="auto|cpu|cuda", help="where to compute (auto)")
    group.add_argument("--threads", metavar="N", help="compute threads")
    group.add_argument("--io-threads", metavar="N", help="reads in flight")
    group.add_argument("--direct-io", action=argparse.BooleanOptionalAction, default=None, help="bypass the page cache")
    group.add_argument("--context", metavar="N", help="tokens of KV cache")
    group.add_argument("--parallel", metavar="N", help="sequences decoded together, each with a KV cache (serve; 1)")
    group.add_argument("--seed", metavar="N", help="seed of sampling")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout instead of text")
    parser.add_argument("-v", "--verbose", action="store_true", help="log what the engine does to stderr")


def add_self_check_argument(parser: argparse.ArgumentParser) -> None:
    """Add --no-self-check, for verbs that open an engine to use it."""
    parser.add_argument(
        "--no-self-check", action="store_true", help="skip the numerical check of a bundle's first start"
    )


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sampling flags."""
    group = parser.add_argument_group("sampling")
    group.add_argument(
        "-n", "--max-tokens", type=int, metavar="N", help="tokens to generate (default: 128)", default=128
    )
    group.add_argument("--temperature", type=float, default=0.0, metavar="X", help="0 is greedy (default)")
    group.add_argument("--top-k", type=int, default=0, metavar="K", help="draw from the K likeliest; 0: all")
    group.add_argument("--top-p", type=float, default=1.0, metavar="P", help="draw from the smallest set reaching P")
    group.add_argument("--min-p", type=float, default=0.0, metavar="P", help="drop tokens below P of the likeliest")
    group.add_argument("--repetition-penalty", type=float, default=1.0, metavar="X", help="1 changes nothing")
    group.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text; repeatable")
    group.add_argument("--ignore-eos", action="store_true", help="go on after the model's end token")


def engine_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the engine options the user gave as flags."""
    setup_logging(verbose=args.verbose)
    return {name: getattr(args, name) for name in ENGINE_FLAGS if getattr(args, name) is not None}


def repeatable_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the same for verbs that count reads: nothing is read ahead by the clock unless the user asked for it."""
    from edge_runtime.config.resolve import EngineOptions

    said = engine_options(args)
    return said if EngineOptions.from_environment(os.environ).prefetch else {"prefetch": "off"} | said


def setup_logging(*, verbose: bool) -> None:
    """Send warnings (or everything) to stderr. Only commands do this, never the library."""
    level = logging.DEBUG if verbose else logging.WARNING
    logging.basicConfig(stream=sys.stderr, level=level, format="%(levelname)s %(name)s: %(message)s")
