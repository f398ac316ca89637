"""`hobbit plan`: the memory plan line by line, before anything big is loaded."""

from __future__ import annotations

import argparse
import json

from edge_runtime.cli.options import add_engine_arguments, engine_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's flags."""
    add_engine_arguments(parser, opens_engine=False)


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    from edge_runtime.config.resolve import EngineOptions
    from edge_runtime.engine import assembly  # noqa: F401 - planned is a process that has it loaded
    from edge_runtime.engine.preparation import prepare

    prepared = prepare(args.bundle, EngineOptions.from_keywords(engine_options(args)))
    plan, sampling = prepared.plan, prepared.bundle.manifest.sampling
    if args.json:
        print(json.dumps({**plan.to_json(), "sampling": sampling.given}))
    else:
        print("\n".join([*plan.table(), f"sampling the model wants: {sampling.describe()}"]))
    return 0
