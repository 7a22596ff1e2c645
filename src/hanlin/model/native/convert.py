"""Files of a checkpoint of 2023 as tensors under native names, and as a live native model.

Every cut is along the rows of a matrix in a mapped file, so a part is a view that costs no memory; ``from_pretrained``
takes the views as a state dict. Only a normalised head is computed, and only parts that take turns are copied.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PretrainedConfig

from hanlin.errors import UserError
from hanlin.model.native.family import Cut, Family, Fields, cuts_of, native_modules
from hanlin.model.native.head import normalise_rows
from hanlin.model.weights import TensorInfo, WeightIndex

HEAD = "lm_head.weight"

_SAMPLING = ("do_sample", "temperature", "top_k", "top_p", "repetition_penalty", "max_new_tokens")
"""Settings of a shipped generation_config.json that keep their meaning."""


class NativeWeights(WeightIndex):
    """The tensors of a foreign checkpoint under native names; each is a part of a stored tensor, cut when loaded.

    ``divided``: the rows of a normalised head come divided by their length; else as they are stored, which is what
    identities are taken of and what full training starts from.
    """

    def __init__(self, stored: WeightIndex, family: Family, config: PretrainedConfig, *, divided: bool = False) -> None:
        self.stored = stored
        self.family = family
        self.config = config
        self.divided = divided and family.normalised_head
        self._source: dict[str, tuple[str, Cut | None]] = {}  # native name to stored name, and its rows there
        infos = []
        for info in stored.tensors.values():
            if not info.name.endswith(family.dropped):
                infos += self._parts(info)
        super().__init__(stored.files, infos, notices=stored.notices)
        if len(self.tensors) != len(infos):
            twice = next(info.name for info in infos if [other.name for other in infos].count(info.name) > 1)
            raise UserError(stored.files[0], f"holds {twice} under two names", mend="download the checkpoint again")

    def load(self, name: str) -> Tensor:
        """The tensor, a view of the mapped file where nothing is computed; raises KeyError for an unknown name."""
        source, cut = self._source[name]
        tensor = self.stored.load(source)
        return self.finish(name, tensor if cut is None else cut.take(tensor))

    def load_rows(self, name: str, rows: Sequence[int]) -> Tensor:
        """Some rows of a tensor, without reading the others."""
        source, cut = self._source[name]
        return self.finish(name, self.stored.load_rows(source, rows if cut is None else cut.stored_rows(rows)))

    def finish(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor of a normalised head (trained rows, for instance) as a plain model holds it."""
        return normalise_rows(tensor) if self.divided and name == HEAD else tensor

    def finished(self) -> NativeWeights:
        """The same tensors as the plain native model holds them."""
        return NativeWeights(self.stored, self.family, self.config, divided=True)

    def _parts(self, info: TensorInfo) -> list[TensorInfo]:
        module, dot, leaf = info.name.rpartition(".")
        targets = native_modules(self.family, module)
        if len(targets) == 1:
            name = f"{targets[0]}{dot}{leaf}"
            self._source[name] = (info.name, None)
            return [TensorInfo(name, info.dtype, info.shape, info.file)]
        cuts = cuts_of(self.family, self.config)
        rows = [cut.num_rows for cut in cuts]
        if not info.shape or info.shape[0] != sum(rows):
            raise UserError(
                "--model",
                f"{info.file.parent}: {info.name} has shape {list(info.shape)}",
                expected=f"{' + '.join(map(str, rows))} rows, as config.json says",
                mend="check that config.json and the weights belong together",
            )
        found = []
        for target, cut in zip(targets, cuts, strict=True):
            name = f"{target}.{leaf}"
            self._source[name] = (info.name, cut)
            found.append(TensorInfo(name, info.dtype, (cut.num_rows, *info.shape[1:]), info.file))
        return found


class NormalisedHeadWeights(WeightIndex):
    """Weights of a native folder whose head is normalised: stored rows are divided already, trained ones not yet."""

    def __init__(self, stored: WeightIndex) -> None:
        super().__init__(stored.files, list(stored.tensors.values()), notices=stored.notices)

    def finish(self, name: str, tensor: Tensor) -> Tensor:
        """Trained rows as a plain model holds them."""
        return normalise_rows(tensor) if name == HEAD else tensor


def generation_config(directory: Path, values: Mapping[str, Any], family: Family, rows: int) -> GenerationConfig:
    """How the checkpoint answers: what it ships, with all ids that stop it. ``rows`` is the size of the vocabulary."""
    file = directory / "generation_config.json"
    shipped: dict[str, Any] = {}
    if file.is_file():
        try:
            shipped = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(file, f"is not valid JSON ({error})") from error
    both = {**values, **shipped}
    own = both.get("eos_token_id")
    ids = [*(own if isinstance(own, list) else [own])]
    extra = list(family.stop_ids(Fields(both, file)))
    # The family's list is in order of use; what the checkpoint adds to it comes after, or first where it adds to that.
    stops = dict.fromkeys([*extra, *ids] if family.model_type == "qwen" else [*ids, *extra])
    found = {name: shipped[name] for name in _SAMPLING if name in shipped}
    known = [index for index in stops if isinstance(index, int) and 0 <= index < rows]
    found["eos_token_id"] = known if len(known) > 1 else known[0] if known else None
    for name in ("bos_token_id", "pad_token_id"):
        if isinstance(both.get(name), int) and 0 <= both[name] < rows:
            found[name] = both[name]
    return GenerationConfig(**found)


def state_of(weights: NativeWeights) -> dict[str, Tensor]:
    """All tensors by native name, views of the mapped files."""
    with torch.no_grad():
        return {name: weights.load(name) for name in weights.tensors}
