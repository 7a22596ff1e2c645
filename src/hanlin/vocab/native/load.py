"""A folder of 2023 as a tokenizer of transformers, with the family's prefix, special tokens and padding."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hanlin.errors import UserError
from hanlin.vocab import spm
from hanlin.vocab.native import tiktoken_file as tiktoken
from hanlin.vocab.native.description import Description
from hanlin.vocab.native.recognise import BAICHUAN, CHATGLM, FAST, GLM4, INTERNLM2, QWEN, Family, recognise
from hanlin.vocab.native.sentencepiece_file import fast_backend, marker_pieces, renamed, slow_tokenizer
from hanlin.vocab.pretrained import from_folder

CHATGLM_COMMANDS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")
"""After the pieces of the ChatGLM2 model (64789 to 64793)."""
CHATGLM_PREFIX = ("[gMASK]", "sop")
"""Before every text."""
CHATGLM3_ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
"""Those that ChatGLM3 adds (64794 to 64797)."""
GLM4_PREFIX = ("[gMASK]", "<sop>")
"""Before every text."""
INTERNLM2_NAMES = {
    "[UNUSED_TOKEN_146]": "<|im_start|>",
    "[UNUSED_TOKEN_145]": "<|im_end|>",
    "[UNUSED_TOKEN_144]": "<|action_start|>",
    "[UNUSED_TOKEN_143]": "<|action_end|>",
    "[UNUSED_TOKEN_142]": "<|interpreter|>",
    "[UNUSED_TOKEN_141]": "<|plugin|>",
}
"""Reserved pieces (92543 down to 92538) under the names that the chat models give them; base models and the first
releases name none."""
BAICHUAN_ROLES = (195, 196)
"""Reserved pieces that mark the user's and the assistant's turn."""


@dataclass(frozen=True, slots=True)
class NativeTokenizer:
    """What was built from a folder."""

    hf: PreTrainedTokenizerBase
    model: bytes | None = None
    """The SentencePiece model, which then encodes."""
    prefix: tuple[str, ...] = ()
    """Tokens before every text."""


def load_native(folder: Path, place: str) -> NativeTokenizer | None:
    """Build the tokenizer in ``folder``; None where transformers loads it by itself.

    Raises UserError at ``place`` when the vocabulary is missing or only code from the checkpoint could read it.
    """
    described = Description.read(folder)
    family = recognise(described, place)
    if family is None:
        return None
    if not described.has(family.file):
        raise UserError(
            place,
            f"{folder} holds a {family.name} tokenizer without its vocabulary",
            expected=f"{family.file} in it",
            mend="complete the download",
        )
    if family is QWEN:
        return _qwen(described)
    if family is GLM4:
        return _glm4(described)
    if family is FAST:
        return NativeTokenizer(from_folder(folder, place, kind=PreTrainedTokenizerFast)[0])
    return _sentencepiece(family, described, place)


def _qwen(described: Description) -> NativeTokenizer:
    path = described.folder / QWEN.file
    ranks = tiktoken.read_ranks(path)
    has_vision = "visual" in described.model or described.code_mentions(tiktoken.VISION_SPECIAL[-1])
    special = (*tiktoken.SPECIAL, *(tiktoken.VISION_SPECIAL if has_vision else ()))
    backend = tiktoken.tiktoken_backend(ranks, special)
    tiktoken.check_agreement(backend, ranks, path)
    size = len(ranks) + len(special)
    further = {index: token for index, token in described.added_tokens().items() if index >= size}
    backend.add_special_tokens(_added(further, size, described.folder))
    end = tiktoken.END_OF_TEXT
    return NativeTokenizer(_wrap(backend, described, eos_token=end, pad_token=end))


def _glm4(described: Description) -> NativeTokenizer:
    path = described.folder / GLM4.file
    ranks = tiktoken.read_ranks(path)
    backend = tiktoken.tiktoken_backend(ranks, (), pattern=tiktoken.GLM4_PATTERN, composed=False)
    tiktoken.check_agreement(backend, ranks, path)
    named = {index: token for index, token in described.added_tokens().items() if index >= len(ranks)}
    named = named or dict(enumerate(tiktoken.GLM4_SPECIAL, start=len(ranks)))
    backend.add_special_tokens(_added(named, len(ranks), described.folder))
    lacking = [token for token in (*GLM4_PREFIX, tiktoken.END_OF_TEXT) if token not in named.values()]
    if lacking:
        raise UserError(described.folder, f"names no token {lacking[0]}", expected="the special tokens of GLM-4")
    _put_before(backend, GLM4_PREFIX)
    end = described.token_of("eos") or tiktoken.END_OF_TEXT
    pad = described.token_of("pad") or tiktoken.END_OF_TEXT
    return NativeTokenizer(_wrap(backend, described, eos_token=end, pad_token=pad), prefix=GLM4_PREFIX)


def _sentencepiece(family: Family, described: Description, place: str) -> NativeTokenizer:
    configured = described.added_tokens()
    model = spm.read_model(described.folder / family.file, place=place)
    if family is INTERNLM2:
        pieces = enumerate(piece.piece for piece in spm.parse(model).pieces)
        configured = {index: INTERNLM2_NAMES[piece] for index, piece in pieces if piece in INTERNLM2_NAMES} | configured
    model = renamed(model, configured)
    proto = spm.parse(model)
    size = len(proto.pieces)
    roles = _roles(proto, described)
    further = {index: token for index, token in configured.items() if index >= size}
    prefix: tuple[str, ...] = ()
    if family in (CHATGLM, BAICHUAN):
        roles.setdefault("pad", roles["unk"])
    if family is INTERNLM2:
        roles.setdefault("pad", roles["eos"])
    if family is CHATGLM:
        commands = (*CHATGLM_COMMANDS, *(CHATGLM3_ROLES if _is_chatglm3(described) else ()))
        further |= dict(enumerate(commands, start=size))
        prefix = CHATGLM_PREFIX
    elif described.tokenizer.get("add_bos_token", family.add_bos) and "bos" in roles:
        prefix = (roles["bos"],)
    added = _added(further, size, described.folder)
    names = {piece.piece for piece in proto.pieces} - {roles["unk"]}
    special = {*marker_pieces(proto, BAICHUAN_ROLES if family is BAICHUAN else ())}
    special |= names.intersection((*roles.values(), *configured.values()))
    tokens: dict[str, Any] = {f"{role}_token": token for role, token in roles.items()}
    if family is not CHATGLM:
        tokens |= {"add_bos_token": bool(prefix), "add_eos_token": False}
    backend = fast_backend(model, special)
    if backend is None:
        slow = slow_tokenizer(model, **tokens, **described.settings())
        slow.add_tokens([AddedToken(token, special=True, normalized=False) for token in sorted(special)])
        slow.add_tokens(added)
        return NativeTokenizer(slow, model, prefix)
    backend.add_special_tokens(added)
    if family is CHATGLM:
        # Nowhere is a command read out of text, "sop" in "sophomore" least of all; transformers keeps this setting.
        tokens["split_special_tokens"] = True
        _put_before(backend, prefix)
    dummy_prefix = proto.normalizer_spec.add_dummy_prefix
    return NativeTokenizer(_wrap(backend, described, add_prefix_space=dummy_prefix, **tokens), model, prefix)


def _roles(proto: Any, described: Description) -> dict[str, str]:
    """The tokens of the roles ``bos``, ``eos``, ``unk`` and ``pad``: as configured, else the model's own."""
    spec = proto.trainer_spec
    own = {"bos": spec.bos_id, "eos": spec.eos_id, "unk": spec.unk_id, "pad": spec.pad_id}
    roles = {role: proto.pieces[index].piece for role, index in own.items() if 0 <= index < len(proto.pieces)}
    return roles | {role: token for role in own if (token := described.token_of(role)) is not None}


