"""Extending a SentencePiece tokenizer: the published files byte for byte, and learning on top of the old merges."""

from __future__ import annotations

import hashlib
import json
import string
from itertools import pairwise
from pathlib import Path

import pytest
import sentencepiece

from hanlin.errors import UserError
from hanlin.vocab import spm
from hanlin.vocab.extend import Extension, extend_by_corpus, extend_by_model, extend_by_pad
from hanlin.vocab.spelling import spell_new_pieces
from hanlin.vocab.tokenizer import TextTokenizer
from vocab_texts import CHINESE, ENGLISH


@pytest.fixture(scope="module")
def first_generation(llama: TextTokenizer, published: Path) -> Extension:
    return extend_by_model(llama, (published / "chinese_sp.model").read_bytes())


@pytest.fixture(scope="module")
def learned(english: TextTokenizer) -> Extension:
    return extend_by_corpus(english, CHINESE, 120, pad_token="<pad>")


def digest(tokenizer: TextTokenizer) -> str:
    assert tokenizer.sentencepiece_model is not None
    return hashlib.sha256(tokenizer.sentencepiece_model).hexdigest()


def test_published_files_byte_for_byte(llama: TextTokenizer, first_generation: Extension, published: Path) -> None:
    assert digest(llama) == "9e556afd44213b6bd1be2b850ebbbd98f5481437a8021afaf58ee7fb1818d347"
    extended = first_generation.tokenizer
    assert (len(extended), len(first_generation.duplicates), first_generation.left_out) == (49_953, 2_047, ())
    assert digest(extended) == "e2676d4ca29ca1750f6ff203328d73b189321dc5776ceede037cbd36541d70c0"
    alpaca = extend_by_model(llama, (published / "chinese_sp.model").read_bytes(), pad_token="[PAD]")
    in_two_steps = extend_by_pad(extended, "[PAD]")
    for tokenizer in (alpaca.tokenizer, in_two_steps.tokenizer):
        assert digest(tokenizer) == "2d967e855b1213a439df6c8ce2791f869c84b4f3b6cfacf22b86440b8192a2f8"
        assert (len(tokenizer), tokenizer.pad_id, tokenizer.known) == (49_954, 49_953, "chinese-alpaca")
        assert tokenizer.bos_id == 1 and tokenizer.eos_id == 2


def test_published_token_counts(llama: TextTokenizer, first_generation: Extension, published: Path) -> None:
    second = TextTokenizer.load(str(published / "tokenizer-v2"))
    report_example = "人工智能是计算机科学、心理学、哲学等学科融合的交叉学科。"
    two_lines = (
        "白日依山尽，黄河入海流。欲穷千里目，更上一层楼。\n"
        "The primary use of LLaMA is research on large language models, including"
    )
    tokenizers = (llama, first_generation.tokenizer, second)
    assert [len(tokenizer.encode(report_example)) for tokenizer in tokenizers] == [35, 16, 16]
    assert [len(tokenizer.encode(two_lines)) for tokenizer in tokenizers] == [53, 37, 38]


def test_old_ids_keep_their_meaning(llama: TextTokenizer, first_generation: Extension, learned: Extension) -> None:
    for old, new in ((llama, first_generation.tokenizer), (None, learned.tokenizer)):
        if old is None:
            continue
        assert new.extends(old) and new.pieces()[: len(old)] == old.pieces()
        for text in (*ENGLISH[:20], *CHINESE[:20], " a\n\tb  😀𠮷</s>"):
            assert new.decode(old.encode(text)) == text


def test_a_learned_tokenizer_shortens_chinese_and_leaves_english_alone(
    english: TextTokenizer, learned: Extension
) -> None:
    new = learned.tokenizer
    assert new.extends(english) and len(new) == len(english) + 121 and new.pad_id == len(new) - 1
    before = sum(map(len, english.encode_batch(CHINESE)))
    after = sum(map(len, new.encode_batch(CHINESE)))
    assert after < before / 4
    assert new.encode_batch(ENGLISH) == english.encode_batch(ENGLISH)
    assert [new.decode(ids) for ids in new.encode_batch(CHINESE)] == CHINESE


def test_every_learned_piece_can_occur(learned: Extension) -> None:
    new = learned.tokenizer
    for piece in learned.added[:-1]:
        assert new.encode_piece(piece) == [new.special_id(piece)]


def test_learned_scores_are_distinct_so_that_the_fast_tokenizer_agrees(
    english: TextTokenizer, learned: Extension
) -> None:
    new = learned.tokenizer
    assert new.sentencepiece_model is not None and english.sentencepiece_model is not None
    scores = [piece.score for piece in spm.parse(new.sentencepiece_model).pieces[len(english) : -1]]
    old = [piece.score for piece in spm.parse(english.sentencepiece_model).pieces]
    assert len(set(scores)) == len(scores) and max(scores) < min(old) and scores == sorted(scores, reverse=True)
    for text in CHINESE:
        assert new.hf(text, add_special_tokens=False).input_ids == new.encode(text)


