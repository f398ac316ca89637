"""One forward pass over one or several sequences: trunk, policy, expert cache and kernels joined, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.backends.cpu.trunk.kv_cache import KVCache
from edge_runtime.backends.trunk import F32, LayerOutput, Trunk, TrunkChunk
from edge_runtime.base.errors import RequestError
from edge_runtime.base.spec import ModelSpec
from edge_runtime.experts.borrowed_scratch import BorrowedScratch
from edge_runtime.experts.cache import ExpertCache
from edge_runtime.experts.store.base import Priority
from edge_runtime.policy.base import Decision, Hint, Policy, Routing
from edge_runtime.policy.joint import decide_together
from edge_runtime.policy.routing import route
from edge_runtime.prefetch.overlap import OverlapReads
from edge_runtime.prefetch.prefetcher import Prefetcher
from edge_runtime.telemetry.spans import Spans

I32 = NDArray[np.int32]


_NO_STOPS = np.empty(0, np.int_)


class Kernels(Protocol):
    """The part of `edge_runtime.backends.cpu.kernels.ExpertKernels` a decoder uses."""

    def begin(self, x: F32, ids: I32, weights: F32, num_experts: int) -> None:
        """Take float32 [T, D] and its plan, int32 and float32 [T, K], for the runs that follow."""
        ...

    def run_experts(self, tier: int, segments: NDArray[np.uint64], experts: I32) -> None:
        """Compute some of the plan's experts."""
        ...

    def end(self, out: F32) -> None:
        """Write the weighted sum over ranks to float32 [T, D]."""
        ...

    def run_resident(
        self, x: F32, ids: I32, weights: F32, tier: int, addresses: NDArray[np.uint64], slots: I32, out: F32
    ) -> None:
        """All of that at once, for experts that are all in memory."""
        ...


class Piece(NamedTuple):
    """What one sequence runs in a pass.

    Attributes:
        token_ids: int32 [T], its next tokens.
        kv: its cache.
        rows: of which tokens logits are wanted.
        policy: decides for its tokens; None is the decoder's own.
    """

    token_ids: NDArray[np.int32]
    kv: KVCache
    rows: slice
    policy: Policy | None = None


def _nothing() -> None:
    """Nobody listens."""


