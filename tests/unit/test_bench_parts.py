"""Pure parts of `hobbit bench`: statistics, phases, prompts, settings, hardware texts, table and page."""

from __future__ import annotations

import re

import numpy as np
import pytest

from edge_runtime.base.errors import RequestError
from edge_runtime.experts.counters import ExpertCounters
from edge_runtime.lab.bench.charts import histogram_svg, phases_svg, spreads_svg
from edge_runtime.lab.bench.distribution import Spread, histogram, spreads, ticks
from edge_runtime.lab.bench.folder import JSON_NAME, make_folder, write_whole
from edge_runtime.lab.bench.measured import Stage, total_experts, total_phases
from edge_runtime.lab.bench.prompts import num_distinct, random_prompts, text_prompts
from edge_runtime.lab.bench.settings import MAX_SAMPLES, BenchSettings
from edge_runtime.telemetry.hardware import cpu_model, describe_drive, file_system, meminfo
from edge_runtime.telemetry.samples import percentiles, phases, rate, shares, summary


def test_summary_of_known_samples():
    found = summary([5, 1, 3, None, 2, 4])
    assert found == {"median": 3.0, "p10": 1.4, "p90": 4.6, "n": 5, "samples": [5.0, 1.0, 3.0, 2.0, 4.0]}


def test_what_was_not_measured_is_null_and_never_zero():
    assert summary([None, None]) == {"median": None, "p10": None, "p90": None, "n": 0, "samples": []}
    assert percentiles([], (50, 99)) == [None, None]
    assert rate(5, 0) is None
    assert rate(0, 5) is None
    assert shares({}) == {}


def test_phases_add_up_to_the_wall_time():
    found = phases(1000, {"trunk": 300, "experts": 200}, 400)
    assert found == {"trunk": 300, "experts": 200, "read_wait": 400, "other": 100}
    assert shares(found)["trunk"] == 30.0
    assert phases(10, {"trunk": 12}, 0)["other"] == 0, "clocks are read one after another; never a negative share"
    inside = phases(1000, {"trunk": 300, "cache": 450}, 400)
    assert inside == {"trunk": 300, "cache": 50, "read_wait": 400, "other": 250}, "the wait is part of the cache's time"


def test_random_prompts_are_the_same_in_every_run_and_another_for_every_request():
    a, b = random_prompts(1000, 16, 3), random_prompts(1000, 16, 3)
    np.testing.assert_array_equal(a(4), b(4))
    assert (a(4) != a(5)).any()
    assert (a(4) != random_prompts(1000, 16, 4)(4)).any()
    assert a(0).dtype == np.int32
    assert 0 <= a(0).min() <= a(0).max() < 1000


def test_text_prompts_are_windows_that_start_over():
    prompt = text_prompts(list(range(10)), 4, "a.txt")
    assert [prompt(n).tolist() for n in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3]]
    assert num_distinct(10, 4, 7) == 2
    assert num_distinct(100, 4, 7) == 7
    with pytest.raises(RequestError, match=r"at least 4 tokens, got 3"):
        text_prompts([1, 2, 3], 4, "a.txt")


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("prompt_tokens", 0, "prompt-tokens"),
        ("gen_tokens", 1, "gen-tokens"),
        ("repeat", 0, "repeat"),
        ("temperature", -1, "temperature"),
        ("probe_s", 61, "probe-seconds"),
        ("gate_rise_c", -1, "gate-rise"),
        ("gate_s", 3601, "gate-seconds"),
        ("idle_s", -1, "idle-seconds"),
        ("trace_tokens", 65, "trace-tokens"),
    ],
)
def test_settings_out_of_range_are_named(setting, value, message):
    with pytest.raises(RequestError, match=message):
        BenchSettings(**{setting: value})


