"""Run tests of the native code under a sanitizer: `python tests/fuzz/sanitize.py address|thread [tests ...]`.

Builds every native module with it into build/sanitize-KIND, beside a copy of the Python sources, and runs pytest there.
AddressSanitizer comes with UndefinedBehaviorSanitizer. Needs GCC with its sanitizer libraries.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FLAGS = {
    "address": "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g1 -O1",
    "thread": "-fsanitize=thread -fno-omit-frame-pointer -g1 -O1",
}
LIBRARY = {"address": "libasan.so", "thread": "libtsan.so"}
OPTIONS = {
    # the interpreter itself leaks; what is freed twice or read beyond its end ends the run
    "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:allocator_may_return_null=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1",
}
# every module and every kernel: readers, ledgers and choices of experts, rows of each format, layers of the trunk
THREADED = [
    "tests/contract",
    "tests/unit/test_kernels.py",
    "tests/unit/test_mixed_tiers.py",
    "tests/unit/test_residency.py",
    "tests/integration/test_native_trunk.py",
    "tests/integration/test_token_calls.py",
]
TESTS = {
    "address": [
        *THREADED,
        "tests/unit/test_cache.py",
        "tests/unit/test_dense_matrix.py",
        "tests/unit/test_fp4_records.py",
        "tests/unit/test_kernel_variants.py",
        "tests/unit/test_next_use.py",
        "tests/unit/test_other_policies_by_hand.py",
        "tests/unit/test_policies_by_hand.py",
        "tests/unit/test_router.py",
    ],
    "thread": THREADED,
}
SITECUSTOMIZE = """# commands that tests start: without this, an editable install would come before the copy
import sys

sys.meta_path[:] = [finder for finder in sys.meta_path if not type(finder).__module__.startswith("_editable")]
"""
INSIDE = "import sys; sys.path[:0] = sys.argv.pop(1).split(':'); import pytest; sys.exit(pytest.main(sys.argv[1:]))"


def build(kind: str) -> Path:
    """Build the native modules and put them beside a copy of the sources; return the folder."""
    folder = ROOT / "build" / f"sanitize-{kind}"
    site = folder / "site"
    shutil.rmtree(site, ignore_errors=True)
    shutil.copytree(ROOT / "edge_runtime", site / "edge_runtime", ignore=shutil.ignore_patterns("src", "*.so"))
    shutil.copytree(ROOT / "export" / "hobbit_export", site / "hobbit_export")
    shutil.copytree(ROOT / "profiles", site / "edge_runtime" / "profiles", dirs_exist_ok=True)
    (site / "sitecustomize.py").write_text(SITECUSTOMIZE)
    configure = [
        "cmake", "-S", str(ROOT), "-B", str(folder / "cmake"), "-G", "Ninja", f"-DPython_EXECUTABLE={sys.executable}",
        "-DCMAKE_BUILD_TYPE=None", f"-DCMAKE_CXX_FLAGS={FLAGS[kind]}", f"-DCMAKE_INSTALL_PREFIX={site}",
        "-DSKBUILD_PROJECT_NAME=hobbit-edge", "-DSKBUILD_PROJECT_VERSION=0",
    ]  # fmt: skip
    subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", str(folder / "cmake")], check=True)
    subprocess.run(["cmake", "--install", str(folder / "cmake")], check=True, stdout=subprocess.DEVNULL)
    return site


def run(kind: str, site: Path, tests: list[str]) -> int:
    """Run pytest with the sanitizer's library loaded first, on the copy; return its exit code."""
    # the interpreter is no C++ program: without its library the sanitizer cannot pass exceptions on
    libraries = [_library(LIBRARY[kind]), _library("libstdc++.so.6")]
    # without `site` no editable install takes the place of the copy
    paths = [
        str(site),
        str(ROOT / "tests"),
        *[path for path in sys.path if path and not path.startswith(str(ROOT / "tests" / "fuzz"))],
    ]
    command = [
        sys.executable,
        "-S",
        "-c",
        INSIDE,
        ":".join(paths),
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "--capture=sys",
        *tests,
    ]
    if kind == "thread":
        command = ["setarch", platform.machine(), "-R", *command]  # it needs addresses where it expects them
    environment = {
        **os.environ,
        **OPTIONS,
        "LD_PRELOAD": ":".join(libraries),
        "PYTHONPATH": ":".join(paths),
        "PYTHONMALLOC": "malloc",
        "PYTHONSAFEPATH": "1",  # nor do the sources in the current folder come before the copy (Python 3.11 and newer)
    }
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def _library(name: str) -> str:
    command = ["gcc", f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> int:
    kind, *tests = sys.argv[1:] or ["address"]
    return run(kind, build(kind), tests or TESTS[kind])


if __name__ == "__main__":
    sys.exit(main())
