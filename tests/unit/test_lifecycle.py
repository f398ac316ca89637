"""Signals and notices, with a fake service and a fake manager."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys

import pytest
from conftest import REPO
from patience import PATIENCE_S, until_async
from service_figures import service as made_up

from edge_runtime.base.errors import BudgetError
from edge_runtime.service.ops.health import Phase
from edge_runtime.service.ops.lifecycle import Lifecycle
from edge_runtime.service.ops.settings import Settings


class FakeService:
    def __init__(self):
        self.stats, self.readiness, self.heartbeat = made_up(phase=Phase.LOADING)
        self.readiness.set(Phase.LOADING, "verifying")
        self.changes, self.refuse = [], None

    def drain(self):
        self.readiness.set(Phase.DRAINING, "stopping")

    def reload(self, change, timeout_s=30.0):
        if self.refuse:
            raise self.refuse
        self.changes.append(change)

    def stats_report(self):
        return {}


@pytest.fixture
def manager(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "notify"))
        server.setblocking(False)
        yield server


def received(server):
    found = []
    while True:
        try:
            found.append(dict(line.split("=", 1) for line in server.recv(65536).decode().split("\n")))
        except BlockingIOError:
            return found


def lifecycle(fake, tmp_path, **env):
    path = tmp_path / "hobbit.env"
    path.touch()
    env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), **env}
    return Lifecycle(fake, env, Settings({}, path)), path


def test_ready_comes_with_the_phase_and_drain_with_sigterm(manager, tmp_path):
    fake = FakeService()

    async def live():
        life, _ = lifecycle(fake, tmp_path)
        life.start()
        assert received(manager) == [{"STATUS": "verifying"}]
        fake.readiness.set(Phase.READY)
        fake.readiness.set(Phase.READY)
        (ready,) = received(manager)
        assert ready["READY"] == "1"
        assert ready["STATUS"] == "ready: 2 running, 5 waiting, 90 tokens, policy hobbit"
        os.kill(os.getpid(), signal.SIGTERM)
        await until_async(lambda: fake.readiness.phase is Phase.DRAINING)
        assert received(manager)[0]["STOPPING"] == "1"
        await life.close()

    asyncio.run(live())


def test_a_service_that_was_ready_before_anybody_listened_is_reported(manager, tmp_path):
    fake = FakeService()
    fake.readiness.set(Phase.READY)

    async def live():
        life, _ = lifecycle(fake, tmp_path)
        life.start()
        assert [m.get("READY") for m in received(manager)] == ["1"]
        fake.readiness.set(Phase.FAILED, "no memory")
        assert received(manager) == [{"STATUS": "no memory"}]
        await life.close()

    asyncio.run(live())


def test_sighup_switches_the_policy_and_says_so(manager, tmp_path):
    fake = FakeService()

    async def live():
        life, path = lifecycle(fake, tmp_path)
        life.start()
        fake.readiness.set(Phase.READY)
        received(manager)
        path.write_text("HOBBIT_POLICY=hobbit\nHOBBIT_CONTEXT=99\n")
        os.kill(os.getpid(), signal.SIGHUP)
        messages = []

        def is_reported():
            messages.extend(received(manager))
            return len(messages) == 2

        await until_async(is_reported)
        begun, done = messages
        assert begun["RELOADING"] == "1"
        assert "MONOTONIC_USEC" in begun
        assert done == {"READY": "1", "STATUS": "reloaded: HOBBIT_POLICY=hobbit"}
        assert fake.changes[0].policy == "hobbit"
        await life.close()

    asyncio.run(live())


@pytest.mark.parametrize(("text", "error"), [("garbage", None), ("HOBBIT_MEMORY=1MiB", BudgetError("does not fit"))])
def test_a_refused_reload_leaves_everything_running(manager, tmp_path, caplog, text, error):
    fake = FakeService()
    fake.refuse = error

    async def live():
        life, path = lifecycle(fake, tmp_path)
        life.start()
        fake.readiness.set(Phase.READY)
        received(manager)
        path.write_text(text + "\n")
        await life.reload()
        _, done = received(manager)
        assert done["READY"] == "1"
        assert done["STATUS"].startswith("reload refused: ")
        assert "reload refused, settings stay as they were" in caplog.text
        assert fake.readiness.phase is Phase.READY
        fake.refuse = None
        path.write_text("HOBBIT_POLICY=hobbit\n")
        await life.reload()
        assert fake.changes[-1].policy == "hobbit", "a refused plan is not taken for granted"
        await life.close()

    asyncio.run(live())


def test_the_watchdog_needs_both_loops(manager, tmp_path):
    fake = FakeService()

    async def live():
        life, _ = lifecycle(fake, tmp_path, WATCHDOG_USEC="80000")
        life.start()
        await asyncio.sleep(0.2)
        assert not any("WATCHDOG" in m for m in received(manager)), "the HTTP loop alone must not feed it"

        def is_fed():
            fake.heartbeat.beat()
            return any("WATCHDOG" in m for m in received(manager))

        await until_async(is_fed, "both loops beat")
        await life.close()
        fake.heartbeat.beat()

    asyncio.run(live())


def test_a_second_sigterm_ends_the_process(tmp_path):
    code = """
import asyncio, os, signal, sys
sys.path.insert(0, "tests/unit"); sys.path.insert(0, "tests")
from test_lifecycle import FakeService, Phase, Lifecycle, Settings
async def live():
    fake = FakeService()
    life = Lifecycle(fake, {}, Settings({}))
    life.start()
    fake.readiness.set(Phase.READY)
    os.kill(os.getpid(), signal.SIGTERM)
    while fake.readiness.phase is not Phase.DRAINING:
        await asyncio.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(3600)
asyncio.run(live())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == -signal.SIGTERM, done.stderr
