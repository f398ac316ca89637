"""The service without HTTP: loads the engine in the background, then hands requests to the serving loop."""

from __future__ import annotations

import logging
import os
import threading
from importlib.metadata import version
from typing import Any

from edge_runtime.backends import passed_over
from edge_runtime.base.confined import ConfinedHost
from edge_runtime.base.errors import BundleError, ConfigError, HobbitError
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.tokenizer_file import read_tokenizer
from edge_runtime.config.resolve import EngineOptions, resolve
from edge_runtime.engine.api import Engine
from edge_runtime.engine.chat_template import RENDER, RENDER_LIMITS
from edge_runtime.engine.job import Job
from edge_runtime.engine.queue import QueueFullError, ShuttingDownError
from edge_runtime.engine.reload import Reload, wait_or_cancel
from edge_runtime.engine.serving_loop import ServingLoop
from edge_runtime.engine.sessions import SessionPool
from edge_runtime.engine.tokenizer import Tokenizer, eos_text
from edge_runtime.service.config import ServiceConfig
from edge_runtime.service.openai.api_errors import bad_field, from_exception, queue_full, unavailable
from edge_runtime.service.openai.chat import ChatFormat
from edge_runtime.service.openai.grammar import Vocabulary
from edge_runtime.service.openai.grammar_check import CHECK, CHECK_LIMITS
from edge_runtime.service.openai.prompts import Prompts
from edge_runtime.service.ops.engine_state import EngineStatePublisher
from edge_runtime.service.ops.figures import ServiceInfo, ServiceStats
from edge_runtime.service.ops.health import Heartbeat, Phase, Readiness
from edge_runtime.service.ops.observer import ServiceObserver
from edge_runtime.service.ops.stats_report import make_stats_report
from edge_runtime.service.ops.warmup import verify_once, warm

_LOG = logging.getLogger(__name__)


def confined_host() -> ConfinedHost:
    """Return where templates and grammars are worked on: both come from outside, and there they can be stopped."""
    return ConfinedHost({RENDER: RENDER_LIMITS, CHECK: CHECK_LIMITS})


