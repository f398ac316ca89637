"""Kinds of memory tried on a GPU: an expert that a read past the page cache brought, against the CPU; then timed."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from edge_runtime.backends.cpu.kernels.reference import KERNEL_BOUND
from edge_runtime.backends.cuda.blocks import HOST_KINDS, KINDS, Block, Kind, NoPagesError, Staging, make_block
from edge_runtime.backends.cuda.driver import CudaContextLostError, CudaError, CudaMemoryError
from edge_runtime.backends.cuda.gpu import Gpu
from edge_runtime.backends.cuda.memory_probe.desk import Desk
from edge_runtime.backends.cuda.memory_probe.reading import Reader, WrongBytesError, measure, timed_ms
from edge_runtime.backends.cuda.memory_probe.sample import make_sample, on_drive, read_into
from edge_runtime.base.errors import DeviceError

FILL = 0xA5
"""What lies behind the sample in every block."""
MOST_BYTES, _OF_CACHE, _NEVER_MORE = 16 << 20, 2, 64 << 20
BUDGET_S = 0.25
"""For the timing of all kinds. Allocating them comes on top."""


@dataclass(frozen=True)
class KindResult:
    """What came of a kind of memory.

    Attributes:
        problem: why experts cannot lie there; "" if they can.
        direct: a read past the page cache landed there; None: no file system at hand has such reads, or the host
            cannot touch the memory.
        gb_s: 10^9 bytes a second that the GPU reads there; None: not measured.
        copy_gb_s: that copies there reach, where reads of the drive cannot land.
        passes: the problem may be over next time.
        is_wrong: the GPU gets other bytes than were written.
    """

    problem: str = ""
    direct: bool | None = None
    gb_s: float | None = None
    copy_gb_s: float | None = None
    passes: bool = False
    is_wrong: bool = False


@dataclass(frozen=True)
class Kinds:
    """What came of all kinds.

    Attributes:
        results: by kind.
        staging: what reads land in on their way to the GPU's own memory.
        nbytes: of each kind that were read to time it; 0: nothing was timed.
    """

    results: dict[Kind, KindResult] = field(default_factory=dict)
    staging: Staging = "pageable"
    nbytes: int = 0


def most_bytes(gpu: Gpu) -> int:
    """Return how much of a kind is read at most: more than the GPU's cache holds, if that is not very large."""
    return min(_NEVER_MORE, max(MOST_BYTES, _OF_CACHE * gpu.device.l2_bytes))


def try_kinds(gpu: Gpu, kinds: Sequence[Kind] = KINDS, *, budget_s: float = 0.0, most: int = 0) -> Kinds:
    """Compute one expert from each kind of memory, and time reading it.

    Args:
        gpu: the GPU.
        kinds: of memory, those of the host first.
        budget_s: for timing; 0: nothing is timed.
        most: bytes of a kind that are read at most; `most_bytes` if 0.

    Raises:
        CudaMemoryError: there is no room for the expert's activations.
        DeviceError: the GPU failed in a way that ends its use, or kernels do not end.
    """
    nbytes = (most or most_bytes(gpu)) if budget_s else len(make_sample().record)
    with ExitStack() as undo:
        trial = undo.enter_context(_Trial.open(gpu))
        results = {kind: trial.try_kind(kind, nbytes, undo) for kind in kinds}
        if budget_s:
            trial.time(results, nbytes, budget_s)
        return Kinds(results, trial.staging(), trial.timed_bytes)


