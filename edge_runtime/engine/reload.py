"""What can be changed while requests run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reload:
    """What a reload changes; None leaves it. Running requests finish under the new settings, none is dropped.

    Attributes:
        policy: ``name:param=value``.
        eviction: ``name:param=value`` of the eviction rule.
        prefetch: ``name:param=value`` of the predictor, 'off', or 'auto' for what suits the policy.
        memory: new ceiling, as --memory.
        expert_memory: new ceiling of the arena, as --expert-memory.
    """

    policy: str | None = None
    memory: str | int | None = None
    expert_memory: str | int | None = None
    eviction: str | None = None
    prefetch: str | None = None

    @property
    def starts_over(self) -> bool:
        """Whether more changes than memory: nothing computed or read so far is used again."""
        return (self.policy, self.eviction, self.prefetch) != (None, None, None)
