"""The fake driver and the binding agree with NVIDIA's own header, where one is installed."""

from __future__ import annotations

import ctypes
import sys
import sysconfig
from pathlib import Path

import pytest
from cuda.build import SHIM, compile_command, run

from edge_runtime.backends.cuda.driver.library import FUNCTIONS

KIND = """
#include <cuda.h>
template <class T> constexpr char kind() { return std::is_pointer_v<T> ? 'p' : char('0' + sizeof(T)); }
template <class R, class... A> constexpr bool has(R (*)(A...), const char* expected) {
  const char mine[] = {kind<A>()..., 0};
  static_assert(sizeof(R) == 4);
  for (int i = 0; i <= int(sizeof...(A)); ++i)
    if (mine[i] != expected[i]) return false;
  return true;
}
"""


def headers() -> list[Path]:
    """Folders with a cuda.h: of wheels, and of toolkits."""
    wheels = Path(sysconfig.get_paths()["purelib"], "nvidia").glob("*/include/cuda.h")
    found = [*wheels, *Path("/usr/local").glob("cuda*/include/cuda.h")]
    return sorted({path.parent.resolve() for path in found})


@pytest.fixture(scope="module")
def header() -> Path:
    found = headers()
    if not found:
        pytest.skip("no cuda.h here: nothing was checked against NVIDIA's header (make gpu-compile brings one)")
    return found[0]


def test_the_fake_driver_has_the_signatures_and_numbers_of_the_header(header: Path, tmp_path: Path):
    run([compile_command(SHIM / "fake_cuda.cpp", tmp_path / "o.o", "-DWITH_CUDA_H", f"-isystem{header}")])


def kinds(types: tuple[type, ...]) -> str:
    return "".join("p" if t is ctypes.c_void_p else str(ctypes.sizeof(t)) for t in types)


def check_binding(header: Path, folder: Path, functions: dict[str, tuple[type, ...]]) -> None:
    lines = [f'static_assert(has(&{name}, "{kinds(types)}"), "{name}");' for name, types in functions.items()]
    source = folder / "binding.cpp"
    source.write_text("#include <type_traits>\n" + KIND + "\n".join(lines))
    run([compile_command(source, folder / "o.o", f"-isystem{header}")])


def test_the_binding_has_the_arguments_of_the_header(header: Path, tmp_path: Path):
    check_binding(header, tmp_path, FUNCTIONS)


@pytest.mark.parametrize(
    "wrong", [(ctypes.c_void_p, ctypes.c_uint), (ctypes.c_void_p,), (ctypes.c_uint64, ctypes.c_size_t)]
)
def test_a_wrong_argument_is_found(header: Path, tmp_path: Path, wrong: tuple[type, ...]):
    with pytest.raises(AssertionError, match="cuMemAlloc_v2"):
        check_binding(header, tmp_path, {"cuMemAlloc_v2": wrong})


def test_this_is_a_64_bit_machine():
    assert sys.maxsize == 2**63 - 1, "handles are read as 64 bits"
