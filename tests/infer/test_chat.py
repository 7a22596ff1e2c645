"""The terminal chat against an engine that answers with what it was asked."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from hanlin.config.infer import GenerationSettings
from hanlin.errors import UserError
from hanlin.infer.chat import Chat
from hanlin.infer.generate import Answer
from hanlin.infer.stream import AnswerStream
from hanlin.types import Message


class Echo:
    """Answers with the conversation it got; remembers settings."""

    keeps_history = True

    def __init__(self, reply: str | None = None, *, endless: bool = False) -> None:
        self.asked: list[list[Message]] = []
        self.settings: list[GenerationSettings] = []
        self.reply = reply
        self.endless = endless

    def stream(self, messages: list[Message], settings: GenerationSettings) -> AnswerStream[Answer]:
        self.asked.append(list(messages))
        self.settings.append(settings)
        if messages[-1].content == "too long":
            raise UserError("the prompt", "has 999 tokens")
        text = self.reply if self.reply is not None else "re: " + messages[-1].content

        def run(emit: object, cancelled: threading.Event) -> Answer:
            given = ""
            while True:
                for character in text:
                    emit(character)  # type: ignore[operator]
                    given += character
                if not self.endless:
                    return Answer(text, 1, 1, "stop")
                time.sleep(0.001)
                if cancelled.is_set():
                    return Answer(given, 1, 1, "cancelled")

        return AnswerStream(run)


def talk(
    lines: list[str | type[BaseException]], engine: Echo | None = None, **options: object
) -> tuple[str, str, Chat]:
    """Output, notices and the chat after ``lines``; an exception class stands for a key such as Ctrl-C."""
    feed: Iterator[str | type[BaseException]] = iter(lines)

    def read(prompt: str) -> str:
        line = next(feed, EOFError)
        if isinstance(line, str):
            return line
        raise line

    out, err = io.StringIO(), io.StringIO()
    chat = Chat(
        engine or Echo(),
        options.pop("settings", GenerationSettings()),  # type: ignore[arg-type]
        read=read,
        out=Console(file=out, force_terminal=bool(options.pop("terminal", False))),
        err=Console(file=err, width=200),
        interactive=bool(options.pop("interactive", False)),
        **options,  # type: ignore[arg-type]
    )
    assert chat.run() == 0
    return out.getvalue(), err.getvalue(), chat


def contents(messages: list[Message]) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in messages]


def test_answers_are_printed_and_history_is_kept() -> None:
    engine = Echo()
    out, err, _ = talk(["你好", "again"], engine)
    assert out == "re: 你好\nre: again\n"
    assert err == ""
    assert contents(engine.asked[1]) == [("user", "你好"), ("assistant", "re: 你好"), ("user", "again")]


def test_an_empty_line_does_nothing() -> None:
    out, _, _ = talk(["", "  ", "a"])
    assert out == "re: a\n"


def test_an_empty_line_ends_when_asked_to() -> None:
    out, _, _ = talk(["a", "", "b"], end_on_empty_line=True)
    assert out == "re: a\n"


def test_clear_forgets_and_system_comes_first() -> None:
    engine = Echo()
    talk(["a", "/clear", "b", "/system Be brief.", "c", "/system", "d"], engine)
    assert [contents(asked) for asked in engine.asked] == [
        [("user", "a")],
        [("user", "b")],
        [("system", "Be brief."), ("user", "c")],
        [("user", "d")],
    ]


def test_several_lines_by_backslash_and_by_quotes() -> None:
    engine = Echo()
    talk(["one\\", "two", '"""first', "", "last", '"""', '"""alone"""'], engine)
    assert [asked[-1].content for asked in engine.asked] == ["one\ntwo", "first\n\nlast", "alone"]


def test_the_input_may_end_inside_a_block() -> None:
    engine = Echo()
    talk(['"""first', "last"], engine)
    assert engine.asked[0][-1].content == "first\nlast"


def test_exit_help_and_unknown_commands() -> None:
    engine = Echo()
    _, err, _ = talk(["/help", "/hlep", "//etc/hosts", "/exit", "never"], engine)
    assert "/save FILE" in err
    assert "/hlep is not a command; did you mean /help?" in err
    assert [asked[-1].content for asked in engine.asked] == ["/etc/hosts"]


def test_ctrl_c_stops_the_answer_and_not_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Echo("ab", endless=True)
    shown: list[str] = []
    real = Chat._show

    def show(self: Chat, piece: str) -> None:
        shown.append(piece)
        real(self, piece)
        if len(shown) == 5:
            engine.endless = False
            raise KeyboardInterrupt

    monkeypatch.setattr(Chat, "_show", show)
    out, _, chat = talk(["question", "next"], engine)
    assert out == "ababa\nab\n"
    assert contents(engine.asked[1])[0] == ("user", "question")
    assert chat.history[1].content.startswith("ababa"), "what was said stays in the history"


def test_ctrl_c_at_the_prompt_goes_on() -> None:
    out, err, _ = talk([KeyboardInterrupt, "a"])
    assert out == "re: a\n" and "/exit ends" in err


def test_an_error_is_told_and_the_question_forgotten() -> None:
    engine = Echo()
    out, err, _ = talk(["too long", "a"], engine)
    assert "has 999 tokens" in err and out == "re: a\n"
    assert contents(engine.asked[1]) == [("user", "a")]


def test_an_empty_answer_is_told_and_not_kept() -> None:
    _, err, chat = talk(["a"], Echo(""))
    assert "ended its answer at once" in err and chat.history == []


def test_save_writes_messages_and_overwrites_only_its_own(tmp_path: Path) -> None:
    other = tmp_path / "train.json"
    other.write_text("precious")
    file = tmp_path / "chat.json"
    _, err, _ = talk(["你好", f"/save {file}", "b", f"/save {file}", f"/save {other}", "/save", "/save /no/such/x"])
    saved = json.loads(file.read_text(encoding="utf-8"))
    assert [turn["content"] for turn in saved[0]["messages"]] == ["你好", "re: 你好", "b", "re: b"]
    assert other.read_text() == "precious" and "exists already" in err
    assert "needs a file name" in err and "cannot be written" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chat.json", "train.json"]


def test_control_characters_do_not_reach_a_terminal() -> None:
    out, _, _ = talk(["a"], Echo("x\x1b]0;title\x07y\tz\n"), terminal=True)
    assert "\x1b]0" not in out and "\x07" not in out and "x]0;titley" in out
    piped, _, _ = talk(["a"], Echo("x\x1by"))
    assert "x\x1by" in piped, "a file gets the text as it is"


def test_markup_in_answers_is_text() -> None:
    out, _, _ = talk(["a"], Echo("[bold]not markup[/bold] :smile:"))
    assert out == "[bold]not markup[/bold] :smile:\n"


def test_a_seed_moves_on_with_each_turn() -> None:
    engine = Echo()
    talk(["a", "b", "/clear", "c"], engine, settings=GenerationSettings(seed=5))
    assert [settings.seed for settings in engine.settings] == [5, 6, 5]


def test_input_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(UserError, match="UTF-8"):
        talk(["\udce4"])


def test_a_long_answer_is_not_wrapped() -> None:
    long = "长" * 500
    out, _, _ = talk(["a"], Echo(long))
    assert out == long + "\n"
