"""Adapters of 2023 carry no record of their base: the rules of the two published families, by name and size.

Specification 1.2 (which base each released adapter belongs to) and the table of violations in 4.5.
"""

from __future__ import annotations

import re
from pathlib import Path

from hanlin.errors import UserError
from hanlin.model.adapter_files import AdapterFiles


def check_published(
    adapter: AdapterFiles, *, base_name: str, base_folder: Path, base_rows: int, tokenizer_known: str | None
) -> None:
    """Refuse a published adapter on a base that it does not belong to. Raises UserError.

    ``base_rows`` are the embedding rows that the adapter meets (those of an adapter below it in a chain), and
    ``tokenizer_known`` is the published tokenizer that the run uses, if it is one.
    """
    rows, name, refuse = adapter.embedding_rows(), _normal(adapter.name), "--adapter"
    published = re.search(r"chinese-(llama|alpaca)(-2)?(-plus|-pro)?-lora", name) is not None
    here = {_normal(Path(base_name).name), _normal(base_folder.name)}
    elsewhere = _normal(Path(adapter.base_model_name_or_path or "").name) not in here
    family = tokenizer_known in ("chinese-llama", "chinese-alpaca", "chinese-llama-2")
    if rows == base_rows and (published or (family and elsewhere)):
        second = rows == 55296
        raise UserError(
            refuse,
            f"{adapter.name} on {base_name}, which already has {rows} rows: a published adapter would be applied twice",
            expected=f"the original {'Llama-2' if second else 'LLaMA'} with 32000 rows",
            mend="name that base, or remove --adapter to train a new adapter on this model",
        )
    if _is_chat(base_name, base_folder.name) and not _is_chat(adapter.base_model_name_or_path or ""):
        raise UserError(
            "--model",
            f"{base_name} is a chat model, but {adapter.name} was not trained on one",
            expected="the model that the adapter was trained on (Llama-2, not Llama-2-chat)",
            mend="name that base, or remove --adapter to train a new adapter on the chat model",
        )
    alpaca = "alpaca" in name and rows == 49954
    plus = re.search(r"(^|-)(plus|pro)(-|$)", name) is not None
    if alpaca and plus and base_rows == 32000:
        raise UserError(
            refuse,
            f"{adapter.name} does not belong on the original LLaMA ({base_name})",
            expected="LLaMA into which the Chinese-LLaMA-Plus adapter is merged (49953 rows)",
            mend="merge that one first: hanlin merge",
        )
    if alpaca and published and not plus and base_rows == 49953:
        raise UserError(
            refuse,
            f"{adapter.name} does not belong on a merged Chinese-LLaMA ({base_name})",
            expected="the original LLaMA with 32000 rows (only Plus and Pro are built on Chinese-LLaMA-Plus)",
        )


def _is_chat(*names: str) -> bool:
    return any(re.search(r"llama-?2.*chat", _normal(Path(name).name)) for name in names)


def _normal(name: str) -> str:
    return name.lower().replace("_", "-")
