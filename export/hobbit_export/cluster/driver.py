"""Hands steps to a cluster and takes back what is done; a step whose worker died is handed out again."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from edge_runtime.base.errors import DeviceError
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.manifest import Part
from hobbit_export import __version__
from hobbit_export.cluster.work import Done, Order, beat_of, staging_of
from hobbit_export.options import ExportOptions
from hobbit_export.parts import is_intact
from hobbit_export.progress import Progress
from hobbit_export.steps import EXPERT_STEP, ExportStep

HERE = ("tokenizer", "reference", "router data")
"""Steps the driver does itself: small ones, and logits whose last bits may differ between processors."""
TRIES = 5
"""Workers that may die over one step."""
_VISIBLE_S = 120.0
"""A network file system may show a new file to other machines after its caches' time, a minute by default."""


class Lost(NamedTuple):
    """A step whose worker died, or whose machine did."""

    step: str
    why: str


class Cluster(Protocol):
    """An engine that runs `run_order` on some machine."""

    def submit(self, order: Order) -> None:
        """Hand out an order."""
        ...

    def wait(self, timeout_s: float) -> Sequence[Done | Lost]:
        """Return what ended meanwhile, after `timeout_s` at most.

        Raises:
            HobbitError: a step found something wrong; no other worker would find anything else.
        """
        ...

    def stop(self) -> None:
        """End what is still under way."""
        ...


class Recorder(Protocol):
    """Who keeps what is done: the exporter's runner."""

    progress: Progress

    def is_done(self, name: str) -> bool:
        """Whether an earlier run did a step."""
        ...

    def run(self, step: ExportStep) -> None:
        """Do a step here, or pass over it if it is done."""
        ...

    def complete(self) -> None:
        """Wait until what was done here is on the drive and recorded."""
        ...

    def adopt(self, done: Done) -> None:
        """Record a step that was done elsewhere. Another thread may call `run` meanwhile."""
        ...


def order_of(options: ExportOptions, fingerprint: dict[str, Any], spec: ModelSpec) -> Order:
    """Return what all orders of one run have in common."""
    return Order(_absolute(options), "", uuid.uuid4().hex[:12], 0, __version__, fingerprint | {"calibrate": None}, spec)


def run_steps(steps: Iterable[ExportStep], order: Order, cluster: Cluster, recorder: Recorder) -> None:
    """Do all steps that are not done: most on the cluster, some here meanwhile.

    Args:
        steps: of the export, in the order they run here.
        order: from `order_of`.
        cluster: is stopped at the end.
        recorder: does what is done here, and keeps what is done anywhere.

    Raises:
        DeviceError: workers died over one step again and again.
        HobbitError: a step found something wrong.
    """
    every, out = list(steps), order.options.out
    staging_of(out, order.run).mkdir(parents=True)
    mine = [step for step in every if step.here or step.name in HERE or recorder.is_done(step.name)]
    elsewhere = [step for step in every if step not in mine]
    handing = _Handing(cluster, recorder, order)
    here = ThreadPoolExecutor(1, thread_name_prefix="hobbit-export-here")
    try:
        # the largest first: the last worker to end decides when all is done
        growing = sorted(elsewhere, key=lambda step: step.name.startswith(EXPERT_STEP))
        for step in reversed(growing):
            handing.hand_out(step.name)
        own_work = here.submit(_run_here, mine, recorder)
        parts = handing.collect(own_work)
        own_work.result()
    finally:
        cluster.stop()
        here.shutdown()
    wait_until_visible(out, parts)


def _run_here(steps: Sequence[ExportStep], recorder: Recorder) -> None:
    for step in steps:
        recorder.run(step)
    recorder.complete()


def _absolute(options: ExportOptions) -> ExportOptions:
    """Return options that mean the same on every machine. The calibration is the driver's."""
    tokenizer = options.tokenizer.absolute() if options.tokenizer else None
    return replace(
        options, checkpoint=options.checkpoint.absolute(), out=options.out.absolute(), tokenizer=tokenizer,
        calibrate=None, files=None, fitted=options.has_statistics,
    )  # fmt: skip


class _Handing:
    """Orders that are out, and what came of them."""

    def __init__(self, cluster: Cluster, recorder: Recorder, order: Order) -> None:
        self._cluster, self._recorder, self._order = cluster, recorder, order
        self._out: dict[str, Order] = {}
        self._deaths: Counter[str] = Counter()
        self._seen: Counter[str] = Counter()

    def hand_out(self, step: str) -> None:
        """Give a step to the cluster."""
        self._out[step] = replace(self._order, step=step, attempt=self._deaths[step])
        self._cluster.submit(self._out[step])

    def collect(self, own_work: Future[None]) -> list[Part]:
        """Wait for all of them, unless what is done here fails; return their parts."""
        parts: list[Part] = []
        while self._out:
            if own_work.done():
                own_work.result()
            for ended in self._cluster.wait(1.0):
                if isinstance(ended, Lost):
                    self._again(ended)
                else:
                    self._count(ended.step, ended.bytes_read)
                    del self._out[ended.step]
                    self._recorder.adopt(ended)
                    parts += ended.parts
            for step, order in self._out.items():
                self._count(step, max(beat_of(order), self._seen[step]))
        return parts

    def _again(self, lost: Lost) -> None:
        self._deaths[lost.step] += 1
        if self._deaths[lost.step] >= TRIES:
            raise DeviceError(
                f"{lost.step}: its worker died {TRIES} times: {lost.why}. Does a node lack memory? Lower --jobs or "
                "--memory, and run the same command again to resume."
            )
        self._recorder.progress.note(f"{lost.step}: its worker died ({lost.why}), once more")
        self._count(lost.step, 0)
        self.hand_out(lost.step)

    def _count(self, step: str, bytes_read: int) -> None:
        """Show how far a step is."""
        self._recorder.progress.advance_elsewhere(bytes_read - self._seen[step])
        self._seen[step] = bytes_read


def wait_until_visible(
    out: Path, parts: Iterable[Part], patience_s: float = _VISIBLE_S, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Wait until this machine sees what the others wrote.

    Raises:
        DeviceError: it does not.
    """
    waited, missing = 0.0, [part for part in parts if not is_intact(out, part)]
    while missing:
        if waited >= patience_s:
            raise DeviceError(
                f"--out {out}: {missing[0].name} was written by a worker and cannot be seen here. Is it storage that "
                "every node has mounted at the same path? Run the same command again to resume."
            )
        sleep(1.0)
        waited += 1.0
        missing = [part for part in missing if not is_intact(out, part)]
