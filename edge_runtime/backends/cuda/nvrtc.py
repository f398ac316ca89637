"""NVRTC, NVIDIA's compiler as a library, by ctypes: no toolkit, no headers, no package."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from edge_runtime.backends.cuda.sources import MAIN, OPTIONS, KernelSource
from edge_runtime.base.errors import DeviceError

_NAMES = ("libnvrtc.so.12", "libnvrtc.so.13", "libnvrtc.so")
_FUNCTIONS = (
    "nvrtcVersion", "nvrtcGetNumSupportedArchs", "nvrtcGetSupportedArchs", "nvrtcCreateProgram", "nvrtcCompileProgram",
    "nvrtcGetCUBINSize", "nvrtcGetCUBIN", "nvrtcGetProgramLogSize", "nvrtcGetProgramLog", "nvrtcDestroyProgram",
    "nvrtcGetErrorString",
)  # fmt: skip
Version = tuple[int, int]
"""Of CUDA: major and minor."""
WHEELS: dict[Version, str] = {(12, 6): "nvidia-cuda-nvrtc-cu12==12.6.85", (13, 2): "nvidia-cuda-nvrtc==13.2.*"}
"""NVIDIA's wheels for the drivers of JetPack 6.2 and 7.2: the newest ones are for newer drivers."""
ADVICE = (
    "JetPack 6.2: sudo apt install cuda-nvrtc-12-6. JetPack 7.2: sudo apt install cuda-nvrtc-13-2. Elsewhere: pip "
    f"install {WHEELS[12, 6]}; for Thor (sm_110), which needs NVRTC 13: pip install '{WHEELS[13, 2]}'. "
    "Kernels compiled on another machine do as well: docs/cuda.md."
)


def candidates() -> Iterator[str]:
    """Yield names and paths the library may have: the linker's, then those of NVIDIA's wheels."""
    yield from _NAMES
    found = importlib.util.find_spec("nvidia")
    for folder in found.submodule_search_locations or () if found else ():
        for pattern in ("cuda_nvrtc/lib/libnvrtc.so.*", "cu13/lib/libnvrtc.so.*"):
            yield from map(str, sorted(Path(folder).glob(pattern)))


def open_first(names: Iterator[str]) -> ctypes.CDLL:
    """Load the first library that loads and has all the functions.

    Raises:
        DeviceError: there is none.
    """
    failed = []
    for name in names:
        try:
            library = ctypes.CDLL(name)
        except OSError as err:
            failed.append(f"{name}: {err}")
            continue
        lacking = next((function for function in _FUNCTIONS if not hasattr(library, function)), "")
        if not lacking:
            return library
        failed.append(f"{name} has no {lacking}: it is too old")
    raise DeviceError(f"cuda: no NVRTC to compile the kernels with ({'; '.join(failed)}). {ADVICE}")


