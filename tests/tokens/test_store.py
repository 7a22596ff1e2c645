"""The token store: what comes out is what went in, and a broken store is told from a good one."""

from __future__ import annotations

import errno
import json
import os
import pickle
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hanlin.errors import UserError
from hanlin.tokens.store import STALE_AFTER_S, StoreWriter, TokenStore, store_fault, store_key
from hanlin.types import IGNORE_INDEX

ROWS = [([5, 6, 7], [IGNORE_INDEX, 6, 7], 9), ([], [], 0), ([49953, 0], [49953, IGNORE_INDEX], 6)]


def write(directory: Path, rows: list[tuple[list[int], list[int], int]] = ROWS) -> TokenStore:
    with StoreWriter(directory) as writer:
        for row in rows:
            writer.add(*row)
        return writer.close({"template": "alpaca", "名": "诗"})


def test_rows_come_back_as_written(tmp_path: Path) -> None:
    write(tmp_path / "store")
    store = TokenStore.open(tmp_path / "store")
    assert store is not None
    assert len(store) == 3
    assert store.lengths.tolist() == [3, 0, 2]
    assert store.num_bytes.tolist() == [9, 0, 6]
    assert (store.num_tokens, store.num_trained) == (5, 3)
    assert store.meta == {"template": "alpaca", "名": "诗"}
    for index, (ids, labels, _) in enumerate(ROWS):
        row = store.row(index)
        assert row.ids.dtype == np.int32
        assert row.trained.dtype == np.bool_
        assert row.ids.tolist() == ids
        assert row.labels.tolist() == labels
        assert row.trained.tolist() == [label != IGNORE_INDEX for label in labels]


def test_a_store_without_rows_opens(tmp_path: Path) -> None:
    assert len(write(tmp_path / "store", [])) == 0


def test_the_map_is_read_only(tmp_path: Path) -> None:
    store = write(tmp_path / "store")
    with pytest.raises(ValueError, match="read-only"):
        store.ids[0] = 1


def test_a_worker_gets_the_path_and_not_the_tokens(tmp_path: Path) -> None:
    store = write(tmp_path / "store", [([1] * 100_000, [1] * 100_000, 1)])
    sent = pickle.dumps(store)
    assert len(sent) < 1000
    assert np.array_equal(pickle.loads(sent).ids, store.ids)


def test_an_aborted_writer_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), StoreWriter(tmp_path / "store") as writer:
        writer.add(*ROWS[0])
        raise KeyError
    with StoreWriter(tmp_path / "store") as writer:  # left without close
        writer.add(*ROWS[0])
    assert list(tmp_path.iterdir()) == []
    assert TokenStore.open(tmp_path / "store") is None


def test_nothing_has_the_name_before_close(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "store") as writer:
        writer.add(*ROWS[0])
        assert store_fault(tmp_path / "store") == "there is no store"
        writer.close({})
        assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"store: cannot write the token store: No space left on device; free"):
        write(tmp_path / "store")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_flushed_is_not_fatal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flush = os.fsync

    def refuse(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    assert len(write(tmp_path / "store")) == 3


def test_a_really_full_disk(tmp_path: Path) -> None:
    """The same against the system: a limit on file size makes the write itself fail, also the flush of the buffer."""
    script = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from hanlin.tokens.store import StoreWriter; from hanlin.errors import UserError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 21, 1 << 21))\n"
        "try:\n"
        "    with StoreWriter(Path(sys.argv[1])) as writer:\n"
        "        for _ in range(1000): writer.add([7] * 1000, [7] * 1000, 1)\n"
        "except UserError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "store")], capture_output=True, text=True, check=False
    )
    assert "cannot write the token store: File too large" in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_a_day_later(tmp_path: Path) -> None:
    for name, age in (("old", STALE_AFTER_S + 60), ("new", 60)):
        partial = tmp_path / f".store.partial-{name}"
        partial.mkdir()
        (partial / "ids.bin").write_bytes(b"")
        for path in (partial / "ids.bin", partial):
            os.utime(path, (path.stat().st_mtime - age,) * 2)
    write(tmp_path / "store")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".store.partial-new", "store"]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda d: (d / "meta.json").unlink(), "meta.json is missing"),
        (lambda d: (d / "ids.bin").unlink(), "ids.bin is missing"),
        (lambda d: (d / "meta.json").write_text("{"), "meta.json is damaged"),
        (lambda d: (d / "meta.json").write_text("[]"), "meta.json is damaged"),
        (lambda d: (d / "ids.bin").write_bytes(b"123"), "ids.bin has 3 bytes instead of 20"),
        (lambda d: (d / "offsets.bin").write_bytes(bytes(32)), "offsets.bin was changed"),
        (lambda d: (d / "num_bytes.bin").write_bytes(bytes(24)), "num_bytes.bin was changed"),
        (lambda d: (d / "meta.json").write_text(json.dumps({"format": 99})), "has format 99, this version reads 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_broken_store_is_not_opened_and_is_replaced(tmp_path: Path, damage: object, reason: str) -> None:
    directory = tmp_path / "store"
    write(directory)
    assert store_fault(directory) is None
    assert callable(damage)
    damage(directory)
    assert TokenStore.open(directory) is None
    assert reason in str(store_fault(directory))
    assert len(write(directory)) == 3


def test_a_good_store_of_a_faster_process_is_kept(tmp_path: Path) -> None:
    first = write(tmp_path / "store")
    inode = (first.directory / "ids.bin").stat().st_ino
    again = write(tmp_path / "store")
    assert (again.directory / "ids.bin").stat().st_ino == inode
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_wrong_labels_are_our_own_mistake(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "store") as writer:
        with pytest.raises(AssertionError, match="equally long"):
            writer.add([1, 2], [1], 0)
        with pytest.raises(AssertionError, match="id of its token"):
            writer.add([1, 2], [2, 3], 0)


def test_key_depends_on_everything_that_decides_the_tokens() -> None:
    """Problem 11 of the older scripts: a cache found by file name alone hides changed data and settings."""
    base = {"content": "c", "tokenizer": "t", "settings": {"template": "alpaca", "max_length": 512}}
    keys = {
        store_key(**base),
        store_key(**{**base, "content": "d"}),
        store_key(**{**base, "tokenizer": "u"}),
        store_key(**{**base, "settings": {"template": "alpaca", "max_length": 1024}}),
        store_key(**{**base, "settings": {"template": "llama-2", "max_length": 512}}),
        store_key(**{**base, "settings": {"template": "alpaca"}}),
    }
    assert len(keys) == 6
    assert store_key(**{**base, "settings": {"max_length": 512, "template": "alpaca"}}) == store_key(**base)
    assert all(len(key) == 64 for key in keys)
    with pytest.raises(TypeError):
        store_key(content="c", tokenizer="t", settings={"a": {1, 2}})
