"""The service under a real systemd: installed, started, watched, limited, reloaded, stopped."""

from __future__ import annotations

import json
import re
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from installed import ENV, installed
from machine import EMPTY, booted, hidden, missing
from streams import LONG, Stream

lacks = missing()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(lacks is not None, reason=f"no systemd can be booted here ({lacks}); units were NOT run"),
]


@pytest.fixture
def service(model_bundle):
    with installed(model_bundle) as found:
        yield found


def main_pid_line(service, name):
    pid = service.show("MainPID")
    lines = service.machine.shell(f"cat /proc/{pid}/status").splitlines()
    return next(line.split(":", 1)[1].split() for line in lines if line.startswith(name + ":"))


def test_start_is_ready_only_when_it_answers(service):
    service.systemctl("start")
    assert service.is_ready(), "systemctl start returned, so READY=1 was sent"
    assert service.show("ActiveState") == "active"
    assert service.show("Type") == "notify"
    assert service.show("StatusText").startswith("ready: 0 running, 0 waiting")
    answer = service.complete()
    assert answer["usage"]["completion_tokens"] == 8
    journal = service.machine.journal("hobbit")
    # journald takes the service's lines and systemd's from two sockets: which come first says nothing on a busy machine
    assert journal.index("bundle verified") < journal.index("warm after")
    assert "Started" in journal
    priorities = service.machine.shell("journalctl -u hobbit -o json | grep 'bundle verified'")
    assert json.loads(priorities.splitlines()[0])["PRIORITY"] == "6", "journald knows the level"
    service.systemctl("restart")
    assert "verified before" in service.machine.journal("hobbit"), "the state folder is remembered"


def test_who_it_is_and_what_it_may(service):
    service.systemctl("start")
    machine = service.machine
    assert main_pid_line(service, "Uid") == [machine.shell("id -u hobbit").strip()] * 4
    groups = machine.shell("getent group render video hobbit | cut -d: -f3").split()
    assert set(groups) <= set(main_pid_line(service, "Groups"))
    assert main_pid_line(service, "CapEff") == ["0" * 16]
    assert main_pid_line(service, "CapBnd") == ["0" * 16]
    assert main_pid_line(service, "NoNewPrivs") == ["1"]
    assert main_pid_line(service, "Seccomp") == ["2"]
    # as the process itself sees the file system
    see = f"nsenter -t {service.show('MainPID')} -m -- runuser -u hobbit --"
    assert "Read-only" in machine.shell(f"{see} touch /var/x 2>&1; {see} touch /etc/hobbit-edge/x 2>&1", check=False)
    machine.shell(f"{see} touch /var/lib/hobbit-edge/x /run/hobbit-edge/x /var/cache/hobbit-edge/x")


def test_only_the_gpus_device_nodes_can_be_opened(service):
    if "devices" not in service.machine.controllers:
        pytest.skip("no devices controller here; DeviceAllow= was NOT tried")
    assert "DeviceAllow=/dev/nvmap rw" in service.machine.shell(
        "cat /etc/systemd/system/hobbit.service.d/10-devices.conf"
    )
    service.systemctl("start")
    group = "/sys/fs/cgroup/devices/system.slice/hobbit.service"
    enter = f"echo $$ > {group}/cgroup.procs; "
    tried = {
        name: service.machine.run("bash", "-c", f"{enter} : <>/dev/{name}", check=False).returncode == 0
        for name in ("null", "urandom", "nvmap", "port", "tty")
    }
    assert tried == {"null": True, "urandom": True, "nvmap": True, "port": False, "tty": False}


def test_memory_max_is_read_back_by_the_planner(service):
    if "memory" not in service.machine.controllers:
        pytest.skip("no memory controller here; MemoryMax= was NOT enforced")
    service.settings(HOBBIT_MEMORY="auto")
    # the least that a service plans with is some 215 MiB: request bodies, and templates and grammars in confined processes
    service.drop_in("30-memory.conf", "MemoryMax=260M")
    service.systemctl("start")
    memory = service.get("/v1/stats")["memory"]
    assert 240 << 20 < memory["budget_bytes"] <= 260 << 20
    assert memory["planned_bytes"] <= memory["budget_bytes"]
    assert memory["peak_rss_bytes"] < 260 << 20
    service.complete(max_tokens=100)
    assert service.show("NRestarts") == "0"


