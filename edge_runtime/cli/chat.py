"""`hobbit chat`: a conversation with the model's own chat template; the KV cache of earlier turns is kept."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from edge_runtime.cli.options import (
    add_engine_arguments,
    add_sampling_arguments,
    engine_options,
)

if TYPE_CHECKING:
    from edge_runtime import Engine, SamplingParams

HELP = "Type a message; /reset starts over, /stats shows the last answer's statistics, /exit or Ctrl-D leaves."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's flags."""
    parser.add_argument("--system", metavar="TEXT", help="system message")
    add_sampling_arguments(parser)
    add_engine_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    from edge_runtime import Engine
    from edge_runtime.base.errors import ConfigError
    from edge_runtime.cli.output import sampling_params

    params = sampling_params(args)
    with Engine.open(args.bundle, self_check=not args.no_self_check, **engine_options(args)) as engine:
        if not engine.tokenizer.has_chat_template:
            raise ConfigError("chat: this model has no chat template. Use `hobbit run` (plain completion) instead.")
        _converse(engine, params, args)
    return 0


def _converse(engine: Engine, params: SamplingParams, args: argparse.Namespace) -> None:
    start = [{"role": "system", "content": args.system}] if args.system else []
    messages: list[dict[str, Any]] = list(start)
    print(HELP, file=sys.stderr)
    while (line := _read_line()) is not None:
        if line == "/exit":
            return
        if line == "/reset":
            messages = list(start)
        elif line == "/stats":
            _print_last(engine)
        elif line:
            asked = {"role": "user", "content": line}
            answer = _try_answer(engine, params, [*messages, asked], as_json=args.json)
            if answer is not None:
                messages += [asked, {"role": "assistant", "content": answer}]


def _try_answer(engine: Engine, params: SamplingParams, messages: list[dict[str, Any]], *, as_json: bool) -> str | None:
    """Answer, or say what went wrong and leave the conversation as it was."""
    from edge_runtime.base.errors import ExpertReadError, RequestError

    try:
        return _answer(engine, params, messages, as_json=as_json)
    except (RequestError, ExpertReadError) as err:
        print(
            f"{type(err).__name__}: {err}\nThe message was not taken; /reset starts a new conversation.",
            file=sys.stderr,
        )
        return None


def _answer(engine: Engine, params: SamplingParams, messages: list[dict[str, Any]], *, as_json: bool) -> str:
    prompt = engine.tokenizer.apply_chat_template(messages)
    ids = engine.tokenizer.encode(prompt, add_special_tokens=False)
    text = ""
    try:
        for chunk in engine.stream(ids, params, reuse_prefix=True):
            text += chunk.text
            if not as_json:
                sys.stdout.write(chunk.text)
                sys.stdout.flush()
    except KeyboardInterrupt:
        print(" (stopped)", file=sys.stderr)
    print(json.dumps(engine.last_report().to_json()) if as_json else "")
    return text


def _print_last(engine: Engine) -> None:
    from edge_runtime.base.errors import RequestError
    from edge_runtime.cli.output import print_statistics

    try:
        print_statistics(engine.last_report())
    except RequestError as err:
        print(err, file=sys.stderr)


def _read_line() -> str | None:
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None
    except UnicodeDecodeError as err:
        print(f"message: expected UTF-8 text, got {err}. It was not taken.", file=sys.stderr)
        return ""
