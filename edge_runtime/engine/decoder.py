"""One forward pass over one or several sequences: joins trunk, expert kernels and the loop over layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.backends.cpu.trunk.kv_cache import KVCache
from edge_runtime.backends.trunk import F32, LayerOutput, Trunk, TrunkChunk
from edge_runtime.base.spec import ModelSpec
from edge_runtime.engine.layer_loop import run_layers
from edge_runtime.engine.policy_pass import Attempt, PassSequence, run_policy_pass
from edge_runtime.experts.borrowed_scratch import BorrowedScratch
from edge_runtime.experts.cache import ExpertCache
from edge_runtime.policy.base import Decision, Policy, Routing
from edge_runtime.policy.joint import PassPolicies
from edge_runtime.policy.routing import Router
from edge_runtime.prefetch.overlap import OverlapReads
from edge_runtime.prefetch.prefetcher import Prefetcher
from edge_runtime.prefetch.read_ahead import ReadAhead
from edge_runtime.telemetry.spans import Spans

I32 = NDArray[np.int32]
BeforeLayer = Callable[[], None]
"""Called before every layer of a pass; may raise to end it. A long prompt is alive as long as its layers come."""

_ALL = slice(None)
_NO_STOPS = np.empty(0, np.int_)


class Kernels(Protocol):
    """The part of `edge_runtime.backends.cpu.kernels.ExpertKernels` a decoder uses."""

    def begin(self, x: F32, ids: I32, weights: F32, num_experts: int) -> None:
        """Take float32 [T, D] and what was decided, int32 and float32 [T, K], for the runs that follow."""
        ...

    def run_experts(self, tier: int, segments: NDArray[np.uint64], experts: I32) -> None:
        """Compute some of the experts decided for."""
        ...

    def end(self, out: F32) -> None:
        """Write the weighted sum over ranks to float32 [T, D]."""
        ...

    def run_resident(
        self, x: F32, ids: I32, weights: F32, tier: int, addresses: NDArray[np.uint64], slots: I32, out: F32
    ) -> None:
        """All of that at once, for experts that are all in memory."""
        ...


class PolicySource(Protocol):
    """Says which policy is in force; `ActivePolicy` is one."""

    @property
    def policy(self) -> Policy:
        """Decides for sequences that have no policy of their own."""
        ...


class SequenceStep(NamedTuple):
    """What one sequence runs in a pass.

    Attributes:
        token_ids: int32 [T], its next tokens.
        kv: its cache.
        rows: of which tokens logits are wanted.
        policy: decides for its tokens; None is the one in force.
    """

    token_ids: I32
    kv: KVCache
    rows: slice
    policy: Policy | None = None

    @property
    def num_rows(self) -> int:
        """Tokens whose logits are wanted."""
        return len(range(*self.rows.indices(len(self.token_ids))))


def nothing() -> None:
    """A `BeforeLayer` that lets every layer run."""


class Decoder:
    """Runs chunks of tokens through a model whose experts are streamed.

    Args:
        spec: the model.
        trunk: its dense part.
        cache: its experts.
        kernels: expert kernels for passes of up to `max_tokens` tokens.
        active: says which policy decides experts and tiers.
        router: the model's.
        max_chunk: most tokens of one sequence in one pass.
        parallel: most sequences in one pass; at most one of them brings more than one token.
        prefetcher: reads ahead for single tokens; None: nothing is read before it is asked for.
        borrowed_scratch: lets the cache use scratch between passes; None: it stays unused.
    """

    def __init__(  # noqa: PLR0913 - the parts it joins
        self,
        spec: ModelSpec,
        trunk: Trunk,
        cache: ExpertCache,
        kernels: Kernels,
        active: PolicySource,
        router: Router,
        *,
        max_chunk: int,
        parallel: int = 1,
        prefetcher: Prefetcher | None = None,
        borrowed_scratch: BorrowedScratch | None = None,
    ) -> None:
        self.spec, self.trunk, self.cache, self.kernels, self._active = spec, trunk, cache, kernels, active
        self.router = router
        self.max_chunk, self._borrowed_scratch = max_chunk, borrowed_scratch
        self.overlap, self.read_ahead = OverlapReads(cache), ReadAhead(cache, spec.num_experts, prefetcher)
        self.spans = Spans()
        self.expert_out = np.zeros((max_tokens(max_chunk, parallel), spec.hidden), np.float32)

    @property
    def prefetcher(self) -> Prefetcher | None:
        """What reads ahead; None: nothing is read before it is asked for."""
        return self.read_ahead.prefetcher

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
        accept their logits run once more.

        Args:
            steps: of the sequences.
            before_layer: called before every layer; what it raises ends the pass, and nothing of it is kept.

        Returns:
            Of each step the logits float32 [rows, V] of its chosen tokens.

        Raises:
            ExpertReadError: an expert could not be read; nothing of the pass is kept, no cache is changed.
            RequestError: a step does not fit its context.
        """
        own = self._active.policy
        sequences = [PassSequence(len(s.token_ids), s.num_rows, s.policy or own) for s in steps]
        if self._borrowed_scratch is not None:
            self._borrowed_scratch.begin_pass(sum(each.tokens for each in sequences))
        chunks: dict[int, TrunkChunk] = {}

        def attempt(chosen: list[int]) -> Attempt:
            run = _ForwardPass(self, [steps[i] for i in chosen], [sequences[i].policy for i in chosen], before_layer)
            done = run.run()
            chunks.update(zip(chosen, run.chunks, strict=True))
            return done

        logits = run_policy_pass(sequences, attempt, self.cache, self.prefetcher)
        with self.spans.span("trunk"):
            for chunk in chunks.values():
                self.trunk.commit(chunk)
        return logits


