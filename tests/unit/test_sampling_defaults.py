"""How a model wants to be sampled: read from generation_config.json, kept in the manifest, refused where it is wrong."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

import pytest
from manifests import small_manifest

from edge_runtime.base.errors import BundleError, ConfigError, RequestError
from edge_runtime.base.sampling import NUMBERS, OF_MODEL, SamplingNumber
from edge_runtime.bundle import manifest_file
from edge_runtime.bundle.sampling_defaults import SamplingDefaults
from edge_runtime.engine.sampler import SamplingParams
from hobbit_export.generation import sampling_defaults


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        # as Qwen3-30B-A3B, DeepSeek-V2-Lite and Mixtral have it
        ({"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "eos_token_id": [1, 2]},
         {"temperature": 0.6, "top_k": 20, "top_p": 0.95}),
        ({"do_sample": True, "temperature": 0.3, "top_p": 0.95}, {"temperature": 0.3, "top_p": 0.95}),
        ({"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2}, {}),
        ({"do_sample": True}, {"temperature": 1.0}),
        ({"do_sample": False}, {"temperature": 0}),
        ({"do_sample": False, "temperature": 0.7, "top_p": 0.8}, {"temperature": 0, "top_p": 0.8}),
        ({"temperature": 0.7}, {"temperature": 0.7}),
        ({"top_k": 40, "repetition_penalty": 1.05, "min_p": 0.05},
         {"top_k": 40, "repetition_penalty": 1.05, "min_p": 0.05}),
        ({"do_sample": None, "temperature": None, "top_k": None, "top_p": None}, {}),
        ({"do_sample": True, "temperature": 1, "top_k": -1}, {"temperature": 1.0, "top_k": 0}),
        ({}, {}),
    ],
)  # fmt: skip
def test_what_the_file_says_counts_and_no_more(generation: dict[str, Any], expected: dict[str, Any]) -> None:
    found = sampling_defaults(generation)
    assert found.given == expected
    SamplingParams(**found.given)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temperature", "warm"), ("temperature", -1), ("temperature", math.inf), ("temperature", 1e9), ("top_p", 0),
        ("top_p", 1.5), ("top_k", 1.5), ("top_k", True), ("top_k", 1 << 40), ("min_p", 2), ("repetition_penalty", 0),
        ("repetition_penalty", math.nan), ("do_sample", "yes"), ("do_sample", 1),
    ],
)  # fmt: skip
def test_values_that_no_sampler_takes_are_named(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"generation_config.json(: |[.]){key}: expected"):
        sampling_defaults({key: value})


def beyond(number: SamplingNumber) -> list[float]:
    """Values just outside the bounds of a parameter."""
    low = number.low if number.above_low else number.low - 1
    return [low] if number.high is None else [low, number.high + 1]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda one: one.name)
def test_a_parameter_has_the_default_and_the_bounds_of_the_table(number: SamplingNumber) -> None:
    assert getattr(SamplingParams(), number.name) == number.default
    SamplingParams(**{number.name: number.default if number.high is None else type(number.default)(number.high)})
    for value in beyond(number):
        with pytest.raises(RequestError, match=f"{number.name}: expected {number.bounds}"):
            SamplingParams(**{number.name: type(number.default)(value)})


@pytest.mark.parametrize("number", OF_MODEL, ids=lambda one: one.name)
def test_a_model_states_what_the_table_allows(number: SamplingNumber) -> None:
    assert number.name in asdict(SamplingDefaults())
    for value in beyond(number):
        with pytest.raises(ValueError, match=f"x.{number.name}: expected"):
            SamplingDefaults(**{number.name: type(number.default)(value)}).check("x")


def test_a_model_states_nothing_else() -> None:
    assert list(asdict(SamplingDefaults())) == [number.name for number in OF_MODEL]


def raw(**sampling: Any) -> bytes:
    data = json.loads(manifest_file.dump(small_manifest())) | sampling
    return json.dumps(data | {"bundle_id": manifest_file.digest(data)}).encode()


def test_a_manifest_keeps_them_and_may_have_none() -> None:
    found = manifest_file.parse(raw(sampling={"temperature": 0.6, "top_k": 20}))
    assert found.sampling == SamplingDefaults(temperature=0.6, top_k=20)
    assert manifest_file.parse(manifest_file.dump(found)).sampling == found.sampling
    data = json.loads(raw())
    del data["sampling"]  # bundles of earlier exporters
    old = manifest_file.parse(json.dumps(data | {"bundle_id": manifest_file.digest(data)}).encode())
    assert old.sampling.given == {}
    assert old.sampling.describe() == "none"
    assert found.sampling.describe() == "temperature 0.6, top-k 20"


@pytest.mark.parametrize(
    "sampling",
    [{"temperature": -1}, {"temperature": 1e308}, {"top_p": 0}, {"top_k": -1}, {"top_k": 0.5}, {"heat": 1}, [],
     {"min_p": 1.5}, {"repetition_penalty": 0}, {"temperature": "1"}, None],
)  # fmt: skip
def test_a_manifest_that_lies_is_refused(sampling: Any) -> None:
    with pytest.raises(BundleError, match="sampling"):
        manifest_file.parse(raw(sampling=sampling))
