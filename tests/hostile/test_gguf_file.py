"""GGUF files that lie: every lie is an error that names file, key or tensor, never a crash, a hang or a lot of memory."""

from __future__ import annotations

import random
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf_files import write_gguf
from synthetic import qwen3_config, write_qwen3

from edge_runtime.base.errors import BundleError, ConfigError, HobbitError
from hobbit_export.gguf.files import open_files
from hobbit_export.gguf.header import MAX_KEYS, MAX_TENSORS, read_header
from hobbit_export.gguf.metadata import MAX_STRINGS
from hobbit_export.source import SourceModel

U32, F32, STRING, ARRAY, U64 = 4, 6, 8, 9, 10
HUGE = 1 << 60
MOST_MEMORY = 24 << 20


def text(value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(value) if length is None else length) + value


def key(name: bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def tensor(name: bytes, *sizes: int, kind: int = 0, offset: int = 0, dimensions: int | None = None) -> bytes:
    """Sizes begin with the contiguous one, as files have them."""
    count = len(sizes) if dimensions is None else dimensions
    return text(name) + struct.pack(f"<I{len(sizes)}QIQ", count, *sizes, kind, offset)


def file_of(
    keys: list[bytes], tensors: list[bytes], data: int = 0, *, magic: bytes = b"GGUF", version: int = 3,
    num_keys: int | None = None, num_tensors: int | None = None,
) -> bytes:  # fmt: skip
    counts = len(tensors) if num_tensors is None else num_tensors, len(keys) if num_keys is None else num_keys
    head = magic + struct.pack("<IQQ", version, *counts) + b"".join(keys) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + bytes(data)


def strings(count: int, *values: bytes) -> bytes:
    return struct.pack("<IQ", STRING, count) + b"".join(map(text, values))


A = tensor(b"a", 4, 2)
LIES: list[tuple[str, bytes, str]] = [
    ("empty", b"", r"expected a GGUF file, got 0 bytes \(truncated\)"),
    ("another file", file_of([], [], magic=b"GGML"), "expected a GGUF file, got b'GGML'"),
    ("version", file_of([], [], version=1), "expected version 2 or 3 of GGUF, got 1"),
    ("big-endian", file_of([], [], version=3 << 24), "is big-endian"),
    ("tensors", file_of([], [], num_tensors=HUGE), f"expected at most {MAX_TENSORS} tensors, got {HUGE}"),
    ("keys", file_of([], [], num_keys=HUGE), f"expected at most {MAX_KEYS} keys, got {HUGE}"),
    ("more tensors than there are", file_of([], [A], num_tensors=2), "tensor '': expected 1 to 4 dimensions, got 0"),
    ("more keys than there are", file_of([], [], num_keys=2), "key '': expected 4 bytes at 32, but the header ends at 32"),
    ("length of a key", file_of([text(b"", HUGE)], []), "key 1 of 1: expected a string of at most 65536 bytes"),
    ("key that is no text", file_of([key(b"\xff", U32, b"1234")], []), "key 1 of 1: expected UTF-8"),
    ("key twice", file_of([key(b"a", U32, b"1234")] * 2, []), "key 'a': is there twice"),
    ("type of a value", file_of([key(b"a", 13, b"1234")], []), "key 'a': expected a type of GGUF, got 13"),
    ("length of a string", file_of([key(b"a", STRING, text(b"", HUGE))], []), "key 'a': expected a string of at most"),
    ("string past the end", file_of([key(b"a", STRING, text(b"", 4096))], []), "key 'a': expected 4096 bytes"),
    ("array of arrays", file_of([key(b"a", ARRAY, struct.pack("<IQ", ARRAY, 1))], []), "arrays of arrays"),
    ("length of an array", file_of([key(b"a", ARRAY, struct.pack("<IQ", F32, HUGE))], []), "key 'a': expected .* bytes"),
    ("strings", file_of([key(b"a", ARRAY, strings(HUGE))], []), f"expected at most {MAX_STRINGS} strings in all"),
    ("strings past the end", file_of([key(b"a", ARRAY, strings(9, b"a", b"b"))], []), "key 'a': expected .* bytes"),
    ("alignment 0", file_of([key(b"general.alignment", U32, struct.pack("<I", 0))], [A], 32), "expected a power of two"),
    ("alignment", file_of([key(b"general.alignment", U32, struct.pack("<I", 48))], [A], 32), "expected a power of two"),
    ("alignment's type", file_of([key(b"general.alignment", STRING, text(b"32"))], [A], 32), "expected a whole number"),
    ("no dimensions", file_of([], [tensor(b"a")], 32), "tensor 'a': expected 1 to 4 dimensions, got 0"),
    ("dimensions", file_of([], [tensor(b"a", 2, dimensions=1 << 31)], 32), "tensor 'a': expected 1 to 4 dimensions"),
    ("name", file_of([], [tensor(b"a" * 65, 4)], 32), "expected a string of at most 64 bytes, got 65"),
    ("size 0", file_of([], [tensor(b"a", 0, 2)], 32), r"tensor 'a': expected possible sizes, got \[2, 0\]"),
    ("huge size", file_of([], [tensor(b"a", 1 << 40)], 32), "tensor 'a': expected possible sizes"),
    ("overflow", file_of([], [tensor(b"a", *[1 << 16] * 4)], 32), "tensor 'a': expected possible sizes"),
    ("larger than the file", file_of([], [tensor(b"a", 1 << 20)], 32), "tensor 'a': expected 4194304 bytes at 64"),
    ("type", file_of([], [tensor(b"a", 4, 2, kind=4)], 32), "tensor 'a': expected a type of GGUF, got 4"),
    ("half a block", file_of([], [tensor(b"a", 48, kind=8)], 64), r"rows of whole blocks of 32 \(Q8_0\), got 48"),
    ("offset", file_of([], [tensor(b"a", 4, 2, offset=4)], 64), "expected an offset that is a multiple of 32, got 4"),
    ("huge offset", file_of([], [tensor(b"a", 4, 2, offset=1 << 62)], 64), "tensor 'a': leaves a hole before it"),
    ("overlap", file_of([], [A, tensor(b"b", 16, 2, offset=0)], 256), "overlaps the tensor before it"),
    ("same name", file_of([], [A, tensor(b"a", 4, 2, offset=32)], 64), "tensor 'a': is there twice"),
    ("hole", file_of([], [A, tensor(b"b", 4, 2, offset=64)], 96), "tensor 'b': leaves a hole"),
    ("tail", file_of([], [A], 96), "expected 128 bytes, got 192"),
    ("cut", file_of([], [A], 8), "tensor 'a': expected 32 bytes at 96, but the file has 104"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "raw", "message"), LIES, ids=[lie[0] for lie in LIES])
def test_lying_header(tmp_path: Path, name: str, raw: bytes, message: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(raw)
    tracemalloc.start()
    try:
        with pytest.raises(HobbitError, match=f"model.gguf: .*{message}"):
            read_header(path)
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()


def test_a_sound_header_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    keys = [key(b"a", STRING, text(b"x")), key(b"b", ARRAY, strings(2, b"one", b"two"))]
    path.write_bytes(file_of(keys, [A, tensor(b"b", 32, 3, kind=8, offset=32)], 32 + 128))
    header = read_header(path)
    assert header.metadata.text("a") == "x"
    assert header.metadata.strings("b", 2) == ["one", "two"]
    assert [(t.name, t.shape, t.dtype, t.num_bytes) for t in header.tensors.values()] == [
        ("a", (2, 4), "F32", 32), ("b", (3, 32), "Q8_0", 102),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model in one file."""
    folder = tmp_path_factory.mktemp("gguf")
    return write_gguf(write_qwen3(folder / "ck", qwen3_config(64, 32, 4, 1)), folder / "model.gguf")


def opened(path: Path) -> None:
    SourceModel.open(path).checkpoint.close()


def damage(raw: bytearray, header_bytes: int, rng: random.Random) -> bytes:
    """Change a header in one to three places: bits, numbers of 4 or 8 bytes, bytes put in or taken out, an end."""
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(header_bytes)
        how = rng.randrange(6)
        if how == 0:
            raw[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            raw[at : at + 8] = struct.pack("<Q", rng.choice((0, 1, 1 << 31, 1 << 32, HUGE, (1 << 64) - 1)))
        elif how == 2:
            raw[at : at + 4] = struct.pack("<I", rng.choice((0, 1, 9, 255, 1 << 16, (1 << 32) - 1)))
        elif how == 3:
            raw[at:at] = rng.randbytes(rng.randint(1, 9))
        elif how == 4:
            del raw[at : at + rng.randint(1, 9)]
        else:
            raw[at] = rng.randrange(256)
    return bytes(raw if rng.random() < 0.9 else raw[: rng.randrange(len(raw))])


@pytest.mark.parametrize("seed", range(4))
def test_damaged_headers(model: Path, tmp_path: Path, seed: int) -> None:
    rng, path = random.Random(seed), tmp_path / "model.gguf"
    raw, size = model.read_bytes(), read_header(model).num_bytes
    opened(model)  # the package's tables are loaded once
    refused = 0
    tracemalloc.start()
    try:
        for _ in range(100):
            path.write_bytes(damage(bytearray(raw), size, rng))
            try:
                opened(path)
            except HobbitError:
                refused += 1
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()
    assert refused > 50


KEYS: list[tuple[dict[str, Any], str]] = [
    ({"qwen3moe__block_count": 9}, "tensor 'blk.1.attn_norm.weight' is missing"),
    ({"qwen3moe__block_count": 0}, "qwen3moe.block_count: expected a whole number above 0, got 0"),
    ({"qwen3moe__block_count": "one"}, "qwen3moe.block_count: expected a whole number, got 'one'"),
    ({"qwen3moe__embedding_length": 128}, r"expected shape \[512, 128\], got \[512, 64\]"),
    ({"qwen3moe__attention__head_count": [4, 4]}, "attention.head_count: expected at most 1 values, got 2"),
    ({"qwen3moe__attention__layer_norm_rms_epsilon": float("nan")}, "layer_norm_rms_epsilon: expected a number"),
    ({"qwen3moe__attention__value_length": 16}, "unsupported option 'qwen3moe.attention.value_length' = 16"),
    ({"qwen3moe__expert_gating_func": 2}, "unsupported option 'qwen3moe.expert_gating_func' = 2"),
    ({"qwen3moe__expert_weights_norm": False}, "unsupported option 'qwen3moe.expert_weights_norm' = False"),
    ({"qwen3moe__rope__dimension_count": 8}, "unsupported option 'qwen3moe.rope.dimension_count' = 8"),
    ({"qwen3moe__rope__scaling__type": "longrope"}, "unsupported option 'qwen3moe.rope.scaling.type' = longrope"),
    ({"qwen3moe__new_trick": 1.5}, "unsupported option 'qwen3moe.new_trick' = 1.5"),
    ({"qwen3moe__expert_count": 0}, "general.architecture: 'qwen3moe' is a dense model"),
    ({"general__architecture": "newmoe", "newmoe__expert_count": 8}, "'newmoe' is not read from GGUF yet. Supported"),
    ({"general__architecture": "llama"}, "general.architecture: 'llama' is a dense model: it has no experts"),
    ({"tokenizer__ggml__pre": "new"}, "tokenizer.ggml.pre: .* got 'new'. Known: .*--tokenizer DIR"),
    ({"tokenizer__ggml__model": "rwkv"}, "tokenizer.ggml.model: expected 'gpt2', 'llama' or 'gemma4', got 'rwkv'"),
    ({"tokenizer__ggml__tokens": ["a", "b"]}, "tokenizer.ggml.tokens: expected 512, as the embedding has rows, got 2"),
    ({"tokenizer__ggml__tokens": ["a"] * 512}, "expected different texts, but 'a' is token 0 and token 1"),
    ({"tokenizer__ggml__token_type": [1] * 511 + [7]}, "tokenizer.ggml.token_type: expected a type from 1 to 6"),
    ({"tokenizer__ggml__merges": ["a bb"]}, "merge 1: expected two tokens that make a third, got 'a bb'"),
    ({"tokenizer__ggml__eos_token_id": 512}, "eos_token_id: expected a number below 512, got 512"),
    ({"tokenizer__chat_templates": ["../x"]}, "tokenizer.chat_templates: expected names of templates"),
    ({"split__tensors__count": 9}, "split.tensors.count: expected 15, as the files have, got 9"),
    ({"split__count": 2, "split__no": 0}, "is one of 2 splits: expected a name that ends in -00001-of-00002.gguf"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), KEYS, ids=[" ".join(changes) for changes, _ in KEYS])
def test_keys_that_cannot_be_true_or_are_not_known(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    checkpoint = write_qwen3(tmp_path / "ck", qwen3_config(64, 32, 4, 1))
    with pytest.raises(HobbitError, match=message):
        opened(write_gguf(checkpoint, tmp_path / "model.gguf", **changes))


def test_a_key_is_ignored_on_request(tmp_path: Path) -> None:
    checkpoint = write_qwen3(tmp_path / "ck", qwen3_config(64, 32, 4, 1))
    file = write_gguf(checkpoint, tmp_path / "model.gguf", qwen3moe__new_trick=1.5)
    SourceModel.open(file, ["qwen3moe.new_trick"]).checkpoint.close()
    with pytest.raises(ConfigError, match=r"--ignore-key: model.gguf has no key 'qwen3moe.old_trick'"):
        SourceModel.open(file, ["qwen3moe.new_trick", "qwen3moe.old_trick"])


@pytest.fixture
def splits(tmp_path: Path) -> list[Path]:
    """A small model in files of at most 6 tensors."""
    first = write_gguf(write_qwen3(tmp_path / "ck", qwen3_config(64, 32, 4, 1)), tmp_path / "m.gguf", splits=6)
    return sorted(first.parent.glob("m-*.gguf"))


def _remove(splits: list[Path]) -> None:
    splits[1].unlink()


def _exchange(splits: list[Path]) -> None:
    splits[1].write_bytes(splits[2].read_bytes())


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_remove, r"split m-00002-of-00003.gguf is missing beside it \(1 of 3\)"),
        (_exchange, "split.no: expected 1, got 2"),
    ],
)
def test_damaged_splits(splits: list[Path], harm: Callable[[list[Path]], None], message: str) -> None:
    assert len(splits) == 3
    opened(splits[0])
    harm(splits)
    with pytest.raises(BundleError, match=message):
        opened(splits[0])


def test_a_split_that_is_not_the_first(splits: list[Path]) -> None:
    with pytest.raises(
        ConfigError, match=r"m-00002-of-00003.gguf: is not the first of 3 splits. Give m-00001-of-00003"
    ):
        open_files(splits[1])


def test_a_split_under_another_name(splits: list[Path]) -> None:
    renamed = splits[0].rename(splits[0].with_name("model.gguf"))
    with pytest.raises(ConfigError, match="is one of 3 splits: expected a name that ends in -00001-of-00003.gguf"):
        open_files(renamed)
