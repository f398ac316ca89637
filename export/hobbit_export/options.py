"""What one export was asked to do: flags parsed into a frozen value, checked before anything is opened."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.base.errors import ConfigError, did_you_mean
from edge_runtime.base.spec import Codes
from hobbit_export.byte_files import ByteFiles

TIERS = (2, 4, 6, 8)
BF16_TIER = 16
ENGINES = ("local", "ray")
FP4 = "fp4"
TRUNK_PRECISIONS = ("fp32", "int8", "int4")
AUTO_TRUNK = "auto"
DEFAULT_TRUNK = AUTO_TRUNK
DEFAULT_MEMORY = "2GiB"
DEFAULT_TEXT = Path(__file__).with_name("calibration_text.txt")
"""What --calibrate measures on if it is given no file: a page of prose, code, tables and data."""
MEASURED_TOKENS = 4096
"""Of a text at most, its first ones."""
FITTING_TEXT = Path(__file__).with_name("fitting_text.txt")
"""What codes are fitted to then: other text, some of this project's documentation and source."""


@dataclass(frozen=True)
class ExportOptions:
    """One export.

    Attributes:
        tiers: ascending tiers the runtime may use; 16 stands for bfloat16.
        trunk: precision of the dense part; "auto": int4 where a text shows that it is good enough, else int8.
        jobs: encoder threads; never changes a byte of the bundle.
        memory_bytes: ceiling for this process's resident memory; never changes a byte of the bundle.
        ignore_keys: keys of config.json that are read as if they were not there.
        tokenizer: folder whose tokenizer is taken in place of the model's own.
        codes: what 4-bit codes stand for: "linear", or "fp4" to keep MXFP4 as it is.
        source_name: of the model, where it was given by name; "" where by a folder.
        files: where the weight files are, if not in the folder.
        engine: where steps run; never changes a byte of the bundle.
        task_jobs: encoder threads of a task on a cluster; 0: as many as its smallest node has, four at most.
        ray_address: of the cluster, where the engine is Ray.
        check_source: whether whole files are compared with digests that their store states, before the bundle is done.
        fitted: `calibrate` is the driver's, which has run it: statistics of it are in the bundle's folder.
    """

    checkpoint: Path
    out: Path
    tiers: tuple[int, ...] = TIERS
    trunk: str = DEFAULT_TRUNK
    jobs: int = 1
    memory_bytes: int = 2 << 30
    calibrate: Path | None = None
    resume: bool = True
    ignore_keys: tuple[str, ...] = ()
    tokenizer: Path | None = None
    codes: Codes = "linear"
    source_name: str = ""
    files: ByteFiles | None = None
    engine: str = "local"
    task_jobs: int = 0
    ray_address: str = "auto"
    check_source: bool = False
    fitted: bool = False

    @property
    def has_statistics(self) -> bool:
        """Whether codes are chosen for what a text puts into the model's matrices."""
        return self.fitted or self.calibrate is not None

    @property
    def feeds_back(self) -> bool:
        """Whether the trunk's codes are chosen with error feedback."""
        return self.has_statistics and self.trunk in ("int4", AUTO_TRUNK)

    @property
    def first_trunk(self) -> str:
        """Precision the trunk is written in first: of "auto" the one it is measured against."""
        return "int8" if self.trunk == AUTO_TRUNK else self.trunk

    @property
    def num_segments(self) -> int:
        """Segments stored: the deepest progressive tier, in planes."""
        return max(t for t in self.tiers if t != BF16_TIER) // 2

    @property
    def with_bf16(self) -> bool:
        """Whether the bfloat16 reference files are written."""
        return BF16_TIER in self.tiers


def parse_tiers(text: str) -> tuple[int, ...]:
    """Parse `--tiers`.

    One number is the deepest tier: every tier below it is usable too. Two or more numbers are exactly the usable tiers.
    `bf16` adds the exact reference to either. `fp4` is 4, and 2 below it, in codes that are 4-bit floats.

    Raises:
        ConfigError: an unknown tier, or bf16 alone.
    """
    words = [w.strip().lower() for w in text.split(",")]
    for word in words:
        if word not in {"2", "4", "6", "8", "bf16", FP4}:
            hint = did_you_mean(word, ["bf16", FP4])
            raise ConfigError(f"--tiers: expected 8, 6, 4, 2, fp4 or bf16, separated by commas, got {word!r}.{hint}")
    if FP4 in words:
        if not set(words) <= {FP4, "bf16"}:
            raise ConfigError(f"--tiers: fp4 goes with bf16 alone: its codes have the tiers 2 and 4, got {text!r}.")
        return (2, 4, BF16_TIER) if "bf16" in words else (2, 4)
    numbers = sorted({int(w) for w in words if w != "bf16"})
    if not numbers:
        raise ConfigError("--tiers: expected a progressive tier beside 'bf16', got none. Use --tiers 8,bf16.")
    usable = [t for t in TIERS if t <= numbers[0]] if len(numbers) == 1 else numbers
    return (*usable, BF16_TIER) if "bf16" in words else tuple(usable)


def parse_codes(tiers: str) -> Codes:
    """Return what 4-bit codes stand for, by `--tiers`."""
    return "fp4" if FP4 in [w.strip().lower() for w in tiers.split(",")] else "linear"


def check_trunk(precision: str) -> str:
    """Return a supported trunk precision or "auto", or raise ConfigError saying why it is not."""
    if precision == "fp16":
        raise ConfigError(
            "--trunk: fp16 is not written: CPUs of the supported boards compute float16 slower than float32, and the "
            "GPU's trunk takes int8 and int4 as they lie. Use fp32, int8 or int4."
        )
    known = (AUTO_TRUNK, *TRUNK_PRECISIONS)
    if precision not in known:
        hint = did_you_mean(precision, known)
        raise ConfigError(f"--trunk: expected one of {', '.join(known)}, got {precision!r}.{hint}")
    return precision


def check_engine(name: str) -> str:
    """Return an engine there is, or raise ConfigError."""
    if name not in ENGINES:
        raise ConfigError(f"--engine: expected one of {', '.join(ENGINES)}, got {name!r}.{did_you_mean(name, ENGINES)}")
    return name


def check_shared(options: ExportOptions) -> None:
    """Refuse a source that other machines cannot read.

    Raises:
        ConfigError: the model was given by name, to an engine of several machines.
    """
    if options.engine != "local" and options.files is not None:
        raise ConfigError(
            f"--engine {options.engine}: {options.source_name} is read from a hub by this machine alone. "
            "Download it to the shared storage: --keep-source DIR."
        )


def check_targets(text: str) -> None:
    """Accept `ort`; refuse others, and say where TensorRT engines are built."""
    targets = [t.strip().lower() for t in text.split(",")]
    for target in targets:
        if target == "tensorrt":
            raise ConfigError(
                "--targets: expected ort, got tensorrt. TensorRT engines belong to one device, and are built there "
                "from these graphs: leave --targets out, and run with --backend cuda:trunk=tensorrt on the device."
            )
        if target != "ort":
            raise ConfigError(f"--targets: expected ort, got {target!r}.{did_you_mean(target, ['ort', 'tensorrt'])}")


def default_jobs() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
