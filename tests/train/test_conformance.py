"""A named template against the checkpoint's own chat template, and the stop that generation uses."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hanlin.errors import UserError
from hanlin.template import CHAT_TEMPLATE, Renderer
from hanlin.tokens.encode import open_renderer
from hanlin.train.conformance import check_stop, configured_stops, differences, settle_template
from hanlin.types import Segment
from hanlin.vocab.tokenizer import TextTokenizer
from hanlin.vocab.train import train_byte_level

TEXT = ["The fox saw the dog again and again.", "学而时习之，不亦说乎。", "system user assistant"]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tokenizer_with(chat_template: str | None) -> TextTokenizer:
    tokens = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
    tokenizer = train_byte_level(TEXT * 3, 262, special_tokens=tokens)
    tokenizer.hf.eos_token = "<|endoftext|>"
    tokenizer.hf.chat_template = chat_template
    return tokenizer


class Settled:
    """What came of a comparison."""

    def __init__(self, chat_template: str | None, name: str, choice: Any, system: str | None = None) -> None:
        self.tokenizer = tokenizer_with(chat_template)
        self.stream = io.StringIO()
        self.named = open_renderer(name, self.tokenizer, system=system)
        console = Console(file=self.stream, width=120)
        self.error: UserError | None = None
        self.renderer: Renderer | None = None
        try:
            self.renderer = settle_template(self.named, self.tokenizer, system=system, choice=choice, console=console)
        except UserError as error:
            self.error = error

    @property
    def printed(self) -> str:
        return self.stream.getvalue()


@pytest.mark.parametrize("choice", ["stop", "named", "own"])
def test_the_same_tokens_are_no_difference(choice: str) -> None:
    """The line break after the last stop, which the own template alone writes, is not one."""
    settled = Settled(CHATML, "yi", choice)
    assert settled.renderer is settled.named
    assert settled.printed == ""


def test_without_an_own_template_there_is_nothing_to_compare() -> None:
    settled = Settled(None, "yi", "stop")
    assert settled.renderer is settled.named
    assert settled.printed == ""


def test_the_own_template_is_not_compared_with_itself() -> None:
    settled = Settled(CHATML, CHAT_TEMPLATE, "stop")
    assert settled.renderer is settled.named


def test_a_difference_stops_the_run_and_is_shown() -> None:
    settled = Settled(CHATML, "qwen", "stop")
    assert settled.error is not None
    assert str(settled.error).startswith("--template: qwen writes other tokens than the checkpoint's own chat template")
    assert "--on_template_difference named" in str(settled.error)
    assert "a question and its answer, two turns" in str(settled.error), "the system text makes them alike"
    assert "Tokens of two turns" in settled.printed
    assert "\x1b" not in settled.printed, "no colour where there is no terminal"
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in settled.printed.splitlines() if "│" in line]
    system_row = next(row for row in rows if "'system'" in row[1] or "'s'" in row[1])
    assert system_row[1] != system_row[2], "where the default system text begins"


def test_the_user_chooses() -> None:
    named, own = (Settled(CHATML, "qwen", choice) for choice in ("named", "own"))
    assert named.renderer is named.named
    assert own.renderer is not None and own.renderer.name == CHAT_TEMPLATE
    for settled in (named, own):
        assert "Tokens of two turns" in settled.printed
        assert "by --on_template_difference" in settled.printed


def test_the_system_setting_is_given_to_both() -> None:
    assert Settled(CHATML, "qwen", "stop", system="be kind").error is None
    assert Settled(CHATML, "qwen", "stop", system="").error is not None, "the own one writes an empty system turn"


def test_an_own_template_that_cannot_be_trained_with() -> None:
    """GLM-4's ends an answer by the next question's mark."""
    source = "{% for m in messages %}{{ m.role + m.content }}{% endfor %}"
    settled = Settled(source, "yi", "stop")
    assert settled.renderer is settled.named
    assert "cannot be compared with yi" in settled.printed
    assert "no stop token" in settled.printed
    refused = Settled(source, "yi", "own")
    assert refused.error is not None and "no stop token" in str(refused.error)


def test_a_template_that_refuses_system_texts_is_compared_without() -> None:
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + CHATML
    assert Settled(refusing, "yi", "stop").error is None


def test_one_token_is_enough_for_a_difference() -> None:
    tokenizer = tokenizer_with(CHATML.replace("+ m.content", "+ ' ' + m.content"))
    found = list(differences(open_renderer("yi", tokenizer), open_renderer(CHAT_TEMPLATE, tokenizer), tokenizer))
    assert len(found) == 3
    assert all(item.named != item.own for item in found)


# --- the stop ---------------------------------------------------------------------------------------------------------


def checked(tokenizer: TextTokenizer, renderer: Renderer, folder: Path, eos: Any) -> str:
    """What ``check_stop`` prints for a checkpoint whose generation settings say ``eos``."""
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))
    stream = io.StringIO()
    check_stop(renderer, tokenizer, folder, Console(file=stream, width=300))
    return stream.getvalue()


def test_a_trained_stop_is_quiet(tmp_path: Path) -> None:
    tokenizer = tokenizer_with(None)
    end, text_end = tokenizer.special_id("<|im_end|>"), tokenizer.special_id("<|endoftext|>")
    for name, eos in (("chatml", text_end), ("chatml", [end]), ("yi", [7, end]), ("default", None)):
        assert checked(tokenizer, open_renderer(name, tokenizer), tmp_path, eos) == "", name


def test_a_stop_that_other_programs_do_not_know_is_said(tmp_path: Path) -> None:
    tokenizer = tokenizer_with(None)
    end, text_end = tokenizer.special_id("<|im_end|>"), tokenizer.special_id("<|endoftext|>")
    for eos in (text_end, None):
        line = checked(tokenizer, open_renderer("yi", tokenizer), tmp_path, eos)
        assert f"stop at <|im_end|> ({end})" in line
        assert f"where the checkpoint stops at <|endoftext|> ({text_end})" in line
        assert f'"eos_token_id": {json.dumps([end, text_end])}' in line


class WithoutStop:
    """A renderer as a careless extension might write it: no stop after the answer."""

    name, system, tokens = "careless", None, ()

    def __init__(self, *stop: str) -> None:
        self.stop = stop

    def render(self, conversation: Any, *, add_generation_prompt: bool = False) -> list[Segment]:
        return [Segment(m.content, m.role == "assistant", message=i) for i, m in enumerate(conversation.messages)]


def test_a_run_that_teaches_no_stop_does_not_start(tmp_path: Path) -> None:
    tokenizer = tokenizer_with(None)
    for stop in ((), ("<|im_end|>",), ("###",)):
        with pytest.raises(UserError, match=r"^--template: careless trains none of the tokens .*<\|endoftext\|>"):
            checked(tokenizer, WithoutStop(*stop), tmp_path, None)


@pytest.mark.parametrize("text", ["", "[1]", '{"eos_token_id": "x"}', '{"eos_token_id": true}', "{}"])
def test_settings_of_generation_that_say_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "generation_config.json").write_text(text)
    assert configured_stops(tmp_path) == []
    assert configured_stops(tmp_path / "missing") == []
    assert configured_stops(None) == []
