"""LoRA adapters of 2023 on fused modules, exactly as adapters on the native ones, and the old names as targets.

The update of a fused matrix is B @ A over all its rows: each part takes A whole and its own rows of B. Rank and alpha
stay. Adapters that are trained natively have an A for each part, so their curves are not those of 2023.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from hanlin.errors import UserError
from hanlin.model.adapter_files import AdapterFiles
from hanlin.model.native.family import Cut, Family, cuts_of, native_modules, native_names
from hanlin.model.native.recognise import FAMILIES, FAMILY_FIELD
from hanlin.model.weights import TensorInfo, WeightIndex

_PREFIX = "base_model.model."
_PARTS = re.compile(
    r"^base_model\.model\.(?P<module>.+?)(?P<rest>\.lora_[AB](?:\.default)?|\.modules_to_save(?:\.default)?|)"
    r"\.(?P<leaf>weight|bias)$"
)


class NativeAdapterWeights(WeightIndex):
    """Tensors of an adapter under native names; rows of a fused B, or of a fused matrix trained whole, are cut."""

    def __init__(self, stored: WeightIndex, family: Family, config: Any) -> None:
        self.stored = stored
        self._source: dict[str, tuple[str, Cut | None]] = {}
        infos: list[TensorInfo] = []
        for info in stored.tensors.values():
            infos += self._parts(info, family, config)
        super().__init__(stored.files, infos, notices=stored.notices)

    def load(self, name: str) -> Tensor:
        """The tensor on the CPU, in its stored dtype."""
        source, cut = self._source[name]
        tensor = self.stored.load(source)
        return tensor if cut is None else cut.take(tensor)

    def load_rows(self, name: str, rows: Sequence[int]) -> Tensor:
        """Some rows of a tensor."""
        source, cut = self._source[name]
        return self.stored.load_rows(source, rows if cut is None else cut.stored_rows(rows))

    def _parts(self, info: TensorInfo, family: Family, config: Any) -> list[TensorInfo]:
        match = _PARTS.match(info.name)
        if match is None:
            self._source[info.name] = (info.name, None)
            return [info]
        targets = native_modules(family, match["module"])
        cuts = cuts_of(family, config) if len(targets) > 1 and "lora_A" not in match["rest"] else ()
        rows = [cut.num_rows for cut in cuts]
        if cuts and info.shape[0] != sum(rows):
            raise UserError(
                info.file,
                f"{info.name} has shape {list(info.shape)}",
                expected=f"{' + '.join(map(str, rows))} rows, as the base has",
                mend="use the base that the adapter was trained on",
            )
        found = []
        for index, target in enumerate(targets):
            name = f"{_PREFIX}{target}{match['rest']}.{match['leaf']}"
            self._source[name] = (info.name, cuts[index] if cuts else None)
            shape = (rows[index], *info.shape[1:]) if cuts else info.shape
            found.append(TensorInfo(name, info.dtype, shape, info.file))
        return found


def family_of(config: Any) -> Family | None:
    """The family of 2023 that a native config comes from, None for all others."""
    return FAMILIES.get(str(getattr(config, FAMILY_FIELD, None)))


def native_adapter(files: AdapterFiles, config: Any) -> AdapterFiles:
    """``files`` under the module names of the native model with ``config``; itself where it has those already.

    Raises UserError when its matrices are not those of the model, or its settings name modules by patterns.
    """
    family = family_of(config)
    if family is None:
        return files
    modules = {match["module"] for name in files.index.tensors if (match := _PARTS.match(name))}
    if all(native_modules(family, module) == (module,) for module in modules):
        return files
    if isinstance(files.target_modules, str) or files.rank_pattern or files.alpha_pattern or files.fan_in_fan_out:
        raise UserError(
            files.directory,
            "has settings (a pattern, or fan_in_fan_out) that have no native form beside old module names",
            expected="a list of target_modules and one rank",
        )
    return dataclasses.replace(
        files,
        target_modules=_all_native(family, files.target_modules),
        modules_to_save=_all_native(family, files.modules_to_save),
        index=NativeAdapterWeights(files.index, family, config),
        stored=files.stored or files.index,
        notices=(
            *files.notices,
            f"{files.directory}: its modules have the names of {family.title}; they were cut and renamed exactly",
        ),
    )


def native_targets(config: Any, wanted: Sequence[str], known: Iterable[str]) -> tuple[str, ...]:
    """``wanted`` with the names of 2023 replaced by what they mean in the native model.

    ``known`` are the modules of the model: a name that one of them ends with stays too. (``c_proj`` of Qwen-VL is in
    the vision tower, which kept its names, and in the text part, which did not.)
    """
    family = family_of(config)
    if family is None:
        return tuple(wanted)
    modules = list(known)
    found: dict[str, None] = {}
    for name in wanted:
        meant = native_names(family, name) or (name,)
        here = [one for one in (name, *meant) if any(module == one or module.endswith(f".{one}") for module in modules)]
        found.update(dict.fromkeys(here if name in here else meant))
    return tuple(found)


def _all_native(family: Family, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(new for name in names for new in (native_names(family, name) or (name,))))
