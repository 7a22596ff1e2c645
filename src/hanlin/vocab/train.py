"""A tokenizer from nothing but a corpus: SentencePiece BPE with LLaMA's settings, or byte-level BPE."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from hanlin.errors import UserError
from hanlin.vocab.tokenizer import TextTokenizer

MAX_LINE_BYTES = 1 << 16
"""SentencePiece skips longer lines in silence (its own default is 4,192 bytes); longer ones are cut here."""

SEPARATORS = re.compile("[\v\f\x1c-\x1e\x85\u2028\u2029]")
"""Where ``str.splitlines`` ends a line beside the ordinary line ends, which are no text to learn from."""

WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How text is cut before byte-level merges: the expression of Qwen2's tokenizer, which llama.cpp knows as ``qwen2``."""


def train_sentencepiece(
    texts: Iterable[str],
    vocab_size: int,
    *,
    character_coverage: float = 0.9995,
    max_piece_length: int = 16,
    pad_token: str | None = None,
    special_tokens: Sequence[str] = (),
    notify: Callable[[str], None] | None = None,
) -> TextTokenizer:
    """A SentencePiece BPE model of ``vocab_size`` pieces, of which 3 are control pieces and 256 bytes.

    Settings are LLaMA's (read from its model file): byte fallback, digits alone, a dummy prefix, and no normalising at
    all, so that every text decodes to itself (U+2581 excepted, which stands for a space). ``<unk>``, ``<s>`` and
    ``</s>`` have the ids 0, 1 and 2; pad and special tokens follow as control pieces. The same corpus gives the same
    bytes. ``notify`` takes one line when characters of ``texts`` were left out.
    """
    control = [*([pad_token] if pad_token else []), *special_tokens]
    output = io.BytesIO()
    lines = _Lines(texts)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=output,
            model_type="bpe",
            vocab_size=vocab_size,
            character_coverage=character_coverage,
            max_sentencepiece_length=max_piece_length,
            control_symbols=control,
            byte_fallback=True,
            split_digits=True,
            allow_whitespace_only_pieces=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=True,
            max_sentence_length=MAX_LINE_BYTES,
            num_threads=4,  # written into the file, so a fixed number: the bytes do not depend on the machine
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _explained(str(error), vocab_size) from error
    if notify is not None and (lines.num_nul or lines.num_separators):
        notify(
            f"{lines.num_nul:,} characters that the trainer cannot hold (NUL) and {lines.num_separators:,} line "
            "separators (such as U+2028 and U+0085) were left out of the training text"
        )
    return TextTokenizer.from_sentencepiece(output.getvalue(), pad_token=pad_token, special_tokens=special_tokens)


def train_byte_level(
    texts: Iterable[str],
    vocab_size: int,
    *,
    eos_token: str = "<|endoftext|>",
    max_piece_length: int = 16,
    pad_token: str | None = None,
    special_tokens: Sequence[str] = (),
) -> TextTokenizer:
    """A byte-level BPE tokenizer of ``vocab_size`` tokens: 256 bytes, merges, and the special tokens at the end.

    ``eos_token`` ends a text and separates documents; there is no BOS, as in Qwen. Every text decodes to itself.
    """
    special = list(dict.fromkeys([eos_token, *([pad_token] if pad_token else []), *special_tokens]))
    if vocab_size < 256 + len(special):
        raise UserError(
            "--vocab_size", f"is {vocab_size}", expected=f"at least {256 + len(special)}: bytes and special"
        )
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(special),
        min_frequency=2,
        # Bytes: a Han character has three.
        max_token_length=3 * max_piece_length,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    counted = _Counted(texts)
    backend.train_from_iterator(counted, trainer)
    if not counted.any_text:
        raise UserError("--corpus", "holds no text", expected="some lines of text to learn from")
    reached = backend.get_vocab_size() + len(special)
    if reached < vocab_size:
        raise _too_large(vocab_size, reached)
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    hf = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=eos_token,
        extra_special_tokens=[token for token in special if token not in (eos_token, pad_token)],
        **({"pad_token": pad_token} if pad_token else {}),
    )
    return TextTokenizer(hf)


class _Counted:
    """An iterator over texts that remembers whether there was anything in them."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = iter(texts)
        self.any_text = False

    def __iter__(self) -> Iterator[str]:
        for text in self._texts:
            self.any_text = self.any_text or bool(text.strip())
            yield text


class _Lines:
    """Lines of texts as SentencePiece takes them: none empty, none above the limit, no NUL, on which it drops a line.

    Lines end where ``str.splitlines`` ends them. What goes with that beyond ordinary line ends is counted.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = texts
        self.num_nul = 0
        self.num_separators = 0

    def __iter__(self) -> Iterator[str]:
        limit = MAX_LINE_BYTES // 4  # characters; UTF-8 has at most four bytes for one
        for text in self._texts:
            self.num_nul += text.count("\0")
            self.num_separators += len(SEPARATORS.findall(text))
            for line in text.replace("\0", "").splitlines():
                if line.strip():
                    yield from (line[start : start + limit] for start in range(0, len(line), limit))


def _explained(message: str, vocab_size: int) -> UserError:
    """SentencePiece's message as one of ours."""
    if match := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return UserError(
            "--vocab_size",
            f"is {vocab_size}, and the characters of the corpus with the bytes already need {match[1]}",
            expected=f"at least {match[1]}",
            mend="raise it, or lower --character_coverage so that rare characters stay bytes",
        )
    if match := re.search(r"set it to a value <= (\d+)", message):
        return _too_large(vocab_size, int(match[1]))
    if "sentences_.empty()" in message:
        return UserError("--corpus", "holds no text", expected="some lines of text to learn from")
    return UserError("--corpus", f"SentencePiece cannot train on it ({message.splitlines()[0]})")


def _too_large(vocab_size: int, possible: int) -> UserError:
    return UserError(
        "--vocab_size",
        f"is {vocab_size}, more than the corpus can supply",
        expected=f"at most {possible}",
        mend="lower it or give more text",
    )
