"""Prompts that begin alike are run once: a request takes over what another that runs has computed already."""

from __future__ import annotations

from edge_runtime.engine.observer import SchedulerObserver
from edge_runtime.engine.sequence import Sequence


def share_prefix(prompt: Sequence, others: list[Sequence], observer: SchedulerObserver) -> None:
    """Give a prompt that is to be begun what others have of the same tokens. The policies must be the same.

    Args:
        prompt: its next step is a chunk of its prompt; one that has begun stays as it is.
        others: all that run.
        observer: told how many tokens that saves.

    Raises:
        DeviceError: the copy failed; nothing of it counts.
    """
    if not prompt.is_untouched or not prompt.job.reuse_prefix:
        return
    sessions = [s.session for s in others if s is not prompt and s.policy is prompt.policy]
    kept = prompt.timings.cached_n
    found = prompt.session.copy_prefix(prompt.job.prompt_ids, sessions)
    if found > kept:
        prompt.skip(found)
        observer.on_prefix_copied(found - kept)
