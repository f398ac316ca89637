"""A trace is untrusted: every damage is a BundleError naming the file, and nothing is allocated from what it claims."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from specs import layer, model_spec, version1
from trace_files import with_header

from edge_runtime.base.errors import BundleError
from edge_runtime.lab.simulator.trace import Trace
from edge_runtime.lab.simulator.trace_format import TraceHeader, TracePass
from edge_runtime.lab.simulator.trace_writer import TraceWriter

SPEC = model_spec(
    layer(), layer(dense=64), layer(), vocab_size=50, hidden=64, head_dim=32, max_context=64
)  # fmt: skip


def header(**changes) -> TraceHeader:
    values = {
        "model": SPEC, "num_segments": 4, "tiers": [2, 4, 8, 16], "tier": 8, "logits": "float32", "bundle_id": "ab",
        "policy": "lossless", "created_by": "test",
    }  # fmt: skip
    return TraceHeader(**(values | changes))


def passes(rng, count: int = 3) -> list[TracePass]:
    return [
        TracePass(
            rng.integers(0, 50, t, np.int32),
            rng.normal(size=(2, t, 4)).astype(np.float32),
            rng.random(t, np.float32),
            i == 0,
        )
        for i, t in enumerate([3] + [1] * (count - 1))
    ]


def write(path, head: TraceHeader, content: list[TracePass]) -> bytes:
    with TraceWriter(path, head) as writer:
        for one in content:
            writer.add(one)
    return path.read_bytes()


@pytest.fixture
def good(tmp_path):
    return write(tmp_path / "good", header(), passes(np.random.default_rng(1)))


@pytest.mark.parametrize(("kind", "exact"), [("float32", True), ("float16", False)])
def test_round_trip(tmp_path, kind, exact):
    content = passes(np.random.default_rng(2), 5)
    write(tmp_path / "t", header(logits=kind), content)
    trace = Trace(tmp_path / "t")
    assert (trace.passes, trace.tokens) == (5, 7)
    assert trace.header == header(logits=kind)
    for got, sent in zip(trace, content, strict=True):
        assert (got.token_ids == sent.token_ids).all()
        assert (got.confidence == sent.confidence).all()
        assert got.first_of_text == sent.first_of_text
        assert (got.logits == sent.logits).all() == exact
        assert np.allclose(got.logits, sent.logits, atol=2e-3, rtol=0)


def test_whole_slots_are_said_where_they_are(tmp_path, good):
    """Programs from before the key read what they replay rightly, and refuse the rest as an unknown key."""
    assert b"whole_slots" not in good
    write(tmp_path / "t", header(whole_slots=True), [])
    assert Trace(tmp_path / "t").header == header(whole_slots=True)
    assert not Trace(tmp_path / "good").header.whole_slots


def test_an_abandoned_recording_leaves_nothing(tmp_path):
    def abandon() -> None:
        with TraceWriter(tmp_path / "t", header()) as writer:
            writer.add(passes(np.random.default_rng(0))[0])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        abandon()
    assert not list(tmp_path.iterdir())


def read_all(path) -> list[TracePass]:
    return list(Trace(path))


def refused(tmp_path, data: bytes) -> str:
    (tmp_path / "bad").write_bytes(data)
    with pytest.raises(BundleError) as caught:
        read_all(tmp_path / "bad")
    assert "bad" in str(caught.value)
    return str(caught.value)


def test_truncated_anywhere(tmp_path, good):
    for size in [*range(40), *range(len(good) - 60, len(good)), len(good) // 2]:
        refused(tmp_path, good[:size])
    refused(tmp_path, good + b"\0")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_any_flipped_bit_is_noticed(tmp_path, good, data):
    at = data.draw(st.integers(0, len(good) - 1))
    bit = data.draw(st.integers(0, 7))
    refused(tmp_path, good[:at] + bytes([good[at] ^ (1 << bit)]) + good[at + 1 :])


def test_every_flipped_bit_of_a_pass_header_is_noticed(tmp_path, good):
    """Flags and counts are under the checksum too, not only what they describe."""
    start = good.index(b"PASS")
    for at in range(start, start + 16):
        for bit in range(8):
            refused(tmp_path, good[:at] + bytes([good[at] ^ (1 << bit)]) + good[at + 1 :])


LIES = {
    "experts": (lambda h: h["model"]["router"].update(num_experts=1 << 40), "num_experts"),
    "other experts": (lambda h: h["model"]["router"].update(num_experts=8), "bytes"),
    "no layers": (lambda h: h["model"].update(layers=[]), "layers"),
    "unknown key": (lambda h: h.update(extra=1), "unknown key 'extra'"),
    "tier": (lambda h: h.update(tier=6), "header.tier"),
    "tiers": (lambda h: h.update(tiers=[8, 4]), "header.tiers"),
    "tier unknown": (lambda h: h.update(tiers=[3, 8]), "header.tiers"),
    "segments": (lambda h: h.update(num_segments=9), "num_segments"),
    "number type": (lambda h: h.update(logits="float64"), "logits"),
    "ahead": (lambda h: h.update(ahead=17), "header.ahead"),
    "other ahead": (lambda h: h.update(ahead=1), "bytes"),
    "memory": (lambda h: h.update(whole_slots=1), "header.whole_slots"),
    "nested": (lambda h: h.update(tiers=[[[]]]), "tiers"),
}


def as_version2(good: bytes) -> bytes:
    """The same trace as programs before wrote it."""
    old = with_header(good, lambda h: h.update(model=version1(SPEC)))
    return old[:8] + struct.pack("<I", 2) + old[12:]


def test_traces_of_version_2_are_read(tmp_path, good):
    (tmp_path / "old").write_bytes(as_version2(good))
    assert Trace(tmp_path / "old").header == header()
    for got, sent in zip(read_all(tmp_path / "old"), read_all(tmp_path / "good"), strict=True):
        assert (got.logits == sent.logits).all()


OLD_LIES = {
    "experts": (lambda h: h["model"].update(num_experts=1 << 40), "num_experts"),
    "other experts": (lambda h: h["model"].update(num_experts=8), "bytes"),
    "no model": (lambda h: h.pop("model"), "model"),
    "today's parts": (lambda h: h["model"].update(router={}), "unknown key 'router'"),
}


@pytest.mark.parametrize("lie", OLD_LIES)
def test_lies_in_a_header_of_version_2(tmp_path, good, lie):
    change, what = OLD_LIES[lie]
    assert what in refused(tmp_path, with_header(as_version2(good), change))


@pytest.mark.parametrize("lie", LIES)
def test_lies_in_the_header(tmp_path, good, lie):
    change, what = LIES[lie]
    assert what in refused(tmp_path, with_header(good, change))


def test_a_huge_header_or_pass_is_refused_before_it_is_read(tmp_path, good):
    assert "at most" in refused(tmp_path, good[:12] + struct.pack("<I", 0xFFFFFFFF) + good[16:])
    start = 20 + struct.unpack_from("<I", good, 12)[0]
    assert "damaged" in refused(tmp_path, good[: start + 4] + struct.pack("<I", 0xFFFFFFFF) + good[start + 8 :])


def test_other_version_and_other_files(tmp_path, good):
    assert "version 2 or 3" in refused(tmp_path, good[:8] + struct.pack("<I", 1) + good[12:])
    assert "hobbit trace" in refused(tmp_path, b"PK\x03\x04" + good)


def test_logits_that_are_not_numbers(tmp_path):
    content = passes(np.random.default_rng(3))
    content[1].logits[0, 0, 0] = np.nan
    assert "finite" in refused(tmp_path, write(tmp_path / "t", header(), content))


def with_predictions(rng, **changes) -> list[TracePass]:
    """A text of which the second pass was rejected and run again."""
    first, second, third = passes(rng)
    ahead = [rng.integers(0, 5, (2, 2, len(one.token_ids), 5)).astype(np.float32) for one in (first, second, third)]
    return [
        first._replace(predictions=ahead[0]),
        second._replace(predictions=ahead[1], is_rejected=True, is_prefetching=True),
        third._replace(**({"token_ids": second.token_ids, "predictions": ahead[2]} | changes)),
    ]


def test_predictions_and_rejected_passes_round_trip(tmp_path):
    content = with_predictions(np.random.default_rng(4))
    write(tmp_path / "t", header(ahead=2), content)
    trace = Trace(tmp_path / "t")
    assert (trace.passes, trace.tokens) == (3, 4), "a token that ran twice is one token"
    for got, sent in zip(trace, content, strict=True):
        assert (got.predictions == sent.predictions).all()
        assert (got.is_rejected, got.is_prefetching) == (sent.is_rejected, sent.is_prefetching)


@pytest.mark.parametrize(
    "change", [{"token_ids": np.array([49], np.int32)}, {"is_rejected": True}, {"first_of_text": True}]
)
def test_a_rejected_pass_is_followed_by_one_that_stands(tmp_path, change):
    content = with_predictions(np.random.default_rng(5))
    content[1] = content[1]._replace(token_ids=np.array([7], np.int32))
    content[2] = content[2]._replace(**({"token_ids": content[1].token_ids} | change))
    assert "rejected" in refused(tmp_path, write(tmp_path / "t", header(ahead=2), content))
    assert "rejected" in refused(tmp_path, write(tmp_path / "t", header(ahead=2), content[:2]))


def test_predictions_of_more_experts_than_there_are(tmp_path):
    content = with_predictions(np.random.default_rng(6))
    for count in (-1.0, 5.0):
        content[0].predictions[0, 0, 0, 0] = count
        assert "predictions" in refused(tmp_path, write(tmp_path / "t", header(ahead=2), content))
