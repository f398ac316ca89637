"""Policies that single requests ask for: built once each, a bounded number of them kept."""

from __future__ import annotations

from collections.abc import Collection

from edge_runtime.engine.assembly import Parts
from edge_runtime.policy.base import Policy

_MAX_KEPT = 16


class RequestPolicies:
    """The policies of running requests beside the engine's own.

    Args:
        parts: builds them.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._own: str = parts.config.policy
        self._kept: dict[str, Policy] = {}

    def set_own(self, text: str) -> None:
        """The engine's own policy is another one from now on."""
        self._own = text

    def get(self, text: str | None, in_use: Collection[Policy | None]) -> Policy | None:
        """Return the policy of ``name:param=value``, None for the engine's.

        Args:
            text: what the request asked for.
            in_use: policies of running requests: the last to be given up.

        Raises:
            ConfigError: this engine cannot serve it.
        """
        if text is None or text == self._own:
            return None
        used = {id(policy) for policy in in_use}
        if text not in self._kept:
            made = self._parts.make_policy(text)
            while len(self._kept) >= _MAX_KEPT:
                idle = next((name for name, policy in self._kept.items() if id(policy) not in used), None)
                self._kept.pop(idle or next(iter(self._kept)))
            self._kept[text] = made
        policy = self._kept[text]
        if id(policy) not in used:
            policy.begin_sequence()
        return policy
