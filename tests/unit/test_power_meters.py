"""Power meters over trees of files as boards show them, and over a jtop with the fields of the real one."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import board_trees
import pytest

from edge_runtime.base.errors import ConfigError, DeviceError
from edge_runtime.telemetry.conditions import ActivePowerMode, power_modes, read_conditions
from edge_runtime.telemetry.power import MeterChoice, find_meter, parse_choice


def meter_of(root: Path, kind: str = "auto"):
    return find_meter(MeterChoice(kind, 10.0, root)).meter


def total(meter) -> float:
    values = meter.read()
    return sum(values[rail] for rail in meter.info.total)


@pytest.mark.parametrize(
    ("board", "rails", "total_rails", "watts"),
    [
        ("nano", {"VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"}, ("VDD_IN",), 4.964 * 1.192),
        ("nx", {"VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"}, ("VDD_IN",), 12.0),
        (
            "agx",
            {"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"},
            ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
            15.0,
        ),
        ("thor", {"VIN", "VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"}, ("VIN",), 67.0),
    ],
)
def test_a_boards_rails_and_its_total(tmp_path, board, rails, total_rails, watts):
    board_trees.BOARDS[board](tmp_path)
    meter = meter_of(tmp_path)
    assert set(meter.info.rails) == set(meter.read()) == rails
    assert meter.info.total == total_rails
    assert total(meter) == pytest.approx(watts)
    assert meter.info.covers
    meter.close()
    meter.close()
    assert set(meter.read().values()) == {None}, "closed files say nothing"


def test_a_pi_has_no_sensor_and_so_no_meter(tmp_path):
    board_trees.pi5(tmp_path)
    found = find_meter(MeterChoice("auto", 10.0, tmp_path))
    assert found.meter is None
    assert set(found.reasons) == {"ina", "rapl", "battery"}
    for kind in ("ina", "rapl", "battery"):
        with pytest.raises(DeviceError, match=kind):
            meter_of(tmp_path, kind)


def test_none_measures_nothing_even_where_there_is_a_sensor(tmp_path):
    board_trees.nano(tmp_path)
    assert meter_of(tmp_path, "none") is None


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("curr1_input", "", "VDD_IN"),
        ("curr1_input", "0", "makes no sense|0 W"),
        ("curr1_input", "-4000", "VDD_IN"),
        ("curr1_input", "99999999999", "VDD_IN"),
        ("in1_input", "ERR", "VDD_IN"),
    ],
)
def test_a_sensor_that_is_broken_is_no_meter(tmp_path, file, text, message):
    board_trees.nano(tmp_path)
    monitor = tmp_path / "sys/class/hwmon/hwmon1"
    (monitor / file).write_text(text)
    if text == "0":  # every rail, as with a monitor that is switched off
        for number in (2, 3):
            (monitor / f"curr{number}_input").write_text("0")
    with pytest.raises(DeviceError, match=message):
        meter_of(tmp_path, "ina")
    assert meter_of(tmp_path) is None


def test_a_reading_that_fails_later_is_none_and_comes_back(tmp_path):
    board_trees.nano(tmp_path)
    current = tmp_path / "sys/class/hwmon/hwmon1/curr1_input"
    meter = meter_of(tmp_path)
    current.write_text("")
    assert meter.read()["VDD_IN"] is None
    assert meter.read()["VDD_SOC"] == pytest.approx(4.956 * 0.296), "the others go on"
    current.write_text("-20\n")
    assert meter.read()["VDD_IN"] == 0.0, "a little below zero is noise around it"
    current.write_text("2000\n")
    assert meter.read()["VDD_IN"] == pytest.approx(4.964 * 2)


def test_rails_without_a_known_sum_have_no_total(tmp_path):
    board_trees.ina3221(tmp_path, 0, {1: ("RAIL_A", 5000, 1000), 2: ("RAIL_B", 5000, 100)})
    meter = meter_of(tmp_path)
    assert meter.info.total == ()
    assert meter.read() == {"RAIL_A": 5.0, "RAIL_B": 0.5}


def test_rapl_counts_each_package_once_and_wraps_around(tmp_path):
    board_trees.server(tmp_path)
    meter = meter_of(tmp_path)
    assert meter.info.counts_energy
    assert meter.info.rails == ("package-0", "dram-0", "package-1", "dram-1"), "and nothing of intel-rapl-mmio"
    assert meter.info.total == meter.info.rails
    domain = tmp_path / "sys/class/powercap/intel-rapl:0"
    assert meter.read()["package-0"] == 0.0
    (domain / "energy_uj").write_text("262143328000\n")
    before = meter.read()["package-0"]
    assert before == pytest.approx(262142.328)
    (domain / "energy_uj").write_text("5000000\n")
    assert meter.read()["package-0"] - before == pytest.approx((262143328850 - 262143328000 + 5000000) * 1e-6)
    (domain / "energy_uj").write_text("300000000000\n")
    assert meter.read()["package-0"] is None, "beyond its range: nonsense"


def test_psys_is_the_platform_and_its_own_total(tmp_path):
    board_trees.server(tmp_path, packages=1)
    board_trees.put(
        tmp_path / "sys/class/powercap/intel-rapl:1",
        {"name": "psys", "energy_uj": 5, "max_energy_range_uj": 262143328850},
    )
    assert meter_of(tmp_path, "rapl").info.total == ("psys",)


def test_counters_only_root_may_read_say_so(tmp_path, monkeypatch):
    board_trees.server(tmp_path)

    def refused(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("edge_runtime.telemetry.power.rapl.SensorFile", refused)
    with pytest.raises(DeviceError, match="Only root may read it.*chmod a\\+r"):
        meter_of(tmp_path, "rapl")


def test_a_battery_counts_only_while_it_discharges(tmp_path):
    board_trees.laptop(tmp_path)
    meter = meter_of(tmp_path)
    assert meter.info.rails == meter.info.total == ("BAT0",), "not the mouse, not what USB-C negotiated"
    assert total(meter) == pytest.approx(15.4 * 0.65)
    (tmp_path / "sys/class/power_supply/BAT0/status").write_text("Charging\n")
    assert meter.read() == {"BAT0": None}
    assert meter_of(tmp_path) is None
    with pytest.raises(DeviceError, match="USBC000:001 only says what was negotiated"):
        meter_of(tmp_path, "battery")


class FakeJtop:
    """The fields of jetson-stats 4.3's `jtop.jtop`."""

    power_now: dict = {}  # noqa: RUF012
    is_up = True

    def __init__(self, interval: float = 1.0) -> None:
        self.interval, self.is_open = interval, False

    def start(self) -> None:
        if not self.is_up:
            raise RuntimeError("The jtop.service is not active. Please run: sudo systemctl restart jtop.service")
        self.is_open = True

    def ok(self, spin: bool = False) -> bool:
        assert spin, "without it jtop blocks until its next message"
        return self.is_open

    @property
    def power(self) -> dict:
        return self.power_now

    def close(self) -> None:
        self.is_open = False


