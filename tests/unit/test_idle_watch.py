"""The watch of an idle engine: calls twice a second where nothing computes, and leaves alone whoever computes."""

from __future__ import annotations

from time import sleep

from patience import until

from edge_runtime.base.errors import RequestError
from edge_runtime.engine.elastic.idle_watch import IdleWatch


def test_while_a_request_computes_it_calls_nothing_and_looks_seldom():
    calls, looks = [], []

    def parts_begun() -> int:
        looks.append(len(looks))
        return len(looks) if len(looks) < 6 else 6  # a part between every two of the first looks

    def tend() -> bool:
        calls.append(len(looks))
        return False

    watch = IdleWatch(tend, parts_begun, 0.01)
    until(lambda: len(calls) >= 3, "it calls once nothing computes")
    watch.stop()
    assert calls[0] == 7, "the first look at which nothing had begun since the one before"


def test_it_ends_where_it_is_refused():
    calls = []

    def refused() -> bool:
        calls.append(1)
        raise RequestError("closed")

    watch = IdleWatch(refused, every_s=0.001)
    until(lambda: bool(calls), "it calls")
    sleep(0.1)
    watch.stop()
    assert calls == [1]