def test_the_kernel_kills_it_and_systemd_brings_it_back(service):
    if "memory" not in service.machine.controllers:
        pytest.skip("no memory controller here; running out of memory was NOT tried")
    service.drop_in("30-memory.conf", "MemoryMax=300M")
    service.systemctl("start")
    assert main_pid_line(service, "Name") != []
    score = service.machine.shell(f"cat /proc/{service.show('MainPID')}/oom_score_adj")
    assert score.strip() == "200"
    # many small processes in the same group take the rest: of them all the service is the kernel's first choice
    group = "/sys/fs/cgroup/memory/system.slice/hobbit.service"
    hog = f"({sys.executable} -c 'import time; x = bytearray(40 << 20); time.sleep(3)' &)"
    service.machine.shell(f"echo $$ > {group}/cgroup.procs; for i in 1 2 3 4 5 6 7; do {hog}; done", check=False)
    service.machine.until(lambda: service.show("NRestarts") != "0", "a restart after the kernel's kill")
    service.machine.until(service.is_ready, "ready again")
    assert "status=9/KILL" in service.machine.journal("hobbit")


def test_a_hung_serving_loop_is_killed_though_http_still_answers(service):
    if "freezer" not in service.machine.controllers:
        pytest.skip("no v1 freezer here to hang one thread with; the watchdog was NOT tried")
    service.drop_in("30-watchdog.conf", "WatchdogSec=3", "TimeoutAbortSec=2")
    service.systemctl("start")
    pid = service.show("MainPID")

    def ticks() -> dict[str, int]:
        read = f"for t in /proc/{pid}/task/*; do awk '{{print $1, $14 + $15}}' $t/stat || true; done"
        return {thread: int(spent) for thread, spent in map(str.split, service.machine.shell(read).splitlines())}

    before = ticks()  # starting took the HTTP thread longer than a short answer takes the serving loop
    Stream(service).tokens_until_the_end()
    spent = {thread: count - before.get(thread, 0) for thread, count in ticks().items()}
    thread = max(spent, key=spent.__getitem__)
    assert thread != pid, "the serving loop is not the HTTP loop"
    freezer = "/sys/fs/cgroup/freezer/hang"
    service.machine.shell(f"mkdir {freezer}; echo {thread} > {freezer}/tasks; echo FROZEN > {freezer}/freezer.state")
    assert service.get("/health", timeout_s=5) == {"status": "ok"}, "HTTP lives"
    service.machine.until(lambda: "Watchdog timeout" in service.machine.journal("hobbit"), "the watchdog", 20)
    # version 1 of the freezer holds even SIGKILL back
    service.machine.shell(f"echo THAWED > {freezer}/freezer.state")
    service.machine.until(lambda: service.show("NRestarts") == "1", "a restart")
    service.machine.until(service.is_ready, "ready again")
    assert service.complete()["usage"]["completion_tokens"] == 8


def test_an_idle_service_feeds_the_watchdog(service):
    service.drop_in("30-watchdog.conf", "WatchdogSec=1")
    service.systemctl("start")
    threading.Event().wait(4)
    assert service.show("NRestarts") == "0"
    assert service.is_ready()


def test_reload_switches_settings_while_a_request_runs(service):
    service.systemctl("start")
    before = service.get("/v1/stats")["memory"]["budget_bytes"]
    stream = Stream(service)
    service.settings(HOBBIT_MEMORY="256MiB", HOBBIT_CONTEXT=256)
    service.systemctl("reload")
    service.machine.until(lambda: "reloaded: HOBBIT_MEMORY=256MiB" in service.machine.journal("hobbit"), "the reload")
    assert service.get("/v1/stats")["memory"]["budget_bytes"] == 256 << 20 < before
    assert stream.tokens_until_the_end() >= LONG
    assert "HOBBIT_CONTEXT takes effect with the next start" in service.machine.journal("hobbit")
    service.settings(HOBBIT_MEMORY="20MiB")
    service.systemctl("reload")
    service.machine.until(lambda: "reload refused" in service.machine.journal("hobbit"), "the refusal")
    assert service.get("/v1/stats")["memory"]["budget_bytes"] == 256 << 20
    assert (service.show("ActiveState"), service.show("NRestarts")) == ("active", "0")


