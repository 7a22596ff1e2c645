"""Every named template against renderings made by hand: the reference cases of the specification, and plain functions.

Nothing of the package writes the expected ids: text is one id a byte, and special tokens have their numbers.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

import pytest

from every_token import FIRST_BYTE, NUMBERS, SPECIAL, EveryToken, bytes_of
from hanlin.errors import UserError
from hanlin.template import TEMPLATES, resolve_renderer
from hanlin.tokens.encode import encode_conversation, encode_prompt
from hanlin.types import Conversation, Message, Place

TOKENIZER = EveryToken()
BOS, EOS = 1, 2
Turns = Sequence[tuple[str, str]]


def talk(system: str | None, turns: Turns) -> Conversation:
    messages = [] if system is None else [Message("system", system)]
    for question, answer in turns:
        messages += [Message("user", question), Message("assistant", answer)]
    return Conversation(tuple(messages), Place("rows.jsonl", line=7))


# --- The reference cases ---------------------------------------------------------------------------------------------

CASES = {
    "default": [
        "SYS\n\n### Human:\nQ1\n\n### Assistant:\n⟦R1⟨eos⟩⟧",
        "SYS\n\n### Human:\nQ1\n\n### Assistant:\nR1\n\n### Human:\nQ2\n\n### Assistant:\n⟦R2⟨eos⟩⟧",
    ],
    "default-generation": ["Q1⟦R1⟨eos⟩⟧", None],
    "chatml": [
        "<|im_start|>system\nSYS<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n"
        "⟦R1<|im_end|><|endoftext|>⟧",
        "<|im_start|>system\nSYS<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\nR1<|im_end|>\n"
        "<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\n⟦R2<|im_end|><|endoftext|>⟧",
    ],
    "baichuan": ["⟨195⟩Q1⟨196⟩⟦R1⟨eos⟩⟧", "⟨195⟩Q1⟨196⟩R1⟨195⟩Q2⟨196⟩⟦R2⟨eos⟩⟧"],
    "chatglm2": [
        "⟨64790⟩⟨64792⟩[Round 1]\n\n问：Q1\n\n答：⟦R1⟨eos⟩⟧",
        "⟨64790⟩⟨64792⟩[Round 1]\n\n问：Q1\n\n答：R1\n\n[Round 2]\n\n问：Q2\n\n答：⟦R2⟨eos⟩⟧",
    ],
    "chatglm2-generation": ["⟨64790⟩⟨64792⟩Q1⟦R1⟨eos⟩⟧", None],
    "llama": [
        "⟨bos⟩[INST] <<SYS>>\nSYS\n<</SYS>>\n\nQ1 [/INST] ⟦R1⟨eos⟩⟧",
        "⟨bos⟩[INST] <<SYS>>\nSYS\n<</SYS>>\n\nQ1 [/INST] R1 ⟨eos⟩⟨bos⟩[INST] Q2 [/INST] ⟦R2⟨eos⟩⟧",
    ],
    "openbuddy": [
        "SYS\n\nUser: Q1\nAssistant: ⟦R1⟨eos⟩⟧",
        "SYS\n\nUser: Q1\nAssistant: R1\nUser: Q2\nAssistant: ⟦R2⟨eos⟩⟧",
    ],
    "internlm": [
        "<s><|User|>:Q1<eoh>\n<|Bot|>:⟦R1<eoa></s>⟧",
        "<s><|User|>:Q1<eoh>\n<|Bot|>:R1<eoa>\n<|User|>:Q2<eoh>\n<|Bot|>:⟦R2<eoa></s>⟧",
    ],
    "xverse": [
        "Human: Q1\n\nAssistant: ⟦R1⟨eos⟩⟧",
        "Human: Q1\n\nAssistant: R1⟨eos⟩Human: Q2\n\nAssistant: ⟦R2⟨eos⟩⟧",
    ],
    "ziya": [
        "⟨bos⟩<human>:Q1\n<bot>:⟦R1⟨eos⟩⟧",
        "⟨bos⟩<human>:Q1\n<bot>:R1\n<human>:Q2\n<bot>:⟦R2⟨eos⟩⟧",
    ],
}
"""Section 2.4 of the specification of the registry, letter by letter; None: several turns are an error."""

LATER_CASES = {
    "chatml-newline": [
        "<|im_start|>system\nSYS<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n"
        "⟦R1<|im_end|>\n<|endoftext|>⟧",
        "<|im_start|>system\nSYS<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\nR1<|im_end|>\n"
        "<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\n⟦R2<|im_end|>\n<|endoftext|>⟧",
    ],
    "internlm-newline": [
        "<s><|User|>:Q1<eoh>\n<|Bot|>:⟦R1<eoa>\n</s>⟧",
        "<s><|User|>:Q1<eoh>\n<|Bot|>:R1<eoa>\n<|User|>:Q2<eoh>\n<|Bot|>:⟦R2<eoa>\n</s>⟧",
    ],
    "chatglm-generation": ["⟨64790⟩⟨64792⟩Q1⟦R1⟨eos⟩⟧", None],
    "chatglm3": [
        "⟨64790⟩⟨64792⟩⟨64795⟩\n Q1⟨64796⟩\n ⟦R1⟨eos⟩⟧",
        "⟨64790⟩⟨64792⟩⟨64795⟩\n Q1⟨64796⟩\n R1⟨64795⟩\n Q2⟨64796⟩\n ⟦R2⟨eos⟩⟧",
    ],
    "skywork": ["</s><s>[USER]Q1[SEP][BOT]⟦R1[SEP]</s>⟧", None],
    "tigerbot": [
        "\n\n### Instruction:\nQ1\n\n### Response:\n⟦R1⟨eos⟩⟧",
        "\n\n### Instruction:\nQ1\n\n### Response:\nR1\n\n### Instruction:\nQ2\n\n### Response:\n⟦R2⟨eos⟩⟧",
    ],
}
"""Appendix A, written out in the same way."""

CONTROL = re.compile(r"<\|im_start\|>|<\|im_end\|>|<\|endoftext\|>|</?s>|<eo[ha]>|\[(?:USER|BOT|SEP)\]|⟨(\w+)⟩|[⟦⟧]")


def read_case(case: str) -> tuple[list[int], list[int]]:
    """Ids and labels of the notation: ``⟨x⟩`` is an explicit token, ``⟦`` and ``⟧`` enclose what is labelled."""
    ids: list[int] = []
    labels: list[int] = []
    labelled, start = False, 0
    for match in [*CONTROL.finditer(case), None]:
        new = bytes_of(case[start : match.start() if match else len(case)])
        mark = match.group() if match else ""
        if match and match[1]:
            new.append({"bos": BOS, "eos": EOS}.get(match[1]) or int(match[1]))
        elif mark and mark not in "⟦⟧":
            new.append(NUMBERS[mark])
        ids += new
        labels += new if labelled else [-100] * len(new)
        labelled = {"⟦": True, "⟧": False}.get(mark, labelled)
        start = match.end() if match else len(case)
    return ids, labels


def test_the_notation_is_read_right() -> None:
    ids, labels = read_case("⟨195⟩Q⟨196⟩⟦R⟨eos⟩⟧")
    assert ids == [195, FIRST_BYTE + ord("Q"), 196, FIRST_BYTE + ord("R"), 2]
    assert labels == [-100, -100, -100, FIRST_BYTE + ord("R"), 2]


@pytest.mark.parametrize("name", [*CASES, *LATER_CASES])
def test_reference_cases(name: str) -> None:
    """Ids and labels of one and two turns, the last answer trained, as in 2023."""
    one, two = {**CASES, **LATER_CASES}[name]
    renderer = resolve_renderer(name, chat_template=None, special=SPECIAL)
    turns = [("Q1", "R1"), ("Q2", "R2")]
    assert one is not None
    system = "SYS" if "SYS" in one else None
    encoded = encode_conversation(talk(system, turns[:1]), renderer, TOKENIZER, train_on="last")
    assert (encoded.ids, encoded.labels) == read_case(one)
    if two is None:
        with pytest.raises(UserError, match=r"rows\.jsonl:7: template .*: there are 2 questions"):
            encode_conversation(talk(system, turns), renderer, TOKENIZER)
    else:
        encoded = encode_conversation(talk(system, turns), renderer, TOKENIZER, train_on="last")
        assert (encoded.ids, encoded.labels) == read_case(two)


# --- Plain functions -------------------------------------------------------------------------------------------------


class Row:
    """Ids and labels that a rendering function writes."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.labels: list[int] = []

    def read(self, *parts: str | int) -> None:
        """Text, and tokens by number, that are not trained."""
        for part in parts:
            new = bytes_of(part) if isinstance(part, str) else [part]
            self.ids += new
            self.labels += [-100] * len(new)

    def trained(self, *parts: str | int) -> None:
        for part in parts:
            new = bytes_of(part) if isinstance(part, str) else [part]
            self.ids += new
            self.labels += new


