"""Open a bundle directory: manifest, part files and expert headers, checked before anything trusts them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from edge_runtime.base.checksum import crc32c
from edge_runtime.base.errors import BundleError
from edge_runtime.bundle import manifest_file
from edge_runtime.bundle.expert_file import (
    KIND_BF16,
    KIND_PROGRESSIVE,
    MAX_HEADER_BYTES,
    ExpertFileHeader,
    header_bytes,
    parse_header,
)
from edge_runtime.bundle.files import open_regular, read_regular
from edge_runtime.bundle.manifest import Manifest, Part, Role
from edge_runtime.bundle.part_names import expert_file
from edge_runtime.bundle.record import BF16
from edge_runtime.bundle.router_data import RouterData, router_arrays, router_data_of, router_file

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Bundle:
    """A bundle whose structure was checked. Contents are checked by whoever reads them: see `check_part`."""

    path: Path
    manifest: Manifest
    _intact: set[str] = field(default_factory=set, repr=False, compare=False)

    @staticmethod
    def open(path: str | os.PathLike[str]) -> Bundle:
        """Check manifest, presence, type and exact size of every part.

        Raises:
            ConfigError: the path is not a directory.
            BundleError: names the part, what was expected and what was found.
        """
        root = Path(path)
        bundle = Bundle(root, manifest_file.read(root))
        for part in bundle.manifest.parts:
            bundle.file_of(part)
        return bundle

    def file_of(self, part: Part) -> Path:
        """Path of a part after checking that it is a regular file of the stated size inside the bundle.

        For libraries that open files themselves; all else reads through `open_part` and `read_part`.
        """
        os.close(self.open_part(part))
        return self.path / part.name

    def open_part(self, part: Part, *, more_flags: int = 0) -> int:
        """Open a part for reading; the caller closes the descriptor.

        Raises:
            BundleError: it is not a regular file of the stated size inside the bundle.
            OSError: EINVAL, where the file system refuses `more_flags`.
        """
        return open_regular(self.path, part.name, part.bytes, more_flags=more_flags)

    def read_part(self, part: Part, *, limit: int) -> bytes:
        """Read a whole part and compare it with its checksum.

        Args:
            part: a part of this bundle.
            limit: most bytes such a part may have; checked before anything is read.

        Raises:
            BundleError: it is larger, damaged, or not a regular file of the stated size inside the bundle.
        """
        if part.bytes > limit:
            raise BundleError(
                f"{part.name}: expected at most {limit} bytes, got {part.bytes}. Export the bundle again."
            )
        data = read_regular(self.path, part.name, part.bytes, limit=limit)
        if crc32c(data) != part.crc32c:
            raise _damaged(part)
        self._intact.add(part.name)
        return data

    def router_data(self) -> RouterData:
        """Read the numbers the model's router needs besides logits.

        Raises:
            BundleError: a part is damaged, or holds what no router can use.
        """
        spec = self.manifest.model
        parts = {name: self.manifest.part(router_file(name)) for name in router_arrays(spec)}
        raw = {name: self.read_part(part, limit=part.bytes) for name, part in parts.items()}
        try:
            return router_data_of(spec, raw)
        except ValueError as err:
            raise BundleError(f"router: {err}. Export the bundle again.") from err

    def expert_header(self, layer_idx: int, tier: int) -> ExpertFileHeader:
        """Read and check the header of a layer's expert file against the manifest.

        Args:
            layer_idx: a sparse layer.
            tier: 16 for the bfloat16 file, anything else for the progressive one.
        """
        m = self.manifest
        name = expert_file(layer_idx, tier)
        part = m.part(name)
        with reading(name), os.fdopen(self.open_part(part), "rb") as file:
            return checked_header(m, part, file.read(most_header_bytes(m, tier)))

    def check_part(self, part: Part, *, sha256: bool = False, progress: Callable[[int], None] | None = None) -> None:
        """Read a part from end to end and compare its checksum with the manifest.

        Args:
            part: a part of this bundle.
            sha256: compare the cryptographic digest as well as the CRC.
            progress: called with the number of bytes of each block read.

        Raises:
            BundleError: the part is damaged.
        """
        crc, hasher = 0, hashlib.sha256() if sha256 else None
        memory = memoryview(bytearray(min(_BLOCK, part.bytes)))  # one for all blocks: new pages cost as much as reading
        with reading(part.name), os.fdopen(self.open_part(part), "rb") as file:
            while count := file.readinto(memory):
                block = memory[:count]
                crc = crc32c(block, crc)
                if hasher:
                    hasher.update(block)
                if progress:
                    progress(len(block))
        if crc != part.crc32c or (hasher and hasher.hexdigest() != part.sha256):
            raise _damaged(part)
        self._intact.add(part.name)

    def check_unread(self, roles: Collection[Role]) -> None:
        """Check the parts of some roles, except those that were read or checked since the bundle was opened.

        Raises:
            BundleError: one is damaged.
        """
        for part in self.manifest.parts:
            if part.role in roles and part.name not in self._intact:
                self.check_part(part)


def most_header_bytes(manifest: Manifest, tier: int) -> int:
    """Bytes that the header of an expert file has, as the manifest says; bounded."""
    segments = 1 if tier == BF16 else manifest.experts.num_segments
    return min(header_bytes(manifest.model.num_experts, segments), MAX_HEADER_BYTES)


def checked_header(m: Manifest, part: Part, data: bytes) -> ExpertFileHeader:
    """Parse the header of an expert file and compare it with the manifest.

    Args:
        m: lists the part.
        part: of role `experts` or `experts_bf16`.
        data: the beginning of the file, at least its header.

    Raises:
        BundleError: it is none, or not the one of this part.
    """
    is_bf16 = part.role == "experts_bf16"
    header = parse_header(data, part.name)
    for what, expected, got in (
        ("kind", KIND_BF16 if is_bf16 else KIND_PROGRESSIVE, header.kind),
        ("layer_idx", part.layer, header.layer_idx),
        ("num_experts", m.model.num_experts, header.num_experts),
        ("hidden", m.model.hidden, header.hidden),
        ("intermediate", m.model.experts.intermediate, header.intermediate),
        ("gate matrices", m.model.experts.gated, header.gated),
        ("biases", m.model.experts.bias, header.bias),
        ("4-bit floats", m.model.experts.codes == "fp4" and not is_bf16, header.fp4),
        ("num_segments", 1 if is_bf16 else m.experts.num_segments, len(header.segment_bytes)),
        ("file size", part.bytes, header.file_bytes),
    ):
        if expected != got:
            raise BundleError(f"{part.name}: {what}: expected {expected}, got {got}. Export the bundle again.")
    return header


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Name the part in errors of the drive.

    Raises:
        BundleError: the block failed with an OSError.
    """
    try:
        yield
    except OSError as err:
        raise BundleError(f"{name}: cannot be read: {err.strerror}. Check the drive (dmesg).") from err


def _damaged(part: Part) -> BundleError:
    return BundleError(f"{part.name}: checksum does not match the manifest (damaged). Export the bundle again.")
