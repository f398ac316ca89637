"""The wheel holds everything an installed copy needs: installed in an empty environment, outside the repository."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]

IMPORT_ALL = """
import importlib.util, pkgutil, sys
import edge_runtime, hobbit_export
root = sys.argv[1]
for package in (edge_runtime, hobbit_export):
    assert package.__file__.startswith(root), package.__file__
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        # the model class of lm-evaluation-harness is a class of that library, which is an extra
        needs_harness = module.name == "edge_runtime.lab.harness.model" and not importlib.util.find_spec("lm_eval")
        if not module.name.endswith("__main__") and not needs_harness:
            importlib.import_module(module.name)
from edge_runtime.config.profiles import load_profile
for name in ("generic", "orin-nano-8gb", "orin-nx-16gb", "agx-orin-32gb", "agx-orin-64gb"):
    load_profile(name)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(out),
        str(REPO),
    ]
    command += ["-C", f"build-dir={out / 'build'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return next(out.glob("*.whl"))


@pytest.mark.slow
def test_installed_wheel_imports_everything_and_exports_and_runs(wheel, tmp_path):
    home = tmp_path / "env"
    venv.create(home, with_pip=False)
    site = next((home / "lib").glob("python*/site-packages"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        names = archive.namelist()
    assert not [n for n in names if n.endswith((".cpp", ".hpp"))], "sources do not belong in the wheel"
    assert "edge_runtime/backends/cuda/kernels/hobbit.cu" in names, "but for what the device compiles"
    assert not [n for n in names if n.startswith(("export/", "profiles/", "tests/"))], "generic top-level names"
    # dependencies come from this environment; nested .pth files (our own editable install) are not followed
    dependencies = next(p for p in sys.path if p.endswith("site-packages"))
    (site / "dependencies.pth").write_text(dependencies + "\n")
    python = home / "bin" / "python"

    def run(*args: str) -> str:
        done = subprocess.run([str(python), *args], capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    run("-c", IMPORT_ALL, str(home))
    model = REPO / "examples" / "tiny-moe"
    run("-m", "hobbit_export", str(model), "--out", "bundle", "--tiers", "4", "--trunk", "int8")
    assert run(
        "-m", "edge_runtime", "run", "bundle", "--prompt", "def f(", "--max-tokens", "4", "--memory", "1GiB"
    ).strip()


def test_sdist_holds_what_a_build_needs(tmp_path):
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "-o", str(tmp_path), str(REPO)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    listing = subprocess.run(
        ["tar", "tzf", str(next(tmp_path.glob("*.tar.gz")))], capture_output=True, text=True, check=True
    )
    for needed in (
        "CMakeLists.txt",
        "export/hobbit_export/cli.py",
        "profiles/generic.yaml",
        "edge_runtime/backends/cpu/kernels/src/",
    ):
        assert needed in listing.stdout, needed
    assert "model.safetensors" not in listing.stdout
