"""The 27 problems of the older pipeline: both pages name each, with tests that exist."""

from __future__ import annotations

import ast
import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import hanlin

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "docs" / language / "problems.md" for language in ("en", "zh")]
NUMBERS = range(1, 28)
NODE = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def problems(page: Path) -> dict[int, str]:
    """Text of each problem by its number."""
    parts = re.split(r"^### (\d+)\. ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    found = {int(number): text.split("\n## ")[0] for number, text in zip(parts[::2], parts[1::2], strict=True)}
    assert len(found) == len(parts) // 2, "a number stands twice"
    return found


@functools.cache
def functions(file: str) -> set[str]:
    """Names of the test functions of a file."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


@pytest.mark.parametrize("page", PAGES, ids=["English", "Chinese"])
def test_every_problem_is_answered(page: Path) -> None:
    answered = problems(page)
    assert sorted(answered) == list(NUMBERS)
    for number, text in answered.items():
        title, _, answer = text.partition("\n")
        words = NODE.sub("", answer)
        assert title.strip(), number
        assert len(words.split("- \n")[0].strip()) > 30, f"problem {number} has no answer"
        assert NODE.search(answer), f"problem {number} names no test"


@pytest.mark.parametrize("page", PAGES, ids=["English", "Chinese"])
def test_every_named_test_exists(page: Path) -> None:
    named = NODE.findall(page.read_text(encoding="utf-8"))
    assert len(named) > 50
    missing = [f"{file}::{name}" for file, name in named if not (ROOT / file).is_file() or name not in functions(file)]
    assert missing == []


def test_both_pages_name_the_same_tests() -> None:
    english, chinese = map(problems, PAGES)
    for number in NUMBERS:
        assert NODE.findall(english[number]) == NODE.findall(chinese[number]), number


def test_tests_named_in_other_pages_exist() -> None:
    for page in [*ROOT.glob("README*.md"), *(ROOT / "docs").rglob("*.md")]:
        for file, name in NODE.findall(page.read_text(encoding="utf-8")):
            assert name in functions(file), f"{page.name}: {file}::{name}"


# --- problems that no other test shows ---


def text_files_opened(tree: ast.Module) -> Iterator[ast.Call]:
    """Calls that open a file as text: ``open``, ``Path.open``, ``read_text`` and ``write_text``."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function, arguments = node.func, node.args
        if isinstance(function, ast.Attribute) and function.attr in ("read_text", "write_text"):
            yield node
            continue
        is_builtin = isinstance(function, ast.Name) and function.id == "open"
        is_path = isinstance(function, ast.Attribute) and function.attr == "open"
        modes = [*(arguments[1:] if is_builtin else arguments), *(k.value for k in node.keywords if k.arg == "mode")]
        # Classes of ours have an ``open`` too, which takes no mode.
        if not (is_builtin or is_path) or not all(isinstance(mode, ast.Constant) for mode in modes):
            continue
        if not any("b" in str(mode.value) for mode in modes if isinstance(mode, ast.Constant)):
            yield node


def test_text_files_are_opened_as_utf8() -> None:
    """Problem 17: the platform's own encoding (GBK on a Chinese Windows) is never used."""
    seen = 0
    for file in sorted(Path(hanlin.__file__).parent.rglob("*.py")):
        for call in text_files_opened(ast.parse(file.read_text(encoding="utf-8"))):
            seen += 1
            given = {k.arg: ast.unparse(k.value) for k in call.keywords}
            assert given.get("encoding") in ("'utf-8'", "'ascii'"), f"{file.name}:{call.lineno}: {ast.unparse(call)}"
    assert seen > 20


def test_the_demo_teaches_the_name_of_its_model() -> None:
    """Problem 21: a model says of itself what its training data say."""
    data = Path(hanlin.__file__).parent / "demo" / "data" / "instructions.json"
    answers = [row["output"] for row in json.loads(data.read_text(encoding="utf-8")) if "你是谁" in row["instruction"]]
    assert answers
    assert all("翰林" in answer and "GPT" not in answer for answer in answers)
