"""`hobbit chat` in a real terminal, as a person uses it, and with stdin that is none."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from conftest import MODEL
from patience import PATIENCE_S, until
from terminal import ALT_ENTER, CTRL_C, CTRL_D, CTRL_R, UP, terminal

LONG_CONTEXT = ("--memory", "1GiB", "--context", "1024", "--tier", "4", "--no-self-check", "--ignore-eos")
PLAIN = "import sys; sys.modules['prompt_toolkit'] = None; from edge_runtime.__main__ import main; sys.exit(main())"


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def chat(model_bundle, tmp_path, state):
    """Opens chats in terminals: `with chat(flags) as screen`. They share a history."""
    pytest.importorskip("prompt_toolkit", reason="prompt_toolkit is not installed; its editor was NOT tested")

    @contextmanager
    def open_chat(*flags, env=None, program=("-m", "edge_runtime"), bundle=model_bundle, **size):
        command = (sys.executable, *program, "chat", str(bundle), *LONG_CONTEXT, *flags)
        with terminal(*command, cwd=tmp_path, env={"XDG_STATE_HOME": str(state), **(env or {})}, **size) as screen:
            screen.until_prompt()
            yield screen

    return open_chat


def typed(state) -> list[str]:
    """What the history has."""
    return [json.loads(line) for line in (state / "hobbit-edge/chat-history.jsonl").read_text().splitlines()]


def test_messages_are_edited_answered_and_remembered(chat, state):
    with chat("-n", "12") as screen:
        screen.send("Helo")
        screen.until("> Helo")
        screen.send("\x1b[Dl\r")  # one to the left
        screen.until("(cut after 12 tokens: /set max_tokens N allows more than 12)")
        screen.until_prompt()
        screen.send("def f(x):" + ALT_ENTER + "    return\\")
        screen.until("    return\\")
        screen.send("\r")
        until(lambda: "\\" not in screen.text())
        screen.send("1")
        screen.until("  1")
        screen.send("\r")
        screen.until("(cut after 12 tokens", times=2)
        screen.until_prompt()
        screen.send(CTRL_D)
        assert screen.wait() == 0
        assert screen.is_echoing(), "the terminal is as it was"
    assert typed(state) == ["Hello", "def f(x):\n    return\n1"]
    assert stat.S_IMODE((state / "hobbit-edge/chat-history.jsonl").stat().st_mode) == 0o600
    with chat("-n", "12", "--no-history") as screen:
        screen.send(UP)
        time.sleep(0.2)
        assert screen.until_prompt(), "nothing is looked up either"
        screen.enter("secret")
        screen.until("(cut after")
    with chat("-n", "12") as screen:
        screen.send(UP)
        screen.until("    return")
        screen.send(CTRL_C)
        screen.until_prompt()
        screen.send(CTRL_R)
        screen.until("I-search")
        screen.send("Hel")
        screen.until("Hello")
        screen.send(CTRL_C)
    assert "secret" not in typed(state)


def test_a_paste_of_any_length_is_one_message(chat, state):
    long = "".join(f"{number:05d} a line of the paste\n" for number in range(1000)).strip()
    assert len(long) > 25_000
    line = "x" * 30_000
    with chat() as screen:
        for text in (long, line):
            screen.paste(text)
            screen.send("\r")
            screen.until("It was not taken. Shorten it")
            screen.until_prompt()
            screen.send("\x0c")  # an empty screen
            until(lambda: "It was not taken" not in screen.text())
        screen.send("def f():\r    pass\r")  # a terminal that does not mark pastes
        until(lambda: len(typed(state)) == 3)
    assert typed(state) == [long, line, "def f():\n    pass"]


def test_ctrl_c_stops_an_answer_or_clears_the_line_and_the_conversation_stays(chat):
    with chat() as screen:
        screen.enter("Hello")
        until(lambda: len(screen.text()) > 120)
        screen.send(CTRL_C)
        screen.until("(stopped)")
        screen.until_prompt()
        screen.send("half a line" + CTRL_C)
        screen.until("> half a line\n>")
        screen.enter("/set max_tokens 5")
        screen.enter("And?")
        screen.until("(cut after 5 tokens")
        screen.enter("/save talk.json")
        screen.until("saved 2 turns")
        screen.enter("/exit")
        assert screen.wait() == 0


def test_what_is_typed_during_an_answer_waits_and_is_not_shown_in_it(chat):
    with chat("-n", "300") as screen:
        screen.enter("Hello")
        until(lambda: len(screen.text()) > 120)
        screen.send("typed ahead")
        screen.paste("\nand pasted\n")
        shown = screen.until("(cut after 300")
        assert "typed" not in shown.split("(cut after")[0]
        screen.until("> typed ahead\n  and pasted")
        assert screen.text().count("(cut after") == 1, "nothing was sent"


def test_the_window_may_change_its_size(chat, state):
    with chat("-n", "300", rows=30, columns=90) as screen:
        screen.send("a rather long message that needs more than one line of a narrow window")
        screen.until("narrow window")
        screen.resize(20, 40)
        screen.send(" indeed\r")
        until(lambda: typed_or_none(state))
        screen.resize(40, 120)
        screen.until("(cut after 300")
        screen.until_prompt()
        screen.send(CTRL_D)
        assert screen.wait() == 0
    assert typed(state) == ["a rather long message that needs more than one line of a narrow window indeed"]


def typed_or_none(state):
    return (state / "hobbit-edge/chat-history.jsonl").exists() and typed(state)


def test_old_turns_go_with_a_notice(chat):
    with chat("-n", "40", "--context", "160") as screen:
        for number in range(6):
            screen.enter(f"message {number} and a few words more")
            until(lambda count=number + 1: screen.raw.count(b"(cut after") >= count)
            screen.until_prompt()
        text = re.sub(r"\s+", " ", screen.raw.decode())
        assert "The context of 160 tokens is full: the model no longer sees the oldest" in text
        assert "exceed" not in text


def test_an_answer_that_fills_the_context_says_so(chat):
    with chat("--context", "64") as screen:
        screen.enter("Hello")
        screen.until("the context of 64 is full; --context N makes it larger)")


@pytest.fixture(scope="module")
def thinking_bundle(exported, tmp_path_factory):
    """A model whose prompt opens the thinking."""
    checkpoint = tmp_path_factory.mktemp("checkpoint") / "thinking"
    shutil.copytree(MODEL, checkpoint)
    template = "{% for m in messages %}{{ m.role }}: {{ m.content.split('</think>')[-1] }}\n{% endfor %}<think>\n"
    (checkpoint / "chat_template.jinja").write_text(template)
    return exported(checkpoint, "--tiers", "4", "--trunk", "int8")


def test_thinking_is_dimmed_or_named_without_colour(chat, thinking_bundle):
    with chat("-n", "20", bundle=thinking_bundle) as screen:
        screen.enter("Hello")
        screen.until("(cut after 20")
        assert b"\x1b[2m" in screen.raw
        assert "(thinking)" not in screen.text()
    with chat("-n", "20", bundle=thinking_bundle, env={"NO_COLOR": "1"}) as screen:
        screen.enter("Hello")
        screen.until("(thinking)")
        screen.until("(cut after 20")
        assert b"\x1b[2m" not in screen.raw
        screen.enter("/set reasoning off")
        screen.enter("Hello")
        screen.until("(cut after 20", times=2)
        assert screen.text().count("(thinking)") == 1


def test_a_terminal_that_is_not_utf_8(chat, state):
    with chat("-n", "5", env={"PYTHONIOENCODING": "latin-1"}) as screen:
        screen.send(b"caf\xe9\r")
        screen.until("(cut after 5")
    assert typed(state) == ["café"]
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    with chat("-n", "5", env=ascii_only) as screen:
        screen.send("café\r")
        screen.until("It was not taken.")
        screen.enter("coffee")
        screen.until("(cut after 5")
        assert "Traceback" not in screen.text()


@pytest.mark.parametrize("env", [{"TERM": "dumb"}, {"TERM": "vt100"}, {"TERM": "no-such-terminal"}])
def test_any_kind_of_terminal(chat, env):
    with chat("-n", "5", env=env) as screen:
        screen.enter("Hello")
        screen.until("(cut after 5")
        screen.send(CTRL_D)
        assert screen.wait() == 0


def test_sigterm_leaves_the_terminal_as_it_was(chat):
    for is_answering in (False, True):
        with chat() as screen:
            if is_answering:
                screen.enter("Hello")
                until(lambda screen=screen: len(screen.text()) > 120)
            assert not screen.is_echoing()
            os.kill(screen.pid, signal.SIGTERM)
            assert screen.wait() == 128 + signal.SIGTERM
            assert screen.is_echoing()
            assert "Traceback" not in screen.text()


def test_without_the_editor_plain_lines_do_and_it_says_so(chat):
    with chat("-n", "300", program=("-c", PLAIN)) as screen:
        assert "Plain lines: prompt_toolkit is missing" in screen.text()
        assert re.search(r"-m\s+pip\s+install\s+prompt_toolkit", screen.text())
        screen.enter("Hello")
        until(lambda: len(screen.text()) > 300)
        screen.send("typed ahead")
        assert "typed" not in screen.until("(cut after 300").split("(cut after")[0]
        screen.until("> typed ahead")
        screen.send(CTRL_C)
        screen.enter("/clear")
        screen.until("A new conversation.")
        screen.enter("/exit")
        assert screen.wait() == 0
        assert screen.is_echoing()


def piped(model_bundle, text: bytes, *flags: str, **how) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "edge_runtime", "chat", str(model_bundle), *LONG_CONTEXT, "-n", "5", *flags]
    return subprocess.run(command, input=text, capture_output=True, check=False, **how)


def test_messages_from_a_pipe(model_bundle, tmp_path):
    text = b'Hello\n/frob\n\xff\xfe\n"""two\nlines"""\n/set temperature x\n/save talk.json\nHello\n'
    done = piped(model_bundle, text, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    err = done.stderr.decode()
    for words in ("/frob: there is no such command", "It was not taken", "temperature: expected", "saved 2 turns"):
        assert words in err
    assert "> " not in done.stdout.decode()
    assert "Type a message" not in err
    saved = json.loads((tmp_path / "talk.json").read_text())["messages"]
    assert [message["content"] for message in saved[::2]] == ["Hello", "two\nlines"]
    again = piped(model_bundle, b"And?\n", "--load", "talk.json", "--json", cwd=tmp_path)
    alone = piped(model_bundle, b"And?\n", "--json", cwd=tmp_path)
    asked, fresh = (json.loads(each.stdout)["timings"]["prompt_n"] for each in (again, alone))
    assert asked > fresh, "the earlier turns are part of the prompt"
    assert piped(model_bundle, b"", "--load", "none.json", cwd=tmp_path).returncode == 2


def test_the_system_message_is_the_models_first(model_bundle):
    plain = piped(model_bundle, b"Hello\n", "--json")
    given = piped(model_bundle, b"Hello\n", "--json", "--system", "Be brief.")
    told = piped(model_bundle, b'/system Be brief.\nHello\n/clear\n/system ""\nHello\n', "--json")
    first, second = (json.loads(line)["timings"] for line in told.stdout.splitlines())
    for one, two in ((json.loads(given.stdout)["timings"], first), (json.loads(plain.stdout)["timings"], second)):
        assert one["prompt_n"] + one["cached_n"] == two["prompt_n"] + two["cached_n"]
    assert json.loads(given.stdout)["timings"]["prompt_n"] > json.loads(plain.stdout)["timings"]["prompt_n"]


def test_ctrl_c_ends_a_chat_that_nobody_types(model_bundle):
    command = [sys.executable, "-m", "edge_runtime", "chat", str(model_bundle), *LONG_CONTEXT]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdin.write(b"Hello\nHello\n")
    process.stdin.flush()
    assert process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert b"Traceback" not in err
