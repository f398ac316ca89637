"""Spans of work that is not over yet: added up once it is, and looked at rarely before."""

from __future__ import annotations

from edge_runtime.telemetry.spans import Spans


class Clock:
    """Its work passes a mark when `is_over` is set; every span then took a nanosecond."""

    is_over = False
    asked = 0

    def mark(self) -> int:
        return 0

    def elapsed_ns(self, end: int, start: int) -> int | None:
        self.asked += 1
        return 1 if self.is_over else None


def test_spans_of_late_work_are_added_up_once_it_is_over():
    clock, count = Clock(), 5000
    spans = Spans(clock)
    for _ in range(count):
        with spans.span("late"):
            pass
    assert clock.asked < 5 * count, "asked again for every span that is kept"
    assert spans.ns == {"late": 0}
    clock.is_over = True
    assert spans.ns == {"late": count}
    with spans.span("late"):
        pass
    assert spans.ns == {"late": count + 1}
