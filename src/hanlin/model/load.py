"""Checkpoints to live models: complete, in the wanted dtype, and without executing anything that came with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from hanlin.errors import UserError, did_you_mean
from hanlin.model.hub import Access, Origin, default_access, fetch_model
from hanlin.model.native.convert import NativeWeights, NormalisedHeadWeights, generation_config, state_of
from hanlin.model.native.family import Family
from hanlin.model.native.head import NormalisedLlamaConfig, NormalisedLlamaForCausalLM, has_normalised_head
from hanlin.model.native.own_types import OWN_TYPES
from hanlin.model.native.qwen_long import QwenLongForCausalLM, has_long_rules
from hanlin.model.native.qwen_vl import QwenVLConfig, QwenVLLongForCausalLM
from hanlin.model.native.recognise import native_config, recognise, refuse_code, settle_variant
from hanlin.model.weights import WeightIndex, open_weights
from hanlin.names import is_hub_id

_BUFFERS = (".rotary_emb.inv_freq", ".attn.masked_bias", ".attn.bias")
"""Constants that older checkpoints stored; today's models compute them."""


def resolve_checkpoint(
    path_or_id: str | Path,
    *,
    place: str = "--model",
    revision: str | None = None,
    cache_dir: str | Path | None = None,
) -> Path:
    """The local folder of a checkpoint: ``path_or_id`` itself, or a hub id brought into the cache (never its code).

    Raises UserError when it is neither a folder with a config.json nor a model that the hub gives.
    """
    return find_checkpoint(path_or_id, place, default_access(revision, cache_dir))[0]


def find_checkpoint(path_or_id: str | Path, place: str, access: Access) -> tuple[Path, Origin | None]:
    """As ``resolve_checkpoint`` with a chosen hub; also says where the files came from, None for a folder."""
    path = Path(path_or_id).expanduser()
    if path.is_file():
        path = path.parent
    if path.is_dir():
        if not (path / "config.json").is_file():
            adapter = (path / "adapter_config.json").is_file()
            raise UserError(
                place,
                f"{path} holds no config.json",
                expected="a folder with a model",
                mend="this is an adapter: name its base here and the adapter with --adapter" if adapter else "",
            )
        return path, None
    if not is_hub_id(str(path_or_id)):
        raise UserError(place, f"{path_or_id} does not exist", expected="a folder with a model, or a hub id")
    fetched = fetch_model(str(path_or_id), place, access)
    return fetched.folder, fetched.origin


def load_config(directory: Path | str, place: str = "--model", *, variant: str | None = None) -> PretrainedConfig:
    """The native config of a local checkpoint, also of one of 2023 that brought its own code.

    ``variant`` names the family where config.json does not tell it (``native.recognise``). Raises UserError when only
    code of the checkpoint's own could read it.
    """
    file = Path(directory) / "config.json"
    values = _read_json(file)
    family = recognise(Path(directory), values, variant=variant)
    if family is not None:
        return _converted_config(Path(directory), values, family)
    refuse_code(directory, values, place)
    model_type = values.get("model_type")
    if model_type in OWN_TYPES:
        config: PretrainedConfig = OWN_TYPES[model_type][0].from_pretrained(directory)
        return config
    if model_type not in CONFIG_MAPPING:
        raise UserError(
            file,
            f"model_type is {model_type!r}",
            expected="one that transformers knows",
            mend=did_you_mean(str(model_type), CONFIG_MAPPING),
        )
    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=False)
    except (StrictDataclassError, ValueError, TypeError, KeyError, OSError) as error:
        raise UserError(file, f"cannot be used ({_reason(error)})") from error
    return config


def choose_variant(
    directory: Path | str, asked: str | None, *, recorded: str | None = None, family: str | None = None
) -> str | None:
    """``native.recognise.settle_variant`` for a folder. Raises UserError."""
    directory = Path(directory)
    return settle_variant(directory, _read_json(directory / "config.json"), asked, recorded=recorded, family=family)


def config_values(directory: Path | str, *, variant: str | None = None) -> dict[str, Any]:
    """``config.json`` of a local checkpoint as the native model has it; the file itself where it is native already."""
    values = _read_json(Path(directory) / "config.json")
    family = recognise(Path(directory), values, variant=variant)
    if family is None:
        return values
    found: dict[str, Any] = _converted_config(Path(directory), values, family).to_dict()
    return found


def generation_values(directory: Path | str, *, variant: str | None = None) -> dict[str, Any] | None:
    """``generation_config.json`` that belongs beside native weights, None where the checkpoint has none."""
    directory = Path(directory)
    values = _read_json(directory / "config.json") if (directory / "config.json").is_file() else {}
    family = recognise(directory, values, variant=variant)
    if family is not None:
        rows = _converted_config(directory, values, family).vocab_size
        found: dict[str, Any] = generation_config(directory, values, family, rows).to_diff_dict()
        return found
    file = directory / "generation_config.json"
    return _read_json(file) if file.is_file() else None


