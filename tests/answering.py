"""Tiny models whose answers are known, and a tokenizer with byte fallback: ``from answering import ...``."""

from __future__ import annotations

import functools
import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import sentencepiece
import torch
from transformers import LlamaForCausalLM

from hanlin.model.identity import Record, write_record
from hanlin.vocab.tokenizer import TextTokenizer
from tiny import tiny_adapter, tiny_llama

TEXT = """\
床前明月光，疑是地上霜。举头望明月，低头思故乡。
The answer of the model is short. What is the capital of the country?
白日依山尽，黄河入海流。欲穷千里目，更上一层楼。
[INST] <<SYS>> You are a helpful assistant. <</SYS>> [/INST]
### Instruction: Write a response that appropriately completes the request. ### Response:
"""


@functools.cache
def sentencepiece_bytes(vocab_size: int = 480) -> bytes:
    """A SentencePiece BPE model with byte fallback, as Llama's: 😀 and most Chinese are several byte pieces."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()),
        model_writer=model,
        vocab_size=vocab_size,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=0.98,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return model.getvalue()


@functools.cache
def tokenizer() -> TextTokenizer:
    """The tokenizer of all tiny models here; read only."""
    return TextTokenizer.from_sentencepiece(sentencepiece_bytes())


def save_model(directory: Path, *, template: str | None = None, seed: int = 0, **config: object) -> Path:
    """A random Llama with the tokenizer and, with ``template``, a record that names it."""
    tiny_llama(directory, vocab_size=len(tokenizer()), seed=seed, **config)  # type: ignore[arg-type]
    tokenizer().save(directory)
    if template is not None:
        write_record(directory, record("model", None, template))
    return directory


def save_adapter(
    directory: Path, base: Path, *, template: str | None = "llama2-zh", named: str | None = None, **adapter: object
) -> Path:
    """A random adapter of ``base`` with tokenizer and record, as training leaves it."""
    tiny_adapter(directory, base, **adapter)  # type: ignore[arg-type]
    tokenizer().save(directory)
    write_record(directory, record("adapter", named or str(base), template))
    return directory


def record(kind: str, base: str | None, template: str | None, system: str | None = None) -> Record:
    """A record of the tokenizer here."""
    return Record(
        kind=kind,  # type: ignore[arg-type]
        stage="sft",
        base_model=base,
        base_identity=None,
        tokenizer_identity=tokenizer().identity,
        template=template,
        system=system,
        chain=(),
        base_vocab_rows=None,
        hanlin_version="0",
    )


def teach(directory: Path, following: Mapping[int, int]) -> Path:
    """Make the model in ``directory`` answer each id of ``following`` with the id it names, whatever came before.

    All layers pass their input on unchanged, so that the head sees the embedding of the last id alone; the head's row
    of the next id is that embedding.
    """
    model = LlamaForCausalLM.from_pretrained(directory)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        head = torch.zeros_like(model.lm_head.weight)
        for last, following_id in following.items():
            row = model.model.embed_tokens.weight[last]
            head[following_id] = row / row.norm()
        model.lm_head.weight.copy_(head)
    model.save_pretrained(directory)
    return directory


def chain(ids: Sequence[int]) -> dict[int, int]:
    """Each id to the next; the ids must differ, since the taught model sees only the last one."""
    assert len(set(ids)) == len(ids), "an id occurs twice"
    return dict(itertools.pairwise(ids))
