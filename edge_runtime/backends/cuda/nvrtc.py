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
ADVICE = (
    "JetPack 6.2: sudo apt install cuda-nvrtc-12-6. JetPack 7.2: sudo apt install cuda-nvrtc-13-2. Elsewhere: pip "
    "install nvidia-cuda-nvrtc-cu12; for Thor (sm_110), which needs NVRTC 13: pip install 'nvidia-cuda-nvrtc>=13'. "
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
        library: path of libnvrtc; if left out the first one found, and another one for what that does not compile for.

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

    def require(self, arch: str) -> None:
        """Check that it compiles for an architecture; where another library here does and this does not, take that.

        Raises:
            DeviceError: none does.
        """
        known = self.architectures()
        if arch in known:
            return
        other = None if self._is_given else _library_for(arch)
        if other is None:
            version = ".".join(map(str, self.version))
            raise DeviceError(f"cuda: NVRTC {version} compiles for {', '.join(known)}, not for {arch}. {ADVICE}")
        self._lib, self.version = other._lib, other.version

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


def _library_for(arch: str) -> Nvrtc | None:
    """Return the first library found that compiles for an architecture; None where there is none."""
    for name in candidates():
        with suppress(DeviceError):  # it is not there, or too old
            found = Nvrtc(name)
            if arch in found.architectures():
                return found
    return None
