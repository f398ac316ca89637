"""Power modes, cores, clocks and supplies."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edge_runtime.config.option import AUTO
from edge_runtime.config.options import BY_NAME
from edge_runtime.lab.doctor.device import Device
from edge_runtime.lab.doctor.findings import Found, check

_MODE = re.compile(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>")
_SLEEPY = ("powersave", "conservative", "userspace")
_OWN_GOVERNOR = ("intel_pstate", "amd-pstate-epp", "intel_cpufreq")
_PI_AMPERE = 5000


@check(
    "power-mode", "warning", "a power mode below the one the board's profile names",
    why="Lower modes switch cores off and cap clocks of CPU, GPU and memory. On Orin Nano Super, 25W gave 36 to 47 % "
    "more tok/s than 15W, and the most tokens a joule.",
    fix="sudo nvpmodel -m ID (sudo nvpmodel -p --verbose lists them)", where="Jetson",
)  # fmt: skip
def power_mode(device: Device) -> Iterator[Found]:
    """The mode in force has fewer watts than the profile's."""
    names = {name: int(number) for number, name in _MODE.findall(device.text("etc/nvpmodel.conf"))}
    current = next((name for name, number in names.items() if number == _current(device)), None)
    wanted = device.profile.fact("power_mode").value
    if current is None or wanted is None or _watts(current) >= _watts(wanted):
        return
    better = [name for name in names if _watts(wanted) <= _watts(name)]
    target = min(better, key=_watts, default=max(names, key=_watts))
    if target != current:
        yield Found(
            f"the mode is {current}; {device.profile.name} runs best in {target}", f"sudo nvpmodel -m {names[target]}"
        )


def _current(device: Device) -> int | None:
    found = re.search(r"pmode:(\d+)", device.text("var/lib/nvpmodel/status"))
    return int(found[1]) if found else None


def _watts(name: str) -> float:
    """Watts in a mode's name; MAXN has no bound."""
    found = re.match(r"(?:MODE_)?(\d+)W", name)
    return float(found[1]) if found else float("inf")


@check(
    "cores-off", "warning", "cores that are switched off",
    why="Experts are computed by all cores at once; power modes take cores away.",
    fix="sudo nvpmodel -m ID of a mode with all cores; else echo 1 | sudo tee /sys/devices/system/cpu/cpuN/online",
)  # fmt: skip
def cores_off(device: Device) -> Iterator[Found]:
    """Cores that are present and not online."""
    present, online = (_cores(device.words(f"sys/devices/system/cpu/{name}")) for name in ("present", "online"))
    if online and present - online:
        yield Found(f"cores {', '.join(map(str, sorted(present - online)))} of {len(present)} are off")


def _cores(text: str) -> set[int]:
    """Numbers of a list such as 0-3,6."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        low, _, high = part.partition("-")
        if low.isdigit() and (not high or high.isdigit()):
            found |= set(range(int(low), min(int(high or low), 4095) + 1))
    return found


@check(
    "governor", "warning", "a cpufreq governor that keeps clocks low",
    why="Between two reads the cores idle for microseconds. Such a governor lowers their clock each time, and they "
    "start slowly.",
    fix="sudo cpupower frequency-set -g performance (Jetson: sudo jetson_clocks)",
)  # fmt: skip
def governor(device: Device) -> Iterator[Found]:
    """powersave, conservative or userspace, unless the driver has a policy of its own."""
    names = {device.words(path) for path in device.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor")}
    driver = device.words("sys/devices/system/cpu/cpu0/cpufreq/scaling_driver")
    slow = sorted(names & {*_SLEEPY})
    if slow and driver not in _OWN_GOVERNOR:
        yield Found(f"the governor is {', '.join(slow)}")


@check(
    "gpu-clock", "warning", "a GPU whose clock may fall",
    why="One token is a chain of short kernels with pauses for reads, in which the clock sinks; the next layer starts "
    "slowly.",
    fix="sudo jetson_clocks (until the next boot)", where="Jetson",
)  # fmt: skip
def gpu_clock(device: Device) -> Iterator[Found]:
    """The lowest clock of the GPU's devfreq is below the highest."""
    for folder in [*device.glob("sys/class/devfreq/*.gpu"), *device.glob("sys/class/devfreq/gpu-gpc-0")]:
        low, high = device.number(folder / "min_freq"), device.number(folder / "max_freq")
        if device.is_jetson and low and high and low < high:
            yield Found(f"{folder.name} may run at {low // 1_000_000} to {high // 1_000_000} MHz")


@check(
    "mixed-cores", "warning", "cores of different speed, with all of them computing",
    why="A layer waits for its slowest thread: four fast cores beat four fast and four slow ones.",
    fix="--threads N with the number of fast cores, or HOBBIT_THREADS=N",
)  # fmt: skip
def mixed_cores(device: Device) -> Iterator[Found]:
    """cpu_capacity differs, and the profile leaves threads open."""
    sizes = [device.number(path) for path in device.glob("sys/devices/system/cpu/cpu[0-9]*/cpu_capacity")]
    known = [size for size in sizes if size]
    is_open = device.profile.value(BY_NAME["threads"]) == AUTO and not device.environ.get("HOBBIT_THREADS")
    if known and min(known) * 10 < max(known) * 8 and is_open:
        fast = sum(size * 10 >= max(known) * 8 for size in known)
        yield Found(f"{fast} of {len(known)} cores are fast", f"--threads {fast}, or HOBBIT_THREADS={fast}")


@check(
    "supply-weak", "warning", "a Raspberry Pi 5 on a supply of less than 5 A",
    why="Its USB ports then give 0.6 A together, and with an NVMe drive it lowers its clocks under load.",
    fix="use the 27 W supply, or usb_max_current_enable=1 in /boot/firmware/config.txt if yours really gives 5 A",
    where="Raspberry Pi 5",
)  # fmt: skip
def supply_weak(device: Device) -> Iterator[Found]:
    """What the firmware negotiated, as it tells the kernel."""
    try:
        raw = (device.root / "proc/device-tree/chosen/power/max_current").read_bytes()
    except OSError:
        return
    ampere = int.from_bytes(raw[:4], "big") if len(raw) == 4 else _PI_AMPERE
    if device.is_pi and 0 < ampere < _PI_AMPERE:
        yield Found(f"the supply offers {ampere / 1000:g} A")


@check(
    "no-power-sensor", "warning", "a Jetson whose power sensors cannot be seen",
    why="Energy then cannot be measured; reports say so instead of a figure.",
    fix="docker run -v /sys:/sys:ro ...; on the host: sudo modprobe ina3221", where="Jetson",
)  # fmt: skip
def no_power_sensor(device: Device) -> Iterator[Found]:
    """No hwmon of the name ina3221 (Orin) or ina238 (Thor has both)."""
    names = {device.words(path) for path in device.glob("sys/class/hwmon/hwmon*/name")}
    if device.is_jetson and not names & {"ina3221", "ina238"}:
        yield Found("no hwmon is an ina3221 or ina238")
