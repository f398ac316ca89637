"""Engine: the local Python API. Opens a bundle within a memory budget and generates from it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edge_runtime.base.errors import HobbitError, RequestError
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.self_check import check_once
from edge_runtime.config.environment import Variables
from edge_runtime.config.memory_plan import MemoryPlan
from edge_runtime.config.resolve import EngineOptions
from edge_runtime.engine.assembly import Parts, assemble, replan
from edge_runtime.engine.generation import Chunk, Generation
from edge_runtime.engine.report import make_report
from edge_runtime.engine.sampler import SamplingParams
from edge_runtime.engine.tokenizer import Tokenizer
from edge_runtime.policy.base import Policy
from edge_runtime.policy.wrappers.counting import CountingPolicy, RoutingCounts
from edge_runtime.telemetry.report import RunReport

T = TypeVar("T")
Prompt = str | Sequence[int] | NDArray[np.integer[Any]]


class Engine:
    """A model ready to generate, its experts streamed from the bundle.

    One request runs at a time; a second one from another thread is refused, not queued. Use as a context manager,
    or call `close`, from any thread: a request that runs ends with a RequestError, and then memory is released.

    Example:
        >>> with Engine.open("bundle", memory="2GiB") as engine:  # doctest: +SKIP
        ...     for chunk in engine.stream("Once", SamplingParams(max_tokens=64)):
        ...         print(chunk.text, end="")
    """

    def __init__(self, parts: Parts, load_s: float) -> None:
        self._parts = parts
        self._load_s = load_s
        self._guard = threading.Lock()  # of _owner
        self._owner: object | None = None  # the request that runs or is suspended
        self._work = threading.Lock()  # held while a request computes, not while it is suspended
        self._worker: int | None = None
        self._kv = parts.kv
        self._kv_tokens: list[int] = []
        self._last: Generation | None = None
        self._closed = self._released = False

    @staticmethod
    def open(
        bundle: str | os.PathLike[str],
        *,
        self_check: bool = True,
        environment: Variables | None = None,
        **options: Any,
    ) -> Engine:
        """Open a bundle: check it, plan its memory, load the trunk, allocate the expert arena.

        Args:
            bundle: directory written by hobbit-export.
            self_check: run the numerical self-check the first time this bundle is opened on this machine.
            environment: HOBBIT_ variables instead of those of os.environ.
            **options: the engine's entries of the table of options (docs/options.md): memory, policy, tier, ...; what
                is left out comes from the environment, then the profile.

        Raises:
            ConfigError: an option is unknown or wrong.
            BundleError: the bundle is damaged or incomplete.
            BudgetError: the model does not fit the budget; the message has the sum and the nearest setting that does.
            DeviceError: the backend asked for is not there.
        """
        started = perf_counter()
        parts = assemble(bundle, EngineOptions.from_keywords(options), environment)
        try:
            engine = Engine(parts, perf_counter() - started)
            if self_check:
                check_once(engine, parts.bundle, parts.config.tier, parts.fingerprint)
        except BaseException:
            parts.close()
            raise
        engine._load_s = perf_counter() - started
        return engine

    @property
    def spec(self) -> ModelSpec:
        """Shape of the model."""
        return self._parts.bundle.manifest.model

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
    ) -> Iterator[Chunk]:
        """Generate, yielding text as it becomes certain.

        Args:
            prompt: text, or token ids.
            params: sampling parameters; greedy to the end of the context if left out.
            reuse_prefix: keep the KV cache of the previous request as far as the prompts agree.

        Yields:
            A chunk for every token; its text may be empty while a character or stop string is incomplete.

        Raises:
            RequestError: the prompt is empty or too long, another request is running, or the engine was closed.
            ExpertReadError: the drive failed; the engine stays usable.
        """
        self._require_open()
        params = params or SamplingParams()
        if params.seed is None:
            params = replace(params, seed=self._parts.config.seed)
        ids = self._encode(prompt)
        return self._run(ids, params, reuse_prefix)

    def _run(self, ids: NDArray[np.int32], params: SamplingParams, reuse_prefix: bool) -> Iterator[Chunk]:
        with self._turn():
            steps = self._generate(ids, params, reuse_prefix)
            while (chunk := self._compute(lambda: next(steps, None))) is not None:
                yield chunk

    def _generate(self, ids: NDArray[np.int32], params: SamplingParams, reuse_prefix: bool) -> Iterator[Chunk]:
        kept = self._keep_prefix(ids) if reuse_prefix else 0
        self._kv.truncate(kept)
        self._kv_tokens = ids[:kept].tolist()
        self._parts.cache.begin_request()
        if not kept:
            self._parts.policy.begin_sequence()
            self._parts.cache.begin_sequence()
        generation = Generation(self._parts, self._kv, self._kv_tokens, ids, params, self._require_open)
        self._last = generation
        yield from generation.run()

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
        if self._last is None:
            raise RequestError("report: expected a finished request, but none ran yet.")
        g = self._last
        g.timings.load_ms = 1000 * self._load_s
        return make_report(
            self._parts,
            timings=g.timings,
            before=g.counters_before,
            text=g.text,
            token_ids=g.token_ids,
            finish_reason=g.finish_reason,
        )

    def logits(self, token_ids: Prompt, *, chunk: int | None = None) -> NDArray[np.float32]:
        """Return the logits float32 [T, V] after each of T tokens, from an empty KV cache.

        Args:
            token_ids: tokens, or text.
            chunk: tokens a pass; 1 is teacher forcing as in decode. Default: the plan's prefill chunk.
        """
        ids = self._encode(token_ids)
        out = np.empty((len(ids), self.spec.vocab_size), np.float32)
        for start, rows in self.logit_chunks(ids, chunk=chunk):
            out[start : start + len(rows)] = rows
        return out

    def logit_chunks(
        self, token_ids: NDArray[np.int32], *, chunk: int | None = None
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield (first position, logits float32 [t, V]) chunk by chunk: `logits` in bounded memory."""
        self._require_open()
        decoder = self._parts.decoder
        if chunk is not None and chunk < 1:
            raise RequestError(f"logits: chunk: expected at least 1 token, got {chunk}.")
        step = min(chunk or self._parts.logits_chunk, decoder.max_chunk)
        with self._turn():
            yield from self._logit_chunks(token_ids, step)

    def _logit_chunks(self, token_ids: NDArray[np.int32], step: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        steps = self._forward(token_ids, step)
        while (rows := self._compute(lambda: next(steps, None))) is not None:
            yield rows

    def _forward(self, token_ids: NDArray[np.int32], step: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        self._kv.truncate(0)
        self._kv_tokens = []
        self._parts.cache.begin_request()
        self._parts.policy.begin_sequence()
        self._parts.cache.begin_sequence()
        for start in range(0, len(token_ids), step):
            ids = token_ids[start : start + step]
            yield start, self._parts.decoder.forward(ids, self._kv, slice(0, len(ids)), self._require_open)

    def routing_counts(self, text: Prompt, *, max_tokens: int) -> RoutingCounts:
        """Run a text through the model and count how often the router chooses each expert.

        Args:
            text: text or token ids; windows of the context's length are run one after another.
            max_tokens: stop after so many tokens.
        """
        self._require_open()
        ids = np.asarray(self.tokenizer.encode(text) if isinstance(text, str) else text)[:max_tokens]
        window = self._parts.config.context
        step = min(self._parts.logits_chunk, self._parts.decoder.max_chunk)
        windows = [self._encode(ids[start : start + window]) for start in range(0, len(ids), window)]
        with self._turn():
            counting = CountingPolicy(self._parts.decoder.policy, self.spec.num_experts)
            with self._swapped(counting):
                for each in windows:
                    for _ in self._logit_chunks(each, step):
                        pass
        return RoutingCounts(len(ids), counting.layers)

    @contextmanager
    def deciding_with(self, policy: Policy) -> Iterator[None]:
        """Let another policy decide during a block; usually one that watches and passes on to `parts.policy`.

        Raises:
            RequestError: a request is running, or the engine was closed.
        """
        with self._turn():
            swapped = self._swapped(policy)
            swapped.__enter__()
        try:
            yield
        finally:
            swapped.__exit__(None, None, None)

    @contextmanager
    def _swapped(self, policy: Policy) -> Iterator[None]:
        decoder = self._parts.decoder
        original, decoder.policy = decoder.policy, policy
        try:
            yield
        finally:
            decoder.policy = original

    def resize(self, *, memory: str | int | None = None, expert_memory: str | int | None = None) -> MemoryPlan:
        """Change the budget while open: experts are evicted and memory returned, or the arena grows.

        Raises:
            BudgetError: the model does not fit the new budget; the old one stays in force.
            RequestError: a request is running, or the engine was closed.
        """
        with self._turn():
            self._compute(lambda: replan(self._parts, memory=memory, expert_memory=expert_memory))
        return self._parts.plan

    def close(self) -> None:
        """Release everything. Safe to call twice and from any thread.

        A request that computes meanwhile ends at its next layer, and this waits for it; one that is suspended finds out
        when it is resumed. Called from inside a request (a signal handler, a policy), the request releases at its end.
        """
        self._closed = True
        if self._worker == threading.get_ident():
            return
        with self._work:
            self._release()

    def _release(self) -> None:
        if not self._released:
            self._parts.close()
            self._released = True

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Be the one request there may be during a block."""
        me = object()
        try:
            with self._guard:
                if self._owner is not None:
                    self._require_open()
                    raise RequestError("engine: another request is running. Finish or close it first.")
                self._owner = me
            self._require_open()
            yield
        finally:
            if self._owner is me:
                self._owner = None

    def _compute(self, action: Callable[[], T]) -> T:
        """Run a part of a request while nothing can be released."""
        me = threading.get_ident()
        with self._work:
            self._worker = me
            try:
                self._require_open()
                return action()
            finally:
                if self._closed:
                    self._release()
                self._worker = None

    def _require_open(self) -> None:
        if self._closed:
            raise RequestError("engine: it was closed. Open the bundle again.")

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _encode(self, prompt: Prompt) -> NDArray[np.int32]:
        self._require_open()
        context = self._parts.config.context
        ids = np.asarray(self.tokenizer.encode_within(prompt, context) if isinstance(prompt, str) else prompt)
        if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
            raise RequestError(
                f"prompt: expected text or a list of token ids, got an array of {ids.dtype} {ids.shape}."
            )
        if not ids.size:
            raise RequestError("prompt: expected at least one token, got none.")
        if ids.min() < 0 or ids.max() >= self.spec.vocab_size:
            bad = int(ids.min() if ids.min() < 0 else ids.max())
            raise RequestError(f"prompt: token id {bad} is outside the vocabulary of {self.spec.vocab_size}.")
        if len(ids) > context:
            raise RequestError(
                f"prompt: {len(ids)} tokens exceed the context of {context}. "
                "Shorten it, or open the engine with a larger context."
            )
        return ids.astype(np.int32)

    def _keep_prefix(self, ids: NDArray[np.int32]) -> int:
        """Tokens of the KV cache the new prompt shares; at least one token is always run, to have logits."""
        limit = min(len(self._kv_tokens), self._kv.length, len(ids) - 1)
        same = 0
        while same < limit and self._kv_tokens[same] == ids[same]:
            same += 1
        return same


__all__ = ["Chunk", "Engine", "HobbitError", "Prompt", "RunReport", "SamplingParams"]
