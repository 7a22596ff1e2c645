"""``hanlin tokenizer train | extend | report``."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hanlin.commands.fetched import fetched_path, fetched_tokenizer
from hanlin.config.tokenizer import TokenizerExtend, TokenizerReport, TokenizerTrain
from hanlin.data.documents import read_documents
from hanlin.data.ledger import Ledger
from hanlin.errors import UserError
from hanlin.files import write_json
from hanlin.types import Document, Place
from hanlin.vocab import spm
from hanlin.vocab.byte_level import extend_by_tokenizer, extend_bytes_by_corpus, extend_bytes_by_pad
from hanlin.vocab.extend import Extension, extend_by_corpus, extend_by_model, extend_by_pad
from hanlin.vocab.measure import Counts, Vocabulary, describe, measure
from hanlin.vocab.script import SCRIPTS
from hanlin.vocab.tokenizer import MODEL_FILE, TextTokenizer
from hanlin.vocab.train import train_byte_level, train_sentencepiece

SAMPLE = "人工智能是计算机科学、心理学、哲学等学科融合的交叉学科。"
"""The example of the Chinese-LLaMA report (35 tokens with LLaMA, 16 with its extension)."""

NUM_SHOWN = 12
"""Pieces, failures and the like that are printed; the JSON report has more."""


def train(config: TokenizerTrain) -> int:
    """Train a tokenizer on a corpus and save it; returns the exit status."""
    console = Console(highlight=False)
    output = _claim(config.output_dir, overwrite=config.overwrite)
    corpus = _Corpus(config)
    with console.status("learning pieces"):
        if config.kind == "sentencepiece":
            tokenizer = train_sentencepiece(
                corpus.texts(),
                config.vocab_size,
                character_coverage=config.character_coverage,
                max_piece_length=config.max_piece_length,
                pad_token=config.pad_token,
                special_tokens=config.special_tokens,
                notify=partial(console.print, soft_wrap=True),
            )
        else:
            tokenizer = train_byte_level(
                corpus.texts(),
                config.vocab_size,
                max_piece_length=config.max_piece_length,
                pad_token=config.pad_token,
                special_tokens=config.special_tokens,
            )
    tokenizer.save(output)
    corpus.print_account(console)
    console.print(f"{len(tokenizer):,} tokens, special {_named(tokenizer)}; written to {escape(str(output))}")
    return 0


def extend(config: TokenizerExtend) -> int:
    """Add pieces to a tokenizer, save it and print what changed; returns the exit status."""
    console = Console(highlight=False)
    old = fetched_tokenizer(config.tokenizer, "--tokenizer", config.hub)
    output = _claim(config.output_dir, overwrite=config.overwrite)
    corpus = _Corpus(config)
    with console.status("adding pieces"):
        extension = _extend(old, config, corpus)
    if extension.missing:
        raise UserError(
            "--vocab_size",
            f"is {config.vocab_size}, more than the corpus can supply",
            expected=f"at most {config.vocab_size - extension.missing}",
            mend="lower it or give more text",
        )
    tokenizer = extension.tokenizer
    tokenizer.pad_to_multiple_of = config.pad_to_multiple_of
    tokenizer.save(output)
    corpus.print_account(console)
    _print_extension(console, old, extension, config)
    console.print(f"written to {escape(str(output))}")
    return 0


def report(config: TokenizerReport) -> int:
    """Describe a tokenizer, alone or beside an older one, on the user's text; returns the exit status."""
    console = Console(highlight=False)
    names = {"after": config.tokenizer} | ({"before": config.before} if config.before else {})
    tokenizers = {
        name: fetched_tokenizer(path, "--tokenizer" if name == "after" else "--before", config.hub)
        for name, path in names.items()
    }
    corpus = _Corpus(config)
    vocabularies = {name: describe(tokenizer) for name, tokenizer in tokenizers.items()}
    counts: dict[str, Counts] = {}
    if config.corpus or config.text is not None:
        for name, tokenizer in tokenizers.items():
            pairs = ((str(document.place), document.text) for document in corpus.documents())
            counts[name] = measure(tokenizer, pairs)
    _print_vocabulary(console, vocabularies)
    if counts:
        _print_counts(console, counts)
        _print_failures(console, counts["after"])
    if config.text is not None:
        for name in ("before", "after"):
            if name in tokenizers:
                _print_pieces(console, name, tokenizers[name], config.text)
    corpus.print_account(console)
    if config.json is not None:
        result: dict[str, Any] = {
            name: {"path": names[name], "vocabulary": asdict(vocabularies[name])}
            | ({"text": counts[name].as_dict()} if name in counts else {})
            for name in names
        }
        if "before" in tokenizers:
            result["extends_before"] = tokenizers["after"].extends(tokenizers["before"])
        _write_json(Path(config.json), result)
        console.print(f"written to {escape(config.json)}")
    return 0


