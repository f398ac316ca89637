"""Write what follows from the table of options: `python tools/options_table.py [--check]`.

docs/options.md, profiles/schema.json, the keys in profiles/README.md, and edge_runtime/config/registered.py (names of
policies, rules and predictors, which `--help` lists without importing them). Completions and manual pages follow from
the same parsers and are written along (`tools/completions.py`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

import marked_page

import completions
import hobbit_export.cli
from edge_runtime.__main__ import VERBS, build_parser
from edge_runtime.base.command import described
from edge_runtime.config.kinds import OnlyOn, Switch
from edge_runtime.config.option import Option
from edge_runtime.config.options import BY_NAME, COMMAND_OPTIONS, ENGINE_OPTIONS, FOREIGN, FREE_PREFIX, SERVICE_OPTIONS
from edge_runtime.config.profile_schema import profile_schema
from edge_runtime.config.registries import REGISTRIES
from edge_runtime.policy import POLICIES

ROOT = Path(__file__).parents[1]
WIDTH = 100
INTRO = """# Options

<!-- written by tools/options_table.py from edge_runtime/config/options.py; do not edit -->

Every option has one name. It is a flag (`--io-threads`), a variable (`HOBBIT_IO_THREADS`) and, for
the engine's options, a keyword of `Engine.open` (`io_threads`) and in some cases a key of a device
profile.

The first of these that says something counts:

1. the flag, or the keyword
2. the line in the settings file of `hobbit serve` (`--settings`)
3. the environment variable; an empty one says nothing
4. the device profile
5. the default

`auto` as a flag or a variable leaves an option to the profile and the default; `--memory auto`
alone beats the profile. Sizes: `512MiB`, `4GiB`, `4000MB`. Switches: `on`, `off`, `true`, `false`,
`yes`, `no`, `1`, `0`. A message about a wrong value names where it was said.

Completions for bash, zsh and fish, and manual pages (`man hobbit-run`), are installed below the
prefix of the environment. In a checkout: `source completions/hobbit.bash`.

