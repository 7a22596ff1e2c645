"""From files to rows of tokens on disk: read, encode, fit, account. Done once for each content, tokenizer and setting.

Documents and conversations differ only in how a row becomes ids and labels; the store, its key and the ledger are one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from hanlin.config.data import CorpusConfig, InstructionConfig
from hanlin.data.conversations import CONVERSATION_SUFFIXES, read_conversations
from hanlin.data.documents import DOCUMENT_SUFFIXES, read_documents
from hanlin.data.files import content_hash, find_files
from hanlin.data.ledger import Ledger
from hanlin.errors import UserError
from hanlin.template import Renderer
from hanlin.tokens.encode import encode_rows
from hanlin.tokens.fit import fit
from hanlin.tokens.images import ImageError, ImageSlots, file_size, located, paths_in
from hanlin.tokens.store import StoreWriter, TokenStore, store_key
from hanlin.types import IGNORE_INDEX, Conversation, Encoded, Place
from hanlin.vocab.tokenizer import TextTokenizer

_DOCUMENT_BATCH = 256
"""Documents that one call of the tokenizer encodes."""

Row = tuple[list[int], list[int], int]
"""Ids, labels and UTF-8 bytes of the text."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Prepared rows of one set of files and the account of those that are not in it."""

    store: TokenStore
    ledger: Ledger
    files: tuple[Path, ...]
    key: str
    from_cache: bool


@dataclass(frozen=True, slots=True)
class DocumentRows:
    """Plain text to rows: every token of a document is trained."""

    tokenizer: TextTokenizer
    corpus: CorpusConfig
    suffixes = DOCUMENT_SUFFIXES
    noun = "documents"

    def settings(self) -> dict[str, Any]:
        """What decides the tokens besides content and tokenizer."""
        settings = asdict(self.corpus)
        del settings["packing"]  # blocks are made of the stored rows
        return {"kind": "documents", "prefix": list(self.tokenizer.prefix_ids), **settings}

    def beside(self, files: list[Path]) -> dict[str, Any]:
        """Other files that decide the tokens: none."""
        return {}

    def rows(self, files: list[str], ledger: Ledger, place: str) -> Iterator[Row]:
        """One row a document, in order, with BOS and EOS as the settings say."""
        head = self.tokenizer.prefix_ids if self.corpus.add_bos else ()
        tail = [self.tokenizer.eos_id] if self.corpus.add_eos and self.tokenizer.eos_id is not None else []
        documents = read_documents(
            files, ledger=ledger, document=self.corpus.document, text_field=self.corpus.text_field, place=place
        )
        batch: list[str] = []

        def flush() -> Iterator[Row]:
            for text, ids in zip(batch, self.tokenizer.encode_batch(batch), strict=True):
                whole = [*head, *ids, *tail]
                yield whole, whole, len(text.encode("utf-8"))
            batch.clear()

        for document in documents:
            batch.append(document.text)
            if len(batch) == _DOCUMENT_BATCH:
                yield from flush()
        yield from flush()


@dataclass(frozen=True, slots=True)
class ConversationRows:
    """Conversations to rows: answers and their stop tokens are trained; each row fits the limit or is on the ledger."""

    tokenizer: TextTokenizer
    renderer: Renderer
    instruction: InstructionConfig
    max_length: int
    template_source: str
    """Text that defines the template: a changed template must not meet tokens of the old one."""
    date: str
    """Day of the run, for templates that write it; a run that continues keeps its first."""
    images: ImageSlots | None = None
    """How the model sees pictures; None for a text model."""
    suffixes = CONVERSATION_SUFFIXES
    noun = "conversations"

    def settings(self) -> dict[str, Any]:
        """What decides the tokens besides content and tokenizer."""
        settings = {"kind": "conversations", "max_length": self.max_length, **asdict(self.instruction)}
        del settings["on_template_difference"]  # what it decided is the template itself
        if "strftime_now" in self.template_source:  # a template that writes the date gives other tokens tomorrow
            settings["date"] = self.date
        if self.images is not None:
            settings["images"] = asdict(self.images)
        return {**settings, "template": self.template_source, "system": self.renderer.system}

    def beside(self, files: list[Path]) -> dict[str, Any]:
        """Pictures that the files name, and their sizes: a row that lacks its picture is made anew once it is there."""
        if self.images is None:
            return {}
        digest = hashlib.sha256()
        for conversation in read_conversations([str(file) for file in files], ledger=Ledger()):
            for path in paths_in(conversation):
                found = located(path, conversation.place.file).absolute()
                size = file_size(found)
                digest.update(f"{found}\0{size}\0".encode("utf-8", "surrogateescape"))
        return {"pictures": digest.hexdigest()}

    def rows(self, files: list[str], ledger: Ledger, place: str) -> Iterator[Row]:
        """One row a conversation that can be trained, in order."""
        conversations = read_conversations(files, ledger=ledger, place=place)
        bos_id = self.tokenizer.bos_id
        # A template may write a BOS that the tokenizer itself does not.
        start = self.tokenizer.prefix_ids or (() if bos_id is None else (bos_id,))
        pairs = encode_rows(
            conversations, self.renderer, self.tokenizer, train_on=self.instruction.train_on, images=self.images
        )
        for conversation, encoded in pairs:
            if isinstance(encoded, UserError):
                reason = "picture" if isinstance(encoded, ImageError) else "does not fit the template"
                ledger.record(conversation.place, "dropped", reason, encoded.reason)
                continue
            fitted = fit(encoded, self.max_length, self.instruction.overlong, prefix_ids=start)
            if fitted.encoded is None and fitted.reason == "too long" and self.instruction.overlong == "error":
                raise UserError(
                    conversation.place,
                    f"has {fitted.detail}",
                    expected="a row within --max_length",
                    mend="raise --max_length, or choose --overlong cut or drop",
                )
            if fitted.reason is not None:
                action = "cut" if fitted.encoded is not None else "dropped"
                ledger.record(conversation.place, action, fitted.reason, fitted.detail)  # type: ignore[arg-type]
            if fitted.encoded is not None:
                whole = fitted.reason is None and self.instruction.train_on == "all"
                num_bytes = _answer_bytes(conversation) if whole else self._trained_bytes(fitted.encoded)
                yield fitted.encoded.ids, fitted.encoded.labels, num_bytes

    def _trained_bytes(self, encoded: Encoded) -> int:
        """UTF-8 bytes of what is trained of a row that is cut or trained in part."""
        return len(self.tokenizer.decode([label for label in encoded.labels if label != IGNORE_INDEX]).encode("utf-8"))