def test_stop_finishes_the_request_in_flight(service):
    service.systemctl("start")
    stream = Stream(service)
    service.systemctl("stop")
    assert stream.tokens_until_the_end() >= LONG
    assert (service.show("Result"), service.show("ActiveState")) == ("success", "inactive")
    assert "finishing the requests under way" in service.machine.journal("hobbit")


def test_kill_9_in_a_request_is_an_error_for_the_client_and_a_restart(service):
    service.systemctl("start")
    stream = Stream(service)
    service.systemctl("kill", "--signal=KILL")
    stream.join(30)
    assert stream.events[-1:] != [b"[DONE]"]
    service.machine.until(lambda: service.show("NRestarts") == "1", "a restart")
    service.machine.until(service.is_ready, "ready again")
    assert service.complete()["usage"]["completion_tokens"] == 8


def test_a_wrong_setting_is_told_once_not_tried_forever(service):
    service.settings(HOBBIT_MEMORY="20MiB")
    service.systemctl("start", check=False)
    assert service.show("ActiveState") == "failed"
    assert (service.show("ExecMainStatus"), service.show("NRestarts")) == ("78", "0")
    assert "BudgetError" in service.machine.journal("hobbit")
    service.settings(HOBBIT_MEMROY="1GiB")
    service.systemctl("start", check=False)
    assert "Did you mean 'HOBBIT_MEMORY'" in service.machine.journal("hobbit")
    service.settings()
    service.systemctl("start")
    assert service.is_ready()


def test_systemd_listens_and_the_first_connection_starts_it(service):
    listen = ("ListenStream=", f"ListenStream=127.0.0.1:{service.port}")
    service.drop_in("10-port.conf", *listen, section="Socket", unit="hobbit.socket")
    service.machine.run("systemctl", "start", "hobbit.socket")
    assert service.show("ActiveState") == "inactive"
    # the connection waits in systemd's queue; while loading the service itself answers 503
    with pytest.raises(OSError, match="503"):
        service.complete()
    service.machine.until(service.is_ready, "ready")
    assert service.complete()["usage"]["completion_tokens"] == 8
    assert "socket (" in service.machine.journal("hobbit") or "hobbit" in service.machine.journal("hobbit")
    service.systemctl("restart")
    assert service.complete()["usage"]["completion_tokens"] == 8


def test_logs_as_json_and_ready_only_once_warm(service):
    service.settings(HOBBIT_LOG_FORMAT="json")
    service.systemctl("start")
    lines = [json.loads(line) for line in service.machine.journal("hobbit").splitlines() if line.startswith("{")]
    assert any(line["message"].startswith("bundle verified") for line in lines)
    (warm,) = [line["time"] for line in lines if line["message"].startswith("warm after")]
    ready = service.machine.run(
        "systemctl", "show", "--timestamp=us+utc", "--property=ActiveEnterTimestamp", "--value", "hobbit"
    )
    (clock,) = re.findall(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}", ready.stdout)
    # by the clock of each, which is the machine's
    assert warm.removesuffix("Z") < clock.replace(" ", "T")


