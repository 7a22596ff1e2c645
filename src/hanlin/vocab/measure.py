"""What a tokenizer makes of a text: tokens per character by script, round trips, pieces that never occur."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from hanlin.vocab.script import SCRIPTS, script_of
from hanlin.vocab.tokenizer import TextTokenizer

MAX_FAILURES = 20
"""Failed round trips that are kept word for word; all are counted."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Facts about a tokenizer without any text."""

    num_tokens: int
    special: Mapping[str, int]
    """Special tokens with their ids."""
    roles: Mapping[str, str | None]
    """bos, eos and pad to their tokens."""
    num_by_script: Mapping[str, int]
    """Tokens by the script of their first visible character; bytes and special tokens have groups of their own."""
    duplicates: tuple[str, ...]
    """Tokens that stand for the same text as one with a lower id (by their bytes)."""
    unreachable: tuple[str, ...]
    """Tokens that their own text is not encoded to: rows of the matrix that no text ever trains."""
    known: str | None
    identity: str


@dataclass(frozen=True, slots=True)
class Failure:
    """A text that does not come back."""

    place: str
    text: str
    decoded: str


@dataclass(slots=True)
class Counts:
    """What one tokenizer made of all texts."""

    num_texts: int = 0
    num_characters: int = 0
    num_bytes: int = 0
    """UTF-8 bytes of the texts."""
    num_tokens: int = 0
    num_unknown: int = 0
    """Occurrences of the unknown token: characters that are lost."""
    characters: Counter[str] = field(default_factory=Counter)
    """Characters by script."""
    shares: dict[str, float] = field(default_factory=dict)
    """Tokens by script; a token counts for each of its bytes in equal parts. ``prefix``: the dummy prefix by itself."""
    num_failures: int = 0
    failures: list[Failure] = field(default_factory=list)

    @property
    def tokens_per_character(self) -> float:
        """Tokens per character over all texts; 0 without text."""
        return self.num_tokens / self.num_characters if self.num_characters else 0.0

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes per token: how strongly the texts are compressed."""
        return self.num_bytes / self.num_tokens if self.num_tokens else 0.0

    def by_script(self) -> dict[str, float]:
        """Tokens per character of each script that occurs."""
        order = [*SCRIPTS, "space"]
        # A character that is lost (unknown, or U+2581) has no share.
        return {name: self.shares.get(name, 0.0) / self.characters[name] for name in order if self.characters[name]}

    def as_dict(self) -> dict[str, Any]:
        """All of it for JSON."""
        # dict: asdict would rebuild a Counter from pairs and count the pairs.
        return asdict(replace(self, characters=dict(self.characters))) | {  # type: ignore[arg-type]
            "tokens_per_character": self.tokens_per_character,
            "bytes_per_token": self.bytes_per_token,
            "tokens_per_character_by_script": self.by_script(),
        }


def describe(tokenizer: TextTokenizer) -> Vocabulary:
    """Sizes, special tokens, duplicates and tokens out of reach."""
    pieces = tokenizer.pieces()
    groups: Counter[str] = Counter()
    first: dict[bytes, int] = {}
    duplicates: list[str] = []
    unreachable: list[str] = []
    for index, piece in enumerate(pieces):
        if index in tokenizer.special_ids or index == tokenizer.hf.unk_token_id or not piece:
            groups["special" if piece else "empty"] += 1
            continue
        data = tokenizer.token_bytes(index)
        text = data.decode("utf-8", errors="ignore").strip()
        single = len(data) == 1 and (len(piece) > 1 or tokenizer.is_byte_level)
        groups["bytes" if single or not data else script_of(text[0]) if text else "space/part of a character"] += 1
        if not single:
            if data in first:
                duplicates.append(piece)
            first.setdefault(data, index)
            if tokenizer.encode_piece(piece) != [index]:
                unreachable.append(piece)
    return Vocabulary(
        num_tokens=len(tokenizer),
        special={pieces[index]: index for index in sorted(tokenizer.special_ids)},
        roles={"bos": tokenizer.bos_token, "eos": tokenizer.eos_token, "pad": tokenizer.pad_token},
        num_by_script=dict(groups),
        duplicates=tuple(duplicates),
        unreachable=tuple(unreachable),
        known=tokenizer.known,
        identity=tokenizer.identity,
    )


def measure(tokenizer: TextTokenizer, texts: Iterable[tuple[str, str]]) -> Counts:
    """Count over ``texts``, pairs of place and text; each text is encoded by itself, special tokens excluded."""
    counts = Counts()
    shares: Counter[tuple[int, str]] = Counter()
    size: dict[int, int] = {}
    unknown = tokenizer.hf.unk_token_id
    for place, text in texts:
        ids = tokenizer.encode(text)
        counts.num_texts += 1
        counts.num_characters += len(text)
        counts.num_bytes += len(text.encode())
        counts.num_tokens += len(ids)
        counts.num_unknown += ids.count(unknown) if unknown is not None else 0
        counts.characters.update(script_of(char) for char in text)
        decoded = tokenizer.decode(ids, skip_special=False)
        if decoded != text:
            counts.num_failures += 1
            if len(counts.failures) < MAX_FAILURES:
                counts.failures.append(Failure(place, text, decoded))
        for index in ids:
            if index not in size:
                size[index] = len(tokenizer.token_bytes(index))
        shares.update(_bytes_by_script(tokenizer, ids, size, text))
    for (length, script), number in sorted(shares.items()):
        counts.shares[script] = counts.shares.get(script, 0.0) + number / length
    return counts


def _bytes_by_script(
    tokenizer: TextTokenizer, ids: list[int], size: Mapping[int, int], text: str
) -> Iterator[tuple[int, str]]:
    """For each byte of the text: length in bytes of its token, and script of its character.

    Bytes, because a token may end within a character. A token of two Han characters (6 bytes) gives
    6 times (6, Han), which sums to one token; 中 in three byte tokens gives 3 times (1, Han), three tokens.
    The dummy prefix is no character of the text: ``▁Hello`` counts for five letters, and a lone ``▁`` as prefix.
    """
    lengths = [size[index] for index in ids for _ in range(size[index])]
    data = b"".join(tokenizer.token_bytes(index) for index in ids)
    if data == b" " + text.encode():
        first = lengths[0]
        lengths, data = lengths[1:], data[1:]
        if first == 1:
            yield 1, "prefix"
        lengths[: first - 1] = [first - 1] * (first - 1)
    position = 0
    for char in data.decode("utf-8", errors="replace"):
        # A byte that is no UTF-8 decodes to U+FFFD, whose own encoding is longer than what it stands for.
        width = 1 if char == "\ufffd" and data[position : position + 3] != b"\xef\xbf\xbd" else len(char.encode())
        script = script_of(char)
        for length in lengths[position : position + width]:
            yield length, script
        position += width
