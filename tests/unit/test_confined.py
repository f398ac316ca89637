"""Untrusted work ends by the kernel's hand, in time and in memory, and leaves the host usable."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from patience import until

from edge_runtime.base.confined import ConfinedHost, JobRefusedError, Limits, reserved_bytes
from edge_runtime.base.sizes import MIB

JOBS = [
    f"confined_jobs:{name}"
    for name in ("echo", "spin", "grow", "fail", "exit_now", "long_answer", "write_file", "remember")
]


@pytest.fixture(scope="module")
def host():
    made = ConfinedHost(dict.fromkeys(JOBS, Limits(cpu_s=1, at_once=2)))
    yield made
    made.close()


@pytest.fixture(autouse=True, scope="module")
def _path():
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    yield
    os.environ.pop("PYTHONPATH") if before is None else os.environ.__setitem__("PYTHONPATH", before)


def test_returns_what_the_job_returns(host):
    value = {"text": "é\ud800", "list": [1, 2.5, None, True]}
    assert host.run("confined_jobs:echo", value) == value


@pytest.mark.parametrize("job", ["spin", "grow", "exit_now", "long_answer"])
def test_a_job_without_end_is_ended_and_the_next_one_runs(host, job):
    with pytest.raises(JobRefusedError, match="takes more than"):
        host.run(f"confined_jobs:{job}", None)
    assert host.run("confined_jobs:echo", 1) == 1


def test_what_a_job_raises_comes_back_as_a_message(host):
    with pytest.raises(JobRefusedError, match="no such thing"):
        host.run("confined_jobs:fail", "no such thing")


def test_a_job_leaves_nothing_behind(host, tmp_path):
    assert [host.run("confined_jobs:remember", None) for _ in range(2)] == [1, 1]
    with pytest.raises(JobRefusedError):
        host.run("confined_jobs:write_file", str(tmp_path / "file"))


def test_jobs_run_side_by_side(host):
    found: list[object] = []

    def spin() -> None:
        with pytest.raises(JobRefusedError):
            host.run("confined_jobs:spin", None)
        found.append("spun")

    threads = [threading.Thread(target=spin) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert host.run("confined_jobs:echo", 5) == 5
    assert found == []  # a short job does not wait for long ones
    for thread in threads:
        thread.join()
    assert found == ["spun", "spun"]


def test_a_host_that_was_killed_is_started_again():
    host = ConfinedHost(dict.fromkeys(JOBS, Limits()))
    try:
        assert host.run("confined_jobs:echo", 1) == 1
        hosts = [p for p in psutil.Process().children() if "edge_runtime.base.confined_host" in p.cmdline()]
        assert hosts
        for process in hosts:  # other tests' too: theirs starts again as well
            process.kill()
            process.wait()
        assert host.run("confined_jobs:echo", 2) == 2
    finally:
        host.close()
    with pytest.raises(JobRefusedError, match="shutting down"):
        host.run("confined_jobs:echo", 3)


def test_nothing_outlives_a_process_that_is_killed(tmp_path):
    code = (
        "import threading, time\n"
        "from edge_runtime.base.confined import ConfinedHost, Limits\n"
        f"host = ConfinedHost(dict.fromkeys({JOBS!r}, Limits(cpu_s=60)))\n"
        "host.run('confined_jobs:echo', 1)\n"
        "threading.Thread(target=lambda: host.run('confined_jobs:spin', None), daemon=True).start()\n"
        "print('ready', flush=True); time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"ready\n"

    def host_and_job() -> list[psutil.Process]:
        found = psutil.Process(parent.pid).children(recursive=True)
        return found if len(found) == 2 else []

    children = until(host_and_job, "the host and its job run")
    parent.kill()
    parent.communicate()

    def are_gone() -> bool:
        return not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)

    until(are_gone, "host and job are gone")


def num_jobs() -> int:
    """Forks of hosts of this process that run now."""
    found = 0
    for host in psutil.Process().children():
        try:
            found += sum(job.status() != psutil.STATUS_ZOMBIE for job in host.children())
        except psutil.NoSuchProcess:
            continue
    return found


def test_jobs_beyond_their_number_wait():
    host = ConfinedHost(dict.fromkeys(JOBS, Limits(cpu_s=1)))
    before, refused, most = num_jobs(), [], 0

    def spin() -> None:
        with pytest.raises(JobRefusedError):
            host.run("confined_jobs:spin", None)
        refused.append(1)

    threads = [threading.Thread(target=spin) for _ in range(3)]
    for thread in threads:
        thread.start()
    while len(refused) < 3:
        most = max(most, num_jobs() - before)
        time.sleep(0.01)
    for thread in threads:
        thread.join()
    host.close()
    assert 1 <= most <= 2  # one that spins; one that was given up may not be gone yet


def test_what_hosts_may_take_is_counted():
    before = reserved_bytes()
    host = ConfinedHost({JOBS[0]: Limits(memory_bytes=10 * MIB, at_once=2)})
    assert reserved_bytes() - before >= 20 * MIB
    host.run(JOBS[0], None)
    assert reserved_bytes() - before > 25 * MIB  # the interpreter itself
    host.close()
    del host
    assert reserved_bytes() <= before
