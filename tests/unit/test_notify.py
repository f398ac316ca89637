"""sd_notify against a fake manager: a datagram socket on a path or in the abstract namespace."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import uuid

import pytest
from patience import PATIENCE_S

from edge_runtime.base.errors import ConfigError
from edge_runtime.service.ops.health import Heartbeat
from edge_runtime.service.ops.notify import LoopWatchdog, Notifier, inherited_sockets, watchdog_interval_s


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        name = f"@hobbit-{uuid.uuid4()}" if request.param == "abstract" else str(tmp_path / "notify")
        server.bind("\0" + name[1:] if name[0] == "@" else name)
        server.setblocking(False)
        yield name, server


def messages(server):
    found = []
    while True:
        try:
            found.append(dict(line.split("=", 1) for line in server.recv(65536).decode().split("\n")))
        except BlockingIOError:
            return found


def test_a_life_as_the_manager_sees_it(manager):
    name, server = manager
    env = {"NOTIFY_SOCKET": name, "HOME": "/"}
    notifier = Notifier.from_environment(env)
    assert env == {"HOME": "/"}, "children must not inherit the address"
    assert notifier.is_connected
    notifier.status("loading\nthe model")
    notifier.ready("serving")
    notifier.watchdog()
    notifier.reloading("new policy")
    notifier.extend_timeout(2.5)
    notifier.stopping("draining")
    notifier.failed("no memory", 12)
    seen = messages(server)
    reload = seen.pop(3)
    assert reload["RELOADING"] == "1"
    assert int(reload["MONOTONIC_USEC"]) > 0
    assert seen == [
        {"STATUS": "loading the model"},
        {"READY": "1", "STATUS": "serving"},
        {"WATCHDOG": "1"},
        {"EXTEND_TIMEOUT_USEC": "2500000"},
        {"STOPPING": "1", "STATUS": "draining"},
        {"STATUS": "no memory", "ERRNO": "12"},
    ]
    notifier.close()
    notifier.close()
    notifier.ready("nobody hears this")
    assert messages(server) == []


def test_no_manager_no_effect():
    notifier = Notifier.from_environment({})
    assert not notifier.is_connected
    notifier.ready("x")
    notifier.close()


def test_a_manager_that_does_not_read_never_blocks_the_loop(manager, caplog):
    notifier = Notifier(manager[0])
    for _ in range(5000):
        notifier.watchdog()
    assert "not sent" in caplog.text
    notifier.close()


def test_a_manager_that_is_gone_is_a_warning(tmp_path, caplog):
    notifier = Notifier(str(tmp_path / "nothing"))
    notifier.ready("x")
    assert "sd_notify: READY/STATUS not sent" in caplog.text
    notifier.close()


def test_a_relative_address_is_refused():
    with pytest.raises(ConfigError, match=r"NOTIFY_SOCKET.*'relative'"):
        Notifier("relative")


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
    ],
)
def test_watchdog_interval(env, expected):
    assert watchdog_interval_s(env) == expected
    assert env == {}


@pytest.mark.parametrize("bad", ["0", "-5", "soon"])
def test_watchdog_interval_refuses(bad):
    with pytest.raises(ConfigError, match="WATCHDOG_USEC"):
        watchdog_interval_s({"WATCHDOG_USEC": bad})


def test_the_watchdog_is_fed_by_the_heartbeat_four_times_an_interval_at_most(manager):
    name, server = manager
    now = 100.0
    notifier = Notifier(name)
    watchdog = LoopWatchdog(notifier, 4.0, clock=lambda: now)
    assert watchdog.pause_s == 1.0
    heart = Heartbeat()
    watchdog.attach(heart)
    for _ in range(100):  # 10 s at a token every 0.1 s
        heart.beat()
        now += 0.1
    assert len(messages(server)) in (9, 10)
    now += 60  # the loop hangs: nobody else feeds
    assert messages(server) == []
    notifier.close()


def test_every_loop_must_be_alive(manager):
    name, server = manager
    now = 0.0
    notifier = Notifier(name)
    watchdog = LoopWatchdog(notifier, 4.0, ("serving", "http"), clock=lambda: now)
    for _ in range(20):
        now += 1.0
        watchdog.beat("serving")
    assert messages(server) == []
    watchdog.beat("http")
    assert messages(server) == [{"WATCHDOG": "1"}]
    notifier.close()


def test_without_a_watchdog_a_beat_does_nothing(manager):
    name, server = manager
    notifier = Notifier(name)
    watchdog = LoopWatchdog(notifier, None)
    watchdog.beat()
    assert watchdog.pause_s is None
    assert messages(server) == []
    notifier.close()


CHILD = """
import os, sys
os.environ["LISTEN_PID"] = os.environ.get("LISTEN_PID", str(os.getpid()))
from edge_runtime.base.errors import ConfigError
from edge_runtime.service.ops.notify import inherited_sockets
try:
    found = inherited_sockets(os.environ)
except ConfigError as err:
    sys.exit(f"ConfigError: {err}")
for s in found:
    print(s.getsockname(), os.get_inheritable(s.fileno()), "LISTEN_FDS" in os.environ)
    if len(sys.argv) > 1:
        s.setblocking(True)
        connection, _ = s.accept()
        connection.sendall(b"hello")
        connection.close()
"""


def run_with_fd3(sock, *args, **env):
    """Run CHILD with `sock` as descriptor 3, as the manager does."""
    command = ["bash", "-c", f'exec "$0" "$@" 3<&{sock.fileno()}', sys.executable, "-c", CHILD, *args]
    return subprocess.Popen(
        command,
        env={**os.environ, "LISTEN_FDS": "1", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=[sock.fileno()],
    )


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_socket_opened_by_the_manager_is_served(kind, tmp_path):
    family = socket.AF_INET if kind == "tcp" else socket.AF_UNIX
    with socket.socket(family, socket.SOCK_STREAM) as server:
        server.bind(("127.0.0.1", 0) if kind == "tcp" else str(tmp_path / "s"))
        server.listen()
        child = run_with_fd3(server, "serve")
        with socket.socket(family, socket.SOCK_STREAM) as client:
            client.settimeout(PATIENCE_S)
            client.connect(server.getsockname())
            assert client.recv(5) == b"hello"
        out, err = child.communicate(timeout=PATIENCE_S)
    assert "False False" in out, err


def test_a_socket_meant_for_another_process_is_left_alone(tmp_path):
    with socket.socket() as server:
        server.listen()
        out, err = run_with_fd3(server, LISTEN_PID="1").communicate(timeout=PATIENCE_S)
    assert (out, err) == ("", "")


def test_a_datagram_socket_is_refused_by_name():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        _, err = run_with_fd3(server, LISTEN_FDNAMES="hobbit.socket").communicate(timeout=PATIENCE_S)
    assert "ConfigError: socket activation: hobbit.socket: expected a listening stream socket" in err


def test_a_plain_file_is_refused(tmp_path):
    with open(tmp_path / "file", "w") as file:
        _, err = run_with_fd3(file).communicate(timeout=PATIENCE_S)
    assert "expected a socket, got something else" in err


def test_no_sockets_without_activation():
    assert inherited_sockets({}) == []
