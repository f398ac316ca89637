"""Pure parts of `hobbit bench`: statistics, phases, prompts, settings, hardware texts, table and page."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.base.errors import RequestError
from edge_runtime.experts.counters import ExpertCounters
from edge_runtime.lab.bench.page import gaps_svg, thinned
from edge_runtime.lab.bench.prompts import num_distinct, random_prompts, text_prompts
from edge_runtime.lab.bench.session import Stage, total_experts, total_phases
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


def test_thinning_keeps_outliers_and_bounds_the_page():
    values = [1.0] * 100_000
    values[54_321] = 99.0
    found = thinned(values)
    assert len(found) <= 800
    assert max(found) == 99.0
    assert thinned([1.0, 2.0]) == [1.0, 2.0]
    assert len(gaps_svg(values)) < 20_000
    assert gaps_svg([]).startswith("<svg")


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
