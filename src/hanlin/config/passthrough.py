"""Fields of transformers' TrainingArguments, read from its source so that no flag costs the import of torch."""

from __future__ import annotations

import ast
import functools
import importlib.util
from pathlib import Path
from typing import Any

import yaml

from hanlin.config.words import EMPTY_VARIABLE
from hanlin.errors import UserError


@functools.cache
def trainer_fields() -> dict[str, str]:
    """Name to annotation of every field of the installed TrainingArguments."""
    # find_spec of the top-level package runs none of its code; of a submodule it would import the package.
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        return {}
    source = Path(spec.origin).with_name("training_args.py").read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and node.name == "TrainingArguments":
            return {
                item.target.id: ast.unparse(item.annotation)
                for item in node.body
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            }
    return {}


def trainer_value(name: str, texts: list[str]) -> Any:
    """The value of a passed-through flag: true when bare, a list of several, else read as YAML."""
    if not texts:
        if "bool" not in trainer_fields()[name]:
            raise UserError(f"--{name}", "has no value", expected=trainer_fields()[name], mend=EMPTY_VARIABLE)
        return True
    if len(texts) > 1:
        return texts
    annotation = trainer_fields()[name]
    if annotation in ("str", "str | None"):
        return texts[0]
    try:
        value = yaml.safe_load(texts[0])
    except yaml.YAMLError:
        return texts[0]
    # YAML 1.1 reads 1e-4 as text; a number is meant.
    if isinstance(value, str) and ("float" in annotation or "int" in annotation):
        try:
            return float(value)
        except ValueError as error:
            raise UserError(f"--{name}", f"is {texts[0]!r}", expected=annotation) from error
    return value
