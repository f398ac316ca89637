"""What our code uses of TensorRT, which is what the fake has, is in the real bindings of both versions.

The bindings import over a library of nine functions that do nothing. Names, members of enums and the arguments that
their docstrings state are compared; nothing of TensorRT runs.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cuda import fake_tensorrt

pytestmark = pytest.mark.emulation
FOLDER = Path(os.environ.get("HB_TENSORRT_BINDINGS", "build/tensorrt"))
VERSIONS = ("10.3", "10.16")
STUB = """
void* createInferBuilder_INTERNAL(void* l, int v) { return 0; }
void* createInferRefitter_INTERNAL(void* e, void* l, int v) { return 0; }
void* createInferRuntime_INTERNAL(void* l, int v) { return 0; }
void* createNvOnnxParserRefitter_INTERNAL(void* r, void* l, int v) { return 0; }
void* createNvOnnxParser_INTERNAL(void* n, void* l, int v) { return 0; }
void* getBuilderPluginRegistry(int c) { return 0; }
int getNvOnnxParserVersion(void) { return 0; }
void* getPluginRegistry(void) { return 0; }
unsigned char initLibNvInferPlugins(void* l, const char* n) { return 0; }
"""
LOOK = """
import json, sys
import tensorrt_bindings as trt
found = {}
for name, members in json.loads(sys.argv[1]).items():
    kind = getattr(trt, name, None)
    found[name] = {m: getattr(getattr(kind, m), "__doc__", "") or "" for m in members if kind and hasattr(kind, m)}
print(json.dumps([trt.__version__, found]))
"""


def offered() -> dict[str, list[str]]:
    """Members of each class of the fake, less what it has for tests."""
    found = {}
    for kind in fake_tensorrt.OFFERED:
        own = fake_tensorrt.OURS.get(kind.__name__, set())
        members = list(kind.__members__) if hasattr(kind, "__members__") else [n for n in vars(kind) if n[0] != "_"]
        found[kind.__name__] = sorted({*members, *fake_tensorrt.ATTRIBUTES.get(kind.__name__, ())} - own)
    return found


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stubs")
    (folder / "stub.c").write_text(STUB)
    for name in ("nvinfer", "nvonnxparser", "nvinfer_plugin"):
        library = f"lib{name}.so.10"
        command = ["gcc", "-shared", "-fPIC", "-w", str(folder / "stub.c"), "-o", str(folder / library)]
        subprocess.run([*command, f"-Wl,-soname,{library}"], check=True)
    return folder


@pytest.mark.parametrize("version", VERSIONS)
def test_the_fake_has_nothing_the_bindings_lack(stubs: Path, version: str):
    bindings = FOLDER.resolve() / version
    if not (bindings / "tensorrt_bindings").is_dir():
        pytest.skip(
            f"no bindings of TensorRT {version} in {FOLDER}: NOTHING was compared. make gpu-emulation fetches them"
        )
    names = offered()
    done = subprocess.run(
        [sys.executable, "-c", LOOK, json.dumps(names)], capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(bindings), "LD_LIBRARY_PATH": str(stubs)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found_version, found = json.loads(done.stdout)
    assert found_version.startswith(f"{version}.")
    assert {name: sorted(members) for name, members in found.items()} == names
    compared = 0
    for kind in fake_tensorrt.OFFERED:
        for name, documented in found[kind.__name__].items():
            signature = re.search(rf"^{name}\(self: [^,)]+(?:, (?P<rest>.*))?\) ->", documented)
            function = vars(kind).get(name)
            if signature is None or not inspect.isfunction(function):
                continue
            mine = [p for p in inspect.signature(function).parameters if p != "self"]
            theirs = re.findall(r"(\w+): ", signature["rest"] or "")
            assert mine == theirs[: len(mine)], f"{kind.__name__}.{name}"
            compared += 1
    assert compared >= 10, "signatures are in the docstrings of both versions"
