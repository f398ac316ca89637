"""Files beside bundles that come from outside, each kind changed where its structure is, and a command that reads it."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from bundle_copies import copy_of
from fuzz.bundles import KINDS as PARTS
from fuzz.mutations import any_value, changed, damaged
from fuzz.trial import Ending, attempt
from gguf_files import stored_as, write_gguf
from quantised import FORMATS, Stored, write_stored
from synthetic import bfloat16, qwen3_config, qwen3_shapes, write_qwen3, write_tokenizer
from trace_files import with_header

Try = tuple[str, list[str]]
"""Program, and its arguments."""
BOMB = "\n".join(["- &a0 [x, x]", *(f"- &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}]" for i in range(1, 30))])
"""A list of a few lines that is three to the thirtieth values long."""
_YAML = [
    BOMB,
    "&a [*a]",
    "!!timestamp x",
    "!!bool x",
    "!!int ''",
    "[" * 5000,
    "? [a]",
    "a: &a {<<: *a}",
    "\0",
    "- " * 2000,
]


class World:
    """Sound files of every kind, made once.

    Args:
        bundle: a sound bundle.
        folder: for everything made.
    """

    def __init__(self, bundle: Path, folder: Path) -> None:
        self.bundle, self.folder = bundle, folder
        sizes = qwen3_config(64, 64, 4, 1)
        self.checkpoints = [write_qwen3(folder / "checkpoint", sizes)]
        self.checkpoints += [_quantised(folder / name, name, sizes) for name in FORMATS]
        stores = (stored_as(kind) for kind in ("Q8_0", "Q4_0", "Q5_1", "MXFP4"))
        self.ggufs = [
            write_gguf(self.checkpoints[0], folder / f"{number}.gguf", store=store).read_bytes()
            for number, store in enumerate(stores)
        ]
        self.trace = folder / "sound.trace"
        self.report: dict[str, Any] = {}
        self.usage = folder
        self.text = folder / "text"
        self.text.write_text("def main():\n    return 1\n" * 20)
        self._record()

    def _record(self) -> None:
        """Make what only the program itself can make."""
        budget = ["--memory", "1GiB", "--context", "64", "--threads", "1"]
        for arguments in (
            ["trace", str(self.bundle), "--text", str(self.text), "--tokens", "24", "--out", str(self.trace), *budget],
            ["bench", str(self.bundle), "--prompt-tokens", "8", "--gen-tokens", "4", "--repeat", "3", "--no-png",
             "--out", str(self.folder / "report"), *budget],
        ):  # fmt: skip
            self.run("hobbit", arguments)
        self.report = json.loads(next((self.folder / "report").rglob("*.json")).read_bytes())
        self.run("hobbit", ["run", str(self.bundle), "--prompt", "x", "-n", "1", "--warm-start", "fuzz", *budget])
        (self.usage,) = (self.folder / "state" / "hobbit-edge" / "warm").glob("*.json")

    def run(self, program: str, arguments: list[str]) -> Ending:
        """Run a program that has to do what it is told."""
        ending = attempt(lambda: _in(self.folder / "state", program, arguments), self.folder / "output")
        assert ending.code == 0, ending
        return ending


def small_bundle(folder: Path) -> Path:
    """Make a bundle that keeps MXFP4 as it is, with an int4 trunk, from a GGUF file."""
    source = write_qwen3(folder / "small", qwen3_config(128, 64, 8, 3))
    store = stored_as("MXFP4", but=lambda name: "_exps" not in name)
    words = [str(write_gguf(source, folder / "small.gguf", store)), "--out", str(folder / "fp4"), "--tiers", "fp4"]
    ending = attempt(lambda: _exporter()([*words, "--trunk", "int4"]), folder / "output")
    assert ending.code == 0, ending
    return folder / "fp4"


def profile(rng: random.Random, world: World, folder: Path) -> Try:
    """What is known of a device."""
    path = folder / "device.yaml"
    if rng.random() < 0.3:
        text = "name: x\nformat: 2\n" * (rng.random() < 0.5) + rng.choice(_YAML)
        path.write_text(text if rng.random() < 0.5 else f"name: x\nnotes: {text}")
    else:
        source = rng.choice(sorted((Path(__file__).parents[2] / "profiles").glob("*.yaml"))).read_text()
        data = changed(rng, yaml.safe_load(source))
        path.write_bytes(
            yaml.safe_dump(data, allow_unicode=True).encode("utf-8", "replace") if rng.random() < 0.7 else damaged(rng, source.encode())
        )  # fmt: skip
    return "hobbit", ["plan", str(world.bundle), "--profile", str(path)]


def usage(rng: random.Random, world: World, folder: Path) -> Try:
    """Which experts a workload used."""
    raw = json.dumps(changed(rng, json.loads(world.usage.read_bytes()))).encode()
    target = folder / "state" / world.usage.relative_to(world.folder / "state")
    target.parent.mkdir(parents=True)
    target.write_bytes(damaged(rng, raw) if rng.random() < 0.3 else raw)
    return "hobbit", ["run", str(world.bundle), "--prompt", "x", "-n", "1", "--warm-start", "fuzz", "--memory", "260MiB",
                      "--context", "64", "--threads", "1"]  # fmt: skip


def report(rng: random.Random, world: World, folder: Path) -> Try:
    """A report of a benchmark."""
    raw = json.dumps(changed(rng, world.report)).encode()
    (folder / "a.json").write_bytes(damaged(rng, raw) if rng.random() < 0.2 else raw)
    (folder / "b.json").write_text(json.dumps(world.report))
    return "hobbit", ["bench", str(world.bundle), "--compare", str(folder / "a.json"), str(folder / "b.json")]


def trace(rng: random.Random, world: World, folder: Path) -> Try:
    """A trace, its checksums true where its header was changed."""
    raw = world.trace.read_bytes()

    def change(header: dict[str, Any]) -> None:
        other = changed(rng, header)
        header.clear()
        header.update(other if isinstance(other, dict) else {})

    (folder / "t").write_bytes(damaged(rng, raw) if rng.random() < 0.4 else with_header(raw, change))
    return "hobbit", ["simulate", str(folder / "t"), "--policy", "lossless", "--expert-memory", "30%"]


def recording(rng: random.Random, world: World, folder: Path) -> Try:
    """Another program's recording of a router."""
    rows = [
        f"{turn},{min(step, 1)},{step},{layer},{slot},{rng.randrange(8)},0.5"
        for turn in range(2) for step in range(4) for layer in range(3) for slot in range(2)
    ]  # fmt: skip
    head = [
        "# route_trace v1",
        "# model=x n_layer=3 n_expert=8 n_expert_used=2",
        "# columns: turn,phase,step,layer,slot,expert,weight",
    ]
    lines = head + rows
    for _ in range(rng.choice([1, 1, 3])):
        at = rng.randrange(len(lines))
        fields = lines[at].split(",")
        fields[rng.randrange(len(fields))] = str(rng.choice([any_value(rng), "9" * 4000]))[:100_000]
        lines[at] = ",".join(fields)
    raw = "\n".join(lines).encode("utf-8", "replace")
    how = rng.random()
    raw = damaged(rng, raw) if how < 0.2 else b"1" * (64 << 20) if how < 0.25 else raw
    (folder / "r.csv").write_bytes(gzip.compress(raw, 1) if rng.random() < 0.4 else raw)
    return "hobbit", ["trace-import", str(folder / "r.csv"), "--out", str(folder / "imported")]


