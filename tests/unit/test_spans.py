"""Spans by the host's clock, and of work that is not over yet: added up once it is, and looked at rarely before."""

from __future__ import annotations

import gc
import weakref
from time import perf_counter_ns, sleep

import pytest

from edge_runtime.base.contexts import HostSpan
from edge_runtime.telemetry.spans import Spans


def test_blocks_are_added_up_by_phase():
    spans = Spans()
    before = perf_counter_ns()
    for _ in range(3):
        with spans.span("slept"):
            sleep(0.002)
    with spans.span("other"):
        pass
    passed = perf_counter_ns() - before
    assert 6_000_000 <= spans.ns["slept"] <= passed
    assert 0 <= spans.ns["other"] <= passed - spans.ns["slept"]
    assert spans.span("slept") is spans.span("slept")


def test_whoever_records_is_told_of_every_block_by_the_clock_of_python():
    spans = Spans()
    old = spans.span("old")
    before = perf_counter_ns()
    with spans.recording(limit=3) as events:
        spans.layer_idx = 4
        with old:
            pass
        spans.layer_idx = None
        with spans.span("new"), spans.host_span("host"):
            pass
    with old, spans.span("new"):
        pass
    assert [(event.name, event.layer_idx) for event in events] == [("old", 4), ("host", None), ("new", None)]
    (old_event, host, new), passed = events, perf_counter_ns()
    assert before <= old_event.start_ns <= old_event.end_ns <= new.start_ns <= host.start_ns
    assert host.end_ns <= new.end_ns <= passed
    assert spans.ns["host"] == host.end_ns - host.start_ns, "nothing is timed while nobody records"
    with spans.host_span("host"):
        pass
    assert spans.ns["host"] == host.end_ns - host.start_ns


def test_what_is_raised_in_a_block_passes_and_its_time_counts():
    span = HostSpan("x")
    with pytest.raises(KeyError), span:
        raise KeyError
    first = span.ns
    assert first > 0

    def fails(name: str, start_ns: int, end_ns: int) -> None:
        raise ValueError(name)

    span.note = fails
    with pytest.raises(ValueError, match="x"), span:
        pass
    assert span.ns > first
    span.note = None
    with span:
        pass
    with pytest.raises(TypeError):
        HostSpan(3)  # type: ignore[arg-type]


def test_a_span_that_is_told_of_by_itself_is_let_go():
    class Note:
        def __init__(self, span: HostSpan) -> None:
            self.span = span

        def __call__(self, name: str, start_ns: int, end_ns: int) -> None:
            pass

    span = HostSpan("x")
    note = Note(span)
    span.note, seen = note, weakref.ref(note)
    del span, note
    gc.collect()
    assert seen() is None


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
