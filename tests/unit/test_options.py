"""The table of options: every entry is everywhere, says the same everywhere, and the stronger source counts."""

from __future__ import annotations

import argparse
import importlib
import json
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml
from conftest import REPO
from manifests import small_manifest

from edge_runtime.__main__ import VERBS, build_parser, main
from edge_runtime.base.errors import ConfigError
from edge_runtime.cli.options import add_options, said_flags
from edge_runtime.config.environment import Environment, given, values_of
from edge_runtime.config.kinds import Choice, OnlyOn, Switch
from edge_runtime.config.option import option, options_of
from edge_runtime.config.options import (
    BY_NAME,
    COMMAND_OPTIONS,
    ENGINE_OPTIONS,
    FOREIGN,
    OPTIONS,
    SERVICE_OPTIONS,
    CommandOptions,
    RuntimeConfig,
    ServiceOptions,
)
from edge_runtime.config.profile_schema import profile_schema
from edge_runtime.config.profiles import Setting, load_profile, parse_profile, profile_names
from edge_runtime.config.registered import EVICTION_RULES, POLICIES, PREDICTORS
from edge_runtime.config.registries import REGISTRIES
from edge_runtime.config.resolve import EngineOptions, resolve
from edge_runtime.service.ops.settings import Settings, compare_settings

MANIFEST = small_manifest((2, 4, 8, 16))
IN_PROFILE = [o for o in ENGINE_OPTIONS if o.in_profile]
by_name = pytest.mark.parametrize("entry", OPTIONS, ids=lambda o: o.name)


def flags_of(entry, text: str) -> list[str]:
    """How a user writes the option."""
    if isinstance(entry.kind, OnlyOn):
        return [f"--{entry.dashed}"] if text == "on" else []
    if isinstance(entry.kind, Switch):
        return [f"--{entry.dashed}" if text == "on" else f"--no-{entry.dashed}"]
    return [f"--{entry.dashed}", text]


def values(flags: dict, env, profile=None) -> tuple:
    """Everything a command would run with."""
    sources = given(flags, env)
    engine = EngineOptions.from_keywords({o.name: flags[o.name] for o in ENGINE_OPTIONS if o.name in flags})
    rest = {**vars(values_of(ServiceOptions, sources)), **vars(values_of(CommandOptions, sources))}
    return resolve(engine, env, MANIFEST, profile), rest


def assumed(value) -> dict:
    return {"value": value, "basis": "assumed", "source": "a test"}


def with_flags(*argv: str) -> tuple:
    return values(said_flags(build_parser("serve").parse_args(["BUNDLE", *argv])), {})


def with_file(path: Path, text: str, env: dict[str, str] | None = None) -> tuple:
    path.write_text(text)
    return values({}, Settings(env or {}, path).environment)


@by_name
def test_flag_variable_and_settings_file_say_the_same(entry, tmp_path):
    by_flag = with_flags(*flags_of(entry, entry.example))
    assert by_flag == values({}, {entry.variable: entry.example})
    assert by_flag == with_file(tmp_path / "hobbit.env", f"{entry.variable}={entry.example}\n")
    if entry.name != "backend":
        assert by_flag != values({}, {}), "the example is not the default"


@pytest.mark.parametrize("entry", ENGINE_OPTIONS, ids=lambda o: o.name)
def test_a_keyword_says_the_same(entry):
    converted = entry.kind.convert(entry.example, entry.name)
    plain = converted if isinstance(converted, (bool, int, float, str)) else entry.example
    asked = EngineOptions.from_keywords({entry.name: plain})
    assert resolve(asked, {}, MANIFEST) == values({}, {entry.variable: entry.example})[0]


@pytest.mark.parametrize("entry", IN_PROFILE, ids=lambda o: o.name)
def test_a_profile_says_the_same(entry):
    plain = load_profile().to_json() | {entry.name: assumed(yaml.safe_load(entry.example))}
    profile = parse_profile(yaml.safe_dump(plain).encode(), "mine")
    found, by_flag = values({}, {}, profile)[0], with_flags(*flags_of(entry, entry.example))[0]
    assert replace(found, profile=by_flag.profile) == by_flag