class _Corpus:
    """The text of a verb and the account of what could not be read. It can be read several times."""

    def __init__(self, config: TokenizerTrain | TokenizerExtend | TokenizerReport) -> None:
        self._config = config
        self._ledger = Ledger()

    def documents(self) -> Iterator[Document]:
        """Documents from the start, up to ``--max_characters``."""
        self._ledger = Ledger()
        config = self._config
        if not config.corpus:
            if isinstance(config, TokenizerReport) and config.text is not None:
                yield Document(config.text, Place("--text"))
            return
        left = config.max_characters
        for document in read_documents(
            config.corpus,
            ledger=self._ledger,
            document=config.document,
            text_field=config.text_field,
            place="--corpus",
        ):
            if left is not None:
                if left <= 0:
                    return
                document = Document(document.text[:left], document.place)
                left -= len(document.text)
            yield document

    def texts(self) -> Iterator[str]:
        """As ``documents``, the text alone."""
        return (document.text for document in self.documents())

    def print_account(self, console: Console) -> None:
        """Rows that were not used, if any."""
        if self._ledger.entries:
            console.print(self._ledger.table())


def _extend(old: TextTokenizer, config: TokenizerExtend, corpus: _Corpus) -> Extension:
    pad = config.pad_token
    learning: dict[str, Any] = {"max_piece_length": config.max_piece_length, "pad_token": pad}
    if old.is_byte_level:
        if config.pieces_from is not None:
            other = fetched_tokenizer(config.pieces_from, "--pieces_from", config.hub)
            return extend_by_tokenizer(old, other, pad_token=pad)
        if config.corpus:
            return extend_bytes_by_corpus(old, corpus.texts(), config.vocab_size, **learning)
        return extend_bytes_by_pad(old, pad or "")
    if config.pieces_from is not None:
        return extend_by_model(
            old, _sentencepiece_of(fetched_path(config.pieces_from, "--pieces_from", config.hub)), pad_token=pad
        )
    if config.corpus:
        learning["character_coverage"] = config.character_coverage
        return extend_by_corpus(old, corpus.texts(), config.vocab_size, **learning)
    return extend_by_pad(old, pad or "")


def _sentencepiece_of(path: str) -> bytes:
    """Bytes of the SentencePiece model that ``path`` (file or folder) holds."""
    local = Path(path).expanduser()
    if local.is_file() and local.suffix != ".json":
        return spm.read_model(local, place="--pieces_from")
    if (local / MODEL_FILE).is_file():
        return spm.read_model(local / MODEL_FILE, place="--pieces_from")
    model = TextTokenizer.load(path, place="--pieces_from").sentencepiece_model
    if model is None:
        raise UserError(
            "--pieces_from",
            f"{path} is not a SentencePiece tokenizer, and --tokenizer is one",
            expected="a SentencePiece model file, or a folder with tokenizer.model",
            mend="learn the pieces from text instead: --corpus FILES",
        )
    return model


