"""Tokens on disk: rows of ids and labels that every rank and every run maps instead of reading.

A store is one directory::

    ids.bin        int32 [num_tokens]   token ids of all rows, one after another
    trained.bin    uint8 [num_tokens]   1 where the token is trained, else 0
    offsets.bin    int64 [R + 1]        row i is tokens offsets[i] .. offsets[i + 1]
    num_bytes.bin  int64 [R]            UTF-8 bytes of the text of a row (for bits per byte)
    meta.json      format, counts, sizes and checksums in bytes, and what the maker of the store wants to remember

It is found by a key over everything that decides its content (:func:`store_key`), so that changed data, another
tokenizer or other settings can never meet old tokens. It is written aside and renamed: a directory that has the right
name is complete, or was damaged afterwards, which :func:`store_fault` tells.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from hanlin.errors import UserError
from hanlin.files import file_sha256, sync, write_json
from hanlin.types import IGNORE_INDEX

FORMAT = 1
"""Version of the layout above. Part of every key: a reader of another version never opens the directory."""

META_FILE = "meta.json"
DTYPES = {"ids": "<i4", "trained": "|u1", "offsets": "<i8", "num_bytes": "<i8"}
CHECKSUMMED = ("offsets", "num_bytes")
"""Hashed again at every opening. They are 16 bytes a row; hashing the tokens too would read the whole store."""

STALE_AFTER_S = 24 * 3600
"""An unfinished store that nobody wrote to for so long, in seconds, was left by a killed process."""


def store_key(*, content: str, tokenizer: str, settings: Mapping[str, Any]) -> str:
    """Name of the store of one content under one tokenizer: SHA-256 as 64 hex digits.

    ``content`` and ``tokenizer`` are hashes of the raw rows and of the vocabulary; ``settings`` are JSON values that
    decide how rows become tokens (template, maximum length, policy ...), in any order. Raises TypeError for a setting
    that JSON cannot hold, because its text might not be the same in the next process.
    """
    parts = {"format": FORMAT, "content": content, "tokenizer": tokenizer, "settings": dict(settings)}
    canonical = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


class Row(NamedTuple):
    """One row: ``ids`` int32 [T] and ``trained`` bool [T]."""

    ids: NDArray[np.int32]
    trained: NDArray[np.bool_]

    @property
    def labels(self) -> NDArray[np.int32]:
        """int32 [T]: the id where trained, else IGNORE_INDEX."""
        return np.where(self.trained, self.ids, np.int32(IGNORE_INDEX))


@dataclass(frozen=True, slots=True)
class TokenStore:
    """Rows of a finished store, mapped into memory and read-only. Pickled as its path, so workers map it themselves."""

    directory: Path
    meta: Mapping[str, Any]
    """What the maker handed to :meth:`StoreWriter.close`."""
    offsets: NDArray[np.int64]
    num_bytes: NDArray[np.int64]
    """int64 [R]: UTF-8 bytes of the text of each row."""
    ids: NDArray[np.int32]
    trained: NDArray[np.uint8]

    @classmethod
    def open(cls, directory: Path) -> TokenStore | None:
        """The store in ``directory``, or None when there is none to be used; :func:`store_fault` has the reason."""
        return None if store_fault(directory) else cls._map(directory)

    @classmethod
    def _map(cls, directory: Path) -> TokenStore:
        columns = {name: _map_column(directory, name) for name in DTYPES}
        return cls(directory=directory, meta=_read_meta(directory)["meta"], **columns)

    def __len__(self) -> int:
        return len(self.num_bytes)

    def row(self, index: int) -> Row:
        """Row ``index`` (0-based): views of the mapped files, not copies."""
        start, stop = self.offsets[index], self.offsets[index + 1]
        return Row(self.ids[start:stop], self.trained[start:stop].view(np.bool_))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64 [R]: tokens of each row."""
        return np.diff(self.offsets)

    @property
    def num_tokens(self) -> int:
        """Tokens of all rows."""
        return len(self.ids)

    @property
    def num_trained(self) -> int:
        """Trained tokens of all rows. Reads one byte a token."""
        return int(np.count_nonzero(self.trained))

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenStore._map, (self.directory,)


def store_fault(directory: Path) -> str | None:
    """Why ``directory`` cannot be used as a store, or None when it can. Reads only the small files."""
    if not directory.is_dir():
        return "there is no store"
    try:
        header = _read_meta(directory)
        if header["format"] != FORMAT:
            return f"{META_FILE} has format {header['format']}, this version reads {FORMAT}"
        for name in DTYPES:
            size = (directory / f"{name}.bin").stat().st_size
            if size != header["sizes"][name]:
                return f"{name}.bin has {size} bytes instead of {header['sizes'][name]}"
        for name in CHECKSUMMED:
            if file_sha256(directory / f"{name}.bin") != header["sha256"][name]:
                return f"{name}.bin was changed: its checksum differs"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    except (ValueError, KeyError, TypeError) as error:
        return f"{META_FILE} is damaged: {error!r}"
    return None


