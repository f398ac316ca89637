"""Device profiles: the packaged ones are honest and load; wrong ones are refused by key."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import yaml
from conftest import REPO

from edge_runtime.base.errors import ConfigError
from edge_runtime.config.device_profile import DeviceProfile
from edge_runtime.config.options import BY_NAME, ENGINE_OPTIONS
from edge_runtime.config.profile_values import Setting
from edge_runtime.config.profiles import (
    DEFAULT_PROFILE,
    load_profile,
    packaged,
    parse_profile,
    profile_names,
)

NAMES = [
    "agx-orin-32gb", "agx-orin-64gb", "agx-thor", "arm-server", "generic", "orin-nano-4gb", "orin-nano-4gb-super",
    "orin-nano-8gb", "orin-nano-8gb-super", "orin-nx-16gb", "orin-nx-8gb", "raspberry-pi-5-16gb",
    "raspberry-pi-5-8gb", "rk3588", "x86-server",
]  # fmt: skip
SMALLEST = {"name": "mine", "board": "a board", "ran_on_hardware": True}
SMALLEST |= {rate: {"value": None, "basis": "default"} for rate in ("drive_read_gb_s", "memory_read_gb_s")}


def changed(**changes) -> bytes:
    return yaml.safe_dump(load_profile("orin-nano-8gb").to_json() | changes).encode()


def test_packaged_profiles():
    assert profile_names() == NAMES
    for name in NAMES:
        profile = load_profile(name)
        assert (profile.name, profile.format) == (name, 2)
        assert profile.ran_on_hardware == (name == "x86-server")
        for key, said in {**profile.settings, **profile.facts}.items():
            assert said.basis == "default" or (said.basis == "assumed" and said.source), (name, key)
        assert name == "generic" or (profile.power_modes and profile.match)
        assert (
            (profile.memory_bytes is None)
            == (profile.cores is None)
            == (name in ("arm-server", "x86-server", "generic"))
        )
    assert load_profile() == load_profile(DEFAULT_PROFILE)


@pytest.mark.parametrize("name", NAMES)
def test_a_profile_survives_a_round_trip(name, tmp_path):
    profile = load_profile(name)
    path = tmp_path / "mine.yaml"
    path.write_text(profile.to_yaml())
    assert load_profile(path) == profile
    assert isinstance(load_profile(str(path)), DeviceProfile)


def test_a_program_writes_what_it_measured(tmp_path):
    """As `docs/profiles.md` says; a day that YAML takes for a date is the same text again."""
    how = Setting(16, "measured", when="2026-11-29", how="hobbit tune bundle")
    profile = replace(load_profile("agx-thor"), settings={"io_threads": how}, ran_on_hardware=True)
    (tmp_path / "mine.yaml").write_text(profile.to_yaml().replace("'2026-11-29'", "2026-11-29"))
    found = load_profile(tmp_path / "mine.yaml")
    assert found == profile
    assert found.settings["io_threads"].origin == "measured: 2026-11-29 by hobbit tune bundle"


def test_a_profile_may_leave_options_out():
    profile = parse_profile(yaml.safe_dump(SMALLEST).encode(), "mine")
    assert (profile.settings, profile.format) == ({}, 1)
    generic = load_profile()
    for option in ENGINE_OPTIONS:
        if option.in_profile:
            assert profile.value(option) == generic.value(option), "the generic profile has the defaults"
    with pytest.raises(ConfigError, match="key 'board' is missing"):
        parse_profile(b"name: mine", "mine")
    with pytest.raises(ConfigError, match="key 'memory_read_gb_s' is missing"):
        parse_profile(yaml.safe_dump({k: v for k, v in SMALLEST.items() if k != "memory_read_gb_s"}).encode(), "mine")


def test_the_first_format_still_loads():
    """Written as profiles were before values had to say more than their basis."""
    old = """
name: old
board: Jetson Orin Nano 8GB (Super)
ran_on_hardware: false
context: {value: 2048, basis: assumed, note: "KV cache competes with experts"}
threads: {value: 6, basis: measured}
drive_read_gb_s: {value: 1.6, basis: assumed, note: "a guess"}
memory_read_gb_s: {value: null, basis: assumed}
power_modes:
  - {name: 15W, watts: 15}
