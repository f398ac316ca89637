"""What a look at memory says, on fake trees of both cgroup versions, and what it reads for that."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_runtime.base.errors import DeviceError
from edge_runtime.base.kept_files import KeptFiles, read_file
from edge_runtime.config.limits import read_limits
from edge_runtime.config.pressure import PressureWatch
from edge_runtime.telemetry.process import anonymous_bytes, anonymous_pages_bytes

MIB = 1 << 20
PSI = "some avg10=1.00 avg60=0.50 avg300=0.10 total={}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=5\n"


def fake_root(tmp_path: Path, *, version: int, psi: bool = True) -> Path:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\n")
    (tmp_path / "proc/pressure").mkdir()
    (tmp_path / "proc/pressure/memory").write_text(PSI.format(700))
    (tmp_path / "proc/self/cgroup").write_text("0::/app\n" if version == 2 else "5:memory:/app\n")
    group(tmp_path, version, "app", psi=psi)
    return tmp_path


def group(root: Path, version: int, name: str, *, psi: bool = True) -> Path:
    """512 MiB, of which 200 are charged, and 50 of these can be reclaimed."""
    found = root / "sys/fs/cgroup" / ("" if version == 2 else "memory") / name
    found.mkdir(parents=True)
    limit, used = (
        ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    )
    (found / limit).write_text(f"{512 * MIB}\n")
    (found / used).write_text(f"{200 * MIB}\n")
    (found / "memory.stat").write_text(f"inactive_file {50 * MIB}\nactive_file 0\n")
    if version == 2 and psi:
        (found / "memory.pressure").write_text(PSI.format(123))
    return found


def watch(root: Path, own: int = 100 * MIB, reserve: int = 512 * MIB) -> PressureWatch:
    return PressureWatch(reserve_bytes=reserve, own_bytes=lambda: own, root=root)


def opened(root: Path) -> set[str]:
    """Names of the files below a folder that this process has open."""
    links = []
    for file in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{file}"))
        except OSError:
            continue
    return {Path(link).name for link in links if link.startswith(f"{root}/")}


@pytest.mark.parametrize("version", [1, 2])
def test_pressure_is_that_of_the_own_cgroup(tmp_path, version):
    found = watch(fake_root(tmp_path, version=version)).look(requested=None)
    assert found.allowed_bytes == (512 - (200 - 50) + 100 - 16) * MIB
    assert found.stalled_us == (123 if version == 2 else 700), "of the group where it is counted, else the machine's"


def test_a_kernel_without_psi_says_nothing(tmp_path):
    root = fake_root(tmp_path, version=2, psi=False)
    (root / "proc/pressure/memory").unlink()
    assert watch(root).look(requested=None).stalled_us is None


def test_a_tree_without_meminfo_is_an_error(tmp_path):
    with pytest.raises(DeviceError, match="meminfo"):
        watch(tmp_path).look(requested=None)


@pytest.mark.parametrize("version", [1, 2])
def test_what_the_kernel_adds_up_is_read_only_where_it_counts(tmp_path, version):
    """Enough is left without the pages of files: nobody asks how many there are. The answer is the same."""
    root = fake_root(tmp_path, version=version)
    looking = watch(root)
    without_files = (512 - 200 + 100 - 16) * MIB
    assert looking.look(requested=None, enough=without_files).allowed_bytes == without_files
    assert "memory.stat" not in opened(root)
    assert looking.look(requested=None, enough=without_files + 1).allowed_bytes == without_files + 1
    assert "memory.stat" in opened(root)
    assert looking.look(requested=None, enough=1 << 40).allowed_bytes == without_files + 50 * MIB
    looking.close()
    assert not opened(root)


@pytest.mark.parametrize("enough", [None, 1 << 40, 300 * MIB, 0])
@pytest.mark.parametrize("requested", [None, 64 * MIB])
@pytest.mark.parametrize("own", [0, 400 * MIB])
def test_a_look_that_stops_at_enough_says_the_same_up_to_there(tmp_path, enough, requested, own):
    root = fake_root(tmp_path, version=2)
    exact = watch(root, own).look(requested=requested).allowed_bytes
    found = watch(root, own).look(requested=requested, enough=enough).allowed_bytes
    assert found == (exact if enough is None else min(exact, enough))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("charged", "held", "counts"), [(0, 30, 0), (20, 30, 20), (60, 30, 30), (60, 0, 0)])
def test_of_a_drivers_memory_counts_what_the_group_has_charged(tmp_path, version, charged, held, counts):
    """Of 200 MiB charged, those that belong to no process and no file may be a driver's; more than it holds are not."""
    root = fake_root(tmp_path, version=version)
    stat = root / "sys/fs/cgroup" / ("app" if version == 2 else "memory/app") / "memory.stat"
    names, total = (("anon", "file"), "") if version == 2 else (("rss", "cache"), "total_")
    own = "" if version == 2 else f"rss {MIB}\ncache {MIB}\ninactive_file {MIB}\n"  # without children
    of_processes = {names[0]: 200 - charged - 70, names[1]: 70, "inactive_file": 50, "active_file": 0}
    stat.write_text(own + "".join(f"{total}{name} {mib * MIB}\n" for name, mib in of_processes.items()))
    looking = PressureWatch(
        reserve_bytes=0, own_bytes=lambda: 100 * MIB, driver_bytes=lambda: held * MIB, root=root
    )  # fmt: skip
    assert looking.look(requested=None).allowed_bytes == (512 - (200 - 50 - counts) + 100 - 16) * MIB


