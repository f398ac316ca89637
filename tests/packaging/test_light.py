"""What a CPU-only device must never pay for: torch, transformers, slow start."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def run_python(code: str, *args: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_running_never_imports_torch_or_transformers(model_bundle):
    code = """
import sys
from edge_runtime.__main__ import main
bundle = sys.argv[1]
assert main(["run", bundle, "--prompt", "import os", "--max-tokens", "3", "--memory", "1GiB", "--context", "128"]) == 0
assert main(["plan", bundle, "--memory", "1GiB", "--context", "128"]) == 0
assert main(["verify", bundle, "--memory", "1GiB", "--context", "128"]) == 0
bad = {"torch", "transformers", "onnx", "safetensors", "hobbit_export"} & set(sys.modules)
assert not bad, bad
"""
    run_python(code, str(model_bundle))


def test_exporting_never_imports_torch_or_transformers(tmp_path):
    code = """
import sys
from hobbit_export.cli import main
assert main([sys.argv[1], "--out", sys.argv[2], "--dry-run"]) == 0
assert main([sys.argv[1], "--out", sys.argv[2], "--tiers", "2", "--trunk", "fp32"]) == 0
bad = {"torch", "transformers"} & set(sys.modules)
assert not bad, bad
"""
    from conftest import MODEL

    run_python(code, str(MODEL), str(tmp_path / "bundle"))


@pytest.mark.parametrize("module", ["edge_runtime", "hobbit_export"])
def test_help_is_light(module):
    """CPU time, not wall time, and the best of three: another process on the machine must not fail this."""
    best = float("inf")
    for _ in range(3):
        before = os.times()
        subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, check=True)
        after = os.times()
        best = min(best, after.children_user + after.children_system - before.children_user - before.children_system)
    assert best < 0.3, f"{best:.2f} s of CPU time"


def test_help_imports_nothing_heavy():
    code = """
import sys
from edge_runtime.__main__ import main
try:
    main(["run", "--help"])
except SystemExit:
    pass
bad = {"numpy", "onnxruntime", "tokenizers", "yaml", "rich", "jinja2", "psutil"} & set(sys.modules)
assert not bad, bad
"""
    run_python(code)


def test_public_names_exist():
    import edge_runtime

    assert all(getattr(edge_runtime, name) is not None for name in edge_runtime.__all__)
    with pytest.raises(AttributeError, match="no attribute"):
        _ = edge_runtime.nothing
