"""Quantised checkpoints that lie: every damaged part is refused by name, and nothing else can come of any damage."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from quantised import FORMATS, Stored, mxfp4_experts, write_stored

from edge_runtime.base.errors import BundleError, ConfigError
from hobbit_export.checkpoint import Checkpoint
from hobbit_export.formats import find_weights
from hobbit_export.source import SourceModel
from hobbit_export.weights import finite_rows

NAME = "model.layers.0.mlp.experts.1.up_proj.weight"
SHAPE = (48, 192)


def read_all(folder: Path, stored: Stored, config: dict[str, Any]) -> list[tuple[int, ...]]:
    """Open a checkpoint and read every weight in blocks, as an export does; return their shapes."""
    write_stored(folder / "model.safetensors", stored)
    with Checkpoint.open(folder) as checkpoint:
        weights, _ = find_weights(checkpoint, config)
        for weight in weights.values():
            readable = weight if len(weight.shape) == 2 else weight.transposed()
            for start in range(0, readable.rows, 16):
                finite_rows(readable, start, min(start + 16, readable.rows))
        return [weight.shape for weight in weights.values()]


def made(name: str) -> tuple[Stored, dict[str, Any]]:
    """A sound checkpoint of a format."""
    if name == "mxfp4":
        expert = "model.layers.0.mlp.experts.down_proj"
        return mxfp4_experts(np.random.default_rng(0), expert, 2, 16, 64)[0], {"quant_method": "mxfp4"}
    return FORMATS[name].make(np.random.default_rng(0), NAME, SHAPE)[0], copy.deepcopy(FORMATS[name].config)


ALL = [*FORMATS, "mxfp4"]
OPTIONAL = (".g_idx",)


@pytest.mark.parametrize("name", ALL)
def test_parts_that_are_missing_or_of_another_kind(tmp_path: Path, name: str) -> None:
    """Each part in turn: gone, of another type, with a row more, with no rows at all, with a dimension more."""
    sound, config = made(name)
    shapes = read_all(tmp_path, sound, config)
    for part, (dtype, array) in sound.items():
        other = "F64" if dtype != "F64" else "F32"
        wide = np.zeros(array.shape, np.float64)
        longer = np.concatenate([np.atleast_1d(array)] * 2)
        for change in (
            None, (other, wide), (dtype, longer), (dtype, array.reshape(1, 1, 1, *array.shape)),
            (dtype, np.zeros((0, *array.shape[1:]), array.dtype)),
        ):  # fmt: skip
            damaged = {key: value for key, value in sound.items() if key != part}
            if change is not None:
                damaged[part] = change
            if change is None and part.endswith(OPTIONAL) and not config.get("desc_act"):
                assert read_all(tmp_path, damaged, config) == shapes
                continue
            try:
                found = read_all(tmp_path, damaged, config)
            except BundleError as err:
                assert re.search(r"tensor '[^']*(proj|weight)[^']*'.*(got|missing|found)", str(err))  # noqa: PT017
            else:  # longer codes with scales that suit them: another weight, which does not fit config.json
                assert change is not None
                assert change[1] is longer
                assert found != shapes


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ALL)
def test_scales_that_are_no_numbers(tmp_path: Path, name: str, value: float) -> None:
    sound, config = made(name)
    scales = [part for part in sound if "scale" in part]
    assert scales
    for part in scales:
        dtype, array = sound[part]
        if array.dtype == np.uint8:  # types of 8 bits have no infinity
            bad: NDArray[Any] = np.full_like(array, 0x7F if dtype == "F8_E4M3" else 0xFF)
        else:
            bad = np.array(array)
            bad[(-1,) * bad.ndim] = value
        with pytest.raises(BundleError, match=f"tensor '{part}': expected finite scales"):
            read_all(tmp_path, {**sound, part: (dtype, bad)}, config)


@pytest.mark.parametrize("name", ["fp8_block", "fp8_tensor"])
def test_fp8_codes_that_are_no_numbers(tmp_path: Path, name: str) -> None:
    sound, config = made(name)
    codes = np.array(sound[NAME][1])
    codes[20, 7] = 0xFF
    with pytest.raises(BundleError, match=f"tensor '{NAME}': rows 16 to 32: expected finite weights"):
        read_all(tmp_path, {**sound, NAME: ("F8_E4M3", codes)}, config)


@pytest.mark.parametrize("group", [-1, 6, 1 << 30, -(1 << 31)])
def test_groups_out_of_range(tmp_path: Path, group: int) -> None:
    sound, config = made("gptq4_ordered")
    part = NAME.replace("weight", "g_idx")
    order = np.array(sound[part][1])
    order[11] = group
    with pytest.raises(BundleError, match=f"tensor '{part}': input 11: expected a group from 0 to 5, got {group}"):
        read_all(tmp_path, {**sound, part: ("I32", order)}, config)


def test_a_zero_point_that_readers_disagree_about(tmp_path: Path) -> None:
    """Version 1 stores one less: of 0 nobody knows what is meant. Version 2 has no such number."""
    for name in ("gptq4", "gptq8", "gptq2_one_group"):
        sound, config = made(name)
        part = NAME.replace("weight", "qzeros")
        zeros = np.array(sound[part][1])
        zeros[0, 0] = -1
        damaged: Stored = {**sound, part: ("I32", zeros)}
        with pytest.raises(BundleError, match=f"tensor '{part}': a zero point of 0 in version 1"):
            read_all(tmp_path, damaged, config)
        read_all(tmp_path, damaged, config | {"checkpoint_format": "gptq_v2"})


def test_an_outer_scale_of_zero(tmp_path: Path) -> None:
    sound, config = made("nvfp4")
    part = f"{NAME}_global_scale"
    with pytest.raises(BundleError, match=f"tensor '{part}': expected a scale to divide by, got 0"):
        read_all(tmp_path, {**sound, part: ("F32", np.zeros(1, np.float32))}, config)


@pytest.mark.parametrize("shape", [(48, 184), (47, 192), (-48, -192), (48, 0), (1 << 40, 1 << 40), (0, 0)])
def test_a_shape_that_the_words_do_not_have(tmp_path: Path, shape: tuple[int, int]) -> None:
    sound, config = made("packed4")
    part = f"{NAME}_shape"
    with pytest.raises(BundleError, match=f"tensor '{part}': expected the shape of|tensor '{NAME}_scale': expected"):
        read_all(tmp_path, {**sound, part: ("I64", np.array(shape, np.int64))}, config)


VALUES: list[Any] = [
    None, True, False, 0, -1, 4, 1 << 70, 1.5, float("inf"), "", "x", "re:(", "re:(a*)*", [], [[]], [None], ["re:["],
    {}, {"a": {}}, {"group_0": {"targets": ["Linear"]}}, [1 << 40, 1 << 40],
]  # fmt: skip


def _damage(rng: random.Random, value: Any) -> Any:
    """Change something somewhere in a configuration."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        return {k: _damage(rng, v) if k == key else v for k, v in value.items() if k != key or rng.random() < 0.9}
    return copy.deepcopy(rng.choice(VALUES))


