"""Sessions: one KV cache each, kept after a request so that the next turn of a conversation finds its prefix."""

from __future__ import annotations

from itertools import count

import numpy as np
from numpy.typing import NDArray

from edge_runtime.backends.cpu.trunk.kv_cache import KVCache
from edge_runtime.engine.assembly import Parts


class Session:
    """A KV cache and the tokens in it.

    Attributes:
        kv: the cache.
        tokens: what it holds, one entry a token.
        is_busy: a request runs in it.
        last_used: grows with every use.
    """

    def __init__(self, kv: KVCache) -> None:
        self.kv = kv
        kv.reset()
        self.tokens: list[int] = []
        self.is_busy = False
        self.last_used = 0

    def common_prefix(self, ids: NDArray[np.int32]) -> int:
        """Tokens of a prompt that are here already; at least one is always run, to have logits."""
        limit = min(len(self.tokens), len(ids) - 1)
        if limit <= 0:
            return 0
        differs = np.flatnonzero(np.asarray(self.tokens[:limit], np.int32) != ids[:limit])
        return int(differs[0]) if len(differs) else limit

    def truncate(self, length: int) -> None:
        """Keep the first `length` tokens."""
        self.kv.truncate(length)
        del self.tokens[length:]


class SessionPool:
    """The sessions of a service.

    Args:
        caches: one KV cache a session.
    """

    @staticmethod
    def of(parts: Parts) -> SessionPool:
        """Make as many sessions as the memory plan has room for."""
        extra = [parts.trunk.new_kv_cache(parts.config.context) for _ in range(parts.config.parallel - 1)]
        return SessionPool([parts.kv, *extra])

    def __init__(self, caches: list[KVCache]) -> None:
        self.sessions = [Session(kv) for kv in caches]
        self._clock = count(1)

    @property
    def has_idle(self) -> bool:
        """Whether a request could start."""
        return any(not s.is_busy for s in self.sessions)

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

    def acquire(self, ids: NDArray[np.int32]) -> tuple[Session, int]:
        """Take the idle session that serves a prompt best; return it and how many tokens of the prompt it holds.

        The longest common prefix wins, unless that would cut off more than half of another conversation while an
        older session could be given up instead.
        """
        idle = sorted((s for s in self.sessions if not s.is_busy), key=lambda s: s.last_used)
        kept, session = max(((s.common_prefix(ids), s) for s in idle), key=lambda pair: pair[0])
        if kept * 2 < len(session.tokens):
            session = idle[0]
            kept = session.common_prefix(ids)
        session.is_busy = True
        session.last_used = next(self._clock)
        session.truncate(kept)
        return session, kept

    def release(self, session: Session) -> None:
        """Give a session back, its tokens kept."""
        session.is_busy = False
        session.last_used = next(self._clock)
