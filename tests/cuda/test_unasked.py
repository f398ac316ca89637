"""Nothing of NVIDIA's is loaded unless it is asked for, also on a machine that has all of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cuda.build import Fakes

TESTS = Path(__file__).parents[1]
LOADED = """
import sys
maps = open('/proc/self/maps').read()
found = [name for name in ('libcuda', 'libnvrtc', 'libnvinfer', 'libcudart', 'libcudnn') if name in maps]
modules = ('cuda', 'cupy', 'pycuda', 'tensorrt', 'tensorrt_rtx', 'pynvml', 'numba')
found += sorted({name.split('.')[0] for name in sys.modules} & {*modules})
found += [name for name in sys.modules if name.startswith('edge_runtime.backends.cuda.driver')]
print(*found)
"""
HAS_A_GPU = """
import sys
from edge_runtime.backends.cuda import presence
presence.has_gpu.__defaults__ = ((sys.executable,),)
"""
RUN = """
from edge_runtime import Engine, SamplingParams
with Engine.open(sys.argv[1], backend=sys.argv[2], memory='1GiB', context=64, self_check=False, threads=1) as engine:
    report = engine.generate([1, 2], SamplingParams(max_tokens=1)).to_json()
assert report['backend'] == 'cpu' and bool(report['passed_over']) == is_there, report['passed_over']
"""
PLAN = """
import contextlib, io
from edge_runtime.__main__ import main
with contextlib.redirect_stdout(io.StringIO()):
    assert main([sys.argv[3], sys.argv[1], '--memory', '1GiB', '--context', '64', '--backend', sys.argv[2]]) == 0
"""
ASKED = """
from edge_runtime.backends.cuda.driver import Driver
Driver()
"""


def loaded(fakes: Fakes, code: str, *words: str, is_there: bool = True) -> str:
    """What of NVIDIA's a program has loaded, where libraries of these names can be."""
    program = f"is_there = {is_there}\nimport sys\n{HAS_A_GPU if is_there else ''}{code}{LOADED}"
    environment = {"PATH": "/usr/bin:/bin", "LD_LIBRARY_PATH": str(fakes.libcuda.parent)}
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


@pytest.mark.parametrize("is_there", [True, False], ids=["a GPU", "no GPU"])
@pytest.mark.parametrize("backend", ["auto", "cpu"])
def test_a_request_on_the_cpu_loads_nothing(fakes: Fakes, model_bundle: Path, backend: str, is_there: bool):
    assert loaded(fakes, RUN, str(model_bundle), backend, is_there=is_there) == ""


def test_a_plan_loads_nothing(fakes: Fakes, model_bundle: Path):
    assert loaded(fakes, PLAN, str(model_bundle), "auto", "plan") == ""


def test_what_is_asked_for_is_seen(fakes: Fakes):
    assert "libcuda" in loaded(fakes, ASKED).split()