def test_install_twice_upgrade_and_uninstall(model_bundle):
    with installed(model_bundle) as service:
        assert "keeping the settings" in service.install("--no-start")
        service.settings(HOBBIT_MEMORY="400MiB")
        said = service.install()
        assert "done. Next" in said
        assert 'HOBBIT_MEMORY="512MiB"' in service.machine.shell(f"cat {ENV}"), "--memory of this run"
        assert f"HOBBIT_PORT={service.port}" in service.machine.shell(f"cat {ENV}"), "the rest is kept"
        assert service.is_ready()
        uninstall = str(Path(__file__).parents[2] / "deploy/uninstall.sh")
        assert "kept: /etc/hobbit-edge" in service.machine.run(uninstall).stdout
        assert "kept" in service.machine.run(uninstall).stdout
        leftovers = (
            "ls -d /opt/hobbit-edge /etc/systemd/system/hobbit* /usr/local/bin/hobbit* /usr/lib/*/hobbit* 2>/dev/null"
        )
        # its owner's drop-ins are settings; that with the machine's devices is the installer's
        assert service.machine.shell(leftovers, check=False) == "/etc/systemd/system/hobbit.service.d\n"
        assert service.machine.shell("ls /etc/systemd/system/hobbit.service.d") == "20-test.conf\n"
        assert service.machine.shell(f"cat {ENV}") != ""
        service.machine.run(uninstall, "--purge")
        assert service.machine.shell(leftovers, check=False) == ""
        assert service.machine.shell("ls -d /etc/hobbit-edge /var/lib/hobbit-edge 2>/dev/null", check=False) == ""
        assert service.machine.shell("getent passwd hobbit; getent group hobbit", check=False) == ""


def test_a_machine_does_not_see_what_lies_in_this_machines_tmp(tmp_path):
    with ExitStack() as stack:
        for folder in EMPTY:
            stack.enter_context(tempfile.NamedTemporaryFile(dir=folder, prefix="hobbit-not-seen-"))
        machine = stack.enter_context(booted(shown=[tmp_path]))
        seen = machine.shell("ls -A /tmp /var/tmp")
        assert "hobbit-not-seen-" not in seen
        assert "pytest-of" in seen or not hidden([tmp_path]), "what is shown is seen"
        assert machine.shell("stat -c %a /tmp /var/tmp").split() == ["1777", "1777"]


HIDDEN = [
    ("/tmp/env", "PrivateTmp"),
    ("/var/tmp/env", "PrivateTmp"),
    ("/home/me/env", "ProtectHome"),
    ("/root/env", "ProtectHome"),
]


def test_an_environment_the_service_cannot_see_is_refused_with_the_reason():
    install = str(Path(__file__).parents[2] / "deploy/install.sh")
    with booted() as machine:
        for place, setting in HIDDEN:
            machine.shell(
                f"mkdir -p {place}/bin; ln -s /bin/true {place}/bin/hobbit; ln -s /usr/bin/env {place}/bin/python"
            )
            done = machine.run(install, "--venv", place, check=False)
            assert done.returncode == 78, (place, done.stderr)
            assert f"--venv: {place} cannot be seen by the service, whose unit has {setting}=" in done.stderr
            assert (
                machine.shell("ls /etc/systemd/system/hobbit.service /opt/hobbit-edge 2>/dev/null", check=False) == ""
            )
        machine.shell("mkdir -p /srv/env/bin /root/python; cp /bin/true /root/python/python3")
        machine.shell("ln -s /root/python/python3 /srv/env/bin/python; ln -s /bin/true /srv/env/bin/hobbit")
        done = machine.run(install, "--venv", "/srv/env", check=False)
        assert done.returncode == 78
        assert "--venv: its Python: /root/python/python3 cannot be seen" in done.stderr


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (("--frob",), 2, "unknown option '--frob'"),
        (("--memory",), 2, "--memory: expected a value"),
        (("--bundle", "/nowhere"), 78, "/nowhere has no manifest.json"),
        (("--python", "python9"), 1, "python9: not found"),
        (("--venv", "/usr"), 1, "/usr/bin/hobbit is not there"),
    ],
)
def test_the_installer_says_what_is_wrong_and_changes_nothing(flags, code, says):
    with booted() as machine:
        done = machine.run(str(Path(__file__).parents[2] / "deploy/install.sh"), *flags, check=False)
        assert done.returncode == code
        assert says in done.stderr
        assert machine.shell("ls /etc/systemd/system/hobbit.service /opt/hobbit-edge 2>/dev/null", check=False) == ""
