"""What can be changed while requests run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reload:
    """What a reload changes; None leaves it. Running requests finish under the new settings, none is dropped.

    Attributes:
        policy: ``name:param=value``.
        memory: new ceiling, as --memory.
        expert_memory: new ceiling of the arena, as --expert-memory.
    """

    policy: str | None = None
    memory: str | int | None = None
    expert_memory: str | int | None = None
