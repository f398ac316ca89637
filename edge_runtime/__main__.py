"""`hobbit VERB BUNDLE ...`. Each verb is a module, imported only when it is asked for.

Imports almost nothing itself, neither typing nor argparse: `hobbit --help` would take twice as long.
"""

from __future__ import annotations

import os
import sys

from edge_runtime.base.ending import exit_code, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

VERBS = {
    "plan": "add up the memory a bundle needs and estimate its speed, or say what would fit",
    "run": "generate text from a prompt",
    "chat": "talk to a model that has a chat template",
    "serve": "OpenAI-compatible HTTP service on this machine",
    "bench": "latency of repeated requests: table, and a report folder with JSON, HTML and PNG",
    "probe": "what drive, memory, kernels and trunk give on this machine, each by itself",
    "tune": "search settings for this machine, write a profile of what is measured to be faster",
    "eval": "perplexity and KL divergence on a text, one token a step",
    "calibrate": "thresholds of HOBBIT, MoBiLE and expert skipping for this model, from any text",
    "trace": "record what the router says while a text is decoded",
    "trace-import": "turn another program's recording of a router into a trace (`hobbit trace import`)",
    "simulate": "replay a trace against policies and cache sizes, beside Belady's optimum",
    "verify": "check hashes, structure and numerics of a bundle",
    "doctor": "find what makes this machine slow or unfit, with the fix; run each backend",
    "pull": "bring a bundle from a server, a hub or a folder into the folder of models",
    "push": "send a bundle to a folder, a server that takes PUT, or a hub",
    "list": "list the folder of models",
    "rm": "delete models from the folder of models",
    "bringup": "check, tune and measure a new device, into one file to send back",
}
TOPICS = ("policy", "eviction", "prefetch", "power-meter")
USAGE = "usage: hobbit [-h] [--version] VERB ..."
ABOUT = "Run Mixture-of-Experts models bigger than memory, experts streamed from the drive."
FLAGS = {"-h, --help": "show this help message and exit", "--version": "print the version and exit"}
_HELP, _VERSION = ("-h", "--help"), "--version"


def help_text() -> str:
    """Return the help of the command itself."""
    verbs = "\n".join(f"  {name:<14}{text}" for name, text in VERBS.items())
    flags = "\n".join(f"  {name:<14}{text}" for name, text in FLAGS.items())
    more = f"`hobbit help VERB` lists a verb's flags, `hobbit help {'|'.join(TOPICS)}`\nwhat these options take."
    return f"{USAGE}\n\n{ABOUT}\n\nverbs:\n{verbs}\n\noptions:\n{flags}\n\n{more}\n"


def build_parser(verb: str) -> argparse.ArgumentParser:
    """Return the parser of what follows a verb."""
    import importlib

    from edge_runtime.base.command import DefaultsFormatter, Parser, VersionAction

    text = VERBS[verb]
    parser = Parser(
        prog=f"hobbit {verb}", description=f"{text[0].upper()}{text[1:]}.", formatter_class=DefaultsFormatter
    )
    parser.set_defaults(verb=verb)
    parser.add_argument("--version", action=VersionAction, help=FLAGS[_VERSION])
    importlib.import_module(_module(verb)).add_arguments(parser)
    return parser


def _module(verb: str) -> str:
    return f"edge_runtime.cli.{verb.replace('-', '_')}"


def main(argv: list[str] | None = None) -> int:
    """Run one command; return 0 ok, 1 failed while running, 2 usage, 78 bad settings or bundle, 130 interrupted."""
    words = sys.argv[1:] if argv is None else argv
    return exit_code("hobbit", lambda: _command(words))


def _command(argv: list[str]) -> int:
    if argv[:2] == ["trace", "import"]:
        argv = ["trace-import", *argv[2:]]
    if argv[:1] == ["help"]:
        if argv[1:] and argv[1] in TOPICS:
            return _print_topic(argv[1])
        argv = [*argv[1:2], "--help"]
    verb = next((word for word in argv if not word.startswith("-")), None)
    if verb is not None and verb not in VERBS:
        return _unknown(verb)
    if not argv or argv[0].startswith("-"):
        return _without_verb(argv)
    args = build_parser(argv[0]).parse_args(argv[1:])
    args.words = argv
    return _run(args)


def _without_verb(argv: list[str]) -> int:
    """Print help or version, or say what is missing."""
    if argv and argv[0] in _HELP:
        sys.stdout.write(help_text())
        return 0
    if argv and argv[0] == _VERSION:
        from importlib.metadata import version

        sys.stdout.write(f"hobbit {version('hobbit-edge')}\n")
        return 0
    say(f"{USAGE}\nhobbit: flags come after the verb, got {argv[0]!r}." if argv else help_text().rstrip())
    return 2


def _unknown(verb: str) -> int:
    from edge_runtime.base.errors import did_you_mean

    known = (*VERBS, "help")
    say(f"hobbit: expected one of {', '.join(known)}, got {verb!r}.{did_you_mean(verb, known)}")
    return 2


def _print_topic(name: str) -> int:
    from edge_runtime.cli.topics import describe

    print("\n".join(describe(name)))
    return 0


def _run(args: argparse.Namespace) -> int:
    import importlib

    from edge_runtime.base.errors import HobbitError
    from edge_runtime.cli.options import said_flags, set_command_options

    args.flags = said_flags(args)
    try:
        set_command_options(args, os.environ)
        if hasattr(args, "models") and getattr(args, "bundle", None):
            from edge_runtime.transfer.model_folder import ModelFolder

            args.bundle = str(ModelFolder(args.models).find(args.bundle))
        return int(importlib.import_module(_module(args.verb)).main(args))
    except HobbitError as err:
        say(f"{type(err).__name__}: {err}")
        return err.exit_code


if __name__ == "__main__":
    sys.exit(main())
