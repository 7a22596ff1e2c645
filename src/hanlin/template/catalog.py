"""The named prompt templates: each is data, one entry in this file."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from hanlin.registry import Registry


class Token(enum.Enum):
    """A special token of whatever tokenizer is in use, named by its part."""

    BOS = "bos"
    EOS = "eos"


Part = str | Token
"""Text, in which ``{system}`` or ``{user}`` stands for a message, or a special token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """How a conversation is written: ``header``, then for each turn ``prompt``, the answer and ``suffix``.

    ``separator`` stands between the suffix of a turn and the prompt of the next. The model learns to write the answer
    and the suffix.
    """

    name: str
    header: tuple[Part, ...]
    """Before the first turn. ``{system}`` is the system text; a header without it has no place for a system text."""
    bare_header: tuple[Part, ...]
    """Takes the place of ``header`` when the system text is empty."""
    prompt: tuple[Part, ...]
    """One turn up to the place where the answer starts. ``{user}`` is the user's message."""
    suffix: tuple[Part, ...]
    """Closes every answer; its special tokens are where generation stops."""
    separator: tuple[Part, ...]
    """Between the suffix of a turn and the prompt of the next."""
    system: str
    """System text of a conversation that brings none."""
    stop: tuple[str, ...] = ()
    """Strings at which generation stops too, besides the special tokens of ``suffix``."""
    source: str
    """Where the template comes from."""

    @property
    def has_system_slot(self) -> bool:
        """Whether a system text has a place in this template."""
        return any(isinstance(part, str) and "{system}" in part for part in self.header)


TEMPLATES: Registry[Template] = Registry("template")


def _add(template: Template) -> None:
    TEMPLATES.add(template.name, template)


_add(
    Template(
        name="alpaca",
        header=(Token.BOS, "{system}\n\n"),
        bare_header=(Token.BOS,),
        # The space after the last colon belongs to the published template: it was trained with it.
        prompt=("### Instruction:\n{user}\n\n### Response: ",),
        suffix=(Token.EOS,),
        separator=("\n\n",),
        system=(
            "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        ),
        source="Stanford Alpaca, the form without input; training template of Chinese-Alpaca, first generation (2023)",
    )
)

_add(
    Template(
        name="llama2-zh",
        header=(Token.BOS, "[INST] <<SYS>>\n{system}\n<</SYS>>\n\n"),
        bare_header=(Token.BOS, "[INST] "),
        prompt=("{user} [/INST]",),
        suffix=(Token.EOS,),
        separator=(Token.BOS, "[INST] "),
        system="You are a helpful assistant. 你是一个乐于助人的助手。",
        source="Llama-2-chat form with the system text of Chinese-Alpaca-2, second generation (2023)",
    )
)
