"""System limits from fake /proc and /sys trees of both cgroup versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.base.errors import DeviceError
from edge_runtime.config.limits import available_cpus, read_limits

MIB = 1 << 20


def tree(root: Path, files: dict[str, str], memory: bool = True) -> Path:
    if memory:
        files = {
            "proc/meminfo": "MemTotal: 8192 kB\nMemFree: 10 kB\nMemAvailable: 4096 kB\nHugePages_Total: 0\n"
        } | files
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_without_cgroups(tmp_path):
    limits = read_limits(tree(tmp_path, {}))
    assert (limits.total_bytes, limits.available_bytes, limits.cgroup_free_bytes) == (8 * MIB, 4 * MIB, None)


def test_version_2_takes_the_tightest_parent_and_counts_page_cache_as_free(tmp_path):
    group = "sys/fs/cgroup/system.slice"
    files = {
        "proc/self/cgroup": "0::/system.slice/hobbit.service\n",
        f"{group}/hobbit.service/memory.max": "max\n",
        f"{group}/hobbit.service/memory.high": f"{900 * MIB}\n",
        f"{group}/hobbit.service/memory.current": f"{100 * MIB}\n",
        f"{group}/hobbit.service/memory.stat": f"anon 5\ninactive_file {40 * MIB}\n",
        f"{group}/memory.max": f"{800 * MIB}\n",
        f"{group}/memory.current": f"{300 * MIB}\n",
        f"{group}/memory.stat": "inactive_file 0\n",
    }
    limits = read_limits(tree(tmp_path, files))
    assert limits.cgroup_free_bytes == 500 * MIB
    assert limits.cgroup_path.endswith("system.slice")
    assert limits.cgroup_limit_bytes == 800 * MIB
    (tmp_path / group / "memory.max").write_text("max")
    assert read_limits(tmp_path).cgroup_free_bytes == 840 * MIB


def test_version_1(tmp_path):
    group = "sys/fs/cgroup/memory/job"
    files = {
        "proc/self/cgroup": "9:name=systemd:/\n4:memory:/job\n1:cpu,cpuacct:/job\n0::/\n",
        f"{group}/memory.limit_in_bytes": f"{200 * MIB}\n",
        f"{group}/memory.usage_in_bytes": f"{50 * MIB}\n",
        f"{group}/memory.stat": f"inactive_file 1\ntotal_inactive_file {10 * MIB}\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "100000\n",
        "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000\n",
    }
    limits = read_limits(tree(tmp_path, files))
    assert limits.cgroup_free_bytes == 160 * MIB
    assert limits.cgroup_limit_bytes == 200 * MIB
    assert available_cpus(tmp_path) == 1


def test_a_containers_path_that_is_absent_means_the_mount_itself(tmp_path):
    files = {
        "proc/self/cgroup": "0::/docker/abc\n",
        "sys/fs/cgroup/memory.max": f"{64 * MIB}\n",
        "sys/fs/cgroup/memory.current": f"{80 * MIB}\n",
        "sys/fs/cgroup/cpu.max": "max 100000\n",
    }
    assert read_limits(tree(tmp_path, files)).cgroup_free_bytes == 0
    assert available_cpus(tmp_path) == available_cpus(tmp_path / "nothing")


def test_no_proc_is_an_error(tmp_path):
    with pytest.raises(DeviceError, match="meminfo"):
        read_limits(tmp_path)


def test_this_machine():
    limits = read_limits()
    assert 0 < limits.available_bytes <= limits.total_bytes
    assert available_cpus() >= 1
