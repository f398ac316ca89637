"""`hobbit doctor` on fake boards: every trap is found where it is planted, and nothing on well-kept boards."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from board_identities import GONE, identity
from conftest import REPO
from doctor_trees import (
    BUNDLE,
    CLEAN,
    GPU_NODES_GONE,
    LIBRARIES,
    PACKAGES,
    UNIT,
    block_on,
    build,
    limits,
    link,
    memory,
    mountinfo,
    package,
    throttled,
)  # fmt: skip

from edge_runtime.__main__ import main
from edge_runtime.lab.doctor.device import Device
from edge_runtime.lab.doctor.findings import CHECKS
from edge_runtime.lab.doctor.report import diagnose

NANO, NX, AGX, THOR, PI = CLEAN
SWAPS = "Filename Type Size Used Priority\n"
COMPATIBLE = "nvidia,p3768-0000+p3767-0005 nvidia,p3767-0005 nvidia,tegra234"

TRAPS = [
    # board
    ("board-unknown", NX, identity("acme,one nvidia,tegra299", "Acme One", 16_000_000, "36.4.3"), "'Acme One'"),
    ("l4t-unknown", AGX, {"etc/nv_tegra_release": GONE}, "names no release"),
    ("l4t-untested", NX, {"etc/nv_tegra_release": "# R35 (release), REVISION: 4.1"}, "R35.4.1 is older than R36"),
    ("l4t-untested", NX, {"etc/nv_tegra_release": "# R41 (release), REVISION: 1.0"}, "R41.1.0 is unknown"),
    ("l4t-mixed", AGX, {"proc/sys/kernel/osrelease": "6.8.12-tegra\n"}, "R36.4.3 belongs to kernel 5.15.x"),
    ("not-super", NANO, identity(COMPATIBLE, "NVIDIA Jetson Orin Nano Developer Kit", 7_620_000, "39.2.1"), "R39.2.1 could"),
    ("clock-wrong", PI, {"proc/stat": "btime 1700\n"}, "started 1970"),
    # memory
    ("zram", NANO, {"proc/swaps": SWAPS + "/dev/zram0 partition 634624 0 5\n/dev/zram1 partition 634624 0 5\n"}, "2 areas"),
    ("swap-on-card", PI, {"proc/swaps": SWAPS + "/dev/mmcblk0p3 partition 4194304 0 -2\n"}, "/dev/mmcblk0p3 (4.00 GiB)"),
    ("swappiness", NX, {"proc/sys/vm/swappiness": "150\n"}, "is 150"),
    ("desktop", NANO, {"proc/900/comm": "Xorg\n", "proc/901/comm": "gnome-shell\n"}, "Xorg, gnome-shell"),
    (
        "memory-taken", NANO,
        memory(7_619_468, MemAvailable=2_000_000) | {"proc/77/status": "Name:\tollama\nVmRSS:\t3400000 kB\n"},
        "ollama 3.24 GiB",
    ),
    ("nvmap-held", AGX, memory(64_400_000, NvMapMemUsed=9_000_000), "8.58 GiB of 61.4 GiB"),
    ("fragmented", NANO, {"proc/buddyinfo": "Node 0, zone   Normal 400000 90000 9 0 0 0 0 0 0 0 0\n"}, "0 B of"),
    ("nvmap-refuses", NX, {"etc/nv_tegra_release": "# R36 (release), REVISION: 4.7"}, "R36.4.7"),
    ("strict-overcommit", PI, {"proc/sys/vm/overcommit_memory": "2\n"}, "is 2"),
    ("huge-pages-off", THOR, {"sys/kernel/mm/transparent_hugepage/enabled": "always madvise [never]\n"}, "is never"),
    ("cgroup-memory-off", PI, {"proc/cmdline": "cgroup_disable=memory quiet\n", "proc/cgroups": GONE}, "disabled"),
    # drive
    ("bundle-in-image", AGX, {"proc/self/mountinfo": "25 1 0:50 / / rw - overlay overlay rw\n"}, "overlay"),
    ("bundle-in-memory", NX, {"proc/self/mountinfo": mountinfo("tmpfs", "tmpfs", device="0:44")}, "tmpfs (/mnt/nvme)"),
    ("bundle-on-network", AGX, {"proc/self/mountinfo": mountinfo("nfs4", "nas:/models", device="0:45")}, "nas:/models"),
    ("no-direct-reads", PI, {"proc/self/mountinfo": mountinfo("fuseblk")}, "fuseblk"),
    (
        "no-direct-reads", NX, {"proc/self/mountinfo": mountinfo("btrfs", options="rw,compress=zstd:3", device="0:46")},
        "btrfs with compress=zstd:3",
    ),
    ("bundle-on-card", PI, block_on("mmcblk0", "platform/mmc0"), "mmcblk0"),
    ("bundle-on-usb", PI, block_on("sda", "platform/xhci/usb2/2-1/2-1:1.0/host0"), "sda, behind USB"),
    ("bundle-on-disk", THOR, block_on("sda", "pci0000:00/ata1/host0", rotational=1), "sda, which spins"),
    ("bundle-encrypted", AGX, block_on("dm-0", "virtual", uuid="CRYPT-LUKS2-abc-model"), "dm-0, which is encrypted"),
    ("io-scheduler", NX, {"sys/block/nvme0n1/queue/scheduler": "none [mq-deadline] kyber\n"}, "nvme0n1 uses mq-deadline"),
    ("io-uring-off", THOR, {"proc/sys/kernel/io_uring_disabled": "2\n"}, "is 2"),
    # link
    ("link-slow", NX, link("8.0", 4), "8 GT/s x4 of 16 GT/s x4"),
    ("link-slow", AGX, link("16.0", 1), "16 GT/s x1 of 16 GT/s x4"),
    ("slot-narrow", NANO, link("8.0", 2, port=("8.0", 2)), "4 lanes, its slot 2"),
    ("pi-gen2", PI, link("5.0", 1, "8.0", 4, ("8.0", 1)), "5 GT/s x1; the drive can 8 GT/s"),
    ("link-sleeps", AGX, {"sys/module/pcie_aspm/parameters/policy": "default [powersupersave]\n"}, "powersupersave"),
    # power
    ("power-mode", NANO, {"var/lib/nvpmodel/status": "pmode:0000 fmode:cool\n"}, "15W; orin-nano-8gb-super runs best in 25W"),
    ("power-mode", AGX, {"var/lib/nvpmodel/status": "pmode:0002 fmode:cool\n"}, "30W; agx-orin-64gb runs best in MAXN"),
    ("cores-off", NX, {"sys/devices/system/cpu/online": "0-3\n"}, "cores 4, 5, 6, 7 of 8 are off"),
    ("governor", PI, {"sys/devices/system/cpu/cpu2/cpufreq/scaling_governor": "powersave\n"}, "powersave"),
    ("gpu-clock", NANO, {"sys/class/devfreq/17000000.gpu/min_freq": "306000000\n"}, "306 to 918 MHz"),
    ("gpu-clock", THOR, {"sys/class/devfreq/gpu-gpc-0/min_freq": "315000000\n"}, "gpu-gpc-0"),
    ("mixed-cores", PI, {f"sys/devices/system/cpu/cpu{i}/cpu_capacity": "414\n" for i in (0, 1)}, "2 of 4 cores are fast"),
    ("supply-weak", PI, {"proc/device-tree/chosen/power/max_current": (3000).to_bytes(4, "big")}, "offers 3 A"),
    ("no-power-sensor", THOR, {"sys/class/hwmon/hwmon3/name": "nct\n"}, "no hwmon"),
    # heat
    ("hot", NX, {"sys/class/thermal/thermal_zone0/temp": "96500\n"}, "cpu-thermal is at 96 °C"),
    ("hot", PI, {"sys/class/thermal/thermal_zone0/trip_point_0_temp": "53000\n"}, "cpu-thermal is at 51 °C"),
    ("drive-hot", AGX, {"sys/class/nvme/nvme0/hwmon1/temp1_input": "79000\n"}, "nvme0 is at 79 °C"),
    ("over-current", NX, {"sys/class/hwmon/hwmon3/oc1_event_cnt": "12\n"}, "OC1 counted 12 events"),
    ("under-voltage", PI, throttled(0x50001 & ~0x40000), "too low just now"),
    ("throttled", PI, throttled(0x40000), "lowered since the boot"),
    # gpu
    ("container-without-gpu", NANO, GPU_NODES_GONE | {".dockerenv": ""}, "no /dev/nvhost-gpu"),
    ("gpu-nodes-missing", AGX, GPU_NODES_GONE, "no /dev/nvhost-gpu"),
    ("no-driver", THOR, {f"{LIBRARIES}/nvidia/libcuda.so.1": GONE}, "libcuda.so.1 is in none"),
    (
        "gpu-groups", NX, {"proc/self/status": "Uid:\t1000\t1000\t1000\t1000\nGroups:\t1000 \n"},
        "user 1000 is not in video and render",
    ),
    ("no-dla-compiler", NANO, {f"{LIBRARIES}/nvidia/libnvdla_compiler.so": GONE}, "libnvdla_compiler.so is not"),
    (
        "tensorrt-unknown", NX,
        {f"{LIBRARIES}/libnvinfer.so.10": GONE, f"{LIBRARIES}/libnvinfer.so.8": "", f"{LIBRARIES}/libnvinfer.so.8.6.2": ""},
        "libnvinfer is TensorRT 8.6.2; there are lowerings for 10.3, 10.16",
    ),
    ("locked-memory", AGX, {"proc/self/limits": limits(locked="65536")}, "at most 64.0 KiB"),
    # packages
    (
        "wheel-without-arch", NX, package("torch-2.9.0", "cp310-cp310-manylinux_2_28_aarch64"),
        "torch 2.9.0 was built for ARM servers",
    ),
    ("second-tensorrt", THOR, package("tensorrt_cu13_libs-10.16.1"), "tensorrt_cu13_libs 10.16.1 and JetPack's"),
    ("two-onnxruntimes", AGX, package("onnxruntime_gpu-1.23.0"), "lies beside onnxruntime"),
    # system
    ("slow-kernels", PI, {"proc/cpuinfo": "Features\t: fp asimd\nCPU implementer\t: 0x41\n"}, "asimddp"),
    ("large-pages", PI, {"proc/self/smaps": "KernelPageSize:       16 kB\n"}, "pages have 16 KiB"),
    ("open-files", NANO, {"proc/self/limits": limits(files="256")}, "at most 256 files"),
    ("private-devices", AGX, {f"{UNIT}.d/hard.conf": "[Service]\nPrivateDevices=yes\n"}, "hard.conf says PrivateDevices=yes"),
    ("service-limit", THOR, {f"{UNIT}.d/memory.conf": "[Service]\nMemoryMax=4G\n"}, "MemoryMax=4G is 3 %"),
]  # fmt: skip
"""Check, board, what is planted, and words of the finding."""
ALONE = ("not-super", "board-unknown", "l4t-untested", "l4t-unknown", "container-without-gpu", "gpu-nodes-missing")
"""Makes it a board of another profile or release, of which other things are expected, or one without a GPU."""


def examine(root: Path, **environ: str):
    device = Device(root, BUNDLE, environ, "aarch64", (PACKAGES,))
    return diagnose(device, runs_model=False)


@pytest.mark.parametrize("board", CLEAN)
def test_nothing_is_found_on_a_well_kept_board(board, tmp_path):
    found = examine(build(tmp_path, board))
    assert [finding.finding for finding in found.findings] == []
    assert (found.profile, found.exit_code, len(found.looked_for)) == (board, 0, len(CHECKS))


@pytest.mark.parametrize(("name", "board", "changes", "words"), TRAPS, ids=[f"{t[0]}-{t[1]}" for t in TRAPS])
def test_a_planted_trap_is_found_and_nothing_else(name, board, changes, words, tmp_path):
    found = examine(build(tmp_path, board, changes))
    assert [finding.check for finding in found.findings] == [name]
    finding = found.findings[0]
    assert words in finding.finding
    assert finding.why
    assert finding.fix
    assert found.exit_code == 1


def test_variables_of_the_shell(tmp_path):
    build(tmp_path, NX)
    found = examine(tmp_path, CUDA_LAUNCH_BLOCKING="1", CUDA_VISIBLE_DEVICES="")
    assert [f.finding for f in found.findings] == ["CUDA_LAUNCH_BLOCKING is '1'", "CUDA_VISIBLE_DEVICES is ''"]
    assert examine(tmp_path, CUDA_VISIBLE_DEVICES="0", HOBBIT_THREADS="4").findings == ()


def test_every_check_has_a_trap_that_it_finds():
    assert {trap[0] for trap in TRAPS} | {"cuda-variables"} == set(CHECKS)
    assert all(len({trap[0] for trap in TRAPS if trap[1] == board}) >= 8 for board in CLEAN)


@pytest.mark.parametrize("board", CLEAN)
def test_all_traps_of_a_board_at_once_are_all_found(board, tmp_path):
    """No check hides another's finding. Traps that change the same file cannot be planted together."""
    planted: dict[str, str | bytes] = {}
    names = []
    for name, where, changes, _ in TRAPS:
        is_alone = name in ALONE or planted.keys() & changes.keys()
        if where == board and not is_alone:
            planted |= changes
            names.append(name)
    found = examine(build(tmp_path, board, planted))
    assert len(names) >= 7
    assert sorted({finding.check for finding in found.findings}) == sorted(set(names))


