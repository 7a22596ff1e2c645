"""What looks like a hub id, in every place that asks the network for one."""

from __future__ import annotations

from pathlib import Path

import pytest

from hanlin.commands import merge
from hanlin.errors import UserError
from hanlin.infer import engine
from hanlin.model import hub, precision
from hanlin.model.adapter_files import find_adapter
from hanlin.model.load import resolve_checkpoint
from hanlin.names import is_hub_id
from hanlin.vocab import loading, pretrained, tokenizer

PATHS = ["my model", "C:", "C:\\models", "数据", "team/数据", "a数据", "./a", "~/a", "/a/b", "a/b/c", "a/", "a\n"]


@pytest.mark.parametrize("name", ["gpt2", "team/adapter", "Qwen/Qwen2.5-0.5B", "01-ai/Yi-6B", "a/_b"])
def test_hub_ids(name: str) -> None:
    assert is_hub_id(name)


@pytest.mark.parametrize("name", ["", "runs/..", "-a", "a//b"])
def test_no_hub_ids(name: str) -> None:
    assert not is_hub_id(name)


@pytest.mark.parametrize("name", PATHS)
def test_a_missing_path_asks_no_network(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert not is_hub_id(name)

    def network(*_: object, **__: object) -> None:
        raise AssertionError(f"asked the hub for {name}")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "_fetch", network)
    for place in (pretrained, loading):
        monkeypatch.setattr(place, "from_pretrained", network)
    with pytest.raises(UserError, match="does not exist"):
        resolve_checkpoint(name)
    with pytest.raises(UserError, match="does not exist"):
        tokenizer.TextTokenizer.load(name)
    with pytest.raises(UserError, match="is not a folder"):
        find_adapter(name)


def test_one_table_of_number_formats() -> None:
    assert merge.DTYPES is engine.DTYPES is precision.DTYPES