@by_name
def test_the_stronger_source_counts_and_a_weaker_one_is_not_even_read(entry, tmp_path):
    wrong = "no such value"
    path, expected = tmp_path / "hobbit.env", with_flags(*flags_of(entry, entry.example))
    path.write_text(f"{entry.variable}={wrong}\n")
    env = {entry.variable: wrong}
    flags = said_flags(build_parser("serve").parse_args(["BUNDLE", *flags_of(entry, entry.example)]))
    assert values(flags, Settings(env, path).environment) == expected, "flag before file"
    assert with_file(path, f"{entry.variable}={entry.example}\n", env) == expected, "file before environment"
    assert with_file(path, f"{entry.variable}=\n", {}) == values({}, {}), "an empty value says nothing"
    if entry.in_profile:
        profile = replace(load_profile(), settings={entry.name: Setting(wrong, "assumed")})
        found = values({}, {entry.variable: entry.example}, profile)[0]
        assert replace(found, profile=expected[0].profile) == expected[0], "environment before profile"


@pytest.mark.parametrize("entry", [o for o in OPTIONS if o.takes_auto], ids=lambda o: o.name)
def test_auto_leaves_it_to_profile_and_default(entry, tmp_path):
    assert values({}, {entry.variable: "auto"}) == values({}, {})
    # also where a weaker source was said something
    flags = {} if isinstance(entry.kind, Switch) else {entry.name: "auto"}
    if flags:
        assert values(flags, {entry.variable: entry.example}) == values({}, {})
    if entry.in_profile:
        profile = replace(load_profile(), settings={entry.name: Setting(yaml.safe_load(entry.example), "assumed")})
        said, left = values({entry.name: "auto"}, {}, profile), values({}, {}, profile)
        assert (said == left) == (entry.name != "memory"), "--memory auto alone beats the profile"


@pytest.mark.parametrize("entry", [o for o in OPTIONS if o.takes_auto], ids=lambda o: o.name)
def test_a_wrong_value_names_where_it_was_said(entry, tmp_path):
    path = tmp_path / "hobbit.env"
    with pytest.raises(ConfigError, match=rf"^{entry.variable}: expected "):
        values({}, {entry.variable: "no such value"})
    with pytest.raises(ConfigError, match=rf"^{path}: {entry.variable}: expected "):
        with_file(path, f"{entry.variable}=no such value\n")
    if not isinstance(entry.kind, Switch):
        with pytest.raises(ConfigError, match=rf"^{entry.dashed}: expected "):
            with_flags(*flags_of(entry, "no such value"))
    if entry.in_profile:
        profile = replace(load_profile(), settings={entry.name: Setting("no such value", "assumed")})
        with pytest.raises(ConfigError, match=rf"^profile 'generic': {entry.name}: expected "):
            values({}, {}, profile)


@by_name
def test_every_entry_is_documented(entry):
    assert entry.help
    assert entry.help[0].islower() or entry.help.startswith("NAME")
    assert not entry.help.endswith(".")
    assert entry.shown_default
    page = (REPO / "docs/options.md").read_text()
    assert f"`--{entry.dashed}" in page
    assert f"`{entry.variable}`" in page


def test_the_budget_has_the_range_of_the_policy_it_selects():
    from edge_runtime.policy import POLICIES as policies

    param = policies["rate-distortion"].params["max_kld"]
    assert (BY_NAME["max_kld"].kind.low, BY_NAME["max_kld"].kind.high) == (param.low, param.high)


def test_what_is_generated_is_up_to_date():
    done = subprocess.run([sys.executable, str(REPO / "tools/options_table.py"), "--check"], check=False)
    assert done.returncode == 0, "run python tools/options_table.py"


def test_help_lists_all_that_the_registries_have(capsys):
    assert [e.name for e in REGISTRIES["policy"]] == list(POLICIES)
    assert [e.name for e in REGISTRIES["eviction"]] == list(EVICTION_RULES)
    assert [e.name for e in REGISTRIES["prefetch"]] == list(PREDICTORS)
    assert all(entry.summary for entries in REGISTRIES.values() for entry in entries)
    for verb in set(VERBS) - {"simulate", "trace-import", "doctor", "pull", "push", "list", "rm", "bringup"}:
        with pytest.raises(SystemExit):
            main([verb, "--help"])
        text = capsys.readouterr().out
        words = text.replace("-\n", "-").replace(",", " ").split()
        for name in (*POLICIES, *EVICTION_RULES, *PREDICTORS):
            assert name in "".join(words), name
    for topic, entries in REGISTRIES.items():
        assert main(["help", topic.replace("_", "-")]) == 0
        lines = capsys.readouterr().out.splitlines()
        for entry in entries:
            assert f"{entry.name}: {entry.summary}" in lines
            assert all(any(line.strip().startswith(f"{key}=") for line in lines) for key in entry.params)


