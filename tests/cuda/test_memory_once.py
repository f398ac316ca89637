"""Memory of the GPU counts once: what there is does not change with what an engine holds, in a reload and elastic.

A made-up board: its MemAvailable falls by what the process holds and by what the fake driver holds for it, and the
latter is no page of the process.
"""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cuda.engines import ALL, FEW, TIER, make_all_resident, opened

from edge_runtime import Engine
from edge_runtime.backends.cuda.driver import Device, DeviceMemory, PinnedMemory, RegisteredMemory
from edge_runtime.backends.cuda.driver import device as device_module
from edge_runtime.backends.cuda.driver.taken import Taken
from edge_runtime.base.huge_pages import huge_memory
from edge_runtime.bundle.manifest_file import read
from edge_runtime.config import limits, pressure
from edge_runtime.engine import replanning
from edge_runtime.engine.elastic import follower
from edge_runtime.telemetry.process import anonymous_pages_bytes

MIB, PAGE = 1 << 20, 4096
ANONYMOUS, OTHERS, RESERVE, KERNEL = 100 * MIB, 700 * MIB, 64 * MIB, 3 * MIB
GROUPS = ["none", "charged", "not charged"]
"""Whether the process is in a cgroup with a limit, and whether that counts the driver's memory."""


class Board:
    """Files of a made-up machine, written anew before each look."""

    def __init__(self, root: Path, held: Callable[[], int], group: str) -> None:
        self.root, self.held, self.group, self.memory = root, held, group, 4096 * MIB
        for folder in ("proc/self", "sys/fs/cgroup/app"):
            (root / folder).mkdir(parents=True)
        (root / "proc/self/cgroup").write_text("" if group == "none" else "0::/app\n")

    def look(self) -> Path:
        """Write them, and return where they are."""
        held = self.held()
        has_room = self.group != "none"
        total, left = (2**40, 2**40) if has_room else (self.memory, self.memory - OTHERS - ANONYMOUS - held)
        self._write("proc/meminfo", f"MemTotal: {total >> 10:12} kB\nMemAvailable: {left >> 10:12} kB\n")
        if has_room:
            charged = ANONYMOUS + OTHERS + KERNEL + (held if self.group == "charged" else 0)
            self._write("sys/fs/cgroup/app/memory.max", f"{self.memory:12}\n")
            self._write("sys/fs/cgroup/app/memory.current", f"{charged:12}\n")
            self._write("sys/fs/cgroup/app/memory.stat", f"anon {ANONYMOUS + OTHERS}\nfile 0\n")
        return self.root

    def _write(self, name: str, text: str) -> None:
        """At once, into the file there is: the engine's own thread reads too, and keeps files open."""
        fd = os.open(self.root / name, os.O_WRONLY | os.O_CREAT, 0o600)
        os.write(fd, text.encode())
        os.close(fd)

    def said(self, engine: Engine) -> tuple[int, int, int]:
        """What plans may take: one made anew, one of a reload, and what elastic memory follows."""
        parts = engine.parts
        plan = replanning.plan_again(parts, parts.config, parts.active.choice)
        ceiling = replanning.ceiling_here(parts.config, parts.backend)
        return ceiling.bytes, plan.budget_bytes, parts.elastic.look().allowed_bytes


