"""Help, versions, exit codes and interrupts of both commands, and a service that takes its options from a file."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import MODEL
from patience import PATIENCE_S
from service_process import ServiceProcess

from edge_runtime.__main__ import VERBS, main
from edge_runtime.config.options import ENGINE_OPTIONS

SMALL = ["--memory", "1GiB", "--context", "256", "--no-self-check"]


def printed(capsys, *argv: str) -> str:
    try:
        code = main(list(argv))
    except SystemExit as caught:
        code = caught.code
    assert code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_the_verbs_own_flags_first_and_every_default(verb, capsys):
    text = printed(capsys, "help", verb)
    assert text == printed(capsys, verb, "--help")
    assert text.startswith(f"usage: hobbit {verb} ")
    if verb in ("simulate", "trace-import", "doctor", "pull", "push", "list", "rm", "bringup"):  # they open no engine
        return
    own, engine = text.split("\nengine:\n")
    assert "[ENGINE FLAGS] BUNDLE" in own
    for option in ENGINE_OPTIONS:
        assert not re.search(rf"--{option.dashed}(?![\w-])", own), "the verb's own flags come first"
        assert f"--{option.dashed}" in engine
    assert engine.count("(default:") == len(ENGINE_OPTIONS)


def test_help_alone_lists_the_verbs(capsys):
    text = printed(capsys, "help")
    assert text == printed(capsys, "--help")
    assert all(re.search(rf"^  {verb} +{re.escape(about)}$", text, re.MULTILINE) for verb, about in VERBS.items())


def test_a_misspelt_verb_is_a_usage_error_with_a_suggestion(capsys):
    for argv in (["vrify", "b"], ["help", "vrify"], ["--json", "vrify"]):
        assert main(argv) == 2
        assert "got 'vrify'. Did you mean 'verify'?" in capsys.readouterr().err


def test_flags_before_the_verb_are_a_usage_error(capsys):
    for argv in (["--json", "plan", "b"], ["--frob"]):
        assert main(argv) == 2
        assert f"flags come after the verb, got {argv[0]!r}" in capsys.readouterr().err


def test_help_fits_a_terminal(capsys):
    assert max(map(len, printed(capsys, "--help").splitlines())) <= 100


def test_version_is_everywhere(capsys):
    expected = printed(capsys, "--version")
    assert expected.startswith("hobbit ")
    assert {printed(capsys, verb, "--version") for verb in VERBS} == {expected}
    command = [sys.executable, "-m", "hobbit_export", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == expected.replace("hobbit ", "hobbit-export ")


def test_a_damaged_bundle_is_bad_configuration(model_bundle, tmp_path, capsys):
    broken = tmp_path / "bundle"
    shutil.copytree(model_bundle, broken)
    (broken / "manifest.json").write_text("{")
    for bundle, message in ((broken, "BundleError: manifest.json"), (tmp_path / "none", "found nothing")):
        assert main(["plan", str(bundle)]) == 78
        assert message in capsys.readouterr().err
    done = subprocess.run(
        [sys.executable, "-m", "hobbit_export", str(tmp_path / "none"), "--out", str(tmp_path / "b")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 78, done.stderr


def test_an_interrupted_export_says_so_by_its_exit_code(tmp_path):
    command = [sys.executable, "-m", "hobbit_export", str(MODEL), "--out", str(tmp_path / "b"), "--tiers", "8,bf16"]
    process = subprocess.Popen([*command, "--calibrate"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while not list(tmp_path.iterdir()):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, err
    assert "interrupted. Run the same command again to resume." in err
    assert "Traceback" not in err


def outcome(words: str, redirected: str) -> tuple[int, str]:
    """Run a command's words in a shell with its output redirected; return its code and stderr."""
    program, _, rest = words.partition(" ")
    module = {"hobbit": "edge_runtime", "hobbit-export": "hobbit_export"}[program]
    environment = os.environ | {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    line = f'"{sys.executable}" -m {module} {rest} {redirected}'
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, env=environment)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "words",
    [
        *(f"hobbit {verb} --help" for verb in VERBS),
        "hobbit --help", "hobbit --version", "hobbit help", "hobbit help policy", "hobbit help run",
        "hobbit run --version", "hobbit list", "hobbit list --json", "hobbit doctor --json",
        "hobbit-export --help", "hobbit-export --version",
    ],
)  # fmt: skip
def test_output_that_a_full_drive_loses_is_an_error_of_one_line(words):
    """Help included, which argparse would lose without a word."""
    program = words.partition(" ")[0]
    assert outcome(words, ">/dev/full") == (1, f"{program}: output: No space left on device.\n")


