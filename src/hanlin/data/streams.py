"""From a file, compressed or not, to text: strict UTF-8, and the line of every fault."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from hanlin.errors import UserError

BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")


class Line(NamedTuple):
    """A line as it stands in the file, line break (``\\n`` or ``\\r\\n``) included; ``number`` counts from 1."""

    number: int
    text: str


def _open_zstd(path: Path) -> BinaryIO:
    try:
        import zstandard
    except ImportError:
        raise UserError(
            path, "the package zstandard is not installed", mend="pip install 'hanlin[zstd]', or unpack the file"
        ) from None
    return io.BufferedReader(_ZstdFile(path, zstandard.ZstdDecompressor), buffer_size=1 << 17)


class _ZstdFile(io.RawIOBase):
    """Frames of a .zst file one after another. zstandard's own reader ends a cut-off file without an error."""

    def __init__(self, path: Path, decompressor: Callable[[], Any]) -> None:
        self._file = path.open("rb")
        self._decompressor = decompressor
        self._frame: Any = None
        self._rest = b""
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._ready:
            packed = self._rest or self._file.read(1 << 17)
            self._rest = b""
            if not packed:
                if self._frame is not None:
                    raise EOFError("the last frame is cut off")
                return 0
            frame = self._frame or self._decompressor().decompressobj()
            self._ready = frame.decompress(packed)
            self._rest = frame.unused_data
            self._frame = None if frame.eof else frame
        taken, self._ready = self._ready[: len(buffer)], self._ready[len(buffer) :]
        buffer[: len(taken)] = taken
        return len(taken)

    def close(self) -> None:
        self._file.close()
        super().close()


COMPRESSIONS: dict[str, Callable[[Path], BinaryIO]] = {
    ".gz": lambda path: cast(BinaryIO, gzip.GzipFile(path, "rb")),
    ".xz": lambda path: cast(BinaryIO, lzma.LZMAFile(path, "rb")),  # noqa: SIM115 (open_bytes closes it)
    ".bz2": lambda path: cast(BinaryIO, bz2.BZ2File(path, "rb")),
    ".zst": _open_zstd,
}
"""How a compressed file is opened, by the last suffix of its name."""


def compression_of(path: Path) -> str:
    """The suffix of compression, in lower case, or an empty string."""
    last = path.suffix.lower()
    return last if last in COMPRESSIONS else ""


def suffix_of(path: Path) -> str:
    """The suffix that tells the format, in lower case: ``.jsonl`` for ``a.jsonl`` and for ``a.JSONL.xz``."""
    return (Path(path.stem) if compression_of(path) else path).suffix.lower()


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """The unpacked bytes of ``path``; reading raises UserError for a file that is missing, closed to us or damaged."""
    compression = compression_of(path)
    try:
        with COMPRESSIONS[compression](path) if compression else path.open("rb") as stream:
            yield stream
    except OSError as error:
        if compression and error.errno is None:  # gzip and bz2 report damage as an OSError without a number
            raise _damaged(path, compression, error) from error
        raise UserError(path, f"the file cannot be read: {error.strerror or error}") from error
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        raise _damaged(path, compression, error) from error
    except Exception as error:
        if type(error).__module__.split(".")[0] == "zstandard":  # optional, so its exception cannot be named here
            raise _damaged(path, compression, error) from error
        raise


def _damaged(path: Path, compression: str, error: Exception) -> UserError:
    return UserError(
        path,
        f"the compressed file is cut off or damaged: {error}",
        expected=f"a whole {compression} file",
        mend="copy or pack it again",
    )


def read_lines(path: Path) -> Iterator[Line]:
    """The lines of a UTF-8 file one by one, blank ones too; a byte order mark at its start is not part of the text.

    Only ``\\n`` ends a line (with ``\\r`` before it or not): U+2028, form feeds and the like are text. Raises UserError
    for bytes that are not UTF-8, with the line and the byte, and for a file of 0 bytes.
    """
    offset = 0
    number = 0
    with open_bytes(path) as stream:
        for number, data in enumerate(stream, 1):
            if number == 1 and data.startswith(BOM):
                offset, data = len(BOM), data[len(BOM) :]
            try:
                text = data.decode("utf-8")
            except UnicodeDecodeError as error:
                raise _not_utf8(path, number, offset + error.start, data, error) from None
            yield Line(number, text)
            offset += len(data)
    if number == 0:
        raise empty_file(path, "the file is empty (0 bytes)")


def read_text(path: Path) -> str:
    """The whole text of a UTF-8 file, exactly as it stands there; raises like ``read_lines``."""
    with open_bytes(path) as stream:
        data = stream.read()
    if not data:
        raise empty_file(path, "the file is empty (0 bytes)")
    start = len(BOM) if data.startswith(BOM) else 0
    try:
        return data[start:].decode("utf-8")
    except UnicodeDecodeError as error:
        at = start + error.start
        line_start = data.rfind(b"\n", 0, at) + 1
        line_end = data.find(b"\n", at)
        line = data[line_start : line_end if line_end >= 0 else len(data)]
        raise _not_utf8(path, data.count(b"\n", 0, at) + 1, at, line, error) from None


def empty_file(path: Path, problem: str) -> UserError:
    """The error for a file without a single row."""
    return UserError(path, problem, expected="at least one row", mend="fill the file or leave it out")


def _not_utf8(path: Path, line: int, at: int, data: bytes, error: UnicodeDecodeError) -> UserError:
    encoding = _likely_encoding(data)
    return UserError(
        f"{path}:{line}",
        f"byte {at} of the {'unpacked ' if compression_of(path) else ''}file is 0x{error.object[error.start]:02x}, "
        f"which is not UTF-8 ({error.reason})",
        expected="UTF-8",
        mend=f"convert the file, for example with iconv -f {encoding} -t UTF-8, or mend the line",
    )


def _likely_encoding(line: bytes) -> str:
    """The encoding that the text of a line was most likely written in, by the name that iconv knows."""
    if line.startswith(_UTF16_BOMS) or b"\0" in line:
        return "UTF-16"
    try:
        line.decode("gb18030")  # what Chinese text that is not UTF-8 is mostly written in; a superset of GBK and GB2312
    except UnicodeDecodeError:
        return "BIG5" if any(byte >= 0x80 for byte in line) and _decodes(line, "big5") else "LATIN1"
    return "GB18030"


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True