@pytest.fixture
def board(fake: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Board:
    group, integrated = getattr(request, "param", ("none", True))
    fake.fake_integrated(int(integrated))
    gc.collect()
    # what tests before this one did not give back is another's memory, and does not change
    others = fake.fake_held_bytes(int(integrated))
    made = Board(tmp_path / "board", lambda: fake.fake_held_bytes(int(integrated)) - others, group)

    class Watch(pressure.PressureWatch):
        def __init__(self, **given: Any) -> None:
            super().__init__(own_bytes=lambda: ANONYMOUS, root=made.look(), **given)

        def look(self, **given: Any) -> pressure.Pressure:
            made.look()
            return super().look(**(given | {"enough": None}))

    monkeypatch.setattr(pressure, "PressureWatch", Watch)
    monkeypatch.setattr(replanning, "anonymous_bytes", lambda: ANONYMOUS)
    monkeypatch.setattr(replanning, "read_limits", lambda own: limits.read_limits(made.look(), own))
    monkeypatch.setattr(device_module, "Taken", lambda: Taken(own_bytes=lambda: 0))
    return made


@pytest.mark.usefixtures("over_fake")
@pytest.mark.parametrize("board", [(group, True) for group in GROUPS] + [("none", False)], indirect=True, ids=str)
@pytest.mark.parametrize("where", ["trunk=cuda,memory=device", "trunk=cpu,memory=pinned", "trunk=cuda,memory=auto"])
def test_what_there_is_does_not_change_with_what_is_held(model_bundle, fake: ctypes.CDLL, board: Board, where: str):
    watch = pressure.PressureWatch(reserve_bytes=RESERVE)
    at_first = watch.look(requested=None).allowed_bytes
    watch.close()
    with opened(model_bundle, f"cuda:{where}", ALL, elastic=True, os_reserve=RESERVE) as engine:
        before = engine.plan.budget_bytes, engine.plan.budget_bytes, at_first
        make_all_resident(engine)
        held, rounded = board.held(), PAGE * fake.fake_live_regions()
        assert abs(engine.parts.backend.driver_bytes - held) <= rounded, "what the driver layer counts is all of it"
        after = board.said(engine)
    # what a cgroup leaves is known to what the kernel needs itself, which cannot be told from a driver's
    unsure = rounded + 2048 + (KERNEL if board.group == "not charged" else 0)
    assert [abs(a - b) <= unsure for a, b in zip(before, after, strict=True)] == [True] * 3, (before, after, held)


@pytest.mark.usefixtures("over_fake")
@pytest.mark.parametrize("trunk", ["cuda", "cpu"])
def test_an_elastic_engine_that_is_alone_keeps_its_experts(
    model_bundle, fake: ctypes.CDLL, board: Board, monkeypatch: pytest.MonkeyPatch, trunk: str
):
    """With room for half of them: what it takes itself is no reason to give some back, however often it looks."""
    monkeypatch.setattr(follower, "EVERY_S", 0.0)
    backend, held = f"cuda:trunk={trunk},memory=device", board.held
    board.held = lambda: held() - PAGE * fake.fake_live_regions()  # the fake takes whole pages for every small buffer
    with opened(model_bundle, backend, FEW) as engine:
        fixed = engine.plan.planned_bytes - engine.plan.arena_bytes
    board.memory = OTHERS + RESERVE + fixed + ALL // 2 * read(model_bundle).layout.tier_bytes(TIER)
    settings = {"context": 128, "prefill_chunk": 16, "threads": 1, "self_check": False, "tier": TIER}
    with Engine.open(model_bundle, backend=backend, elastic=True, os_reserve=RESERVE, **settings) as engine:
        elastic, planned = engine.parts.elastic, engine.plan.planned_bytes
        assert ALL // 4 < engine.plan.num_slots < ALL
        make_all_resident(engine)
        for _ in range(5):
            assert not elastic.follow()
        assert elastic.to_json()["shrunk"] == 0
        assert engine.plan.planned_bytes == planned


def test_taken_is_what_is_no_page_of_the_process(device: Device):
    """Pages that come meanwhile are the process's own, and count there; memory that cannot be had was not taken."""
    own = [100 * MIB]

    def grows_by(nbytes: int) -> Callable[[], str]:
        def allocate() -> str:
            own[0] += nbytes
            return "made"

        return allocate

    taken = Taken(lambda: own[0])
    assert taken.take(8 * MIB, grows_by(0)) == ("made", 1)
    assert taken.bytes == 8 * MIB
    _, half = taken.take(8 * MIB, grows_by(6 * MIB))
    assert taken.bytes == 10 * MIB
    _, all_own = taken.take(8 * MIB, grows_by(9 * MIB))
    assert taken.bytes == 10 * MIB
    _, small = taken.take(1000, grows_by(4 * MIB))
    assert taken.bytes == 10 * MIB + 1000, "the kernel counts pages in batches: small ones are not looked at"
    with pytest.raises(ZeroDivisionError):
        taken.take(8 * MIB, lambda: 1 // 0)
    for key in (half, all_own, small, small, 0, 1):
        taken.give_back(key)
    assert taken.bytes == 0


@pytest.mark.parametrize("integrated", [0, 1])
def test_of_the_drivers_memory_counts_what_the_system_lacks(fake: ctypes.CDLL, device: Device, integrated: int):
    device.integrated, nbytes = bool(integrated), 3 * MIB
    start = device.taken.bytes
    with DeviceMemory(device, nbytes):
        own_memory = device.taken.bytes - start
        with PinnedMemory(device, nbytes):
            pinned = device.taken.bytes - start - own_memory
    assert device.taken.bytes == start
    # growth of the process meanwhile is left out, and that may be some pages
    assert (own_memory > nbytes - MIB) == bool(integrated)
    assert nbytes - MIB < pinned <= nbytes
    pages = huge_memory(nbytes)
    before = anonymous_pages_bytes(Path("/proc/self/statm").read_bytes())
    address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    ctypes.memset(address, 1, nbytes)
    assert anonymous_pages_bytes(Path("/proc/self/statm").read_bytes()) > before + nbytes // 2
    with RegisteredMemory(device, address, nbytes):
        assert device.taken.bytes == start, "registered pages are the process's own"


def test_pinned_memory_without_an_address_is_given_back(fake: ctypes.CDLL, device: Device):
    before = fake.fake_live_regions()
    fake.fake_fail(b"cuMemHostGetDevicePointer_v2", 1, 0)
    with pytest.raises(Exception, match="cuMemHostGetDevicePointer_v2"):
        PinnedMemory(device, MIB)
    assert (fake.fake_live_regions(), device.taken.bytes) == (before, 0)