@pytest.mark.parametrize(
    "text", ["", "\0\0", "x" * 100, "-1\n", "99999999999999999999999\n", "é\xff", "a\nb\n c : d - e f\n"]
)
def test_files_that_hold_anything_never_stop_it(text, tmp_path):
    """A kernel may say what nobody expected: no check may fail over it."""
    build(tmp_path, NANO)
    for path in [p for p in tmp_path.rglob("*") if p.is_file() and not p.is_symlink() and p.parent.name != "dev"]:
        path.write_text(text)
    examine(tmp_path)


@pytest.mark.parametrize(
    ("verb", "found"), [("serve", []), ("bench", ["memory-taken", "nvmap-held"])], ids=["service", "another"]
)
def test_what_our_own_service_holds_is_no_fault_of_the_machine(verb, found, tmp_path):
    """The installer calls the doctor once the service is up, with its experts in memory."""
    taken = {
        **memory(64_400_000, MemAvailable=20_000_000, NvMapMemUsed=9_000_000),
        "proc/77/status": "Name:\thobbit\nVmRSS:\t30000000 kB\n",
        "proc/77/cmdline": f"/opt/hobbit-edge/bin/python\0/opt/hobbit-edge/bin/hobbit\0{verb}\0",
    }
    assert [finding.check for finding in examine(build(tmp_path, AGX, taken)).findings] == found


