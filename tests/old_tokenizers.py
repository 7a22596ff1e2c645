"""Tokenizer folders as they were given out in 2023, with small vocabularies trained here: no code, no weights.

``tokenizer_config.json`` names the class of the code that lay beside it then; the code itself is not needed.
"""

from __future__ import annotations

import base64
import functools
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as proto_module
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from vocab_texts import CHINESE, ENGLISH

TEXTS = [
    *ENGLISH,
    *CHINESE,
    "aaaa aaaaaaaa  bbbb    \t\n\n----==== 1234567890",
    "Ünïcödé naïve café 한국어 русский ελληνικά 日本語",
]
SPECIAL_PIECES = 208
"""<|endoftext|>, <|im_start|>, <|im_end|> and 205 extra tokens of Qwen."""
GLM4_TOKENS = (
    "<|endoftext|> [MASK] [gMASK] [sMASK] <sop> <eop> <|system|> <|user|> <|assistant|> <|observation|> "
    "<|begin_of_image|> <|end_of_image|> <|begin_of_video|> <|end_of_video|>"
).split()
INTERNLM2_TOKENS = ["<|plugin|>", "<|interpreter|>", "<|action_end|>", "<|action_start|>", "<|im_end|>", "<|im_start|>"]
"""By id: the last six pieces, 92538 to 92543 in the released file."""
Family = Literal[
    "qwen", "qwen-vl", "chatglm2", "chatglm3", "glm4", "baichuan", "baichuan-13b", "internlm", "internlm2", "polylm",
    "other",
]  # fmt: skip
CLASSES = {
    "chatglm2": "ChatGLMTokenizer",
    "chatglm3": "ChatGLMTokenizer",
    "baichuan": "BaichuanTokenizer",
    "baichuan-13b": "BaichuanTokenizer",
    "internlm": "InternLMTokenizer",
    "internlm2": "InternLM2Tokenizer",
    "other": "NobodyKnowsTokenizer",
}


@functools.cache
def tiktoken_ranks(num_merges: int = 600) -> Mapping[bytes, int]:
    """A vocabulary of 256 bytes and ``num_merges`` tokens, learned by the tokenizers library on cl100k-like words."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=256 + num_merges, initial_alphabet=alphabet, show_progress=False)
    learner.train_from_iterator(TEXTS, trainer)
    # The alphabet once more, plainly: printable Latin-1 is itself, the other bytes follow from 256 on.
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    byte_of = {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}
    pieces = sorted(learner.get_vocab().items(), key=lambda item: item[1])
    tokens = [bytes(byte_of[char] for char in piece) for piece, _ in pieces]
    return {token: rank for rank, token in enumerate(tokens)}


@functools.cache
def sentencepiece_model(
    *, dummy_prefix: bool = True, user_defined: tuple[str, ...] = (), vocab_size: int = 700, model_type: str = "bpe"
) -> bytes:
    """A model with byte fallback and no normalisation, as these families have."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_writer=written,
        model_type=model_type,
        vocab_size=vocab_size,
        byte_fallback=True,
        add_dummy_prefix=dummy_prefix,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        user_defined_symbols=list(user_defined),
        num_threads=1,
        minloglevel=2,
    )
    return written.getvalue()


def with_tied_scores(model: bytes, pieces: Sequence[str]) -> bytes:
    """The model with ``pieces`` at its end, all of score 0, as vocabularies were merged in 2023."""
    proto = proto_module.ModelProto.FromString(model)
    known = {piece.piece for piece in proto.pieces}
    for piece in pieces:
        if piece not in known:
            proto.pieces.add(piece=piece, score=0.0)
    return bytes(proto.SerializeToString())


def old_tokenizer(directory: Path, family: Family, *, model: bytes | None = None, **config: Any) -> Path:
    """Write the folder of a tokenizer; ``model`` replaces the vocabulary, ``config`` adds to tokenizer_config.json."""
    directory.mkdir(parents=True, exist_ok=True)
    described: dict[str, Any] = {"model_max_length": 4096, **config}
    config_json: dict[str, Any] = {"model_type": family.partition("-")[0]}
    if family.startswith("qwen"):
        lines = [base64.b64encode(token) + b" %d\n" % rank for token, rank in tiktoken_ranks().items()]
        (directory / "qwen.tiktoken").write_bytes(b"".join(lines))
        described |= {"auto_map": {"AutoTokenizer": ["tokenization_qwen.QWenTokenizer", None]}}
        config_json |= {"visual": {"image_start_id": 151857}} if family == "qwen-vl" else {}
    elif family == "glm4":
        lines = [base64.b64encode(token) + b" %d\n" % rank for token, rank in tiktoken_ranks().items()]
        (directory / "tokenizer.model").write_bytes(b"".join(lines))
        entries = {str(len(lines) + at): {"content": token, "special": True} for at, token in enumerate(GLM4_TOKENS)}
        described = {
            "tokenizer_class": "ChatGLM4Tokenizer", "added_tokens_decoder": entries, "eos_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>", "auto_map": {"AutoTokenizer": ["tokenization.ChatGLM4Tokenizer", None]},
        } | described  # fmt: skip
        config_json = {"model_type": "chatglm", "padded_vocab_size": 151552}
    elif family == "polylm":
        described |= {"tokenizer_class": "LlamaTokenizer"}
        config_json = {"model_type": "gpt2"}
        (directory / "tokenizer.model").write_bytes(model or sentencepiece_model())
    else:
        name = CLASSES[family]
        described |= {"tokenizer_class": name, "auto_map": {"AutoTokenizer": [f"tokenization.{name}", None]}}
        (directory / "tokenizer.model").write_bytes(model or _model_of(family))
    if family == "baichuan-13b":
        described |= {"add_bos_token": False}
    if family.startswith("chatglm"):
        config_json = {"model_type": "chatglm", "_name_or_path": f"THUDM/{family}-6b"}
    (directory / "tokenizer_config.json").write_text(json.dumps(described), encoding="utf-8")
    (directory / "config.json").write_text(json.dumps(config_json), encoding="utf-8")
    return directory


def _model_of(family: Family) -> bytes:
    if family == "internlm2":
        return internlm2_model()
    if family == "internlm":
        return sentencepiece_model(dummy_prefix=False, user_defined=("<eoh>", "<eoa>"))
    if family.startswith("baichuan"):
        # The trainer puts user-defined pieces right after <unk>, <s> and </s>.
        reserved = tuple(f"<reserved_{index - 93}>" for index in range(93, 197))
        return sentencepiece_model(user_defined=(*(f"<token_{n}>" for n in range(90)), *reserved), vocab_size=900)
    return sentencepiece_model()


def internlm2_model(*, dummy_prefix: bool = True) -> bytes:
    """With reserved pieces at its end, the last of which the chat models give names to."""
    proto = proto_module.ModelProto.FromString(sentencepiece_model(dummy_prefix=dummy_prefix))
    for number in range(120, 147):
        proto.pieces.add(
            piece=f"[UNUSED_TOKEN_{number}]", score=0.0, type=proto_module.ModelProto.SentencePiece.USER_DEFINED
        )
    return bytes(proto.SerializeToString())
