"""docs/operations.md, "Ten things that go wrong": made to happen on a real systemd, each looks as its row says.

Row 5, running out of memory, is in test_real_systemd.py. Row 10 needs a board's GPU: here it is only seen that what the row
advises puts things right.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from conftest import REPO

sys.path.insert(0, str(Path(__file__).parent))

from installed import installed
from machine import missing
from streams import Stream

SECTION = (REPO / "docs/operations.md").read_text().partition("## Ten things that go wrong")[2]
ROWS = {int(row[0]): row[1:] for row in re.findall(r"^\| (\d+) \| (.*?) \| (.*) \|$", SECTION, re.MULTILINE)}
"""Number to what it looks like, and why."""
SHOWN_ELSEWHERE = {5: "test_the_kernel_kills_it_and_systemd_brings_it_back"}
READ_US = 50_000
SLOW = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/uio.h>
#include <unistd.h>
ssize_t preadv(int file, const struct iovec *parts, int count, off_t from) {
  ssize_t (*of_libc)(int, const struct iovec *, int, off_t) = dlsym(RTLD_NEXT, "preadv");
  usleep(%d);
  return of_libc(file, parts, count, from);
}
ssize_t preadv64(int file, const struct iovec *parts, int count, off_t from) { return preadv(file, parts, count, from); }
"""
"""A drive each of whose reads takes that long; reads then have to be made with threads."""


def words(row: int) -> list[str]:
    """What a row quotes of what one sees."""
    return re.findall(r"`([^`]+)`", ROWS[row][0])


@pytest.fixture
def service(model_bundle):
    if lacks := missing():
        pytest.skip(f"no systemd can be booted here ({lacks}); the ten things were NOT made to happen")
    with installed(model_bundle) as found:
        yield found


def status(service) -> str:
    """What the person on call looks at first."""
    commands = re.findall(r"^\$ (systemctl|journalctl)( .*)$", SECTION, re.MULTILINE)
    return "".join(service.machine.shell(f"{name}{rest} --no-pager || true") for name, rest in commands)


def fails(service, row: int, *expected: str, **settings: object) -> None:
    """Start it with settings that it refuses; the row's words are what is seen, all of them unless some are named."""
    service.settings(**settings)
    service.systemctl("start", check=False)
    said = status(service)
    assert set(expected) <= set(words(row))
    for each in expected or words(row):
        assert each in said, (row, each, said[-3000:])
    assert service.show("NRestarts") == "0"
    service.systemctl("reset-failed", check=False)


def test_there_are_ten():
    assert sorted(ROWS) == list(range(1, 11))
    tests = (REPO / "tests/systemd/test_real_systemd.py").read_text()
    _, _, test = tests.partition(f"def {SHOWN_ELSEWHERE[5]}(")
    assert f'"{words(5)[0]}" in service.machine.journal("hobbit")' in test.partition("\ndef ")[0]
    shown = re.findall(r"(?:words|fails)\((?:service, )?(\d+)|ROWS\[(\d+)\]", Path(__file__).read_text())
    assert {int(number) for pair in shown for number in pair if number} | SHOWN_ELSEWHERE.keys() == set(range(1, 11))


def refusal(service):
    """The status, code and Retry-After of a request that is refused; None if it is answered, or nothing listens."""
    try:
        service.get("/v1/completions", service.body("def", 1))
    except urllib.error.HTTPError as err:
        return err.code, json.load(err)["error"]["code"], int(err.headers["Retry-After"])
    except OSError:
        return None
    return None


@pytest.mark.slow
def test_clients_are_refused_as_the_page_says(service):
    """Row 6: a request runs and none may wait; then the service drains behind it; then it loads."""
    assert re.findall(r"\d{3}|Retry-After", ROWS[6][0]) == ["429", "503", "Retry-After"]
    assert re.findall(r"`([^`]+)`", ROWS[6][1]) == ["HOBBIT_MAX_WAITING"]
    service.settings(HOBBIT_MAX_WAITING=0, HOBBIT_PARALLEL=1)
    service.systemctl("start")
    stream = Stream(service)
    (status, code, retry_after_s) = refusal(service)
    assert (status, code) == (429, "queue_full")
    assert retry_after_s >= 1
    figures = service.open("/metrics").read().decode()
    assert re.search(r'^hobbit_requests_rejected_total\{.*reason="queue_full".*\} 1', figures, re.MULTILINE)

    service.machine.run("systemctl", "stop", "--no-block", "hobbit")
    service.machine.until(lambda: "finishing" in service.machine.journal("hobbit"), "draining")
    assert refusal(service) == (503, "draining", 5)
    assert stream.tokens_until_the_end() > 0

    service.machine.until(lambda: service.show("ActiveState") == "inactive", "stopped")
    service.machine.run("systemctl", "start", "--no-block", "hobbit")
    seen = []

    def asked():
        seen.append(refusal(service))
        return service.is_ready()

    service.machine.until(asked, "ready")
    assert (503, "loading", 5) in seen, seen
    assert refusal(service) is None, "it answers again, and has room"


