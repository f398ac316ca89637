"""`hobbit chat`: a conversation with the model's own chat template; the KV cache of earlier turns is kept."""

from __future__ import annotations

import argparse

from edge_runtime.cli.options import add_engine_arguments, add_sampling_arguments, engine_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's flags."""
    parser.add_argument("--system", metavar="TEXT", help="system message")
    parser.add_argument("--load", metavar="FILE", help="go on with a conversation that /save wrote")
    parser.add_argument("--no-history", action="store_true", help="keep no file of what was typed")
    add_sampling_arguments(parser, max_tokens=None)
    add_engine_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    from edge_runtime import Engine
    from edge_runtime.base.errors import ConfigError
    from edge_runtime.cli.chat.conversation import Conversation
    from edge_runtime.cli.chat.readers import open_reader
    from edge_runtime.cli.chat.saved import load
    from edge_runtime.cli.chat.session import ChatSession
    from edge_runtime.cli.chat.terminal import Terminal
    from edge_runtime.cli.output import sampling_params

    sampling_params(args)  # a wrong flag is told before anything is loaded
    conversation = load(args.load) if args.load else Conversation()
    if args.system is not None:
        conversation.system = args.system or None
    options = engine_options(args)
    terminal = Terminal.of_process()
    with terminal.quiet(), Engine.open(args.bundle, self_check=not args.no_self_check, **options) as engine:
        if not engine.tokenizer.has_chat_template:
            raise ConfigError("chat: this model has no chat template. Use `hobbit run` (plain completion) instead.")
        params = sampling_params(args, engine.sampling_defaults)
        session = ChatSession(engine, params, conversation, terminal, as_json=args.json)
        session.converse(open_reader(terminal, keeps_history=not args.no_history))
    return 0
