"""`hobbit run`: generate text; the text goes to stdout as it comes, the statistics to stderr."""

from __future__ import annotations

import argparse
import json
import sys

from edge_runtime.cli.options import (
    add_engine_arguments,
    add_sampling_arguments,
    engine_options,
)

# longer than any token of any tokenizer: bounds what is read of a prompt that cannot fit the context anyway
MAX_TOKEN_CHARACTERS = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's flags."""
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("-p", "--prompt", metavar="TEXT", help="the prompt; - reads it from stdin")
    prompt.add_argument("-f", "--prompt-file", metavar="FILE", help="read the prompt from a UTF-8 file")
    parser.add_argument("--echo", action="store_true", help="print the prompt before what is generated")
    add_sampling_arguments(parser)
    add_engine_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    from edge_runtime import Engine
    from edge_runtime.cli.output import print_statistics, sampling_params

    sampling_params(args)  # a wrong flag is told before anything is loaded
    with Engine.open(args.bundle, self_check=not args.no_self_check, **engine_options(args)) as engine:
        params = sampling_params(args, engine.sampling_defaults)
        prompt = _prompt(args, limit=MAX_TOKEN_CHARACTERS * engine.parts.config.context)
        if args.echo and not args.json:
            sys.stdout.write(prompt)
        for delta in engine.stream(prompt, params):
            if not args.json and delta.text:
                sys.stdout.write(delta.text)
                sys.stdout.flush()
        report = engine.last_report()
        if args.json:
            print(json.dumps(report.to_json()))
        else:
            sys.stdout.write("\n")
            sys.stdout.flush()
            print_statistics(report)
    return 0


def _prompt(args: argparse.Namespace, limit: int) -> str:
    """Read the prompt, at most one character more than any prompt that fits the context can have."""
    from edge_runtime.base.errors import RequestError

    try:
        if args.prompt_file:
            with open(args.prompt_file, encoding="utf-8") as file:
                return file.read(limit + 1)
        return sys.stdin.read(limit + 1) if args.prompt == "-" else str(args.prompt)
    except (OSError, UnicodeDecodeError) as err:
        raise RequestError(f"prompt: cannot read {args.prompt_file or 'stdin'}: {err}.") from err
