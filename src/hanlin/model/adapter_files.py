"""Adapter directories, as written in 2023 and today, read without loading a weight and without PEFT.

The layout on disk (one for both ages): ``adapter_config.json``, ``adapter_model.safetensors`` or ``adapter_model.bin``
and the tokenizer. Keys are ``base_model.model.{module}.lora_A.weight`` and, for modules trained whole,
``base_model.model.{module}.weight``. The names inside a live PEFT model (``lora_A.default.weight``,
``{module}.modules_to_save.default.weight``) are accepted too.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanlin.errors import UserError
from hanlin.model.hub import Access, default_access, fetch_adapter
from hanlin.model.identity import Record, read_record, weights_identity
from hanlin.model.weights import WeightIndex, open_weight_file
from hanlin.names import is_hub_id

CONFIG_FILE = "adapter_config.json"
WEIGHT_FILES = ("adapter_model.safetensors", "adapter_model.bin")
OUTPUT_FOLDERS = ("pt_lora_model", "sft_lora_model")
"""Folders of an output directory (and of each checkpoint in it) that hold the adapter."""

INPUT_EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "tok_embeddings", "embed_in")
OUTPUT_HEADS = ("lm_head", "embed_out", "output_layer")
"""Last names of the modules with one row per vocabulary id, over the families that transformers knows."""

_OBSOLETE = ("enable_lora", "merge_weights")
_LORA = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_(?P<half>[AB])(\.default)?\.weight$")
_ORIGINAL = re.compile(r"\.original_module\.(weight|bias)$")
_FULL = re.compile(r"^base_model\.model\.(?P<module>.+?)(\.modules_to_save(\.default)?)?\.(?P<leaf>weight|bias)$")
_FOREIGN = ("lora_embedding_", "lora_magnitude_vector", ".base_layer.", "token_adapter", "ia3_", "lokr_", "hada_")


@dataclass(frozen=True, kw_only=True)
class AdapterFiles:
    """An adapter directory: its settings and the headers of its weights. Module names are those of the base model."""

    directory: Path
    r: int
    lora_alpha: float
    lora_dropout: float
    target_modules: tuple[str, ...] | str
    """Names of modules, or one pattern ("all-linear" included) as the config has it."""
    modules_to_save: tuple[str, ...]
    fan_in_fan_out: bool
    use_rslora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    ensure_weight_tying: bool
    """Embedding and head were trained as one tensor; a file may hold it under both names."""
    base_model_name_or_path: str | None
    record: Record | None
    index: WeightIndex
    notices: tuple[str, ...] = ()
    stored: WeightIndex | None = None
    """The tensors under the names in the file, where ``index`` gives them other ones (``native.adapters``)."""

    def lora_pairs(self) -> dict[str, tuple[str, str]]:
        """Module (``model.layers.0.self_attn.q_proj``) to the names of A ``[r, in]`` and B ``[out, r]`` in the file."""
        halves: dict[str, dict[str, str]] = {}
        for name in self.index.tensors:
            if match := _LORA.match(name):
                halves.setdefault(match["module"], {})[match["half"]] = name
        return {module: (half["A"], half["B"]) for module, half in halves.items()}

    def full_tensors(self) -> dict[str, str]:
        """Tensor of the base (``model.embed_tokens.weight``) to the name in the file, for modules trained whole.

        The head of a tied adapter is left out: it is the embedding once more, and the base has no tensor for it.
        """
        found = {}
        for name in self.index.tensors:
            if _LORA.match(name) or _ORIGINAL.search(name):
                continue
            if match := _FULL.match(name):
                found[f"{match['module']}.{match['leaf']}"] = name
        if self.ensure_weight_tying and any(_last(name) in INPUT_EMBEDDINGS for name in found):
            found = {name: stored for name, stored in found.items() if _last(name) not in OUTPUT_HEADS}
        return found

    def scaling(self, module: str) -> float:
        """Factor of ``B @ A``: alpha / r, or alpha / sqrt(r) with ``use_rslora`` (arXiv 2312.03732)."""
        rank = self.rank(module)
        alpha = float(_pattern_value(self.alpha_pattern, module, self.lora_alpha))
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank

    def rank(self, module: str) -> int:
        """Rank of the pair of ``module``."""
        return int(_pattern_value(self.rank_pattern, module, self.r))

    def embedding_rows(self) -> int | None:
        """Vocabulary rows of the trained embedding (or head), None when the adapter holds neither."""
        full = self.full_tensors()
        for base_name in sorted(full, key=lambda name: "embed" not in name):
            if is_embedding(base_name):
                return self.index.tensors[full[base_name]].shape[0]
        return None

    def identity(self) -> str:
        """``weights_identity`` of the file: what a record's ``chain`` holds."""
        return weights_identity(self.stored or self.index)

    @property
    def name(self) -> str:
        """Name of the adapter's folder; the folder above where that one is ``pt_lora_model`` or ``sft_lora_model``."""
        resolved = self.directory.resolve()
        return resolved.parent.name if resolved.name in OUTPUT_FOLDERS else resolved.name


