"""Header of an expert file (`.hbx`): pack it, parse it, check it. docs/format.md section 1.1 is the contract."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from edge_runtime.base.arrays import U32
from edge_runtime.base.checksum import crc32c
from edge_runtime.base.errors import BundleError
from edge_runtime.base.sizes import align_up
from edge_runtime.bundle.record import GROUP, PAGE, RecordLayout

MAGIC = b"HOBBITX1"
VERSION, VERSION_OTHER = 1, 2
"""Of files of experts with a gate and without biases, and of other experts' files."""
KIND_PROGRESSIVE, KIND_BF16 = 0, 1
_FIXED = struct.Struct("<8s8I2Q4Q2I")
_TABLE_OFFSET = 96
MAX_HEADER_BYTES = 16 << 20


@dataclass(frozen=True)
class ExpertFileHeader:
    """What one expert file says about itself.

    Attributes:
        checksums: uint32 [E, num_segments], CRC-32C of every segment of every record.
        gated: experts have a gate matrix.
        bias: their matrices have biases.
        fp4: codes of their records stand for 4-bit floats.
    """

    kind: int
    layer_idx: int
    num_experts: int
    hidden: int
    intermediate: int
    segment_bytes: tuple[int, ...]
    checksums: U32
    gated: bool = True
    bias: bool = False
    fp4: bool = False

    @property
    def record_stride(self) -> int:
        """Bytes from one record to the next."""
        return sum(self.segment_bytes)

    @property
    def header_bytes(self) -> int:
        """Bytes of the header, a multiple of 4 KiB."""
        return header_bytes(self.num_experts, len(self.segment_bytes))

    @property
    def file_bytes(self) -> int:
        """Exact size of the whole file."""
        return self.header_bytes + self.num_experts * self.record_stride

    def record_offset(self, expert_idx: int) -> int:
        """Offset in the file of one expert's record."""
        return self.header_bytes + expert_idx * self.record_stride


def header_bytes(num_experts: int, num_segments: int) -> int:
    """Size of the header for so many checksums, a multiple of 4 KiB."""
    return align_up(_TABLE_OFFSET + 4 * num_experts * num_segments + 4, PAGE)


def expected_segments(kind: int, layout: RecordLayout) -> tuple[int, ...]:
    """Segment sizes that follow from the shape; the file must state the same."""
    return (layout.bf16_bytes,) if kind == KIND_BF16 else layout.segment_bytes


def pack_header(header: ExpertFileHeader) -> bytes:
    """Return the header's exact bytes."""
    total = header.header_bytes
    sizes = (*header.segment_bytes, 0, 0, 0)[:4]
    form = _form(gated=header.gated, bias=header.bias, fp4=header.fp4)
    fixed = _FIXED.pack(
        MAGIC, VERSION_OTHER if form else VERSION, header.kind, header.layer_idx, header.num_experts, header.hidden,
        header.intermediate, len(header.segment_bytes), GROUP, total, header.record_stride, *sizes, form, 0,
    )  # fmt: skip
    table = header.checksums.astype("<u4").tobytes()
    body = (fixed + table).ljust(total - 4, b"\0")
    return body + struct.pack("<I", crc32c(body))


def _form(*, gated: bool, bias: bool, fp4: bool) -> int:
    """Bits that say in what records differ from those of version 1."""
    return (0 if gated else 1) | (2 if bias else 0) | (4 if fp4 else 0)


def parse_header(data: bytes, name: str) -> ExpertFileHeader:
    """Parse and check the start of an expert file.

    Args:
        data: at least the header; a longer prefix of the file is fine.
        name: the file's name, used in errors.

    Raises:
        BundleError: any field lies, or the checksum does not match.
    """

    def need(ok: bool, what: str, expected: object, got: object) -> None:
        if not ok:
            raise BundleError(f"{name}: {what}: expected {expected}, got {got}. Export the bundle again.")

    need(len(data) >= _FIXED.size, "header", f"at least {_FIXED.size} bytes", f"{len(data)} (truncated)")
    magic, version, kind, layer, experts, hidden, inter, segments, group, total, stride, *rest = _FIXED.unpack_from(
        data
    )
    need(magic == MAGIC, "magic", MAGIC, magic)
    need(version in (VERSION, VERSION_OTHER), "version", f"{VERSION} or {VERSION_OTHER}", version)
    need(kind in (KIND_PROGRESSIVE, KIND_BF16), "kind", "0 or 1", kind)
    need(1 <= experts <= 1 << 14, "num_experts", "1 to 16384", experts)
    need(1 <= segments <= (4 if kind == KIND_PROGRESSIVE else 1), "num_segments", "1 to 4 (1 for bfloat16)", segments)
    need(group == GROUP, "group_size", GROUP, group)
    for what, value in (("hidden", hidden), ("intermediate", inter)):
        need(GROUP <= value <= 1 << 18 and value % GROUP == 0, what, "a multiple of 32", value)
    need(total == header_bytes(experts, segments), "header_bytes", header_bytes(experts, segments), total)
    need(len(data) >= total, "header", f"{total} bytes", f"{len(data)} (truncated)")
    (stored,) = struct.unpack_from("<I", data, total - 4)
    computed = crc32c(data[: total - 4])
    need(stored == computed, "header checksum", f"{stored:08x}", f"{computed:08x} (damaged)")
    form, reserved = rest[4:]
    need(1 <= form <= 7 or version == VERSION, "form", "1 to 7", form)
    need(form == 0 or version != VERSION, "reserved bytes", "zeros", "something else")
    gated, bias, fp4 = not form & 1, bool(form & 2), bool(form & 4)
    need(not fp4 or (segments <= 2 and kind == KIND_PROGRESSIVE), "form", "no 4-bit floats in such records", form)
    sizes = expected_segments(kind, RecordLayout(hidden, inter, segments, gated, bias))
    need(tuple(rest[:4]) == (*sizes, 0, 0, 0)[:4], "segment_bytes", sizes, tuple(rest[:4]))
    need(stride == sum(sizes), "record_stride", sum(sizes), stride)
    table_end = _TABLE_OFFSET + 4 * experts * segments
    need(not reserved and not any(data[table_end : total - 4]), "reserved bytes", "zeros", "something else")
    table = np.frombuffer(data, "<u4", experts * segments, _TABLE_OFFSET).reshape(experts, segments)
    return ExpertFileHeader(kind, layer, experts, hidden, inter, sizes, table.copy(), gated, bias, fp4)