@pytest.mark.parametrize("version", [1, 2])
def test_every_look_sees_what_is_so_now(tmp_path, version):
    """Use, limit and cgroup change while files stay open."""
    root = fake_root(tmp_path, version=version)
    looking = watch(root)
    before = looking.look(requested=None).allowed_bytes
    name = root / "sys/fs/cgroup" / ("app" if version == 2 else "memory/app")
    used = name / ("memory.current" if version == 2 else "memory.usage_in_bytes")
    used.write_text(f"{260 * MIB}\n")
    assert looking.look(requested=None).allowed_bytes == before - 60 * MIB
    limit = name / ("memory.max" if version == 2 else "memory.limit_in_bytes")
    limit.write_text(f"{400 * MIB}\n")
    assert looking.look(requested=None).allowed_bytes == before - (60 + 112) * MIB
    group(root, version, "other")
    (root / "proc/self/cgroup").write_text("0::/other\n" if version == 2 else "5:memory:/other\n")
    assert looking.look(requested=None).allowed_bytes == before


def test_a_group_that_is_gone_limits_nothing(tmp_path):
    root = fake_root(tmp_path, version=2)
    for file in (root / "sys/fs/cgroup/app").iterdir():
        file.unlink()
    (root / "sys/fs/cgroup/app").rmdir()
    assert watch(root).look(requested=None).allowed_bytes == (4096 - 512 + 100) * MIB


def test_on_this_machine_it_agrees_with_what_a_plan_starts_from():
    looking = PressureWatch(reserve_bytes=0)
    found, limits = looking.look(requested=None).allowed_bytes, read_limits()
    looking.close()
    least = min(limits.available_bytes, limits.cgroup_free_bytes or limits.available_bytes)
    assert abs(found - least) < 0.5 * limits.total_bytes
    assert looking.look(requested=None, enough=MIB).allowed_bytes == MIB, "files are opened again"
    looking.close()


def test_anonymous_memory_is_the_same_by_both_files():
    held = bytearray(64 * MIB)
    held[::4096] = b"x" * len(held[::4096])
    by_pages = anonymous_pages_bytes(Path("/proc/self/statm").read_bytes())
    assert abs(by_pages - anonymous_bytes()) < 8 * MIB
    assert by_pages > len(held)
    assert anonymous_pages_bytes(b"") == 0


def test_kept_files_see_changes_and_are_closed(tmp_path):
    path, files = tmp_path / "a", KeptFiles()
    path.write_text("one")
    assert (files.read(path), read_file(path)) == (b"one", b"one")
    path.write_text("three")
    assert (files.read(path), read_file(path)) == (b"three", b"three")
    absent = tmp_path / "b"
    assert (files.read(absent), read_file(absent), read_file(tmp_path)) == (b"", b"", b"")
    absent.write_text("late")
    assert files.read(absent) == b"", "absent until it is closed"
    assert opened(tmp_path) == {"a"}
    files.close()
    files.close()
    assert not opened(tmp_path)
    assert files.read(absent) == b"late"
    files.close()
