"""Files that are whole or absent: synced, replaced in one move, and a full disk told in words."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

_FULL_DISK_WORDS = ("No space left", "inline_container", "PytorchStreamWriter")
"""Two writers of weights know a full disk only by words: safetensors in Rust, and torch's zip writer, which finds that
its position in the file is not what it wrote ("inline_container.cc ... unexpected pos")."""
_READER = "PytorchStreamReader"
"""torch's zip reader complains from the same source file about an archive that is damaged."""


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk, so that a rename cannot overtake its content.

    Not every file system can flush a folder, and Windows cannot open one: that is passed over, for the rename itself
    is atomic without it.
    """
    if path.is_dir():
        with suppress(OSError):
            _fsync(path, os.O_RDONLY)
    else:
        _fsync(path, os.O_RDWR)


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Any, *, sort_keys: bool = True) -> None:
    """JSON by :func:`write_text`. Numbers that JSON lacks become null; without ``sort_keys`` the order stays."""
    text = json.dumps(finite(content), ensure_ascii=False, indent=2, sort_keys=sort_keys, allow_nan=False)
    write_text(path, text + "\n")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 aside and rename: a reader sees the old file or the new one, line ends as they are in ``text``."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        aside.write_text(text, encoding="utf-8", newline="")
        sync(aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def finite(content: Any) -> Any:
    """The same JSON value with infinities and NaN as None."""
    if isinstance(content, float) and not math.isfinite(content):
        return None
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return content


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def share(path: Path) -> None:
    """Give a file the permissions of its folder: safetensors gives what it writes to its owner alone."""
    path.chmod(path.parent.stat().st_mode & 0o666)


def write_failure(error: BaseException) -> str | None:
    """Why a file could not be written, or None when the error is of another kind."""
    if isinstance(error, OSError):
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return "no space left on the disk" if full else error.strerror or str(error)
    text = str(error)
    if _READER not in text and any(words in text for words in _FULL_DISK_WORDS):
        return "no space left on the disk"
    return text.splitlines()[0] if "(os error " in text else None  # safetensors' words for every other failure
