"""Parts of `hobbit chat` that need neither terminal nor model."""

from __future__ import annotations

import io
import json
import stat

import pytest

from edge_runtime.base.errors import ContextExceededError, RequestError
from edge_runtime.cli.chat.answer import Answer
from edge_runtime.cli.chat.commands import COMMANDS, split
from edge_runtime.cli.chat.conversation import Conversation, Turn, fit
from edge_runtime.cli.chat.history import HistoryFile
from edge_runtime.cli.chat.readers import StreamReader
from edge_runtime.cli.chat.saved import load, save
from edge_runtime.cli.chat.settings import ChatSettings
from edge_runtime.cli.chat.terminal import Terminal
from edge_runtime.engine.sampler import SamplingParams
from edge_runtime.service.openai.output_splitter import OutputSplitter


def of_turns(count: int) -> Conversation:
    return Conversation("s", [Turn(f"q{number}", f"a{number}") for number in range(count)])


def by_words(context: int):
    """An encoder of ten tokens a message."""

    def encode(messages):
        if 10 * len(messages) > context:
            raise ContextExceededError("too long")
        return str([message["content"] for message in messages]), [0] * (10 * len(messages))

    return encode


def test_a_conversation_that_fits_is_whole():
    fitted = fit(of_turns(3), "q3", by_words(1000), context=1000, max_tokens=None)
    assert fitted.left_out == 0
    assert fitted.prompt == "['s', 'q0', 'a0', 'q1', 'a1', 'q2', 'a2', 'q3']"


@pytest.mark.parametrize(("max_tokens", "expected"), [(None, 3), (4, 2), (100, 3)])
def test_the_oldest_turns_go_when_the_context_is_full_and_the_system_message_stays(max_tokens, expected):
    """Context 96: a quarter for the answer (or 4), an eighth more once turns go: 60 (80) tokens at most."""
    fitted = fit(of_turns(5), "q5", by_words(96), context=96, max_tokens=max_tokens)
    assert fitted.left_out == expected
    assert len(fitted.ids) <= 96 - min(max_tokens or 96, 24) - 12
    assert fitted.prompt.startswith(f"['s', 'q{expected}'")
    assert fitted.prompt.endswith("'q5']")


def test_turns_that_went_stay_away_and_the_next_message_moves_nothing():
    conversation = of_turns(5)
    conversation.left_out = fit(conversation, "q5", by_words(96), context=96, max_tokens=None).left_out
    conversation.turns.append(Turn("q5", "a5"))
    again = fit(conversation, "q6", by_words(96), context=96, max_tokens=None)
    assert again.left_out >= conversation.left_out
    conversation.turns.clear()
    conversation.clear()
    assert fit(conversation, "q", by_words(96), context=96, max_tokens=None).left_out == 0


def test_a_message_that_does_not_fit_alone_is_refused_and_one_that_nearly_fills_it_is_not():
    with pytest.raises(ContextExceededError):
        fit(of_turns(3), "q", by_words(15), context=15, max_tokens=None)
    assert len(fit(of_turns(3), "q", by_words(20), context=20, max_tokens=None).ids) == 20


def test_reasoning_goes_to_the_template_under_its_own_name():
    conversation = Conversation(None, [Turn("q", "a", "hm"), Turn("p", "b")])
    assert conversation.messages("z", 0) == [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a", "reasoning_content": "hm"},
        {"role": "user", "content": "p"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "z"},
    ]


@pytest.mark.parametrize("text", ["/etc/passwd is readable", "/* a comment */", "/ x", "no", "/foo\nbar", "a /help"])
def test_what_only_begins_like_a_command_is_a_message(text):
    assert split(text) == text


def test_commands_and_their_other_names():
    assert split("/system be brief\nand kind") == (COMMANDS["system"], "be brief\nand kind")
    assert split("/RESET") == split("/clear") == (COMMANDS["clear"], "")
    assert split("/quit") == split("/exit") == (COMMANDS["exit"], "")
    assert split("//help me") == "/help me"