class Decoder:
    """Runs chunks of tokens through a model whose experts are streamed.

    Args:
        spec: the model.
        trunk: its dense part.
        cache: its experts.
        kernels: expert kernels for passes of up to `max_tokens` tokens.
        policy: decides experts and tiers.
        max_chunk: most tokens of one sequence in one pass.
        parallel: most sequences in one pass; at most one of them brings more than one token.
        prefetcher: reads ahead for single tokens; None: nothing is read before it is asked for.
    """

    def __init__(
        self,
        spec: ModelSpec,
        trunk: Trunk,
        cache: ExpertCache,
        kernels: Kernels,
        policy: Policy,
        *,
        max_chunk: int,
        parallel: int = 1,
        prefetcher: Prefetcher | None = None,
    ) -> None:
        self.spec, self.trunk, self.cache, self.kernels, self.policy = spec, trunk, cache, kernels, policy
        self.max_chunk, self.prefetcher, self.overlap = max_chunk, prefetcher, OverlapReads(cache)
        self.borrowed_scratch: BorrowedScratch | None = None
        """Lends scratch to the cache between passes; None: it stays unused."""
        self.spans = Spans()
        self.is_closed = False  # set from any thread: a pass under way ends before its next layer
        self.on_layer: Callable[[], None] = _nothing
        """Called before every layer: a long prompt pass is alive as long as its layers come."""
        self._expert_out = np.zeros((max_tokens(max_chunk, parallel), spec.hidden), np.float32)

    def prefill(self, token_ids: NDArray[np.int32], kv: KVCache) -> F32:
        """Run int32 [N] tokens in chunks; return the logits float32 [V] after the last one."""
        for start in range(0, len(token_ids), self.max_chunk):
            chunk = token_ids[start : start + self.max_chunk]
            is_last = start + len(chunk) == len(token_ids)
            logits = self.forward(chunk, kv, slice(len(chunk) - 1, len(chunk)) if is_last else slice(0))
        last: F32 = logits[0]
        return last

    def forward(self, token_ids: NDArray[np.int32], kv: KVCache, rows: slice) -> F32:
        """Run one chunk of 1 to max_chunk tokens and return the logits float32 [rows, V] of the chosen ones.

        Raises:
            ExpertReadError: an expert could not be read; the chunk is dropped, `kv` is unchanged.
            RequestError: the chunk does not fit the context.
        """
        return self.step([Piece(token_ids, kv, rows)])[0]

    def step(self, pieces: Sequence[Piece]) -> list[F32]:
        """Run the next tokens of several sequences in one pass, every expert read once for all of them.

        Under a policy that keeps no history each sequence gets the bits it would get alone. At most one piece may have
        more than one token. Sequences whose policy does not accept their logits run once more.

        Returns:
            Of each piece the logits float32 [rows, V] of its chosen tokens.

        Raises:
            ExpertReadError: an expert could not be read; nothing of the pass is kept, no cache is changed.
            RequestError: a piece does not fit its context, or the engine was closed meanwhile.
        """
        tokens = sum(len(piece.token_ids) for piece in pieces)
        if self.borrowed_scratch is not None:
            self.borrowed_scratch.begin_pass(tokens)
        policies = [piece.policy or self.policy for piece in pieces]
        groups = [[i for i, p in enumerate(policies) if p is policy] for policy in _distinct(policies)]
        for group in groups:
            of_group = sum(len(pieces[i].token_ids) for i in group)
            policies[group[0]].begin_pass(of_group, has_logits=any(_num_rows(pieces[i]) for i in group))
        if self.prefetcher is not None:
            self.prefetcher.begin_pass(tokens, policies[0])
        done = self._pass(pieces, policies)
        redo = [i for group in groups if self._is_rejected(policies[group[0]], group, done) for i in group]
        decisions = done.decisions if len(redo) < len(pieces) else []
        chunks, logits = done.chunks, done.logits
        if redo:
            # nothing was committed, so the second pass writes its keys and values over those of the first
            self.cache.counters.fallbacks += 1
            again = self._pass([pieces[i] for i in redo], [policies[i] for i in redo])
            decisions = decisions + again.decisions
            for i, chunk, rows in zip(redo, again.chunks, again.logits, strict=True):
                chunks[i], logits[i] = chunk, rows
        if self.prefetcher is not None:
            self.prefetcher.end_pass()
        self.cache.add_decisions(decisions)  # of the passes that stand: what a rejected one changed is not lost
        with self.spans.span("trunk"):
            for chunk in chunks:
                self.trunk.commit(chunk)
        return logits

    def _is_rejected(self, policy: Policy, group: list[int], done: FinishedPass) -> bool:
        rows = [done.logits[i] for i in group if len(done.logits[i])]
        return bool(rows) and not policy.accept(_joined(rows))

    def _pass(self, pieces: Sequence[Piece], policies: list[Policy]) -> FinishedPass:
        """Run every layer over the pieces; the caller commits."""
        self._require_open()
        with self.spans.span("trunk"):
            chunks = [self.trunk.begin(piece.token_ids, piece.kv) for piece in pieces]
        expert_outs: list[F32 | None] = [None] * len(chunks)
        decisions: list[Decision] = []
        self.cache.begin_pass()
        for layer_idx, layer in enumerate(self.spec.layers):
            self.on_layer()
            self._require_open()
            outs = self._run_trunk(layer_idx, chunks, expert_outs, policies)
            if not layer.sparse:
                expert_outs = [None] * len(chunks)
                continue
            routing = self._route(layer_idx, outs)
            decision = decide_together(layer_idx, routing, _stops(chunks), policies, self.cache)
            decisions.append(decision)
            expert_outs = [*self._run_experts(layer_idx, decision, routing, outs, chunks)]
        self.cache.end_pass()
        with self.spans.span("trunk"):
            logits = [self._head(*each) for each in zip(chunks, expert_outs, pieces, strict=True)]
        return FinishedPass(chunks, logits, decisions)

    def _run_trunk(
        self, layer_idx: int, chunks: list[TrunkChunk], expert_outs: list[F32 | None], policies: list[Policy]
    ) -> list[LayerOutput]:
        """Run the dense part of a layer, sequence by sequence; the drive reads for those that have run."""
        outs: list[LayerOutput] = []
        for chunk, expert_out, policy in zip(chunks, expert_outs, policies, strict=True):
            with self.spans.span("trunk"):
                outs.append(self.trunk.run_layer(chunk, layer_idx, expert_out))
            if len(outs) < len(chunks) and self.spec.layers[layer_idx].sparse:
                self.overlap.begin(layer_idx, self._route(layer_idx, outs[-1:]), policy)
        return outs

    def _require_open(self) -> None:
        if self.is_closed:
            raise RequestError("engine: it was closed. Open the bundle again.")

    def _head(self, chunk: TrunkChunk, expert_out: F32 | None, piece: Piece) -> F32:
        if not _num_rows(piece):
            return np.empty((0, self.spec.vocab_size), np.float32)
        return self.trunk.head(chunk, expert_out, piece.rows)

    def _route(self, layer_idx: int, outs: list[LayerOutput]) -> Routing:
        """The router's own choice for the tokens of all sequences, in order."""
        logits = _joined([out.router_logits for out in outs])
        return route(logits, self.spec.top_k, norm_topk_prob=self.spec.norm_topk_prob)

    def _run_experts(
        self, layer_idx: int, decision: Decision, routing: Routing, outs: list[LayerOutput], chunks: list[TrunkChunk]
    ) -> list[F32]:
        """Return the experts' combined output of each sequence, as views of one array."""
        x = _joined([out.x for out in outs])
        expert_out = self._expert_out[: len(x)]
        shared = self.spec.layers[layer_idx].shared_intermediate is not None
        resident = (
            None
            if self._reads_ahead(decision)
            else self.cache.take_resident(layer_idx, decision.tiers, decision.use_order)
        )
        if resident is not None:
            with self.spans.span("experts"):
                self.kernels.run_resident(x, decision.topk_ids, decision.topk_weights, *resident, expert_out)
            shared_out = self._run_shared(layer_idx, chunks) if shared else []
        else:
            shared_out = self._stream_experts(layer_idx, decision, routing, x, expert_out, chunks if shared else [])
        parts = [expert_out] if len(chunks) == 1 else np.split(expert_out, _stops(chunks))
        for part, more in zip(parts, shared_out, strict=shared):
            part += more
        return parts

    def _stream_experts(
        self, layer_idx: int, decision: Decision, routing: Routing, x: F32, expert_out: F32, shared: list[TrunkChunk]
    ) -> list[F32]:
        """Compute experts into `expert_out` as they come; return what shared experts gave while reads flowed."""
        # reads of missing experts are under way from here on
        ready = self.cache.stream(layer_idx, decision.tiers, decision.use_order)
        for hint in decision.hints:  # behind this layer's own reads
            self._prefetch(hint)
        if self.prefetcher is not None:
            self.prefetcher.after(layer_idx, x, routing)
        with self.spans.span("experts"):
            self.kernels.begin(x, decision.topk_ids, decision.topk_weights, self.spec.num_experts)
        shared_out: list[F32] = []
        for number, batch in enumerate(ready):
            with self.spans.span("experts"):
                self.kernels.run_experts(batch.tier, batch.segments, batch.experts)
            if number == 0 and shared:
                shared_out = self._run_shared(layer_idx, shared)
        if shared and not shared_out:
            shared_out = self._run_shared(layer_idx, shared)
        with self.spans.span("experts"):
            self.kernels.end(expert_out)
        return shared_out

    def _run_shared(self, layer_idx: int, chunks: list[TrunkChunk]) -> list[F32]:
        with self.spans.span("trunk"):
            return [self.trunk.run_shared(chunk, layer_idx) for chunk in chunks]

    def _reads_ahead(self, decision: Decision) -> bool:
        """Whether something may be read before this layer's experts were computed."""
        return bool(decision.hints) or (self.prefetcher is not None and self.prefetcher.is_on)

    def _prefetch(self, hint: Hint) -> None:
        tiers = np.full(self.spec.num_experts, hint.tier, np.uint8)
        priority = Priority.SPECULATIVE if hint.is_spare else Priority.NEXT
        self.cache.prefetch(hint.layer_idx, hint.experts, tiers, priority)


class FinishedPass(NamedTuple):
    """A pass that ran and is not committed."""

    chunks: list[TrunkChunk]
    logits: list[F32]
    decisions: list[Decision]


def max_tokens(max_chunk: int, parallel: int) -> int:
    """Return the most tokens of one pass: a chunk of one sequence and a token of each other."""
    return max_chunk + parallel - 1


def _num_rows(piece: Piece) -> int:
    return len(range(*piece.rows.indices(len(piece.token_ids))))


def _stops(chunks: list[TrunkChunk]) -> NDArray[np.int_]:
    """Where each sequence but the last ends in the joined tokens."""
    if len(chunks) == 1:
        return _NO_STOPS
    return np.cumsum([chunk.tokens for chunk in chunks])[:-1]


def _distinct(policies: list[Policy]) -> list[Policy]:
    return list({id(policy): policy for policy in policies}.values())


def _joined(arrays: Sequence[F32 | None]) -> F32:
    found = [array for array in arrays if array is not None]
    assert len(found) == len(arrays)
    return found[0] if len(found) == 1 else np.concatenate(found)
