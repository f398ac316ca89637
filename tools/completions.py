"""Write shell completions and manual pages from the parsers: `python tools/completions.py [--check]`.

completions/hobbit.bash, completions/_hobbit (zsh), completions/hobbit.fish, and man/*.1. The wheel installs them.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import marked_page

import hobbit_export.cli
from edge_runtime.__main__ import ABOUT, FLAGS, TOPICS, VERBS, build_parser
from edge_runtime.base.command import described
from edge_runtime.config.kinds import Choice, Named, Tier
from edge_runtime.config.options import BY_NAME, ENGINE_OPTIONS, SERVICE_OPTIONS
from edge_runtime.config.profiles import profile_names

ROOT = Path(__file__).parents[1]
NOTE = "written by tools/completions.py; do not edit"
EXPORT = "hobbit-export"
PATHS = {"FILE", "FILE.txt", "DIR", "PATH", "auto|NAME|PATH", "BUNDLE", "CHECKPOINT", "T"}
TIERS = ("8", "6", "4", "2", "bf16")
EXIT_CODES = {
    "0": "done", "1": "failed while running", "2": "wrong usage, or one request that cannot be served",
    "78": "wrong settings, checkpoint or bundle, or it does not fit the memory", "130": "interrupted",
}  # fmt: skip


@dataclass(frozen=True)
class Flag:
    """A flag or a positional argument.

    Attributes:
        names: as they are written; empty for a positional argument.
        value: what stands for its value in help; empty: it takes none.
        help: one line, with the default.
        words: values to offer.
        takes_path: files are offered as well.
    """

    names: tuple[str, ...]
    value: str
    help: str
    words: tuple[str, ...]
    takes_path: bool


def flags_of(parser: argparse.ArgumentParser) -> list[Flag]:
    """Everything a parser takes, in order of its help."""
    return [_flag(action) for group in parser._action_groups for action in group._group_actions]


def _flag(action: argparse.Action) -> Flag:
    value = "" if action.nargs == 0 else str(action.metavar or "|".join(map(str, action.choices or ())) or "VALUE")
    text = " ".join((described(action) or "").replace("%%", "%").split())
    return Flag(tuple(action.option_strings), value, text, _words(action, value), value in PATHS)


def _words(action: argparse.Action, value: str) -> tuple[str, ...]:
    if action.choices:
        return tuple(map(str, action.choices))
    option = BY_NAME.get(action.dest)
    # the exporter has flags of the same name with other values
    kind = option.kind if option and option.kind.metavar == value else None
    if action.dest == "profile":
        return ("auto", *profile_names())
    if isinstance(kind, (Named, Choice)):
        return tuple(kind.names)
    if isinstance(kind, Tier) or action.dest in ("tier", "baseline_tier"):
        return TIERS
    return tuple(value.split("|")) if "|" in value and value == value.lower() else ()


def commands() -> dict[str, list[Flag]]:
    """What each verb, and the exporter, takes."""
    found = {verb: flags_of(build_parser(verb)) for verb in VERBS}
    return found | {EXPORT: flags_of(hobbit_export.cli.build_parser())}


def bash() -> Iterator[str]:
    """Lines of completions/hobbit.bash."""
    yield f"# bash completion for hobbit, hobbit-edge and {EXPORT}; {NOTE}"
    yield "_hobbit() {"
    yield "  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb=${COMP_WORDS[1]}"
    yield "  local flags= words= paths= word"
    yield f"  [[ ${{COMP_WORDS[0]##*/}} == {EXPORT} ]] && verb={EXPORT}"
    yield "  COMPREPLY=()"
    yield f"  if [[ $verb != {EXPORT} && $COMP_CWORD == 1 ]]; then"
    yield f'    COMPREPLY=($(compgen -W "{" ".join([*VERBS, "help", "--help", "--version"])}" -- "$cur")); return'
    yield "  fi"
    yield "  case $verb in"
    yield f'    help) COMPREPLY=($(compgen -W "{" ".join([*VERBS, *TOPICS])}" -- "$cur")); return ;;'
    for name, flags in commands().items():
        yield f'    {name}) flags="{" ".join(each for flag in flags for each in flag.names)}" ;;'
    yield "  esac"
    yield "  case $verb:$prev in"
    for (words, takes_path), keys in sorted(_by_values().items()):
        said = f'words="{" ".join(words)}"' if words else ":"
        yield f"    {'|'.join(keys)}) {said}{'; paths=yes' if takes_path else ''} ;;"
    yield "    *) [[ $cur == -* ]] && words=$flags || paths=yes ;;"
    yield "  esac"
    yield '  COMPREPLY=($(compgen -W "$words" -- "$cur"))'
    yield "  if [[ $paths ]]; then"
    yield "    compopt -o filenames 2>/dev/null"
    yield '    while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -f -- "$cur")'
    yield "  fi"
    yield "}"
    yield f"complete -F _hobbit hobbit hobbit-edge {EXPORT}"


def _by_values() -> dict[tuple[tuple[str, ...], bool], list[str]]:
    """`verb:flag` of the flags that take a value, by what is offered for it."""
    found: dict[tuple[tuple[str, ...], bool], list[str]] = {}
    for name, flags in commands().items():
        for flag in flags:
            if flag.value and flag.names:
                found.setdefault((flag.words, flag.takes_path), []).extend(f"{name}:{each}" for each in flag.names)
    return found


def zsh() -> Iterator[str]:
    """Lines of completions/_hobbit."""
    yield f"#compdef hobbit hobbit-edge {EXPORT}"
    yield f"# {NOTE}"
    yield "_hobbit_flags() {"
    yield "  case $1 in"
    for name, flags in commands().items():
        yield f"    {name}) _arguments -S \\"
        specs = [spec for flag in flags for spec in _zsh_specs(flag)]
        yield from (f"      {spec} \\" for spec in specs[:-1])
        yield f"      {specs[-1]} ;;"
    yield "  esac"
    yield "}"
    yield "_hobbit() {"
    yield f"  if [[ $service == {EXPORT} ]]; then _hobbit_flags {EXPORT}; return; fi"
    yield "  if (( CURRENT == 2 )); then"
    yield "    local -a verbs"
    yield "    verbs=("
    yield from (f"      {quoted(f'{verb}:{text}')}" for verb, text in VERBS.items())
    yield "      'help:help of a verb, or what an option takes')"
    yield "    _describe -t verbs verb verbs; return"
    yield "  fi"
    yield "  local verb=$words[2]"
    yield f"  if [[ $verb == help ]]; then compadd {' '.join([*VERBS, *TOPICS])}; return; fi"
    yield "  shift words; (( CURRENT-- ))"
    yield "  _hobbit_flags $verb"
    yield "}"
    yield '_hobbit "$@"'


def _zsh_specs(flag: Flag) -> Iterator[str]:
    words = f"({' '.join(flag.words)})" if flag.words else ""
    action = words or ("_files" if flag.takes_path else " ")
    if not flag.names:
        yield quoted(f":{_zsh_text(flag.value)}:{action}")
    for name in flag.names:
        value = f":{_zsh_text(flag.value)}:{action}" if flag.value else ""
        yield quoted(f"{name}[{_zsh_text(flag.help)}]{value}")


def _zsh_text(text: str) -> str:
    return re.sub(r"([\[\]:\\])", r"\\\1", text)


def quoted(text: str) -> str:
    """A word for bash, zsh and man: in single quotes."""
    return "'" + text.replace("'", "'\\''") + "'"


def fish() -> Iterator[str]:
    """Lines of completions/hobbit.fish."""
    yield f"# fish completion for hobbit, hobbit-edge and {EXPORT}; {NOTE}"
    yield "for command in hobbit hobbit-edge"
    for verb, text in [*VERBS.items(), ("help", "help of a verb, or what an option takes")]:
        yield f"    complete -c $command -n __fish_use_subcommand -f -a {verb} -d {_fish_text(text)}"
    yield "    complete -c $command -n __fish_use_subcommand -f -s h -l help -d 'show help'"
    yield f"    complete -c $command -n __fish_use_subcommand -f -l version -d {_fish_text(FLAGS['--version'])}"
    yield f"    complete -c $command -n '__fish_seen_subcommand_from help' -f -a '{' '.join([*VERBS, *TOPICS])}'"
    for verb in VERBS:
        for flag in commands()[verb]:
            if flag.names:
                yield f"    complete -c $command -n '__fish_seen_subcommand_from {verb}' {_fish_flag(flag)}"
    yield "end"
    for flag in commands()[EXPORT]:
        if flag.names:
            yield f"complete -c {EXPORT} {_fish_flag(flag)}"


def _fish_flag(flag: Flag) -> str:
    names = [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in flag.names]
    value = ["-r" if flag.takes_path else "-x"] if flag.value else []
    value += [f"-a '{' '.join(flag.words)}'"] if flag.words else []
    return " ".join([*names, *value, f"-d {_fish_text(flag.help)}"])


def _fish_text(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def man(name: str, about: str, synopsis: str, body: Iterator[str], others: list[str]) -> Iterator[str]:
    """Lines of a manual page."""
    yield f'.\\" {NOTE}'
    yield f'.TH {name.upper()} 1 "" "hobbit-edge" "User Commands"'
    yield f".SH NAME\n{roff(name)} \\- {roff(about)}"
    yield f".SH SYNOPSIS\n{roff(synopsis)}"
    yield from body
    yield ".SH EXIT STATUS"
    for code, text in EXIT_CODES.items():
        yield f".TP\n.B {code}\n{roff(text)}"
    pages = ", ".join(f"\\fB{roff(other)}\\fR(1)" for other in others if other != name)
    yield f".SH SEE ALSO\n{pages}"


def options_section(flags: list[Flag]) -> Iterator[str]:
    """The flags of a command."""
    yield ".SH OPTIONS"
    for flag in flags:
        names = ", ".join(f"\\fB{roff(name)}\\fR" for name in flag.names)
        value = f"\\fI{roff(flag.value)}\\fR" if flag.value else ""
        yield f".TP\n{' '.join(filter(None, [names, value]))}"
        yield roff(textwrap.fill(f"{flag.help[:1].upper()}{flag.help[1:]}.", 100, break_on_hyphens=False))


def roff(text: str) -> str:
    """Text as troff takes it."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", escaped, flags=re.MULTILINE)