"""
    profile = parse_profile(old.encode(), "old")
    assert (profile.value(BY_NAME["context"]), profile.cores, profile.power_modes[0].name) == (2048, 6, "15W")
    with pytest.raises(ConfigError, match=r"old\.context\.source: expected a text, as the basis is 'assumed'"):
        parse_profile(b"format: 2\n" + old.encode(), "old")


def test_unknown_names_and_files():
    with pytest.raises(
        ConfigError, match=r"expected one of auto, agx-orin-32gb, .*got 'orin-nano'\. Did you mean 'orin-nano-8gb'"
    ):
        load_profile("orin-nano")
    with pytest.raises(ConfigError, match=r"/no/such\.yaml: cannot be read: No such file"):
        load_profile("/no/such.yaml")


def said(value, basis="assumed", **rest) -> dict:
    return {"value": value, "basis": basis, "source": "a test", **rest}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contxt": 3}, r"mine: unknown key 'contxt'\. Did you mean 'context'"),
        ({"context": 4096}, "mine.context: expected an object"),
        ({"context": said(4096, "guessed")}, "mine.context.basis: expected one of default, assumed, measured"),
        ({"context": said(0)}, "mine.context: expected 1 or more, got 0"),
        ({"context": said(True)}, "mine.context.value"),
        ({"context": {"value": 9, "basis": "assumed"}}, "mine.context.source: expected a text"),
        ({"context": said(9, "measured")}, "mine.context.when: expected a text, as the basis is 'measured'"),
        ({"context": said(9, "measured", when="2026-11-29")}, "mine.context.how: expected a text"),
        ({"context": said(9, "measured", when="today", how="x")}, "mine.context.when: expected a day such as"),
        ({"context": said(9, "default")}, "mine.context: expected the default 4096, as its basis says so, got 9"),
        ({"read_chunk": said("auto")}, "mine.read_chunk: expected a size"),
        ({"memory": said("lots")}, "mine.memory: expected a size"),
        ({"eviction": said("lfu")}, "mine.eviction: expected one of lru, lcu"),
        ({"policy": said("losless")}, "mine.policy: .*Did you mean 'lossless'"),
        ({"tier": said(3)}, "mine.tier.value: expected one of 2, 4, 6, 8, auto"),
        ({"drive_read_gb_s": said(-1)}, "mine.drive_read_gb_s: expected a number above 0"),
        ({"cpus": said(0)}, "mine.cpus: expected a number above 0"),
        ({"system_memory": said("much")}, "mine.system_memory: expected a size"),
        ({"power_mode": said("16W")}, r"mine\.power_mode: expected one of power_modes \(15W, 7W\), got '16W'"),
        ({"power_modes": [{"name": "x", "wats": 3}]}, r"power_modes\[0\]: unknown key 'wats'\. Did you mean 'watts'"),
        ({"match": {"models": ["x"], "memory_gib": [8]}}, "mine.match.memory_gib: expected the lowest and the highest"),
        ({"format": 3}, "mine.format: expected one of 1, 2, got 3"),
    ],
)
def test_what_is_wrong_is_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        parse_profile(changed(**changes), "mine")


# a list of thirty lines that is three to the thirtieth values long
BOMB = b"&a0 [x, x]\n- " + b"\n- ".join(b"&a%d [*a%d, *a%d, *a%d]" % (i, i - 1, i - 1, i - 1) for i in range(1, 30))


@pytest.mark.parametrize(
    "data",
    [b"a: [", b"[1, 2]", b"\xff\xfe\xff", b"", b"x" * (1 << 21), b"- " + BOMB, b"power_modes:\n- " + BOMB, b"&a [*a]",
     b"notes: &a {x: *a}", b"a: !!timestamp x", b"a: !!bool x", b"a: !!int ''", b"a: 2001-99-99", b"[" * 5000,
     b"a: " + b"9" * 5000, b"- " * 50_000],
)  # fmt: skip
def test_what_is_not_a_profile_is_refused(data):
    with pytest.raises(ConfigError, match="mine") as caught:
        parse_profile(data, "mine")
    assert len(str(caught.value)) < 600


def test_the_table_in_the_documentation_is_up_to_date():
    done = subprocess.run([sys.executable, str(REPO / "tools/profiles_table.py"), "--check"], check=False)
    assert done.returncode == 0, "run python tools/profiles_table.py"


def test_the_file_that_is_read_holds_what_the_yaml_beside_it_holds():
    folder = REPO / "profiles"
    written = {path.stem: yaml.safe_load(path.read_text()) for path in folder.glob("*.yaml")}
    assert packaged() == written, "run python tools/packaged_profiles.py"


def test_starting_without_a_profile_file_loads_no_yaml_parser(model_bundle):
    code = (
        "import sys; from edge_runtime import Engine\n"
        f"Engine.open({str(model_bundle)!r}, context=64, threads=1, self_check=False).close()\n"
        "print(sorted({'yaml', 'subprocess', 'socket', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