def open_base(directory: Path | str, place: str, *, variant: str | None = None) -> WeightIndex:
    """Index of a model's weights under the names of the live model, whatever names the files have. Raises UserError."""
    stored = open_weights(directory, place)
    values = _read_json(Path(directory) / "config.json")
    family = recognise(Path(directory), values, variant=variant)
    if family is None:
        # Of our own types, those that divide in the forward pass hold rows as they were trained.
        divided = values.get("normalised_head") and values.get("model_type") != NormalisedLlamaConfig.model_type
        return NormalisedHeadWeights(stored) if divided and not values.get("divide_rows") else stored
    return NativeWeights(stored, family, _converted_config(Path(directory), values, family))


def empty_model(config: PretrainedConfig) -> PreTrainedModel:
    """The causal language model of ``config`` without memory for its weights (device "meta")."""
    with torch.device("meta"):
        if config.model_type in OWN_TYPES:
            return OWN_TYPES[config.model_type][1](config)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
        return model


def load_model(
    path_or_id: str | Path,
    *,
    dtype: torch.dtype,
    attn_implementation: str | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    variant: str | None = None,
    purpose: Literal["any", "all weights", "answers"] = "any",
) -> PreTrainedModel:
    """A causal language model on the CPU with all weights (``dtype``) from a folder or a hub id.

    Checkpoints of 2023 that brought their own code become native models; ``variant`` names the family where their
    config.json does not tell it. ``purpose``: what few families need to know. "all weights" trains all of them, so a
    normalised head (Baichuan2) normalises in each pass; "answers" applies what a family does past its trained length
    (Qwen v1). Raises UserError when a weight is missing, unknown or of another shape than config.json says: such models
    load with random weights in silence otherwise.
    """
    disable_progress_bar()  # transformers draws one for every file, between the lines of ours
    directory = resolve_checkpoint(path_or_id, revision=revision, cache_dir=cache_dir)
    config = load_config(directory, variant=variant)
    index = open_base(directory, "--model", variant=variant)  # damaged and unsafe files are answered here, by header
    config, kind = _class_for(config, purpose)
    options: dict[str, Any] = {"attn_implementation": attn_implementation} if attn_implementation else {}
    source: Path | None = directory
    if isinstance(index, NativeWeights):
        options["state_dict"] = state_of(index if purpose == "all weights" else index.finished())
        source, kind = None, index.family.native if kind is AutoModelForCausalLM else kind
    try:
        model, info = kind.from_pretrained(
            source,
            config=config,
            dtype=dtype,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, all at once and in one line
            **options,
        )
    except (ValueError, ImportError, RuntimeError, OSError, KeyError, AssertionError) as error:
        raise UserError("--model", f"{directory} cannot be loaded ({_reason(error)})") from error
    _check_complete(directory, config, info)
    loaded: PreTrainedModel = model
    if isinstance(index, NativeWeights):
        values = _read_json(directory / "config.json")
        loaded.generation_config = generation_config(directory, values, index.family, config.vocab_size)
        loaded.name_or_path = loaded.config._name_or_path = str(path_or_id)
    return loaded


def _class_for(config: PretrainedConfig, purpose: str) -> tuple[PretrainedConfig, Any]:
    """The class that a model of ``config`` gets for its purpose, and the config of that class."""
    if purpose == "answers" and has_long_rules(config):
        return config, QwenVLLongForCausalLM if isinstance(config, QwenVLConfig) else QwenLongForCausalLM
    kind = OWN_TYPES[config.model_type][1] if config.model_type in OWN_TYPES else AutoModelForCausalLM
    if purpose != "all weights" or not has_normalised_head(config):
        return config, kind
    if config.model_type == "llama":
        values = config.to_dict()
        values.pop("model_type")
        return NormalisedLlamaConfig(**values), NormalisedLlamaForCausalLM
    config.divide_rows = True
    return config, kind


def _converted_config(directory: Path, values: Mapping[str, Any], family: Family) -> PretrainedConfig:
    try:
        return native_config(directory, values, family)
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError) as error:
        raise UserError(directory / "config.json", f"cannot be used ({_reason(error)})") from error