def test_an_empty_tree_says_nothing(tmp_path):
    assert examine(tmp_path).findings == ()


def test_a_check_can_be_left_out(tmp_path, capsys):
    build(tmp_path, NX, {"proc/sys/vm/swappiness": "150\n", "sys/class/thermal/thermal_zone0/temp": "99000\n"})
    command = ["doctor", "--root", str(tmp_path), "--json"]
    assert main(command) == 1
    found = json.loads(capsys.readouterr().out)
    assert [finding["check"] for finding in found["findings"]] == ["swappiness", "hot"]
    assert (found["profile"], found["runs"]) == (NX, {})
    assert main([*command, "--skip", "hot", "--skip", "swappiness"]) == 0
    assert json.loads(capsys.readouterr().out)["findings"] == []
    assert main([*command, "--skip", "hott"]) == 78
    assert "skip: expected the name of a check, got 'hott'. Did you mean 'hot'?" in capsys.readouterr().err


def test_the_text_has_finding_reason_and_fix(tmp_path, capsys):
    build(
        tmp_path, NANO, {"var/lib/nvpmodel/status": "pmode:0000 fmode:cool\n", f"{LIBRARIES}/nvidia/libcuda.so.1": GONE}
    )
    assert main(["doctor", "--root", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert lines[1] == f"profile orin-nano-8gb-super, {len(CHECKS)} checks"
    text = "\n".join(lines)
    assert text.index("error    no-driver: ") < text.index("warning  power-mode: the mode is 15W")
    assert "    fix  sudo nvpmodel -m 1" in lines
    assert "    why  Lower modes switch cores off" in text
    assert lines[-1] == "2 found"
    assert all(len(line) <= 100 for line in lines if "  fix" not in line)


def test_a_wrong_root_is_named(tmp_path, capsys):
    assert main(["doctor", "--root", str(tmp_path / "nothing")]) == 78
    assert "root: expected a folder with proc, sys and etc" in capsys.readouterr().err


def test_links_of_a_tree_lead_into_it(tmp_path):
    """What stands in a tree is looked at there, never on the machine that runs the tests."""
    root = build(tmp_path, PI)
    assert (root / "sys/class/nvme/nvme0").resolve().is_relative_to(root)


def test_the_table_of_checks_is_up_to_date():
    done = subprocess.run([sys.executable, str(REPO / "tools/doctor_table.py"), "--check"], check=False)
    assert done.returncode == 0, "run python tools/doctor_table.py"