@pytest.mark.parametrize(("text", "hint"), [("/hlep", "'/help'"), ("/sav x", "'/save'"), ("/Lod", "'/load'")])
def test_an_unknown_command_is_refused_with_a_suggestion(text, hint):
    with pytest.raises(RequestError, match=rf"no such command. Did you mean {hint}"):
        split(text)
    with pytest.raises(RequestError, match="as a message: //qqqq"):
        split("/qqqq")


def test_settings_change_and_show_every_parameter():
    settings = ChatSettings(SamplingParams())
    assert settings.change("temperature", "0.7") == "temperature: 0.7"
    assert settings.change("--top-k", "40") == "top_k: 40"
    assert settings.change("max_tokens", "9") == "max_tokens: 9"
    assert settings.change("max_tokens", "none") == "max_tokens: none"
    assert settings.change("seed", "3") == "seed: 3"
    assert settings.change("stop", "END\\n") == "stop: 'END\\n'"
    assert settings.change("ignore_eos", "on") == "ignore_eos: on"
    assert settings.change("reasoning", "off") == "reasoning: off"
    assert settings.params == SamplingParams(temperature=0.7, top_k=40, seed=3, stop=("END\n",), ignore_eos=True)
    assert settings.looks == {"reasoning": False, "stats": False}
    shown = "\n".join(settings.lines())
    assert all(name in shown for name in settings.names)
    assert {"temperature", "top_p", "min_p", "repetition_penalty", "max_tokens", "stats"} <= set(settings.names)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("temprature", "1", "Did you mean 'temperature'"),
        ("top_k", "many", "top_k: expected a whole number, got 'many'"),
        ("seed", "x", "a whole number, or none"),
        ("temperature", "-1", "temperature: expected 0 to 100"),
        ("stats", "maybe", "stats: expected on or off"),
    ],
)
def test_a_wrong_setting_is_named_and_changes_nothing(name, value, message):
    settings = ChatSettings(SamplingParams())
    with pytest.raises(RequestError, match=message):
        settings.change(name, value)
    assert settings.params == SamplingParams()


