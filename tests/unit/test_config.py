"""RuntimeConfig: flag before environment before profile; a bad value is named by where it came from."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from manifests import small_manifest

from edge_runtime.base.errors import ConfigError, DeviceError
from edge_runtime.bundle.record import BF16
from edge_runtime.config.boards import identify, read_board
from edge_runtime.config.device_profile import DeviceProfile
from edge_runtime.config.profile_values import Setting
from edge_runtime.config.profiles import load_profile
from edge_runtime.config.resolve import EngineOptions, resolve

MANIFEST = small_manifest((2, 4, 8, BF16))


def resolved(env: dict[str, str] | None = None, manifest=MANIFEST, device=None, **flags):
    return resolve(EngineOptions.from_keywords(flags), env or {}, manifest, device)


def profile_with(**values) -> DeviceProfile:
    generic = load_profile()
    return replace(
        generic, settings={**generic.settings, **{name: Setting(value, "measured") for name, value in values.items()}}
    )


def test_defaults():
    config = resolved()
    assert config.profile == identify(read_board()).profile, "that of the machine"
    assert (config.memory, config.expert_memory) == (None, None)
    assert config.tier == 8, "the deepest progressive tier, never bf16"
    assert (config.policy, config.eviction, config.backend) == ("lossless", "next-use", "cpu")
    assert 1 <= config.threads <= len(os.sched_getaffinity(0))
    assert (config.io_threads, config.read_chunk, config.direct_io) == (8, 1 << 20, True)
    assert config.context == MANIFEST.model.max_context, "the profile's context is cut to the model's"
    assert config.seed is None


def test_flag_beats_environment_beats_profile():
    profile = profile_with(context=100, memory="3GiB")
    assert resolved(device=profile).context == 100
    assert resolved(device=profile).memory == 3 << 30
    env = {"HOBBIT_CONTEXT": "90", "HOBBIT_MEMORY": "2GiB", "OTHER": "x"}
    assert resolved(env, device=profile).context == 90
    assert resolved(env, device=profile, context=80).context == 80
    assert resolved(env, device=profile).memory == 2 << 30
    assert resolved(env, device=profile, memory="auto").memory is None
    assert resolved({"HOBBIT_CONTEXT": ""}, device=profile).context == 100


def test_max_kld_selects_rate_distortion():
    assert resolved(max_kld="0.02").policy == "rate-distortion:max_kld=0.02"
    assert resolved({"HOBBIT_MAX_KLD": "0"}).policy == "rate-distortion:max_kld=0.0"
    assert resolved(policy="rate-distortion:horizon=64", max_kld=0.1).policy == "rate-distortion:horizon=64,max_kld=0.1"
    assert resolved({"HOBBIT_MAX_KLD": "0.1"}, policy="lossless").policy == "lossless", "a flag beats the environment"
    assert resolved({"HOBBIT_POLICY": "hobbit"}, max_kld=0.1).policy == "rate-distortion:max_kld=0.1", (
        "so does a budget"
    )
    assert resolved({"HOBBIT_POLICY": "rate-distortion:horizon=64"}, max_kld=0.1).policy.endswith("64,max_kld=0.1")
    for policy in ("hobbit", "lossless"):
        with pytest.raises(ConfigError, match="budget of rate-distortion"):
            resolved(policy=policy, max_kld=0.1)
    with pytest.raises(ConfigError, match="given as well"):
        resolved(policy="rate-distortion:max_kld=0.2", max_kld=0.1)


def test_base_resident_selects_rate_distortion_with_a_base():
    assert resolved(base_resident=True).policy == "rate-distortion:base=true"
    assert resolved(base_resident=True, max_kld=0.02).policy == "rate-distortion:max_kld=0.02,base=true"
    assert resolved({"HOBBIT_POLICY": "hobbit"}, base_resident=True).policy == "rate-distortion:base=true"
    assert resolved({"HOBBIT_MAX_KLD": "0.02"}, base_resident=True).policy == "rate-distortion:max_kld=0.02,base=true"
    assert resolved({"HOBBIT_BASE_RESIDENT": "on"}, max_kld=0.02).policy == "rate-distortion:max_kld=0.02,base=true"
    assert resolved({"HOBBIT_BASE_RESIDENT": "on"}, policy="hobbit").policy == "hobbit", "a flag beats the environment"
    assert resolved({"HOBBIT_BASE_RESIDENT": "on"}, base_resident=False).policy == "lossless"
    with pytest.raises(ConfigError, match="the base of rate-distortion, but the policy is 'hobbit'"):
        resolved(policy="hobbit", base_resident=True)
    with pytest.raises(ConfigError, match="the policy's base is given as well"):
        resolved(policy="rate-distortion:base=true", base_resident=True)


@pytest.mark.parametrize(("given", "tier"), [(4, 4), ("2", 2), ("bf16", 16), (16, 16), ("auto", 8)])
def test_tiers(given, tier):
    assert resolved(tier=given).tier == tier


def test_the_profiles_tier_is_cut_to_what_the_bundle_has():
    for wanted, tier in ((6, 4), (8, 8), (2, 2), ("auto", 8)):
        profile = profile_with(tier=wanted)
        assert resolved(device=profile).tier == tier
    assert resolved(manifest=small_manifest((4,)), device=profile_with(tier=2)).tier == 4


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("memory", "lots", "expected a size such as 512MiB"),
        ("expert_memory", "0", "expected a size above zero"),
        ("tier", "6", r"expected one of this bundle's tiers 2, 4, 8, bf16, got '6'"),
        ("policy", "losless", "Did you mean 'lossless'"),
        ("eviction", "mcd", "Did you mean .mdc."),
        ("prefetch", "lookahead:depth=x", "expected int"),
        ("eviction", "lfu", "expected one of lru, lcu"),
        ("backend", "gpu", "expected one of auto, cpu, cuda"),
        ("threads", "0", "expected 1 to 1024, got 0"),
        ("threads", "two", "expected a whole number, got 'two'"),
        ("io_threads", "1.5", "expected a whole number"),
        ("direct_io", "maybe", "expected on or off"),
        ("context", "129", "expected 1 to 128 .the model's own limit., got 129"),
        ("seed", "-1", "expected 0 to"),
        ("max_kld", "-1", "0 to 10 nats"),
        ("max_kld", "much", "expected a number"),
        ("profile", "orin", "expected one of auto, agx-orin-32gb"),
    ],
)
def test_a_bad_value_is_named_by_its_source(name, value, message):
    with pytest.raises(ConfigError, match=message) as caught:
        resolved({f"HOBBIT_{name.upper()}": value})
    assert str(caught.value).startswith(f"HOBBIT_{name.upper()}")
    with pytest.raises(ConfigError, match=message) as caught:
        resolved(**{name: value})
    flag = name.replace("_", "-")
    assert str(caught.value).startswith(flag)
    assert not str(caught.value).startswith(f"{flag}: {flag}"), "said once"


def test_cuda_is_never_a_silent_cpu_run():
    for options in ({"backend": "cuda"}, {"env": {"HOBBIT_BACKEND": "cuda"}}):
        with pytest.raises(
            DeviceError, match=r"libcuda.so.1 does not load .* On a Jetson: sudo apt install nvidia-l4t-cuda"
        ):
            resolved(**options)


def test_unknown_options_are_refused():
    with pytest.raises(ConfigError, match=r"unknown option 'memroy'\. Did you mean 'memory'"):
        EngineOptions.from_keywords({"memroy": "1GiB"})
