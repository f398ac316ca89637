"""How whoever keeps figures hears of what the scheduler does."""

from __future__ import annotations

from edge_runtime.engine.sequence import Sequence


class SchedulerObserver:
    """Hears of requests and passes in the scheduler's thread. Every method does nothing here; override what you need.

    No method may block or raise.
    """

    def on_step(self) -> None:
        """A step is over: a pass ran, or there was nothing to run."""

    def on_reload(self) -> None:
        """Settings have changed."""

    def on_waiting(self, num_jobs: int) -> None:
        """So many jobs wait."""

    def on_rejected(self, reason: str) -> None:
        """A job was refused: 'queue_full' or 'draining'."""

    def on_dropped(self, reason: str, err: Exception | None = None) -> None:
        """A job ended before it ran: 'cancelled', or 'error' with the exception."""

    def on_started(self, sequence: Sequence, num_running: int) -> None:
        """A job runs from now on."""

    def on_pass(self, width: int) -> None:
        """A pass ran for so many sequences."""

    def on_prompt(self, num_tokens: int) -> None:
        """So many tokens of a prompt have run."""

    def on_prefix_copied(self, num_tokens: int) -> None:
        """So many tokens of a prompt were taken over from another request that runs."""

    def on_drafts(self, drafted: int, accepted: int) -> None:
        """A pass had drafts of so many tokens, and so many of them were drawn by the model."""

    def on_token(self, sequence: Sequence) -> None:
        """A token was generated."""

    def on_ended(self, sequence: Sequence, reason: str, num_running: int, err: Exception | None = None) -> None:
        """A job that ran is over: its finish reason, 'timeout', 'cancelled', or 'error' with the exception if any."""