Render = Callable[[Row, str, Turns], None]
SWIFT_SYSTEM = "you are a helpful assistant!"
START, END, TEXT_END, SEPARATOR = 310, 311, 306, 312
THINK, INST = 360, 362
SYSTEM_MARK, USER_MARK, ASSISTANT_MARK = 64794, 64795, 64796


def plain(before: Callable[[str], str], after: str, *, bos: bool = False, header: str = "%s\n\n") -> Render:
    """Text around question and answer; ``after`` stands between an answer and the next question, EOS at the end."""

    def render(row: Row, system: str, turns: Turns) -> None:
        if bos:
            row.read(BOS)
        if system:
            row.read(header % system)
        for number, (question, answer) in enumerate(turns, start=1):
            row.read(before(question))
            row.trained(answer)
            if number < len(turns):
                row.read(after)
        row.trained(EOS)

    return render


def chatml_of(*last: str | int, bos: bool = False) -> Render:
    def render(row: Row, system: str, turns: Turns) -> None:
        if bos:
            row.read(BOS)
        if system:
            row.read(START, f"system\n{system}", END, "\n")
        for number, (question, answer) in enumerate(turns, start=1):
            row.read(START, f"user\n{question}", END, "\n", START, "assistant\n")
            row.trained(answer, END)
            if number < len(turns):
                row.read("\n")
        row.trained(*last)

    return render