def _is_chatglm3(described: Description) -> bool:
    """Whether the folder is of the third generation, whose vocabulary and model configuration are the second's."""
    role = CHATGLM3_ROLES[-1]
    is_named = "chatglm3" in str(described.model.get("_name_or_path", "")).lower()
    return is_named or role in json.dumps(described.tokenizer) or described.code_mentions(role)


def _added(tokens: Mapping[int, str], size: int, folder: Path) -> list[AddedToken]:
    """Special tokens behind a vocabulary of ``size``, in id order; UserError when their ids leave a gap."""
    for expected, index in enumerate(sorted(tokens), start=size):
        if index != expected:
            raise UserError(
                folder,
                f"its added token {tokens[index]!r} has id {index}, but no token has id {expected}",
                expected="the ids behind the vocabulary without a gap",
            )
    return [AddedToken(tokens[index], special=True, normalized=False) for index in sorted(tokens)]


def _put_before(backend: Tokenizer, prefix: Sequence[str]) -> None:
    backend.post_processor = processors.TemplateProcessing(
        single=[*prefix, "$A"],
        pair=[*prefix, "$A", "$B:1"],
        special_tokens=[(token, backend.token_to_id(token)) for token in prefix],
    )


def _wrap(backend: Tokenizer, described: Description, **tokens: Any) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, clean_up_tokenization_spaces=False, **described.settings(), **tokens
    )
