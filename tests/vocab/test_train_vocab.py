"""Training from nothing: settings, sizes, determinism, and what a corpus cannot give."""

from __future__ import annotations

import pytest

from hanlin.errors import UserError
from hanlin.vocab import spm
from hanlin.vocab.tokenizer import TextTokenizer
from hanlin.vocab.train import MAX_LINE_BYTES, train_byte_level, train_sentencepiece
from vocab_texts import CHINESE, ENGLISH


def test_sentencepiece_has_llamas_settings(english: TextTokenizer, llama: TextTokenizer) -> None:
    assert english.sentencepiece_model is not None and llama.sentencepiece_model is not None
    ours, theirs = spm.parse(english.sentencepiece_model), spm.parse(llama.sentencepiece_model)
    for field in ("model_type", "byte_fallback", "split_digits", "split_by_unicode_script", "split_by_whitespace",
                  "allow_whitespace_only_pieces", "max_sentencepiece_length", "unk_id", "bos_id", "eos_id",
                  "pad_id"):  # fmt: skip
        assert getattr(ours.trainer_spec, field) == getattr(theirs.trainer_spec, field), field
    for field in ("add_dummy_prefix", "remove_extra_whitespaces", "precompiled_charsmap", "name"):
        assert getattr(ours.normalizer_spec, field) == getattr(theirs.normalizer_spec, field), field
    assert [piece.piece for piece in ours.pieces[:259]] == [piece.piece for piece in theirs.pieces[:259]]


def test_sizes_and_special_tokens() -> None:
    spm_tokenizer = train_sentencepiece(ENGLISH, 400, pad_token="<pad>", special_tokens=["<|im_end|>"])
    assert len(spm_tokenizer) == 400 and spm_tokenizer.pad_id == 3 and spm_tokenizer.special_id("<|im_end|>") == 4
    assert spm_tokenizer.special_ids == {1, 2, 3, 4}
    byte_tokenizer = train_byte_level(ENGLISH, 320, pad_token="<pad>", special_tokens=["<|im_end|>"])
    assert len(byte_tokenizer) == 320 and byte_tokenizer.bos_id is None
    assert (byte_tokenizer.eos_id, byte_tokenizer.pad_id, byte_tokenizer.special_id("<|im_end|>")) == (317, 318, 319)
    for tokenizer in (spm_tokenizer, byte_tokenizer):
        text = "<pad><|im_end|></s>"
        assert (
            not tokenizer.special_ids & set(tokenizer.encode(text)) and tokenizer.decode(tokenizer.encode(text)) == text
        )


def test_the_same_corpus_gives_the_same_tokenizer() -> None:
    for train in (train_sentencepiece, train_byte_level):
        first, second = (train(iter(ENGLISH + CHINESE), 400) for _ in range(2))
        assert first.identity == second.identity and first.sentencepiece_model == second.sentencepiece_model


def test_lines_above_sentencepieces_limit_are_not_skipped() -> None:
    """SentencePiece drops too long lines in silence; a corpus that is one line would then be empty."""
    one_line = " ".join(ENGLISH) * 10
    assert len(one_line) > MAX_LINE_BYTES
    assert len(train_sentencepiece([one_line + "\0"], 400)) == 400


def test_what_the_trainer_cannot_hold_is_told() -> None:
    said: list[str] = []
    texts = [*ENGLISH, "The fox\0 saw\0 the crow.\u2028The crow\x85 saw the fox.\r\nAgain.\n\n"]
    with_them = train_sentencepiece(texts, 400, notify=said.append)
    assert said == [
        "2 characters that the trainer cannot hold (NUL) and 2 line separators (such as U+2028 and U+0085) were left "
        "out of the training text"
    ]
    plain = [*ENGLISH, "The fox saw the crow.", "The crow", " saw the fox.", "Again."]
    assert train_sentencepiece(plain, 400, notify=said.append).identity == with_them.identity
    assert len(said) == 1, "ordinary line ends are no loss"


@pytest.mark.parametrize(
    ("train", "texts", "size", "message"),
    [
        (train_sentencepiece, [], 300, "--corpus: holds no text"),
        (train_byte_level, [" \n"], 300, "--corpus: holds no text"),
        (train_sentencepiece, CHINESE, 270, "--vocab_size: is 270, and the characters.*at least 3"),
        (train_sentencepiece, ["some text"], 5000, "--vocab_size: is 5000, more than the corpus.*expected at most"),
        (train_byte_level, ["some text"], 5000, "--vocab_size: is 5000, more than the corpus.*expected at most"),
        (train_byte_level, ["some text"], 256, "--vocab_size: is 256"),
    ],
)  # fmt: skip
def test_what_a_corpus_cannot_give(train: object, texts: list[str], size: int, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        train(texts, size)  # type: ignore[operator]
    assert "\n" not in str(caught.value)
