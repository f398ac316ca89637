"""The steps of a bring-up, in order: what each runs, and how long it is planned with."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import distributions
from pathlib import Path

HOBBIT = (sys.executable, "-m", "edge_runtime")
GPU_CHECK, NVPMODEL = "tests/cuda/gpu_check.py", "nvpmodel"
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
    "cpu": "the CPU",
    "cuda": "the GPU, memory and trunk chosen by the backend",
    "cuda:trunk=cpu": "experts on the GPU, trunk on the CPU",
    "cuda:memory=pinned": "the GPU, experts in pinned memory",
    "cuda:memory=device": "the GPU, experts in its own memory",
    "cuda:graph=false": "the GPU, launches one by one",
}
_ENGINES = "cuda:trunk=tensorrt"
_NO_ENGINES = (
    "this Python has no TensorRT. JetPack brings it: sudo apt-get install python3-libnvinfer, and a virtual "
    "environment made with --system-site-packages"
)
_PROVIDER = "cuda:trunk=onnx"
_NO_PROVIDER = "this Python has no onnxruntime-gpu; docs/cuda.md says where a board gets it"
_DEMO_OPTIONS = ("--tiers", "8,4", "--trunk", "fp32", "--no-resume")
_NO_EXPORTER = "this Python has no exporter: install the source tree with pip install -e '.[export]'"
_POWER_MODEL = re.compile(r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", re.MULTILINE)
NVPMODEL_CONF = Path("/etc/nvpmodel.conf")


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
        before: run first, such as a change of the power mode; its failure is the step's.
        folder: a new, empty folder that the step writes into, below the bring-up's.
        needs: name of a step before it; once that passes anew, this one is run again.
        finds: exit code 1 says that it found something, and what it printed is the result.
    """

    name: str
    title: str
    command: tuple[str, ...] = ()
    minutes: float = 2
    why_not: str = ""
    verb: str = ""
    optional: tuple[tuple[str, str], ...] = ()
    before: tuple[str, ...] = ()
    folder: str = ""
    needs: str = ""
    finds: bool = False


def steps_of(
    bundle: Path | None, out: Path, checkout: Path | None, *, power_modes: bool, conf: Path = NVPMODEL_CONF
) -> Iterator[Step]:
    """Yield the steps.

    Args:
        bundle: what is benchmarked; None: only what needs none.
        out: folder of the bring-up.
        checkout: the source tree, where `make gpu-check` is; None: there is none.
        power_modes: the board's power modes may be changed.
        conf: where the board lists them.
    """
    given = () if bundle is None else (str(bundle),)
    about = () if bundle is None else (("BUNDLE", str(bundle)),)
    yield replace(_verb("doctor", "look for what is missing on this machine", 2, (), *about), finds=True)
    yield from _gpu_check(out, checkout)
    if bundle is None:
        return
    yield _verb("verify", "check the bundle", 5, given)
    yield _verb("tune", "measure, and choose settings", 8, given)
    yield _verb("plan", "plan the memory", 1, given)
    for backend, title in _BACKENDS.items():
        yield _bench(f"bench {backend}", f"measure {title}", given, backend)
    engines = _bench(f"bench {_ENGINES}", "measure the GPU, trunk as TensorRT engines", given, _ENGINES)
    # engines are built first, layer by layer, and kept
    yield replace(engines, minutes=10, why_not="" if importlib.util.find_spec("tensorrt") else _NO_ENGINES)
    provider = _bench(f"bench {_PROVIDER}", "measure the GPU, trunk on ONNX Runtime", given, _PROVIDER)
    yield replace(provider, why_not="" if any(distributions(name="onnxruntime-gpu")) else _NO_PROVIDER)
    yield from _power_steps(given, power_modes, conf)


def _verb(verb: str, title: str, minutes: float, words: tuple[str, ...], *optional: tuple[str, str]) -> Step:
    return Step(verb, title, (*HOBBIT, verb, *words), minutes, verb=verb, optional=(("--json", "--json"), *optional))


def _gpu_check(out: Path, checkout: Path | None) -> Iterator[Step]:
    """Yield the export of the demo, and the check, which leaves the demo out where the export failed."""
    demo = Step("demo", "export the demo model for gpu-check", minutes=5)
    title = "check the kernels on the GPU (`make gpu-check`)"
    check = Step("gpu-check", title, minutes=10, folder=GPU_CHECK_FOLDER, needs="demo")
    if checkout is None:
        why = f"{GPU_CHECK} is part of the source tree: run in a checkout, or name it (--checkout)"
        yield from (replace(step, why_not=why) for step in (demo, check))
        return
    bundle = str(out / _DEMO_BUNDLE)
    export = (sys.executable, "-m", "hobbit_export", str(checkout / DEMO), "--out", bundle, *_DEMO_OPTIONS)
    yield replace(demo, command=export, why_not="" if importlib.util.find_spec("hobbit_export") else _NO_EXPORTER)
    yield replace(check, command=(sys.executable, "-m", "cuda.gpu_check", "--bundle", bundle))


def _bench(name: str, title: str, bundle: Sequence[str], backend: str) -> Step:
    folder = re.sub(r"\W+", "-", name)
    # power is measured where there is a meter; a board whose meter cannot be read is measured without
    command = (*HOBBIT, "bench", *bundle, "--backend", backend, *_BENCH, "--json")
    return Step(name, title, command, 4, verb="bench", folder=folder)


def _power_steps(bundle: Sequence[str], allowed: bool, conf: Path) -> Iterator[Step]:
    """Yield a step for each power mode, and one that goes back to the first one's."""
    why_not = (
        "" if allowed else "not allowed: give --power-modes, as root; modes that need a reboot are left out by nvpmodel"
    )
    if not conf.exists():
        why_not = f"no {conf}: not a Jetson"
    if why_not:
        yield Step("power modes", "measure each power mode", why_not=why_not)
        return
    for number, mode in power_modes_in(conf.read_text(encoding="utf-8", errors="replace")):
        step = _bench(f"bench mode {mode}", f"measure in power mode {mode}", bundle, "auto")
        yield replace(step, before=(NVPMODEL, "-m", str(number)))


def power_modes_in(text: str) -> list[tuple[int, str]]:
    """Return number and name of each power mode that an nvpmodel.conf lists."""
    return [(int(number), name) for number, name in _POWER_MODEL.findall(text)][:16]
