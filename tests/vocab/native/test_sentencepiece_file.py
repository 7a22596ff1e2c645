"""SentencePiece vocabularies of 2023 against sentencepiece itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2 as proto_module
from transformers import AutoTokenizer, SentencePieceBackend

from hanlin.vocab.extend import extend_by_corpus
from hanlin.vocab.native.sentencepiece_file import fast_backend
from hanlin.vocab.tokenizer import TextTokenizer
from old_tokenizers import (
    INTERNLM2_TOKENS,
    TEXTS,
    Family,
    internlm2_model,
    old_tokenizer,
    sentencepiece_model,
    with_tied_scores,
)
from vocab_texts import CHINESE

PROPERTY = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
FAMILIES: tuple[Family, ...] = (
    "chatglm2",
    "chatglm3",
    "baichuan",
    "baichuan-13b",
    "internlm",
    "internlm2",
    "polylm",
    "other",
)
MODEL_TYPES = {"chatglm2": "glm", "chatglm3": "glm", "polylm": "gpt2"}
SPELLED = ["<|endoftext|>", "[gMASK]", "sop", "sophomore", "<s>", "</s>", "<unk>", "<0x41>", "<|user|>"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: old_tokenizer(tmp_path_factory.mktemp(family), family) for family in FAMILIES}


@pytest.fixture(scope="module")
def loaded(folders: dict[str, Path]) -> dict[str, TextTokenizer]:
    return {family: TextTokenizer.load(str(folder)) for family, folder in folders.items()}


def reference_of(folder: Path) -> Any:
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def texts_of(fragments: list[str]) -> st.SearchStrategy[str]:
    made = st.lists(st.sampled_from([*fragments, *SPELLED]), max_size=12).map("".join)
    # NUL is the one character on which SentencePiece and the tokenizers library differ, also for the real vocabularies;
    # U+2581 is how SentencePiece writes a space.
    return st.one_of(
        made, st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\u2581"), max_size=40)
    )


@PROPERTY
@given(data=st.data())
def test_ids_and_texts_are_sentencepieces(
    folders: dict[str, Path], loaded: dict[str, TextTokenizer], fragments: list[str], data: st.DataObject
) -> None:
    text = data.draw(texts_of(fragments))
    for family, tokenizer in loaded.items():
        ids = reference_of(folders[family]).encode(text)
        assert tokenizer.encode(text) == ids, family
        assert not tokenizer.special_ids & set(ids), family
        assert tokenizer.decode(ids) == text, family
        # what is saved for others is as exact
        assert tokenizer.hf.is_fast, family
        assert tokenizer.hf(text, add_special_tokens=False, split_special_tokens=True).input_ids == ids, family
        assert tokenizer.hf.decode(ids, skip_special_tokens=False) == text, family


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_folder_loads_in_transformers_with_equal_ids(
    family: Family, folders: dict[str, Path], loaded: dict[str, TextTokenizer], fragments: list[str], tmp_path: Path
) -> None:
    tokenizer = loaded[family]
    tokenizer.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": MODEL_TYPES.get(family, "llama")}))
    plain = AutoTokenizer.from_pretrained(tmp_path)
    texts = [*TEXTS[::10], *fragments, "".join(fragments), "  two spaces before", "x [gMASK] y</s>"]
    expected = reference_of(folders[family]).encode(texts)
    assert [plain(text, split_special_tokens=True, add_special_tokens=False).input_ids for text in texts] == expected
    assert plain("先生").input_ids == [*tokenizer.prefix_ids, *tokenizer.encode("先生")]
    assert plain("先生", "river").input_ids[: len(tokenizer.prefix_ids)] == list(tokenizer.prefix_ids)
    assert plain.padding_side == "left"
    again = TextTokenizer.load(str(tmp_path))
    assert again.prefix_ids == tokenizer.prefix_ids and again.identity == tokenizer.identity
    assert again.pieces() == tokenizer.pieces() and again.special_ids == tokenizer.special_ids
    assert (again.bos_id, again.eos_id, again.pad_id) == (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    assert again.encode_batch(texts) == expected
    if family != "internlm2":  # reserved pieces got names in it
        assert (tmp_path / "tokenizer.model").read_bytes() == (folders[family] / "tokenizer.model").read_bytes()
    assert (tokenizer.is_converted, again.is_converted) == (True, False)


def test_real_vocabularies_with_and_without_tied_scores(published: Path, llama: TextTokenizer) -> None:
    model = llama.sentencepiece_model
    assert model is not None
    backend = fast_backend(model, ["<s>", "</s>"])
    assert backend is not None
    reference = sentencepiece.SentencePieceProcessor(model_proto=model)
    texts = [*TEXTS, "  leading spaces\n\nand\ttabs", "你好，世界！Hello world 123", "哈哈哈哈哈 aaaaaaaa ........"]
    assert [list(row.ids) for row in backend.encode_batch(texts, add_special_tokens=False)] == reference.encode(texts)
    extended = (published / "tokenizer-v2" / "tokenizer.model").read_bytes()
    assert fast_backend(extended, ["<s>", "</s>", "<pad>"]) is None, "23,296 of its pieces share the score 0"


def test_chatglm_puts_its_commands_behind_the_pieces(loaded: dict[str, TextTokenizer]) -> None:
    second, third = loaded["chatglm2"], loaded["chatglm3"]
    commands = ["[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"]
    assert [second.special_id(name) for name in commands] == [*range(700, 705)] and len(second) == 705
    assert second.prefix_ids == (701, 703)
    assert (second.eos_id, second.pad_id) == (2, 0)
    roles = ["<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
    assert [third.special_id(name) for name in roles] == [*range(705, 709)] and len(third) == 709
    assert second.hf("sophomore [gMASK]").input_ids == [701, 703, *second.encode("sophomore [gMASK]")]


def test_chatglm3_is_told_by_what_lies_in_the_folder(tmp_path: Path) -> None:
    nameless = old_tokenizer(tmp_path, "chatglm3")
    (nameless / "config.json").unlink()
    assert len(TextTokenizer.load(str(nameless))) == 705
    # The code is read as text, never run.
    (nameless / "tokenization_chatglm.py").write_text('raise SystemExit("<|observation|>")')
    assert len(TextTokenizer.load(str(nameless))) == 709


def test_bos_is_put_before_texts_as_configured(loaded: dict[str, TextTokenizer]) -> None:
    found = {
        family: loaded[family].prefix_ids for family in ("baichuan", "baichuan-13b", "internlm", "internlm2", "other")
    }
    assert found == {"baichuan": (1,), "baichuan-13b": (), "internlm": (1,), "internlm2": (1,), "other": (1,)}
    assert loaded["baichuan-13b"].bos_id == 1 and loaded["baichuan"].pad_id == 0


def test_markers_are_special_and_words_are_not(tmp_path: Path, loaded: dict[str, TextTokenizer]) -> None:
    baichuan, internlm = loaded["baichuan"], loaded["internlm"]
    assert [baichuan.special_id(name) for name in ("<reserved_102>", "<reserved_103>")] == [195, 196]
    assert {195, 196} <= baichuan.special_ids
    eoh, eoa = (internlm.special_id(name) for name in ("<eoh>", "<eoa>"))
    assert {eoh, eoa} <= internlm.special_ids
    for tokenizer, text in ((baichuan, "a<reserved_102>"), (internlm, "a<eoa>")):
        ids = tokenizer.encode(text)
        assert not tokenizer.special_ids & set(ids) and tokenizer.decode(ids) == text
    # The original read them out of text, and so does transformers' call unless it is told not to.
    assert internlm.hf("a<eoa>").input_ids == [1, *internlm.encode("a"), eoa]
    model = sentencepiece_model(dummy_prefix=False, user_defined=("<eoa>", "读书", "  ", "\u2581\u2581"))
    words = TextTokenizer.load(str(old_tokenizer(tmp_path, "internlm", model=model)))
    reference = sentencepiece.SentencePieceProcessor(model_proto=model)
    for text in ("在江边读书。", "a  b", "   读书读书", "读书 "):
        assert words.encode(text) == reference.encode(text) == words.hf(text, add_special_tokens=False).input_ids
    assert reference.piece_to_id("读书") not in words.special_ids and words.hf.is_fast


@pytest.mark.parametrize("dummy_prefix", [True, False])
@pytest.mark.parametrize("configured", ["names", "nothing", "class of the first release"])
def test_internlm2_names_the_last_of_its_reserved_pieces(
    tmp_path: Path, fragments: list[str], dummy_prefix: bool, configured: str
) -> None:
    """As the chat models' configuration does, and where a base model's says nothing of them."""
    model = internlm2_model(dummy_prefix=dummy_prefix)
    decoder = {str(721 + at): {"content": token, "special": True} for at, token in enumerate(INTERNLM2_TOKENS)}
    more = {"added_tokens_decoder": decoder, "eos_token": "</s>", "pad_token": "</s>"} if configured == "names" else {}
    folder = old_tokenizer(tmp_path / "old", "internlm2", model=model, **more)
    if configured == "class of the first release":
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"tokenizer_class": "InternLMTokenizer"}))
    tokenizer = TextTokenizer.load(str(folder))
    assert tokenizer.hf.is_fast and len(tokenizer) == 727
    assert [tokenizer.special_id(token) for token in INTERNLM2_TOKENS] == [*range(721, 727)]
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.prefix_ids) == (1, 2, 2, (1,))
    assert {*range(700, 727)} <= tokenizer.special_ids
    reference = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model(dummy_prefix=dummy_prefix))
    for text in [*TEXTS[::10], *fragments, "a<|im_end|>b", "[UNUSED_TOKEN_146]user"]:
        assert tokenizer.encode(text) == reference.encode(text) and tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.hf("<|im_start|>user").input_ids[:2] == [1, 726]
    tokenizer.save(tmp_path / "new")
    again = TextTokenizer.load(str(tmp_path / "new"))
    assert again.identity == tokenizer.identity and again.special_ids == tokenizer.special_ids


def test_baichuans_reserved_places_are_special_whatever_their_type(tmp_path: Path) -> None:
    proto = proto_module.ModelProto.FromString(sentencepiece_model(vocab_size=800))
    for index, name in enumerate(["<a>", "<reserved_102>", "<reserved_103>", "<b>"], start=194):
        proto.pieces.insert(index, proto_module.ModelProto.SentencePiece(piece=name, score=-1e4, type=1))
    tokenizer = TextTokenizer.load(str(old_tokenizer(tmp_path, "baichuan", model=proto.SerializeToString())))
    assert tokenizer.hf.is_fast and tokenizer.special_ids == {0, 1, 2, 195, 196}
    assert tokenizer.decode(tokenizer.encode("<reserved_102>")) == "<reserved_102>"
    assert not {195, 196} & set(tokenizer.encode("<reserved_102><reserved_103>"))


@pytest.mark.parametrize("family", ["chatglm2", "baichuan-13b", "internlm"])
def test_an_extended_tokenizer_begins_texts_as_before(
    family: Family, loaded: dict[str, TextTokenizer], tmp_path: Path
) -> None:
    old = loaded[family]
    new = extend_by_corpus(old, ["翰林院里的学士写字", "翰林院里的学士读书"] * 20, 10).tokenizer
    assert new.extends(old) and len(new) == len(old) + 10 and new.special_ids == old.special_ids
    new.save(tmp_path)
    again = TextTokenizer.load(str(tmp_path))
    assert again.prefix_ids == new.prefix_ids == old.prefix_ids and again.identity == new.identity
    assert len(again.encode("翰林院")) < len(old.encode("翰林院"))
    assert again.encode("river") == new.encode("river") == old.encode("river"), "with a dummy prefix or without"


def test_configured_tokens_take_reserved_places_and_follow_the_pieces(tmp_path: Path) -> None:
    decoder = {"690": {"content": "<|im_start|>", "special": True}, "700": {"content": "<|more|>", "special": True}}
    folder = old_tokenizer(tmp_path, "other", added_tokens_decoder=decoder, eos_token={"content": "<|im_start|>"})
    (folder / "added_tokens.json").write_text(json.dumps({"<|last|>": 701}))
    tokenizer = TextTokenizer.load(str(folder))
    assert [tokenizer.special_id(name) for name in ("<|im_start|>", "<|more|>", "<|last|>")] == [690, 700, 701]
    assert tokenizer.eos_id == 690 and {690, 700, 701} <= tokenizer.special_ids
    assert not tokenizer.special_ids & set(tokenizer.encode("<|im_start|><|more|><|last|>"))


def tied() -> bytes:
    # Pairs that overlap, so that it matters which of two equal ones is joined first.
    pairs = {text[at : at + 2] for text in CHINESE for at in range(len(text) - 1)}
    return with_tied_scores(sentencepiece_model(), sorted(pairs))


def unigram() -> bytes:
    return sentencepiece_model(model_type="unigram", vocab_size=400)


def trimmed() -> bytes:
    proto = proto_module.ModelProto.FromString(sentencepiece_model())
    proto.normalizer_spec.remove_extra_whitespaces = True
    return bytes(proto.SerializeToString())


def words_after_dummy_prefix() -> bytes:
    return sentencepiece_model(user_defined=("读书",))


@pytest.mark.parametrize("family", ["baichuan", "baichuan-13b", "chatglm2"])
@pytest.mark.parametrize("make", [tied, unigram, trimmed, words_after_dummy_prefix])
def test_what_merges_cannot_express_is_left_to_sentencepiece(
    make: Any, family: Family, fragments: list[str], tmp_path: Path
) -> None:
    model = make()
    assert fast_backend(model, ["<s>", "</s>"]) is None
    tokenizer = TextTokenizer.load(str(old_tokenizer(tmp_path / "old", family, model=model)))
    assert isinstance(tokenizer.hf, SentencePieceBackend)
    reference = sentencepiece.SentencePieceProcessor(model_proto=model)
    texts = [*TEXTS, *fragments, "".join(fragments), "x<s>"]
    assert tokenizer.encode_batch(texts) == reference.encode(texts)
    tokenizer.save(tmp_path / "new")
    (tmp_path / "new" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    plain = AutoTokenizer.from_pretrained(tmp_path / "new")
    assert [plain(text, add_special_tokens=False).input_ids for text in texts[:-1]] == reference.encode(texts[:-1])
    again = TextTokenizer.load(str(tmp_path / "new"))
    assert again.encode_batch(texts) == reference.encode(texts)
    expected = {"baichuan": ["<s>"], "baichuan-13b": [], "chatglm2": ["[gMASK]", "sop"]}[family]
    assert [tokenizer.pieces()[index] for index in tokenizer.prefix_ids] == expected
    assert again.prefix_ids == tokenizer.prefix_ids
    assert again.identity == tokenizer.identity and again.special_ids == tokenizer.special_ids
