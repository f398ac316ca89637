"""Policies that single requests ask for: built once each, a bounded number of them kept."""

from __future__ import annotations

from collections.abc import Collection

from edge_runtime.engine.active_policy import ActivePolicy
from edge_runtime.policy.base import Policy

_MAX_KEPT = 16


class RequestPolicies:
    """The policies of running requests beside the one in force.

    Args:
        active: the one in force; builds the others.
    """

    def __init__(self, active: ActivePolicy) -> None:
        self._active = active
        self._kept: dict[str, Policy] = {}

    def forget(self) -> None:
        """Build every policy anew for the requests to come."""
        self._kept.clear()

    def get(self, text: str | None, in_use: Collection[Policy | None]) -> Policy | None:
        """Return the policy of ``name:param=value``, None for the one in force.

        Args:
            text: what the request asked for.
            in_use: policies of running requests: the last to be given up.

        Raises:
            ConfigError: this engine cannot serve it.
        """
        if text is None or self._active.is_same(text):
            return None
        used = {id(policy) for policy in in_use}
        if text not in self._kept:
            made = self._active.make(text)
            while len(self._kept) >= _MAX_KEPT:
                idle = next((name for name, policy in self._kept.items() if id(policy) not in used), None)
                self._kept.pop(idle or next(iter(self._kept)))
            self._kept[text] = made
        policy = self._kept[text]
        if id(policy) not in used:
            policy.begin_sequence()
        return policy