def _read_meta(directory: Path) -> dict[str, Any]:
    header = json.loads((directory / META_FILE).read_text(encoding="utf-8"))
    if not isinstance(header, dict):
        raise ValueError("not an object")
    return header


def _map_column(directory: Path, name: str) -> NDArray[Any]:
    path = directory / f"{name}.bin"
    if path.stat().st_size == 0:  # an empty file cannot be mapped
        return np.empty(0, dtype=DTYPES[name])
    # A plain view: indexing np.memmap itself builds a subclass each time, which costs more than the row.
    return np.asarray(np.memmap(path, dtype=DTYPES[name], mode="r"))


@dataclass
class _Column:
    """A file of numbers that grows at its end and hashes itself while it grows."""

    file: IO[bytes]
    size: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def add(self, values: NDArray[Any]) -> None:
        data = values.tobytes()
        self.file.write(data)
        self.digest.update(data)
        self.size += len(data)

    def sync(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()


class StoreWriter:
    """Writes a store row by row in constant memory. Use as a context manager and end with :meth:`close`::

        with StoreWriter(directory) as writer:
            writer.add(ids, labels, num_bytes)
            writer.close({"template": "alpaca"})

    Leaving the block without ``close``, by an exception or not, leaves nothing behind. ``directory`` appears at
    ``close``, complete; a broken store of that name is replaced, a good one (another process was faster) is kept.
    Raises UserError when the disk is full or the place cannot be written.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.num_rows = 0
        self.num_tokens = 0
        self._partial: Path | None = None
        self._columns: dict[str, _Column] = {}
        prefix = f".{directory.name}.partial-"
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            _remove_stale(directory.parent, prefix)
            self._partial = Path(tempfile.mkdtemp(prefix=prefix, dir=directory.parent))
            for name in DTYPES:
                self._columns[name] = _Column((self._partial / f"{name}.bin").open("wb", buffering=1 << 20))
            self._put("offsets", [0])
        except OSError as error:
            raise self._give_up(error) from error

    def add(self, ids: Sequence[int], labels: Sequence[int], num_bytes: int) -> None:
        """Append one row: token ids, labels (the id where trained, else IGNORE_INDEX), UTF-8 bytes of its text."""
        row = np.asarray(ids, dtype=DTYPES["ids"])
        given = np.asarray(labels, dtype=DTYPES["ids"])
        trained = given != IGNORE_INDEX
        assert row.shape == given.shape, "ids and labels come from one pass and are equally long"
        assert np.array_equal(row[trained], given[trained]), "a label is the id of its token, or IGNORE_INDEX"
        try:
            self._columns["ids"].add(row)
            self._columns["trained"].add(trained)
            self.num_rows += 1
            self.num_tokens += len(row)
            self._put("offsets", [self.num_tokens])
            self._put("num_bytes", [num_bytes])
        except OSError as error:
            raise self._give_up(error) from error

    def _put(self, name: str, values: list[int]) -> None:
        self._columns[name].add(np.array(values, dtype=DTYPES[name]))

    def close(self, meta: Mapping[str, Any]) -> TokenStore:
        """Finish, move into place and open. ``meta`` holds JSON values."""
        assert self._partial is not None, "the writer was closed or aborted before"
        header = {
            "format": FORMAT,
            "num_rows": self.num_rows,
            "num_tokens": self.num_tokens,
            "sizes": {name: column.size for name, column in self._columns.items()},
            "sha256": {name: column.digest.hexdigest() for name, column in self._columns.items()},
            "meta": dict(meta),
        }
        try:
            for column in self._columns.values():
                column.sync()
            write_json(self._partial / META_FILE, header)
            self._move_into_place(self._partial)
        except OSError as error:
            raise self._give_up(error) from error
        self._partial = None
        store = TokenStore.open(self.directory)
        assert store is not None, store_fault(self.directory)
        return store

    def _move_into_place(self, partial: Path) -> None:
        fault = store_fault(self.directory)
        if fault is None:
            shutil.rmtree(partial)
            return
        if self.directory.exists():
            shutil.rmtree(self.directory)
        try:
            partial.rename(self.directory)
        except OSError:
            # Between the look and the rename another process put its own there: the same key, so the same tokens.
            if store_fault(self.directory) is not None:
                raise
            shutil.rmtree(partial)
        sync(self.directory.parent)

    def abort(self) -> None:
        """Remove everything written so far. Does nothing after :meth:`close`."""
        for column in self._columns.values():
            try:
                column.file.close()
            except OSError:  # a full disk also fails the flush of the last buffer
                continue
        if self._partial is not None:
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial = None

    def _give_up(self, error: OSError) -> UserError:
        self.abort()
        return UserError(
            self.directory,
            f"cannot write the token store: {error.strerror or error}",
            mend="free some space or choose another folder with --data_cache_dir",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()


def _remove_stale(parent: Path, prefix: str) -> None:
    """Remove unfinished stores of this name that a killed process left."""
    for partial in parent.glob(f"{prefix}*"):
        newest = max((path.stat().st_mtime for path in (partial, *partial.iterdir())), default=0.0)
        if time.time() - newest > STALE_AFTER_S:
            shutil.rmtree(partial, ignore_errors=True)
