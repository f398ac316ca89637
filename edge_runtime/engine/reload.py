"""What can be changed while requests run."""

from __future__ import annotations

from concurrent import futures
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


def wait_or_cancel(asked: futures.Future[None], timeout_s: float) -> None:
    """Wait until a change that was asked for is applied, or take the question back.

    Args:
        asked: done when the change is applied, or could not be.
        timeout_s: how long it may take until the change has begun.

    Raises:
        TimeoutError: no step ended in that time; everything stays as it was.
    """
    try:
        asked.result(timeout_s)
    except futures.TimeoutError as err:  # before Python 3.11 another than the built-in one
        if asked.cancel():
            raise TimeoutError(f"reload: no step ended within {timeout_s:g} s. Try again.") from err
        asked.result()  # it had begun, and may not be said to have changed nothing
