"""Command line of hobbit-export: flags in, a summary or one JSON object out, errors as one line and an exit code."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from edge_runtime.base.command import DefaultsFormatter, Parser, VersionAction
from edge_runtime.base.ending import exit_code, say
from edge_runtime.base.errors import HobbitError
from edge_runtime.base.sizes import parse_size
from edge_runtime.config.environment import Environment
from hobbit_export import commands
from hobbit_export.options import (
    DEFAULT_MEMORY,
    DEFAULT_TEXT,
    DEFAULT_TRUNK,
    ExportOptions,
    check_engine,
    check_targets,
    check_trunk,
    default_jobs,
    parse_codes,
    parse_tiers,
)
from hobbit_export.report import summary


def build_parser() -> argparse.ArgumentParser:
    """Flags of the command."""
    parser = Parser(
        prog="hobbit-export",
        description="Turn a mixture-of-experts checkpoint (Hugging Face or GGUF) into a bundle for `hobbit`.",
        epilog="Exit codes: 0 ok, 1 failed while running, 2 usage, 78 bad configuration, checkpoint or bundle, "
        "130 interrupted.",
        formatter_class=DefaultsFormatter,
    )
    _add_what(parser)
    _add_source(parser)
    _add_how(parser)
    return parser


def _add_what(parser: argparse.ArgumentParser) -> None:
    """Flags that say what is exported, and to where."""
    add = parser.add_argument
    add("--version", action=VersionAction, help="print the version and exit")
    add(
        "checkpoint",
        metavar="CHECKPOINT",
        type=Path,
        help="folder with config.json, safetensors and tokenizer.json; a GGUF file (of several splits the first); or "
        "org/name[@revision] or org/name[@revision]:FILE.gguf, a model on the Hugging Face Hub, whose weights are "
        "read as they are needed and not kept",
    )
    add(
        "--out",
        metavar="BUNDLE",
        type=Path,
        required=True,
        help="folder to write; an unfinished export there is resumed",
    )
    add(
        "--tiers",
        default="8",
        help="deepest expert precision stored, in bits: 8, 6, 4 or 2; lower ones are its prefixes and cost nothing. A "
        "list such as 8,4,2 names those the runtime may use; fp4 keeps MXFP4 as it is (tiers 4 "
        "and 2); bf16 adds an exact copy",
    )
    add(
        "--trunk",
        metavar="auto|fp32|int8|int4",
        default=DEFAULT_TRUNK,
        help="precision of everything but routed experts. int8's error is small beside that of the 8-bit experts; int4 "
        "halves the memory at a loss, which --calibrate more than halves. auto: with --calibrate int4 where its loss, "
        "measured on text held out from the fit, is at most 0.003 nats; int8 otherwise, and where nothing is measured",
    )
    add(
        "--targets",
        default="ort",
        help="what the graphs are for: ort; TensorRT engines are built from them on the device",
    )
    add(
        "--calibrate",
        metavar="FILE.txt",
        type=Path,
        nargs="?",
        const=DEFAULT_TEXT,
        help="run this text (or one that comes with the program) through the model: the two-bit tier and an int4 trunk "
        "are fitted to it, and what lower tiers and skips cost is measured: needed by --policy rate-distortion and "
        "--max-kld. Reads the experts twice",
    )


def _add_source(parser: argparse.ArgumentParser) -> None:
    """Flags that say how the checkpoint is read."""
    add = parser.add_argument
    add(
        "--keep-source",
        metavar="DIR",
        type=Path,
        default=None,
        help="of a model by name: download the whole checkpoint to this folder first, and check its digests",
    )
    add(
        "--ignore-key",
        metavar="NAME",
        action="append",
        default=[],
        help="read config.json as if it had no such key (outer.inner: one inside an object): for an option that this "
        "program refuses and you know to change nothing. May be given several times; the bundle records it",
    )
    add(
        "--tokenizer",
        metavar="DIR",
        type=Path,
        default=None,
        help="folder with the tokenizer.json (and tokenizer_config.json, chat template) to use in place of the model's "
        "own",
    )


def _add_how(parser: argparse.ArgumentParser) -> None:
    """Flags that say how it is done."""
    add = parser.add_argument
    add(
        "--jobs", metavar="N", type=int, default=None,
        help="encoder threads (default: all processors); with --engine ray those of a task (default: 4, or what the "
        "smallest node has)",
    )  # fmt: skip
    add(
        "--engine", metavar="local|ray", default="local",
        help="where layers are exported: here, or as tasks on a Ray cluster that shares the storage; the same bytes",
    )  # fmt: skip
    add(
        "--ray-address", metavar="ADDR", default="auto",
        help="head of the Ray cluster; auto: the one running here (or RAY_ADDRESS); local: start one for this export",
    )  # fmt: skip
    add(
        "--memory",
        metavar="SIZE",
        default=DEFAULT_MEMORY,
        help="ceiling for this command's own memory",
    )
    add(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on with an unfinished export; --no-resume starts over and replaces a complete bundle",
    )
    add(
        "--dry-run",
        action="store_true",
        help="print the size of every kind of part and write nothing; of a model by name from its config.json and "
        "index alone, whatever its size",
    )
    add(
        "--read-headers",
        action="store_true",
        help="of a model by name, with --dry-run: read the header of every weight file and the tokenizer, too, and "
        "check them as an export does",
    )
    add(
        "--verify",
        action="store_true",
        help="check every byte, and the logits, at the end, and of a model by name its whole files against the hub's "
        "digests; a complete bundle is only checked",
    )
    add("--no-self-check", action="store_true", help="skip running the finished bundle against the source's logits")
    add("--json", action="store_true", help="print one JSON object on stdout")


def parse_options(arguments: argparse.Namespace) -> ExportOptions:
    """Check flags before anything is opened.

    Raises:
        ConfigError: names the flag.
    """
    check_targets(arguments.targets)
    return ExportOptions(
        checkpoint=arguments.checkpoint,
        out=arguments.out,
        tiers=parse_tiers(arguments.tiers),
        codes=parse_codes(arguments.tiers),
        trunk=check_trunk(arguments.trunk),
        jobs=default_jobs() if arguments.jobs is None else arguments.jobs,
        memory_bytes=parse_size(arguments.memory, "--memory"),
        calibrate=arguments.calibrate,
        resume=arguments.resume,
        ignore_keys=tuple(dict.fromkeys(arguments.ignore_key)),
        tokenizer=arguments.tokenizer,
        engine=check_engine(arguments.engine),
        task_jobs=arguments.jobs or 0,
        ray_address=arguments.ray_address,
        check_source=arguments.verify,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    interrupted = "hobbit-export: interrupted. Run the same command again to resume."
    return exit_code("hobbit-export", lambda: _command(argv), interrupted)


def _command(argv: Sequence[str] | None) -> int:
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.jobs is not None and not 1 <= arguments.jobs <= 256:
        parser.error(f"--jobs: expected 1 to 256, got {arguments.jobs}")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        # the self-check's engine reads the variables at the end; a misspelt name must not wait for that
        Environment(os.environ)
        options = parse_options(arguments)
        if find_spec("onnx") is None:  # said before a model is asked for by name
            return commands.without_onnx()
        _limit_threads()
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # a hub need not know what else is installed here
        report = commands.report(options, arguments)
    except HobbitError as err:
        say(f"hobbit-export: {err}")
        return err.exit_code
    except BrokenPipeError:
        raise
    except OSError as err:
        where = err.filename or "input or output"
        say(f"hobbit-export: {where}: {err.strerror or err}. Run the same command again to resume.")
        return 1
    print(json.dumps(report, default=lambda fit: fit.to_json()) if arguments.json else summary(report))
    return 0


def _limit_threads() -> None:
    """Keep numpy's BLAS to one thread; works only before the import.

    A thread per processor takes its own buffers, and the reference logits would depend in the last bit on their number.
    """
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
