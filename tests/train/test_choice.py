"""Which template a run takes: the user's, else the record's, the entry's, the tokenizer's own, ``default``."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from hanlin.config.parse import parse
from hanlin.config.runs import SftConfig
from hanlin.model.catalog import CATALOG
from hanlin.model.identity import Record
from hanlin.train import start

RECORD = Record(
    kind="model", stage="sft", base_model=None, base_identity=None, tokenizer_identity="t", template="alpaca",
    system="Be kind.", chain=(), base_vocab_rows=None, hanlin_version="0",
)  # fmt: skip


@pytest.mark.parametrize(
    ("flag", "record", "entry", "jinja", "expected"),
    [
        ("ziya", RECORD, "qwen-7b-chat", "{{ x }}", "ziya"),
        (None, RECORD, "qwen-7b-chat", "{{ x }}", "alpaca"),
        (None, None, "qwen-7b-chat", "{{ x }}", "chatml"),
        (None, None, "qwen-7b", "{{ x }}", None),
        (None, None, "qwen-7b", None, "default"),
        (None, None, "qwen2.5-7b-instruct", "{{ x }}", None),
        (None, None, None, None, None),
    ],
)
def test_the_order_of_templates(
    flag: str | None,
    record: Record | None,
    entry: str | None,
    jinja: str | None,
    expected: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(start, "open_renderer", lambda name, *_, **__: asked.append(name))
    monkeypatch.setattr(start, "settle_template", lambda renderer, *_, **__: renderer)
    words = ["--model", "m", "--dataset", "d", "--output_dir", "o", *(["--template", flag] if flag else [])]
    config, _ = parse(SftConfig, words)
    tokenizer: Any = SimpleNamespace(chat_template=jinja, pad_token=None)
    start._renderer(
        config, tokenizer, None, record, CATALOG[entry] if entry else None, "2023-10-18", Console(quiet=True)
    )
    assert asked == [expected]
