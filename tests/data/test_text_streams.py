"""Unpacking and strict UTF-8, against what Python's own codecs and a hex view of the file say."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path

import pytest

from hanlin.data.streams import compression_of, read_lines, read_text, suffix_of
from hanlin.errors import UserError

TEXT = "﻿第一行\r\nsecond\u2028still second\f\x85\n\n末"
PACK = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}


@pytest.mark.parametrize("suffix", PACK)
def test_lines_keep_their_breaks_and_only_line_feeds_end_them(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(PACK[suffix](TEXT.encode()))
    lines = list(read_lines(path))
    assert lines == [(1, "第一行\r\n"), (2, "second\u2028still second\f\x85\n"), (3, "\n"), (4, "末")]
    assert read_text(path) == "".join(line.text for line in lines)


def test_suffixes() -> None:
    assert (suffix_of(Path("a.b.JSONL.XZ")), compression_of(Path("a.JSONL.XZ"))) == (".jsonl", ".xz")
    assert (suffix_of(Path("a.txt")), compression_of(Path("a.txt"))) == (".txt", "")
    assert suffix_of(Path("a.gz")) == ""


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_bytes_that_are_not_utf8_are_named_with_line_and_byte(tmp_path: Path, mark: bytes, suffix: str) -> None:
    before = mark + "好\r\n再\n".encode() + b"x"
    data = before + "汉字".encode("gb18030") + b"\nmore\n"
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(PACK[suffix](data))
    assert data[len(before)] == 0xBA
    for read in (lambda p: list(read_lines(p)), read_text):
        with pytest.raises(UserError) as caught:
            read(path)
        message = str(caught.value)
        assert message.startswith(f"{path}:3: byte {len(before)} of the ")
        assert "is 0xba, which is not UTF-8" in message and "iconv -f GB18030 -t UTF-8" in message
        assert ("unpacked" in message) == bool(suffix)


@pytest.mark.parametrize(
    ("data", "encoding"), [("漢字".encode("utf-16"), "UTF-16"), (b"caf\xe9", "LATIN1"), ("汉".encode("gbk"), "GB18030")]
)
def test_likely_encoding_is_named(tmp_path: Path, data: bytes, encoding: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(UserError, match=f"iconv -f {encoding} "):
        list(read_lines(path))


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".bz2"])
@pytest.mark.parametrize("damage", ["cut", "other"])
def test_damaged_compression(tmp_path: Path, suffix: str, damage: str) -> None:
    path = tmp_path / f"a.txt{suffix}"
    packed = PACK[suffix](("line\n" * 1000).encode())
    path.write_bytes(packed[:-6] if damage == "cut" else b"plain text, not packed")
    with pytest.raises(UserError, match=rf"a\.txt{suffix}: the compressed file is cut off or damaged"):
        list(read_lines(path))


def test_empty_and_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b""))
    with pytest.raises(UserError, match=r"empty \(0 bytes\); expected at least one row"):
        list(read_lines(path))
    with pytest.raises(UserError, match=r"empty \(0 bytes\)"):
        read_text(path)
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_text(tmp_path / "gone.txt")


def test_zstd(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.zst"
    path.write_bytes(b"x")
    try:
        import zstandard
    except ImportError:
        with pytest.raises(UserError, match=r"zstandard is not installed; pip install 'hanlin\[zstd\]'"):
            list(read_lines(path))
        return
    lines = [f"{i} 行\n" for i in range(50_000)]
    data = "".join(lines).encode()
    pack = zstandard.ZstdCompressor().compress
    packed = pack(data[:300_000]) + pack(data[300_000:])  # two frames, as pzstd writes them
    path.write_bytes(packed)
    assert [line.text for line in read_lines(path)] == lines
    for damaged in (packed[:-5], b"plain text, not packed", packed[:100] + b"\0" + packed[101:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"cut off or damaged|not UTF-8"):
            list(read_lines(path))
