"""`hobbit eval`: run a text under a baseline and under the settings given, and compare; or run benchmark tasks."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from time import perf_counter
from typing import IO, TYPE_CHECKING, Any

from edge_runtime.cli.options import add_engine_arguments, repeatable_options, with_policy
from edge_runtime.cli.texts import progress, read_tokens

if TYPE_CHECKING:
    from edge_runtime import Engine, RunReport
    from edge_runtime.base.arrays import I32
    from edge_runtime.lab.evaluation import Quality
    from edge_runtime.lab.tasks import TaskScore

_ANSWER_TOKENS = 48
_LOSSES = ("substituted", "skipped", "truncated", "route_changed", "fallbacks")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's flags."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--text", metavar="FILE", help="UTF-8 text to score")
    what.add_argument(
        "--tasks",
        metavar="NAME,...",
        help="tasks of lm-evaluation-harness to run instead (extra lm-eval)",
    )
    _add_task_arguments(parser)
    parser.add_argument("--tokens", type=int, default=512, metavar="N", help="score the first N tokens")
    parser.add_argument("--baseline", default="lossless", metavar="NAME", help="policy to compare with")
    parser.add_argument("--baseline-tier", metavar="T", help="its tier (default: bf16 if stored, else the deepest)")
    parser.add_argument(
        "--python",
        type=int,
        default=0,
        metavar="N",
        help="the text is Python: go on from N places, check what is written; 0: do not",
    )
    add_engine_arguments(parser)


def _add_task_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--num-fewshot", type=int, metavar="N", help="of --tasks: examples before each question (default: the task's)")
    add("--limit", type=int, metavar="N", help="of --tasks: only the first N questions of each")
    add("--task-path", type=Path, metavar="DIR", help="of --tasks: folder with tasks of your own")
    add("--chat-template", action="store_true", help="of --tasks: ask through the model's chat template")


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    if args.tasks is not None:
        return _run_tasks(args)
    from edge_runtime.bundle.manifest_file import read as read_manifest

    options = repeatable_options(args)
    tiers = read_manifest(Path(args.bundle)).experts.tiers
    baseline = with_policy(options, args.baseline) | {"tier": args.baseline_tier or str(tiers[-1])}
    with tempfile.TemporaryFile(prefix="hobbit-eval-") as store:
        ids, baseline_slips = _baseline_pass(args, baseline, store)
        report, quality, tasks = _candidate_pass(args, options, ids, store, baseline_slips)
    if args.json:
        scores = {name: task.to_json() for name, task in tasks.items()}
        print(json.dumps(report.to_json() | {"quality": quality.to_json() | {"tasks": scores}}))
    else:
        tier = "bf16" if baseline["tier"] == "16" else f"{baseline['tier']} bits"
        print(f"{report.policy['name']} against {args.baseline} at {tier}, {quality.tokens} tokens of {args.text}")
        _print_quality(report, quality, tasks)
    return 0


def _run_tasks(args: argparse.Namespace) -> int:
    from edge_runtime.lab.harness.run import evaluate

    data, table = evaluate(
        args.bundle,
        [name.strip() for name in args.tasks.split(",") if name.strip()],
        repeatable_options(args),
        self_check=not args.no_self_check,
        num_fewshot=args.num_fewshot,
        limit=args.limit,
        task_path=args.task_path,
        chat=args.chat_template,
    )
    print(json.dumps(data, default=str) if args.json else table)
    return 0


def _baseline_pass(args: argparse.Namespace, options: dict[str, Any], store: IO[bytes]) -> tuple[I32, list[bool]]:
    import numpy as np

    with _open(args, options) as engine:
        ids = np.asarray(read_tokens(engine, args.text, args.tokens), np.int32)
        for _, rows in progress(engine.logit_windows(ids, chunk=1), "baseline", len(ids)):
            store.write(rows.tobytes())
        return ids, _sound_python(engine, ids, args.python)


def _candidate_pass(
    args: argparse.Namespace,
    options: dict[str, Any],
    ids: I32,
    store: IO[bytes],
    baseline_sound: list[bool],
) -> tuple[RunReport, Quality, dict[str, TaskScore]]:
    import numpy as np

    from edge_runtime.engine.report import make_report
    from edge_runtime.lab.evaluation import QualityMeter
    from edge_runtime.lab.tasks import completed, repeated_names, score
    from edge_runtime.telemetry.report import Timings

    meter, timings = QualityMeter(), Timings()
    store.seek(0)
    with _open(args, options) as engine:
        before = engine.parts.cache.counters
        row_bytes = 4 * engine.spec.vocab_size
        started = perf_counter()
        for position, rows in progress(engine.logit_windows(ids, chunk=1), "candidate", len(ids)):
            timings.token_ms.append(1000 * (perf_counter() - started))
            baseline = np.frombuffer(store.read(row_bytes), np.float32)
            following = int(ids[position + 1]) if position + 1 < len(ids) else None
            meter.add(baseline, rows[0], following)
            started = perf_counter()
        report = make_report(engine.parts, timings=timings, before=before)
        names = repeated_names([engine.tokenizer.decode([int(token)]) for token in ids])
        ours, theirs = (completed(names, hits) for hits in meter.hits())
        tasks = {"identifiers": score(ours, theirs)}
        if args.python:
            tasks["python"] = score(_sound_python(engine, ids, args.python), baseline_sound)
    return report, meter.result(), tasks


def _sound_python(engine: Engine, ids: I32, count: int) -> list[bool]:
    """Go on from `count` places of the text and say of each answer whether its brackets and indents are sound."""
    from edge_runtime import SamplingParams
    from edge_runtime.lab.tasks import python_slips

    params, sound = SamplingParams(max_tokens=_ANSWER_TOKENS), []
    limit = max(engine.parts.config.context - _ANSWER_TOKENS, 1)
    for number in range(count):
        stop = max((number + 1) * len(ids) // (count + 1), 1)
        # from the start of the text, as far as the context goes: where code is cut, its open blocks are not known
        prompt = engine.tokenizer.decode([int(token) for token in ids[:stop][:limit]])
        answer = engine.generate(prompt, params).text
        sound.append(python_slips(prompt + answer) <= python_slips(prompt))
    return sound


def _open(args: argparse.Namespace, options: dict[str, Any]) -> Engine:
    from edge_runtime import Engine

    return Engine.open(args.bundle, self_check=not args.no_self_check, **options)


def _print_quality(report: RunReport, quality: Quality, tasks: dict[str, TaskScore]) -> None:
    from edge_runtime.base.sizes import format_size

    experts = report.experts
    rows = [
        ("perplexity", f"{quality.ppl:.4f} (baseline {quality.baseline_ppl:.4f})", "how surprised it is by the text"),
        ("KL divergence", f"mean {quality.kld_mean:.6f}, median {quality.kld_median:.6f}, p99 {quality.kld_p99:.6f}",
         "nats a token away from the baseline; 0 is equal"),
        ("same first choice", f"{100 * quality.top1_agreement:.2f} %", "of tokens"),
        *_task_rows(tasks),
        ("changed", _changed(experts), "by the policy, of expert uses"),
        ("read", f"{format_size(experts['bytes_per_token'] or 0)} a token", "from the drive"),
        ("speed", f"{report.timings['predicted_per_second']:.1f} tok/s", "one token a step, scored"),
    ]  # fmt: skip
    if experts["predicted_kld_per_token"] is not None:
        rows.insert(2, ("predicted KL", f"{experts['predicted_kld_per_token']:.6f}", "what the policy expected"))
    print("\n".join(f"  {name:<19}{value:<52} {remark}".rstrip() for name, value, remark in rows))


def _task_rows(tasks: dict[str, TaskScore]) -> list[tuple[str, str, str]]:
    what = {"identifiers": "names of the text, completed", "python": "continuations with sound brackets and indents"}
    return [
        (name, f"{100 * task.correct:.1f} % of {task.items} (baseline {100 * task.baseline_correct:.1f} %)", what[name])
        for name, task in tasks.items()
        if task.correct is not None and task.baseline_correct is not None
    ]


def _changed(experts: dict[str, Any]) -> str:
    return ", ".join(f"{experts[name]} {name.replace('_', ' ')}" for name in _LOSSES if experts[name]) or "nothing"
