"""Runs steps of an export that are not done, here, and keeps the journal of those that are, wherever they ran."""

from __future__ import annotations

import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from hobbit_export.byte_files import ByteFiles
from hobbit_export.journal import Journal, Step
from hobbit_export.options import ExportOptions
from hobbit_export.parts import is_intact, publish, remove_staging, staging
from hobbit_export.progress import Progress
from hobbit_export.statistics.inputs import FOLDER as STATISTICS
from hobbit_export.steps import EXPERT_STEP, INT4, STATISTICS_STEP, ExportStep, Written

if TYPE_CHECKING:
    from hobbit_export.cluster.work import Done


class Runner:
    """Runs steps that are not in the journal, or whose parts are gone.

    A step's files are hashed and synced by a thread of their own while the next step runs.
    """

    def __init__(
        self, options: ExportOptions, journal: Journal, progress: Progress, layer_bytes: int, files: ByteFiles
    ) -> None:  # fmt: skip
        self._out, self._files = options.out, files
        self._journal = journal
        self.progress = progress
        self._layer_bytes = layer_bytes
        self.num_run = self.num_resumed = self.bytes_read = 0
        self._intact = self._find_intact()
        self._publisher = ThreadPoolExecutor(1, thread_name_prefix="hobbit-export-publisher")
        self._pending: Future[None] | None = None
        remove_staging(self._out)

    @property
    def finished_bytes(self) -> int:
        """Bytes of parts that need not be written again."""
        found = (p for name in self._intact for p in self._journal.steps[name].parts)
        return sum(p.bytes for p in found if not p.name.startswith(f"{STATISTICS}/"))

    def is_done(self, name: str) -> bool:
        """Whether a step was finished by an earlier run."""
        return name in self._intact

    def count(self, num_bytes: int) -> None:
        """Count bytes read from the checkpoint."""
        self.bytes_read += num_bytes
        self.progress.advance(num_bytes)

    def run(self, step: ExportStep) -> None:
        """Run a step if needed. Its files may still be on their way to the drive: see `complete`."""
        if step.name in self._intact:
            self.num_resumed += 1
            self.progress.skip(
                step.name, self._layer_bytes if step.name.startswith((EXPERT_STEP, STATISTICS_STEP)) else 0
            )
            return
        if step.spent:
            self.complete()  # what it reads must be in its place
        self.progress.begin(step.name)
        folder = staging(self._out, str(self.num_run))
        written: Written = step.run(folder)
        self.complete()
        self._pending = self._publisher.submit(self._publish, step, written, folder)
        self.num_run += 1
        self.progress.end(step.name)

    def adopt(self, done: Done) -> None:
        """Record a step that another machine did; its files are in their places."""
        self._journal.add(Step(done.step, done.parts, done.data))
        self.num_run += 1
        self.bytes_read += done.bytes_read
        self.progress.done_elsewhere(done.step, done.seconds, done.node)

    def complete(self) -> None:
        """Wait until every step run so far is on the drive and in the journal; raises what went wrong there."""
        pending, self._pending = self._pending, None
        if pending:
            pending.result()

    def close(self) -> None:
        """Let the thread end."""
        self._publisher.shutdown()
        remove_staging(self._out)

    def _publish(self, step: ExportStep, written: Written, folder: Path) -> None:
        parts = [publish(self._out, folder, name, role, step.layer) for name, role in written.files]
        shutil.rmtree(folder)
        self._journal.add(Step(step.name, parts, written.data, list(step.spent)), self._files.received())
        for name in step.spent:
            (self._out / name).unlink(missing_ok=True)

    def _find_intact(self) -> set[str]:
        """Names of the steps of an earlier run that need not run again.

        One that must run again needs what it spent: then all that was made to be spent is made anew, which goes from
        layer to layer.
        """
        steps, gone = list(self._journal.steps.values()), set[str]()  # replaced by later steps, or spent by them
        intact: set[str] = set()
        must_run: set[str] = set()
        for step in reversed(steps):
            if all(part.name in gone or is_intact(self._out, part) for part in step.parts):
                intact.add(step.name)
            else:
                must_run.update(step.spent)
            gone.update(step.spent, (part.name for part in step.parts))
        missing = {name for name in must_run if not (self._out / name).is_file()}
        if missing:
            intact -= {step.name for step in steps if any(part.name.startswith(f"{INT4}/") for part in step.parts)}
            intact -= {step.name for step in steps if step.name.startswith(STATISTICS_STEP)}
        return intact
