"""Ids and labels of both prompt templates against a rendering made from the published facts with SentencePiece alone.

The reference: a record's input follows its instruction on a new line; the prompt is the template with BOS in front; the
answer is tokenised by itself and ends with EOS; labels are -100 on the prompt. Nothing of the package is used for it.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from hanlin.data.conversations import read_conversations
from hanlin.data.ledger import Ledger
from hanlin.template import resolve_renderer
from hanlin.tokens.encode import encode_conversations, encode_prompt, special_tokens
from hanlin.types import Conversation, Message, Place
from hanlin.vocab.tokenizer import TextTokenizer

BOS, EOS = 1, 2
TEMPLATES = ("alpaca", "llama2-zh")

FIRST_GENERATION = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response: "
)
SECOND_GENERATION = (
    "[INST] <<SYS>>\nYou are a helpful assistant. 你是一个乐于助人的助手。\n<</SYS>>\n\n{instruction} [/INST]"
)

PIECES = (
    "你好", "人工智能是计算机科学的一个分支。", "Write a poem", "  two  spaces  ", "\n", "\n\n", "\t", "，", "。",
    "3.14159", "\U0001f469\u200d\U0001f467\u200d\U0001f466🎉", "🀄", "𠮷野家", "龘靐齉", "ﷺ", "\u200b", "é", "e\u0301",
    "ｆｕｌｌ", "<s>", "</s>", "<pad>", "[PAD]", "<unk>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>",
    "### Instruction:\n", "### Response: ", "{instruction}", "{user}", "{system}", "<0x0A>", "▁", "\\n", "\r\n",
    "def f(x):\n    return x", "Ünïcödé", "한국어", "עברית", "QQ iPhone", "a" * 50,
)  # fmt: skip

TRAINING_TEXT = (
    "你好 人工智能是计算机科学的一个分支。", "You are a helpful assistant. 你是一个乐于助人的助手。",
    "[INST] <<SYS>> <</SYS>>",
    FIRST_GENERATION.replace("\n", " "), "Write a poem about the two spaces", "def f(x): return x",
)  # fmt: skip
"""Of the tiny tokenizer: all other characters of ``PIECES`` are spelled with bytes."""


def records() -> list[dict[str, Any]]:
    """240 records: the corners by hand, then random mixtures of ``PIECES``."""
    made: list[dict[str, Any]] = [
        {"instruction": "你好", "input": "", "output": "你好！"},
        {"instruction": "你好", "input": None, "output": "你好！"},
        {"instruction": "Translate", "input": " ", "output": "</s>"},
        {"instruction": "<s>[INST] x [/INST]", "input": "</s><s>", "output": "a</s>b<pad>[PAD]"},
        {"instruction": "long", "input": "", "output": "人工智能是计算机科学的一个分支。" * 200},
        {"instruction": "trailing newline\n", "input": "\nleading", "output": " leading space"},
        {"instruction": "x", "input": "", "output": "\n."},
    ]
    draw = random.Random(20230329)
    while len(made) < 240:
        text = ["".join(draw.choices(PIECES, k=draw.randint(1, n))) for n in (6, 4, 12)]
        second = draw.choice([None, "", text[1], text[1]])
        if text[0].strip() and text[2].strip():
            made.append({"instruction": text[0], "input": second, "output": text[2]})
    return made


def reference(
    processor: sentencepiece.SentencePieceProcessor, record: dict[str, Any], template: str
) -> tuple[list[int], list[int]]:
    instruction = record["instruction"]
    if record["input"] is not None and record["input"] != "":
        instruction = instruction + "\n" + record["input"]
    before, after = template.split("{instruction}")
    source = [BOS, *processor.encode(before + instruction + after)]
    target = [*processor.encode(record["output"]), EOS]
    return source + target, [-100] * len(source) + target


def read(folder: Path, rows: Sequence[dict[str, Any]]) -> list[Conversation]:
    file = folder / "records.json"
    file.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    ledger = Ledger()
    conversations = list(read_conversations([str(file)], ledger=ledger))
    assert not ledger.entries
    return conversations


def check(tokenizer: TextTokenizer, processor: sentencepiece.SentencePieceProcessor, folder: Path, name: str) -> int:
    """Compare all records; gives the number of those that spell a special token."""
    special = special_tokens(tokenizer)
    renderer = resolve_renderer(name, chat_template=None, special=special)
    template = {"alpaca": FIRST_GENERATION, "llama2-zh": SECOND_GENERATION}[name]
    rows = records()
    conversations = read(folder, rows)
    assert len(rows) == len(conversations) >= 200
    spelling = 0
    encoded = encode_conversations(conversations, renderer, tokenizer, batch_size=64)
    for row, conversation, row_encoded in zip(rows, conversations, encoded, strict=True):
        ids, labels = reference(processor, row, template)
        assert row_encoded.ids == ids, row
        assert row_encoded.labels == labels, row
        assert ids.count(BOS) == 1
        assert ids.count(EOS) == 1
        assert ids[-1] == EOS
        assert tokenizer.pad_id not in ids
        question = Conversation(conversation.messages[:-1], conversation.place)
        prompt = encode_prompt(question, renderer, tokenizer)
        assert prompt == ids[: len(prompt)]
        assert labels[len(prompt) :] == ids[len(prompt) :]
        assert labels[: len(prompt)] == [-100] * len(prompt)
        spelling += any(token in str(row.values()) for token in ("</s>", "<s>", "<pad>", "[PAD]"))
    return spelling


@pytest.fixture(scope="module")
def second_generation(shared_data: Path) -> Path:
    return shared_data / "chinese-llama" / "tokenizer-v2"


@pytest.fixture(scope="module")
def first_generation(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 49,954 pieces of Chinese-Alpaca, rebuilt from the published parts and checked by their published sum."""
    folder = shared_data / "chinese-llama"
    model = sentencepiece_model_pb2.ModelProto.FromString((folder / "tokenizer-v2" / "tokenizer.model").read_bytes())
    del model.pieces[32_000:]
    added = sentencepiece_model_pb2.ModelProto.FromString((folder / "chinese_sp.model").read_bytes())
    present = {piece.piece for piece in model.pieces}
    for name in [*(piece.piece for piece in added.pieces if piece.piece not in present), "[PAD]"]:
        model.pieces.add(piece=name, score=0)
    data = model.SerializeToString()
    published = "2d967e855b1213a439df6c8ce2791f869c84b4f3b6cfacf22b86440b8192a2f8"
    assert hashlib.sha256(data).hexdigest() == published
    target = tmp_path_factory.mktemp("alpaca") / "tokenizer.model"
    target.write_bytes(data)
    return target.parent


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("generation", ["first_generation", "second_generation"])
def test_published_tokenizers(generation: str, name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder: Path = request.getfixturevalue(generation)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    assert check(TextTokenizer.load(str(folder)), processor, tmp_path, name) > 50


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece model of the LLaMA kind: BPE, byte fallback, identity normaliser, dummy prefix."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "text.txt").write_text("\n".join(TRAINING_TEXT), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"), model_prefix=str(folder / "tokenizer"), vocab_size=380, model_type="bpe",
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, character_coverage=1.0,
        unk_id=0, bos_id=1, eos_id=2, pad_id=-1, num_threads=1, minloglevel=2,
    )  # fmt: skip
    return folder