def alpaca(row: Row, system: str, turns: Turns) -> None:
    row.read(BOS, f"{system}\n\n" if system else "")
    for number, (question, answer) in enumerate(turns):
        row.read("\n\n" if number else "", f"### Instruction:\n{question}\n\n### Response: ")
        row.trained(answer, EOS)


def llama_of(after_inst: str, before_eos: str | None) -> Render:
    """``before_eos`` None: the EOS of every turn is trained; else text before an EOS that only the last one trains."""

    def render(row: Row, system: str, turns: Turns) -> None:
        block = f"<<SYS>>\n{system}\n<</SYS>>\n\n" if system else ""
        for number, (question, answer) in enumerate(turns, start=1):
            row.read(BOS, f"[INST] {block}{question} [/INST]{after_inst}")
            row.trained(answer)
            if number == len(turns) or before_eos is None:
                row.trained(EOS)
            else:
                row.read(before_eos, EOS)
            block = ""

    return render


def baichuan(row: Row, system: str, turns: Turns) -> None:
    row.read(system)
    for question, answer in turns:
        row.read(195, question, 196)
        row.trained(answer)
    row.trained(EOS)


def chatglm2(row: Row, system: str, turns: Turns) -> None:
    row.read(64790, 64792, system)
    for number, (question, answer) in enumerate(turns, start=1):
        row.read("\n\n" if number > 1 else "", f"[Round {number}]\n\n问：{question}\n\n答：")
        row.trained(answer)
    row.trained(EOS)


def chatglm3(row: Row, system: str, turns: Turns) -> None:
    row.read(64790, 64792)
    if system:
        row.read(64794, f"\n {system}")
    for question, answer in turns:
        row.read(64795, f"\n {question}", 64796, "\n ")
        row.trained(answer)
    row.trained(EOS)


def generation_of(*prefix: int) -> Render:
    def render(row: Row, system: str, turns: Turns) -> None:
        ((question, answer),) = turns
        row.read(*prefix, question)
        row.trained(answer, EOS)

    return render


def internlm_of(*last: str | int) -> Render:
    def render(row: Row, system: str, turns: Turns) -> None:
        row.read(BOS, f"<|System|>:{system}\n" if system else "")
        for number, (question, answer) in enumerate(turns, start=1):
            row.read(f"<|User|>:{question}", 301, "\n<|Bot|>:")
            row.trained(answer, 302)
            if number < len(turns):
                row.read("\n")
        row.trained(*last)

    return render


def xverse(row: Row, system: str, turns: Turns) -> None:
    row.read(system)
    for question, answer in turns:
        row.read(f"Human: {question}\n\nAssistant: ")
        row.trained(answer, EOS)


def skywork(row: Row, system: str, turns: Turns) -> None:
    ((question, answer),) = turns
    if system:
        row.read(BOS, system)
    row.read(EOS, BOS, 303, question, 305, 304)
    row.trained(answer, 305, EOS)


def llama3(row: Row, system: str, turns: Turns) -> None:
    row.read(BOS)
    for role, text in [("system", system)] * bool(system):
        row.read(320, role, 321, f"\n\n{text}", 322)
    for question, answer in turns:
        row.read(320, "user", 321, f"\n\n{question}", 322, 320, "assistant", 321, "\n\n")
        row.trained(answer, 322)


