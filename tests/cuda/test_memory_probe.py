"""Kinds of memory tried with an expert and timed: the fake driver plants what is slow, refused, stale or scarce."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.backends.cuda.blocks import KINDS
from edge_runtime.backends.cuda.driver import CudaError, DeviceMemory, Driver
from edge_runtime.backends.cuda.gpu import Gpu
from edge_runtime.backends.cuda.memory_probe import KindResult, Kinds, Memory, choose_memory
from edge_runtime.backends.cuda.memory_probe.choice import choose
from edge_runtime.backends.cuda.memory_probe.kinds import most_bytes, try_kinds
from edge_runtime.backends.cuda.memory_probe.reading import Reader, WrongBytesError, measure
from edge_runtime.backends.cuda.memory_probe.sample import make_sample, on_drive
from edge_runtime.base.errors import DeviceError
from edge_runtime.lab.doctor.report import Diagnosis
from edge_runtime.lab.doctor.tiny_model import tiny_model
from edge_runtime.lab.doctor.trial import try_backend

PINNED, REGISTERED = 1, 2
DIRECT_IS_REFUSED = "the drive cannot read into it past the page cache"


@pytest.fixture
def gpu(fake: ctypes.CDLL, nvrtc, tmp_path: Path) -> Iterator[Callable[[], Any]]:
    """Opens the fake GPU with a folder of its own for what is kept; nothing of it is left allocated."""

    @contextmanager
    def make(folder: Path = tmp_path) -> Iterator[Gpu]:
        before = fake.fake_live_regions()
        gpu = Gpu(Driver(fake), folder=folder, compiler=lambda: nvrtc)
        try:
            yield gpu
            assert fake.fake_live_regions() == before
        finally:
            gpu.close()

    return make  # type: ignore[return-value]


def start(gpu: Callable[[], Any], asked: str = "auto", **more: Any) -> Memory:
    """Choose, as a start does."""
    with gpu(**more) as opened:
        return choose_memory(opened, asked)


@pytest.mark.parametrize(
    ("rates", "integrated", "kind"),
    [
        # GB/s of device, pinned, registered memory and of copies
        ((100, 100, 100, 50), True, "registered"),
        ((100, 105, 100, 50), True, "registered"),  # a difference measurements have anyway
        ((100, 100, 20, 50), True, "pinned"),
        ((100, 20, 20, 50), True, "device"),
        ((100, 20, 20, 5), True, "registered"),  # copies cost more than they save
        ((1000, 20, 20, 20), False, "device"),
        ((20, 100, 100, 5), False, "registered"),
    ],
)
def test_the_kind_in_which_a_byte_costs_least_is_taken(
    gpu, fake: ctypes.CDLL, rates: tuple[int, int, int, int], integrated: bool, kind: str
):
    fake.fake_rates(*rates)
    fake.fake_integrated(integrated)
    found = start(gpu)
    assert found.kind == kind
    timed = {name: (each["gb_s"], each["copy_gb_s"]) for name, each in found.probe["kinds"].items()}
    device, pinned, registered, copies = (pytest.approx(rate, rel=1e-3) for rate in rates)
    assert timed == {"registered": (registered, None), "pinned": (pinned, None), "device": (device, copies)}
    assert f"device at {rates[0]:.3g} GB/s behind copies at {rates[3]}" in found.why
    assert ("share one memory" in found.why) == integrated
    assert start(gpu).kind == kind, "and at the next start"


def test_what_was_timed_is_kept_and_every_start_computes_one_expert(gpu, fake: ctypes.CDLL, tmp_path: Path):
    first = start(gpu)
    assert (first.kind, first.probe["kept"]) == ("registered", False)
    assert {kind: each["direct"] for kind, each in first.probe["kinds"].items()} == {
        "registered": True, "pinned": True, "device": None,
    }  # fmt: skip
    fake.fake_rates(1, 1, 1, 1)
    again = start(gpu)
    assert again.probe == {**first.probe, "kept": True}, "nothing is timed again"
    fake.fake_stale(REGISTERED)
    third = start(gpu)
    assert (third.kind, third.probe["kept"]) == ("pinned", False), "but one expert was computed, and was wrong"
    assert third.why.startswith("registered memory: one expert computed from it is not what the CPU computes; ")
    fake.fake_stale(-1)
    assert start(gpu).kind == "pinned", "and that is what is kept now"


def test_another_driver_is_measured_anew(gpu, fake: ctypes.CDLL, tmp_path: Path):
    start(gpu)
    fake.fake_device(13020, 87, 1)
    assert not start(gpu).probe["kept"]
    assert len(list(tmp_path.glob("memory-sm_87-*.json"))) == 2


@pytest.mark.parametrize("kind", [PINNED, REGISTERED])
def test_memory_the_gpu_sees_stale_is_not_taken(gpu, fake: ctypes.CDLL, kind: int):
    fake.fake_stale(kind)
    name = {PINNED: "pinned", REGISTERED: "registered"}[kind]
    found = start(gpu)
    assert found.kind != name
    assert found.probe["kinds"][name]["is_wrong"]
    with pytest.raises(DeviceError, match=f"experts in {name} memory: one expert computed from it .* or device"):
        start(gpu, name)


def test_memory_that_is_short_for_a_moment_leaves_the_next_kind_and_is_not_kept(gpu, fake: ctypes.CDLL, tmp_path: Path):
    fake.fake_fail_always(b"cuMemHostRegister_v2", 2)
    found = start(gpu)
    assert (found.kind, found.staging) == ("pinned", "pinned")
    assert found.why.startswith("registered memory: the driver refused it (cuMemHostRegister_v2, code 2); ")
    assert list(tmp_path.glob("memory-*")) == []
    fake.fake_recover()
    assert start(gpu).kind == "registered"
    fake.fake_fail_always(b"cuMemHostRegister_v2", 2)
    assert start(gpu).kind == "pinned", "also where another kind was good before"
    fake.fake_fail_always(b"cuMemHostAlloc", 801)
    found = start(gpu)
    assert (found.kind, found.staging) == ("device", "pageable")


def test_kinds_that_fail_while_they_are_timed_are_left_out(gpu, fake: ctypes.CDLL):
    with gpu() as opened:
        launches = 3 * 3  # of the expert, for each kind
        fake.fake_fail(b"cuLaunchKernel", 701, launches)
        found = try_kinds(opened, budget_s=0.01)
    assert found.results["registered"].problem == "the driver refused it (cuLaunchKernel, code 701)"
    assert [kind for kind, each in found.results.items() if each.gb_s] == ["pinned", "device"]


def test_reads_land_in_ordinary_pages_where_no_other_memory_takes_them(gpu, no_reads_into_memory_of_drivers):
    found = start(gpu)
    assert (found.kind, found.staging) == ("device", "pageable")
    assert f"pinned memory: {DIRECT_IS_REFUSED} (Bad address)" in found.why
    again = start(gpu)
    assert (again.kind, again.staging, again.probe["kept"]) == ("device", "pageable", True)
    assert start(gpu, "device").staging == "pageable"


def test_a_file_system_without_such_reads_says_nothing_about_memory(gpu, monkeypatch: pytest.MonkeyPatch):
    def refuse(fd: int, command: int, *rest: Any) -> Any:
        if command == fcntl.F_SETFL and rest[0] & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(fd, command, *rest)

    real = fcntl.fcntl
    monkeypatch.setattr(fcntl, "fcntl", refuse)
    found = start(gpu)
    assert found.kind == "registered"
    assert found.probe["kinds"]["registered"]["direct"] is None


@pytest.mark.parametrize("asked", KINDS)
def test_what_is_asked_for_is_taken_whatever_is_faster(gpu, fake: ctypes.CDLL, asked: str):
    fake.fake_rates(*(1 if kind == asked else 100 for kind in ("device", "pinned", "registered")), 1)
    found = start(gpu, asked)
    assert (found.kind, found.why, found.probe["measured"]) == (asked, "asked for", None)


def test_a_gpu_that_fails_on_a_kind_of_memory_says_how_to_leave_it_out(fake: ctypes.CDLL, nvrtc, tmp_path: Path):
    lost = Gpu(Driver(fake), folder=tmp_path, compiler=lambda: nvrtc)
    fake.fake_fail(b"cuLaunchKernel", 700, 0)
    with pytest.raises(DeviceError, match="failed on registered memory: .*memory=KIND with pinned or device"):
        choose_memory(lost, "auto")
    lost.close()
    fake.fake_recover()


@pytest.mark.parametrize(
    "text",
    [
        b"", b"[", b"[" * 9000, b"{}", b"x" * 20000, b'{"format": 1}', b"\xff\xfe",
        lambda kept: kept | {"format": 2}, lambda kept: kept | {"fingerprint": "0"}, lambda kept: kept | {"more": 1},
        lambda kept: kept["kinds"]["results"].pop("pinned") and kept,
        lambda kept: kept["kinds"]["results"]["pinned"].update(gb_s=-1.0) or kept,
        lambda kept: kept["kinds"]["results"]["pinned"].update(gb_s="fast") or kept,
        lambda kept: kept["kinds"].update(staging="device") or kept,
    ],
)  # fmt: skip
def test_a_kept_file_of_no_use_is_measured_again(gpu, tmp_path: Path, text: Any):
    start(gpu)
    (path,) = tmp_path.glob("memory-*")
    good = json.loads(path.read_text())
    path.write_bytes(text if isinstance(text, bytes) else json.dumps(text(good)).encode())
    assert not start(gpu).probe["kept"]
    assert start(gpu).probe["kept"]


def test_a_folder_that_cannot_be_written_costs_the_time_of_timing(gpu, tmp_path: Path, caplog):
    (tmp_path / "file").touch()
    for _ in range(2):
        found = start(gpu, folder=tmp_path / "file/below")
        assert (found.kind, found.probe["kept"]) == ("registered", False)
    assert "what was measured of the memory cannot be kept" in caplog.text


def test_a_sample_that_changed_is_written_again(gpu, tmp_path: Path):
    record = make_sample().record
    with on_drive(record, tmp_path) as fd:
        assert fd is not None
    (path,) = tmp_path.glob("sample-*")
    for wrong in (b"", record[:-1], record + b"0", bytes(len(record))):
        path.write_bytes(wrong)
        with on_drive(record, tmp_path) as fd:
            assert fd is not None
        assert path.read_bytes() == record


def test_memory_is_read_once_byte_by_byte(bench):
    words = np.arange(4 * 2999, dtype=np.uint32)
    memory = bench.put(words)
    bench.stream.synchronize()
    bench.fake.shim_watch(memory, memory + words.nbytes)
    reader = Reader(bench.module, bench.stream)
    reader.rate(memory, words.nbytes, int(words.sum(dtype=np.uint32)))
    reads = np.zeros(words.nbytes, np.uint8)
    bench.fake.shim_reads(0, reads.ctypes.data_as(ctypes.c_void_p))
    assert set(reads.tolist()) == {3}, "the run that does not count, and two that do"
    reader.close()


def test_timing_takes_turns_and_ends_in_time():
    seen: list[tuple[str, int]] = []

    def rate_of(name: str, error: DeviceError | None = None) -> Callable[[int], float]:
        def rate(nbytes: int) -> float:
            seen.append((name, nbytes))
            if error is not None:
                raise error
            return 1.0 + nbytes

        return rate

    wrong = WrongBytesError("wrong")
    found = measure({"a": rate_of("a"), "b": rate_of("b", wrong), "c": rate_of("c")}, 1 << 30, 0.0)
    assert (found.nbytes, found.failed) == (128 << 10, {"b": wrong})
    assert [name for name, _ in seen] == ["a", "b", "c", "a", "c"]
    assert set(found.found) == {"a", "c"}
    assert measure({"a": rate_of("a")}, 1 << 20, 60.0).nbytes == 1 << 20, "as far as there is something to read"
    with pytest.raises(DeviceError, match="gone"):
        measure({"a": rate_of("a", DeviceError("gone"))}, 1 << 20, 60.0)


def test_more_than_the_cache_is_read_but_not_without_end(gpu, monkeypatch: pytest.MonkeyPatch):
    with gpu() as opened:
        for l2, most in ((0, 16), (4, 16), (20, 40), (1000, 64)):
            monkeypatch.setattr(opened.device, "l2_bytes", l2 << 20)
            assert most_bytes(opened) == most << 20


def test_where_nothing_was_timed_the_order_decides():
    untimed = Kinds(dict.fromkeys(KINDS, KindResult()))
    assert choose(untimed, integrated=True)[0] == "registered"
    kind, why = choose(untimed, integrated=False)
    assert (kind, why) == ("device", "the GPU has memory of its own; nothing was timed")
    with pytest.raises(DeviceError, match="cannot be kept in any memory: registered memory: a; .*Use --backend cpu"):
        choose(Kinds(dict.fromkeys(KINDS, KindResult("a"))), integrated=True)


def test_no_room_for_the_trial_itself_is_named(gpu, fake: ctypes.CDLL):
    with gpu() as opened:
        fake.fake_device_bytes(0)
        with pytest.raises(CudaError, match="device memory"):
            choose_memory(opened, "auto")
        fake.fake_device_bytes(1 << 40)
        DeviceMemory(opened.device, 64).close()


@pytest.mark.usefixtures("over_fake")
def test_reports_and_doctor_say_what_was_chosen_and_why():
    with tiny_model() as bundle:
        found = try_backend(bundle, "cuda", {"memory": "1GiB", "context": 64, "policy": "lossless"}, {})
    choices = json.loads(json.dumps(found))["choices"]
    assert choices["memory"] == "registered"
    assert choices["memory_reason"].startswith("host and GPU share one memory; the GPU reads registered at 100 GB/s")
    assert set(choices["memory_probe"]["kinds"]) == set(KINDS)
    printed = "\n".join(Diagnosis("a board", "generic", (), (), {"cuda": found}).lines())
    assert "memory registered: host and GPU share one memory; the GPU reads registered at" in printed