def test_samples_of_a_report_are_bounded():
    BenchSettings(repeat=10, gen_tokens=MAX_SAMPLES // 10)
    with pytest.raises(RequestError, match="Lower --repeat or --gen-tokens"):
        BenchSettings(repeat=10, gen_tokens=MAX_SAMPLES // 10 + 1)


def test_settings_must_fit_the_context():
    BenchSettings(prompt_tokens=100, gen_tokens=28).check_context(128)
    with pytest.raises(RequestError, match="--context 129"):
        BenchSettings(prompt_tokens=100, gen_tokens=29).check_context(128)


def test_totals_over_stages():
    one = ExpertCounters(hits=3, misses=1, bytes_read=10, by_tier={4: 4}, predicted_kld=0.5)
    two = ExpertCounters(hits=1, misses=2, bytes_read=20, by_tier={4: 2, 2: 1})
    stages = [
        Stage(100, 1, {"trunk": 60, "other": 40}, one, 5),
        Stage(50, 2, {"trunk": 30, "experts": 20}, two, None),
    ]
    total = total_experts(stages)
    assert (total.hits, total.misses, total.bytes_read, total.predicted_kld) == (4, 3, 30, 0.5)
    assert total.by_tier[4] == 6
    assert total.by_tier[2] == 1
    assert len(total.read_buckets) == len(one.read_buckets)
    assert total_phases(stages) == {"trunk": 90, "other": 40, "experts": 20}
    assert one.by_tier == {4: 4}, "the stages themselves stay as they are"


def test_a_histogram_counts_every_gap_and_outliers_do_not_flatten_it():
    gaps = [1.0] * 98 + [2.0] + [500.0]
    found = histogram(gaps)
    assert sum(found.percents) + found.beyond_percent == pytest.approx(100)
    assert found.beyond_percent == pytest.approx(1)
    assert found.largest_ms == 500.0
    assert found.end_ms < 20, "the axis ends where most gaps do"
    assert found.percents[int(1.0 / found.width_ms)] == pytest.approx(98)
    even = histogram([float(n) for n in range(1, 101)])
    assert even.beyond_percent == 0
    assert even.end_ms >= 100
    assert histogram([]).count == 0
    assert sum(histogram([0.0, 0.0]).percents) == pytest.approx(100)


def test_the_spread_of_each_request():
    assert spreads([[1.0, 2.0, 3.0], [], [5.0]]) == [Spread(1.2, 2.0, 2.8), Spread(5.0, 5.0, 5.0)]


@pytest.mark.parametrize(
    ("top", "expected"),
    [(10, [0, 2, 4, 6, 8, 10]), (0.7, [0, 0.2, 0.4, 0.6]), (123, [0, 50, 100]), (0, [0])],
)
def test_ticks_are_round_and_within_the_axis(top, expected):
    assert ticks(top) == pytest.approx(expected)


def labels(svg: str) -> list[str]:
    return re.findall(r"<text [^>]*>([^<]*)</text>", svg)


def test_charts_have_axes_units_and_legends():
    gaps = [1.0] * 98 + [2.0] + [500.0]
    shown = labels(histogram_svg(histogram(gaps), {"p50": 1.0, "p90": 1.0, "p99": 1.99}))
    assert {"gap between two tokens, ms", "share of gaps, %", "— p50 1.0 ms", "— p99 2.0 ms"} <= set(shown)
    assert "1.0 % slower, up to 500.0 ms" in shown
    assert {"0", "20", "80"} <= set(shown)
    shown = labels(spreads_svg(spreads([[1.0, 2.0, 3.0], [5.0, 6.0]])))
    assert {"request, in order", "gap, ms", "● median", "▌ p10 to p90", "1", "2"} <= set(shown)
    phases = {"phase_percent": {"trunk": 60.0, "experts": 30.0, "read_wait": 8.0, "other": 2.0}}
    shown = labels(phases_svg({"prefill": phases, "decode": phases}))
    assert {"prefill", "decode", "trunk", "experts", "waiting for reads", "100 % of time", "60 %"} <= set(shown)


def test_charts_of_nothing_and_of_much_are_small():
    many = [float(n % 97) for n in range(100_000)]
    for svg in (
        histogram_svg(histogram(many), {"p50": None}), histogram_svg(histogram([]), {}), spreads_svg([]),
        spreads_svg(spreads([[1.0, 2.0]] * 1000)),
    ):  # fmt: skip
        assert svg.startswith("<svg")
        assert len(svg) < 250_000
    assert len(histogram_svg(histogram(many), {})) < 20_000


def test_hardware_texts_of_x86_and_arm():
    assert (
        cpu_model("processor\t: 0\nmodel name\t: AMD EPYC 9R14\n\nprocessor : 1\nmodel name : other\n")
        == "AMD EPYC 9R14"
    )
    arm = "processor\t: 0\nBogoMIPS\t: 62.50\nCPU implementer\t: 0x41\nCPU part\t: 0xd42\n"
    assert cpu_model(arm) == "0x41/0xd42"
    assert cpu_model("") is None
    assert meminfo("MemTotal:       16000000 kB\nSwapTotal: 0 kB\n", "MemTotal") == 16_000_000 * 1024
    assert meminfo("", "MemTotal") is None
    line = "29 1 259:1 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p1 rw\n"
    assert file_system(line, 259, 1) == "ext4"
    assert file_system(line, 8, 1) is None


def test_a_partition_is_described_by_its_drive(tmp_path):
    drive = tmp_path / "sys/devices/pci/nvme0n1"
    for name, text in (("queue/rotational", "0\n"), ("queue/read_ahead_kb", "128\n"), ("device/model", "Some SSD\n")):
        (drive / name).parent.mkdir(parents=True, exist_ok=True)
        (drive / name).write_text(text)
    (drive / "nvme0n1p1").mkdir()
    links = tmp_path / "sys/dev/block"
    links.mkdir(parents=True)
    (links / "259:0").symlink_to(drive)
    (links / "259:1").symlink_to(drive / "nvme0n1p1")
    expected = {"name": "nvme0n1", "model": "Some SSD", "is_rotational": False, "read_ahead_kib": 128}
    assert describe_drive(259, 0, tmp_path) == expected
    assert describe_drive(259, 1, tmp_path) == expected
    assert describe_drive(0, 40, tmp_path)["name"] is None


def test_a_folder_of_a_benchmark_that_measured_nothing_is_taken_again(tmp_path):
    make_folder(tmp_path / "r")
    make_folder(tmp_path / "r")
    write_whole(tmp_path / "r" / JSON_NAME, b"{}")
    with pytest.raises(RequestError, match="expected a new or empty folder"):
        make_folder(tmp_path / "r")
