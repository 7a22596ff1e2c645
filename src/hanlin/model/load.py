"""Checkpoints to live models: complete, in the wanted dtype, and without executing anything that came with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from hanlin.errors import UserError, did_you_mean
from hanlin.model.hub import download_model
from hanlin.model.weights import open_weights
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
        return path
    if not is_hub_id(str(path_or_id)):
        raise UserError(place, f"{path_or_id} does not exist", expected="a folder with a model, or a hub id")
    return download_model(str(path_or_id), place, revision=revision, cache_dir=cache_dir)


def load_config(directory: Path | str, place: str = "--model") -> PretrainedConfig:
    """The config of a local checkpoint; raises UserError when only code of the checkpoint's own could read it."""
    file = Path(directory) / "config.json"
    values = _read_json(file)
    if values.get("auto_map"):
        code = next(iter(values["auto_map"].values())) if isinstance(values["auto_map"], dict) else values["auto_map"]
        raise UserError(
            place,
            f"{directory} runs Python code of its own (auto_map names {code}), which is never executed",
            expected="an architecture that transformers has itself",
        )
    model_type = values.get("model_type")
    if model_type not in CONFIG_MAPPING:
        raise UserError(
            file,
            f"model_type is {model_type!r}",
            expected="one that transformers knows",
            mend=did_you_mean(str(model_type), CONFIG_MAPPING),
        )
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(directory, trust_remote_code=False)
    except (StrictDataclassError, ValueError, TypeError, KeyError, OSError) as error:
        raise UserError(file, f"cannot be used ({_reason(error)})") from error
    return config


def load_model(
    path_or_id: str | Path,
    *,
    dtype: torch.dtype,
    attn_implementation: str | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
) -> PreTrainedModel:
    """A causal language model on the CPU with all weights (``dtype``) from a folder or a hub id.

    Raises UserError when a weight is missing, unknown or of another shape than config.json says: such models load
    with random weights in silence otherwise.
    """
    disable_progress_bar()  # transformers draws one for every file, between the lines of ours
    directory = resolve_checkpoint(path_or_id, revision=revision, cache_dir=cache_dir)
    config = load_config(directory)
    open_weights(directory, "--model")  # damaged, incomplete and unsafe files are answered here, by header
    extra = {"attn_implementation": attn_implementation} if attn_implementation else {}
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            directory,
            config=config,
            dtype=dtype,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, all at once and in one line
            **extra,
        )
    except (ValueError, ImportError, RuntimeError, OSError, KeyError, AssertionError) as error:
        raise UserError("--model", f"{directory} cannot be loaded ({_reason(error)})") from error
    _check_complete(directory, config, info)
    loaded: PreTrainedModel = model
    return loaded


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
