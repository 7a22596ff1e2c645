"""What one family of 2023 is, as data: its settings, the native names of its modules, and how fused rows are cut."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from hanlin.errors import UserError

_LAYER = re.compile(r"\.(\d+)\.")
_MISSING = object()


class Fields:
    """``config.json`` of a checkpoint; every complaint about a value names its field. Raises UserError."""

    def __init__(self, values: Mapping[str, Any], file: Path) -> None:
        self.values = values
        self.file = file

    def __call__(self, *names: str, default: Any = _MISSING) -> Any:
        """The value of the first of ``names`` that is there and not null (the spellings of different releases)."""
        for name in names:
            if self.values.get(name) is not None:
                return self.values[name]
        if default is _MISSING:
            raise UserError(self.file, f"has no field {names[0]}", mend="download config.json again")
        return default

    def must_be(self, name: str, allowed: Any, why: str) -> None:
        """Refuse a value that changes the function in a way that the native architecture cannot express."""
        value = self.values.get(name, allowed)
        if value is not None and value != allowed:
            raise UserError(self.file, f"{name} is {value!r}: {why}", expected=repr(allowed))

    def must_be_absent(self, name: str, why: str) -> None:
        """Refuse a field that asks for something that is not here."""
        if self.values.get(name):
            raise UserError(self.file, f"{name} is set: {why}")


@dataclass(frozen=True, slots=True)
class Cut:
    """Which rows of a stored tensor make up a native one: ``turns`` runs of ``length`` rows, ``step`` rows apart."""

    start: int
    length: int
    step: int
    turns: int = 1

    @property
    def num_rows(self) -> int:
        """Rows of the part."""
        return self.length * self.turns

    def take(self, tensor: Tensor) -> Tensor:
        """These rows of ``tensor``: a view where they lie together, else a copy."""
        if self.turns == 1:
            return tensor.narrow(0, self.start, self.length)
        turns = tensor.reshape(self.turns, self.step, *tensor.shape[1:])
        return turns.narrow(1, self.start, self.length).reshape(self.num_rows, *tensor.shape[1:])

    def stored_rows(self, rows: Sequence[int]) -> list[int]:
        """Where ``rows`` of the part lie in the stored tensor."""
        return [self.start + row // self.length * self.step + row % self.length for row in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One function that checkpoints of 2023 compute, and the native class that computes it too."""

    name: str
    """As in ``hanlin_family`` of a config.json: qwen, baichuan2-7b ..."""
    title: str
    model_type: str
    """What the checkpoint's own config.json says."""
    native: type[PreTrainedModel]
    settings: Callable[[Fields], dict[str, Any]]
    """Fields of the native config. Raises UserError for values that the native class cannot express."""
    modules: Mapping[str, str | tuple[str, ...]]
    """Module of the checkpoint to native module, ``{}`` standing for the layer; several: its rows are theirs, in order
    (``turns``). Modules that are not named here keep their name."""
    rows: Callable[[PretrainedConfig], tuple[int, ...]] = lambda config: ()
    """Rows of each part of a fused module."""
    turns: Callable[[PretrainedConfig], int] = lambda config: 1
    """How many times the parts of a fused module take turns, with equal shares of their rows each time."""
    dropped: tuple[str, ...] = (".rotary_emb.inv_freq", ".rotary_emb.cos_cached", ".rotary_emb.sin_cached")
    """Endings of tensors that are constants, which the native class computes."""
    stop_ids: Callable[[Fields], tuple[int, ...]] = lambda fields: ()
    """Ids that end an answer beside ``eos_token_id``, most telling first."""
    normalised_head: bool = False
    """Logits come from the rows of the output matrix divided by their length."""


def attention_rows(config: PretrainedConfig) -> tuple[int, int, int]:
    """Rows of query, key and value, in this order, in a fused matrix."""
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    return heads * head_dim, groups * head_dim, groups * head_dim


def cuts_of(family: Family, config: PretrainedConfig) -> tuple[Cut, ...]:
    """The rows of a fused module that each of its parts has."""
    rows, turns = family.rows(config), family.turns(config)
    shares = [count // turns for count in rows]
    return tuple(
        Cut(start=sum(shares[:index]), length=share, step=sum(shares), turns=turns)
        for index, share in enumerate(shares)
    )


def native_modules(family: Family, module: str) -> tuple[str, ...]:
    """Native modules that hold what ``module`` of the checkpoint holds: ``transformer.h.3.attn.c_attn`` gives three."""
    numbers = _LAYER.findall(module)
    found = family.modules.get(_LAYER.sub(".{}.", module), module)
    return tuple(name.format(*numbers) for name in ((found,) if isinstance(found, str) else found))


def native_names(family: Family, wanted: str) -> tuple[str, ...]:
    """What a user of 2023 meant by the end of a module name: ``c_attn`` gives q_proj, k_proj and v_proj.

    Empty when the family has no such module. A name with a layer in it gives whole native names.
    """
    numbers = _LAYER.findall(wanted)
    ending = _LAYER.sub(".{}.", wanted)
    found: dict[str, None] = {}
    for old, new in family.modules.items():
        if old == ending or old.endswith(f".{ending}"):
            for name in (new,) if isinstance(new, str) else new:
                kept = ending if name.endswith(f".{ending}") else name.rsplit(".", 1)[-1]
                found[name.format(*numbers) if numbers else kept] = None
    return tuple(found)