class _ForwardPass:
    """One run of all layers over some sequences, which the decoder commits. Implements `RoutingSource`, `ExpertServer`.

    Args:
        decoder: whose parts it uses.
        steps: what runs.
        policies: of each step.
        before_layer: called before every layer.
    """

    def __init__(
        self, decoder: Decoder, steps: Sequence[SequenceStep], policies: list[Policy], before_layer: BeforeLayer
    ) -> None:
        self._d, self._steps, self._before_layer = decoder, steps, before_layer
        self._own, self._policies = policies, PassPolicies(policies, [len(step.token_ids) for step in steps])
        self._spec, self._span = decoder.spec, decoder.spans.span
        self._expert_outs: list[F32 | None] = [None] * len(steps)
        self._outs: list[LayerOutput] = []
        self.chunks: list[TrunkChunk] = []

    def run(self) -> Attempt:
        """Run every layer, and the head where logits are wanted."""
        trunk, cache = self._d.trunk, self._d.cache
        with self._span("trunk"):
            self.chunks = [trunk.begin(step.token_ids, step.kv) for step in self._steps]
        self._stops = _stops(self.chunks)
        cache.begin_pass()
        self._d.read_ahead.decide_with(self._policies)
        decisions = run_layers(range(self._spec.num_layers), self, self._decide, self)
        cache.end_pass()
        with self._span("trunk"):
            logits = [self._head(*each) for each in zip(self.chunks, self._expert_outs, self._steps, strict=True)]
        return Attempt(logits, decisions)

    def route(self, layer_idx: int) -> Routing | None:
        """Run the dense part of a layer, sequence by sequence; the drive reads for those that have run."""
        self._before_layer()
        decoder, is_sparse = self._d, self._spec.layers[layer_idx].sparse
        overlaps = is_sparse and not self._policies.reads_residency
        outs: list[LayerOutput] = []
        for number, (chunk, expert_out) in enumerate(zip(self.chunks, self._expert_outs, strict=True)):
            with self._span("trunk"):
                outs.append(decoder.trunk.run_layer(chunk, layer_idx, expert_out))
            if overlaps and len(outs) < len(self.chunks):
                one = slice(number, number + 1)
                decoder.overlap.begin(layer_idx, self._routing(layer_idx, outs, one), self._own[number])
        self._outs = outs
        if not is_sparse:
            self._expert_outs = [None] * len(outs)
            return None
        return self._routing(layer_idx, outs)

    def serve(self, layer_idx: int, routing: Routing, decision: Decision) -> None:
        """Compute the experts' combined output of each sequence, shared experts included."""
        decoder, x = self._d, _joined([out.x for out in self._outs])
        expert_out = decoder.expert_out[: len(x)]
        shared = self.chunks if self._spec.layers[layer_idx].shared is not None else []
        resident = (
            None
            if decoder.read_ahead.is_wanted(decision)
            else decoder.cache.take_resident(layer_idx, decision.tiers, decision.use_order)
        )
        if resident is not None:
            with self._span("experts"):
                decoder.kernels.run_resident(x, decision.topk_ids, decision.topk_weights, *resident, expert_out)
            shared_out = self._run_shared(layer_idx, shared)
        else:
            shared_out = self._stream(layer_idx, routing, decision, x, expert_out, shared)
        parts = [expert_out] if len(self.chunks) == 1 else np.split(expert_out, self._stops)
        for part, more in zip(parts, shared_out, strict=bool(shared)):
            part += more
        self._expert_outs = [*parts]

    def _stream(
        self, layer_idx: int, routing: Routing, decision: Decision, x: F32, expert_out: F32, shared: list[TrunkChunk]
    ) -> list[F32]:
        """Compute experts into `expert_out` as they come; return what shared experts gave while reads flowed."""
        decoder = self._d
        # reads of missing experts are under way from here on
        ready = decoder.cache.stream(layer_idx, decision.tiers, decision.use_order)
        decoder.read_ahead.after(layer_idx, x, routing, decision)
        with self._span("experts"):
            decoder.kernels.begin(x, decision.topk_ids, decision.topk_weights, self._spec.num_experts)
        shared_out: list[F32] = []
        for number, batch in enumerate(ready):
            with self._span("experts"):
                decoder.kernels.run_experts(batch.tier, batch.segments, batch.experts)
            if number == 0 and shared:
                shared_out = self._run_shared(layer_idx, shared)
        if shared and not shared_out:
            shared_out = self._run_shared(layer_idx, shared)
        with self._span("experts"):
            decoder.kernels.end(expert_out)
        return shared_out

    def _run_shared(self, layer_idx: int, chunks: list[TrunkChunk]) -> list[F32]:
        if not chunks:
            return []
        with self._span("trunk"):
            return [self._d.trunk.run_shared(chunk, layer_idx) for chunk in chunks]

    def _decide(self, layer_idx: int, routing: Routing) -> Decision:
        return self._policies.decide(layer_idx, routing, self._d.cache)

    def _routing(self, layer_idx: int, outs: list[LayerOutput], which: slice = _ALL) -> Routing:
        """The router's own choice for the tokens of sequences in order."""
        logits, router = _joined([out.router_logits for out in outs[which]]), self._d.router
        if not router.needs_tokens:
            return router.route(layer_idx, logits)
        return router.route(layer_idx, logits, np.concatenate([step.token_ids for step in self._steps[which]]))

    def _head(self, chunk: TrunkChunk, expert_out: F32 | None, step: SequenceStep) -> F32:
        if not step.num_rows:
            return np.empty((0, self._spec.vocab_size), np.float32)
        return self._d.trunk.head(chunk, expert_out, step.rows)


def max_tokens(max_chunk: int, parallel: int) -> int:
    """Return the most tokens of one pass: a chunk of one sequence and a token of each other."""
    return max_chunk + parallel - 1


def _stops(chunks: list[TrunkChunk]) -> NDArray[np.int_]:
    """Where each sequence but the last ends in the joined tokens."""
    if len(chunks) == 1:
        return _NO_STOPS
    return np.cumsum([chunk.tokens for chunk in chunks])[:-1]


def _joined(arrays: Sequence[F32 | None]) -> F32:
    found = [array for array in arrays if array is not None]
    assert len(found) == len(arrays)
    return found[0] if len(found) == 1 else np.concatenate(found)