@pytest.mark.parametrize("seed", range(40))
def test_any_damage_of_configuration_and_file(tmp_path: Path, seed: int) -> None:
    """Other kinds of errors, crashes and endless work are faults; what is accepted is read to the end."""
    rng = random.Random(seed)
    for name in ALL:
        sound, config = made(name)
        path = tmp_path / "model.safetensors"
        for _ in range(6):
            damaged = _damage(rng, config)
            with contextlib.suppress(BundleError, ConfigError):
                read_all(tmp_path, sound, damaged if isinstance(damaged, dict) else {"quant_method": damaged})
        write_stored(path, sound)
        raw = path.read_bytes()
        for _ in range(6):
            found = bytearray(raw)
            for _ in range(rng.choice([1, 1, 3, 20])):
                found[rng.randrange(8, len(found))] = rng.randrange(256)
            header = int.from_bytes(found[:8], "little")
            with contextlib.suppress(ValueError):
                json.loads(found[8 : 8 + header])
            path.write_bytes(found if rng.random() < 0.8 else found[: rng.randrange(len(found))])
            with contextlib.suppress(BundleError, ConfigError), Checkpoint.open(tmp_path) as checkpoint:
                for weight in find_weights(checkpoint, config)[0].values():
                    if weight.dtype in ("F32", "F16", "BF16") and 0 < weight.rows * weight.cols < 1 << 16:
                        with contextlib.suppress(BundleError):
                            finite_rows(weight, 0, weight.rows)


def open_files() -> list[str]:
    """The files this process has open, by name."""
    links = [Path("/proc/self/fd") / number for number in os.listdir("/proc/self/fd")]
    return sorted(os.readlink(link) for link in links if link.is_symlink())


def test_what_is_refused_leaves_no_file_open(tmp_path: Path) -> None:
    """Headers that lie, a configuration of no family, tensors that do not fit."""
    sound, _ = made("fp8_tensor")
    before = open_files()
    for config in ({"model_type": "mixtral"}, {"model_type": "none"}, {"quantization_config": 3}):
        write_stored(tmp_path / "model.safetensors", sound)
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises((BundleError, ConfigError)):
            SourceModel.open(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x10" + bytes(30))
    with pytest.raises(BundleError):
        Checkpoint.open(tmp_path)
    assert open_files() == before
