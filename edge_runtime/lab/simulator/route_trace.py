"""Recordings of other programs: the CSV form `route_trace v1`, which holds the experts chosen and their weights.

A line has the columns turn, phase, step, layer, slot, expert and weight; more are passed over. Lines that begin with #
are remarks; `# model=NAME n_layer=L n_expert=E n_expert_used=K` says what the model is, `expert_bytes=N` how large an
expert is. A turn is a text, a step a token. The file is untrusted.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from edge_runtime.base.arrays import F32, I32, I64, Bools, Indices
from edge_runtime.base.errors import ConfigError

COLUMNS = ("turn", "phase", "step", "layer", "slot", "expert", "weight")
MAX_LINE_BYTES, MAX_ROWS = 1 << 16, 4_000_000
_MAX_LAYERS, _MAX_EXPERTS = 1 << 10, 1 << 14
_MODEL = re.compile(r"#\s*model=(?P<name>.*?)(?=\s+\w+=|$)")
_COLUMNS_REMARK = "# columns:"
_NUMBER = re.compile(r"\b(n_layer|n_expert|n_expert_used|expert_bytes)=(\d{1,12})\b")


@dataclass(frozen=True)
class RouteRecording:
    """What a file holds, a row for each token and layer with experts.

    Attributes:
        model: its name, as the file has it.
        num_layers: L, those without experts included.
        num_experts: E.
        layers: the layers with experts, ascending.
        experts: int32 [tokens, layers, K], the experts chosen, in the file's order.
        weights: float32 [tokens, layers, K]; all alike where the file has none.
        first_of_text: bool [tokens].
        expert_bytes: of an expert in the program that recorded; 0: unknown.
        filled: choices of a token and layer that the file lacks, and that were taken from the next token that has one.
    """

    model: str
    num_layers: int
    num_experts: int
    layers: list[int]
    experts: I32
    weights: F32
    first_of_text: Bools
    expert_bytes: int
    filled: int

    @property
    def has_weights(self) -> bool:
        """Whether the weights say anything: some programs write 1 / K for each."""
        return bool((self.weights != self.weights[:1, :1, :1]).any())


def read_recording(path: Path) -> RouteRecording:
    """Read a file, gzipped or not.

    Raises:
        ConfigError: names the file, the line, what was expected and what was found.
    """
    remarks: dict[str, str] = {}
    columns = [array("i") for _ in range(4)], array("i"), array("f")
    with _opened(path) as lines:
        for number, (place, expert, weight) in _rows(path, lines, remarks):
            if len(columns[2]) >= MAX_ROWS:
                raise ConfigError(f"{path}: expected at most {MAX_ROWS} rows. Cut it.")
            _check_row(f"{path}: line {number}", place, expert, weight)
            for column, value in zip(columns[0], place, strict=True):
                column.append(value)
            columns[1].append(expert)
            columns[2].append(weight)
    if not columns[2]:
        raise ConfigError(f"{path}: expected rows of {', '.join(COLUMNS)}, found none.")
    places = np.array(columns[0], np.int64)
    return _assemble(path, remarks, places, np.array(columns[1], np.int64), np.array(columns[2], np.float32))


def _assemble(
    path: Path,
    remarks: dict[str, str],
    places: I64,
    experts: I64,
    weights: F32,
) -> RouteRecording:
    """Put rows at places int64 [4, rows] (turn, phase, step, layer) into arrays by token and layer."""
    tokens, token_of = np.unique(places[:3], axis=1, return_inverse=True)
    layers, layer_of = np.unique(places[3], return_inverse=True)
    token_of = token_of.reshape(-1)
    cell = token_of * len(layers) + layer_of
    order = np.argsort(cell, kind="stable")
    found, counts = np.unique(cell, return_counts=True)
    top_k = int(remarks.get("n_expert_used", counts.max()))
    if (counts != top_k).any():
        token, layer = divmod(int(found[counts != top_k][0]), len(layers))
        where = ", ".join(f"{n} {v}" for n, v in zip(COLUMNS, [*tokens[:, token], layers[layer]], strict=False))
        raise ConfigError(f"{path}: {where}: expected {top_k} experts, got {counts[counts != top_k][0]}.")
    num_experts = int(remarks.get("n_expert", experts.max() + 1))
    num_layers = int(remarks.get("n_layer", layers[-1] + 1))
    if experts.max() >= num_experts or layers[-1] >= num_layers:
        raise ConfigError(f"{path}: expected experts below {num_experts} and layers below {num_layers}.")
    shape = (tokens.shape[1], len(layers), top_k)
    rows = _next_known(found, shape[0], shape[1])
    return RouteRecording(
        remarks.get("model", path.name),
        num_layers,
        num_experts,
        layers.tolist(),
        experts[order].reshape(-1, top_k)[rows].reshape(shape).astype(np.int32),
        weights[order].reshape(-1, top_k)[rows].reshape(shape),
        np.diff(tokens[0], prepend=tokens[0, 0] - 1) != 0,
        int(remarks.get("expert_bytes", 0)),
        shape[0] * shape[1] - len(found),
    )


def _next_known(found: I64, tokens: int, layers: int) -> Indices:
    """Return which row of those found each of the cells [tokens * layers] takes: its own, else the next token's.

    Programs that compute only what they need leave the last layer of a prompt's tokens out, but for the last one.
    """
    row = np.full(tokens * layers, len(found), np.intp)
    row[found] = np.arange(len(found))
    by_token = row.reshape(tokens, layers)
    following = np.minimum.accumulate(by_token[::-1], axis=0)[::-1]  # rows grow with tokens
    before = np.where(by_token == len(found), -1, by_token)
    last = np.maximum.accumulate(before, axis=0)
    return np.where(following == len(found), last, following).reshape(-1)


def _rows(
    path: Path, lines: IO[str], remarks: dict[str, str]
) -> Iterator[tuple[int, tuple[tuple[int, int, int, int], int, float]]]:
    """Yield the rows with the numbers of their lines; what remarks say is put into `remarks`."""
    places: list[int] | None = None
    for number, line in enumerate(iter(lambda: lines.readline(MAX_LINE_BYTES), ""), 1):
        if len(line) >= MAX_LINE_BYTES:
            raise ConfigError(f"{path}: line {number}: expected at most {MAX_LINE_BYTES} bytes.")
        if line.startswith("#"):
            if model := _MODEL.match(line):
                remarks["model"] = Path(model["name"].strip()[:200]).name
            remarks.update(_NUMBER.findall(line))
            if not line.startswith(_COLUMNS_REMARK):
                continue
        values = [value.strip() for value in next(csv.reader([line.removeprefix(_COLUMNS_REMARK)]), [])]
        if places is None:
            missing = [name for name in COLUMNS if name not in values]
            if missing:
                raise ConfigError(f"{path}: line {number}: expected a header with {', '.join(missing)}.")
            places = [values.index(name) for name in COLUMNS]
        elif values:
            yield number, _row(f"{path}: line {number}", values, places)


def _row(where: str, values: list[str], places: list[int]) -> tuple[tuple[int, int, int, int], int, float]:
    try:
        turn, phase, step, layer, _, expert = (int(values[i]) for i in places[:6])
        return (turn, phase, step, layer), expert, float(values[places[6]])
    except (IndexError, ValueError) as err:
        raise ConfigError(f"{where}: expected six whole numbers and a weight, got {','.join(values)[:80]!r}.") from err


def _check_row(where: str, place: tuple[int, int, int, int], expert: int, weight: float) -> None:
    is_place = all(0 <= value < 1 << 31 for value in place) and place[3] < _MAX_LAYERS
    if not is_place or not 0 <= expert < _MAX_EXPERTS or not 0 <= weight <= 1e6:
        raise ConfigError(
            f"{where}: expected numbers of 0 and above, a layer below {_MAX_LAYERS}, an expert below {_MAX_EXPERTS} "
            f"and a weight of at most a million, got {str((*place, expert))[:120]} and {weight:g}."
        )


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    try:
        with open(path, "rb") as file:
            is_packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            raw = gzip.GzipFile(fileobj=file) if is_packed else file
            yield io.TextIOWrapper(raw, encoding="utf-8", errors="replace", newline="")
    except (OSError, EOFError) as err:
        reason = err.strerror if isinstance(err, OSError) and err.strerror else str(err)
        raise ConfigError(f"{path}: cannot be read: {reason}.") from err
