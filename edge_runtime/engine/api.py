"""Engine: the local Python API. Opens a bundle within a memory budget and generates from it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from time import perf_counter
from types import TracebackType
from typing import Any

from edge_runtime.base.errors import HobbitError, RequestError
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.sampling_defaults import SamplingDefaults
from edge_runtime.bundle.self_check import check_once
from edge_runtime.config.environment import Variables
from edge_runtime.config.memory_plan import MemoryPlan
from edge_runtime.config.resolve import EngineOptions
from edge_runtime.engine.assembly import assemble
from edge_runtime.engine.continuation import Chunk, TextDelta
from edge_runtime.engine.evaluation import Evaluation
from edge_runtime.engine.observer import SchedulerObserver
from edge_runtime.engine.parts import Parts
from edge_runtime.engine.pass_parts import BeforeLayer, nothing
from edge_runtime.engine.prompt import Prompt
from edge_runtime.engine.reconfigure import make_elastic, make_preload
from edge_runtime.engine.reload import Reload
from edge_runtime.engine.report import energy_of, make_report, speculation_of
from edge_runtime.engine.sampler import SamplingParams
from edge_runtime.engine.scheduler import Scheduler
from edge_runtime.engine.sessions import SessionPool
from edge_runtime.engine.sync_client import SyncClient
from edge_runtime.engine.tokenizer import Tokenizer
from edge_runtime.telemetry.report import RunReport


class Engine(Evaluation):
    """A model ready to generate, its experts streamed from the bundle.

    One request runs at a time; a second one from another thread is refused, not queued. Use as a context manager,
    or call `close`, from any thread: a request that runs ends with a RequestError, and then memory is released.

    Example:
        >>> with Engine.open("bundle", memory="2GiB") as engine:  # doctest: +SKIP
        ...     for chunk in engine.stream("Once", SamplingParams(max_tokens=64)):
        ...         print(chunk.text, end="")
    """

    def __init__(self, parts: Parts, load_s: float) -> None:
        super().__init__(parts, SyncClient(parts))
        self._load_s, self._use = load_s, self._client.use
        self._idle = self._client.watch_when_idle() if parts.elastic or parts.preload else None

    @staticmethod
    def open(
        bundle: str | os.PathLike[str],
        *,
        self_check: bool = True,
        environment: Variables | None = None,
        request_bytes: int = 0,
        **options: Any,
    ) -> Engine:
        """Open a bundle: check it, plan its memory, load the trunk, allocate the expert arena.

        Args:
            bundle: directory written by hobbit-export.
            self_check: run the numerical self-check the first time this bundle is opened on this machine.
            environment: HOBBIT_ variables instead of those of os.environ.
            request_bytes: memory that the plan keeps for requests before they are tokens, as a service has them.
            **options: the engine's entries of the table of options (docs/options.md): memory, policy, tier, ...; what
                is left out comes from the environment, then the profile.

        Raises:
            ConfigError: an option is unknown or wrong.
            BundleError: the bundle is damaged or incomplete.
            BudgetError: the model does not fit the budget; the message has the sum and the nearest setting that does.
            DeviceError: the backend asked for is not there.
        """
        started = perf_counter()
        parts = assemble(bundle, EngineOptions.from_keywords(options, request_bytes=request_bytes), environment)
        close = parts.close
        try:
            parts.elastic, parts.preload = make_elastic(parts), make_preload(parts)
            engine = Engine(parts, perf_counter() - started)
            close = engine.close
            if self_check:
                check_once(engine, parts.bundle, parts.config.tier, parts.checked_as, context=parts.config.context)
                if parts.cache.residents.lookup_counts()[0]:  # it ran: the first start of a bundle is like any other
                    engine.start_over()
        except BaseException:
            if parts.preload is not None:
                parts.preload.forget()
            close()
            raise
        engine._load_s = perf_counter() - started
        return engine

    @property
    def spec(self) -> ModelSpec:
        """Shape of the model."""
        return self._parts.bundle.manifest.model

    @property
    def sampling_defaults(self) -> SamplingDefaults:
        """How the model wants to be sampled: ``SamplingParams(**engine.sampling_defaults.given)``."""
        return self._parts.bundle.manifest.sampling

    @property
    def tokenizer(self) -> Tokenizer:
        """The bundle's tokenizer."""
        return self._parts.tokenizer

    @property
    def plan(self) -> MemoryPlan:
        """The memory plan in force."""
        return self._parts.plan

    @property
    def parts(self) -> Parts:
        """The parts this engine joins; for tests, evaluation and benchmarks."""
        return self._parts

    def stream(
        self, prompt: Prompt, params: SamplingParams | None = None, *, reuse_prefix: bool = False
    ) -> Iterator[TextDelta]:
        """Generate, yielding text as it becomes certain.

        Args:
            prompt: text, or token ids.
            params: sampling parameters; greedy to the end of the context if left out, whatever the model wants.
            reuse_prefix: keep the KV cache of the previous request as far as the prompts agree.

        Yields:
            What each token adds; its text may be empty while a character or stop string is incomplete.

        Raises:
            RequestError: the prompt is empty or too long, another request is running, or the engine was closed.
            ExpertReadError: the drive failed; the engine stays usable.
        """
        self._use.require_open()
        ids = self._parts.encode(prompt)
        return self._client.stream(ids, params or SamplingParams(), reuse_prefix=reuse_prefix)

    def generate(
        self, prompt: Prompt, params: SamplingParams | None = None, *, reuse_prefix: bool = False
    ) -> RunReport:
        """Generate to the end and return text, token ids and everything measured."""
        for _ in self.stream(prompt, params, reuse_prefix=reuse_prefix):
            pass
        return self.last_report()

    def last_report(self) -> RunReport:
        """Report of the latest request.

        Raises:
            RequestError: nothing ran yet.
        """
        run = self._client.latest
        if run is None:
            raise RequestError("report: expected a finished request, but none ran yet.")
        run.timings.load_ms = 1000 * self._load_s
        return make_report(
            self._parts,
            timings=run.timings,
            before=run.request.counters,
            text=run.text,
            token_ids=run.token_ids,
            finish_reason=run.finish_reason or "length",
            energy=energy_of(self._parts, run),
            speculation=speculation_of(self._parts, run),
        )

    def resize(self, *, memory: str | int | None = None, expert_memory: str | int | None = None) -> MemoryPlan:
        """Change the budget while open: experts are evicted and memory returned, or the arena grows.

        A request that runs goes on: between two of its tokens, or from another thread, this takes effect before the
        next pass. What it says does not change under a policy that does not look at residency.

        Raises:
            BudgetError: the model does not fit the new budget; the old one stays in force.
            RequestError: the engine was closed or handed over, or this was called from inside a pass.
        """
        return self.reload(Reload(memory=memory, expert_memory=expert_memory))

    def start_over(self) -> None:
        """Forget what ran: experts, prefixes, what policy, eviction and warm start remember of it. Counters go on.

        Raises:
            RequestError: a request is running, or the engine was closed.
        """
        self._client.start_over()

    def reload(self, change: Reload) -> MemoryPlan:
        """Change policy, eviction, look-ahead or budget while open, as if the engine had been opened with them.

        Raises:
            BudgetError: the model does not fit the new budget; the old one stays in force.
            ConfigError: a policy, rule or predictor is unknown or does not fit the bundle; nothing changed.
            RequestError: a request is running, or the engine was closed.
        """
        self._client.apply(change)
        return self._parts.plan

    def hand_over(
        self, sessions: SessionPool, observer: SchedulerObserver, before_layer: BeforeLayer = nothing
    ) -> Scheduler:
        """Let the caller drive requests, several at a time; the engine's own are refused from now on.

        Args:
            sessions: where they run.
            observer: hears of everything that happens.
            before_layer: called before every layer of a pass.

        Returns:
            What runs them, in one thread of the caller's. Stop using it before `close`.

        Raises:
            RequestError: a request is running, or the engine was closed.
        """
        self._use.claim_for_good()
        self._stop_idle_watch()
        return Scheduler(self._parts, sessions, observer, before_layer)

    def close(self) -> None:
        """Release everything. Safe to call twice and from any thread.

        A request that computes meanwhile ends at its next layer, and this waits for it; one that is suspended finds out
        when it is resumed. Called from inside a request (a signal handler, a policy), the request releases at its end.
        """
        self._use.close()
        self._stop_idle_watch()

    def _stop_idle_watch(self) -> None:
        if self._idle is not None:
            self._idle.stop()

    @property
    def is_released(self) -> bool:
        """Whether it was closed and its memory was released."""
        return self._use.is_released

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


__all__ = ["Chunk", "Engine", "HobbitError", "Prompt", "RunReport", "SamplingParams"]
