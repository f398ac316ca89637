"""Runs tasks of the harness on a bundle: what `hobbit eval --tasks` calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_runtime.base.errors import ConfigError
from edge_runtime.lab.harness.command import require


def evaluate(
    bundle: str,
    tasks: list[str],
    options: dict[str, Any],
    *,
    self_check: bool = True,
    num_fewshot: int | None = None,
    limit: int | None = None,
    task_path: Path | None = None,
    chat: bool = False,
) -> tuple[dict[str, Any], str]:
    """Run tasks.

    Args:
        bundle: directory written by hobbit-export.
        tasks: names of the harness.
        options: of the engine.
        self_check: as for `Engine.open`.
        num_fewshot: examples before each question; None: as the task has it.
        limit: questions of each task; None: all.
        task_path: folder with further tasks.
        chat: ask through the model's chat template.

    Returns:
        Plain data: results, versions and numbers of questions by task, policy and counters of experts. And a table.

    Raises:
        ConfigError: the harness is not installed, or a task is unknown; so for other errors of `Engine.open`.
    """
    require()
    import lm_eval
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import make_table

    from edge_runtime.engine.report import make_report
    from edge_runtime.lab.harness.model import HobbitLM
    from edge_runtime.telemetry.report import Timings

    manager = TaskManager(include_path=None if task_path is None else str(task_path))
    unknown = [name for name in tasks if not manager.match_tasks([name])]
    if unknown:
        raise ConfigError(f"--tasks: {unknown[0]!r}: the harness has no such task. `hobbit-lm-eval ls tasks` lists it.")
    model = HobbitLM(bundle, self_check=self_check, **options)
    try:
        before = model.engine.parts.cache.counters
        found = lm_eval.simple_evaluate(
            model=model, tasks=list(tasks), num_fewshot=num_fewshot, limit=limit, task_manager=manager,
            apply_chat_template=chat, log_samples=False,
        )  # fmt: skip
        report = make_report(model.engine.parts, timings=Timings(), before=before).to_json()
    finally:
        model.close()
    data = {
        "results": found["results"],
        "versions": found["versions"],
        "questions": found["n-samples"],
        "num_fewshot": found["n-shot"],
        "policy": report["policy"],
        "experts": report["experts"],
    }
    return data, str(make_table(found))
