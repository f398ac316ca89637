"""The settings file and what a reload may change."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge_runtime.base.errors import ConfigError
from edge_runtime.config.profiles import Setting, load_profile
from edge_runtime.engine.reload import Reload
from edge_runtime.service.ops.settings import Settings, compare_settings, read_settings

PROFILED = {"policy": "hobbit", "expert_memory": "100MiB", "eviction": "lru"}


def test_lines_as_systemd_reads_them(tmp_path):
    path = tmp_path / "hobbit.env"
    path.write_text(
        "# comment\n; another\n\nHOBBIT_POLICY=hobbit:t1=0.6,t2=0.9\nHOBBIT_BUNDLE=\"/mnt/my models\"\n"
        "HOBBIT_MEMORY='4GiB'\n  HOBBIT_PORT=8080  \nHOBBIT_SEED=\n"
    )  # fmt: skip
    assert read_settings(path) == {
        "HOBBIT_POLICY": "hobbit:t1=0.6,t2=0.9",
        "HOBBIT_BUNDLE": "/mnt/my models",
        "HOBBIT_MEMORY": "4GiB",
        "HOBBIT_PORT": "8080",
        "HOBBIT_SEED": "",
    }


@pytest.mark.parametrize("bad", ["HOBBIT_POLICY", "export A=1", 'A="open', "A=1\\", "9=1", "A='x' y"])
def test_a_bad_line_is_named(tmp_path, bad):
    path = tmp_path / "hobbit.env"
    path.write_text("A=1\n" + bad + "\n")
    with pytest.raises(ConfigError, match=r"hobbit\.env, line 2: expected NAME=value"):
        read_settings(path)


def test_an_unreadable_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing\.env: cannot be read"):
        read_settings(tmp_path / "nothing.env")


def test_policy_and_memory_switch_now_context_later():
    old = {"HOBBIT_POLICY": "lossless", "HOBBIT_MEMORY": "4GiB", "HOBBIT_CONTEXT": "2048", "PATH": "/bin"}
    new = {"HOBBIT_POLICY": "hobbit", "HOBBIT_MEMORY": "3GiB", "HOBBIT_CONTEXT": "4096"}
    found = compare_settings(old, new)
    assert found.reload == Reload(policy="hobbit", memory="3GiB", expert_memory=1 << 60)
    assert found.live == ("HOBBIT_MEMORY=3GiB", "HOBBIT_POLICY=hobbit")
    assert found.later == ("HOBBIT_CONTEXT",)


def test_what_is_taken_away_falls_back_to_its_default():
    found = compare_settings({"HOBBIT_POLICY": "hobbit", "HOBBIT_EXPERT_MEMORY": "1GiB"}, {})
    assert found.reload == Reload(policy="lossless", memory="auto", expert_memory=1 << 60)


def test_a_profile_brings_its_memory_and_says_what_must_wait():
    before = {"HOBBIT_PROFILE": "generic"}
    found = compare_settings(before, {"HOBBIT_PROFILE": "orin-nano-8gb", "HOBBIT_CONTEXT": "4096"})
    assert (found.reload.memory, found.reload.policy) == ("auto", None)
    assert "profile's context" in compare_settings(before, {"HOBBIT_PROFILE": "orin-nano-8gb"}).later
    assert "profile's os_reserve" in found.later
    assert "profile's context" not in found.later, "a setting overrides it"
    assert compare_settings({}, {"HOBBIT_PROFILE": "orin-nano-8gb", "HOBBIT_MEMORY": "2GiB"}).reload.memory == "2GiB"


def test_a_profile_brings_its_policy_and_its_limit_of_experts(tmp_path):
    said = {name: Setting(value, "assumed", source="a test") for name, value in PROFILED.items()}
    path = tmp_path / "mine.yaml"
    path.write_text(replace(load_profile(), settings=said).to_yaml())
    found = compare_settings({"HOBBIT_PROFILE": "generic"}, {"HOBBIT_PROFILE": str(path)}).reload
    assert (found.policy, found.expert_memory, found.eviction) == ("hobbit", "100MiB", "lru")
    assert compare_settings({}, {"HOBBIT_PROFILE": str(path)}, flags={"policy": "skip"}).reload.policy is None


def test_flags_beat_the_file():
    found = compare_settings({}, {"HOBBIT_POLICY": "hobbit", "HOBBIT_MEMORY": "2GiB"}, flags={"policy": "skip"})
    assert found.reload.policy is None
    assert found.later == ("HOBBIT_POLICY",)


def test_nothing_changed_nothing_planned():
    found = compare_settings({"HOBBIT_POLICY": "hobbit"}, {"HOBBIT_POLICY": "hobbit", "OTHER": "x"})
    assert (found.reload, found.live, found.later) == (Reload(), (), ())


def test_settings_remember_what_is_in_force(tmp_path):
    path = tmp_path / "hobbit.env"
    path.write_text("HOBBIT_POLICY=hobbit\n")
    settings = Settings({"HOBBIT_POLICY": "hobbit", "HOBBIT_MEMORY": "1GiB", "HOME": "/"}, path)
    assert settings.changes().live == ()
    path.write_text("HOBBIT_POLICY=skip\n")
    found = settings.changes()
    assert found.live == ("HOBBIT_POLICY=skip",)
    assert settings.changes().live == found.live, "not committed: still to do"
    settings.commit(found)
    assert settings.changes().live == ()
    path.write_text("")
    assert settings.changes().reload == Reload(policy="lossless"), "the memory from outside the file stays"


def test_a_misspelt_name_is_refused(tmp_path):
    path = tmp_path / "hobbit.env"
    path.write_text("HOBBIT_POLICI=hobbit\n")
    with pytest.raises(ConfigError, match=r"hobbit\.env: unknown name 'HOBBIT_POLICI'.*Did you mean 'HOBBIT_POLICY'"):
        Settings({}, path)
    path.write_text("HOBBIT_PORT=1\nHOBBIT_MEMORY=1GiB\n")
    Settings({}, path)


def test_a_name_misspelt_after_the_start_refuses_the_reload(tmp_path):
    path = tmp_path / "hobbit.env"
    path.write_text("HOBBIT_POLICY=hobbit\n")
    settings = Settings({}, path)
    path.write_text("HOBBIT_POLICI=skip\n")
    with pytest.raises(ConfigError, match="Did you mean 'HOBBIT_POLICY'"):
        settings.changes()


def test_a_wrong_value_refuses_the_reload_and_names_the_file(tmp_path):
    path = tmp_path / "hobbit.env"
    path.write_text("")
    settings = Settings({}, path)
    for line, message in (("HOBBIT_POLICY=skipp", "Did you mean 'skip'"), ("HOBBIT_MEMORY=lots", "expected a size")):
        path.write_text(line)
        with pytest.raises(ConfigError, match=rf"hobbit\.env: {line.split('=')[0]}: .*{message}"):
            settings.changes()


def test_a_budget_is_a_policy_and_switches_now():
    found = compare_settings({}, {"HOBBIT_MAX_KLD": "0.02"})
    assert found.reload == Reload(policy="rate-distortion:max_kld=0.02")
    assert (found.live, found.later) == (("HOBBIT_MAX_KLD=0.02",), ())
    assert compare_settings({"HOBBIT_MAX_KLD": "0.02"}, {}).reload == Reload(policy="lossless")


def test_no_file_no_reload():
    with pytest.raises(ConfigError, match="no settings file was given"):
        Settings({}).changes()
