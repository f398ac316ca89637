"""Keys and values of a GGUF header. Values are read with the type a caller expects; arrays only when asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_runtime.base.errors import BundleError, ConfigError
from hobbit_export.ceiling import need_memory
from hobbit_export.gguf.beginning import Opener
from hobbit_export.gguf.cursor import FIX, Cursor

FLOAT, STRING, ARRAY = 6, 8, 9
NUMPY = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"}
"""GGUF's value types of a fixed size, and numpy's."""
MAX_STRING_BYTES = 16 << 20
_STRING_BYTES, _NUMBER_BYTES = 480, 40
"""Of a string's objects besides its characters, with those of the tokenizer that is made of it; of a number's."""
MAX_STRINGS = 1 << 21
"""Of one file: vocabularies reach 262,144 tokens and half a million merges."""


class Array(NamedTuple):
    """Where an array lies in the file, from its first value."""

    kind: int
    length: int
    offset: int
    num_bytes: int


Value = str | int | float | bool | Array


@dataclass(frozen=True)
class Metadata:
    """The keys of one file.

    Attributes:
        file: its path, or its name where it is elsewhere.
        values: by key.
        opened: opens it again, for arrays.
    """

    file: Path
    values: Mapping[str, Value]
    opened: Opener

    def has(self, key: str) -> bool:
        """Whether the file has the key."""
        return key in self.values

    def text(self, key: str) -> str | None:
        """Return a string, or None where there is none."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, str):
            raise self.wrong(key, "a string", value)
        return value

    def count(self, key: str) -> int | None:
        """Return a whole number that is not negative, or None."""
        value = self.values.get(key)
        if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
            return value
        raise self.wrong(key, "a whole number", value)

    def number(self, key: str) -> float | None:
        """Return a finite number, or None."""
        value = self.values.get(key)
        if value is None:
            return None
        if isinstance(value, (bool, str, Array)) or not math.isfinite(value):
            raise self.wrong(key, "a number", value)
        return float(value)

    def flag(self, key: str) -> bool | None:
        """Return true or false, or None."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(key, "true or false", value)
        return value

    def strings(self, key: str, most: int, most_bytes: int = MAX_STRING_BYTES) -> list[str] | None:
        """Read an array of strings, or return None where there is none.

        Raises:
            ConfigError: it is no array of strings, or longer than `most`, or has more than `most_bytes`.
        """
        array = self._array(key, most)
        if array is None:
            return None
        if array.kind != STRING:
            raise self.wrong(key, "an array of strings", array)
        if array.num_bytes > most_bytes:
            raise ConfigError(
                f"{self.file.name}: {key}: expected at most {most_bytes} bytes, got {array.num_bytes}. {FIX}"
            )
        need_memory(4 * array.num_bytes + _STRING_BYTES * array.length, f"{self.file.name}: {key}")
        with self.opened() as file:
            cursor = Cursor(file, self.file.name, array.offset + array.num_bytes, array.offset)
            return [cursor.string(key, MAX_STRING_BYTES) for _ in range(array.length)]

    def numbers(self, key: str, most: int) -> list[int | float] | None:
        """Read an array of numbers, or return None where there is none.

        Raises:
            ConfigError: it is no array of numbers, or longer than `most`.
        """
        array = self._array(key, most)
        if array is None:
            return None
        if array.kind not in NUMPY:
            raise self.wrong(key, "an array of numbers", array)
        need_memory(2 * array.num_bytes + _NUMBER_BYTES * array.length, f"{self.file.name}: {key}")
        with self.opened() as file:
            cursor = Cursor(file, self.file.name, array.offset + array.num_bytes, array.offset)
            found: list[int | float] = np.frombuffer(cursor.take(array.num_bytes, key), NUMPY[array.kind]).tolist()
        return found

    def by_layer(self, key: str, num_layers: int) -> list[int | float] | None:
        """Return one number a layer; a file that has one number has it for all layers."""
        value = self.values.get(key)
        if value is None or isinstance(value, Array):
            found = self.numbers(key, num_layers)
            if found is not None and len(found) != num_layers:
                raise ConfigError(f"{self.file.name}: {key}: expected {num_layers} numbers, got {len(found)}. {FIX}")
            return found
        if isinstance(value, str):
            raise self.wrong(key, "numbers", value)
        return [value] * num_layers

    def wrong(self, key: str, expected: str, value: Value) -> ConfigError:
        """Build the error of a value that is of another type."""
        got = f"an array of {value.length}" if isinstance(value, Array) else repr(value)[:80]
        return ConfigError(f"{self.file.name}: {key}: expected {expected}, got {got}. {FIX}")

    def _array(self, key: str, most: int) -> Array | None:
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, Array):
            raise self.wrong(key, "an array", value)
        if value.length > most:
            raise ConfigError(f"{self.file.name}: {key}: expected at most {most} values, got {value.length}. {FIX}")
        return value


class MetadataReader:
    """Reads keys and values at a cursor; counts strings over all of them."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self._strings = 0

    def read(self, count: int) -> dict[str, Value]:
        """Read so many pairs.

        Raises:
            BundleError: names the key whose value cannot be what it claims.
        """
        values: dict[str, Value] = {}
        for i in range(count):
            key = self._cursor.string(f"key {i + 1} of {count}", 1 << 16)
            if key in values:
                raise BundleError(f"{self._cursor.where}: key {key[:120]!r}: is there twice. {FIX}")
            values[key] = self._value(f"key {key[:120]!r}")
        return values

    def _value(self, where: str) -> Value:
        kind = self._cursor.u32(where)
        if kind == STRING:
            return self._cursor.string(where, MAX_STRING_BYTES)
        if kind == ARRAY:
            return self._array(where)
        value = np.frombuffer(self._cursor.take(self._size(kind, where), where), NUMPY[kind])[0]
        # the shortest decimal number that float32 rounds to the same: 1e-06, as it was meant, not 9.999999974752427e-07
        found: Value = float(str(value)) if kind == FLOAT else value.item()
        return found

    def _array(self, where: str) -> Array:
        kind, length = self._cursor.u32(where), self._cursor.u64(where)
        start = self._cursor.at
        if kind == STRING:
            self._strings += min(length, MAX_STRINGS + 1)
            if self._strings > MAX_STRINGS:
                raise BundleError(
                    f"{self._cursor.where}: {where}: expected at most {MAX_STRINGS} strings in all arrays, got more. "
                    f"{FIX}"
                )
            self._cursor.skip_strings(length, where)
        else:
            self._cursor.skip(length * self._size(kind, where), where)
        return Array(kind, length, start, self._cursor.at - start)

    def _size(self, kind: int, where: str) -> int:
        if kind not in NUMPY:
            what = "arrays of arrays are not read" if kind == ARRAY else f"expected a type of GGUF, got {kind}"
            raise BundleError(f"{self._cursor.where}: {where}: {what}. {FIX}")
        return np.dtype(NUMPY[kind]).itemsize
