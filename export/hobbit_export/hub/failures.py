"""What goes wrong between here and a hub: what may be tried again, what may not, and how to say it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from edge_runtime.base.errors import ConfigError, HobbitError, HubError
from edge_runtime.transfer.hub_push import transport_errors

TRIES = 6
"""Failures in a row, without a byte between them, after which a request is given up."""
FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 300.0
_BUSY = {408, 425, 429, 500, 502, 503, 504}
_Result = TypeVar("_Result")


class Again(Exception):
    """A request failed in a way that may pass; `pause_s` is what the server asked for, if anything."""

    def __init__(self, reason: str, pause_s: float | None = None) -> None:
        super().__init__(reason)
        self.pause_s = pause_s


def refusal(where: str, status: int, retry_after: str | None) -> Again | HobbitError:
    """Return what a status that is no success means.

    Args:
        where: begins the message.
        status: of the response.
        retry_after: its header of that name.
    """
    if status in _BUSY:
        return Again(f"{where}: the server said {status}", _seconds(retry_after))
    if status in (401, 403):
        return ConfigError(
            f"{where}: the server refused access ({status}). The model is private or gated: accept its terms on its "
            "page, and give your token by `hf auth login` or HF_TOKEN."
        )
    if status == 404:
        return ConfigError(f"{where}: there is no such model, revision or file (404). Check its spelling.")
    return HubError(f"{where}: the server said {status}. Run the same command again to resume.")


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isascii() and text.isdecimal() and len(text) < 6 else None


@dataclass
class Patience:
    """How often a request is tried again, and how long it waits: twice as long each time, or what the server asks.

    Attributes:
        stopped: ends a wait at once.
        most: failures in a row after which it is over.
        tries: failures since the last progress.
    """

    stopped: threading.Event
    most: int = TRIES
    tries: int = 0

    def wait(self, why: Again) -> None:
        """Wait before the next try.

        Raises:
            HubError: these were enough, or the export is ending.
        """
        self.tries += 1
        if self.tries >= self.most or self.stopped.is_set():
            raise HubError(
                f"{why}, {self.tries} times in a row. Run the same command again to resume; without a network, give a "
                "folder."
            ) from why
        pause = FIRST_PAUSE_S * 2**self.tries if why.pause_s is None else why.pause_s
        self.stopped.wait(min(pause, _LONGEST_PAUSE_S))

    def progress(self) -> None:
        """Note that something arrived."""
        self.tries = 0


def patiently(where: str, ask: Callable[[], _Result], tries: int = TRIES) -> _Result:
    """Call a function of huggingface_hub, again where that may help.

    Args:
        where: begins messages.
        ask: the call.
        tries: how often; few for functions that try again themselves.

    Raises:
        ConfigError: there is no such thing, or no access to it.
        HubError: no answer after several tries.
    """
    patience = Patience(threading.Event(), tries)
    while True:
        try:
            return once(where, ask)
        except Again as err:
            patience.wait(err)


def once(where: str, ask: Callable[[], _Result]) -> _Result:
    """Call a function of huggingface_hub, and turn what it raises into `Again` or an error of this project."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        return ask()
    except OfflineModeIsEnabled as err:
        raise ConfigError(f"{where}: HF_HUB_OFFLINE forbids it. Unset it, or give a folder.") from err
    except HFValidationError as err:
        raise ConfigError(f"{where}: {str(err)[:200]}") from err
    except HfHubHTTPError as err:
        response = err.response
        if response is None:
            raise Again(f"{where}: {str(err)[:200]}") from err
        raise refusal(where, response.status_code, response.headers.get("Retry-After")) from err
    except transport_errors() as err:
        raise Again(f"{where}: the hub cannot be reached: {str(err)[:200] or type(err).__name__}") from err