def pages() -> Iterator[tuple[str, Iterator[str]]]:
    """Every manual page: its name and its lines."""
    names = ["hobbit", *(f"hobbit-{verb}" for verb in VERBS), EXPORT]
    yield "hobbit", man("hobbit", ABOUT[0].lower() + ABOUT[1:-1], "hobbit VERB BUNDLE [FLAGS]", _overview(), names)
    for verb, text in VERBS.items():
        flags = commands()[verb]
        takes = " ".join(flag.value for flag in flags if not flag.names)
        yield f"hobbit-{verb}", man(f"hobbit-{verb}", text, f"hobbit {verb} [FLAGS] {takes}", _verb_page(flags), names)
    flags = commands()[EXPORT]
    about = "turn a Hugging Face mixture-of-experts checkpoint into a bundle"
    yield EXPORT, man(EXPORT, about, f"{EXPORT} CHECKPOINT --out BUNDLE [FLAGS]", options_section(flags), names)


def _verb_page(flags: list[Flag]) -> Iterator[str]:
    yield from options_section(flags)
    if any(flag.names == ("--memory",) for flag in flags):
        yield ".SH ENVIRONMENT"
        yield roff("A flag that stands in this list has a variable: HOBBIT_ and its name in capitals.")
        known = {f"--{option.dashed}" for option in (*ENGINE_OPTIONS, *SERVICE_OPTIONS)}
        variables = [name[2:].upper().replace("-", "_") for flag in flags for name in flag.names if name in known]
        yield roff(textwrap.fill(", ".join(f"HOBBIT_{name}" for name in variables) + ".", 100))


def _overview() -> Iterator[str]:
    yield ".SH VERBS"
    for verb, text in VERBS.items():
        yield f".TP\n.B {roff(verb)}\n{roff(f'{text[0].upper()}{text[1:]}; see')} \\fBhobbit\\-{roff(verb)}\\fR(1)."
    yield ".SH OPTIONS"
    for names, text in FLAGS.items():
        yield f".TP\n.B {roff(names)}\n{roff(f'{text[0].upper()}{text[1:]}.')}"
    yield ".SH FILES"
    yield ".TP\n.I $XDG_STATE_HOME/hobbit\\-edge\nWhat was verified already, and the history of chats."


def files() -> dict[Path, str]:
    """Everything that is written, by its place."""
    shells: dict[str, Callable[[], Iterator[str]]] = {"hobbit.bash": bash, "_hobbit": zsh, "hobbit.fish": fish}
    found = {ROOT / "completions" / name: write() for name, write in shells.items()}
    found |= {ROOT / "man" / f"{name}.1": lines for name, lines in pages()}
    return {path: "\n".join(lines) + "\n" for path, lines in found.items()}


def main() -> int:
    """Write the files, or say whether they are up to date."""
    return marked_page.write(files(), check="--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