def is_embedding(tensor: str) -> bool:
    """Whether a tensor of the base is the input embedding or the output head (one row per vocabulary id)."""
    return _last(tensor) in INPUT_EMBEDDINGS + OUTPUT_HEADS and tensor.endswith(".weight")


def _last(tensor: str) -> str:
    """``lm_head`` of ``lm_head.weight``."""
    return tensor.split(".")[-2] if "." in tensor else ""


def find_adapter(path: Path | str, place: str = "--adapter", access: Access | None = None) -> Path:
    """The adapter directory meant by ``path``: itself, or the one inside an output directory or checkpoint.

    Raises UserError when there is none or more than one, naming what was found.
    """
    path = Path(path).expanduser()
    if path.is_file() and path.name in (CONFIG_FILE, *WEIGHT_FILES):
        path = path.parent
    if not path.exists() and "/" in str(path) and is_hub_id(str(path)):
        path = fetch_adapter(str(path), place, access or default_access()).folder
    if not path.is_dir():
        raise UserError(place, f"{path} is not a folder", expected=f"a folder with {CONFIG_FILE}, or a hub id")
    if (path / CONFIG_FILE).is_file():
        return path
    inside = [path / name for name in OUTPUT_FOLDERS if (path / name / CONFIG_FILE).is_file()]
    if not inside:
        inside = _in_checkpoints(path)
    if len(inside) == 1:
        return inside[0]
    if inside:
        listed = ", ".join(str(found.relative_to(path)) for found in inside)
        raise UserError(
            place, f"{path} holds {len(inside)} adapters ({listed})", mend=f"name one of them, such as {inside[-1]}"
        )
    raise UserError(
        place,
        f"{path} holds no adapter (no {CONFIG_FILE})",
        expected=f"an adapter folder, or an output folder with {' or '.join(OUTPUT_FOLDERS)} in it",
        mend=_mend_no_adapter(path),
    )


def read_adapter(path: Path | str, place: str = "--adapter", access: Access | None = None) -> AdapterFiles:
    """Read and check an adapter directory (found as by ``find_adapter``); loads no weights.

    Raises UserError when the directory is incomplete, the weights are empty, or settings and weights disagree.
    """
    directory = find_adapter(path, place, access)
    file = next((directory / name for name in WEIGHT_FILES if (directory / name).is_file()), None)
    if file is None:
        raise UserError(directory, f"holds {CONFIG_FILE} but no weights", expected=" or ".join(WEIGHT_FILES))
    settings, notices = _read_settings(directory / CONFIG_FILE)
    if file.name == WEIGHT_FILES[0] and (directory / WEIGHT_FILES[1]).is_file():
        notices.append(f"{directory} holds {WEIGHT_FILES[0]} and {WEIGHT_FILES[1]}; the safetensors are read")
    adapter = AdapterFiles(
        directory=directory,
        record=read_record(directory),
        index=open_weight_file(file),
        notices=tuple(notices),
        **settings,
    )
    _check_tensors(adapter, file)
    _check_modules(adapter, file)
    return adapter


def _in_checkpoints(path: Path) -> list[Path]:
    """Adapters of the checkpoints in an output directory, by step."""
    found: list[tuple[int, Path]] = []
    for checkpoint in path.glob("checkpoint-*"):
        step = checkpoint.name.removeprefix("checkpoint-")
        for candidate in (checkpoint, *(checkpoint / name for name in OUTPUT_FOLDERS)):
            if step.isdigit() and (candidate / CONFIG_FILE).is_file():
                found.append((int(step), candidate))
                break
    return [candidate for _, candidate in sorted(found)]


def _mend_no_adapter(path: Path) -> str:
    if any((path / name).is_file() for name in WEIGHT_FILES):
        return f"put the {CONFIG_FILE} that belongs to the weights beside them"
    if (path / "config.json").is_file():
        return "this is a full model; name it with --model and leave the adapter out"
    return ""


def _read_settings(file: Path) -> tuple[dict[str, Any], list[str]]:
    """Fields of AdapterFiles from adapter_config.json, and notices about what was left out."""
    try:
        config: Any = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(file, f"is not valid JSON ({error})") from error
    if not isinstance(config, dict):
        raise UserError(file, f"holds {type(config).__name__}", expected="an object")
    if config.get("peft_type") != "LORA":
        raise UserError(file, f"peft_type is {config.get('peft_type')!r}", expected="'LORA'")
    for key in ("use_dora", "trainable_token_indices", "layer_replication", "megatron_config", "target_parameters"):
        if config.get(key):
            raise UserError(file, f"{key} is {config[key]!r}", expected="an adapter of plain LoRA")
    if config.get("bias", "none") != "none":
        raise UserError(file, f"bias is {config['bias']!r}", expected="'none'")
    obsolete = [key for key in _OBSOLETE if key in config]
    notices = []
    if any(config[key] for key in obsolete):
        raise UserError(file, f"{obsolete} are set; today's LoRA has no such settings", expected="null or false")
    if obsolete:
        notices.append(f"{file}: {', '.join(obsolete)} no longer exist and were left out")
    targets = config.get("target_modules") or ()
    return {
        "r": _number(config, "r", file, whole=True),
        "lora_alpha": _number(config, "lora_alpha", file),
        "lora_dropout": _number(config, "lora_dropout", file, default=0.0, zero=True),
        "target_modules": targets if isinstance(targets, str) else tuple(targets),
        "modules_to_save": tuple(config.get("modules_to_save") or ()),
        "fan_in_fan_out": bool(config.get("fan_in_fan_out")),
        "use_rslora": bool(config.get("use_rslora")),
        "ensure_weight_tying": bool(config.get("ensure_weight_tying")),
        "rank_pattern": dict(config.get("rank_pattern") or {}),
        "alpha_pattern": dict(config.get("alpha_pattern") or {}),
        "base_model_name_or_path": config.get("base_model_name_or_path"),
    }, notices