def model_from_config(
    config: str | Path | Mapping[str, Any],
    overrides: str | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    vocab_size: int | None = None,
    attn_implementation: str | None = None,
) -> PreTrainedModel:
    """A causal language model with random weights (torch's global generator) for training from scratch.

    ``config`` is a config.json, a folder with one, a model type ("llama"), or values with ``model_type``;
    ``overrides`` is "hidden_size=512,num_hidden_layers=8"; ``vocab_size`` is that of the tokenizer. Raises UserError
    for an unknown field or a value that does not fit it.
    """
    disable_progress_bar()
    if isinstance(config, Mapping):
        values, place = dict(config), "the model's config"
    elif str(config) in CONFIG_MAPPING and not Path(config).exists():
        values, place = {"model_type": str(config)}, "--model_config"
    else:
        file = Path(config)
        file = file / "config.json" if file.is_dir() else file
        values, place = _read_json(file), str(file)
    model_type = values.pop("model_type", None)
    if model_type not in CONFIG_MAPPING:
        raise UserError(
            place,
            f"model_type is {model_type!r}",
            expected="one that transformers knows",
            mend=did_you_mean(str(model_type), CONFIG_MAPPING),
        )
    for key in ("auto_map", "architectures", "transformers_version", "dtype", "torch_dtype", "_name_or_path"):
        values.pop(key, None)
    default = CONFIG_MAPPING[model_type]()
    values |= parse_overrides(overrides or "", default)
    if vocab_size is not None:
        values["vocab_size"] = vocab_size
    extra = {"attn_implementation": attn_implementation} if attn_implementation else {}
    try:
        built = CONFIG_MAPPING[model_type](**values)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(built, dtype=dtype, **extra)
    except (StrictDataclassError, ValueError, TypeError, AttributeError, RuntimeError, ZeroDivisionError) as error:
        raise UserError(place, f"does not describe a model ({_reason(error)})") from error
    return model


def parse_overrides(text: str, default: PretrainedConfig) -> dict[str, Any]:
    """Typed values of "k=v,k=v"; types are those of ``default``. Raises UserError for unknown fields and bad values."""
    found: dict[str, Any] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, equals, value = (p.strip() for p in part.partition("="))
        if not equals:
            raise UserError("--config_overrides", f"{part!r} has no =", expected="name=value,name=value")
        known = default.to_dict()
        if name not in known:
            raise UserError(
                "--config_overrides",
                f"{default.model_type} has no field {name!r}",
                mend=did_you_mean(name, known),
            )
        found[name] = _typed(name, value, known[name])
    return found


def _typed(name: str, value: str, example: Any) -> Any:
    if value.lower() in ("none", "null"):
        return None
    if isinstance(example, str):
        return value
    try:
        parsed = json.loads(value.lower() if value.lower() in ("true", "false") else value)
    except ValueError:
        parsed = value if example is None else object()
    whole = isinstance(parsed, int) and not isinstance(parsed, bool)
    fits = (
        isinstance(parsed, bool) if isinstance(example, bool)
        else whole if isinstance(example, int)
        else whole or isinstance(parsed, float) if isinstance(example, float)
        else example is None
    )  # fmt: skip
    if not fits:
        kind = {bool: "true or false", int: "a whole number", float: "a number"}.get(type(example), "a plain value")
        raise UserError("--config_overrides", f"{name}={value}", expected=kind)
    return parsed


def _check_complete(directory: Path, config: PretrainedConfig, info: Mapping[str, Any]) -> None:
    place = "--model"
    mismatched = sorted(tuple(entry) for entry in info.get("mismatched_keys", ()))
    if mismatched:
        name, stored, wanted = mismatched[0]
        more = f" and {len(mismatched) - 1} more" if len(mismatched) > 1 else ""
        raise UserError(
            place,
            f"{directory}: {name} has shape {list(stored)}, config.json makes it {list(wanted)}{more}",
            mend=f"correct config.json (vocab_size {stored[0]}?)"
            if "embed" in name
            else "use the config of this model",
        )
    missing = sorted(info.get("missing_keys", ()))
    unexpected = sorted(k for k in info.get("unexpected_keys", ()) if not k.endswith(_BUFFERS))
    for problem, names in (("lacks", missing), ("holds unknown", unexpected)):
        if names:
            raise UserError(
                place,
                f"{directory} {problem} {len(names)} weights of a {config.model_type} model, such as {names[0]}",
                mend="check that config.json and the weights belong together",
            )
    if info.get("error_msgs"):
        raise UserError(place, f"{directory} cannot be loaded ({info['error_msgs'][0]})")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        values: Any = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(file, f"cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(file, f"is not valid JSON ({error})") from error
    if not isinstance(values, dict):
        raise UserError(file, f"holds {type(values).__name__}", expected="an object")
    return values


def _reason(error: Exception) -> str:
    """One line of a library's message: the first, or the cause where the first only says that a check failed."""
    lines = [line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]
