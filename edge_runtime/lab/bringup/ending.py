"""A bring-up that is told to end, or whose terminal is gone, ends as at Ctrl-C: what has begun is put back and kept."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from edge_runtime.base.ending import say

_ASKED = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def ends_when_asked() -> Iterator[None]:
    """Make SIGTERM and SIGHUP raise SystemExit inside this block, in the main thread.

    A signal that is ignored stays so: `nohup` asks for that.
    """
    before = {number: found for number in _ASKED if (found := signal.getsignal(number)) is not signal.SIG_IGN}
    asked = list[str]()

    def leave(number: int, frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)  # the next one must not cut off what is put back now
        asked.append(signal.Signals(number).name)
        raise SystemExit(128 + number)

    for number in before:
        signal.signal(number, leave)
    try:
        yield
    except SystemExit:
        for name in asked:  # not said where the signal came: that may be in the midst of another line
            say(f"bringup: ended by {name}; run the same command again, it goes on from here")
        raise
    finally:
        for number, found in before.items():
            signal.signal(number, found)
