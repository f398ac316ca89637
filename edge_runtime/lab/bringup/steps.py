"""The steps of a bring-up, in order: what each runs, and how long it is planned with."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import distributions
from pathlib import Path

from edge_runtime.backends import BACKENDS
from edge_runtime.base.children import module_command
from edge_runtime.lab.doctor.device import Device

HOBBIT = tuple(module_command("edge_runtime"))
GPU_CHECK = "tests/cuda/gpu_check.py"
GPU_CHECK_FOLDER = "gpu-check"
DEMO, _DEMO_BUNDLE = "examples/tiny-moe", "demo-bundle"
_BENCH = (
    "--repeat",
    "3",
    "--warmup",
    "1",
    "--prompt-tokens",
    "64",
    "--gen-tokens",
    "64",
    "--no-png",
    "--no-self-check",
)
_BACKENDS = {
    "cuda": "the GPU, memory and trunk chosen by the backend",
    "cpu": "the CPU",
    "cuda:trunk=cpu": "experts on the GPU, trunk on the CPU",
    "cuda:memory=pinned": "the GPU, experts in pinned memory",
    "cuda:memory=device": "the GPU, experts in its own memory",
    "cuda:graph=false": "the GPU, launches one by one",
}
_FIRST, _IN_EACH_MODE = 2, ("cuda", "cpu")
"""Backends that are measured before all others, and those that each power mode is measured with."""
STREAMED, _STREAMED_SHARE = "bench {} streamed", 0.25
"""Name of a benchmark whose experts come from the drive, and the share of them that memory may hold. The demo's fit
into any board's memory: without these nothing would say what the drive gives."""
_ENGINES = "cuda:trunk=tensorrt"
_NO_ENGINES = (
    "this Python has no TensorRT. JetPack brings it: sudo apt-get install python3-libnvinfer, and a virtual "
    "environment made with --system-site-packages"
)
_NO_GPU = "there is no device file of an NVIDIA GPU"
_PROVIDER = "cuda:trunk=onnx"
_NO_PROVIDER = "this Python has no onnxruntime-gpu; docs/cuda.md says where a board gets it"
_DEMO_OPTIONS = ("--tiers", "8,4", "--trunk", "fp32", "--no-resume")
_NO_EXPORTER = "this Python has no exporter: install the source tree with pip install -e '.[export]'"
_POWER_MODEL = re.compile(r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", re.MULTILINE)
NVPMODEL_CONF = Path("etc/nvpmodel.conf")
"""Where a board lists its power modes, below the root."""


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: in the file, and for `--again`.
        title: what it does, for people.
        command: what is run; () where it cannot be.
        minutes: it is planned with; a step that is at work may take longer while others have time left.
        why_not: why it cannot be run; "" if it can.
        verb: of hobbit, where this version may lack it.
        optional: words that are given if the verb's help has the first of each: what help has, what is given.
        power_mode: of the board that it is measured in; "": the one that was found.
        folder: a new, empty folder that the step writes into, below the bring-up's.
        needs: name of a step before it; once that passes anew, this one is run again.
        takes: a folder that `needs` makes, and without which it cannot be run.
        expert_share: of the experts that memory may hold; 0: as many as there is room for.
        finds: exit code 1 says that it found something, and what it printed is the result.
    """

    name: str
    title: str
    command: tuple[str, ...] = ()
    minutes: float = 2
    why_not: str = ""
    verb: str = ""
    optional: tuple[tuple[str, str], ...] = ()
    power_mode: str = ""
    folder: str = ""
    needs: str = ""
    takes: Path | None = None
    expert_share: float = 0.0
    finds: bool = False


def steps_of(
    bundle: Path | None, out: Path, checkout: Path | None, *, power_modes: bool, conf: Path = Path("/") / NVPMODEL_CONF
) -> Iterator[Step]:
    """Yield the steps, those first whose results are worth most where time is short.

    Args:
        bundle: what is benchmarked; None: the demo, which a step exports.
        out: folder of the bring-up.
        checkout: the source tree, where `make gpu-check` is; None: there is none.
        power_modes: the board's power modes may be changed.
        conf: where the board lists them.
    """
    about = () if bundle is None else (("BUNDLE", str(bundle)),)
    yield replace(_verb("doctor", "look for what is missing on this machine", 2, (), *about), finds=True)
    demo, check = _gpu_check(out, checkout)
    yield from (demo, check)
    exported = out / _DEMO_BUNDLE
    why_not = f"no bundle was named, and the demo cannot be exported: {demo.why_not}" if demo.why_not else ""
    shows_gpu = Device().has_gpu_nodes or conf.exists()
    for step in _of_bundle((str(bundle or exported),), power_modes, conf, is_demo=bundle is None):
        # where there is a sign of a GPU and something of its path is missing, the benchmark fails and says what
        if _is_on_gpu(step) and not shows_gpu:
            step = replace(step, why_not=_NO_GPU)
        if bundle is None:
            step = replace(step, needs=demo.name, takes=exported, why_not=step.why_not or why_not)
        yield step


def _of_bundle(given: Sequence[str], power_modes: bool, conf: Path, *, is_demo: bool) -> Iterator[Step]:
    """Yield what is done with a bundle."""
    yield _verb("verify", "check the bundle", 5, given)
    yield _verb("plan", "plan the memory", 1, given)
    benches = [_bench(f"bench {backend}", f"measure {title}", given, backend) for backend, title in _BACKENDS.items()]
    yield from benches[:_FIRST]
    if is_demo:
        for backend in _IN_EACH_MODE:
            title = f"measure {_BACKENDS[backend]}; a quarter of the experts in memory, the others streamed"
            yield replace(_bench(STREAMED.format(backend), title, given, backend), expert_share=_STREAMED_SHARE)
    yield _verb("tune", "measure, and choose settings", 8, given)
    yield from benches[_FIRST:]
    engines = _bench(f"bench {_ENGINES}", "measure the GPU, trunk as TensorRT engines", given, _ENGINES)
    # engines are built first, layer by layer, and kept
    yield replace(engines, minutes=10, why_not="" if importlib.util.find_spec("tensorrt") else _NO_ENGINES)
    provider = _bench(f"bench {_PROVIDER}", "measure the GPU, trunk on ONNX Runtime", given, _PROVIDER)
    yield replace(provider, why_not="" if any(distributions(name="onnxruntime-gpu")) else _NO_PROVIDER)
    yield from _power_steps(given, power_modes, conf)


def _is_on_gpu(step: Step) -> bool:
    names = (word.partition(":")[0] for word in step.command)
    return any(name in BACKENDS and BACKENDS[name].is_on_gpu for name in names)


def _verb(verb: str, title: str, minutes: float, words: Sequence[str], *optional: tuple[str, str]) -> Step:
    return Step(verb, title, (*HOBBIT, verb, *words), minutes, verb=verb, optional=(("--json", "--json"), *optional))


def _gpu_check(out: Path, checkout: Path | None) -> tuple[Step, Step]:
    """Return the export of the demo, and the check, which leaves the demo out where the export failed."""
    demo = Step("demo", "export the demo model", minutes=5)
    title = "check the kernels on the GPU (`make gpu-check`)"
    check = Step("gpu-check", title, minutes=10, folder=GPU_CHECK_FOLDER, needs="demo")
    if checkout is None:
        why = f"{GPU_CHECK} is part of the source tree: run in a checkout, or name it (--checkout)"
        return replace(demo, why_not=why), replace(check, why_not=why)
    bundle = str(out / _DEMO_BUNDLE)
    export = tuple(module_command("hobbit_export", str(checkout / DEMO), "--out", bundle, *_DEMO_OPTIONS))
    why = "" if importlib.util.find_spec("hobbit_export") else _NO_EXPORTER
    check = replace(check, command=(sys.executable, "-m", "cuda.gpu_check", "--bundle", bundle))
    return replace(demo, command=export, why_not=why), check


def _bench(name: str, title: str, bundle: Sequence[str], backend: str) -> Step:
    folder = re.sub(r"\W+", "-", name)
    # power is measured where there is a meter; a board whose meter cannot be read is measured without
    command = (*HOBBIT, "bench", *bundle, "--backend", backend, *_BENCH, "--json")
    return Step(name, title, command, 4, verb="bench", folder=folder)


def _power_steps(bundle: Sequence[str], allowed: bool, conf: Path) -> Iterator[Step]:
    """Yield steps for each power mode: the GPU and the CPU in each."""
    why_not = "" if allowed else "not allowed: give --power-modes, as root"
    if not conf.exists():
        why_not = f"no {conf}: not a Jetson"
    if why_not:
        yield Step("power modes", "measure each power mode", why_not=why_not)
        return
    for _, mode in power_modes_in(conf.read_text(encoding="utf-8", errors="replace")):
        for backend in _IN_EACH_MODE:
            title = f"measure {_BACKENDS[backend]} in power mode {mode}"
            step = _bench(f"bench mode {mode} {backend}", title, bundle, backend)
            yield replace(step, power_mode=mode)


def power_modes_in(text: str) -> list[tuple[int, str]]:
    """Return number and name of each power mode that an nvpmodel.conf lists."""
    return [(int(number), name) for number, name in _POWER_MODEL.findall(text)][:16]
