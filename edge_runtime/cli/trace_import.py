"""`hobbit trace import`: turn what another program recorded of a router into a trace for `hobbit simulate`."""

from __future__ import annotations

import argparse
import json

from edge_runtime.cli.options import add_json_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's flags."""
    parser.add_argument("recording", metavar="FILE.csv", help="`route_trace v1`, gzipped or not (docs/trace.md)")
    parser.add_argument("--out", metavar="T", required=True, help="trace file to write")
    parser.add_argument("--hidden", type=int, metavar="D", help="width of the model, for sizes (default: 2048)")
    parser.add_argument(
        "--intermediate", type=int, metavar="I",
        help="width of an expert (default: what the recorded bytes of an expert amount to, else 768)",
    )  # fmt: skip
    add_json_argument(parser)


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    from pathlib import Path

    from edge_runtime.base.sizes import format_size
    from edge_runtime.lab.simulator.imported import routing_of, write_trace
    from edge_runtime.lab.simulator.route_trace import read_recording
    from edge_runtime.policy import POLICIES, reads_at_most

    found = read_recording(Path(args.recording))
    size = write_trace(found, Path(args.out), hidden=args.hidden, intermediate=args.intermediate)
    holds = routing_of(found)
    judged = [name for name in POLICIES if reads_at_most(name, holds)]
    tokens, layers, top_k = found.experts.shape
    if args.json:
        print(
            json.dumps(
                {
                    "trace": args.out, "model": found.model, "tokens": tokens, "texts": int(found.first_of_text.sum()),
                    "layers": layers, "experts": found.num_experts, "top_k": top_k, "routing": holds,
                    "filled": found.filled, "expert_bytes": size, "policies": judged,
                }
            )
        )  # fmt: skip
        return 0
    print(f"{args.out}: {found.model}: {tokens} tokens in {int(found.first_of_text.sum())} texts,")
    print(
        f"{layers} layers of {found.num_experts} experts, top-{top_k}; an expert counts {format_size(size)} at 4 bits."
    )
    print(f"It holds {'the choices and their weights' if found.has_weights else 'the choices, no weights'}.")
    print(f"Policies it can judge: {', '.join(judged)}.")
    if found.filled:
        print(f"{found.filled} choices of a token and layer were not recorded; the next token's were taken for them.")
    return 0