def test_the_live_options_are_those_a_reload_applies():
    live = {o.name for o in OPTIONS if o.is_live}
    assert live == {"profile", "memory", "expert_memory", "policy", "max_kld", "base_resident", "eviction", "prefetch"}
    example = (REPO / "deploy/hobbit.env.example").read_text()
    for paragraph in example.split("\n\n")[1:]:
        names = [o for o in OPTIONS if f"\n#{o.variable}=" in paragraph or f"\n{o.variable}=" in paragraph]
        assert all(o.is_live == ("live" in paragraph) for o in names), paragraph


def fits(schema: dict, value) -> bool:
    """The part of JSON Schema that ours uses."""
    if "anyOf" in schema:
        return any(fits(s, value) for s in schema["anyOf"])
    if "const" in schema:
        return value == schema["const"]
    if "enum" in schema:
        return value in schema["enum"] and not isinstance(value, bool)
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None), "integer": int}
    names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    types = tuple({"number": (int, float)}.get(name, kinds.get(name)) for name in names)
    if not any(isinstance(value, t) for t in types) or (isinstance(value, bool) and "boolean" not in names):
        return False
    bounds = (schema.get("minimum", value), schema.get("maximum", value))
    if isinstance(value, (int, float)) and not bounds[0] <= value <= bounds[1]:
        return False
    if isinstance(value, dict):
        known = schema["properties"]
        return (
            set(schema.get("required", ())) <= set(value) <= set(known)
            and all(fits(known[key], item) for key, item in value.items())
        )  # fmt: skip
    if isinstance(value, list):
        return all(fits(schema["items"], item) for item in value)
    return "pattern" not in schema or re.search(schema["pattern"], value) is not None


def test_the_published_schema_accepts_what_the_loader_accepts():
    schema = json.loads((REPO / "profiles/schema.json").read_text())
    assert schema == profile_schema()
    for name in profile_names():
        assert fits(schema, load_profile(name).to_json())
    samples = ["auto", "lru", "lcv", "layer-sizes:single=0.1", "512MiB", "1.5 gb", "lots", "", 0, 1, 4, 5, 300, True]
    for entry in IN_PROFILE:
        for sample in samples:
            plain = load_profile().to_json() | {entry.name: assumed(sample)}
            try:
                parse_profile(yaml.safe_dump(plain).encode(), "mine")
                is_good = True
            except ConfigError:
                is_good = False
            assert fits(schema, plain) == is_good, (entry.name, sample)
    assert not fits(schema, load_profile().to_json() | {"contxt": 3})
    for lacking in (
        {"basis": "assumed"},
        {"basis": "measured", "when": "2026-11-29"},
        {"basis": "measured", "how": "x"},
    ):
        assert not fits(schema, load_profile().to_json() | {"context": {"value": 9} | lacking})


# --- one entry is enough ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Extended(RuntimeConfig):
    """The engine's table with an entry that exists only here."""

    colour: str = option(
        Choice("red", "blue"), "red", help="what a throw-away entry looks like", example="blue",
        doc="Nothing uses it.", in_profile=True, is_live=True,
    )  # fmt: skip


EXTENDED = options_of(Extended)
COLOUR = EXTENDED[-1]


def colour_of(flags=None, env=None, profile=None) -> str:
    asked = EngineOptions.from_keywords(flags or {}, EXTENDED)
    return resolve(asked, Environment(env or {}, table=EXTENDED), MANIFEST, profile, into=Extended).colour


def test_a_new_entry_is_a_flag_a_variable_a_keyword_and_a_profile_key():
    assert colour_of() == "red"
    parser = argparse.ArgumentParser()
    add_options(parser, EXTENDED)
    assert said_flags(parser.parse_args(["--colour", "blue"]), EXTENDED) == {"colour": "blue"}
    assert "--colour red|blue" in parser.format_help()
    assert "what a throw-away entry looks like (default: red)" in " ".join(parser.format_help().split())
    assert colour_of({"colour": "blue"}) == "blue"
    assert colour_of(env={"HOBBIT_COLOUR": "blue"}) == "blue"
    with pytest.raises(ConfigError, match="HOBBIT_COLOUR: expected one of red, blue, got 'bleu'. Did you mean 'blue'"):
        colour_of(env={"HOBBIT_COLOUR": "bleu"})
    with pytest.raises(ConfigError, match="Did you mean 'HOBBIT_COLOUR'"):
        colour_of(env={"HOBBIT_COLUOR": "blue"})
    plain = load_profile().to_json() | {"colour": assumed("blue")}
    assert colour_of(profile=parse_profile(yaml.safe_dump(plain).encode(), "mine", EXTENDED)) == "blue"
    forms = profile_schema(EXTENDED)["properties"]["colour"]["anyOf"]
    assert [form["properties"]["basis"]["const"] for form in forms] == ["default", "assumed", "measured"]
    assert all(form["properties"]["value"] == {"enum": ["red", "blue"]} for form in forms)
    with pytest.raises(ConfigError, match="unknown key 'colour'"):
        parse_profile(yaml.safe_dump(plain).encode(), "mine")


