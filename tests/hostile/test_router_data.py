"""A router's numbers, in a bundle and in a trace, are untrusted: what no router can use is refused by name."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from manifests import small_manifest
from router_cases import data_for
from specs import model_spec
from trace_files import with_header

from edge_runtime.base.checksum import crc32c
from edge_runtime.base.errors import BundleError
from edge_runtime.base.spec import GroupSpec, ModelSpec, RouterSpec
from edge_runtime.bundle import manifest_file
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.manifest import Part
from edge_runtime.bundle.router_data import RouterData, router_arrays, router_data_of, router_file, router_parts
from edge_runtime.lab.simulator.trace import Trace
from edge_runtime.lab.simulator.trace_format import TraceHeader, TracePass
from edge_runtime.lab.simulator.trace_writer import TraceWriter

RULE = RouterSpec(
    4, 2, "sigmoid", normalise=True, logit_bias=True, selection_bias=True, expert_scale=True, hashed_layers=1,
    groups=GroupSpec(2, 1),
)  # fmt: skip
SPEC = dataclasses.replace(model_spec(), router=RULE)
DATA = data_for(RULE, 2, vocabulary=SPEC.vocab_size)


def raw(data: RouterData = DATA) -> dict[str, bytes]:
    return {name: getattr(data, name).tobytes() for name in router_arrays(SPEC)}


def test_a_model_has_the_parts_its_rule_asks_for():
    assert router_parts(model_spec()) == {}
    assert router_parts(SPEC) == {
        "router/logit_bias.bin": 4 * 2 * 4, "router/selection_bias.bin": 4 * 2 * 4, "router/expert_scale.bin": 4 * 2 * 4,
        "router/hashed_experts.bin": 4 * 1 * 64 * 2,
    }  # fmt: skip
    manifest = dataclasses.replace(small_manifest(), model=SPEC)
    with pytest.raises(BundleError, match=r"'router/expert_scale.bin' is missing"):
        manifest_file.parse(manifest_file.dump(manifest))
    parts = [Part(name, "router", size, "0" * 64, 0) for name, size in router_parts(SPEC).items()]
    whole = dataclasses.replace(manifest, parts=[*manifest.parts, *parts])
    assert manifest_file.parse(manifest_file.dump(whole)).model == SPEC
    for change, message in (({"bytes": 28}, "expected 32 bytes"), ({"role": "trunk"}, "role"), ({"layer": 0}, "layer")):
        other = [dataclasses.replace(parts[0], **change), *parts[1:]]
        with pytest.raises(BundleError, match=message):
            manifest_file.parse(manifest_file.dump(dataclasses.replace(manifest, parts=[*manifest.parts, *other])))
    plain = small_manifest()
    with pytest.raises(BundleError, match=r"router/logit_bias.bin' is no part"):
        manifest_file.parse(manifest_file.dump(dataclasses.replace(plain, parts=[*plain.parts, parts[0]])))


def test_what_was_written_is_read(tmp_path):
    bundle = bundle_with(tmp_path, raw())
    found = bundle.router_data()
    for field in dataclasses.fields(RouterData):
        np.testing.assert_array_equal(getattr(found, field.name), getattr(DATA, field.name))


def bundle_with(folder, arrays: dict[str, bytes]) -> Bundle:
    (folder / "router").mkdir()
    parts = []
    for name, content in arrays.items():
        (folder / router_file(name)).write_bytes(content)
        parts.append(Part(router_file(name), "router", len(content), "0" * 64, crc32c(content)))
    return Bundle(folder, dataclasses.replace(small_manifest(), model=SPEC, parts=parts))


def test_a_damaged_part_is_noticed(tmp_path):
    bundle = bundle_with(tmp_path, raw())
    path = tmp_path / router_file("selection_bias")
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    with pytest.raises(BundleError, match=r"selection_bias.bin: checksum"):
        bundle.router_data()


LIES = {
    "a bias that is no number": ("selection_bias", np.nan, "selection_bias: expected finite"),
    "an endless bias": ("logit_bias", np.inf, "logit_bias: expected finite"),
    "a huge factor": ("expert_scale", 1e30, "expert_scale: expected finite"),
    "an expert that is not there": ("hashed_experts", 4, "hashed_experts: expected experts from 0 to 3"),
    "a negative expert": ("hashed_experts", -1, "hashed_experts: expected experts from 0 to 3"),
}


@pytest.mark.parametrize("lie", LIES)
def test_values_no_router_can_use(tmp_path, lie):
    name, value, message = LIES[lie]
    array = getattr(DATA, name).copy()
    array.ravel()[-1] = value
    arrays = raw() | {name: array.tobytes()}
    with pytest.raises(ValueError, match=message):
        router_data_of(SPEC, arrays)
    with pytest.raises(BundleError, match=rf"router: {message}"):
        bundle_with(tmp_path, arrays).router_data()


def test_a_token_has_different_experts():
    table = DATA.hashed_experts.copy()
    table[0, 5] = 3
    with pytest.raises(ValueError, match="to be different"):
        router_data_of(SPEC, raw() | {"hashed_experts": table.tobytes()})


def header(model: ModelSpec) -> TraceHeader:
    return TraceHeader(model, 4, [8], 8, "float32", "ab", "lossless", "test")


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "trace"
    rng = np.random.default_rng(0)
    with TraceWriter(path, header(SPEC), DATA) as writer:
        for first in (True, False):
            logits = rng.normal(size=(2, 3, 4)).astype(np.float32)
            writer.add(TracePass(np.array([1, 2, 63], np.int32), logits, np.ones(3, np.float32), first))
    return path


def test_a_trace_holds_what_a_replay_needs_to_route(trace):
    read = Trace(trace)
    assert read.header == header(SPEC)
    router = read.router()
    assert not router.spec.logit_bias, "it is in what was recorded"
    for one in read:
        routing = router.route_recorded(one.logits, one.token_ids)[0]
        assert [set(row) for row in routing.topk_ids.tolist()] == [
            set(DATA.hashed_experts[0, token].tolist()) for token in (1, 2, 63)
        ]


def test_every_flipped_bit_of_it_is_noticed(trace):
    whole = trace.read_bytes()
    start = whole.index(DATA.selection_bias.tobytes())
    end = whole.index(b"PASS")
    assert end - start == 32 + 32 + 512 + 4
    for at in range(start, end, 7):
        trace.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(BundleError, match="router: checksum"):
            Trace(trace)
    trace.write_bytes(whole[: start + 20])
    with pytest.raises(BundleError, match="truncated"):
        Trace(trace)


def test_a_table_of_any_size_is_not_read_from_what_a_header_claims(tmp_path):
    """The file would have to be as large."""
    huge = dataclasses.replace(SPEC, vocab_size=1 << 22, router=dataclasses.replace(RULE, hashed_layers=2))
    with TraceWriter(tmp_path / "other", header(model_spec())):
        pass
    claimed = (tmp_path / "other").read_bytes()
    (tmp_path / "other").write_bytes(with_header(claimed, lambda h: h.update(model=huge.to_json())))
    with pytest.raises(BundleError, match="truncated"):
        Trace(tmp_path / "other")


def test_tokens_outside_the_vocabulary_are_refused(tmp_path):
    path = tmp_path / "trace"
    with TraceWriter(path, header(SPEC), DATA) as writer:
        writer.add(TracePass(np.array([64], np.int32), np.zeros((2, 1, 4), np.float32), np.ones(1, np.float32), True))
    with pytest.raises(BundleError, match="tokens below 64"):
        list(Trace(path))
