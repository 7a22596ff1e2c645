"""The JSON files of a folder that describe its tokenizer, and what they say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Description:
    """The files of a folder that describe its tokenizer; {} for one that is not there or no JSON object."""

    folder: Path
    tokenizer: dict[str, Any]
    """tokenizer_config.json."""
    model: dict[str, Any]
    """config.json."""

    @classmethod
    def read(cls, folder: Path) -> Description:
        """Read the two files of ``folder``."""
        return cls(folder, _json_object(folder / "tokenizer_config.json"), _json_object(folder / "config.json"))

    @property
    def class_name(self) -> str | None:
        """Class of the tokenizer, as configured."""
        own = self.tokenizer.get("tokenizer_class")
        if isinstance(own, str):
            return own
        code = self.remote_code
        return code.rpartition(".")[2] if code else self.model.get("tokenizer_class")

    @property
    def remote_code(self) -> str | None:
        """``file.Class`` of the code that the configuration wants to be run, if any."""
        mapped = self.tokenizer.get("auto_map")
        mapped = mapped.get("AutoTokenizer") if isinstance(mapped, dict) else mapped
        names = mapped if isinstance(mapped, list | tuple) else [mapped]
        return next((name for name in names if isinstance(name, str)), None)

    def has(self, name: str) -> bool:
        """Whether the folder holds the file ``name``."""
        return (self.folder / name).is_file()

    def code_mentions(self, word: str) -> bool:
        """Whether a ``tokenization_*.py`` in the folder holds ``word``; it is read as text, for a hint."""
        files = sorted(self.folder.glob("tokenization_*.py"))
        return any(word in path.read_text(encoding="utf-8", errors="replace") for path in files)

    def token_of(self, role: str) -> str | None:
        """The token of a role (``bos``, ``eos`` ...), given as text or as the object that transformers 4 wrote."""
        for source in (self.tokenizer, _json_object(self.folder / "special_tokens_map.json")):
            token = source.get(f"{role}_token")
            token = token.get("content") if isinstance(token, Mapping) else token
            if isinstance(token, str) and token:
                return token
        return None

    def added_tokens(self) -> dict[int, str]:
        """Tokens that were added behind the vocabulary or put in the place of reserved ones, by id."""
        found = {int(index): token for token, index in _json_object(self.folder / "added_tokens.json").items()}
        for index, entry in (self.tokenizer.get("added_tokens_decoder") or {}).items():
            found[int(index)] = entry["content"] if isinstance(entry, Mapping) else str(entry)
        return found

    def settings(self) -> dict[str, Any]:
        """What is said beside tokens: length limit in tokens, side of the padding, chat template."""
        settings: dict[str, Any] = {"padding_side": self.tokenizer.get("padding_side", "left")}
        limit = self.tokenizer.get("model_max_length")
        if isinstance(limit, int):
            settings["model_max_length"] = limit
        template = self.tokenizer.get("chat_template")
        if self.has("chat_template.jinja"):
            template = (self.folder / "chat_template.jinja").read_text(encoding="utf-8")
        if template:
            settings["chat_template"] = template
        return settings


def _json_object(path: Path) -> dict[str, Any]:
    """The object in a file. A broken file counts as absent: whoever needs it says so."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