def rail(milliwatts: int, **more) -> dict:
    volts = {"volt": 5000, "curr": milliwatts // 5, "power": milliwatts, "avg": milliwatts - 7}
    return {**volts, "warn": 32760, "crit": 32760, "online": True, **more}


@pytest.fixture
def jtop(monkeypatch):
    class Fresh(FakeJtop):
        pass

    module = types.ModuleType("jtop")
    module.jtop = Fresh
    monkeypatch.setitem(sys.modules, "jtop", module)
    return Fresh


def test_jtop_gives_the_input_rail_by_its_name(jtop, tmp_path):
    jtop.power_now = {"rail": {"VDD_CPU_GPU_CV": rail(1350), "VDD_SOC": rail(1467)}, "tot": rail(5917, name="VDD_IN")}
    meter = meter_of(tmp_path, "jtop")
    assert meter.info.total == ("VDD_IN",)
    assert meter.read() == {"VDD_CPU_GPU_CV": 1.35, "VDD_SOC": 1.467, "VDD_IN": 5.917}
    meter.close()
    assert set(meter.read().values()) == {None}


def test_jtops_sum_of_all_rails_is_not_believed(jtop, tmp_path):
    rails = {"VDD_GPU_SOC": rail(6000), "VDD_CPU_CV": rail(4000), "VIN_SYS_5V0": rail(5000)}
    rails |= {"VDDQ_VDD2_1V8AO": rail(900), "1-00081": rail(15000)}
    jtop.power_now = {"rail": rails, "tot": {"power": 30900, "avg": 30900}}
    assert total(meter_of(tmp_path, "jtop")) == pytest.approx(15.0)


def test_a_jtop_whose_service_is_down_is_no_meter(jtop, tmp_path):
    jtop.is_up = False
    with pytest.raises(DeviceError, match=r"jtop\.service is not active"):
        meter_of(tmp_path, "jtop")
    jtop.is_up, jtop.power_now = True, {}
    with pytest.raises(DeviceError, match="jtop"):
        meter_of(tmp_path, "jtop")


def test_jtop_is_imported_only_when_asked_for(tmp_path):
    board_trees.nano(tmp_path)
    code = (
        "import sys; from pathlib import Path; from edge_runtime.telemetry.power import MeterChoice, find_meter\n"
        f"assert find_meter(MeterChoice('auto', 10, Path({str(tmp_path)!r}))).meter is not None\n"
        "sys.exit('jtop' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_jetson_stats_the_command_that_installs_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jtop", None)
    with pytest.raises(DeviceError, match="pip install.*jetson-stats"):
        meter_of(tmp_path, "jtop")


def test_a_choice_is_read_strictly():
    assert parse_choice("auto") == MeterChoice("auto", 10.0, Path("/"))
    assert parse_choice("ina:hz=50,root=/host") == MeterChoice("ina", 50.0, Path("/host"))
    for text, message in (
        ("inna", "Did you mean 'ina'"), ("auto:hz=0", r"0\.1 to 100"), ("auto:rate=5", "it takes hz, root"),
        ("auto:root=host", "absolute folder"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            parse_choice(text)


@pytest.mark.parametrize("board", ["nano", "nx", "agx", "thor"])
def test_conditions_of_a_jetson(tmp_path, board):
    board_trees.BOARDS[board](tmp_path)
    found = read_conditions(tmp_path)
    assert found.temperatures_c == {"cpu-thermal": 51.5, "gpu-thermal": 49.031}, "a part that is off has none"
    assert found.hottest_c == 51.5
    assert found.clocks_hz["cpu0"] == 1728000000
    assert 918000000 in found.clocks_hz.values()
    assert found.limited == {}, "a fan limits nothing"
    assert found.throttle_events == {"oc1": 0, "oc2": 0, "oc3": 3}
    assert found.power_mode == ActivePowerMode(1, "25W")
    assert power_modes(tmp_path) == [(0, "15W"), (1, "25W"), (2, "MAXN_SUPER")]
    (tmp_path / "sys/class/thermal/cooling_device1/cur_state").write_text("4\n")
    assert read_conditions(tmp_path).limited == {"cpufreq-cpu0": 4}


def test_conditions_of_a_pi_a_server_and_of_nothing(tmp_path):
    board_trees.pi5(tmp_path / "pi")
    found = read_conditions(tmp_path / "pi")
    assert found.hottest_c == 62.25
    assert found.throttle_events == {"under_voltage": 0}
    assert found.power_mode is None
    board_trees.server(tmp_path / "server")
    assert read_conditions(tmp_path / "server").throttle_events == {"core": 7, "package": 2}
    nothing = read_conditions(tmp_path / "nothing")
    assert nothing.hottest_c is None
    assert nothing.to_json() == {
        "temperatures_c": {}, "clocks_hz": {}, "limited": {}, "throttle_events": {}, "power_mode": None,
    }  # fmt: skip
