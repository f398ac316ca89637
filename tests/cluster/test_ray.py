"""A real Ray cluster of several processes on this machine: `make ray-check`. Workers and the driver are killed."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from patience import until
from synthetic import qwen3_config, write_qwen3
from transfers import contents

from hobbit_export.exporter import export
from hobbit_export.options import ExportOptions

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]
pytest.importorskip("ray", reason="ray is not installed: pip install 'ray>=2.56' (extra: ray), then make ray-check")

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/tiny-moe"
MEMORY = "700MiB"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen3(tmp_path_factory.mktemp("ck") / "small", qwen3_config(512, 512, 24, 6))


@pytest.fixture(scope="module")
def whole(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("whole") / "bundle"
    export(ExportOptions(checkpoint, out), quiet=True)
    return contents(out)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A head node with two processors: its daemons and workers are processes of their own."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 2, "object_store_memory": 80 << 20, "memory": 3 << 30, "include_dashboard": False}
    cluster = Cluster()
    for tries_left in (2, 1, 0):
        try:
            cluster.add_node(**node)
            break
        except Exception:  # Ray gives its daemons half a minute to start, too little on a busy machine
            cluster.shutdown()
            if not tries_left:
                raise
            cluster = Cluster()
    try:
        yield cluster.address
    finally:
        cluster.shutdown()
        # the handles of its daemons are let go here: pytest would take the warning about each for a failure of the run
        del cluster
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


def start(checkpoint: Path, out: Path, address: str, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "hobbit_export", str(checkpoint), "--out", str(out), "--memory", MEMORY]
    command += ["--engine", "ray", "--ray-address", address, "--jobs", "1", "--no-self-check", *flags]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def workers(address: str) -> list[psutil.Process]:
    """Processes of this cluster that are at a step."""
    found = []
    for process in psutil.process_iter(["name", "cmdline", "ppid"]):
        line = " ".join(process.info["cmdline"] or ())
        if line.startswith("ray::experts of"):
            found.append(process)
    return found


def finished(out: Path) -> list[str]:
    journal = out / "export.journal"
    lines = journal.read_text().splitlines()[1:] if journal.exists() else []
    return [json.loads(line)["step"] for line in lines if line.endswith("}")]


def test_workers_write_the_same_bytes(checkpoint, whole, tmp_path, address):
    process = start(checkpoint, tmp_path / "b", address, "--json")
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert contents(tmp_path / "b") == whole
    assert json.loads(out)["steps_run"] > 12


def test_codes_fitted_to_a_text_are_the_same_bytes(checkpoint, tmp_path, address):
    text = EXAMPLE / "heldout_prose.txt"
    export(ExportOptions(checkpoint, tmp_path / "local", trunk="int4", calibrate=text), quiet=True)
    out = tmp_path / "b"
    process = start(checkpoint, out, address, "--trunk", "int4", "--calibrate", str(text))
    _, err = process.communicate()
    assert process.returncode == 0, err
    expected = contents(tmp_path / "local")
    assert contents(out) == expected
    assert b"output_errors" in expected["calibration/experts.json"]
    assert not (out / "statistics").exists()


def test_a_killed_worker_costs_its_step_alone(checkpoint, whole, tmp_path, address):
    process = start(checkpoint, tmp_path / "b", address)
    kills = 0
    while kills < 2 and process.poll() is None:
        for worker in workers(address)[:1]:
            os.kill(worker.pid, signal.SIGKILL)
            kills += 1
            until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)  # noqa: B023
        time.sleep(0.02)
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert kills == 2
    assert "its worker died" in err
    assert contents(tmp_path / "b") == whole


def test_a_killed_driver_goes_on_where_it_was(checkpoint, whole, tmp_path, address):
    out = tmp_path / "b"
    process = start(checkpoint, out, address)
    until(lambda: sum(step.startswith("experts") for step in finished(out)) >= 2 or process.poll() is not None)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = finished(out)
    assert not (out / "manifest.json").exists()
    again = start(checkpoint, out, address, "--json")
    text, err = again.communicate()
    assert again.returncode == 0, err
    assert json.loads(text)["steps_resumed"] >= len(done) > 2
    assert contents(out) == whole


def test_a_cluster_that_cannot_do_it_is_refused(checkpoint, tmp_path, address):
    process = start(checkpoint, tmp_path / "b", address, "--jobs", "64")
    assert "no node has 64 processors" in process.communicate()[1]
    assert process.returncode == 78
