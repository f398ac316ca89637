"""A manifest's parts: one with another role, layer or size than its name asks for is refused, and so is an unknown one."""

from __future__ import annotations

import copy
import json

import pytest
from manifests import GOOD, layer_of, resealed, role_of, small_manifest

from edge_runtime.base.errors import BundleError
from edge_runtime.bundle import manifest_file
from edge_runtime.bundle.part_names import ROUTERS


def test_every_part_has_the_role_and_layer_of_its_name():
    for number, part in enumerate(small_manifest((2, 8, 16)).parts):
        assert (part.role, part.layer) == (role_of(part.name), layer_of(part.name))
        for key, values in (("role", ["experts", "calibration", "experts_bf16"]), ("layer", [None, 0, 1, 7])):
            for value in values:
                data = json.loads(manifest_file.dump(small_manifest((2, 8, 16))))
                if data["parts"][number][key] == value:
                    continue
                data["parts"][number][key] = value
                with pytest.raises(BundleError, match=f"{part.name}.*expected role"):
                    manifest_file.parse(resealed(data))


def test_a_part_no_bundle_has_is_refused():
    data = copy.deepcopy(GOOD[2])
    data["parts"].append({**data["parts"][0], "name": "experts/layer_009.hbx"})
    with pytest.raises(BundleError, match="layer_009.hbx"):
        manifest_file.parse(resealed(data))


def test_the_block_of_routers_has_the_size_of_the_model():
    """2 sparse layers, 4 experts, 32 numbers each, in float32."""
    data = copy.deepcopy(GOOD[2])
    part = {**data["parts"][0], "name": ROUTERS, "role": "trunk", "layer": None, "bytes": 4 * 2 * 4 * 32}
    data["parts"].append(part)
    assert manifest_file.parse(resealed(data)).part(ROUTERS).bytes == 1024
    for change, message in (({"bytes": 1020}, "expected 1024 bytes"), ({"layer": 0}, "expected role")):
        data["parts"][-1] = {**part, **change}
        with pytest.raises(BundleError, match=rf"routers\.bin.*{message}"):
            manifest_file.parse(resealed(data))