class _Trial:
    """Kinds of memory that are being tried, and what is needed for it."""

    def __init__(self, gpu: Gpu, desk: Desk, reader: Reader, fd: int | None) -> None:
        self._gpu, self._desk, self._reader, self._fd = gpu, desk, reader, fd
        self._sample = make_sample()
        self._blocks: dict[Kind | Staging, Block] = {}
        self.timed_bytes = 0

    @classmethod
    @contextmanager
    def open(cls, gpu: Gpu) -> Iterator[_Trial]:
        sample = make_sample()
        with ExitStack() as undo:
            desk = Desk(gpu, sample)
            undo.callback(desk.close)
            reader = Reader(gpu.module, gpu.compute)
            undo.callback(reader.close)
            yield cls(gpu, desk, reader, undo.enter_context(on_drive(sample.record, gpu.folder)))

    def staging(self) -> Staging:
        """Return what reads can land in, whatever kernels read."""
        return next((kind for kind in HOST_KINDS if kind in self._blocks), "pageable")

    def try_kind(self, kind: Kind, nbytes: int, undo: ExitStack) -> KindResult:
        """Compute the expert from a kind of memory; where that works the block stays until `undo` is left."""
        if kind == "registered" and not self._gpu.device.registers_host_memory:
            return KindResult("this GPU or driver cannot register memory of the system")
        with ExitStack() as mine:
            try:
                with _naming(kind):
                    block = make_block(self._gpu.device, kind, nbytes)
                    mine.callback(block.close)
                    direct = self._land(block)
                    self._compare(block.address)
            except OSError as err:
                return KindResult(f"the drive cannot read into it past the page cache ({err.strerror})", False)
            except (CudaError, WrongBytesError) as err:
                return _failed(err)
            except NoPagesError as err:
                return KindResult(str(err), passes=True)
            self._blocks[kind] = block
            undo.push(mine.pop_all())
        return KindResult(direct=direct)

    def _land(self, block: Block) -> bool | None:
        """Bring the sample to a block, as experts will be; say whether a read past the page cache landed in it."""
        if block.host is not None:
            return self._read(block.host, block.nbytes)
        self._copy(block, self._landed(block.nbytes), block.nbytes)
        return None

    def _landed(self, nbytes: int) -> Block:
        """Return memory of the host with the sample in it: ordinary pages, where no kind of the host's is good."""
        kind = self.staging()
        if kind not in self._blocks:
            self._blocks[kind] = staging = make_block(self._gpu.device, kind, nbytes)
            assert staging.host is not None
            self._write(staging.host, nbytes)
        return self._blocks[kind]

    def _read(self, host: int, nbytes: int) -> bool | None:
        if self._fd is None:
            self._write(host, nbytes)
            return None
        ctypes.memset(host, FILL, nbytes)
        read_into(self._fd, host, len(self._sample.record))
        return True

    def _write(self, host: int, nbytes: int) -> None:
        record = self._sample.record
        ctypes.memset(host, FILL, nbytes)
        ctypes.memmove(host, record, len(record))

    def _copy(self, to: Block, staging: Block, nbytes: int) -> None:
        stream = self._gpu.compute
        stream.device.call("cuMemcpyHtoDAsync_v2", to.address, staging.host, nbytes, stream.handle)

    def _compare(self, address: int) -> None:
        """Compute the expert where it lies.

        Raises:
            WrongBytesError: what comes out is not what the CPU's kernels give.
        """
        found, want = self._desk.compute(address), self._sample.y
        if not np.abs(found - want).max() <= KERNEL_BOUND * np.abs(want).max():
            raise WrongBytesError("one expert computed from it is not what the CPU computes")

    def time(self, results: dict[Kind, KindResult], nbytes: int, budget_s: float) -> None:
        """Time what was found good; changes `results`."""
        good = [kind for kind in results if kind in self._blocks]
        rates: dict[str, Callable[[int], float]] = {kind: partial(self._rate, kind) for kind in good}
        if "device" in good:
            rates["copy"] = partial(self._copy_rate, self._landed(nbytes))
        timed = measure(rates, nbytes, budget_s)
        self.timed_bytes = timed.nbytes if good else 0
        for kind in good:
            own = (kind, "copy") if kind == "device" else (kind,)
            error = next((timed.failed[name] for name in own if name in timed.failed), None)
            copied = timed.found.get("copy") if kind == "device" else None
            rated = KindResult(direct=results[kind].direct, gb_s=timed.found.get(kind), copy_gb_s=copied)
            results[kind] = _failed(error) if error else rated

    def _rate(self, kind: Kind, nbytes: int) -> float:
        with _naming(kind):
            return self._reader.rate(self._blocks[kind].address, nbytes, expected_sum(self._sample.record, nbytes))

    def _copy_rate(self, staging: Block, nbytes: int) -> float:
        with _naming("device"):
            ms = timed_ms(self._gpu.compute, lambda: self._copy(self._blocks["device"], staging, nbytes))
            return nbytes / max(ms, 1e-6) / 1e6


def _failed(err: CudaError | WrongBytesError) -> KindResult:
    if isinstance(err, WrongBytesError):
        return KindResult(str(err), is_wrong=True)
    return KindResult(f"the driver refused it ({err.call}, code {err.code})", passes=isinstance(err, CudaMemoryError))


@contextmanager
def _naming(kind: Kind) -> Iterator[None]:
    """Say what to do where trying a kind of memory ended the use of the GPU by this process."""
    try:
        yield
    except CudaContextLostError as err:
        others = " or ".join(each for each in KINDS if each != kind)
        raise DeviceError(
            f"cuda: the GPU failed on {kind} memory: {err} If it happens again, choose another kind for experts, "
            f"--backend cuda:memory=KIND with {others}."
        ) from err


def expected_sum(record: bytes, nbytes: int) -> int:
    """Return the sum of the 32-bit words of a block's first bytes: the sample, then `FILL`; modulo 2^32."""
    own = int(np.frombuffer(record, np.uint32)[: nbytes // 4].sum(dtype=np.uint32))
    rest = max(0, nbytes - len(record)) // 4
    return (own + rest * int.from_bytes(bytes([FILL] * 4), "little")) % (1 << 32)