def test_learning_continues_the_old_segmentation(english: TextTokenizer) -> None:
    """Slow plain version: after each join, encode the whole corpus anew with the pieces so far and count neighbours."""
    texts = ["学习历史学习时间", "学习时间时间", "历史时间", "学习学习"]
    wanted = ["学", "习", "时", "间", "历", "史"]
    extension = extend_by_corpus(english, texts, 9, character_coverage=1.0)
    assert sorted(extension.added[:6]) == sorted(wanted)
    model = english.sentencepiece_model
    assert model is not None
    pieces = list(extension.added[:6])
    for _ in range(3):
        proto = spm.parse(model)
        for rank, piece in enumerate(pieces):
            proto.pieces.add(piece=piece, score=-10_000.0 - rank)
        processor = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
        counts: dict[tuple[str, str], int] = {}
        for text in texts:
            row = processor.encode(text, out_type=str)
            for pair in pairwise(row):
                if "\u2581" not in pair[0]:
                    counts[pair] = counts.get(pair, 0) + 1
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        pieces.append("".join(best))
    assert list(extension.added) == pieces


def test_no_learned_piece_crosses_scripts_digits_or_spaces(english: TextTokenizer) -> None:
    texts = ["iPhone手机 2023年 手机iPhone 第12课 x手机", "手机iPhone 2023年12月"] * 30
    added = extend_by_corpus(english, texts, 20).added
    assert "手机" in added
    for piece in added:
        kinds = {("a" if char in string.ascii_letters + "\u2581" else "d" if char.isdigit() else "h") for char in piece}
        assert len(kinds) == 1, piece
        assert "\u2581" not in piece[1:]
        assert not (len(piece) > 1 and any(char.isdigit() for char in piece))


def test_a_token_behind_the_model_keeps_its_id(english: TextTokenizer, tmp_path: Path) -> None:
    english.save(tmp_path)
    hf = english.load(str(tmp_path)).hf
    hf.add_special_tokens({"pad_token": "<PAD-OUTSIDE>"})
    hf.save_pretrained(tmp_path)
    old = TextTokenizer.load(str(tmp_path))
    assert old.pad_id == len(english) and len(old) == len(english) + 1
    new = extend_by_corpus(old, CHINESE, 50).tokenizer
    assert new.extends(old) and new.pad_id == len(english)
    assert new.pad_id not in new.encode("<PAD-OUTSIDE>")


def test_a_pad_token_of_the_vocabulary_is_only_declared(learned: Extension) -> None:
    again = extend_by_pad(learned.tokenizer, "<pad>")
    assert again.added == () and digest(again.tokenizer) == digest(learned.tokenizer)


def test_spelling_of_new_pieces(llama: TextTokenizer, first_generation: Extension, published: Path) -> None:
    new = extend_by_pad(first_generation.tokenizer, "[PAD]").tokenizer
    spelling = spell_new_pieces(llama, new)
    assert len(spelling) == 49_954 and spelling[:32_000] == [[index] for index in range(32_000)]
    assert spelling[49_953] == []
    pieces = llama.pieces()
    china = spelling[new.special_id("中国")]
    assert [pieces[index] for index in china] == ["中", "国"], "no dummy prefix"
    # 着 is no piece of LLaMA: three byte tokens, the byte b being id b + 3.
    assert spelling[new.special_id("着")] == [byte + 3 for byte in "着".encode()]
    for index in (32_005, 40_000, 49_952):
        assert llama.decode([29_871, *spelling[index]]) == new.pieces()[index].replace("\u2581", " ")
    with pytest.raises(UserError, match="fewer than"):
        spell_new_pieces(new, llama)
    with pytest.raises(UserError, match=r"id 32000 is '<pad>', but '但'"):
        spell_new_pieces(new, TextTokenizer.load(str(published / "tokenizer-v2")))


def test_a_corpus_that_is_empty_or_too_small(english: TextTokenizer) -> None:
    with pytest.raises(UserError, match="holds no text"):
        extend_by_corpus(english, ["", " \n "], 10)
    assert extend_by_corpus(english, ["学习"], 10, character_coverage=1.0).missing == 8


def test_a_unigram_model_cannot_be_extended(published: Path) -> None:
    unigram = TextTokenizer.load(str(published / "chinese_sp.model"))
    with pytest.raises(UserError, match="unigram"):
        extend_by_pad(unigram, "<pad>")


def test_the_same_corpus_gives_the_same_bytes(english: TextTokenizer) -> None:
    first, second = (extend_by_corpus(english, CHINESE, 60).tokenizer for _ in range(2))
    assert digest(first) == digest(second)
    assert digest(extend_by_corpus(english, CHINESE[::-1], 60).tokenizer) == digest(first), "counts, not order"


def test_real_chinese_gets_much_shorter(llama: TextTokenizer, shared_data: Path) -> None:
    rows = json.loads((shared_data / "real" / "alpaca_zh_demo.json").read_text(encoding="utf-8"))[:150]
    texts = [row["output"] for row in rows]
    new = extend_by_corpus(llama, texts, 2000).tokenizer
    before, after = (sum(map(len, tokenizer.encode_batch(texts))) for tokenizer in (llama, new))
    assert after < 0.6 * before
