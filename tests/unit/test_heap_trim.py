"""Freed memory goes back to the system once in every pause, not between requests that follow each other."""

from __future__ import annotations

from edge_runtime.engine.heap_trim import HeapTrim


def test_once_in_every_pause():
    now, released = [0.0], []
    heap_trim = HeapTrim(lambda: released.append(now[0]), lambda: now[0])
    heap_trim.idle()
    assert released == [], "nothing has run yet"
    for moment, is_busy in ((1, True), (1.5, False), (1.9, True), (2.5, False), (3.0, False), (3.5, False), (9, False)):
        now[0] = moment
        heap_trim.worked() if is_busy else heap_trim.idle()
    assert released == [3.0]
    now[0] = 10.0
    heap_trim.worked()
    now[0] = 12.0
    heap_trim.idle()
    assert released == [3.0, 12.0]