class Service:
    """One model served to many clients. Implements `ops.control.Controllable`.

    Args:
        config: what to serve.

    Raises:
        ConfigError, BundleError: the options or the bundle are wrong; found out before anything big is loaded.
    """

    def __init__(self, config: ServiceConfig) -> None:
        self.config = config
        manifest = Bundle.open(config.bundle).manifest
        environment = os.environ if config.environment is None else config.environment
        resolved = resolve(EngineOptions.from_keywords(config.options), environment, manifest)
        spec = manifest.model
        self.info = ServiceInfo(
            model_name=config.model_name or config.bundle.resolve().name,
            family=spec.family,
            num_layers=spec.num_layers,
            num_experts=spec.num_experts,
            top_k=spec.top_k,
            tier=resolved.tier,
            backend=(backend := resolved.backend.partition(":")[0]),
            version=version("hobbit-edge"),
            passed_over=passed_over(backend),
        )
        self.context = resolved.context
        self.vocab_size = spec.vocab_size
        self.sampling_defaults = manifest.sampling
        self._eos = spec.eos_token_ids
        self.stats, self.heartbeat, self.readiness = ServiceStats(), Heartbeat(), Readiness()
        self.error: Exception | None = None
        self._engine: Engine | None = None
        self._loop: ServingLoop | None = None
        self._vocabulary: Vocabulary | None = None
        self._chat: ChatFormat | None = None
        self._parallel = resolved.parallel
        self._confined = confined_host()
        self._lock = threading.Lock()
        self._closed = False

    def start(self) -> None:
        """Load in the background; `readiness` says when it is done."""
        threading.Thread(target=self._load, name="hobbit-loading", daemon=True).start()

    def _load(self) -> None:
        try:
            if self.config.verify:
                verify_once(Bundle.open(self.config.bundle), self._say)
            self._say("the model is loading")
            # first of all, so that what it takes is part of what the memory plan measures
            bundle = Bundle.open(self.config.bundle)
            tokenizer_json, end = read_tokenizer(bundle), eos_text(bundle)
            vocabulary = Vocabulary(tokenizer_json, self.vocab_size, self._eos, self._confined, end)
            self._confined.start()
            engine = Engine.open(
                self.config.bundle,
                self_check=self.config.self_check,
                environment=self.config.environment,
                request_bytes=self.config.request_bytes,
                **self.config.options,
            )
            engine.tokenizer.templates.use(self._confined)
            warm(engine)
        except Exception as err:  # noqa: BLE001 - told to whoever waits for readiness
            self.error = err
            if not isinstance(err, HobbitError):
                _LOG.error("loading failed unexpectedly", exc_info=err)
            self.readiness.set(Phase.FAILED, str(err))
            return
        with self._lock:
            if self._closed:
                engine.close()
                return
            self._engine, self._vocabulary, self._chat = engine, vocabulary, ChatFormat(engine.tokenizer)
            self._loop = self._make_loop(engine)
            self._loop.start()
        self.readiness.set(Phase.READY)

    def _make_loop(self, engine: Engine) -> ServingLoop:
        sessions = SessionPool.of(engine.parts)
        observer = ServiceObserver(self.stats, self.heartbeat, EngineStatePublisher(engine.parts, sessions, self.stats))
        # a long prompt pass is alive as long as its layers come
        scheduler = engine.hand_over(sessions, observer, before_layer=self.heartbeat.beat)
        return ServingLoop(scheduler, observer, max_waiting=self.config.max_waiting)

    def _say(self, text: str) -> None:
        """Report the progress of loading, unless the service is stopping already."""
        if self.readiness.phase is Phase.LOADING:
            self.readiness.set(Phase.LOADING, text)

    def require_ready(self) -> None:
        """Refuse work before loading is done.

        Raises:
            ApiError: it is not ready.
        """
        phase = self.readiness.phase
        if phase is not Phase.READY:
            if phase in (Phase.LOADING, Phase.DRAINING):
                with self.stats.update() as figures:
                    figures.rejected[phase.value] += 1
            raise unavailable(self.readiness.reason or phase.value, phase.value)

    @property
    def tokenizer(self) -> Tokenizer:
        """The bundle's tokenizer."""
        assert self._engine is not None, "not ready"
        return self._engine.tokenizer

    @property
    def vocabulary(self) -> Vocabulary:
        """Grammars and bytes of tokens."""
        assert self._vocabulary is not None, "not ready"
        return self._vocabulary

    @property
    def chat(self) -> ChatFormat:
        """The bundle's chat template."""
        assert self._chat is not None, "not ready"
        return self._chat

    @property
    def prompts(self) -> Prompts:
        """Encodes and checks prompts."""
        return Prompts(self.tokenizer, self.vocab_size, self.context, self.config.token_limit)

    def check_policy(self, text: str) -> None:
        """Check a policy a request asks for.

        Raises:
            ApiError: there is no such policy, or this engine's memory or bundle is not made for it.
        """
        assert self._engine is not None, "not ready"
        try:
            self._engine.parts.active.make(text)
        except (ConfigError, BundleError) as err:
            raise bad_field("hobbit.policy", str(err)) from err

    def submit(self, *jobs: Job) -> None:
        """Queue the jobs of one request.

        Raises:
            ApiError: not ready, draining, or the queue is full.
        """
        self.require_ready()
        assert self._loop is not None
        try:
            self._loop.submit(*jobs)
        except QueueFullError as err:
            raise queue_full(err.waiting, self._retry_after_s()) from err
        except ShuttingDownError as err:
            raise from_exception(err) from err

    def _retry_after_s(self) -> int:
        """About when the next session becomes free: the mean length of a request."""
        latency = self.stats.read().e2e_latency
        mean = latency.sum / latency.count if latency.count else 1.0
        return max(1, min(60, round(mean / self._parallel)))

    def drain(self) -> None:
        """Refuse new requests and finish those accepted; return at once."""
        with self._lock:
            self._closed = self._closed or self._loop is None
        if self.readiness.phase is not Phase.FAILED:
            self.readiness.set(Phase.DRAINING, "it is shutting down")
        if self._loop is not None:
            self._loop.drain()

    def join(self, timeout_s: float) -> bool:
        """Wait until a drained service has finished its requests; return whether it has."""
        return self._loop is None or self._loop.join(timeout_s)

    def reload(self, change: Reload, timeout_s: float = 30.0) -> None:
        """Apply a change between two steps.

        Raises:
            ConfigError: the change is impossible; everything stays as it was.
            BudgetError: the system refused the memory; settings stay as they were, experts are read anew.
            TimeoutError: no step ended in that time; everything stays as it was.
        """
        if self._loop is None:
            raise unavailable("the model is loading", "loading")
        wait_or_cancel(self._loop.reload(change), timeout_s)

    def stats_report(self) -> dict[str, Any]:
        """Return the `/v1/stats` object."""
        return make_stats_report(self.stats, self.readiness, self.heartbeat, self.info)

    def close(self) -> None:
        """Cancel what runs and release everything. Safe to call twice."""
        with self._lock:
            self._closed = True
        self._confined.close()
        if self._loop is not None:
            self._loop.stop()
            if not self._loop.join(60.0):
                _LOG.error("the serving loop does not end; memory is left to the system")
                return
        if self._engine is not None:
            self._engine.close()
        self.readiness.set(Phase.STOPPED, "it has stopped")
