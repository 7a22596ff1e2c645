"""The design's import direction, kept by a test over the syntax tree (imports inside functions count too)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "hanlin"

DIRECT = {
    "cli": {"commands", "config"},
    "commands": {"serve", "export", "train", "infer", "demo"},
    "serve": {"infer"},
    "export": {"tokens", "model"},
    "infer": {"tokens", "model"},
    "train": {"data", "tokens", "model"},
    "tokens": {"template", "vocab"},
    "demo": set(),
    "data": set(),
    "template": set(),
    "vocab": set(),
    "model": set(),
    "config": set(),
}
"""Folder (or top-level module) to the folders it may import; what those may import is allowed too."""

BASE = {"types", "registry", "errors", "files", "names", "__init__"}


def reachable(folder: str) -> set[str]:
    """Folders that ``folder`` may import: the transitive closure of DIRECT, itself, config and the base modules."""
    found = {folder, "config"}
    waiting = list(DIRECT[folder])
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(DIRECT[name])
    return found | BASE


def imported(tree: ast.AST) -> set[str]:
    """First components below ``hanlin`` of everything that a module imports."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the direction"
            if node.module == "hanlin":
                names |= {f"hanlin.{alias.name}" for alias in node.names if (SOURCE / alias.name).is_dir()}
            names.add(node.module or "")
    return {name.split(".")[1] for name in names if name.startswith("hanlin.")}


MODULES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_imports_point_one_way(path: Path) -> None:
    relative = path.relative_to(SOURCE)
    folder = relative.parts[0] if len(relative.parts) > 1 else relative.stem
    if folder in BASE | {"__main__"}:
        allowed = BASE | {"cli"} if folder == "__main__" else BASE
    else:
        allowed = reachable(folder)
    wrong = imported(ast.parse(path.read_text(encoding="utf-8"))) - allowed
    assert not wrong, f"{relative} imports {sorted(wrong)}"


def test_the_rule_itself_tells_wrong_from_right() -> None:
    assert "train" not in reachable("data")
    assert "vocab" not in reachable("model")
    assert {"data", "template", "vocab"} <= reachable("train")
    assert imported(ast.parse("def f():\n    from hanlin.train.run import run")) == {"train"}


def test_config_is_free_of_torch() -> None:
    heavy = {"torch", "transformers", "peft", "tokenizers", "sentencepiece", "numpy", "pyarrow"}
    for path in (SOURCE / "config").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not heavy & {name.split(".")[0] for name in names}, path.name


def test_only_config_reads_the_environment() -> None:
    for path in MODULES:
        if path.parent.name == "config":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                assert not (node.attr in ("environ", "getenv") and ast.unparse(node.value) == "os"), path