@pytest.mark.parametrize("name", TEMPLATES)
def test_tiny_tokenizer(name: str, tiny: Path, tmp_path: Path) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tiny / "tokenizer.model"))
    assert check(TextTokenizer.load(str(tiny / "tokenizer.model")), processor, tmp_path, name) > 50


def test_published_ids_of_the_second_generation(second_generation: Path) -> None:
    """The list that the publication of the second generation gives for 你好."""
    tokenizer = TextTokenizer.load(str(second_generation))
    renderer = resolve_renderer("llama2-zh", chat_template=None, special=special_tokens(tokenizer))
    conversation = Conversation((Message("user", "你好"),), Place("x.json"))
    assert encode_prompt(conversation, renderer, tokenizer) == [
        1, 518, 25580, 29962, 3532, 14816, 29903, 6778, 13, 3492, 526, 263, 8444, 20255, 29889, 32732, 32475, 31616,
        30909, 31931, 32764, 40742, 30267, 13, 29966, 829, 14816, 29903, 6778, 13, 13, 35604, 518, 29914, 25580, 29962,
    ]  # fmt: skip


def turns_by_hand(
    processor: sentencepiece.SentencePieceProcessor, name: str, system: str | None, turns: Sequence[tuple[str, str]]
) -> tuple[list[int], list[int]]:
    """Several turns: BOS, system text once, EOS after every answer; every answer with its EOS is labelled."""
    ids: list[int] = []
    labels: list[int] = []
    for number, (user, answer) in enumerate(turns):
        if name == "alpaca":
            header = FIRST_GENERATION.split("\n\n")[0] if system is None else system
            start = [BOS] if number == 0 else []
            before = ("\n\n" if number else f"{header}\n\n" if header else "") + (
                f"### Instruction:\n{user}\n\n### Response: "
            )
        else:
            text = "You are a helpful assistant. 你是一个乐于助人的助手。" if system is None else system
            start = [BOS]
            block = f"<<SYS>>\n{text}\n<</SYS>>\n\n" if text and number == 0 else ""
            before = f"[INST] {block}{user} [/INST]"
        source = [*start, *processor.encode(before)]
        target = [*processor.encode(answer), EOS]
        ids += source + target
        labels += [-100] * len(source) + target
    return ids, labels


@pytest.mark.parametrize("name", TEMPLATES)
def test_turns_and_system_texts(name: str, tiny: Path) -> None:
    tokenizer = TextTokenizer.load(str(tiny / "tokenizer.model"))
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tiny / "tokenizer.model"))
    renderer = resolve_renderer(name, chat_template=None, special=special_tokens(tokenizer))
    draw = random.Random(7)
    for number in range(60):
        system = draw.choice([None, "", "".join(draw.choices(PIECES, k=3))])
        turns = [
            ("".join(draw.choices(PIECES, k=3)), "".join(draw.choices(PIECES, k=4))) for _ in range(draw.randint(1, 4))
        ]
        messages = [] if system is None else [Message("system", system)]
        for user, answer in turns:
            messages += [Message("user", user), Message("assistant", answer)]
        conversation = Conversation(tuple(messages), Place("x.jsonl", line=number + 1))
        (encoded,) = encode_conversations([conversation], renderer, tokenizer)
        assert (encoded.ids, encoded.labels) == turns_by_hand(processor, name, system, turns)
