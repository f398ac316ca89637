"""Bundles shared by the whole run: exported once, by whichever worker comes first."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# reference logits are compared bit for bit with those of commands, which keep BLAS to one thread
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

# a run that a shell started in the background ignores Ctrl-C, and so would every command the tests start and interrupt
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# how long an example takes says nothing on a machine that does other things as well
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

REPO = Path(__file__).parents[1]
MODEL = REPO / "examples" / "tiny-moe"
OWN_PROCESS_BYTES = 200 << 20  # more than a process of the runtime holds before it opens a bundle
sys.path.append(str(REPO / "tools"))  # each is a script, and imports its neighbours as one


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--backend NAME`: hold that backend to tests/contract/test_backends.py."""
    parser.addoption("--family-results", help="a file that takes the largest difference to transformers of each case")
    parser.addoption("--backend", help="the backend that tests/contract/test_backends.py is about")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make system-check` runs; skip, loudly, what this machine lacks."""
    for item in items:
        alone = item.path.name in ("test_service_soak.py", "test_status_page.py", "test_chat_page.py")
        if alone or "tests/systemd" in item.path.as_posix():
            item.add_marker(pytest.mark.system)
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None:
        for item in items:
            if "oracle" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="torch and transformers are not installed (extra: oracle)"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where MUST_RUN is set, as make's targets of checks do, a skipped test fails, unless MAY_MISS has its name."""
    report = yield
    name = item.name.partition("[")[0]
    if report.skipped and os.environ.get("MUST_RUN") and name not in os.environ.get("MAY_MISS", "").split():
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{why}\nIt has to run here. To do without, and be told so: MAY_MISS={name}"
    return report


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder all workers of this run share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session", autouse=True)
def _state_folder(shared_folder: Path) -> None:
    """Keep self-check results of the tests out of the user's home."""
    os.environ["XDG_STATE_HOME"] = str(shared_folder / "state")
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in [n for n in os.environ if n.startswith("HOBBIT_")]:
        del os.environ[name]


@pytest.fixture(scope="session", autouse=True)
def _process_of_a_device() -> Iterator[None]:
    """Plan memory as a runtime's own process does: what torch and earlier tests hold in this one is not an engine's."""
    from edge_runtime.engine import sizing

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sizing, "rss_bytes", lambda: OWN_PROCESS_BYTES)
        yield


def run_export(checkpoint: Path, out: Path, *flags: str) -> None:
    """Run `hobbit-export` as a user would."""
    command = [sys.executable, "-m", "hobbit_export", str(checkpoint), "--out", str(out), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="session")
def exported(shared_folder: Path) -> Callable[..., Path]:
    """Export a checkpoint once per run: `exported(checkpoint, "--tiers", "8")` returns the bundle. Never write to it."""

    def export(checkpoint: Path, *flags: str) -> Path:
        key = "-".join([checkpoint.name, *(Path(f).name.strip("-").replace(",", "_") for f in flags)])
        out = shared_folder / key
        with open(shared_folder / f"{key}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (out / "manifest.json").exists():
                run_export(checkpoint, out, *flags)
        return out

    return export


@pytest.fixture(scope="session")
def model_bundle(exported: Callable[..., Path]) -> Path:
    """The bundled model at every tier, bf16 included, with a float32 trunk."""
    return exported(MODEL, "--tiers", "8,6,4,2,bf16", "--trunk", "fp32")


@pytest.fixture(scope="session")
def calibrated_bundle(exported: Callable[..., Path]) -> Path:
    """The bundled model with the losses of its tiers measured on the text that comes with the exporter."""
    return exported(MODEL, "--tiers", "8,6,4,2", "--trunk", "fp32", "--calibrate")


@pytest.fixture(scope="session")
def large_bundle(shared_folder: Path, exported: Callable[..., Path]) -> Path:
    """A random model whose experts are above the size from which units of memory keep theirs: 284 KiB at four bits."""
    from synthetic import qwen3_config, write_qwen3

    checkpoint = shared_folder / "large-experts"
    with open(shared_folder / "large-experts.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not checkpoint.exists():
            part = shared_folder / "large-experts.part"
            write_qwen3(part, qwen3_config(512, 320, 16, 4, num_experts_per_tok=4), norms=0.3)
            part.rename(checkpoint)
    return exported(checkpoint, "--tiers", "8,4,2", "--trunk", "fp32")