@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_minds_where_its_output_goes(verb):
    """A reader that has gone and a terminal of ASCII: a code, and no word about it."""
    code, err = outcome(f"hobbit {verb} --help", "| true; exit ${PIPESTATUS[0]}")
    assert code in (0, 1), "0 where the pipe took it all"
    assert err == ""
    assert outcome(f"hobbit {verb} --help", ">/dev/null") == (0, "")


@pytest.mark.parametrize("lost", ["2>/dev/full", ">&- 2>&-", "2>&1 | true; exit ${PIPESTATUS[0]}"])
@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("hobbit vrify", 2),
        ("hobbit", 2),
        ("hobbit --json plan", 2),
        ("hobbit run --frobnicate", 2),
        ("hobbit plan /nonexistent", 78),
        ("hobbit serve /nonexistent", 78),
        ("hobbit-export /nonexistent --out /nonexistent/bundle", 78),
    ],
)
def test_a_message_that_is_lost_leaves_the_exit_code(words, code, lost):
    """A service manager restarts what ended with another code than bad settings have."""
    assert outcome(words, lost) == (code, "")


@pytest.mark.parametrize(("code", "expected"), [(0, 1), (2, 2), (78, 78)])
def test_output_that_is_lost_is_a_failure_and_hides_none(code, expected):
    script = f"import sys; from edge_runtime.base.ending import exit_code; sys.exit(exit_code('it', lambda: print() or {code}))"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", script], stdout=full, stderr=subprocess.PIPE, text=True, check=False,
            env=os.environ | {"PYTHONUNBUFFERED": ""},  # a small text then meets the drive at the end
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (expected, "it: output: No space left on device.\n")


def test_a_service_starts_with_its_settings_file_and_reloads_it(model_bundle, tmp_path):
    """Without systemd, which would put the file into the environment."""
    settings = tmp_path / "hobbit.env"
    settings.write_text("HOBBIT_POLICY=skip\nHOBBIT_MODEL_NAME=mine\nHOBBIT_MAX_WAITING=3\n")
    flags = [*SMALL, "--settings", str(settings), "--no-verify"]
    with ServiceProcess(model_bundle, tmp_path / "log", *flags, env={"HOBBIT_POLICY": "hobbit"}) as service:
        service.model = "mine"
        assert service.chat()["hobbit"]["policy"]["name"] == "skip", "the file beats the environment"
        settings.write_text("HOBBIT_POLICY=max-rank\nHOBBIT_MODEL_NAME=mine\nHOBBIT_MAX_WAITING=4\n")
        os.kill(service.process.pid, signal.SIGHUP)
        deadline = time.monotonic() + 30
        while "reloaded: " not in service.log.read_text():
            assert time.monotonic() < deadline, service.log.read_text()
            time.sleep(0.05)
        assert "HOBBIT_MAX_WAITING takes effect with the next start" in service.log.read_text()
        assert service.chat()["hobbit"]["policy"]["name"] == "max-rank"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("HOBBIT_PORT=many", "HOBBIT_PORT: expected a whole number, got 'many'"),
        ("HOBBIT_TIER=3", "HOBBIT_TIER: expected one of this bundle's tiers"),
        ("HOBBIT_MEMROY=1GiB", "unknown name 'HOBBIT_MEMROY'. Did you mean 'HOBBIT_MEMORY'?"),
    ],
)
def test_a_service_refuses_a_wrong_settings_file_by_name(model_bundle, tmp_path, line, message, capsys):
    settings = tmp_path / "hobbit.env"
    settings.write_text(line)
    assert main(["serve", str(model_bundle), "--settings", str(settings)]) == 78
    assert f"{settings}: {message}" in capsys.readouterr().err
