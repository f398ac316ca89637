"""What surrounds the layers of a pass: policies hear that it begins, judge its logits, and may have it run again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from edge_runtime.base.arrays import F32
from edge_runtime.policy.base import Changed, Decision, Policy


class PassSequence(NamedTuple):
    """One sequence of a pass, as far as policies are concerned.

    Attributes:
        tokens: T, the tokens it runs.
        rows: of how many of them logits are wanted.
        policy: decides for them.
        drafts: how many of the tokens may turn out not to belong to the text.
    """

    tokens: int
    rows: int
    policy: Policy
    drafts: int = 0


class Attempt(NamedTuple):
    """What a run over the layers gave.

    Attributes:
        logits: of each sequence run, float32 [rows, V].
        decisions: of each layer the host decided for.
        changed: what native code decided instead, for a pass of one sequence; None: nothing, or nothing was changed.
    """

    logits: list[F32]
    decisions: list[Decision]
    changed: Changed | None = None


class PassCounters(Protocol):
    """Where passes are counted; `Residents` are one."""

    def add_decisions(self, decisions: Sequence[Decision]) -> None:
        """Count what policies changed."""
        ...

    def add_changed(self, changed: Changed) -> None:
        """Count what decisions of native code changed."""
        ...

    def add_fallback(self) -> None:
        """Count a pass that ran a second time."""
        ...


class PassWatcher(Protocol):
    """Is told of passes; `Prefetcher` is one."""

    def begin_pass(self, num_tokens: int) -> None:
        """A pass over T tokens begins, drafts not counted."""
        ...

    def end_pass(self) -> None:
        """It is over."""
        ...


def accepts(policy: Policy, logits: F32) -> bool:
    """Ask the policy itself whether logits float32 [rows, V] stand."""
    return policy.accept(logits)


def run_policy_pass(
    sequences: Sequence[PassSequence],
    attempt: Callable[[list[int]], Attempt],
    counters: PassCounters,
    watcher: PassWatcher | None = None,
    accepts: Callable[[Policy, F32], bool] = accepts,
) -> list[F32]:
    """Run a pass, and once more the sequences whose policy does not accept their logits.

    Args:
        sequences: of the pass.
        attempt: runs all layers for the sequences of these numbers. What it wrote must not count before this returns:
            a second attempt writes over it.
        counters: count what the attempts that stand decided, and second attempts.
        watcher: is told that the pass begins and ends.
        accepts: whether a policy accepts its logits; a replay repeats what was.

    Returns:
        Of each sequence the logits float32 [rows, V] that stand.
    """
    groups = _by_policy(sequences)
    for policy, members in groups:
        mine = [sequences[i] for i in members]
        tokens, wanted = sum([each.tokens for each in mine]), sum([each.rows for each in mine])
        policy.begin_pass(tokens, has_logits=wanted > 0)
    if watcher is not None:
        watcher.begin_pass(sum([each.tokens - each.drafts for each in sequences]))
    logits, decisions, changed = attempt(list(range(len(sequences))))
    redo = [i for policy, members in groups if not _stands(policy, members, logits, accepts) for i in members]
    if redo:
        counters.add_fallback()
        again = attempt(redo)
        changed = again.changed
        decisions = (decisions if len(redo) < len(sequences) else []) + again.decisions
        for i, rows in zip(redo, again.logits, strict=True):
            logits[i] = rows
    if watcher is not None:
        watcher.end_pass()
    counters.add_decisions(decisions)
    if changed is not None:
        counters.add_changed(changed)
    return logits


def _by_policy(sequences: Sequence[PassSequence]) -> list[tuple[Policy, list[int]]]:
    """Numbers of the sequences of each policy, policies in the order they first appear."""
    groups: dict[int, tuple[Policy, list[int]]] = {}
    for i, each in enumerate(sequences):
        groups.setdefault(id(each.policy), (each.policy, []))[1].append(i)
    return list(groups.values())


def _stands(policy: Policy, members: list[int], logits: list[F32], accepts: Callable[[Policy, F32], bool]) -> bool:
    rows = [logits[i] for i in members if len(logits[i])]
    return not rows or accepts(policy, rows[0] if len(rows) == 1 else np.concatenate(rows))