def mistral(row: Row, system: str, turns: Turns) -> None:
    row.read(BOS)
    for number, (question, answer) in enumerate(turns):
        first = f"{system}\n\n" if system and not number else ""
        row.read(f"[INST] {first}{question} [/INST]")
        row.trained(answer, EOS)


def llama31(row: Row, system: str, turns: Turns) -> None:
    """As Llama 3, with a header in any case."""
    row.read(
        BOS, 320, "system", 321, "\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n", system, 322
    )
    for question, answer in turns:
        row.read(320, "user", 321, f"\n\n{question}", 322, 320, "assistant", 321, "\n\n")
        row.trained(answer, 322)


def mistral_v3(row: Row, system: str, turns: Turns) -> None:
    row.read(BOS)
    for number, (question, answer) in enumerate(turns, start=1):
        last = f"{system}\n\n" if system and number == len(turns) else ""
        row.read(INST, f"{last}{question}", INST + 1)
        (row.read if system and number < len(turns) else row.trained)(answer, EOS)


def qwen3(row: Row, system: str, turns: Turns) -> None:
    if system:
        row.read(START, f"system\n{system}", END, "\n")
    for number, (question, answer) in enumerate(turns, start=1):
        row.read(START, f"user\n{question}", END, "\n", START, "assistant\n")
        if number < len(turns):
            row.read(answer, END, "\n")
        else:
            row.read(THINK, "\n\n", THINK + 1, "\n\n")
            row.trained(answer, END)


def gemma(row: Row, system: str, turns: Turns) -> None:
    row.read(BOS)
    for number, (question, answer) in enumerate(turns):
        first = f"{system}\n\n" if system and not number else ""
        row.read("\n" if number else "", 330, f"user\n{first}{question}", 331, "\n", 330, "model\n")
        row.trained(answer, 331)


def phi3(row: Row, system: str, turns: Turns) -> None:
    if system:
        row.read(SYSTEM_MARK, f"\n{system}", 332, "\n")
    for number, (question, answer) in enumerate(turns):
        row.read("\n" if number else "", USER_MARK, f"\n{question}", 332, "\n", ASSISTANT_MARK, "\n")
        row.trained(answer, 332)


def phi4(row: Row, system: str, turns: Turns) -> None:
    if system:
        row.read(START, "system", SEPARATOR, system, END)
    for question, answer in turns:
        row.read(START, "user", SEPARATOR, question, END, START, "assistant", SEPARATOR)
        row.trained(answer, END)


def deepseek_v3(row: Row, system: str, turns: Turns) -> None:
    row.read(BOS, system)
    for question, answer in turns:
        row.read(340, question, 341)
        row.trained(answer, EOS)


def glm4(row: Row, system: str, turns: Turns) -> None:
    """The user's mark ends an answer and begins the next question: it is trained as the end."""
    row.read(64790, 333)
    if system:
        row.read(SYSTEM_MARK, f"\n{system}")
    row.read(USER_MARK)
    for question, answer in turns:
        row.read(f"\n{question}", ASSISTANT_MARK, "\n")
        row.trained(answer, USER_MARK)


def zephyr(row: Row, system: str, turns: Turns) -> None:
    if system:
        row.read(SYSTEM_MARK, f"\n{system}", EOS, "\n")
    for number, (question, answer) in enumerate(turns):
        row.read("\n" if number else "", USER_MARK, f"\n{question}", EOS, "\n", ASSISTANT_MARK, "\n")
        row.trained(answer, EOS)


def vicuna(row: Row, system: str, turns: Turns) -> None:
    row.read(BOS, f"{system} " if system else "")
    for question, answer in turns:
        row.read(f"USER: {question} ASSISTANT:")
        row.trained(answer, EOS)


def command_r(row: Row, system: str, turns: Turns) -> None:
    row.read(BOS)
    if system:
        row.read(350, 352, system, 351)
    for question, answer in turns:
        row.read(350, 353, question, 351, 350, 354)
        row.trained(answer, 351)