def test_a_new_entry_is_a_setting_that_a_reload_sees(tmp_path):
    path = tmp_path / "hobbit.env"
    path.write_text("HOBBIT_COLOUR=red\n")
    settings = Settings({}, path, table=EXTENDED)
    path.write_text("HOBBIT_COLOUR=blue\n")
    assert settings.changes().live == ("HOBBIT_COLOUR=blue",)
    with pytest.raises(ConfigError, match="unknown name 'HOBBIT_COLOUR'"):
        Settings({}, path)
    waits = [replace(COLOUR, is_live=False)]
    before, after = Environment({}, table=waits), Environment({"HOBBIT_COLOUR": "blue"}, table=waits)
    assert compare_settings(before, after, table=waits).later == ("HOBBIT_COLOUR",)


def test_a_new_entry_is_in_the_documentation():
    tool = importlib.import_module("options_table")
    page = "\n".join(tool.entries(EXTENDED))
    assert "### `--colour red|blue`\n\nWhat a throw-away entry looks like. Nothing uses it." in page
    assert "Variable `HOBBIT_COLOUR`; profile key `colour`; default: red; live." in page


# --- misspelt variables ----------------------------------------------------------------------------------------------

VERB_LINES = {
    "plan": [], "run": ["-p", "x"], "chat": [], "serve": [], "bench": [], "eval": ["--text", "t"],
    "calibrate": ["--text", "t"], "trace": ["--text", "t", "--out", "o"], "simulate": [], "verify": [],
    "trace-import": ["--out", "o"], "doctor": [], "pull": [], "push": ["target"], "list": [], "rm": [],
    "probe": [], "tune": [], "bringup": [],
}  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_a_misspelt_variable_is_an_error_of_every_verb(verb, monkeypatch, capsys):
    monkeypatch.setenv("HOBBIT_MEMROY", "1GiB")
    words = [] if verb == "list" else ["no-bundle"]
    assert main([verb, *words, *VERB_LINES[verb]]) == 78
    assert "unknown name 'HOBBIT_MEMROY'. Did you mean 'HOBBIT_MEMORY'?" in capsys.readouterr().err


def test_and_of_the_exporter_before_it_does_anything(monkeypatch, capsys, tmp_path):
    from hobbit_export.cli import main as export

    monkeypatch.setenv("HOBBIT_MEMROY", "1GiB")
    assert export(["no-checkpoint", "--out", str(tmp_path / "bundle")]) == 78
    assert "Did you mean 'HOBBIT_MEMORY'?" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


def test_and_of_the_library():
    with pytest.raises(ConfigError, match="unknown name 'HOBBIT_WHATEVER'. docs/options.md"):
        resolve(EngineOptions(), {"HOBBIT_WHATEVER": ""}, MANIFEST)


def test_names_of_others_are_let_pass():
    others = {**dict.fromkeys(FOREIGN, "x"), "HOBBIT_X_ANYTHING": "x", "HOBBITS": "x", "PATH": "x"}
    assert {"HOBBIT_BUNDLE", "HOBBIT_BIN", "HOBBIT_TINY"} <= set(FOREIGN)
    assert values({}, others) == values({}, {})


def test_shared_flags_have_variables_too(monkeypatch):
    from edge_runtime.cli.options import set_command_options

    args = build_parser("plan").parse_args(["b"])
    assert args.json is None
    set_command_options(args, {"HOBBIT_JSON": "on"})
    assert (args.json, args.verbose) == (True, False)
    assert {o.name for o in COMMAND_OPTIONS} == {"json", "verbose", "no_self_check", "models"}
    assert not {o.name for o in SERVICE_OPTIONS} & {o.name for o in (*ENGINE_OPTIONS, *COMMAND_OPTIONS)}