def conversation(rng: random.Random, world: World, folder: Path) -> Try:
    """A conversation that was saved."""
    said = [{"role": role, "content": "x"} for role in ("system", "user", "assistant")]
    raw = json.dumps(changed(rng, {"format": "hobbit-chat-1", "messages": said})).encode()
    (folder / "saved").write_bytes(damaged(rng, raw) if rng.random() < 0.3 else raw)
    return "load", [str(folder / "saved")]


def settings(rng: random.Random, world: World, folder: Path) -> Try:
    """A service's settings file."""
    lines = ['HOBBIT_MEMORY="1GiB"', "HOBBIT_CONTEXT=64", "# remark", "HOBBIT_POLICY='lossless'"]
    (folder / "environment").write_bytes(damaged(rng, "\n".join(lines).encode()))
    return "settings", [str(folder / "environment")]


def checkpoint(rng: random.Random, world: World, folder: Path) -> Try:
    """Configurations and the tokenizer of a checkpoint, or of one in FP8."""
    copy = _copied(rng.choice(world.checkpoints), folder / "checkpoint")
    path = copy / rng.choice([*(p.name for p in copy.glob("*.json")), "config.json"])
    data = json.loads(path.read_bytes())
    raw = json.dumps(changed(rng, data)).encode()
    path.unlink()
    path.write_bytes(damaged(rng, raw) if rng.random() < 0.2 else raw)
    return _export(rng, copy, folder)