RENDERINGS: dict[str, tuple[str, Render]] = {
    "alpaca": (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
        alpaca,
    ),
    "llama2-zh": ("You are a helpful assistant. 你是一个乐于助人的助手。", llama_of("", None)),
    "default": (SWIFT_SYSTEM, plain(lambda q: f"### Human:\n{q}\n\n### Assistant:\n", "\n\n")),
    "default-generation": ("", generation_of()),
    "chatml": (SWIFT_SYSTEM, chatml_of(TEXT_END)),
    "chatml-newline": (SWIFT_SYSTEM, chatml_of("\n", TEXT_END)),
    "baichuan": ("", baichuan),
    "chatglm2": ("", chatglm2),
    "chatglm-generation": ("", generation_of(64790, 64792)),
    "chatglm3": ("", chatglm3),
    "llama": (SWIFT_SYSTEM, llama_of(" ", " ")),
    "openbuddy": (SWIFT_SYSTEM, plain(lambda q: f"User: {q}\nAssistant: ", "\n")),
    "internlm": ("", internlm_of(EOS)),
    "internlm-newline": ("", internlm_of("\n", EOS)),
    "xverse": ("", xverse),
    "ziya": ("", plain(lambda q: f"<human>:{q}\n<bot>:", "\n", bos=True, header="%s")),
    "skywork": ("", skywork),
    "tigerbot": ("", plain(lambda q: f"\n\n### Instruction:\n{q}\n\n### Response:\n", "")),
    "qwen": ("You are a helpful assistant.", chatml_of()),
    "qwen2.5": ("You are Qwen, created by Alibaba Cloud. You are a helpful assistant.", chatml_of()),
    "qwen3": ("", qwen3),
    "qwen3-instruct": ("", chatml_of()),
    "yi": ("", chatml_of()),
    "internlm2": ("", chatml_of(bos=True)),
    "smollm2": ("You are a helpful AI assistant named SmolLM, trained by Hugging Face", chatml_of()),
    "llama2": ("", llama_of("", None)),
    "llama3": ("", llama3),
    "llama3.1": ("", llama31),
    "mistral": ("", mistral),
    "mistral-v0.3": ("", mistral_v3),
    "gemma": ("", gemma),
    "phi-3": ("", phi3),
    "phi-4": ("", phi4),
    "deepseek-v3": ("", deepseek_v3),
    "glm4": ("", glm4),
    "zephyr": ("", zephyr),
    "vicuna": (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed,"
        " and polite answers to the user's questions.",
        vicuna,
    ),
    "command-r": ("", command_r),
}
"""Default system text and rendering of each template."""

ONE_TURN = ("default-generation", "chatglm-generation", "skywork")
NO_SYSTEM = ("default-generation", "chatglm-generation", "tigerbot")

PIECES = (
    *NUMBERS, "你好", "Write a poem", "  two  spaces  ", "\n", "\n\n", "\t", "，", "é", "e\u0301", "\U0001f004",
    "[INST]", "[/INST]", "<<SYS>>", "### Human:\n", "{user}", "{system}", "{round}", "{bos}", "{eos}", "{id:195}",
    "{id:64790 [gMASK]}", "{{QUERY}}", "{{ROUND}}", "⟦", "\\n", "\r\n", "<human>:", "{", "}", "%s",
)  # fmt: skip


def test_every_template_has_a_rendering() -> None:
    assert set(RENDERINGS) == set(TEMPLATES)


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_rendering_by_hand(name: str) -> None:
    """120 rows: one to four turns, no system text, an empty one, one of its own; texts that look like anything."""
    default, render = RENDERINGS[name]
    renderer = resolve_renderer(name, chat_template=None, special=SPECIAL)
    draw = random.Random(20231018)
    seen = set()
    for _ in range(120):
        system = draw.choice([None, "", text(draw, 3)][: 2 if name in NO_SYSTEM else 3])
        num_turns = 1 if name in ONE_TURN else draw.randint(1, 4)
        turns = [(text(draw, 4, least=0), text(draw, 5)) for _ in range(num_turns)]
        if TEMPLATES[name].empty_thought:  # an answer with a thought of its own is refused
            turns = [(question, answer.replace("think>", "")) for question, answer in turns]
        conversation = talk(system, turns)
        expected = Row()
        render(expected, default if system is None else system, turns)
        encoded = encode_conversation(conversation, renderer, TOKENIZER)
        assert (encoded.ids, encoded.labels) == (expected.ids, expected.labels)
        last = encode_conversation(conversation, renderer, TOKENIZER, train_on="last")
        prompt = encode_prompt(Conversation(conversation.messages[:-1], conversation.place), renderer, TOKENIZER)
        assert last.ids == expected.ids
        assert last.ids[: len(prompt)] == prompt
        assert last.labels == [*[-100] * len(prompt), *expected.ids[len(prompt) :]]
        seen.add((system is None, bool(system), num_turns > 1))
    assert len(seen) >= (2 if name in NO_SYSTEM else 3)


def text(draw: random.Random, most: int, least: int = 1) -> str:
    return "".join(draw.choices(PIECES, k=draw.randint(least, most)))
