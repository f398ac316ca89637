"""Steps of an export on a cluster: the same bytes as here, whichever workers die, and one driver at a time counts."""

from __future__ import annotations

import platform
import random
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from synthetic import qwen3_config, run_export, write_qwen3
from transfers import contents

from edge_runtime.base.errors import BundleError, ConfigError, DeviceError, HobbitError
from edge_runtime.bundle.manifest import Part
from hobbit_export import exporter
from hobbit_export.cluster import ray_cluster
from hobbit_export.cluster.driver import TRIES, Lost, wait_until_visible
from hobbit_export.cluster.work import Done, Order, run_order
from hobbit_export.exporter import ExportReport, export
from hobbit_export.fingerprint import fingerprint
from hobbit_export.opening import open_source
from hobbit_export.options import ExportOptions, check_engine
from hobbit_export.progress import Progress

LAYERS = 3


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen3(tmp_path_factory.mktemp("ck") / "small", qwen3_config(64, 64, 6, LAYERS))


@pytest.fixture(scope="module")
def whole(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("whole") / "bundle"
    export(ExportOptions(checkpoint, out), quiet=True)
    return contents(out)


class InProcess:
    """A cluster whose workers are this thread; `fate` says what becomes of an order."""

    jobs = 2

    def __init__(self, fate: Callable[[Order], str] = lambda order: "done", seed: int = 0) -> None:
        self.orders: list[Order] = []
        self.waiting: list[Order] = []
        self.is_stopped = False
        self._fate, self._random = fate, random.Random(seed)

    def submit(self, order: Order) -> None:
        self.orders.append(order)
        self.waiting.append(order)

    def wait(self, timeout_s: float) -> Sequence[Done | Lost]:
        if not self.waiting:
            return []
        order = self.waiting.pop(self._random.randrange(len(self.waiting)))
        fate = self._fate(order)
        if fate == "dies first":
            return [Lost(order.step, "WorkerCrashedError")]
        if fate == "dies half-way":
            order.folder.mkdir()
            (order.folder / "experts").mkdir()
            (order.folder / "experts/rest").write_bytes(b"half")
            return [Lost(order.step, "NodeDiedError")]
        done = run_order(order)
        return [Lost(order.step, "lost after the end")] if fate == "dies last" else [done]

    def stop(self) -> None:
        self.is_stopped = True


def on(
    cluster: InProcess,
    checkpoint: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    quiet: bool = True,
    **options: object,
) -> ExportReport:
    monkeypatch.setattr(ray_cluster, "RayCluster", lambda *args: cluster)
    asked = ExportOptions(checkpoint, out, engine="ray", **options)  # type: ignore[arg-type]
    return export(asked, quiet=quiet)


def test_the_bytes_are_those_of_a_local_export(checkpoint, whole, tmp_path, monkeypatch):
    cluster = InProcess()
    report = on(cluster, checkpoint, tmp_path / "b", monkeypatch)
    assert contents(tmp_path / "b") == whole
    assert cluster.is_stopped
    names = {order.step for order in cluster.orders}
    assert names == {"embedding", "head", "routers"} | {
        f"{what} layer {i}" for what in ("trunk", "experts of") for i in range(LAYERS)
    }
    assert cluster.orders[0].step == f"experts of layer {LAYERS - 1}", "the largest first"
    assert report.steps_run == len(names) + 3
    assert report.bytes_read > 0


@pytest.mark.parametrize("trunk", ["int4", "auto"])
def test_codes_fitted_to_a_text_are_those_of_a_local_export(checkpoint, tmp_path, monkeypatch, trunk):
    """The driver runs the text, and makes what last bits of a processor could change; workers fit experts to it."""
    monkeypatch.setattr(exporter, "measure_quality", lambda *arguments: None)
    text, cluster = tmp_path / "text.txt", InProcess()
    text.write_text("Once upon a time there was a model, and this is what it read. " * 20)
    export(ExportOptions(checkpoint, tmp_path / "here", calibrate=text, trunk=trunk), quiet=True)
    report = on(cluster, checkpoint, tmp_path / "there", monkeypatch, calibrate=text, trunk=trunk)
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    int8 = {"head", *(f"trunk layer {i}" for i in range(LAYERS))} if trunk == "auto" else set()
    assert {order.step for order in cluster.orders} == int8 | {"embedding", "routers"} | {
        f"experts of layer {i}" for i in range(LAYERS)
    }
    assert (report.trunk["measured"] is not None) == (trunk == "auto")


@pytest.mark.parametrize("seed", range(4))
def test_workers_that_die_at_any_moment_change_nothing(checkpoint, whole, tmp_path, monkeypatch, seed):
    rng = random.Random(seed)

    def fate(order: Order) -> str:
        return (
            "done" if order.attempt == TRIES - 1 else rng.choice(["done", "dies first", "dies half-way", "dies last"])
        )

    cluster = InProcess(fate, seed)
    on(cluster, checkpoint, tmp_path / "b", monkeypatch)
    assert contents(tmp_path / "b") == whole
    assert len(cluster.orders) > len({order.step for order in cluster.orders}), "some died"


def test_a_step_that_kills_every_worker_ends_the_export_and_the_rest_is_kept(checkpoint, whole, tmp_path, monkeypatch):
    bad = "experts of layer 1"
    cluster = InProcess(lambda order: "dies half-way" if order.step == bad else "done")
    with pytest.raises(DeviceError, match=rf"{bad}: its worker died {TRIES} times: NodeDiedError. Does a node lack"):
        on(cluster, checkpoint, tmp_path / "b", monkeypatch)
    assert cluster.is_stopped
    assert not (tmp_path / "b/manifest.json").exists()
    assert not (tmp_path / "b/.partial").exists()
    report = export(ExportOptions(checkpoint, tmp_path / "b"), quiet=True)  # here this time: engines may be mixed
    assert report.steps_resumed > 0
    assert contents(tmp_path / "b") == whole


def test_a_driver_that_dies_goes_on_where_it_was(checkpoint, whole, tmp_path, monkeypatch):
    class DriverDies(BaseException):
        pass

    ended = 0

    def fate(order: Order) -> str:
        nonlocal ended
        ended += 1
        if ended == 5:
            raise DriverDies
        return "done"

    first = InProcess(fate)
    with pytest.raises(DriverDies):
        on(first, checkpoint, tmp_path / "b", monkeypatch)
    second = InProcess()
    report = on(second, checkpoint, tmp_path / "b", monkeypatch)
    assert len(second.orders) == len(first.orders) - 4
    assert report.steps_resumed == 4 + 2, "those of workers, and the two done here"
    assert contents(tmp_path / "b") == whole


class Watched(Progress):
    """Adds up what the bar shows."""

    total: ClassVar[int] = 0
    shown: ClassVar[int] = 0

    def __init__(self, total_bytes: int, num_steps: int, *, quiet: bool = False) -> None:
        Watched.total, Watched.shown = total_bytes, 0
        super().__init__(total_bytes, num_steps, quiet=quiet)

    def advance(self, count: int) -> None:
        Watched.shown += count
        super().advance(count)

    def advance_elsewhere(self, count: int) -> None:
        Watched.shown += count
        assert 0 <= Watched.shown <= Watched.total
        super().advance_elsewhere(count)

    def skip(self, step: str, num_bytes: int) -> None:
        Watched.shown += num_bytes
        super().skip(step, num_bytes)


def lines_of(said: str) -> dict[str, str]:
    """What was said of each step, in a run whose lines are numbered to the last."""
    found = re.findall(r"^\[(\d+)/(\d+)\] (.+?): (.+)$", said, re.MULTILINE)
    assert [number for number, _, _, _ in found] == [str(number) for number in range(1, int(found[0][1]) + 1)]
    lines = {step: what for _, _, step, what in found}
    assert len(lines) == len(found), "each step once"
    return lines


@pytest.mark.parametrize("seed", range(3))
def test_progress_counts_every_step_and_byte_once_whoever_does_them(checkpoint, tmp_path, monkeypatch, capsys, seed):
    """Workers die, then the driver: in the end each step was said once, and the bar stands at its end."""
    rng, ended = random.Random(seed), 0

    class DriverDies(BaseException):
        pass

    def fate(order: Order) -> str:
        nonlocal ended
        ended += 1
        if ended == 7:
            raise DriverDies
        return "done" if order.attempt == TRIES - 1 else rng.choice(["done", "done", "dies half-way", "dies last"])

    monkeypatch.setattr(exporter, "Progress", Watched)
    cluster = InProcess(fate, seed)
    with pytest.raises(DriverDies):
        on(cluster, checkpoint, tmp_path / "b", monkeypatch, quiet=False)
    deaths = len(cluster.orders) - len({order.step for order in cluster.orders})
    assert capsys.readouterr().err.count(": its worker died (") == deaths
    second = InProcess(fate, seed)
    report = on(second, checkpoint, tmp_path / "b", monkeypatch, quiet=False)
    lines = lines_of(capsys.readouterr().err)
    assert Watched.shown == Watched.total > 0
    again = {order.step for order in second.orders}
    assert all(re.fullmatch(rf"[\d.]+ s on {re.escape(platform.node())}", lines[step]) for step in again)
    assert sum(what == "already done" for what in lines.values()) == report.steps_resumed


def test_a_worker_of_a_driver_that_is_gone_does_nothing_more(checkpoint, whole, tmp_path, monkeypatch):
    cluster = InProcess()
    on(cluster, checkpoint, tmp_path / "b", monkeypatch)
    for order in cluster.orders:
        with pytest.raises(ConfigError, match="or another export has begun there"):
            run_order(order)
    assert contents(tmp_path / "b") == whole


def test_a_node_that_sees_something_else_is_named(checkpoint, tmp_path, monkeypatch):
    def order_of(**changes: object) -> Order:
        options = ExportOptions(checkpoint, tmp_path / "b")
        source = open_source(options)
        source.checkpoint.close()
        order = Order(options, "embedding", "run", 0, "0.0", fingerprint(source, options), source.spec)
        return replace(order, **changes)  # type: ignore[arg-type]

    with pytest.raises(
        ConfigError, match=r"node '.+': expected hobbit-export 0.0, found .+ Install the same everywhere"
    ):
        run_order(order_of())
    from hobbit_export import __version__

    with pytest.raises(ConfigError, match=r"node '.+': does not see .+/b. --out and the checkpoint must be on storage"):
        run_order(order_of(program=__version__))
    (tmp_path / "b/.partial/run").mkdir(parents=True)
    other = replace(order_of().spec, eos_token_ids=[3])
    for lie in ({"fingerprint": {}}, {"spec": other}):
        with pytest.raises(BundleError, match=r"node '.+' sees other files than the one that began the export"):
            run_order(order_of(program=__version__, **lie))


def test_what_is_wrong_with_a_checkpoint_is_said_as_ever(checkpoint, tmp_path, monkeypatch):
    copy = Path(shutil.copytree(checkpoint, tmp_path / "ck"))
    raw = bytearray((copy / "model.safetensors").read_bytes())
    raw[-2:] = b"\xff\x7f"  # the last expert's last weight is no number
    (copy / "model.safetensors").write_bytes(raw)
    cluster = InProcess()
    with pytest.raises(HobbitError, match=r"expert 5|not finite|NaN"):
        on(cluster, copy, tmp_path / "b", monkeypatch)
    assert cluster.is_stopped


def test_a_storage_that_shows_files_late_is_waited_for(tmp_path):
    raw = b"abc"
    from edge_runtime.base.checksum import crc32c

    part = Part("trunk/embed.bin", "embedding", 3, "ab" * 32, crc32c(raw))
    slept: list[float] = []

    def appears(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            (tmp_path / "trunk").mkdir()
            (tmp_path / "trunk/embed.bin").write_bytes(raw)

    wait_until_visible(tmp_path, [part], 10, appears)
    assert len(slept) == 3
    (tmp_path / "trunk/embed.bin").unlink()
    with pytest.raises(DeviceError, match="trunk/embed.bin was written by a worker and cannot be seen here"):
        wait_until_visible(tmp_path, [part], 10, lambda seconds: None)


def test_what_cannot_be_shared_is_refused(checkpoint, tmp_path):
    code, _, err = run_export(checkpoint, "--out", tmp_path / "b", "--engine", "rya")
    assert (code, "--engine: expected one of local, ray, got 'rya'. Did you mean 'ray'?" in err) == (78, True)
    assert check_engine("local") == "local"
    with pytest.raises(ConfigError, match="--keep-source DIR"):
        export(ExportOptions(checkpoint, tmp_path / "b", engine="ray", files=object(), source_name="org/m"))  # type: ignore[arg-type]


def test_without_ray_it_says_how_to_get_it(checkpoint, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"--engine ray: needs ray. Install it: .*ray"):
        export(ExportOptions(checkpoint, tmp_path / "b", engine="ray"), quiet=True)
