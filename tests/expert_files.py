"""Expert files of random records, a reader of them, and system calls that fail on command: for the tests of the store."""

from __future__ import annotations

import errno
import mmap
import os
import threading
from pathlib import Path

import numpy as np
from byte_ranges import range_of
from manifests import small_manifest
from patience import PATIENCE_S, Turnstile, until

from edge_runtime.base.checksum import crc32c
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.expert_file import KIND_BF16, KIND_PROGRESSIVE, ExpertFileHeader, pack_header
from edge_runtime.bundle.manifest import Part
from edge_runtime.bundle.part_names import expert_file
from edge_runtime.bundle.record import BF16, RECORD_MAGIC
from edge_runtime.experts.store.base import ExpertKey, Priority, ReadTicket
from edge_runtime.experts.store.file_store import FileExpertStore
from edge_runtime.experts.store.files import FileOps

E, TIER = 4, 8
SHAPE = {"hidden": 128, "intermediate": 96}


def write_experts(path: Path, layer: int, sizes: tuple[int, ...], kind: int) -> bytes:
    rng = np.random.default_rng(layer)
    records = rng.integers(0, 256, (E, sum(sizes)), np.uint8)
    sums = np.zeros((E, len(sizes)), np.uint32)
    for expert in range(E):
        if kind == KIND_PROGRESSIVE:
            head = RECORD_MAGIC + layer.to_bytes(4, "little") + expert.to_bytes(4, "little")
            records[expert, : len(head)] = list(head)
        at = 0
        for segment, size in enumerate(sizes):
            sums[expert, segment] = crc32c(records[expert, at : at + size].tobytes())
            at += size
    header = ExpertFileHeader(kind, layer, E, SHAPE["hidden"], SHAPE["intermediate"], sizes, sums)
    path.write_bytes(pack_header(header) + records.tobytes())
    return records.tobytes()


def make_bundle(folder: Path) -> Bundle:
    """Write expert files of two layers, and return the bundle they would belong to."""
    manifest = small_manifest((2, 4, 6, 8, BF16), **SHAPE)
    (folder / "experts").mkdir()
    parts = [part for part in manifest.parts if not part.name.startswith("experts/")]
    for layer in range(2):
        for tier, kind in ((2, KIND_PROGRESSIVE), (BF16, KIND_BF16)):
            sizes = (manifest.layout.bf16_bytes,) if tier == BF16 else manifest.layout.segment_bytes
            path = folder / expert_file(layer, tier)
            write_experts(path, layer, sizes, kind)
            role = "experts_bf16" if tier == BF16 else "experts"
            parts.append(Part(expert_file(layer, tier), role, path.stat().st_size, "0" * 64, 0, layer))
    manifest.parts[:] = parts
    return Bundle(folder, manifest)


class Reader:
    """A store with a page-aligned buffer for each expert."""

    def __init__(self, store: FileExpertStore) -> None:
        self.store = store
        self.memory: dict[ExpertKey, mmap.mmap] = {}

    def submit(self, layer: int, expert: int, priority: Priority = Priority.NOW):
        key = ExpertKey(layer, expert)
        self.memory[key] = mmap.mmap(-1, self.store.record_bytes)
        return self.store.submit(key, [range_of(self.memory[key])], priority=priority)

    def wait(self, *tickets: ReadTicket) -> list[ReadTicket]:
        """Wait for reads; return everything completed meanwhile, in order, and raise the first error."""
        done: list[ReadTicket] = []
        while not all(ticket.is_done for ticket in tickets):
            found = self.store.completed(5.0)
            assert found, "a read was lost"
            done += found
        for ticket in tickets:
            if ticket.error is not None:
                raise ticket.error
        return done

    def read(self, layer: int, expert: int) -> bytes:
        self.wait(self.submit(layer, expert))
        return self.memory[ExpertKey(layer, expert)][:]


def on_disk(bundle: Bundle, layer: int, expert: int, tier: int) -> bytes:
    header = bundle.expert_header(layer, tier)
    at = header.record_offset(expert)
    return (bundle.path / expert_file(layer, tier)).read_bytes()[at : at + bundle.manifest.layout.tier_bytes(tier)]


def damage(bundle: Bundle, layer: int, offset: int) -> None:
    with open(bundle.path / expert_file(layer), "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


class FailingOps(FileOps):
    """System calls that fail on command."""

    def __init__(self) -> None:
        self.refuse_direct_at: str | None = None
        self.fail_at: int | None = None
        self.gate: threading.Event | Turnstile | None = None
        self.begun = threading.Event()
        self.direct_opens = self.waiting = 0
        self._lock = threading.Lock()

    def open(self, path: Path, flags: int) -> int:
        if flags & os.O_DIRECT:
            self.direct_opens += 1
            if self.refuse_direct_at == "open":
                raise OSError(errno.EINVAL, "Invalid argument", str(path))
        return super().open(path, flags)

    def _count(self, change: int) -> None:
        with self._lock:
            self.waiting += change

    def preadv(self, fd: int, into: memoryview, offset: int) -> int:
        import fcntl

        if self.refuse_direct_at == "read" and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        self.begun.set()
        if self.gate is not None:
            self._count(1)
            assert self.gate.wait(PATIENCE_S)
            self._count(-1)
        if self.fail_at is not None and offset <= self.fail_at < offset + len(into):
            raise OSError(errno.EIO, "Input/output error")
        return os.preadv(fd, [into], offset)


def num_threads() -> int:
    """Threads of this process, native ones included."""
    return len(os.listdir("/proc/self/task"))


def wait_for_threads(count: int) -> None:
    """A thread that said goodbye may still be on its way out."""
    until(lambda: num_threads() <= count, "threads end")
