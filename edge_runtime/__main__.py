"""`hobbit VERB BUNDLE ...`. Each verb is a module, imported only when it is asked for."""

from __future__ import annotations

import argparse
import importlib
import os
import sys

VERBS = {
    "plan": "add up the memory a bundle needs, or say what would fit",
    "run": "generate text from a prompt",
    "chat": "talk to a model that has a chat template",
    "serve": "OpenAI-compatible HTTP service on this machine",
    "bench": "latency of repeated requests: table, and a report folder with JSON, HTML and PNG",
    "eval": "perplexity and KL divergence on a text, one token a step",
    "calibrate": "thresholds of HOBBIT, MoBiLE and expert skipping for this model, from any text",
    "trace": "record what the router says while a text is decoded",
    "simulate": "replay a trace against policies and cache sizes, beside Belady's optimum",
    "verify": "check hashes, structure and numerics of a bundle",
}


def build_parser(verb: str | None) -> argparse.ArgumentParser:
    """Return the parser; only the verb about to run gets its arguments (and its imports)."""
    parser = argparse.ArgumentParser(
        prog="hobbit", description="Run Mixture-of-Experts models bigger than memory, experts streamed from the drive."
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    for name, text in VERBS.items():
        sub = verbs.add_parser(name, help=text, description=text.capitalize() + ".")
        if name == verb:
            importlib.import_module(f"edge_runtime.cli.{name}").add_arguments(sub)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command; return 0 ok, 1 failed while running, 2 usage, 78 bad configuration or bundle."""
    argv = sys.argv[1:] if argv is None else argv
    _open_closed_streams()
    verb = next((a for a in argv if a in VERBS), None)
    parser = build_parser(verb)
    args = parser.parse_args(argv)
    if args.version:
        from importlib.metadata import version

        print(f"hobbit {version('hobbit-edge')}")
        return 0
    if args.verb is None:
        parser.print_help(sys.stderr)
        return 2
    return _guarded(args)


def _open_closed_streams() -> None:
    """Give a process that was started with closed standard streams (`<&-`) empty ones, as programs expect."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - as long as the process


def _guarded(args: argparse.Namespace) -> int:
    from edge_runtime.base.errors import HobbitError

    try:
        return int(importlib.import_module(f"edge_runtime.cli.{args.verb}").main(args))
    except HobbitError as err:
        print(f"{type(err).__name__}: {err}", file=sys.stderr)
        return err.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # whoever read our output has gone; stop quietly, and keep the interpreter from failing at its last flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())
