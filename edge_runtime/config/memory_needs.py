"""What the process needs besides cached experts, added up line by line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edge_runtime.base.base_slots import base_slots
from edge_runtime.base.sizes import format_size


@dataclass(frozen=True)
class MemoryLine:
    """One addend of the plan."""

    name: str
    bytes: int
    note: str = ""


@dataclass(frozen=True)
class MemoryNeeds:
    """What the process needs besides cached experts, and what an expert costs.

    Attributes:
        runtime_bytes: resident set of the process with its libraries loaded and nothing else, measured; that of helper
            processes, and what these may take besides.
        helper_bytes: of it, what helper processes held when it was measured.
        trunk_bytes: dense weights, prepacked copies included.
        kv_bytes_per_token: keys and values of one token over all layers.
        state_bytes: states of recurrent layers of one sequence, snapshots included; they do not grow with tokens.
        context: N, tokens a KV cache is made for.
        parallel: KV caches, one a sequence.
        borrowable_bytes: the part of scratch_bytes that only passes over several tokens of a prompt need.
        prefetch_bytes: what predicts experts; counted with the trunk.
        scratch_bytes: kernels' and graphs' activations, logits, what reads land in.
        workspace_bytes: what building a trunk on the device, and then running it, takes besides.
        tokenizer_bytes: vocabulary and merges.
        request_bytes: bodies of requests that a service reads at once.
        headroom_bytes: kept free for what nobody counts: allocator slack, thread stacks, the caller.
        slot_bytes: bytes of an expert at each tier the bundle may serve.
        tier: the tier of this run, a key of slot_bytes.
        num_experts: E.
        num_expert_layers: sparse layers.
        top_k: K.
        base_tier: the tier every expert stays in memory at, a key of slot_bytes; 0: none does.
    """

    runtime_bytes: int
    trunk_bytes: int
    kv_bytes_per_token: int
    context: int
    scratch_bytes: int
    tokenizer_bytes: int
    headroom_bytes: int
    slot_bytes: Mapping[int, int]
    tier: int
    num_experts: int
    num_expert_layers: int
    top_k: int
    parallel: int = 1
    borrowable_bytes: int = 0
    prefetch_bytes: int = 0
    request_bytes: int = 0
    state_bytes: int = 0
    workspace_bytes: int = 0
    base_tier: int = 0
    helper_bytes: int = 0

    @property
    def all_experts(self) -> int:
        """Experts of the model: sparse layers times E."""
        return self.num_experts * self.num_expert_layers

    @property
    def base_bytes(self) -> int:
        """Bytes of what stays of every expert; 0 where nothing has to."""
        return self.all_experts * self.slot_bytes[self.base_tier] if self.base_tier else 0

    def least_slots(self, *, tier: int | None = None) -> int:
        """Experts of the full tier, or of another, that memory has to hold at least: K, or so many as hold the base."""
        full = tier or self.tier
        if not self.base_tier or full <= self.base_tier:
            return self.top_k
        base = self.slot_bytes[self.base_tier]
        return base_slots(self.slot_bytes[full], base, all_experts=self.all_experts, top_k=self.top_k)

    def fixed_lines(self) -> list[MemoryLine]:
        """Everything but cached experts."""
        per_token = format_size(self.kv_bytes_per_token)
        sequences = (f"{self.parallel} sequences x " if self.parallel > 1 else "") + f"{self.context} tokens x "
        requests = [MemoryLine("request bodies", self.request_bytes, "in flight, in `serve`")]
        many = f"{self.parallel} sequences" if self.parallel > 1 else "snapshots included"
        states = [MemoryLine("recurrent states", self.state_bytes * self.parallel, many)]
        workspace = [MemoryLine("workspace", self.workspace_bytes, "trunk engines: built, then run")]
        return [
            MemoryLine("runtime libraries", self.runtime_bytes, "measured"),
            MemoryLine("trunk", self.trunk_bytes + self.prefetch_bytes),
            MemoryLine("KV cache", self.kv_bytes_per_token * self.context * self.parallel, f"{sequences}{per_token}"),
            *(states if self.state_bytes else []),
            MemoryLine("scratch", self.scratch_bytes, "activations, logits, reads"),
            *(workspace if self.workspace_bytes else []),
            MemoryLine("tokenizer", self.tokenizer_bytes),
            *(requests if self.request_bytes else []),
            MemoryLine("headroom", self.headroom_bytes),
        ]

    def floor_bytes(self, *, context: int | None = None, tier: int | None = None) -> int:
        """Least the process can run in: everything fixed and the least slots, optionally of another context or tier."""
        fixed = sum(line.bytes for line in self.fixed_lines())
        if context is not None:
            fixed += self.kv_bytes_per_token * self.parallel * (context - self.context)
        return fixed + self.least_slots(tier=tier) * self.slot_bytes[tier or self.tier]
