"""qwen.tiktoken against the tiktoken package. The golden ids of the real vocabulary cannot be checked here: it is not
in the repository; what they stand for, every step of tiktoken's rule, is checked on a vocabulary trained here."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from hanlin.errors import UserError
from hanlin.vocab.native.tiktoken_file import check_agreement, join, tiktoken_backend
from hanlin.vocab.tokenizer import TextTokenizer
from old_tokenizers import SPECIAL_PIECES, TEXTS, old_tokenizer, tiktoken_ranks

QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PROPERTY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    return TextTokenizer.load(str(old_tokenizer(tmp_path_factory.mktemp("qwen"), "qwen")))


@pytest.fixture(scope="module")
def reference() -> Any:
    tiktoken = pytest.importorskip("tiktoken", reason="the package tiktoken is the reference here")
    return tiktoken.Encoding("q", pat_str=QWEN_PATTERN, mergeable_ranks=dict(tiktoken_ranks()), special_tokens={})


@PROPERTY
@given(data=st.data())
def test_ids_are_tiktokens(qwen: TextTokenizer, reference: Any, fragments: list[str], data: st.DataObject) -> None:
    made = st.lists(st.sampled_from(fragments), max_size=14).map("".join)
    text = data.draw(st.one_of(made, st.text(st.characters(exclude_categories=["Cs"]), max_size=40)))
    plain = normalize("NFC", text)
    assert qwen.encode(text) == reference.encode_ordinary(plain)
    assert qwen.decode(qwen.encode(text)) == plain
    # tokens of special names are spelled
    assert qwen.encode("<|im_end|>" + text) == reference.encode_ordinary("<|im_end|>" + plain)


def test_real_sentences_and_the_plain_rule_are_tiktokens(qwen: TextTokenizer, reference: Any) -> None:
    assert qwen.encode_batch(TEXTS) == [reference.encode_ordinary(text) for text in TEXTS]
    assert all(join(word.encode(), tiktoken_ranks()) == reference.encode_ordinary(word) for word in TEXTS[0].split())


def test_every_cut_of_a_token_is_a_merge(reference: Any) -> None:
    # "abc" can be reached from a + bc and from ab + c, and which one it is depends on what was joined before.
    tokens = [*(bytes([byte]) for byte in range(256)), b"bc", b"ab", b"abc", b"cd", b"bcd", b"abcd", b"dabc"]
    ranks = {token: rank for rank, token in enumerate(tokens)}
    backend = tiktoken_backend(ranks, ())
    tiktoken = pytest.importorskip("tiktoken", reason="the package tiktoken is the reference here")
    exact = tiktoken.Encoding("t", pat_str=QWEN_PATTERN, mergeable_ranks=ranks, special_tokens={})
    for number in range(4**7):
        word = "".join("abcd"[number // 4**place % 4] for place in range(7))
        assert backend.encode(word, add_special_tokens=False).ids == exact.encode_ordinary(word), word


def test_a_word_that_is_a_token_stays_one_though_no_joins_lead_to_it() -> None:
    tiktoken = pytest.importorskip("tiktoken", reason="the package tiktoken is the reference here")
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"zqx": 256}
    exact = tiktoken.Encoding("w", pat_str=QWEN_PATTERN, mergeable_ranks=ranks, special_tokens={})
    backend = tiktoken_backend(ranks, ())
    for text, number in (("zqx", 1), ("zqxz", 4)):
        assert backend.encode(text).ids == exact.encode_ordinary(text) and len(exact.encode_ordinary(text)) == number


def test_special_tokens_follow_the_vocabulary(tmp_path: Path, qwen: TextTokenizer) -> None:
    size = len(tiktoken_ranks())
    assert len(qwen) == size + SPECIAL_PIECES
    assert [qwen.special_id(token) for token in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")] == [
        *range(size, size + 3)
    ]
    assert qwen.special_id("<|extra_204|>") == size + 207
    assert (qwen.bos_id, qwen.eos_id, qwen.pad_id, qwen.prefix_ids) == (None, size, size, ())
    vision = TextTokenizer.load(str(old_tokenizer(tmp_path / "vl", "qwen-vl")))
    names = "<ref> </ref> <box> </box> <quad> </quad> <img> </img> <imgpad>".split()
    assert [vision.special_id(name) for name in names] == [*range(size + 208, size + 217)]
    with pytest.raises(UserError, match="'<img>' is not one token"):
        qwen.special_id("<img>")


@pytest.mark.parametrize("model_type", [None, "qwen2"])
def test_saved_folder_loads_in_transformers_with_equal_ids(
    qwen: TextTokenizer, tmp_path: Path, fragments: list[str], model_type: str | None
) -> None:
    qwen.save(tmp_path)
    if model_type:  # transformers then takes Qwen2Tokenizer, whatever the tokenizer's own configuration says
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    plain = AutoTokenizer.from_pretrained(tmp_path)
    texts = [*TEXTS[::10], "".join(fragments), *fragments, "a<|im_end|> b"]
    assert [plain(text, split_special_tokens=True).input_ids for text in texts] == qwen.encode_batch(texts)
    assert plain("<|im_start|>x<|im_end|>").input_ids == [
        qwen.special_id("<|im_start|>"), *qwen.encode("x"), qwen.special_id("<|im_end|>"),
    ]  # fmt: skip
    assert (plain.eos_token_id, plain.pad_token_id, plain.padding_side) == (qwen.eos_id, qwen.pad_id, "left")
    assert len(plain) == len(qwen) and plain.model_max_length == 4096
    original = old_tokenizer(tmp_path / "old", "qwen") / "qwen.tiktoken"
    assert (tmp_path / "qwen.tiktoken").read_bytes() == original.read_bytes()


def test_saved_folder_loads_here_as_it_was(qwen: TextTokenizer, tmp_path: Path) -> None:
    qwen.save(tmp_path / "1")
    again = TextTokenizer.load(str(tmp_path / "1"))
    again.save(tmp_path / "2")
    third = TextTokenizer.load(str(tmp_path / "2" / "qwen.tiktoken"))
    for other in (again, third):
        assert other.identity == qwen.identity and other.pieces() == qwen.pieces()
        assert other.special_ids == qwen.special_ids and other.prefix_ids == ()
        assert not other.is_converted
    assert qwen.is_converted


def test_beside_a_qwen2_model_the_saved_file_still_counts(tmp_path: Path) -> None:
    folder = old_tokenizer(tmp_path / "old", "qwen")
    unreachable = len(tiktoken_ranks())
    with (folder / "qwen.tiktoken").open("ab") as file:
        file.write(base64.b64encode(b"zqx") + b" %d\n" % unreachable)
    TextTokenizer.load(str(folder)).save(tmp_path / "new")
    (tmp_path / "new" / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    assert TextTokenizer.load(str(tmp_path / "new")).encode("zqx") == [unreachable]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [b"version https://git-lfs.github.com/spec/v1"], r"qwen.tiktoken:1: .*Git LFS"),
        (lambda lines: [*lines[:300], b"YWI=\n"], r"qwen.tiktoken:301: 'YWI='"),
        (lambda lines: lines[:300] + lines[301:], r"ranks 0, 1, 2"),
        (lambda lines: [base64.b64encode(b"zzz%d" % n) + b" %d\n" % n for n in range(300)], r"no token for the byte 0"),
    ],
)
def test_a_broken_vocabulary_gets_one_line(tmp_path: Path, change: Any, message: str) -> None:
    path = old_tokenizer(tmp_path, "qwen") / "qwen.tiktoken"
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(UserError, match=message) as caught:
        TextTokenizer.load(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_one_merge_a_token_is_found_out_when_the_tokenizer_is_built(tmp_path: Path) -> None:
    ranks = tiktoken_ranks()
    backend = tiktoken_backend(ranks, ())
    check_agreement(backend, ranks, tmp_path)
    state = json.loads(backend.to_str())
    first = {left + right: [left, right] for left, right in reversed(state["model"]["merges"])}
    state["model"]["merges"] = list(first.values())[::-1]
    state["model"]["ignore_merges"] = False
    with pytest.raises(UserError, match="other ids in the tokenizers library than in tiktoken"):
        check_agreement(type(backend).from_str(json.dumps(state)), ranks, tmp_path)