def _claim(folder: str, *, overwrite: bool) -> Path:
    """Make the output folder before any work; UserError when it cannot be written or holds a tokenizer already."""
    path = Path(folder)
    taken = [name for name in (MODEL_FILE, "tokenizer.json", "tokenizer_config.json") if (path / name).exists()]
    if taken and not overwrite:
        raise UserError(
            "--output_dir",
            f"{folder} already holds {taken[0]}",
            mend="choose another folder, or add --overwrite to replace the tokenizer",
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError("--output_dir", f"cannot write to {folder}: {error.strerror or error}") from error
    return path


def _write_json(path: Path, value: Any) -> None:
    """The report; an older one stays whole until the new one is."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, value, sort_keys=False)
    except OSError as error:
        raise UserError("--json", f"cannot write {path}: {error.strerror or error}") from error


def _named(tokenizer: TextTokenizer) -> str:
    pairs = ((tokenizer.special_id(token), token) for token in (tokenizer.pieces()[i] for i in tokenizer.special_ids))
    return ", ".join(f"{escape(token)} {index}" for index, token in sorted(pairs)) or "none"


def _some(pieces: Sequence[str]) -> str:
    """The first pieces for a line of print."""
    shown = " ".join(escape(piece) for piece in pieces[:NUM_SHOWN])
    return shown + (" …" if len(pieces) > NUM_SHOWN else "")


def _print_extension(console: Console, old: TextTokenizer, extension: Extension, config: TokenizerExtend) -> None:
    new = extension.tokenizer
    table = Table("", "before", "after")
    table.add_row("tokens", f"{len(old):,}", f"{len(new):,}")
    if config.pad_to_multiple_of:
        step = config.pad_to_multiple_of
        rows = -(-len(new) // step) * step
        table.add_row("embedding rows", "", f"{rows:,} (a multiple of {step})")
    pads = [f"{escape(item.pad_token)} {item.pad_id}" if item.pad_token else "none" for item in (old, new)]
    table.add_row("pad token", *pads)
    table.add_row("tokens of the sample", str(len(old.encode(SAMPLE))), str(len(new.encode(SAMPLE))))
    console.print(table)
    first = [_as_text(new, new.special_id(piece)) for piece in extension.added[: NUM_SHOWN + 1]]
    console.print(f"added {len(extension.added):,}: {_some(first)}")
    if extension.duplicates:
        console.print(f"already there {len(extension.duplicates):,}: {_some(extension.duplicates)}")
    if extension.left_out:
        console.print(f"left out {len(extension.left_out):,} (control, byte or unused): {_some(extension.left_out)}")
    if new.known:
        console.print(f"equals the published tokenizer of {new.known}, byte for byte")
    console.print(f"sample: {SAMPLE}")
    console.print(f"pieces: {_some_pieces(new, SAMPLE)}")


def _some_pieces(tokenizer: TextTokenizer, text: str) -> str:
    """The tokens of ``text``."""
    return escape(" | ".join(_as_text(tokenizer, index) for index in tokenizer.encode(text)))


def _as_text(tokenizer: TextTokenizer, index: int) -> str:
    """A token as a person reads it; one that ends within a character is shown as its bytes."""
    data = tokenizer.token_bytes(index)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(f"<{byte:02X}>" for byte in data)


def _print_pieces(console: Console, name: str, tokenizer: TextTokenizer, text: str) -> None:
    console.print(f"{name}: {len(tokenizer.encode(text))} tokens: {_some_pieces(tokenizer, text)}")


def _columns(values: dict[str, Any]) -> list[str]:
    return [name for name in ("before", "after") if name in values]


def _print_vocabulary(console: Console, vocabularies: dict[str, Vocabulary]) -> None:
    columns = _columns(vocabularies)
    table = Table("vocabulary", *(columns if len(columns) > 1 else [""]))
    shown = [vocabularies[name] for name in columns]
    table.add_row("tokens", *(f"{item.num_tokens:,}" for item in shown))
    for group in sorted({group for item in shown for group in item.num_by_script}):
        table.add_row(f"  {group}", *(f"{item.num_by_script.get(group, 0):,}" for item in shown))
    for role in ("bos", "eos", "pad"):
        named = [(item.roles[role], item.special) for item in shown]
        table.add_row(role, *(f"{escape(token)} {ids[token]}" if token else "none" for token, ids in named))
    table.add_row("duplicates", *(f"{len(item.duplicates):,} {_some(item.duplicates)}" for item in shown))
    table.add_row("never produced", *(f"{len(item.unreachable):,} {_some(item.unreachable)}" for item in shown))
    table.add_row("published as", *(item.known or "-" for item in shown))
    console.print(table)


def _print_counts(console: Console, counts: dict[str, Counts]) -> None:
    columns = _columns(counts)
    both = len(columns) > 1
    first = counts["after"]
    table = Table(
        "text", "characters", *(columns if both else ["tokens"]), *(["ratio"] if both else []),
        title=f"{first.num_texts:,} texts; by script: tokens per character",
    )  # fmt: skip

    def row(name: str, characters: str, values: Sequence[float], form: str) -> None:
        ratio = [f"{values[0] / values[1]:.2f}" if values[1] else "-"] if both else []
        table.add_row(name, characters, *(format(value, form) for value in values), *ratio)

    def per_script(script: str) -> list[float]:
        return [counts[name].by_script().get(script, 0.0) for name in columns]

    row("tokens", f"{first.num_characters:,}", [counts[name].num_tokens for name in columns], ",")
    row("tokens/character", "", [counts[name].tokens_per_character for name in columns], ".3f")
    row("bytes/token", "", [counts[name].bytes_per_token for name in columns], ".3f")
    for script in (*SCRIPTS, "space"):
        if first.characters[script]:
            row(f"  {script}", f"{first.characters[script]:,}", per_script(script), ".3f")
    if any(counts[name].num_unknown for name in columns):
        table.add_row("unknown tokens", "", *(f"{counts[name].num_unknown:,}" for name in columns))
    table.add_row("failed round trips", "", *(f"{counts[name].num_failures:,}" for name in columns))
    console.print(table)


def _print_failures(console: Console, counts: Counts) -> None:
    for failure in counts.failures[:NUM_SHOWN]:
        # The place of the first difference, with some context: a whole document would fill the screen.
        pairs = enumerate(zip(failure.text, failure.decoded, strict=False))
        short = min(len(failure.text), len(failure.decoded))
        at = next((index for index, (a, b) in pairs if a != b), short)
        console.print(
            f"{escape(failure.place)}: character {at} becomes"
            f" {escape(ascii(failure.decoded[at : at + 10]))} instead of {escape(ascii(failure.text[at : at + 10]))}"
        )
