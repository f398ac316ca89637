"""The recording of one request: spans and reads, as Perfetto reads them, and as a chart of one token."""

from __future__ import annotations

import json

import pytest

from edge_runtime.lab.bench.time_charts import MAX_LANES, lanes, thinned, token_parts, token_svg
from edge_runtime.lab.bench.timeline import ReadEvent, RequestTrace
from edge_runtime.telemetry.spans import SpanEvent, Spans

US = 1000


def trace() -> RequestTrace:
    spans = [
        SpanEvent("trunk", 0, 0, 400 * US), SpanEvent("routing", 0, 410 * US, 420 * US),
        SpanEvent("trunk", None, 1100 * US, 1300 * US), SpanEvent("experts", 0, 1310 * US, 1900 * US),
    ]  # fmt: skip
    reads = [ReadEvent(0, 3, 1200 * US, 300 * US), ReadEvent(0, 5, 1250 * US, 100 * US), ReadEvent(1, 7, 0, 50 * US)]
    return RequestTrace(spans, reads, [1000 * US, 2000 * US], 0, is_cut=False)


def test_chromes_trace_format():
    found = json.loads(json.dumps(trace().to_chrome()))
    events = found["traceEvents"]
    complete = [e for e in events if e["ph"] == "X"]
    assert [(e["name"], e["ts"], e["dur"]) for e in complete[:2]] == [("trunk", 0, 400), ("routing", 410, 10)]
    assert complete[0]["args"] == {"layer": 0}
    assert complete[2]["args"] == {}, "no layer: the head"
    begins, ends = ([e for e in events if e["ph"] == ph] for ph in "be")
    assert [(e["id"], e["ts"]) for e in begins] == [(0, 1200), (1, 1250), (2, 0)]
    assert [e["ts"] for e in ends] == [1500, 1350, 50]
    assert begins[1]["args"] == {"layer": 0, "expert": 5}
    assert [e["name"] for e in events if e["ph"] == "i"] == ["token 0", "token 1"]
    assert {e["args"]["name"] for e in events if e["ph"] == "M"} == {"hobbit", "engine", "drive"}
    assert all({"name", "ph", "pid", "tid"} <= set(e) for e in events)


def test_one_token_is_cut_out_of_it():
    length, spans, reads = token_parts(trace())
    assert length == 1.0
    assert spans == [("trunk", pytest.approx(0.1), pytest.approx(0.3)), ("experts", pytest.approx(0.31), 0.9)]
    assert reads == [(pytest.approx(0.2), 0.5), (0.25, pytest.approx(0.35))]
    svg = token_svg(trace())
    assert svg.count("<rect") == 4
    assert "read 300 us" in svg
    assert token_svg(RequestTrace([], [], [5], 0, is_cut=False)) == ""


def test_reads_that_overlap_are_in_lanes_of_their_own():
    assert lanes([(0, 2), (1, 3), (2, 4), (2.5, 5)]) == [0, 1, 0, 2]
    assert max(lanes([(n / 100, 9) for n in range(50)])) == MAX_LANES - 1
    assert len(thinned(range(100_000))) <= 2000


class DeviceClock:
    def mark(self) -> int:
        return 0

    def elapsed_ns(self, end: int, start: int) -> int:
        return 7


def test_spans_are_recorded_only_while_somebody_asks_and_only_so_many():
    spans = Spans()
    early = spans.span("a")
    with early:
        pass
    spans.layer_idx = 3
    with spans.recording(3) as events:
        with early:
            pass
        spans.layer_idx = None
        for _ in range(5):
            with spans.span("b"):
                pass
    with early:
        pass
    assert [(e.name, e.layer_idx) for e in events] == [("a", 3), ("b", None), ("b", None)]
    with spans.host_span("policy"):
        pass
    assert "policy" not in spans.ns, "the host's own work is timed only while somebody records"
    with spans.recording(10) as more, spans.host_span("policy"):
        pass
    assert [e.name for e in more] == ["policy"]
    assert all(e.start_ns <= e.end_ns for e in events)


def test_a_clock_of_a_device_gives_no_times_of_the_host():
    spans = Spans(DeviceClock())
    with spans.recording(10) as events, spans.span("a"), spans.host_span("policy"):
        pass
    assert events == []
    assert spans.ns == {"a": 7}, "the host's own work overlaps the device's, so it is no phase"
