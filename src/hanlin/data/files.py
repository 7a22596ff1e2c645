"""Which files are meant, and what identifies their contents."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from hanlin.data.faults import listed
from hanlin.data.streams import COMPRESSIONS, suffix_of
from hanlin.errors import UserError, nearest


def find_files(paths: Sequence[str], suffixes: Sequence[str], *, place: str, recursive: bool = False) -> list[Path]:
    """The data files that ``paths`` mean: files, directories and patterns (``data/*.jsonl``, ``data/**/*.txt``).

    A file counts as data when its name ends in one of ``suffixes``, be it compressed or not. A directory
    stands for the data files in it (``recursive``: also in the folders below), a pattern for the data files that match;
    hidden files are left out. Both come in the order of their names by code point, which is the same on every machine;
    the order of ``paths`` is kept. A file that is meant twice is read once.

    Raises UserError at ``place`` (a flag) for a missing path, for a file of another kind, and for a directory or a
    pattern without data.
    """
    if not paths:
        raise UserError(place, "no file is named", expected="a file, a directory or a pattern")
    found: dict[Path, Path] = {}
    for name in paths:
        try:
            files = _meant_by(name, suffixes, place, recursive)
        except OSError as error:
            raise UserError(place, f"{name} cannot be read: {error.strerror or error}") from error
        for file in files:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def _meant_by(name: str, suffixes: Sequence[str], place: str, recursive: bool) -> list[Path]:
    if not name.strip():
        raise UserError(place, "the path is empty", expected="a file, a directory or a pattern")
    path = Path(name).expanduser()
    if _exists(path):
        if path.is_dir():
            return _in_directory(path, suffixes, place, recursive)
        if suffix_of(path) not in suffixes:
            raise UserError(
                place,
                f"{name} is no data file by its name",
                expected=_endings(suffixes),
                mend="rename or convert it",
            )
        return [path]
    if glob.has_magic(name):
        # Path.glob would refuse absolute patterns.
        matches = [Path(match) for match in glob.glob(str(path), recursive=True)]  # noqa: PTH207
        if not matches:
            raise UserError(place, f"nothing matches {name}", mend=_nearest_existing(path))
        files = _data_files(matches, suffixes)
        if not files:
            names = listed(sorted(match.name for match in matches))
            raise UserError(place, f"no data file matches {name}, only {names}", expected=_endings(suffixes))
        return files
    raise UserError(place, f"{name} does not exist", mend=_nearest_existing(path))


def _in_directory(directory: Path, suffixes: Sequence[str], place: str, recursive: bool) -> list[Path]:
    inside = list(directory.iterdir())
    files = _data_files(directory.rglob("*") if recursive else inside, suffixes)
    if files:
        return files
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in inside)
    folder = next((e for e in sorted(inside) if e.is_dir() and _data_files(e.iterdir(), suffixes)), None)
    raise UserError(
        place,
        f"the directory {directory} holds no data file, " + (f"only {listed(names)}" if names else "it is empty"),
        expected=_endings(suffixes),
        mend=f"the folder {folder} holds some" if folder else "",
    )


def _data_files(candidates: Iterable[Path], suffixes: Sequence[str]) -> list[Path]:
    files = (p for p in candidates if suffix_of(p) in suffixes and not p.name.startswith(".") and p.is_file())
    return sorted(files, key=Path.as_posix)


def _endings(suffixes: Sequence[str]) -> str:
    return f"a name ending in {', '.join(suffixes)} (each also with {', '.join(COMPRESSIONS)})"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a text that cannot be a path: too long for the system, or with a zero byte
        return False


def _nearest_existing(path: Path) -> str:
    """A mend for a missing path: the most similar name in the deepest directory of it that exists."""
    while not _exists(path.parent):
        path = path.parent
    parent = path.parent
    if not parent.is_dir():
        return f"{parent} is a file, not a directory"
    names = sorted(entry.name for entry in parent.iterdir())
    match = nearest(path.name, names)
    if match:
        return f"did you mean {parent / match}?"
    return f"{parent} holds {listed(names)}" if names else f"{parent} is empty"


def content_hash(paths: Sequence[Path]) -> str:
    """SHA-256 (hex) over the names and contents of the files, in the order given.

    The folder and the time of change play no part: a copied or touched data set keeps its hash. The name does, because
    its suffix decides how the contents are read and the ledger names it. Raises UserError when a file cannot be read.
    """
    total = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").digest()
        except OSError as error:
            raise UserError(path, f"the file cannot be read: {error.strerror or error}") from error
        # Both parts have a fixed length, so no two lists of files can give the same bytes here.
        total.update(hashlib.sha256(path.name.encode("utf-8", "surrogateescape")).digest() + digest)
    return total.hexdigest()