def _answer_bytes(conversation: Conversation) -> int:
    """UTF-8 bytes of the answers that are trained."""
    answers = (m for m in conversation.messages if m.role == "assistant" and m.weight != 0)
    return sum(len(m.content.encode("utf-8")) for m in answers)


def prepare(
    maker: DocumentRows | ConversationRows, paths: tuple[str, ...], cache_dir: Path, console: Console, *, place: str
) -> Rows:
    """The rows of ``paths``: from the store when one has the same content, tokenizer and settings, else made now.

    Raises UserError for files that cannot be read and when no row is left.
    """
    files = find_files(paths, maker.suffixes, place=place)
    key = store_key(
        content=content_hash(files),
        tokenizer=maker.tokenizer.identity,
        settings={**maker.settings(), **maker.beside(files), "v": 1},
    )
    directory = cache_dir / key[:32]
    store = TokenStore.open(directory)
    if store is not None:
        ledger = _ledger_from(store.meta, files)
        console.print(f"Tokens of {len(store):,} {maker.noun}: read from {directory}", highlight=False)
        return Rows(store, ledger, tuple(files), key, True)
    ledger = Ledger()
    with StoreWriter(directory) as writer, _counter(maker.noun, console) as count:
        for ids, labels, num_bytes in maker.rows([str(file) for file in files], ledger, place):
            writer.add(ids, labels, num_bytes)
            count(writer.num_tokens)
        if writer.num_rows == 0:
            first = f"; the first: {ledger.entries[0]}" if ledger.entries else ""
            raise UserError(
                ", ".join(paths), f"none of the {ledger.given} {maker.noun} can be used{first}", expected="one at least"
            )
        store = writer.close({"ledger": _ledger_meta(ledger, files), "noun": maker.noun})
    return Rows(store, ledger, tuple(files), key, False)


class _counter:  # noqa: N801 (used like a function)
    """A progress line that counts rows and tokens; the number of rows is not known before they are read."""

    def __init__(self, noun: str, console: Console) -> None:
        self.progress = Progress(
            TextColumn("Tokenising"),
            BarColumn(bar_width=24, pulse_style="cyan"),
            TextColumn("{task.fields[rows]:,} " + noun + " · {task.fields[tokens]:,} tokens"),
            TimeElapsedColumn(),
            console=console,
        )
        self.rows = 0

    def __enter__(self) -> Callable[[int], None]:
        self.progress.start()
        self.task = self.progress.add_task("", total=None, rows=0, tokens=0)
        return self._count

    def _count(self, num_tokens: int) -> None:
        self.rows += 1
        self.num_tokens = num_tokens
        if self.rows % 256 == 0:  # drawing at every row would cost more than encoding it
            self.progress.update(self.task, rows=self.rows, tokens=num_tokens)

    def __exit__(self, *_: object) -> None:
        self.progress.update(
            self.task,
            rows=self.rows,
            tokens=getattr(self, "num_tokens", 0),
            total=max(self.rows, 1),
            completed=max(self.rows, 1),
        )
        self.progress.stop()


def _ledger_meta(ledger: Ledger, files: list[Path]) -> dict[str, Any]:
    """The account with files by number: the same content may lie elsewhere when the store is met again."""
    number = {str(file): index for index, file in enumerate(files)}
    entries = [
        [number[e.place.file], e.place.line, e.place.index, e.action, e.reason, e.detail] for e in ledger.entries
    ]
    return {"given": ledger.given, "entries": entries}


def _ledger_from(meta: Any, files: list[Path]) -> Ledger:
    ledger = Ledger(given=int(meta["ledger"]["given"]))
    for number, line, index, action, reason, detail in meta["ledger"]["entries"]:
        ledger.record(Place(str(files[number]), line=line, index=index), action, reason, detail)
    return ledger
