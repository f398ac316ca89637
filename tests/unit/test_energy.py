"""Power integrated to joules: known curves, gaps, counters, bounds; and the sampler around it."""

from __future__ import annotations

import itertools
from time import monotonic_ns

import board_trees
import pytest
from patience import until

from edge_runtime.telemetry.power import MeterChoice
from edge_runtime.telemetry.power.base import MeterInfo
from edge_runtime.telemetry.power.energy import EnergyLog
from edge_runtime.telemetry.power.report import energy_json, live_json
from edge_runtime.telemetry.power.sampler import PowerSampler, start_sampler

SECOND = 1_000_000_000
INFO = MeterInfo("fake", "a fake", ("A", "B", "C"), ("A", "B"), "all of it")


def log_of(readings, info=INFO, hz=10, keep=1000) -> EnergyLog:
    log = EnergyLog(info, SECOND // hz, keep)
    for at_s, values in readings:
        log.add(int(at_s * SECOND), values)
    return log


def ramp(seconds=10, hz=10):
    """A rises by 1 W a second from 1 W, B stays at 2 W, C at 5 W."""
    return [(i / hz, {"A": 1 + i / hz, "B": 2.0, "C": 5.0}) for i in range(seconds * hz + 1)]


def test_power_is_integrated_by_trapezoids():
    window = log_of(ramp()).window(2 * SECOND, 6 * SECOND)
    assert window.joules["A"] == pytest.approx((3 + 7) / 2 * 4)
    assert window.joules["B"] == pytest.approx(8)
    assert window.total == pytest.approx(28), "A and B: C is no part of the total"
    assert window.mean_w == pytest.approx(7)
    assert window.watts["C"] == pytest.approx(5)
    assert window.samples == 41


def test_ends_between_readings_are_interpolated():
    log = log_of(ramp())
    whole = log.window(int(1.03 * SECOND), int(7.77 * SECOND)).joules["B"]
    assert whole == pytest.approx(2 * 6.74)
    assert log.window(8 * SECOND, int(10.15 * SECOND)).joules["B"] == pytest.approx(2 * 2.15), "held for two intervals"
    assert log.window(8 * SECOND, 11 * SECOND) is None, "no further"


def test_stretches_add_up():
    log = log_of(ramp())
    cuts = [int(x * SECOND) for x in (0, 1.31, 2.6, 5.55, 9.9)]
    parts = [log.window(a, b).total for a, b in itertools.pairwise(cuts)]
    assert sum(parts) == pytest.approx(log.window(cuts[0], cuts[-1]).total)


def test_what_is_too_short_or_too_early_is_not_measured():
    log = log_of(ramp())
    assert log.window(int(2.01 * SECOND), int(2.15 * SECOND)) is None
    assert log.window(-SECOND, 5 * SECOND) is None
    assert log.window(5 * SECOND, 5 * SECOND) is None
    assert EnergyLog(INFO, SECOND, 10).window(0, SECOND) is None


def test_a_missing_reading_leaves_the_rail_and_the_total_unknown_around_it():
    readings = ramp()
    readings[50] = (5.0, {"A": None, "B": 2.0, "C": 5.0})
    log = log_of(readings)
    window = log.window(4 * SECOND, 6 * SECOND)
    assert set(window.joules) == {"B", "C"}
    assert window.total is None
    assert log.window(int(5.2 * SECOND), 6 * SECOND).total is not None
    assert log.window(4 * SECOND, int(4.9 * SECOND)).total is not None


def test_a_total_of_nothing_is_nonsense_and_never_zero():
    readings = [(i / 10, {"A": 0.0, "B": 0.0, "C": 5.0}) for i in range(20)]
    log = log_of(readings)
    assert log.window(0, SECOND).total is None
    assert log.latest_watts() == {"C": 5.0}
    assert log.joules_so_far().keys() == {"C"}


def test_a_long_silence_is_a_gap():
    log = log_of([(0, v := {"A": 1.0, "B": 1.0, "C": 1.0}), (0.1, v), (0.2, v), (9.0, v), (9.1, v), (9.2, v)])
    assert log.window(0, int(9.2 * SECOND)) is None
    assert log.window(9 * SECOND, int(9.2 * SECOND)).total == pytest.approx(0.4)
    assert log.joules_so_far()["A"] == pytest.approx(0.4), "what is known, without the gap"


def test_counters_of_energy_need_no_integration():
    info = MeterInfo("fake", "a counter", ("P",), ("P",), "", counts_energy=True)
    log = log_of([(i / 10, {"P": 100 + 0.7 * i}) for i in range(30)], info)
    window = log.window(SECOND, 2 * SECOND)
    assert window.total == pytest.approx(7.0)
    assert log.latest_watts()["P"] == pytest.approx(7.0)
    only_one = log_of([(0, {"P": 100.0})], info)
    assert only_one.latest_watts() == {}, "one reading of a counter says nothing about power"
    jump = log_of([(0, {"P": 0.0}), (0.1, {"P": 1.0}), (0.2, {"P": 90_000.0}), (0.3, {"P": 90_001.0})], info)
    assert jump.window(0, int(0.3 * SECOND)) is None, "900 kW is a counter that started over"


def test_memory_is_bounded_and_the_totals_go_on():
    log = log_of([(i / 10, {"A": 1.0, "B": 1.0, "C": 1.0}) for i in range(5000)], keep=100)
    assert log.joules_so_far()["A"] == pytest.approx(499.9)
    assert log.window(0, 499 * SECOND) is None, "too long ago"
    assert log.window(int(492 * SECOND), int(499 * SECOND)).total == pytest.approx(14)
    assert len(log.samples(0, 500 * SECOND)["A"]) <= 200


class FakeMeter:
    info = INFO

    def __init__(self) -> None:
        self.reads, self.is_closed, self.values = 0, False, {"A": 1.0, "B": 2.0, "C": None}

    def read(self):
        self.reads += 1
        return self.values

    def close(self) -> None:
        self.is_closed = True


def test_the_sampler_reads_in_the_background_until_it_is_closed():
    meter = FakeMeter()
    sampler = PowerSampler(meter, 100.0).start()
    start = monotonic_ns()
    until(lambda: meter.reads > 10)
    found = energy_json(sampler, start, monotonic_ns(), 4)
    assert found["mean_w"] == pytest.approx(3.0)
    assert found["joules_per_token"] == pytest.approx(found["joules"] / 4, abs=1e-6)
    assert set(found["rails"]) == {"A", "B"}
    assert (found["method"], found["hz"], found["idle_w"]) == ("a fake", 100.0, None)
    live = live_json(sampler)
    assert live["watts"] == 3.0
    assert live["joules"] > 0
    assert live["rails"]["C"] == {"watts": None, "joules": None}, "never answered: not measured"
    sampler.close()
    sampler.close()
    reads = meter.reads
    assert meter.is_closed
    assert energy_json(sampler, monotonic_ns() + SECOND, monotonic_ns() + 2 * SECOND, 4) is None
    assert meter.reads == reads


def test_where_the_sampling_thread_is_late_the_end_is_read_when_it_is_asked_for(monkeypatch):
    meter, now = FakeMeter(), 0
    monkeypatch.setattr("edge_runtime.telemetry.power.sampler.monotonic_ns", lambda: now)
    sampler = PowerSampler(meter, 100.0)  # its thread never runs
    for now in (0, SECOND // 10, SECOND // 5):
        sampler.window(0, now)
    assert meter.reads == 3
    found = sampler.window(0, now + SECOND // 100)
    assert meter.reads == 3, "two intervals behind the last reading are near enough"
    assert found.total == pytest.approx(3.0 * 0.21)
    now += SECOND // 10
    assert sampler.window(0, now).total == pytest.approx(3.0 * 0.3)
    assert meter.reads == 4
    now += 2 * SECOND
    assert sampler.window(0, now) is None, "nobody read for longer than a second"


def test_idle_power_is_that_of_intervals_in_which_nothing_ran():
    meter = FakeMeter()
    sampler = PowerSampler(meter, 100.0).start()
    until(lambda: meter.reads > 3)
    assert sampler.idle_w is None, "nobody said that nothing runs"
    sampler.set_running(0)
    until(lambda: sampler.idle_w is not None)
    sampler.set_running(2)
    reads = meter.reads
    until(lambda: meter.reads > reads + 1)
    meter.values = {"A": 100.0, "B": 100.0, "C": None}
    until(lambda: meter.reads > reads + 5)
    assert sampler.idle_w == pytest.approx(3.0)
    sampler.close()


def test_no_sensor_no_figure(tmp_path):
    board_trees.pi5(tmp_path)
    sampler, reasons = start_sampler(MeterChoice("auto", 10.0, tmp_path))
    assert sampler is None
    assert reasons
    assert energy_json(sampler, 0, SECOND, 5) is None
    assert live_json(sampler) is None
