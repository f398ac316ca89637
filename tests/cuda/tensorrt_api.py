"""What TensorRT's Python bindings have of what our code uses: members of classes, and the arguments they state.

`python -m cuda.tensorrt_api` reads both versions' bindings and writes tensorrt_api.json, so that the fake is held
against them where they are not installed. They import over a library of nine functions that do nothing; nothing of
TensorRT runs. `make gpu-emulation` fetches them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from cuda import fake_tensorrt

API = Path(__file__).with_suffix(".json")
FOLDER = Path(os.environ.get("HB_TENSORRT_BINDINGS", "build/tensorrt"))
VERSIONS = ("10.3", "10.16")
Api = dict[str, dict[str, list[str] | None]]
"""By class and member: names of arguments in order; None for what is no method, or whose docstring states none."""
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


def bindings_of(version: str) -> Path:
    """Where the bindings of a version are, if they are."""
    return FOLDER.resolve() / version


def read_bindings(version: str) -> Api:
    """Return what the bindings of a version have of what the fake has."""
    with tempfile.TemporaryDirectory() as folder:
        _build_stubs(Path(folder))
        done = subprocess.run(
            [sys.executable, "-c", LOOK, json.dumps(offered())], capture_output=True, text=True, check=False,
            env={"PYTHONPATH": str(bindings_of(version)), "LD_LIBRARY_PATH": folder},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found_version, found = json.loads(done.stdout)
    assert found_version.startswith(f"{version}.")
    return {kind: {name: _arguments(name, said) for name, said in members.items()} for kind, members in found.items()}


def _arguments(name: str, documented: str) -> list[str] | None:
    signature = re.search(rf"^{name}\(self: [^,)]+(?:, (?P<rest>.*))?\) ->", documented)
    return None if signature is None else re.findall(r"(\w+): ", signature["rest"] or "")


def _build_stubs(folder: Path) -> None:
    (folder / "stub.c").write_text(STUB)
    for name in ("nvinfer", "nvonnxparser", "nvinfer_plugin"):
        library = f"lib{name}.so.10"
        command = ["gcc", "-shared", "-fPIC", "-w", str(folder / "stub.c"), "-o", str(folder / library)]
        subprocess.run([*command, f"-Wl,-soname,{library}"], check=True)


if __name__ == "__main__":
    API.write_text(json.dumps({version: read_bindings(version) for version in VERSIONS}, indent=1) + "\n")
