"""Which files a path means, and what identifies them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hanlin.data.files import content_hash, find_files
from hanlin.errors import UserError

SUFFIXES = (".json", ".jsonl")


def find(*paths: Path | str, recursive: bool = False) -> list[str]:
    return [p.name for p in find_files([str(p) for p in paths], SUFFIXES, place="--dataset", recursive=recursive)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.json", "a.jsonl.xz", "B.JSON.GZ", "notes.md", ".hidden.json", "你好.json", "sub/c.json"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name, encoding="utf-8")
    return tmp_path


def test_directory_means_its_data_files_in_order_of_code_points(folder: Path) -> None:
    assert find(folder) == ["B.JSON.GZ", "a.jsonl.xz", "b.json", "你好.json"]
    assert find(folder, recursive=True) == ["B.JSON.GZ", "a.jsonl.xz", "b.json", "c.json", "你好.json"]


def test_patterns_match_sorted_and_leave_other_kinds_out(folder: Path) -> None:
    assert find(folder / "*") == ["B.JSON.GZ", "a.jsonl.xz", "b.json", "你好.json"]
    assert find(folder / "**" / "*.json") == ["b.json", "c.json", "你好.json"]


def test_order_of_paths_is_kept_and_a_file_is_meant_once(folder: Path) -> None:
    assert find(folder / "b.json", folder) == ["b.json", "B.JSON.GZ", "a.jsonl.xz", "你好.json"]


def test_a_name_with_brackets_is_a_file_before_it_is_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "a[1].json").write_text("x")
    assert find(tmp_path / "a[1].json") == ["a[1].json"]


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("c.json", ["--dataset:", "c.json does not exist", "did you mean", "b.json"]),
        ("sbu/c.json", ["sbu/c.json does not exist", "did you mean", "/sub?"]),
        ("b.json/x.json", ["does not exist", "b.json is a file, not a directory"]),
        ("notes.md", ["notes.md is no data file", "expected a name ending in .json, .jsonl", ".xz", "rename"]),
        ("*.csv", ["nothing matches", "*.csv"]),
        ("*.md", ["no data file matches", "notes.md", "expected"]),
        (" ", ["the path is empty"]),
        ("x" * 5000, ["does not exist"]),
    ],
)
def test_wrong_path_is_answered_in_one_line(folder: Path, path: str, parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        find(path if path.isspace() else f"{folder}/{path}")
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_directory_without_data_says_what_it_holds_and_what_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"it is empty; expected a name ending in \.json, \.jsonl"):
        find(tmp_path)
    (tmp_path / "train.csv").write_text("x")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.json").write_text("x")
    with pytest.raises(UserError, match=r"holds no data file, only sub/, train\.csv; .*/sub holds some"):
        find(tmp_path)


def test_content_hash_follows_contents_names_and_order_only(tmp_path: Path) -> None:
    a, b = tmp_path / "a.txt", tmp_path / "b.txt"
    a.write_text("one")
    b.write_text("two")
    before = content_hash([a, b])
    assert len(before) == 64
    os.utime(a, (1, 1))
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "a.txt").write_text("one")
    assert content_hash([copy / "a.txt", b]) == before
    others = {before, content_hash([b, a]), content_hash([a]), content_hash([])}
    (tmp_path / "c.txt").write_text("one")
    others.add(content_hash([tmp_path / "c.txt", b]))
    a.write_text("onetwo")
    b.write_text("")
    others.add(content_hash([a, b]))
    assert len(others) == 6
    with pytest.raises(UserError, match=r"gone\.txt: the file cannot be read"):
        content_hash([tmp_path / "gone.txt"])
