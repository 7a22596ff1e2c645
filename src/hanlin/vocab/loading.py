"""Tokenizers from files: a folder of today, a folder of 2023, or a SentencePiece model alone. No network is asked:
whoever has a hub id fetches its files first (``model.hub``)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import sentencepiece
from tokenizers import AddedToken
from transformers import AutoTokenizer, LlamaTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hanlin.errors import UserError
from hanlin.vocab import spm
from hanlin.vocab.native import QWEN_FILE, Description, load_native
from hanlin.vocab.pretrained import from_folder, from_pretrained, names_empty_tokens
from hanlin.vocab.tokenizer import MODEL_FILE, RECORD_FILE, TextTokenizer

_VOCABULARIES = ("tokenizer.json", "*.model", "*.tiktoken", "vocab*", "merges.txt", "tekken.json", "*.spm", "*.vocab")
"""Patterns of the files of which a described tokenizer needs one."""


def load_tokenizer(path: str, place: str = "--tokenizer") -> TextTokenizer:
    """Read a tokenizer from a folder or a SentencePiece file (``.../tokenizer.model``).

    Code that comes with a tokenizer is never run. Raises UserError at ``place`` when there is nothing to read.
    """
    local = Path(path).expanduser()
    if local.is_dir():
        return _with_record(_from_folder(local, place), local)
    if local.is_file():
        described = (local.parent / "tokenizer_config.json").is_file()
        if local.suffix == ".json" or local.name == QWEN_FILE or (local.name == MODEL_FILE and described):
            return _with_record(_from_folder(local.parent, place), local.parent)
        return from_sentencepiece(spm.read_model(local, place=place), source=local.parent)
    raise UserError(place, f"{path} does not exist", expected="a folder, a tokenizer.model file or a hub id")


def from_sentencepiece(
    model: bytes,
    *,
    bos_token: str | None = None,
    eos_token: str | None = None,
    pad_token: str | None = None,
    special_tokens: Sequence[str] = (),
    like: PreTrainedTokenizerBase | None = None,
    source: Path | None = None,
) -> TextTokenizer:
    """A tokenizer from the bytes of a SentencePiece model alone, as LLaMA was first given out.

    BOS and EOS are the model's own unless named; ``special_tokens`` are further pieces that text never becomes.
    The transformers object puts BOS before a text, as LLaMA does (left to itself, transformers 5.23 would not for
    a folder without a configuration). ``like`` lends its chat template, length limit and BOS/EOS rule.
    """
    proto = spm.parse(model)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    tokens: dict[str, str] = {}
    for name, given, own in (
        ("bos_token", bos_token, processor.bos_id()),
        ("eos_token", eos_token, processor.eos_id()),
        ("unk_token", None, processor.unk_id()),
        ("pad_token", pad_token, processor.pad_id()),
    ):
        if given is not None:
            tokens[name] = given
        elif own >= 0:
            tokens[name] = processor.id_to_piece(own)
    # from_pretrained needs a folder: LlamaTokenizer(vocab_file=...) silently gives a tokenizer of three tokens.
    rules: dict[str, Any] = {"add_bos_token": "bos_token" in tokens, "add_eos_token": False, "legacy": True}
    for name in ("add_bos_token", "add_eos_token", "add_prefix_space", "model_max_length"):
        if getattr(like, name, None) is not None:
            rules[name] = getattr(like, name)
    with TemporaryDirectory() as folder:
        (Path(folder) / MODEL_FILE).write_bytes(model)
        if proto.trainer_spec.model_type == spm.BPE_MODEL:
            hf = LlamaTokenizer.from_pretrained(folder, **rules, **tokens)
        else:
            hf = AutoTokenizer.from_pretrained(folder, **tokens)
    hf.name_or_path = str(source) if source else ""
    hf.add_tokens([AddedToken(token, special=True, normalized=False) for token in special_tokens])
    if like is not None:
        hf.chat_template = like.chat_template
    return TextTokenizer(hf, model=model, source=source)


def _from_folder(folder: Path, place: str) -> TextTokenizer:
    native = load_native(folder, place)
    if native is not None:
        tokenizer = TextTokenizer(native.hf, model=native.model, prefix=native.prefix, source=folder)
        tokenizer.is_converted = True
        return tokenizer
    model_file = folder / MODEL_FILE
    described = any((folder / name).is_file() for name in ("tokenizer_config.json", "tokenizer.json"))
    if not described and not model_file.is_file():
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            return TextTokenizer(from_pretrained(folder, place), source=folder)
        raise UserError(
            place,
            f"{folder} holds no tokenizer",
            expected="tokenizer.json, tokenizer_config.json or tokenizer.model in it",
        )
    if not any(path for pattern in _VOCABULARIES for path in folder.glob(pattern)):
        # transformers 5.23 would give a tokenizer of three tokens in silence.
        raise UserError(
            place,
            f"{folder} holds tokenizer_config.json, but no vocabulary",
            expected="tokenizer.json or tokenizer.model in it",
            mend="complete the download, or name another tokenizer with --tokenizer",
        )
    data = model_file.read_bytes() if model_file.is_file() else None
    model = data if data is not None and spm.is_model(data) else None
    if not described:
        return from_sentencepiece(spm.read_model(model_file, place=place), source=folder)
    if model is not None and names_empty_tokens(folder):
        return from_sentencepiece(model, source=folder)
    # What was built from qwen.tiktoken: beside a Qwen2 model transformers would take its Qwen2Tokenizer, which
    # builds another one from the vocabulary and the merges.
    kind = PreTrainedTokenizerFast if (folder / QWEN_FILE).is_file() else AutoTokenizer
    hf, is_repaired = from_folder(folder, place, kind=kind)
    tokenizer = TextTokenizer(hf, model=model, source=folder)
    tokenizer.is_converted = is_repaired
    return tokenizer


def _with_record(tokenizer: TextTokenizer, folder: Path) -> TextTokenizer:
    """Take over what ``save`` wrote for hanlin alone, and the original of a converted vocabulary."""
    record_file, original = folder / RECORD_FILE, folder / QWEN_FILE
    if record_file.is_file():
        try:
            record = json.loads(record_file.read_text(encoding="utf-8"))
            tokenizer.pad_to_multiple_of = record.get("pad_to_multiple_of")
            if "prefix" in record:
                tokenizer.prefix_ids = tuple(tokenizer.special_id(token) for token in record["prefix"])
        except (ValueError, AttributeError) as error:
            raise UserError(
                record_file, "is not a JSON object", mend="delete it, or run hanlin tokenizer again"
            ) from error
    # transformers has the same attribute, false as well where nothing is said.
    if Description.read(folder).tokenizer.get("add_bos_token") is False and tokenizer.prefix_ids == (tokenizer.bos_id,):
        tokenizer.prefix_ids = ()
    if original.is_file():
        tokenizer.tiktoken_file = original.read_bytes()
    return tokenizer
