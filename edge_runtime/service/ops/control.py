"""What signals, metrics and the status page may use of the service."""

from __future__ import annotations

from typing import Any, Protocol

from edge_runtime.engine.reload import Reload
from edge_runtime.service.ops.figures import ServiceStats
from edge_runtime.service.ops.health import Heartbeat, Readiness


class Controllable(Protocol):
    """A service that can be watched, reloaded and stopped."""

    stats: ServiceStats
    heartbeat: Heartbeat
    readiness: Readiness

    def drain(self) -> None:
        """Refuse new requests, finish those accepted, then stop. Returns at once; safe in a signal handler's loop."""
        ...

    def reload(self, change: Reload, timeout_s: float = 30.0) -> None:
        """Apply between two steps.

        Raises:
            ConfigError: the change is impossible; everything stays as it was.
            BudgetError: the system refused the memory; settings stay as they were, experts are read anew.
            TimeoutError: no step ended in that time; everything stays as it was.
        """
        ...

    def stats_report(self) -> dict[str, Any]:
        """Return the `/v1/stats` object."""
        ...
