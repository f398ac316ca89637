"""What a pass is made of: the steps of its sequences, and the parts of an engine it runs on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from edge_runtime.backends.base import Compute
from edge_runtime.backends.trunk import KVCache
from edge_runtime.base.arrays import I32
from edge_runtime.base.spec import ModelSpec
from edge_runtime.experts.cache import ExpertCache
from edge_runtime.policy.base import Policy
from edge_runtime.policy.routing import Router
from edge_runtime.prefetch.overlap import OverlapReads
from edge_runtime.prefetch.read_ahead import ReadAhead
from edge_runtime.telemetry.spans import Spans

T = TypeVar("T")
BeforeLayer = Callable[[], None]
"""Called before every layer of a pass; may raise to end it. A long prompt is alive as long as its layers come."""


class SequenceStep(NamedTuple):
    """What one sequence runs in a pass.

    Attributes:
        token_ids: int32 [N], its next tokens.
        kv: its cache.
        rows: of which tokens logits are wanted.
        policy: decides for its tokens; None is the one in force.
        drafts: how many of the tokens, from the last one back, nobody has drawn yet. From the first of them on that
            needs an expert which is not in memory they are left out, and so are their logits.
    """

    token_ids: I32
    kv: KVCache
    rows: slice
    policy: Policy | None = None
    drafts: int = 0

    @property
    def num_rows(self) -> int:
        """Tokens whose logits are wanted."""
        return len(range(*self.rows.indices(len(self.token_ids))))


def nothing() -> None:
    """A `BeforeLayer` that lets every layer run."""


@dataclass(frozen=True)
class PassParts(Generic[T]):
    """What passes run on.

    Attributes:
        spec: the model.
        compute: what computes it.
        cache: its experts.
        router: the model's, on the host.
        overlap: reads for sequences whose router has run, while the next one's trunk runs.
        read_ahead: reads behind a layer's own.
        spans: time by phase.
    """

    spec: ModelSpec
    compute: Compute[T]
    cache: ExpertCache
    router: Router
    overlap: OverlapReads
    read_ahead: ReadAhead
    spans: Spans
