"""The parts of a running engine."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_runtime.backends.base import Backend
from edge_runtime.backends.kernels import ExpertKernels
from edge_runtime.backends.trunk import KVCache, Trunk
from edge_runtime.base.arrays import I32
from edge_runtime.base.sizes import MIB
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.config.memory_needs import MemoryNeeds
from edge_runtime.config.memory_plan import MemoryPlan
from edge_runtime.config.options import RuntimeConfig
from edge_runtime.engine.active_policy import ActivePolicy
from edge_runtime.engine.decoder import Decoder
from edge_runtime.engine.prompt import Prompt, encode_prompt
from edge_runtime.engine.tokenizer import Tokenizer
from edge_runtime.experts.borrowed_scratch import BorrowedScratch
from edge_runtime.experts.cache import ExpertCache
from edge_runtime.telemetry.process import trim_heap

if TYPE_CHECKING:
    from edge_runtime.engine.elastic.follower import ElasticMemory
    from edge_runtime.engine.speculation.speculation import Speculation
    from edge_runtime.engine.warm.preload import Preload
    from edge_runtime.telemetry.power.sampler import PowerSampler

LOGITS_BYTES = 16 * MIB
"""Kept for the logits of a pass."""


@dataclass
class Parts:
    """The parts of a running engine. `close` releases them."""

    bundle: Bundle
    config: RuntimeConfig
    tokenizer: Tokenizer
    backend: Backend[Any]
    kernels: ExpertKernels[Any]
    needs: MemoryNeeds
    plan: MemoryPlan
    trunk: Trunk[Any]
    kv: KVCache
    cache: ExpertCache
    active: ActivePolicy
    decoder: Decoder[Any]
    borrowed_scratch: BorrowedScratch
    elastic: ElasticMemory | None = None
    power: PowerSampler | None = None
    preload: Preload | None = None
    speculation: Speculation | None = None

    @property
    def spec(self) -> ModelSpec:
        """Shape of the model."""
        return self.bundle.manifest.model

    @property
    def fingerprint(self) -> str:
        """Names what computes here, for results that hold only as long as it does not change."""
        return self.backend.fingerprint

    @property
    def checked_as(self) -> str:
        """Names what a self-check is of: what computes, and what was built here for the trunk."""
        build = self.trunk.build
        return f"{self.fingerprint}-{build}" if build else self.fingerprint

    @property
    def logits_chunk(self) -> int:
        """Tokens a pass when logits of every token are wanted, so that one pass's logits stay small."""
        row = 4 * self.bundle.manifest.model.vocab_size
        return max(1, min(self.config.logits_chunk, self.decoder.max_chunk, LOGITS_BYTES // row))

    def encode(self, prompt: Prompt) -> I32:
        """Return the tokens int32 [N] of a prompt, at least one and at most the context.

        Raises:
            RequestError: it is empty, too long, or has unknown tokens.
        """
        return encode_prompt(prompt, self.tokenizer, context=self.config.context, vocab_size=self.spec.vocab_size)

    def close(self) -> None:
        """Stop threads and release memory, to the system too: another engine may be opened next."""
        with ExitStack() as rest:  # one that fails leaves none of the others open
            for close in (trim_heap, self.tokenizer.templates.close, self.backend.close, self.trunk.close):
                rest.callback(close)
            rest.callback(self.cache.close)
            if self.preload is not None:
                rest.callback(self.preload.save)
            if self.elastic is not None:
                rest.callback(self.elastic.close)
            if self.power is not None:
                rest.callback(self.power.close)