class Nvrtc:
    """The compiler.

    Args:
        library: path of libnvrtc; if left out the first one found, and another one where `require` finds that better.

    Attributes:
        version: major and minor.

    Raises:
        DeviceError: there is none.
    """

    def __init__(self, library: str | None = None) -> None:
        self._is_given = library is not None
        self._lib = open_first(candidates() if library is None else iter([library]))
        self._lib.nvrtcGetErrorString.restype = ctypes.c_char_p
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._check("nvrtcVersion", self._lib.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
        self.version = major.value, minor.value

    def architectures(self) -> list[str]:
        """Return what it compiles for, as "sm_87"."""
        count = ctypes.c_int()
        self._check("nvrtcGetNumSupportedArchs", self._lib.nvrtcGetNumSupportedArchs(ctypes.byref(count)))
        numbers = (ctypes.c_int * count.value)()
        self._check("nvrtcGetSupportedArchs", self._lib.nvrtcGetSupportedArchs(numbers))
        return [f"sm_{number}" for number in numbers]

    def require(self, arch: str, driver: Version | None = None) -> None:
        """Check that it compiles for an architecture and a driver; where another library here does so better, take it.

        A library no newer than the driver is the best one. One of a later minor version is taken where there is no
        other: most of what it compiles loads.

        Args:
            arch: as "sm_87".
            driver: the CUDA version the driver supports; None: whatever it is.

        Raises:
            DeviceError: none compiles for the architecture, or all that do are of a later major version.
        """
        best: Nvrtc | None = None
        for each in self._libraries():
            if arch not in each.architectures():
                continue
            if best is None or each._lead(driver) < best._lead(driver):
                best = each
            if not best._lead(driver):
                break
        if best is None:
            known = ", ".join(self.architectures())
            raise DeviceError(f"cuda: NVRTC {dotted(self.version)} compiles for {known}, not for {arch}. {ADVICE}")
        if driver is not None and best._lead(driver) > 1:
            raise DeviceError(f"cuda: {too_new(best.version, driver)}")
        self._lib, self.version = best._lib, best.version

    def _libraries(self) -> Iterator[Nvrtc]:
        """Yield this one and, unless it was asked for by its path, the others that load."""
        yield self
        for name in () if self._is_given else candidates():
            with suppress(DeviceError):  # it is not there, or too old
                yield Nvrtc(name)

    def _lead(self, driver: Version | None) -> int:
        """Say how far it is ahead of a driver: 0 not at all, 1 by a minor version, 2 by a major one."""
        if driver is None or self.version <= driver:
            return 0
        return 1 if self.version[0] == driver[0] else 2

    def compile(self, source: KernelSource, arch: str, options: tuple[str, ...] = ()) -> tuple[bytes, str]:
        """Compile the kernels.

        Args:
            source: their text.
            arch: as "sm_87".
            options: beyond those of every compiler.

        Returns:
            The cubin, and what the compiler said.

        Raises:
            DeviceError: it does not know the architecture, or refuses the source.
        """
        self.require(arch)
        program = self._create(source)
        try:
            every = [text.encode() for text in (f"--gpu-architecture={arch}", *OPTIONS, *options)]
            code = self._lib.nvrtcCompileProgram(program, len(every), (ctypes.c_char_p * len(every))(*every))
            log = self._text("nvrtcGetProgramLog", program)
            self._check("nvrtcCompileProgram", code, log)
            return self._bytes("nvrtcGetCUBIN", program), log
        finally:
            self._lib.nvrtcDestroyProgram(ctypes.byref(program))

    def _create(self, source: KernelSource) -> ctypes.c_void_p:
        program, count = ctypes.c_void_p(), len(source.headers)
        names = (ctypes.c_char_p * count)(*(name.encode() for name in source.headers))
        texts = (ctypes.c_char_p * count)(*(text.encode() for text in source.headers.values()))
        main = source.main.encode(), MAIN.encode()
        code = self._lib.nvrtcCreateProgram(ctypes.byref(program), *main, count, texts, names)
        self._check("nvrtcCreateProgram", code)
        return program

    def _bytes(self, name: str, program: ctypes.c_void_p) -> bytes:
        size = ctypes.c_size_t()
        self._check(f"{name}Size", getattr(self._lib, f"{name}Size")(program, ctypes.byref(size)))
        out = ctypes.create_string_buffer(size.value)
        self._check(name, getattr(self._lib, name)(program, out))
        return out.raw

    def _text(self, name: str, program: ctypes.c_void_p) -> str:
        return self._bytes(name, program).rstrip(b"\0").decode("utf-8", "replace")

    def _check(self, call: str, code: Any, log: str = "") -> None:
        if code:
            name = (self._lib.nvrtcGetErrorString(code) or b"an unknown code").decode("ascii", "replace")
            said = f":\n{log[:4000]}" if log else ""
            raise DeviceError(f"cuda: {call} failed with {name} ({code}). Report this message{said}")


def dotted(version: Version) -> str:
    """Write a version as "12.6"."""
    return ".".join(map(str, version))


def too_new(version: Version, driver: Version) -> str:
    """Say that a library is newer than the driver, and which package is not.

    Args:
        version: of the library.
        driver: the CUDA version the driver supports.
    """
    major, minor = driver
    name = "nvidia-cuda-nvrtc-cu12" if major < 13 else "nvidia-cuda-nvrtc"
    wheel = WHEELS.get(driver, f"{name}<{major}.{minor + 1}")
    return (
        f"NVRTC {dotted(version)} is newer than the driver, which supports CUDA {dotted(driver)}. Install one that is "
        f"not: sudo apt install cuda-nvrtc-{major}-{minor}, or pip install '{wheel}'."
    )
