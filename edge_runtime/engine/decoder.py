"""Decodes: runs chunks of sequences in passes, each of them committed when its policies accept it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

from edge_runtime.backends.base import Compute
from edge_runtime.backends.chunks import TrunkChunk
from edge_runtime.backends.kernels import ExpertKernels
from edge_runtime.backends.trunk import KVCache
from edge_runtime.base.arrays import F32, I32
from edge_runtime.base.spec import ModelSpec
from edge_runtime.engine.forward_pass import ForwardPass
from edge_runtime.engine.pass_parts import BeforeLayer, PassParts, SequenceStep, nothing
from edge_runtime.engine.policy_pass import Attempt, PassSequence, run_policy_pass
from edge_runtime.experts.borrowed_scratch import BorrowedScratch
from edge_runtime.experts.cache import ExpertCache
from edge_runtime.policy.base import Policy
from edge_runtime.policy.routing import Router
from edge_runtime.prefetch.overlap import OverlapReads
from edge_runtime.prefetch.prefetcher import Prefetcher
from edge_runtime.prefetch.read_ahead import ReadAhead
from edge_runtime.telemetry.spans import Spans

T = TypeVar("T")


class PolicySource(Protocol):
    """Says which policy is in force; `ActivePolicy` is one."""

    @property
    def policy(self) -> Policy:
        """Decides for sequences that have no policy of their own."""
        ...


class Decoder(Generic[T]):
    """Runs chunks of tokens through a model whose experts are streamed. Activations are the backend's tensors.

    Args:
        spec: the model.
        compute: what computes it, for passes of a chunk and a token of each other sequence.
        cache: its experts.
        active: says which policy decides experts and tiers.
        router: the model's.
        max_chunk: most tokens of one sequence in one pass; only one sequence of a pass brings more than one token.
        prefetcher: reads ahead for single tokens; None: nothing is read before it is asked for.
        borrowed_scratch: lets the cache use scratch between passes; None: it stays unused.
    """

    def __init__(
        self,
        spec: ModelSpec,
        compute: Compute[T],
        cache: ExpertCache,
        active: PolicySource,
        router: Router,
        *,
        max_chunk: int,
        prefetcher: Prefetcher | None = None,
        borrowed_scratch: BorrowedScratch | None = None,
    ) -> None:
        self.max_chunk, self._active, self._borrowed_scratch = max_chunk, active, borrowed_scratch
        self.read_ahead, self.spans = ReadAhead(cache, spec.num_experts, prefetcher), Spans(compute.clock)
        self._parts = PassParts(spec, compute, cache, router, OverlapReads(cache), self.read_ahead, self.spans)

    @property
    def prefetcher(self) -> Prefetcher | None:
        """What reads ahead; None: nothing is read before it is asked for."""
        return self.read_ahead.prefetcher

    @contextmanager
    def computing_with(self, kernels: ExpertKernels[T]) -> Iterator[None]:
        """Let other kernels compute during a block; usually some that watch and pass on to these."""
        before = self._parts
        self._parts = replace(before, compute=replace(before.compute, kernels=kernels))
        try:
            yield
        finally:
            self._parts = before

    def prefill(self, token_ids: I32, kv: KVCache, before_layer: BeforeLayer = nothing) -> F32:
        """Run int32 [N] tokens in chunks; return the logits float32 [V] after the last one."""
        for start in range(0, len(token_ids), self.max_chunk):
            chunk = token_ids[start : start + self.max_chunk]
            is_last = start + len(chunk) == len(token_ids)
            rows = slice(len(chunk) - 1, len(chunk)) if is_last else slice(0)
            logits = self.forward(chunk, kv, rows, before_layer)
        last: F32 = logits[0]
        return last

    def forward(self, token_ids: I32, kv: KVCache, rows: slice, before_layer: BeforeLayer = nothing) -> F32:
        """Run one chunk of 1 to max_chunk tokens and return the logits float32 [rows, V] of the chosen ones.

        Raises:
            ExpertReadError: an expert could not be read; the chunk is dropped, `kv` is unchanged.
            RequestError: the chunk does not fit the context.
        """
        return self.step([SequenceStep(token_ids, kv, rows)], before_layer)[0]

    def step(self, steps: Sequence[SequenceStep], before_layer: BeforeLayer = nothing) -> list[F32]:
        """Run the next tokens of several sequences in one pass, every expert read once for all of them.

        Under a policy whose decision for a token depends on that token alone, as `lossless`, each sequence gets the
        bits it would get by itself. At most one step may have more than one token. Sequences whose policy does not
        accept their logits run once more. Drafts need a trunk with `ChunkCuts`.

        Args:
            steps: of the sequences; only a step by itself may have drafts.
            before_layer: called before every layer; what it raises ends the pass, and nothing of it is kept.

        Returns:
            Of each step the logits float32 [rows, V] of its chosen tokens, of drafts only those that ran to the end.

        Raises:
            ExpertReadError: an expert could not be read; nothing of the pass is kept, no cache is changed.
            DeviceError: trunk or kernels failed; the same.
            RequestError: a step does not fit its context.
        """
        own = self._active.policy
        sequences = [PassSequence(len(s.token_ids), s.num_rows, s.policy or own, s.drafts) for s in steps]
        if self._borrowed_scratch is not None:
            self._borrowed_scratch.begin_pass(sum([each.tokens for each in sequences]))
        chunks: dict[int, TrunkChunk] = {}
        committed: list[int] = []

        def attempt(chosen: list[int]) -> Attempt:
            policies = [sequences[i].policy for i in chosen]
            run = ForwardPass(self._parts, [steps[i] for i in chosen], policies, before_layer)
            done = run.run()
            chunks.update(zip(chosen, run.chunks, strict=True))
            return done

        try:
            logits = run_policy_pass(sequences, attempt, self._parts.cache.residents, self.prefetcher)
            with self.spans.span("trunk"):
                for i, chunk in chunks.items():
                    self._parts.compute.trunk.commit(chunk)
                    committed.append(i)
        except BaseException:
            self._parts.cache.fail_pass()
            for i in committed:
                steps[i].kv.truncate(steps[i].kv.length - chunks[i].tokens)
            raise
        return logits


def max_tokens(max_chunk: int, parallel: int) -> int:
    """Return the most tokens of one pass: a chunk of one sequence and a token of each other."""
    return max_chunk + parallel - 1
