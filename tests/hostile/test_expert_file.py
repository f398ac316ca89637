"""Expert file headers: exact bytes, and every lie refused by name, with a checksum that matches it."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.base.checksum import crc32c
from edge_runtime.base.errors import BundleError
from edge_runtime.bundle.expert_file import (
    KIND_BF16,
    KIND_PROGRESSIVE,
    ExpertFileHeader,
    expected_segments,
    header_bytes,
    pack_header,
    parse_header,
)
from edge_runtime.bundle.record import RecordLayout

NAME = "experts/layer_003.hbx"


def small_header(
    kind: int = KIND_PROGRESSIVE, segments: int = 4, experts: int = 3, *, gated: bool = True, bias: bool = False
) -> ExpertFileHeader:
    sizes = expected_segments(kind, RecordLayout(64, 32, segments, gated, bias))
    table = np.arange(experts * len(sizes), dtype=np.uint32).reshape(experts, len(sizes)) * 77
    return ExpertFileHeader(kind, 3, experts, 64, 32, sizes, table, gated, bias)


def sealed(data: bytearray) -> bytes:
    """Put the right checksum at the end of a forged header."""
    struct.pack_into("<I", data, len(data) - 4, crc32c(bytes(data[:-4])))
    return bytes(data)


def test_exact_bytes_of_version_1():
    """Written out by hand from docs/format.md: if this changes, every bundle in the world is unreadable."""
    raw = pack_header(small_header())
    layout = RecordLayout(64, 32, 4)
    expected = b"HOBBITX1" + struct.pack("<8I", 1, 0, 3, 3, 64, 32, 4, 32)
    expected += struct.pack("<2Q", 4096, layout.record_bytes) + struct.pack("<4Q", *layout.segment_bytes) + bytes(8)
    expected += b"".join(struct.pack("<I", 77 * i) for i in range(12))
    expected = expected.ljust(4092, b"\0")
    assert raw == expected + struct.pack("<I", crc32c(expected))


@pytest.mark.parametrize(("gated", "bias", "form"), [(False, False, 1), (True, True, 2), (False, True, 3)])
def test_exact_bytes_of_version_2(gated, bias, form):
    """Only files of experts that version 1 cannot hold have it."""
    raw = pack_header(small_header(gated=gated, bias=bias))
    layout = RecordLayout(64, 32, 4, gated, bias)
    expected = b"HOBBITX1" + struct.pack("<8I", 2, 0, 3, 3, 64, 32, 4, 32)
    expected += struct.pack("<2Q", 4096, layout.record_bytes) + struct.pack("<4Q", *layout.segment_bytes)
    expected += struct.pack("<2I", form, 0)
    expected += b"".join(struct.pack("<I", 77 * i) for i in range(12))
    expected = expected.ljust(4092, b"\0")
    assert raw == expected + struct.pack("<I", crc32c(expected))
    parsed = parse_header(raw, NAME)
    assert (parsed.gated, parsed.bias, parsed.segment_bytes) == (gated, bias, layout.segment_bytes)


@pytest.mark.parametrize(("kind", "segments"), [(KIND_PROGRESSIVE, 1), (KIND_PROGRESSIVE, 4), (KIND_BF16, 1)])
def test_round_trip(kind, segments):
    header = small_header(kind, segments, experts=2000)
    parsed = parse_header(pack_header(header) + b"records follow", NAME)
    assert (parsed.checksums == header.checksums).all()
    assert parsed.segment_bytes == header.segment_bytes
    assert parsed.header_bytes == header_bytes(2000, segments) > 4096 * segments
    assert parsed.record_offset(5) == parsed.header_bytes + 5 * parsed.record_stride


LIES = {
    "magic": (0, "<8s", b"HOBBITX2", "magic"),
    "version": (8, "<I", 3, "version"),
    "version 2 without a reason": (8, "<I", 2, "form"),
    "kind": (12, "<I", 7, "kind"),
    "no experts": (20, "<I", 0, "num_experts"),
    "a billion experts": (20, "<I", 10**9, "num_experts"),
    "hidden not a multiple": (24, "<I", 65, "hidden"),
    "hidden huge": (24, "<I", 1 << 31, "hidden"),
    "intermediate zero": (28, "<I", 0, "intermediate"),
    "five segments": (32, "<I", 5, "num_segments"),
    "group size": (36, "<I", 64, "group_size"),
    "header size": (40, "<Q", 8192, "header_bytes"),
    "header size overflow": (40, "<Q", (1 << 64) - 4096, "header_bytes"),
    "overlapping records": (48, "<Q", 4096, "record_stride"),
    "stride overflow": (48, "<Q", (1 << 64) - 1, "record_stride"),
    "oversized segment": (56, "<Q", 1 << 50, "segment_bytes"),
    "reserved bytes": (88, "<Q", 1, "reserved"),
    "padding": (4000, "<I", 1, "reserved"),
    "missing segment": (80, "<Q", 0, "segment_bytes"),
}


@pytest.mark.parametrize("lie", LIES)
def test_each_lie_is_named(lie):
    offset, form, value, message = LIES[lie]
    data = bytearray(pack_header(small_header()))
    struct.pack_into(form, data, offset, value)
    with pytest.raises(BundleError, match=rf"layer_003\.hbx: .*{message}"):
        parse_header(sealed(data), NAME)


LIES_OF_VERSION_2 = {
    "unknown form": (88, "<I", 8, "form"),
    "4-bit floats in four planes": (88, "<I", 4, "form"),
    "form of version 1": (88, "<I", 0, "form"),
    "another form": (88, "<I", 2, "segment_bytes"),
    "version 1 with a form": (8, "<I", 1, "reserved"),
    "reserved bytes": (92, "<I", 1, "reserved"),
    "segments of version 1": (56, "<Q", RecordLayout(64, 32).bf16_bytes, "segment_bytes"),
}


@pytest.mark.parametrize("lie", LIES_OF_VERSION_2)
def test_each_lie_of_version_2_is_named(lie):
    offset, kind, value, message = LIES_OF_VERSION_2[lie]
    data = bytearray(pack_header(small_header(KIND_BF16, 1, gated=False)))
    struct.pack_into(kind, data, offset, value)
    with pytest.raises(BundleError, match=rf"layer_003\.hbx: .*{message}"):
        parse_header(sealed(data), NAME)


def test_every_flipped_bit_is_noticed():
    raw = pack_header(small_header())
    for at in range(len(raw)):
        damaged = bytearray(raw)
        damaged[at] ^= 1 << (at % 8)
        with pytest.raises(BundleError, match=r"layer_003\.hbx"):
            parse_header(bytes(damaged), NAME)


def test_every_truncation_is_noticed():
    raw = pack_header(small_header())
    for size in (*range(0, 200, 7), 4095):
        with pytest.raises(BundleError, match="truncated"):
            parse_header(raw[:size], NAME)


@settings(max_examples=300, deadline=None)
@given(
    offset=st.integers(0, 4091), junk=st.binary(min_size=1, max_size=64), gated=st.booleans(), bias=st.booleans(),
    kind=st.sampled_from([(KIND_PROGRESSIVE, 4), (KIND_BF16, 1)]),
)  # fmt: skip
def test_forged_bytes_never_crash(offset, junk, gated, bias, kind):
    data = bytearray(pack_header(small_header(*kind, gated=gated, bias=bias)))
    data[offset : offset + len(junk)] = junk
    del data[4096:]
    try:
        parsed = parse_header(sealed(data), NAME)
    except BundleError:
        return
    # what is accepted is consistent: checksums and layer may be anything, sizes follow from the shape
    shape = parsed.hidden, parsed.intermediate, len(parsed.segment_bytes), parsed.gated, parsed.bias
    assert parsed.segment_bytes == expected_segments(parsed.kind, RecordLayout(*shape))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=5000))
def test_random_bytes_never_crash(raw):
    with pytest.raises(BundleError):
        parse_header(raw, NAME)
