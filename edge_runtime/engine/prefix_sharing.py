"""Prompts that begin alike are run once: a request takes over what another that runs has computed already."""

from __future__ import annotations

from edge_runtime.engine.observer import SchedulerObserver
from edge_runtime.engine.sequence import Sequence


def share_prefix(beginning: list[Sequence], others: list[Sequence], observer: SchedulerObserver) -> None:
    """Give prompts that are to be begun what others have of the same tokens. The policies must be the same.

    Args:
        beginning: sequences whose next step is a chunk of their prompt; those that have begun stay as they are.
        others: all that run.
        observer: told how many tokens that saves.
    """
    for sequence in beginning:
        if not sequence.is_untouched or not sequence.job.reuse_prefix or sequence.job.score_chunk is not None:
            continue
        sessions = [s.session for s in others if s is not sequence and s.policy is sequence.policy]
        kept = sequence.timings.cached_n
        found = sequence.session.copy_prefix(sequence.job.prompt_ids, sessions)
        if found > kept:
            sequence.skip(found)
            observer.on_prefix_copied(found - kept)