def test_a_saved_conversation_comes_back_and_is_its_owners_alone(tmp_path):
    path = tmp_path / "talk.json"
    conversation = Conversation("be kind", [Turn("q", "ä\n", "hm"), Turn("p", "b")], left_out=1)
    for _ in range(2):  # the second replaces the first
        save(conversation, str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load(str(path)) == Conversation("be kind", conversation.turns)
    save(Conversation(), str(path))
    assert load(str(path)) == Conversation()
    assert [p.name for p in tmp_path.iterdir()] == ["talk.json"]


def test_another_file_is_never_replaced(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RequestError, match="exists and is no saved conversation"):
        save(Conversation(), str(tmp_path / "notes.txt"))
    assert (tmp_path / "notes.txt").read_text() == "mine"
    for place in (tmp_path, tmp_path / "no/where.json"):
        with pytest.raises(RequestError, match="save: "):
            save(Conversation(), str(place))


USER = {"role": "user", "content": "q"}


@pytest.mark.parametrize(
    "data",
    [
        "{", "[]", "[" * 100_000, {}, {"format": "hobbit-chat-1"}, {"format": "hobbit-chat-1", "messages": [USER]},
        {"format": "hobbit-chat-1", "messages": [USER, USER]},
        {"format": "hobbit-chat-1", "messages": [USER, {"role": "assistant"}]},
        {"format": "hobbit-chat-1", "messages": [USER, {"role": "assistant", "content": 3}]},
        {"format": "hobbit-chat-1", "messages": ["x", "y"]},
        {"format": "hobbit-chat-2", "messages": []},
    ],
)  # fmt: skip
def test_what_is_no_conversation_is_refused(tmp_path, data):
    path = tmp_path / "talk.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    with pytest.raises(RequestError, match=f"load: {path}: expected a file that /save wrote"):
        load(str(path))


def test_what_is_no_file_is_refused(tmp_path):
    for path, found in ((tmp_path, "a folder"), (tmp_path / "x", "nothing"), ("/dev/zero", "something else")):
        with pytest.raises(RequestError, match=f"found {found}"):
            load(str(path))
    (tmp_path / "huge").write_bytes(b" " * ((16 << 20) + 1))
    with pytest.raises(RequestError, match="at most 16 MiB"):
        load(str(tmp_path / "huge"))


def test_history_is_kept_for_its_owner_alone_and_bounded(tmp_path):
    path = tmp_path / "state" / "history"
    history = HistoryFile(path)
    for text in ("one", "two\nlines", "ü", "x" * 100_000):
        history.add(text)
    assert history.read() == ["one", "two\nlines", "ü"], "what is too long is left out"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.chmod(0o644)
    with open(path, "ab") as file:
        file.write(b'damaged\n"' + b"\xff" * 9 + b'"\n7\n"half')
    history.add("after")
    assert history.read()[:3] == ["one", "two\nlines", "ü"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for number in range(2100):
        history.add(str(number))
    assert history.read()[-1] == "2099"
    assert len(history.read()) == 1000
    assert len(path.read_bytes().splitlines()) == 1000, "the file is cut as well"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_history_that_cannot_be_kept_is_none(tmp_path):
    (tmp_path / "file").touch()
    for path in (None, tmp_path / "file/history", tmp_path):
        history = HistoryFile(path)
        history.add("x")
        assert history.read() == []
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    HistoryFile(tmp_path / "link").add("x")
    assert not (tmp_path / "elsewhere").exists(), "a link is not followed"


def test_a_stream_gives_a_message_a_line_and_blocks_whole():
    stream = io.StringIO('one\n\n"""two\n  three\n"""\n"""four""" rest\n/stats\n"""open\nend')
    reader = StreamReader(stream)
    assert [reader.read() for _ in range(7)] == ["one", "", "two\n  three", "four", "/stats", "open\nend", None]


def test_bytes_that_are_no_text_cost_one_message():
    stream = io.TextIOWrapper(io.BytesIO(b"one\n\xff\xfe bad\ntwo\n"), encoding="utf-8")
    reader = StreamReader(stream)
    assert reader.read() == "one"
    with pytest.raises(RequestError, match="not taken"):
        reader.read()
    assert reader.read() == "two"


class Stream(io.StringIO):
    def __init__(self, *, is_tty: bool) -> None:
        super().__init__()
        self.is_tty = is_tty

    def isatty(self) -> bool:
        return self.is_tty


def shown(capsys, *, is_tty: bool, environment=None, **how) -> tuple[Answer, str, str]:
    out = Stream(is_tty=is_tty)
    screen = Terminal(Stream(is_tty=is_tty), out, {"TERM": "xterm"} | (environment or {}))
    answer = Answer(screen, OutputSplitter(with_calls=False, with_thinking=True, thinking=True), **how)
    for text in ("hm ", "so</th", "ink>\n\nYes.\x1b[2J", "\r\x9b1m\n"):
        answer.push(text)
    answer.end()
    assert (answer.reasoning, answer.text) == ("hm so", "Yes.\x1b[2J\r\x9b1m\n")
    return answer, out.getvalue(), capsys.readouterr().err


def test_reasoning_is_dimmed_on_a_terminal_and_nothing_there_drives_it(capsys):
    _, out, err = shown(capsys, is_tty=True)
    assert out == "\x1b[2mhm \x1b[0m\x1b[2mso\x1b[0m\x1b[2m\n\n\x1b[0mYes.[2J1m\n\n"
    assert err == ""


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_without_style_words_set_it_apart(capsys, environment):
    _, out, _ = shown(capsys, is_tty=True, environment=environment)
    assert out == "(thinking)\nhm so\n(answer)\nYes.[2J1m\n\n"


def test_in_a_file_the_answer_stands_alone_as_the_model_wrote_it(capsys):
    _, out, err = shown(capsys, is_tty=False)
    assert out == "Yes.\x1b[2J\r\x9b1m\n\n"
    assert err == "(thinking)\nhm so\n(answer)\n"


def test_reasoning_and_answers_may_be_hidden(capsys):
    assert shown(capsys, is_tty=True, shows_reasoning=False)[1] == "Yes.[2J1m\n\n"
    assert shown(capsys, is_tty=True, is_shown=False)[1:] == ("", "")
