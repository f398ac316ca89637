"""Completions and manual pages against the parsers, by the shells and by troff where they are installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest
from conftest import REPO

import hobbit_export.cli
from edge_runtime.__main__ import TOPICS, VERBS, build_parser
from edge_runtime.config.registered import POLICIES

COMMANDS = {**{verb: build_parser(verb) for verb in VERBS}, "hobbit-export": hobbit_export.cli.build_parser()}
PAGES = sorted((REPO / "man").glob("*.1"))


def flags_of(name: str) -> set[str]:
    """What a parser accepts, from its own help."""
    lines = re.findall(r"^  (-.*?)(?:  |$)", COMMANDS[name].format_help(), re.MULTILINE)
    found = {flag for line in lines for flag in re.findall(r"(?<![\w-])-{1,2}[a-z][\w-]*", line)}
    assert {"-h", "--help", "--version"} < found
    return found


def completed(*words: str) -> set[str]:
    """What bash offers for the last word."""
    line = " ".join(f"'{word}'" for word in words)
    script = f"source {REPO}/completions/hobbit.bash; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _hobbit; "
    script += 'printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, cwd=REPO / "examples")
    assert done.stderr == ""
    return set(done.stdout.split())


def test_files_are_up_to_date():
    done = subprocess.run([sys.executable, str(REPO / "tools/completions.py"), "--check"], check=False)
    assert done.returncode == 0, "run python tools/completions.py"


@pytest.mark.parametrize("name", COMMANDS)
def test_bash_offers_every_flag_of_the_parser(name):
    words = [name] if name == "hobbit-export" else ["hobbit", name]
    assert completed(*words, "--") == {flag for flag in flags_of(name) if flag.startswith("--")}


def test_bash_offers_verbs_values_and_files():
    assert completed("hobbit", "") == {*VERBS, "help", "--help", "--version"}
    assert completed("/opt/bin/hobbit-edge", "ve") == {"verify"}
    assert completed("hobbit", "help", "p") == {name for name in (*VERBS, *TOPICS) if name.startswith("p")}
    assert completed("hobbit", "help", "") == {*VERBS, *TOPICS}
    assert set(POLICIES) == completed("hobbit", "run", "bundle", "--policy", "")
    assert completed("hobbit", "chat", "b", "--tier", "") == {"8", "6", "4", "2", "bf16"}
    assert "orin-nano-8gb" in completed("hobbit", "plan", "--profile", "orin")
    assert completed("hobbit", "bench", "b", "--cache", "") == {"warm", "cold"}
    assert completed("hobbit-export", "x", "--trunk", "i") == {"int8", "int4"}
    assert completed("hobbit", "run", "ti") == {"tiny-moe"}, "a folder for BUNDLE"
    assert completed("hobbit", "run", "b", "--prompt-file", "ti") == {"tiny-moe"}
    assert completed("hobbit", "run", "b", "--max-tokens", "") == set()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_syntactically_right(shell):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed; its completion was NOT parsed")
    script = REPO / "completions" / {"bash": "hobbit.bash", "zsh": "_hobbit", "fish": "hobbit.fish"}[shell]
    done = subprocess.run([shell, "-n", str(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_zsh_and_fish_know_every_flag():
    zsh, fish = ((REPO / "completions" / name).read_text() for name in ("_hobbit", "hobbit.fish"))
    for name in COMMANDS:
        section = zsh.split(f"    {name}) _arguments")[1].split(" ;;")[0]
        lines = [line for line in fish.splitlines() if f"seen_subcommand_from {name}'" in line or f"-c {name} " in line]
        for flag in flags_of(name):
            assert f"\n      '{flag}[" in section, (name, flag)
            written = f"-l {flag[2:]} " if flag.startswith("--") else f"-s {flag[1:]} "
            assert any(written in line for line in lines), (name, flag)


def test_there_is_a_page_for_every_command():
    assert {page.stem for page in PAGES} == {"hobbit", "hobbit-export", *(f"hobbit-{verb}" for verb in VERBS)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_format_without_a_warning_and_have_every_flag(page):
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed; manual pages were NOT formatted")
    done = subprocess.run(
        ["groff", "-man", "-Tascii", "-ww", "-P-c", str(page)], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    name = page.stem if page.stem in COMMANDS else page.stem.removeprefix("hobbit-")
    plain = re.sub(r".\x08", "", done.stdout)
    for flag in flags_of(name) if name in COMMANDS else ("--help", "--version"):
        assert flag in plain, flag
    assert "EXIT STATUS" in plain
