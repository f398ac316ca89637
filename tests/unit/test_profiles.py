"""Device profiles: the packaged ones are honest and load; wrong ones are refused by key."""

from __future__ import annotations

import pytest
import yaml

from edge_runtime.base.errors import ConfigError
from edge_runtime.config.options import ENGINE_OPTIONS
from edge_runtime.config.profiles import DEFAULT_PROFILE, DeviceProfile, load_profile, parse_profile, profile_names

NAMES = ["agx-orin-32gb", "agx-orin-64gb", "generic", "orin-nano-8gb", "orin-nx-16gb"]


def changed(**changes) -> bytes:
    return yaml.safe_dump(load_profile().to_json() | changes).encode()


def test_packaged_profiles():
    assert profile_names() == NAMES
    for name in NAMES:
        profile = load_profile(name)
        assert profile.name == name
        assert not profile.ran_on_hardware
        settings = [*profile.settings.values(), profile.drive_read_gb_s, profile.memory_read_gb_s]
        assert len(settings) == 12
        assert {setting.basis for setting in settings} == {"assumed"}
        assert all(setting.note for setting in settings)
        assert name == "generic" or profile.power_modes
    assert load_profile() == load_profile(DEFAULT_PROFILE)


def test_a_profile_survives_a_round_trip(tmp_path):
    profile = load_profile("orin-nano-8gb")
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(profile.to_json()))
    assert load_profile(path) == profile
    assert isinstance(load_profile(str(path)), DeviceProfile)


def test_a_profile_may_leave_options_out():
    facts = {"name": "mine", "board": "a board", "ran_on_hardware": True}
    facts |= {rate: {"value": None, "basis": "assumed"} for rate in ("drive_read_gb_s", "memory_read_gb_s")}
    profile = parse_profile(yaml.safe_dump(facts).encode(), "mine")
    assert profile.settings == {}
    generic = load_profile()
    for option in ENGINE_OPTIONS:
        if option.in_profile:
            assert profile.value(option.name) == generic.value(option.name), "the generic profile has the defaults"
    with pytest.raises(ConfigError, match="key 'board' is missing"):
        parse_profile(b"name: mine", "mine")


def test_unknown_names_and_files():
    with pytest.raises(
        ConfigError, match=r"expected one of agx-orin-32gb, .*got 'orin-nano'\. Did you mean 'orin-nano-8gb'"
    ):
        load_profile("orin-nano")
    with pytest.raises(ConfigError, match=r"/no/such\.yaml: cannot be read: No such file"):
        load_profile("/no/such.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contxt": 3}, r"mine: unknown key 'contxt'\. Did you mean 'context'"),
        ({"context": 4096}, "mine.context: expected an object"),
        ({"context": {"value": 4096, "basis": "guessed"}}, "mine.context.basis: expected one of measured, assumed"),
        ({"context": {"value": 0, "basis": "assumed"}}, "mine.context: expected 1 or more, got 0"),
        ({"context": {"value": True, "basis": "assumed"}}, "mine.context.value"),
        ({"read_chunk": {"value": "auto", "basis": "assumed"}}, "mine.read_chunk: expected a size"),
        ({"memory": {"value": "lots", "basis": "assumed"}}, "mine.memory: expected a size"),
        ({"eviction": {"value": "lfu", "basis": "assumed"}}, "mine.eviction: expected one of lru, lcu"),
        ({"tier": {"value": 3, "basis": "assumed"}}, "mine.tier.value: expected one of 2, 4, 6, 8, auto"),
        ({"drive_read_gb_s": {"value": -1, "basis": "assumed"}}, "mine.drive_read_gb_s: expected a number above 0"),
        ({"power_modes": [{"name": "x", "wats": 3}]}, r"power_modes\[0\]: unknown key 'wats'\. Did you mean 'watts'"),
    ],
)
def test_what_is_wrong_is_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        parse_profile(changed(**changes), "mine")


@pytest.mark.parametrize("data", [b"a: [", b"[1, 2]", b"\xff\xfe\xff", b"", b"x" * (1 << 21)])
def test_what_is_not_a_profile_is_refused(data):
    with pytest.raises(ConfigError, match="mine"):
        parse_profile(data, "mine")
