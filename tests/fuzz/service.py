"""Attack a running service: `python tests/fuzz/service.py BUNDLE --requests 2000 [--cgroup 260MiB]`.

Several clients send hostile requests; another sends short honest ones all the while and measures how long they take.
With a cgroup (version 1, needs root) the service runs inside one of that size, so that the kernel would end it.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]

import httpx  # noqa: E402
from fuzz.exchanges import completion, hostile  # noqa: E402
from service_process import ServiceProcess  # noqa: E402

CGROUPS = Path("/sys/fs/cgroup/memory")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--memory", default="260MiB")
    parser.add_argument("--cgroup", action="store_true", help="run it in a memory cgroup of that size")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, _cgroup(args.memory if args.cgroup else None) as group:
        flags = (
            "--memory",
            args.memory,
            "--context",
            "256",
            "--model-name",
            "m",
            "--parallel",
            "2",
            "--max-waiting",
            "8",
            "--body-limit",
            "1MiB",  # at 2 MiB two bodies and what they become take 24 MiB of the 260
        )
        log = Path(folder) / "log"
        with ServiceProcess(args.bundle, log, *flags, wait=False) as service:
            if group is not None:
                (group / "cgroup.procs").write_text(str(service.process.pid))
            service.wait_until_ready()
            report = attack(service, args.requests, args.first, args.clients)
            service.wait_until_idle()
            report["stuck"] = 0
            report["alive"] = service.process.poll() is None
        text = log.read_text()
        report["tracebacks"] = text.count("Traceback")
        if group is not None:
            report["cgroup_peak_mib"] = int((group / "memory.max_usage_in_bytes").read_text()) >> 20
            report["cgroup_kills"] = int((group / "memory.oom_control").read_text().split("oom_kill ")[1].split()[0])
        if report["tracebacks"]:
            print(text[text.index("Traceback") - 500 :][:3000])
    print(json.dumps(report, indent=1))
    return int(
        bool(report["server_errors"] or report["tracebacks"] or not report["alive"] or report.get("cgroup_kills"))
    )


def attack(service: ServiceProcess, count: int, first: int, clients: int) -> dict[str, object]:  # noqa: C901 - its clients
    """Send hostile requests from several clients; return what came back and how honest ones fared meanwhile."""
    statuses: collections.Counter[int] = collections.Counter()
    errors: list[str] = []
    numbers, lock = iter(range(first, first + count)), threading.Lock()
    stop = threading.Event()
    honest: list[float] = []
    peak = [0]

    def run() -> None:
        with service.client() as client:
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                kind, (path, data) = hostile(random.Random(number))
                status, text = _raw(service, data) if path == "raw" else _post(client, path, data)
                with lock:
                    statuses[status] += 1
                    if status >= 500 and status != 503:
                        errors.append(f"request {number} ({kind}): {status} {text[:300]}")

    def be_honest() -> None:
        with service.client() as client:
            while not stop.is_set():
                started = time.monotonic()
                answer = client.post("/v1/completions", json=completion(max_tokens=1))
                if answer.status_code == 200:
                    honest.append(time.monotonic() - started)
                elif answer.status_code != 429:
                    errors.append(f"an honest request: {answer.status_code} {answer.text[:200]}")
                peak[0] = max(peak[0], service.rss())
                time.sleep(0.02)

    threads = [threading.Thread(target=run) for _ in range(clients)]
    watcher = threading.Thread(target=be_honest)
    for thread in (*threads, watcher):
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    watcher.join()
    honest.sort()
    return {
        "requests": count, "statuses": dict(sorted(statuses.items())), "server_errors": errors[:20],
        "honest": len(honest), "honest_median_s": round(honest[len(honest) // 2], 3),
        "honest_p99_s": round(honest[int(len(honest) * 0.99)], 3), "honest_worst_s": round(honest[-1], 3),
        "peak_rss_mib": peak[0] >> 20,
    }  # fmt: skip


def _post(client: httpx.Client, path: str, data: bytes) -> tuple[int, str]:
    try:
        answer = client.post(path, content=data, headers={"Content-Type": "application/json"})
    except httpx.TransportError:
        return 0, ""  # closed, as may happen to what is too large
    return answer.status_code, answer.text


def _raw(service: ServiceProcess, data: bytes) -> tuple[int, str]:
    answer = b""
    with contextlib.suppress(OSError), socket.create_connection(service.address, timeout=20) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        while part := sock.recv(65536):
            answer += part
    words = answer.split(b" ", 2)
    return (int(words[1]) if len(words) > 1 and words[1].isdigit() else 0), answer.decode("latin-1")


@contextlib.contextmanager
def _cgroup(size: str | None) -> Iterator[Path | None]:
    if size is None:
        yield None
        return
    own = next(
        line.split(":", 2)[2] for line in Path("/proc/self/cgroup").read_text().splitlines() if ":memory:" in line
    )
    group = CGROUPS / own.strip("/") / f"hobbit-fuzz-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(int(size.removesuffix("MiB")) << 20))
        yield group
    finally:
        group.rmdir()


if __name__ == "__main__":
    sys.exit(main())
