"""How fast expert records come off the drive: the store's reader against a plain O_DIRECT loop, interleaved.

    python benchmarks/bench_store.py --folder /mnt/nvme [--record-kib 2624] [--records 96] [--rounds 5]

A file of random records is written to the folder and read in a random order that is the same for all. Reads are
direct: no page cache. GB/s are 10^9 bytes; CPU is of the whole process, checksums included.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from edge_runtime.base.checksum import crc32c
from edge_runtime.base.huge_pages import huge_memory
from edge_runtime.experts.drive import DriveReader

PAGE = 4096


class Records:
    """A file of random records and memory for one of each."""

    def __init__(self, folder: str, record_bytes: int, count: int) -> None:
        self.size, self.count = record_bytes, count
        self.file = tempfile.NamedTemporaryFile(dir=folder)  # noqa: SIM115 - lives as long as the benchmark
        self.sums = []
        for _ in range(count):
            data = os.urandom(record_bytes)
            self.sums.append(crc32c(data))
            self.file.write(data)
        self.file.flush()
        os.fsync(self.file.fileno())
        self.fd = os.open(self.file.name, os.O_RDONLY | os.O_DIRECT)
        self.memory = huge_memory(record_bytes * 16)
        self.memory[:] = bytes(len(self.memory))
        import ctypes

        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))

    def close(self) -> None:
        """Remove the file."""
        os.close(self.fd)
        self.file.close()


def plain_loop(records: Records, order: list[int], threads: int, chunk: int) -> None:
    view = memoryview(records.memory)
    chunk = min(chunk, records.size)
    parts = [(n, at) for n in order for at in range(0, records.size, chunk)]

    def read(work: tuple[int, int, int]) -> None:
        place, n, at = work
        size = min(chunk, records.size - at)
        start = (place % 16) * records.size + at
        got = os.preadv(records.fd, [view[start : start + size]], n * records.size + at)
        assert got == size

    jobs = [(i, n, at) for i, (n, at) in enumerate(parts)]
    if threads == 1:
        for job in jobs:
            read(job)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, jobs))


def through_reader(records: Records, order: list[int], depth: int, chunk: int, use_uring: bool) -> None:
    reader = DriveReader(depth, False, use_uring)
    assert reader.method.startswith("io_uring" if use_uring else "threads"), reader.method
    parts = [(at, min(chunk, records.size - at)) for at in range(0, records.size, chunk)]
    layout = reader.add_layout([(0, records.size)], parts)
    size = os.fstat(records.fd).st_size
    todo, under_way = list(reversed(order)), 0
    while todo or under_way:
        while todo and under_way < 8:  # as many as a layer of eight misses has
            n = todo.pop()
            target = [(records.address + (len(todo) % 16) * records.size, records.size)]
            at = n * records.size
            reader.submit(len(todo), 0, layout, records.fd, size, at, target, [records.sums[n]], False, 0, 0)
            under_way += 1
        for number, fault, _, _ in reader.wait(5.0):
            assert fault == 0
            reader.forget(number)
            under_way -= 1
    reader.close(5.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default=".")
    parser.add_argument("--record-kib", type=int, default=2624)
    parser.add_argument("--records", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--chunks-kib", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--depths", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    records = Records(args.folder, args.record_kib << 10, args.records)
    ways: dict[str, Callable[[list[int]], None]] = {
        "loop, 1 thread, 1 MiB": lambda order: plain_loop(records, order, 1, 1 << 20),
        "loop, 4 threads, 1 MiB": lambda order: plain_loop(records, order, 4, 1 << 20),
    }
    for chunk in args.chunks_kib:
        for depth in args.depths:
            for use_uring in (True, False):
                name = f"{'io_uring' if use_uring else 'threads'}, depth {depth}, {chunk} KiB"
                ways[name] = lambda order, c=chunk, d=depth, u=use_uring: through_reader(records, order, d, c << 10, u)
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for round_number in range(args.rounds):
        order = list(range(args.records))
        random.Random(round_number).shuffle(order)
        for name, way in ways.items():
            cpu, wall = time.process_time(), time.perf_counter()
            way(order)
            wall = time.perf_counter() - wall
            samples[name].append((records.size * args.records / wall / 1e9, 1e3 * (time.process_time() - cpu)))
    records.close()
    if args.json:
        print(json.dumps(samples))
        return
    print(f"{args.records} records of {args.record_kib} KiB, {args.rounds} rounds: median (lowest to highest)")
    for name, found in samples.items():
        speed = [gbps for gbps, _ in found]
        cpu_ms = statistics.median(ms for _, ms in found)
        print(
            f"{name:<32}{statistics.median(speed):6.2f} GB/s  ({min(speed):.2f} to {max(speed):.2f})"
            f"  CPU {cpu_ms:4.0f} ms"
        )


if __name__ == "__main__":
    main()
