"""io_uring that fails while it is used: for a while, or for good. Every read ends, with its bytes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO
from patience import PATIENCE_S

from edge_runtime.experts.drive import DriveReader

READS = """
import sys, time
from pathlib import Path
from expert_files import E, Reader, make_bundle, on_disk
from edge_runtime.experts.store.file_store import FileExpertStore

folder = Path(sys.argv[1])
folder.mkdir()
bundle = make_bundle(folder)
store = FileExpertStore(bundle, 8, part_bytes=4096, io_threads=4)
if not store.method.startswith(("io_uring", "threads (io_uring failed")):
    print("no ring", store.mode, store.method)
    sys.exit()
reader = Reader(store)
for _ in range(3):
    started = time.monotonic()
    tickets = [reader.submit(layer, expert) for layer in range(2) for expert in range(E)]
    reader.wait(*tickets)
    assert time.monotonic() - started < 20
    for layer in range(2):
        for expert in range(E):
            assert reader.memory[layer, expert][:] == on_disk(bundle, layer, expert, 8)
assert (store.stats().reads, store.stats().bytes_read) == (6 * E, 6 * E * store.record_bytes)
method = store.method
used = time.process_time()
time.sleep(0.5)
assert time.process_time() - used < 0.3, "it spins"
store.close()
print(method)
"""


@pytest.fixture(scope="session")
def failing_ring(shared_folder: Path) -> Path:
    library = shared_folder / f"failing_ring_{os.getpid()}.so"
    source = REPO / "tests" / "tracing" / "failing_ring.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    return library


def method_after(failing_ring: Path, folder: Path, fault: str) -> str:
    first = os.environ.get("LD_PRELOAD", "").split(":")  # a sanitizer's library
    preloaded = ":".join([*filter(None, first), str(failing_ring)])
    environment = {**os.environ, "LD_PRELOAD": preloaded, "HOBBIT_X_RING": fault}
    environment["PYTHONPATH"] = os.pathsep.join([str(REPO / "tests"), *filter(None, sys.path)])
    command = [sys.executable, "-c", READS, str(folder / "bundle")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    if done.stdout.startswith("no ring"):
        pytest.skip(f"io_uring is not used on this machine: {done.stdout}")
    return done.stdout.strip()


FOR_GOOD = [
    (errno.EBADF, 0), (errno.EPERM, 1), (errno.ENOMEM, 3), (errno.EAGAIN, 2), (errno.EBUSY, 5), (errno.EINTR, 1),
    (errno.EBADF, 20),
]  # fmt: skip


@pytest.mark.parametrize(("code", "after"), FOR_GOOD)
def test_a_ring_that_fails_for_good_is_replaced_by_threads(failing_ring, tmp_path, code, after):
    method = method_after(failing_ring, tmp_path, f"enter {code} {after}")
    assert method == f"threads (io_uring failed: {os.strerror(code)})"


@pytest.mark.parametrize("code", [errno.EINTR, errno.EAGAIN, errno.ENOMEM])
def test_a_ring_that_recovers_is_kept(failing_ring, tmp_path, code):
    assert method_after(failing_ring, tmp_path, f"enter {code} 2 50") == "io_uring"


def test_a_ring_that_does_not_fail_is_kept(failing_ring, tmp_path):
    assert method_after(failing_ring, tmp_path, "nothing") == "io_uring"


def test_the_method_is_told_where_no_ring_was_asked_for():
    reader = DriveReader(2, False, False)
    assert reader.method == "threads (io_uring: not asked for)"
    reader.close(5.0)