def _number(
    config: dict[str, Any],
    key: str,
    file: Path,
    *,
    whole: bool = False,
    zero: bool = False,
    default: float | None = None,
) -> Any:
    value = config.get(key, default)
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or value < 0
        or (value == 0 and not zero)
        or (whole and value != int(value))
    ):
        raise UserError(file, f"{key} is {value!r}", expected=f"a positive {'whole ' if whole else ''}number")
    return int(value) if whole else float(value)


def _check_tensors(adapter: AdapterFiles, file: Path) -> None:
    """Every tensor is known, none is empty, each A has its B, ranks agree."""
    size = file.stat().st_size
    tensors = adapter.index.tensors
    if not tensors or all(0 in tensor.shape for tensor in tensors.values()):
        raise UserError(
            file,
            f"is empty: {size} bytes with {'no' if not tensors else 'only empty'} tensors",
            expected="the trained weights",
            mend="the run that saved it lost them (a known fault of older savers and ZeRO-3); take a good checkpoint",
        )
    for name, tensor in tensors.items():
        if 0 in tensor.shape:
            raise UserError(file, f"tensor {name} is empty, shape {list(tensor.shape)}", mend="take a good checkpoint")
        known = (_LORA.match(name) or _FULL.match(name)) and not any(part in name for part in _FOREIGN)
        if not known:
            raise UserError(file, f"unknown tensor {name}", expected="base_model.model.*.lora_A.weight and the like")
    halves: dict[str, set[str]] = {}
    for name in tensors:
        if match := _LORA.match(name):
            halves.setdefault(match["module"], set()).add(match["half"])
    for module, found in halves.items():
        if found != {"A", "B"}:
            raise UserError(
                file, f"{module} has lora_{found.pop()} without its other half", mend="take a good checkpoint"
            )
    for module, (a, b) in adapter.lora_pairs().items():
        ranks = (tensors[a].shape[0], tensors[b].shape[-1])
        if ranks != (adapter.rank(module), adapter.rank(module)):
            raise UserError(
                file, f"{module} has rank {ranks[0]} (A) and {ranks[1]} (B), {CONFIG_FILE} says {adapter.rank(module)}"
            )


def _check_modules(adapter: AdapterFiles, file: Path) -> None:
    """Settings and weights name the same modules (a disagreement would load a part in silence)."""
    config = adapter.directory / CONFIG_FILE
    full = sorted({name.rsplit(".", 1)[0] for name in adapter.full_tensors()})
    for module in full:
        if not _named(module, adapter.modules_to_save):
            listed = json.dumps(sorted({*adapter.modules_to_save, *(name.rsplit(".", 1)[-1] for name in full)}))
            raise UserError(
                config,
                f"modules_to_save is {json.dumps(list(adapter.modules_to_save) or None)}"
                f" but {file.name} holds {module}",
                mend=f'write "modules_to_save": {listed}',
            )
    for wanted in adapter.modules_to_save:
        tied_head = wanted.rsplit(".", 1)[-1] in OUTPUT_HEADS and any(
            module.rsplit(".", 1)[-1] in INPUT_EMBEDDINGS for module in full
        )  # a tied head is stored once, as the embedding; the base decides (preflight)
        if not tied_head and not any(_named(module, (wanted,)) for module in full):
            raise UserError(
                config,
                f"modules_to_save names {wanted} but {file.name} does not hold it",
                mend='write "modules_to_save": null' if not full else f"remove {wanted} from modules_to_save",
            )
    if isinstance(adapter.target_modules, str):
        return
    pairs = adapter.lora_pairs()
    for module in pairs:
        if not _named(module, adapter.target_modules):
            raise UserError(config, f"target_modules lacks {module}, which {file.name} holds", mend="add it")
    for wanted in adapter.target_modules:
        if not any(_named(module, (wanted,)) for module in pairs):
            raise UserError(config, f"target_modules names {wanted} but {file.name} does not hold it", mend="remove it")


def _named(module: str, names: tuple[str, ...]) -> bool:
    """Whether a full module name ends with one of the names (``q_proj`` or ``model.layers.0.self_attn.q_proj``)."""
    return any(module == name or module.endswith(f".{name}") for name in names)


def _pattern_value(pattern: Mapping[str, Any], module: str, default: Any) -> Any:
    """Value of the first pattern that is the end of ``module``, as PEFT matches rank_pattern and alpha_pattern."""
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default