def weights(rng: random.Random, world: World, folder: Path) -> Try:
    """The header of a safetensors file, its length true."""
    copy = _copied(rng.choice(world.checkpoints), folder / "checkpoint")
    path = rng.choice(sorted(copy.glob("*.safetensors")))
    raw = path.read_bytes()
    size = struct.unpack_from("<Q", raw)[0]
    header = json.dumps(changed(rng, json.loads(raw[8 : 8 + size]))).encode()
    header = damaged(rng, header) if rng.random() < 0.2 else header
    path.unlink()
    path.write_bytes(struct.pack("<Q", len(header)) + header + raw[8 + size :])
    return _export(rng, copy, folder)


def gguf(rng: random.Random, world: World, folder: Path) -> Try:
    """A GGUF file: keys, tensors and blocks."""
    raw = rng.choice(world.ggufs)
    at = rng.choice([500, 2_000, 20_000, len(raw)])
    (folder / "model.gguf").write_bytes(damaged(rng, raw[:at]) + raw[at:])
    return _export(rng, folder / "model.gguf", folder)


def origin(rng: random.Random, world: World, folder: Path) -> Try:
    """A bundle to be pulled, all its checksums true."""
    copy_of(world.bundle, folder / "origin")
    PARTS[rng.choice(list(PARTS))](rng, folder / "origin")
    return "hobbit", ["pull", str(folder / "origin"), "--models", str(folder / "models"), "--name", "m"]


KINDS: dict[str, Callable[[random.Random, World, Path], Try]] = {
    kind.__name__: kind
    for kind in (
        profile, usage, report, trace, recording, conversation, settings, checkpoint, weights, gguf, origin,
    )
}  # fmt: skip
ALLOWED = (0, 1, 2, 78)
"""Done, what was asked for is not so (a comparison, a check), wrong usage, wrong file."""


def try_input(world: World, folder: Path, rng: random.Random, *, kind: str | None = None) -> tuple[str, Ending]:
    """Make a hostile file and run what reads it; everything stays in `folder` until the next.

    Returns:
        Which kind it was, and how the command ended.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    chosen = kind or rng.choice(list(KINDS))
    program, arguments = KINDS[chosen](rng, world, folder)
    return chosen, attempt(lambda: _in(folder / "state", program, arguments), folder / "output")


def _in(state: Path, program: str, arguments: list[str]) -> int:
    os.environ["XDG_STATE_HOME"] = str(state)
    return _PROGRAMS[program]()(arguments)


def _hobbit() -> Callable[[list[str]], int]:
    from edge_runtime.__main__ import main

    return main


def _exporter() -> Callable[[list[str]], int]:
    from hobbit_export.cli import main

    return main


def _reader(read: Callable[[str], object]) -> Callable[[list[str]], int]:
    """A function that reads a file, as a command."""
    from edge_runtime.base.errors import HobbitError

    def command(words: list[str]) -> int:
        try:
            read(words[0])
        except HobbitError as err:
            print(err)
            return 2
        return 0

    return command


def _load() -> Callable[[list[str]], int]:
    from edge_runtime.cli.chat.saved import load

    return _reader(load)


def _settings() -> Callable[[list[str]], int]:
    from edge_runtime.service.ops.settings import read_settings

    return _reader(lambda path: read_settings(Path(path)))


_PROGRAMS: Mapping[str, Callable[[], Callable[[list[str]], int]]] = {
    "hobbit": _hobbit, "export": _exporter, "load": _load, "settings": _settings,
}  # fmt: skip


def _export(rng: random.Random, source: Path, folder: Path) -> Try:
    more = ["--dry-run"] if rng.random() < 0.3 else []
    return "export", [str(source), "--out", str(folder / "out"), "--trunk", "fp32", "--jobs", "1", *more]


def _copied(source: Path, target: Path) -> Path:
    target.mkdir()
    for path in source.iterdir():
        shutil.copyfile(path, target / path.name)
    return target


def _quantised(folder: Path, name: str, config: dict[str, Any]) -> Path:
    """A random checkpoint whose matrices are stored in a format."""
    rng, form = np.random.default_rng(0), FORMATS[name]
    tensors: Stored = {}
    for tensor, shape in qwen3_shapes(config).items():
        if tensor.endswith(".weight") and ("_proj" in tensor):
            tensors |= form.make(rng, tensor, (shape[0], shape[1]))[0]
        else:
            tensors[tensor] = ("BF16", bfloat16(rng.standard_normal(shape).astype(np.float32) * np.float32(0.05)))
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": form.config}))
    write_tokenizer(folder)
    write_stored(folder / "model.safetensors", tensors)
    return folder
