"""Trees of files as the kernels of boards show them: what power, temperature and clocks are read from.

Values as drivers give them: hwmon in mV and mA (INA3221) or uW (INA238), thermal zones in thousandths of a degree,
cpufreq in kHz, devfreq in Hz, powercap in uJ, power_supply in uV and uA.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

NVPMODEL_CONF = """\
# comment
< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=1 NAME=25W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
# default mode
< PM_CONFIG DEFAULT=0 >
"""


def put(root: Path, files: Mapping[str, object]) -> None:
    """Write files under a root, each with the newline the kernel ends it with."""
    for name, value in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")


def ina3221(root: Path, number: int, channels: Mapping[int, tuple[str, int, int]]) -> Path:
    """Add a monitor: label, millivolts and milliamperes of each channel; those left out are off."""
    folder = f"sys/class/hwmon/hwmon{number}"
    files: dict[str, object] = {"name": "ina3221", "in7_label": "sum of shunt voltages", "in7_input": 30}
    files["curr4_input"] = 99999  # the driver's sum channel, which is no rail
    for channel in (1, 2, 3):
        label, millivolts, milliamperes = channels.get(channel, ("NC", 0, 0))
        files |= {
            f"in{channel}_label": label,
            f"in{channel}_enable": int(channel in channels),
            f"in{channel}_input": millivolts,
            f"in{channel + 3}_input": 4,
            f"curr{channel}_input": milliamperes,
            f"curr{channel}_max": 32760,
            f"curr{channel}_crit": 32760,
            f"shunt{channel}_resistor": 5000,
        }
    put(root / folder, files)
    return root / folder


def _jetson(root: Path, model: str, gpu: str) -> None:
    put(
        root,
        {
            "proc/device-tree/model": model,
            "etc/nv_tegra_release": "# R36 (release), REVISION: 4.7, GCID: 42, BOARD: generic, EABI: aarch64",
            "etc/nvpmodel.conf": NVPMODEL_CONF,
            "var/lib/nvpmodel/status": "pmode:0001",
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
            "sys/class/thermal/thermal_zone0/temp": 51500,
            "sys/class/thermal/thermal_zone1/type": "gpu-thermal",
            "sys/class/thermal/thermal_zone1/temp": 49031,
            # a part that is off: the driver answers with an error, seen here as an empty file
            "sys/class/thermal/thermal_zone2/type": "cv0-thermal",
            "sys/class/thermal/thermal_zone2/temp": "",
            "sys/class/thermal/cooling_device0/type": "pwm-fan",
            "sys/class/thermal/cooling_device0/cur_state": 2,
            "sys/class/thermal/cooling_device1/type": "cpufreq-cpu0",
            "sys/class/thermal/cooling_device1/cur_state": 0,
            "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": 1728000,
            "sys/devices/system/cpu/cpufreq/policy4/scaling_cur_freq": 1190400,
            f"sys/class/devfreq/{gpu}/cur_freq": 918000000,
            "sys/class/hwmon/hwmon0/name": "tegra_thermal",
            "sys/class/hwmon/hwmon2/name": "soctherm_oc",
            "sys/class/hwmon/hwmon2/oc1_event_cnt": 0,
            "sys/class/hwmon/hwmon2/oc2_event_cnt": 0,
            "sys/class/hwmon/hwmon2/oc3_event_cnt": 3,
            # a USB-C port that only says what it negotiated
            "sys/class/power_supply/ucsi-source-psy-1-00081/type": "USB",
            "sys/class/power_supply/ucsi-source-psy-1-00081/online": 1,
            "sys/class/power_supply/ucsi-source-psy-1-00081/voltage_now": 5000000,
            "sys/class/power_supply/ucsi-source-psy-1-00081/current_now": 3000000,
        },
    )


def nano(root: Path) -> None:
    """Jetson Orin Nano: VDD_IN at 4.964 V and 1.192 A is 5.917 W."""
    _jetson(root, "NVIDIA Jetson Orin Nano Developer Kit", "17000000.gpu")
    rails = {1: ("VDD_IN", 4964, 1192), 2: ("VDD_CPU_GPU_CV", 4964, 272), 3: ("VDD_SOC", 4956, 296)}
    ina3221(root, 1, rails)


def nx(root: Path) -> None:
    """Jetson Orin NX: the same rails at 12 W."""
    _jetson(root, "NVIDIA Jetson Orin NX Engineering Reference Developer Kit", "17000000.gpu")
    rails = {1: ("VDD_IN", 5000, 2400), 2: ("VDD_CPU_GPU_CV", 5000, 1200), 3: ("VDD_SOC", 5000, 500)}
    ina3221(root, 10, rails)  # behind hwmon2: its number sorts as a number


def agx(root: Path) -> None:
    """Jetson AGX Orin: 6 + 4 + 5 W; the rail of the second monitor is fed by VIN_SYS_5V0."""
    _jetson(root, "NVIDIA Jetson AGX Orin Developer Kit", "17000000.ga10b")
    rails = {1: ("VDD_GPU_SOC", 20000, 300), 2: ("VDD_CPU_CV", 20000, 200), 3: ("VIN_SYS_5V0", 5000, 1000)}
    ina3221(root, 3, rails)
    ina3221(root, 4, {2: ("VDDQ_VDD2_1V8AO", 1800, 500)})


def thor(root: Path) -> None:
    """Jetson Thor: an INA238 at the input says 67 W."""
    _jetson(root, "NVIDIA Jetson AGX Thor Developer Kit", "gpu-gpc-0")
    put(root, {"sys/class/hwmon/hwmon5/name": "ina238", "sys/class/hwmon/hwmon5/power1_input": 67000000})
    rails = {1: ("VDD_GPU", 20000, 1000), 2: ("VDD_CPU_SOC_MSS", 20000, 900), 3: ("VIN_SYS_5V0", 5000, 2000)}
    ina3221(root, 4, rails)


def pi5(root: Path) -> None:
    """Raspberry Pi 5: temperatures, clocks, an alarm of low voltage, and no sensor of power."""
    put(
        root,
        {
            "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0",
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
            "sys/class/thermal/thermal_zone0/temp": 62250,
            "sys/class/thermal/cooling_device0/type": "pwm-fan",
            "sys/class/thermal/cooling_device0/cur_state": 3,
            "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": 2400000,
            "sys/class/hwmon/hwmon0/name": "cpu_thermal",
            "sys/class/hwmon/hwmon0/temp1_input": 62250,
            "sys/class/hwmon/hwmon1/name": "rp1_adc",
            "sys/class/hwmon/hwmon1/in1_input": 1457,
            "sys/class/hwmon/hwmon1/temp1_input": 60811,
            "sys/class/hwmon/hwmon2/name": "pwmfan",
            "sys/class/hwmon/hwmon2/fan1_input": 2951,
            "sys/class/hwmon/hwmon3/name": "rpi_volt",
            "sys/class/hwmon/hwmon3/in0_lcrit_alarm": 0,
        },
    )


def server(root: Path, *, packages: int = 2) -> None:
    """A server with RAPL: packages with their memory, each once more through MMIO; and throttled cores."""
    for n in range(packages):
        base = f"sys/class/powercap/intel-rapl:{n}"
        for folder, name, range_uj in (
            (base, f"package-{n}", 262143328850), (f"{base}:0", "dram", 65712999613),
            (f"sys/class/powercap/intel-rapl-mmio:{n}", f"package-{n}", 262143328850),
        ):  # fmt: skip
            put(root / folder, {"name": name, "energy_uj": 1_000_000, "max_energy_range_uj": range_uj})
    put(
        root,
        {
            "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": 0,
            "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": 7,
            "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count": 2,
            "sys/class/thermal/thermal_zone0/type": "x86_pkg_temp",
            "sys/class/thermal/thermal_zone0/temp": 48000,
        },
    )


def laptop(root: Path, *, status: str = "Discharging") -> None:
    """A laptop: 15.4 V and 0.65 A out of its battery, a mouse with a battery of its own, a USB-C port."""
    put(
        root / "sys/class/power_supply",
        {
            "BAT0/type": "Battery", "BAT0/status": status, "BAT0/scope": "System",
            "BAT0/voltage_now": 15400000, "BAT0/current_now": -650000,
            "AC/type": "Mains", "AC/online": 0,
            "hidpp_battery_0/type": "Battery", "hidpp_battery_0/status": "Discharging",
            "hidpp_battery_0/scope": "Device", "hidpp_battery_0/voltage_now": 3900000,
            "hidpp_battery_0/current_now": 1000,
            "ucsi-source-psy-USBC000:001/type": "USB", "ucsi-source-psy-USBC000:001/online": 1,
            "ucsi-source-psy-USBC000:001/voltage_now": 20000000,
            "ucsi-source-psy-USBC000:001/current_now": 3250000,
        },
    )  # fmt: skip


BOARDS: Mapping[str, Callable[[Path], None]] = {"nano": nano, "nx": nx, "agx": agx, "thor": thor, "pi5": pi5}
