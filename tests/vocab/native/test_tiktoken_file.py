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
from old_tokenizers import GLM4_TOKENS, SPECIAL_PIECES, TEXTS, old_tokenizer, tiktoken_ranks

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


# ---- GLM-4 ----

GLM4_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


@pytest.fixture(scope="module")
def glm4(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    return TextTokenizer.load(str(old_tokenizer(tmp_path_factory.mktemp("glm4"), "glm4")))


@pytest.fixture(scope="module")
def glm4_reference() -> Any:
    tiktoken = pytest.importorskip("tiktoken", reason="the package tiktoken is the reference here")
    return tiktoken.Encoding("g", pat_str=GLM4_PATTERN, mergeable_ranks=dict(tiktoken_ranks()), special_tokens={})


@PROPERTY
@given(data=st.data())
def test_ids_of_glm4_are_tiktokens(
    glm4: TextTokenizer, glm4_reference: Any, fragments: list[str], data: st.DataObject
) -> None:
    """Characters are not composed, and up to three digits make a word."""
    made = st.lists(st.sampled_from([*fragments, "1234567", "e\u0301", "<|user|>"]), max_size=14).map("".join)
    text = data.draw(st.one_of(made, st.text(st.characters(exclude_categories=["Cs"]), max_size=40)))
    assert glm4.encode(text) == glm4_reference.encode_ordinary(text)
    assert glm4.decode(glm4.encode(text)) == text


def test_glm4_without_the_reference_package(glm4: TextTokenizer, tmp_path: Path) -> None:
    """By the plain rule, on words cut by hand; and what differs from Qwen's."""
    ranks = tiktoken_ranks()
    for words in (
        ["12", " the"],
        ["123", "456", "7"],
        ["cafe\u0301"[:4], "\u0301"],
        ["don", "'t"],
        [" 你好", "，", "世界"],
    ):
        assert glm4.encode("".join(words)) == [rank for word in words for rank in join(word.encode(), ranks)]
    assert glm4.decode(glm4.encode("e\u0301")) == "e\u0301"


def test_specials_prefix_and_saved_folder_of_glm4(glm4: TextTokenizer, tmp_path: Path, fragments: list[str]) -> None:
    size = len(tiktoken_ranks())
    assert [glm4.special_id(token) for token in GLM4_TOKENS] == [*range(size, size + 14)] and len(glm4) == size + 14
    assert glm4.prefix_ids == (size + 2, size + 4)
    assert (glm4.bos_id, glm4.eos_id, glm4.pad_id) == (None, size, size)
    assert glm4.hf("river").input_ids == [*glm4.prefix_ids, *glm4.encode("river")]
    assert glm4.hf("<|user|>", add_special_tokens=False).input_ids == [size + 7]
    glm4.save(tmp_path / "new")
    (tmp_path / "new" / "config.json").write_text(json.dumps({"model_type": "glm"}))
    plain = AutoTokenizer.from_pretrained(tmp_path / "new")
    again = TextTokenizer.load(str(tmp_path / "new"))
    texts = [*TEXTS[::10], *fragments, "".join(fragments), "a<|user|>b", "x [gMASK]"]
    ids = glm4.encode_batch(texts)
    assert again.encode_batch(texts) == ids and again.prefix_ids == glm4.prefix_ids
    assert [plain(t, split_special_tokens=True, add_special_tokens=False).input_ids for t in texts] == ids
    assert plain("river").input_ids == glm4.hf("river").input_ids and plain.padding_side == "left"
    assert again.identity == glm4.identity and again.special_ids == glm4.special_ids


def test_glm4_whose_configuration_names_no_tokens(glm4: TextTokenizer, tmp_path: Path) -> None:
    folder = old_tokenizer(tmp_path, "glm4", added_tokens_decoder={})
    assert TextTokenizer.load(str(folder)).identity == glm4.identity
    size = len(tiktoken_ranks())
    old_tokenizer(tmp_path, "glm4", added_tokens_decoder={str(size): {"content": "<|endoftext|>"}})
    with pytest.raises(UserError, match=r"names no token \[gMASK\]; expected the special tokens of GLM-4"):
        TextTokenizer.load(str(folder))