@pytest.mark.slow
def test_they_look_as_the_page_says(service):
    machine = service.machine
    fails(service, 2, HOBBIT_POLICY="nonsense")
    fails(service, 3, HOBBIT_MEMORY="20MiB")

    # the unit hides /home from the service by the same means as here (ProtectHome=yes); /root stays visible for this test
    (denied, nothing) = words(9)
    hidden = {"/home/b": ("InaccessiblePaths=/home", denied), "/tmp/b": ("PrivateTmp=yes", nothing)}
    for place, (hides, looks) in hidden.items():
        machine.shell(f"cp -r /var/lib/hobbit-edge/bundle {place}; chmod -R go+rX {place}")
        service.drop_in("40-hidden.conf", hides)
        fails(service, 9, looks, HOBBIT_BUNDLE=place)
        machine.shell("rm /etc/systemd/system/hobbit.service.d/40-hidden.conf; systemctl daemon-reload")
    machine.shell("chmod 700 /home/b; chown root:root /home/b")
    fails(service, 9, denied, HOBBIT_BUNDLE="/home/b")
    assert machine.run("runuser", "-u", "hobbit", "--", "ls", "/home/b", check=False).returncode != 0

    service.settings()
    service.systemctl("start")
    (what,) = [each for each in words(7) if "_" in each]
    request = urllib.request.Request(f"http://127.0.0.1:{service.port}/v1/models", headers={"Host": "proxy.example"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    assert refused.value.code == 403
    assert json.load(refused.value)["error"]["code"] == what


@pytest.mark.slow
def test_a_service_that_stands_still_is_killed_and_started_again(service):
    """Row 4: the whole process stands still, as one does whose drive never answers."""
    service.drop_in("30-watchdog.conf", "WatchdogSec=3", "TimeoutAbortSec=2")
    service.systemctl("start")
    service.systemctl("kill", "--signal=STOP")
    service.machine.until(lambda: service.show("NRestarts") == "1", "a restart")
    service.machine.until(service.is_ready, "ready again")
    (what,) = words(4)
    assert what in service.machine.journal("hobbit")


def stalled_s(service) -> float:
    """How long tokens have waited for reads."""
    figures = service.open("/metrics").read().decode()
    return float(re.findall(r"^hobbit_expert_stall_seconds_total(?:\{.*\})? (\S+)$", figures, re.MULTILINE)[0])


@pytest.mark.slow
def test_a_slow_drive_shows_in_the_figures(service):
    """Row 8: each read takes long, and the figures that the row names say so, beside those of the same requests before."""
    (field, place), most = words(8), "hobbit_expert_stall_seconds_total"
    assert "stall seconds" in ROWS[8][0]
    assert most in (REPO / "docs/operations.md").read_text()
    if shutil.which("cc") is None:
        pytest.skip("no C compiler; no drive was made slow")
    service.settings(HOBBIT_EXPERT_MEMORY="8MiB", HOBBIT_PREFETCH="off")
    rates = []
    for slow in (False, True):
        if slow:
            service.machine.shell(f"cc -shared -fPIC -x c -o /srv/slow.so - -ldl <<'END'\n{SLOW % READ_US}\nEND")
            filtered = "SystemCallFilter=~io_uring_setup io_uring_enter io_uring_register"
            service.drop_in("30-slow.conf", "Environment=LD_PRELOAD=/srv/slow.so", filtered)
        service.systemctl("restart")
        stalled, began = stalled_s(service), time.monotonic()
        service.complete("import os", 16)
        took = time.monotonic() - began
        experts = service.get(place)["experts"]
        rates.append(experts[field])
        if slow:
            assert stalled_s(service) - stalled > took / 2, "most of the time is waiting"
            reads = experts["lookups"] - experts["hits"]
            # at most eight reads at once, of at most a MiB
            assert experts[field] <= 8 * (1 << 20) / (READ_US * 1000), reads
    assert rates[1] < rates[0] / 2


@pytest.mark.slow
def test_what_the_page_advises_lets_it_at_a_gpu_again(service):
    """Row 10: the user's groups, the nodes in the drop-in, and the installer that writes both."""
    machine = service.machine
    groups, file = re.findall(r"`(video|render)`", ROWS[10][1]), "10-devices.conf"
    assert groups == ["video", "render"]
    assert f"`{file}`" in ROWS[10][1]
    assert "`deploy/install.sh`" in ROWS[10][1]
    # as an upgrade of JetPack brings another node, and an administrator loses groups
    machine.shell("mknod -m 666 /dev/nvidia-another c 1 11; gpasswd -d hobbit video; gpasswd -d hobbit render")
    assert "/dev/nvidia-another rw" not in service.show("DeviceAllow")
    service.install("--no-start")
    assert "DeviceAllow=/dev/nvidia-another rw" in machine.shell(f"cat /etc/systemd/system/hobbit.service.d/{file}")
    assert "/dev/nvidia-another rw" in service.show("DeviceAllow")
    assert {*groups} <= {*machine.shell("id -nG hobbit").split()}


@pytest.mark.slow
def test_a_start_that_verifies_says_so(service):
    """The unit's status is looked at while it starts: a bundle on a drive read slowly takes a while."""
    service.settings()
    service.machine.shell("systemctl start --no-block hobbit")
    seen = set()

    def looked() -> bool:
        seen.add(service.show("StatusText"))
        return service.is_ready()

    service.machine.until(looked, "ready")
    (command, what) = words(1)
    assert command == "systemctl start"
    assert any(what in each for each in seen) or what in service.machine.journal("hobbit"), seen
