"""Sessions: a model's state with the tokens it stands for, kept so that the next request finds its prefix."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count

import numpy as np

from edge_runtime.backends.trunk import KVCache
from edge_runtime.base.arrays import I32
from edge_runtime.engine.parts import Parts

_FEWEST_COPIED = 4
"""Tokens for which another session's state is copied."""
_REWRITTEN = 16
"""Tokens at the end of a prompt that chat templates write otherwise once there is an answer: who speaks, a begun
thought."""


class Session:
    """The state a model is in after some tokens, and these tokens.

    A request goes on from the start of its prompt that is here already: `keep_prefix` drops the rest and says how many
    tokens that is. Keys and values can be cut after any token. A state that cannot (of recurrent layers) keeps fewer
    than are common, as far as its last snapshot: callers go by what `keep_prefix` returns. Snapshots are asked for
    where the next prompt is likely to part from this one: a little before its end, and where this one parted from the
    last.

    Attributes:
        kv: keys and values.
        is_busy: a request runs here.
        policy: what decided while its tokens ran; None is the engine's own.
        last_used: grows with every use.
    """

    def __init__(self, kv: KVCache) -> None:
        self.kv = kv
        self.is_busy = False
        self.policy: str | None = None
        self.last_used = 0
        self._tokens: list[int] = []
        self._is_outdated = False
        kv.reset()

    @property
    def tokens(self) -> tuple[int, ...]:
        """Tokens a prompt may go on from."""
        return tuple(self._tokens)

    @property
    def num_tokens(self) -> int:
        """How many these are."""
        return min(len(self._tokens), self.kv.length)

    def matching(self, ids: I32) -> int:
        """Return how many tokens of a prompt `keep_prefix` would keep; at least one is left to run, to have logits."""
        return self.kv.nearest(self._common(ids))

    def _common(self, ids: I32) -> int:
        """Tokens that a prompt has in common with those here, its last one not counted."""
        limit = min(self.num_tokens, len(ids) - 1)
        if limit <= 0:
            return 0
        differs = np.flatnonzero(np.asarray(self._tokens[:limit], np.int32) != ids[:limit])
        return int(differs[0]) if len(differs) else limit

    def keep_prefix(self, ids: I32) -> int:
        """Keep what a prompt has in common with the tokens here, and drop the rest; return how many are kept."""
        common = self._common(ids)
        kept = self.kv.nearest(common)
        self.truncate(kept)
        self._want(ids, common, kept)
        return kept

    def keep_nothing(self, ids: I32) -> None:
        """Drop everything, for a prompt to come."""
        self.truncate(0)
        self._want(ids, 0, 0)

    def _want(self, ids: I32, common: int, kept: int) -> None:
        """Ask for snapshots on the way through a prompt, of which the first `kept` tokens are here."""
        self.kv.want([length for length in (common, len(ids) - _REWRITTEN) if length > kept])

    def copy_prefix(self, ids: I32, others: Iterable[Session]) -> int:
        """Take over what another session has in common with a prompt, if that is more than is here; busy ones too.

        Args:
            ids: int32 [N], the prompt this session was acquired for, of which nothing has been run.
            others: sessions whose states were computed as this one's are to be.

        Returns:
            How many tokens of the prompt are here now.

        Raises:
            DeviceError: the copy failed; no token is here now.
        """
        here = self.num_tokens
        usable = (session for session in others if not session._is_outdated)
        best = max(usable, key=lambda session: session.matching(ids), default=None)
        if best is None or best.matching(ids) < here + _FEWEST_COPIED:
            return here
        found = best.matching(ids)
        self._tokens.clear()  # a copy that fails half-way leaves nothing to go on from
        self.kv.copy_from(best.kv, found)
        self._tokens = best._tokens[:found]
        self._want(ids, best._common(ids), found)
        return found

    def extend(self, token_ids: I32) -> None:
        """Note tokens that have been run here: prompts may go on from them."""
        self._tokens.extend(token_ids.tolist())

    def truncate(self, length: int) -> None:
        """Keep the first `length` tokens.

        Raises:
            RequestError: there are fewer.
        """
        self.kv.truncate(length)
        del self._tokens[length:]

    def forget(self) -> None:
        """Let no later request go on from what is here; one that runs goes on."""
        if self.is_busy:
            self._is_outdated = True
        else:
            self.reset()

    def release(self) -> None:
        """The request that ran here is over."""
        self.is_busy = False
        if self._is_outdated:
            self.reset()

    def reset(self) -> None:
        """Forget every token."""
        self._is_outdated = False
        self._tokens.clear()
        self.kv.reset()


class SessionPool:
    """The sessions requests run in.

    Args:
        caches: one KV cache a session.
    """

    @staticmethod
    def of(parts: Parts) -> SessionPool:
        """Make as many sessions as the memory plan has room for; the first is the engine's own, emptied."""
        extra = [parts.trunk.new_kv_cache(parts.config.context) for _ in range(parts.config.parallel - 1)]
        return SessionPool([parts.kv, *extra])

    def __init__(self, caches: list[KVCache]) -> None:
        self.sessions = [Session(kv) for kv in caches]
        self._clock = count(1)

    @property
    def has_idle(self) -> bool:
        """Whether a request could start."""
        return False in [session.is_busy for session in self.sessions]

    @property
    def num_busy(self) -> int:
        """Sessions with a request."""
        return sum(s.is_busy for s in self.sessions)

    @property
    def used_tokens(self) -> int:
        """Tokens in all caches."""
        return sum(s.kv.length for s in self.sessions)

    @property
    def capacity_tokens(self) -> int:
        """Tokens all caches can hold."""
        return sum(s.kv.context for s in self.sessions)

    def acquire(self, ids: I32, *, reuse_prefix: bool = True, policy: str | None = None) -> tuple[Session, int]:
        """Take the idle session that serves a prompt best; return it and how many tokens of the prompt it holds.

        The longest common prefix wins, unless that would cut off more than half of another conversation while an
        older session could be given up instead.

        Args:
            ids: int32 [N], the prompt.
            reuse_prefix: False takes the session that was used longest ago, and keeps nothing of it.
            policy: what will decide, None for the engine's own: a prefix that another one decided on is of no use.
        """
        idle = sorted((s for s in self.sessions if not s.is_busy), key=lambda s: s.last_used)
        session = _best_match(idle, ids, policy) if reuse_prefix else idle[0]
        session.is_busy = True
        session.last_used = next(self._clock)
        if reuse_prefix and session.policy == policy:
            return session, session.keep_prefix(ids)
        session.keep_nothing(ids)
        session.policy = policy
        return session, 0

    def release(self, session: Session) -> None:
        """Give a session back, its tokens kept."""
        session.release()
        session.last_used = next(self._clock)

    def forget(self) -> None:
        """Let no later request go on from what the sessions hold now."""
        for session in self.sessions:
            session.forget()

    def release_all(self) -> None:
        """Give every session back that is not idle."""
        for session in self.sessions:
            if session.is_busy:
                self.release(session)


def _best_match(idle: list[Session], ids: I32, policy: str | None) -> Session:
    """See `SessionPool.acquire`; `idle` has the session used longest ago first."""
    matching = ((s.matching(ids) if s.policy == policy else 0, s) for s in idle)
    kept, session = max(matching, key=lambda pair: pair[0])
    return idle[0] if kept * 2 < session.num_tokens else session
