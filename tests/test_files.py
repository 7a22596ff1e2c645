"""Files that are whole or absent, and the words of a full disk."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

import pytest
import torch

from hanlin.files import sync, write_failure, write_json, write_text


def test_json_keeps_its_order_where_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"b": 1, "a": float("inf")}, sort_keys=False)
    assert path.read_text(encoding="utf-8") == '{\n  "b": 1,\n  "a": null\n}\n'
    write_json(path, {"b": 1, "a": 2})
    assert list(json.loads(path.read_text(encoding="utf-8"))) == ["a", "b"]


def test_a_failed_write_leaves_the_old_text_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old\r\n")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("a.txt", b"old\r\n")]


def test_a_folder_that_cannot_be_flushed_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")

    def refuse(_: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "fsync", refuse)
    sync(tmp_path)
    with pytest.raises(OSError, match="Invalid argument"):
        sync(tmp_path / "file")


FULL = "no space left on the disk"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), FULL),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), FULL),
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), FULL),
        (RuntimeError("I/O error: Read-only (os error 30)\nat"), "I/O error: Read-only (os error 30)"),
        (RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"), FULL),
        (RuntimeError("PytorchStreamReader failed reading zip archive (inline_container.cc)"), None),
        (RuntimeError("CUDA out of memory"), None),
    ],
)
def test_words_of_a_failed_write(error: Exception, reason: str | None) -> None:
    assert write_failure(error) == reason


def test_words_of_torch_itself_on_a_full_device() -> None:
    device = Path("/dev/full")
    if not (device.exists() and stat.S_ISCHR(device.stat().st_mode)):
        pytest.skip("needs /dev/full")
    with pytest.raises(Exception) as caught:
        torch.save({"a": torch.zeros(1 << 16)}, device)
    assert write_failure(caught.value) == FULL