"Live" options of a running service are switched by a reload (`SIGHUP`, `systemctl reload`); others
wait for the next start, and the log says so.
"""


def document() -> Iterator[str]:
    """Lines of docs/options.md."""
    yield INTRO
    yield "## Engine\n\nOf every verb but `simulate`.\n"
    yield from entries(ENGINE_OPTIONS)
    yield "## Service\n\nOf `hobbit serve`, besides the engine's.\n"
    yield from entries(SERVICE_OPTIONS)
    yield "## All verbs\n"
    yield from entries(COMMAND_OPTIONS)
    yield "## One verb\n\nFlags only: no variable, no profile key.\n"
    for verb in VERBS:
        shared = {"json"} if verb == "simulate" else {*BY_NAME, "bundle"}
        yield from own_flags(f"hobbit {verb}", build_parser(verb), shared)
    yield from own_flags("hobbit-export", hobbit_export.cli.build_parser(), set())
    yield from foreign()


def entries(options: Iterable[Option]) -> Iterator[str]:
    """A heading and a paragraph or two for each option."""
    for option in options:
        yield f"### `{heading(option)}`\n"
        facts = [f"variable `{option.variable}`"]
        facts += [f"profile key `{option.name}`"] if option.in_profile else []
        facts += [limits] if (limits := f"{option.kind.limits} {option.unit}".strip()) else []
        facts += [f"default: {option.shown_default}"] + (["live"] if option.is_live else [])
        yield paragraph(f"{sentence(option.help)} {option.doc}".strip())
        yield paragraph("; ".join(facts) + ".", first_upper=True)
        yield from names(option)


def names(option: Option) -> Iterator[str]:
    """What an option takes by name."""
    for entry in REGISTRIES.get(option.name, ()):
        yield textwrap.fill(f"- `{entry.name}`: {entry.summary}", WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    if option.name in REGISTRIES:
        yield ""


def heading(option: Option) -> str:
    """The flag as it is written."""
    flag = f"--{option.dashed}"
    if isinstance(option.kind, OnlyOn):
        return f"-{option.letter}`, `{flag}" if option.letter else flag
    return f"{flag}`, `--no-{option.dashed}" if isinstance(option.kind, Switch) else f"{flag} {option.kind.metavar}"


def own_flags(command: str, parser: argparse.ArgumentParser, shared: set[str]) -> Iterator[str]:
    """Flags that only this command has."""
    passed_over = {*shared, "help", argparse.SUPPRESS}
    own = [action for action in parser._actions if action.dest not in passed_over]
    if not own:
        return
    yield f"### `{command}`\n"
    for action in own:
        text = f"- `{written(action)}`: {(described(action) or '').replace('%%', '%')}"
        yield textwrap.fill(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    yield ""


def written(action: argparse.Action) -> str:
    """A flag or a positional argument as its user writes it."""
    value = action.metavar or ("|".join(action.choices) if action.choices else "")
    flags = "`, `".join(action.option_strings)
    return f"{flags} {value}".strip() if action.nargs != 0 else flags


def foreign() -> Iterator[str]:
    """Variables that are no options."""
    yield "## Other variables\n"
    yield paragraph(
        "A variable that begins with `HOBBIT_` and is no option is an error, of every verb, of `hobbit-export` and of "
        "`Engine.open`: a typing error must not silently mean the default. These are let pass, and never read:"
    )
    for name, what in FOREIGN.items():
        yield f"- `{name}`: {what}"
    yield f"- names that begin with `{FREE_PREFIX}`: free for scripts around the commands"


def paragraph(text: str, *, first_upper: bool = False) -> str:
    """Wrapped text with an empty line after it."""
    text = text[0].upper() + text[1:] if first_upper else text
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False) + "\n"


def sentence(text: str) -> str:
    """A line of help as a sentence."""
    return text[0].upper() + text[1:] + "."


def registered() -> Iterator[str]:
    """Lines of edge_runtime/config/registered.py."""
    yield '"""Names that policies, eviction rules, power meters and predictors are asked for by.'
    yield ""
    yield "Written by tools/options_table.py from their registries, which are too heavy for `--help`. Do not edit."
    yield '"""'
    for constant, key in (
        ("POLICIES", "policy"), ("EVICTION_RULES", "eviction"), ("POWER_METERS", "power_meter"),
        ("PREDICTORS", "prefetch"),
    ):  # fmt: skip
        yield f"\n{constant} = ("
        yield from (f'    "{entry.name}",' for entry in REGISTRIES[key])
        yield ")"
    [(name, policy)] = [(name, each) for name, each in POLICIES.items() if each.budget_param]
    yield f'\nPOLICY_WITH_BUDGET, BUDGET_PARAM, BASE_PARAM = "{name}", "{policy.budget_param}", "{policy.base_param}"'
    yield '"""The policy that `--max-kld` and `--base-resident` select, and its parameters for them."""'


def profile_page() -> str:
    """profiles/README.md with its table of keys."""
    rows = [f"| `{o.name}` | {o.help} | {o.shown_default} |" for o in ENGINE_OPTIONS if o.in_profile]
    table = ["| key | what it is | default |", "|---|---|---|", *rows]
    return marked_page.put_all(ROOT / "profiles/README.md", "options_table", {"keys": table})


def main() -> int:
    """Write the files, or say whether they are up to date."""
    names, check = {ROOT / "edge_runtime/config/registered.py": "\n".join(registered()) + "\n"}, "--check" in sys.argv
    if marked_page.write(names, check=True) and not check:
        marked_page.write(names, check=False)
        again = [sys.executable, *sys.argv]  # help has read the names as they were
        return subprocess.run(again, check=False).returncode  # noqa: S603 - itself
    fresh = {
        ROOT / "docs/options.md": "\n".join(document()) + "\n",
        ROOT / "profiles/schema.json": json.dumps(profile_schema(), indent=2) + "\n",
        ROOT / "profiles/README.md": profile_page(),
        **names,
        **completions.files(),
    }
    return marked_page.write(fresh, check=check)


if __name__ == "__main__":
    sys.exit(main())
