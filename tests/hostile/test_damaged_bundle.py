"""A damaged bundle is refused by name: at open, at the first read, and by `hobbit verify`. No crash, no wrong token."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from edge_runtime import BundleError, Engine, ExpertReadError, SamplingParams
from edge_runtime.__main__ import main
from edge_runtime.bundle import manifest_file
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.expert_file import header_bytes
from edge_runtime.bundle.part_names import expert_file
from edge_runtime.experts.store.files import FileOps

OPTIONS = {"memory": "2GiB", "context": 128, "self_check": False}
PROMPT = list(range(5, 40))


@pytest.fixture
def bundle(model_bundle, tmp_path) -> Path:
    """A private copy of the bundle that may be damaged."""
    return Path(shutil.copytree(model_bundle, tmp_path / "bundle"))


def flip(path: Path, at: int) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))


def use(bundle: Path) -> None:
    """Open and generate enough to touch every expert of the prompt."""
    with Engine.open(bundle, **OPTIONS) as engine:
        engine.generate(PROMPT, SamplingParams(max_tokens=8))


def test_every_part_is_refused_when_a_bit_flips(bundle, capsys):
    """Dense parts at open; experts by verify, whatever segment the bit is in."""
    manifest = manifest_file.read(bundle)
    for part in manifest.parts:
        path = bundle / part.name
        at = part.bytes // 2
        flip(path, at)
        if part.role in ("trunk", "embedding", "tokenizer", "calibration"):
            with pytest.raises(BundleError, match=part.name.split("/")[-1]):
                Engine.open(bundle, **OPTIONS)
        capsys.readouterr()
        assert main(["verify", str(bundle), "--structure-only", "--memory", "2GiB"]) == 78, part.name
        assert part.name in capsys.readouterr().err
        flip(path, at)
    assert main(["verify", str(bundle), "--structure-only", "--memory", "2GiB"]) == 0


def test_a_flipped_bit_in_an_expert_ends_the_request_by_name_and_the_engine_lives(bundle):
    manifest = manifest_file.read(bundle)
    stride = manifest.layout.record_bytes
    start = header_bytes(manifest.model.num_experts, manifest.experts.num_segments)
    path = bundle / expert_file(3)
    places = [start + e * stride + stride // 3 for e in range(manifest.model.num_experts)]
    with Engine.open(bundle, tier=8, **OPTIONS) as engine:
        for at in places:
            flip(path, at)
        with pytest.raises(ExpertReadError, match=r"layer_003\.hbx.*expert \d+"):
            engine.generate(PROMPT, SamplingParams(max_tokens=4))
        for at in places:
            flip(path, at)
        tokens = engine.generate(PROMPT, SamplingParams(max_tokens=4)).token_ids
    with Engine.open(bundle, tier=8, **OPTIONS) as fresh:
        assert fresh.generate(PROMPT, SamplingParams(max_tokens=4)).token_ids == tokens


def test_a_flipped_bit_in_an_expert_header_is_refused_at_open(bundle):
    for at in (3, 9, 17, 50, 100, 4095):
        flip(bundle / "experts" / "layer_002.hbx", at)
        with pytest.raises(BundleError, match=r"layer_002\.hbx"):
            Engine.open(bundle, **OPTIONS)
        flip(bundle / "experts" / "layer_002.hbx", at)


@pytest.mark.parametrize(
    "name", ["experts/layer_001.hbx", "trunk/layer_000.data", "trunk/embed.bin", "tokenizer/tokenizer.json"]
)
def test_truncated_grown_and_missing_parts_are_refused(bundle, name):
    path = bundle / name
    size = path.stat().st_size
    os.truncate(path, size - 1)
    with pytest.raises(BundleError, match=f"{name}.*truncated"):
        use(bundle)
    os.truncate(path, size + 1)
    with pytest.raises(BundleError, match=f"{name}.*too long"):
        use(bundle)
    path.unlink()
    with pytest.raises(BundleError, match=name):
        use(bundle)


def test_links_that_leave_the_bundle_are_refused(bundle, tmp_path):
    path = bundle / "trunk" / "head.onnx"
    outside = tmp_path / "head.onnx"
    shutil.move(path, outside)
    path.symlink_to(outside)
    with pytest.raises(BundleError, match=r"head\.onnx.*link"):
        Bundle.open(bundle)


def test_removed_while_running_is_a_named_error_and_recovers(bundle):
    path = bundle / "experts" / "layer_004.hbx"
    kept = bundle.parent / "kept.hbx"
    few = 6 * manifest_file.read(bundle).layout.tier_bytes(4)
    with Engine.open(bundle, tier=4, expert_memory=few, **OPTIONS) as engine:
        expected = engine.generate(PROMPT, SamplingParams(max_tokens=4)).token_ids
        stream = engine.stream(PROMPT, SamplingParams(max_tokens=20))
        next(stream)
        shutil.copy(path, kept)
        path.unlink()
        with pytest.raises(ExpertReadError, match=r"layer_004\.hbx"):
            list(stream)
        with pytest.raises(ExpertReadError, match=r"layer_004\.hbx"):
            engine.generate(PROMPT, SamplingParams(max_tokens=4))
        shutil.copy(kept, path)
        assert engine.generate(PROMPT, SamplingParams(max_tokens=4)).token_ids == expected


def test_truncated_while_running_is_a_named_error(bundle):
    few = 6 * manifest_file.read(bundle).layout.tier_bytes(4)
    with Engine.open(bundle, tier=4, expert_memory=few, **OPTIONS) as engine:
        engine.generate(PROMPT, SamplingParams(max_tokens=2))
        os.truncate(bundle / "experts" / "layer_001.hbx", 8192)
        with pytest.raises(ExpertReadError, match=r"layer_001\.hbx"):
            engine.generate(PROMPT, SamplingParams(max_tokens=2))


def test_a_drive_error_ends_the_request_by_name_and_the_engine_lives(bundle, monkeypatch):
    few = 6 * manifest_file.read(bundle).layout.tier_bytes(4)
    until_failure = [-1]

    def failing(ops: FileOps, fd: int, into: memoryview, offset: int) -> int:
        until_failure[0] -= 1
        if until_failure[0] == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return os.preadv(fd, [into], offset)

    monkeypatch.setattr(FileOps, "preadv", failing)
    with Engine.open(bundle, tier=4, expert_memory=few, **OPTIONS) as engine:
        expected = engine.generate(PROMPT, SamplingParams(max_tokens=6)).token_ids
        until_failure[0] = 20
        with pytest.raises(ExpertReadError, match=r"layer_\d+\.hbx.*Input/output error"):
            engine.generate(PROMPT, SamplingParams(max_tokens=6))
        assert until_failure[0] <= 0
        assert engine.generate(PROMPT, SamplingParams(max_tokens=6)).token_ids == expected


def test_commands_print_errors_not_tracebacks(bundle, capsys):
    (bundle / "manifest.json").write_text("{}")
    assert main(["run", str(bundle), "--prompt", "x"]) == 78
    err = capsys.readouterr().err
    assert "manifest.json" in err
    assert "Traceback" not in err
