"""LoRA adapters on a live model (through PEFT): new, attached from files, and saved so that nothing can be lost.

The layout on disk is our own list of names (see ``adapter_files``), not what a library's filter leaves over: two
filters in a row once kept nothing, and 443-byte adapters were noticed only after days of training.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from hanlin.errors import UserError, did_you_mean
from hanlin.files import share, sync, write_failure
from hanlin.model.adapter_files import CONFIG_FILE, WEIGHT_FILES, AdapterFiles, read_adapter
from hanlin.model.identity import Record, write_record
from hanlin.model.native.adapters import native_adapter, native_targets
from hanlin.model.native.head import divide_in_forward, has_normalised_head
from hanlin.model.targets import expand_targets
from hanlin.model.weights import open_weight_file

ADAPTER = "default"
"""Name of the one adapter inside the live model; it never reaches a file."""

ALL_LINEAR = "all-linear"


class SavesItself(Protocol):
    """A tokenizer, as far as an adapter needs to know it."""

    def save(self, directory: Path) -> None:
        """Write the tokenizer's files into ``directory``."""


def new_adapter(
    model: PreTrainedModel,
    *,
    rank: int,
    alpha: float,
    dropout: float,
    target_modules: Sequence[str],
    modules_to_save: Sequence[str],
) -> PeftModel:
    """``model`` with a fresh LoRA adapter (scaling alpha / rank) and whole copies of ``modules_to_save`` to train.

    ``target_modules`` may be ("all-linear",), every linear module but the head, or hold the group "qkv"; names of 2023
    (``c_attn``) mean their native counterparts. What trains is float32 whatever the dtype of the base (gradients of
    float16 parameters cannot be unscaled). Tied embeddings stay tied. Raises UserError for a name that the model does
    not have.
    """
    modules = [name for name, _ in model.named_modules()]
    linear = [name for name, module in model.named_modules() if _is_linear(module)]
    names = native_targets(model.config, expand_targets(target_modules, linear), modules)
    modules_to_save = native_targets(model.config, modules_to_save, modules)
    targets: list[str] | str = list(names)
    if ALL_LINEAR in names:
        targets = ALL_LINEAR
    else:
        _check_targets(model, names)
    _check_names(model, modules_to_save)
    _normalise_trained_head(model, modules_to_save)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # a float in all published configs; PEFT only divides by it
        lora_dropout=dropout,
        target_modules=targets,
        modules_to_save=list(modules_to_save) or None,
        bias="none",
        task_type="CAUSAL_LM",
        ensure_weight_tying=_tying(model, modules_to_save),
    )
    return _inject(model, config, trainable=True)


def attach_adapter(model: PreTrainedModel, files: AdapterFiles, *, trainable: bool) -> PeftModel:
    """``model`` with the adapter of ``files``, every tensor of it in place; old module names are made native first.

    Where the adapter holds the whole embedding and head with more rows than the model, the model is resized first: all
    its rows are replaced, so what new rows start from does not matter. ``trainable`` parameters are float32, others
    have the model's dtype. Raises UserError when a tensor finds no place, a place finds no tensor, shapes differ or a
    value is not finite.
    """
    files = native_adapter(files, model.config)
    _grow(model, files)
    _normalise_trained_head(model, files.modules_to_save)
    modules_to_save = [name for name in files.modules_to_save if _has_module(model, name)]
    config = LoraConfig(
        r=files.r,
        lora_alpha=files.lora_alpha,
        lora_dropout=files.lora_dropout,
        target_modules=files.target_modules if isinstance(files.target_modules, str) else list(files.target_modules),
        modules_to_save=modules_to_save or None,
        fan_in_fan_out=files.fan_in_fan_out,
        use_rslora=files.use_rslora,
        rank_pattern=dict(files.rank_pattern),
        alpha_pattern=dict(files.alpha_pattern),
        bias="none",
        task_type="CAUSAL_LM",
        inference_mode=not trainable,
        ensure_weight_tying=_tying(model, modules_to_save),
    )
    try:
        peft_model = _inject(model, config, trainable=trainable)
    except ValueError as error:  # PEFT found none of the target modules
        raise UserError(files.directory, f"does not fit the model ({str(error).splitlines()[0][:160]})") from error
    _fill(peft_model, files)
    return peft_model


def adapter_parameters(model: PeftModel) -> dict[str, nn.Parameter]:
    """Each tensor of the adapter under its name on disk; a tied embedding appears under both of its names.

    PEFT and the tools around it look for both names when they load a tied adapter.
    """
    return {_disk_name(name): p for name, p in model.named_parameters(remove_duplicate=False) if _in_adapter(name)}


def expected_adapter_bytes(model: PeftModel) -> int:
    """Size in bytes of the tensors that ``save_adapter`` will write."""
    return sum(_numel(p) * p.element_size() for p in adapter_parameters(model).values())


def trainable_summary(model: nn.Module) -> tuple[int, int]:
    """Numbers of trained and of all parameters; the untrained originals of ``modules_to_save`` are not counted."""
    kept = [(name, p) for name, p in model.named_parameters() if ".original_module." not in name]
    return sum(_numel(p) for _, p in kept if p.requires_grad), sum(_numel(p) for _, p in kept)


def enable_input_gradients(model: nn.Module) -> None:
    """Make the embedding's output require gradients, as re-entrant checkpointing needs when embeddings are frozen.

    Otherwise backward ends with "element 0 of tensors does not require grad".
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    base.enable_input_require_grads()  # type: ignore[operator]


def save_adapter(
    peft_model: PeftModel,
    directory: Path | str,
    *,
    record: Record,
    tokenizer: SavesItself,
    base_model_name: str,
    state_dict: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write the adapter, its settings, tokenizer and record to ``directory``, and verify what was written.

    ``state_dict`` holds gathered tensors under the live names where parameters are partitioned over ranks. All is
    written to a sibling folder, read back (names, shapes, dtypes, no empty tensor) and then renamed; files of another
    kind in an existing ``directory`` stay. Raises UserError when a tensor is empty or the disk is full.
    """
    directory = Path(directory)
    gathered = {_disk_name(name): tensor for name, tensor in (state_dict or {}).items() if _in_adapter(name)}
    tensors = {}
    stored: set[int] = set()
    for name, parameter in adapter_parameters(peft_model).items():
        tensor = gathered.get(name, parameter).detach().to("cpu").contiguous()
        # safetensors refuses two names for one memory, so the second name of a tied embedding gets a copy
        tensors[name] = tensor.clone() if tensor.numel() and tensor.data_ptr() in stored else tensor
        stored.add(tensor.data_ptr())
    empty = [name for name, tensor in tensors.items() if tensor.numel() == 0]
    if empty or not tensors:
        raise UserError(
            directory,
            f"{len(empty)} of {len(tensors)} adapter tensors are empty",
            expected="whole tensors",
            mend="gather the partitioned parameters before saving",
        )
    aside = directory.with_name(f".{directory.name}.{os.getpid()}.tmp")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        tokenizer.save(aside)
        _write_settings(peft_model, aside / CONFIG_FILE, base_model_name, sorted(tensors))
        write_record(aside, record)
        save_file(tensors, aside / WEIGHT_FILES[0], metadata={"format": "pt"})
        share(aside / WEIGHT_FILES[0])
        _verify(aside, tensors)
        _publish(aside, directory)
    except Exception as error:
        reason = write_failure(error)
        if reason is None:
            raise
        raise UserError(directory, f"cannot be written ({reason})", mend="free some space") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _inject(model: PreTrainedModel, config: LoraConfig, *, trainable: bool) -> PeftModel:
    with _quiet():
        peft_model = get_peft_model(model, config, adapter_name=ADAPTER)
    for name, parameter in peft_model.named_parameters():
        if _in_adapter(name):
            # PEFT raises LoRA matrices to float32 but leaves whole copies in the dtype of the base.
            parameter.data = parameter.data.to(torch.float32 if trainable else model.dtype)
            parameter.requires_grad_(trainable)
    return peft_model


@contextmanager
def _quiet() -> Iterator[None]:
    """Without PEFT's warning about tied layers, which are dealt with, and about deprecated names in transformers."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", message="You have requested `ensure_weight_tying`")
        yield


def _fill(peft_model: PeftModel, files: AdapterFiles) -> None:
    """Copy every tensor of ``files`` to its place in the live adapter."""
    # remove_duplicate=False: of tied modules both names are places, and both may be in the file.
    live = {_disk_name(name): p for name, p in peft_model.named_parameters(remove_duplicate=False) if _in_adapter(name)}
    wanted = {f"base_model.model.{name}": stored for name, stored in files.full_tensors().items()}
    for module, (a, b) in files.lora_pairs().items():
        wanted[f"base_model.model.{module}.lora_A.weight"] = a
        wanted[f"base_model.model.{module}.lora_B.weight"] = b
    stray = sorted(set(wanted) - set(live))
    if stray:
        raise UserError(
            files.directory, f"{len(stray)} tensors have no place in the model, such as {stray[0]}",
            expected="an adapter of this model", mend="check the base with its adapter_config.json",
        )  # fmt: skip
    filled: dict[int, str] = {}
    for name, stored in wanted.items():
        parameter, tensor = live[name], files.index.load(stored)
        if parameter.shape != tensor.shape:
            raise UserError(
                files.directory,
                f"{name} has shape {list(tensor.shape)}",
                expected=f"{list(parameter.shape)} as in the model",
            )
        value = tensor.to(parameter.dtype)
        if not bool(torch.isfinite(value).all()):
            raise UserError(
                files.directory,
                f"{stored} is not finite in {str(parameter.dtype).removeprefix('torch.')}",
                mend="the adapter is damaged, or the dtype is too narrow: take a good checkpoint, or --dtype float32",
            )
        if id(parameter) in filled and not torch.equal(parameter.data, value.to(parameter.device)):
            raise UserError(
                files.directory,
                f"{name} and {filled[id(parameter)]} differ, but the model ties them",
                mend="use the base that the adapter was trained on",
            )
        parameter.data.copy_(value)
        filled[id(parameter)] = name
    missing = sorted(name for name, p in live.items() if id(p) not in filled)
    if missing:
        raise UserError(
            files.directory, f"{len(missing)} places of the model get no tensor, such as {missing[0]}",
            expected="an adapter of this model", mend="check target_modules and modules_to_save in adapter_config.json",
        )  # fmt: skip


def _grow(model: PreTrainedModel, files: AdapterFiles) -> None:
    """Resize to the rows of the adapter where it brings the whole embedding (and the head, unless tied)."""
    rows, have = files.embedding_rows(), model.get_input_embeddings().weight.shape[0]
    if rows is None or rows == have:
        return
    if rows < have:
        raise UserError(
            files.directory, f"was trained with {rows} embedding rows, the model has {have}", mend="use its own base"
        )
    full = files.full_tensors()
    modules = {id(m): name for name, m in model.named_modules()}
    brought = [
        f"{modules[id(module)]}.weight" in full
        for module in (model.get_input_embeddings(), model.get_output_embeddings())
        if module is not None
    ]
    if not (all(brought) or (model.config.tie_word_embeddings and any(brought))):
        raise UserError(
            files.directory,
            f"holds {rows} rows for only one of embedding and head, the model has {have} for both",
            mend="use the base that the adapter was trained on",
        )
    model.resize_token_embeddings(rows, mean_resizing=False)


def _normalise_trained_head(model: PreTrainedModel, modules_to_save: Sequence[str]) -> None:
    """A head that is trained whole divides its rows in the forward pass, in the families whose head is normalised."""
    head = model.get_output_embeddings()
    if has_normalised_head(model.config):
        names = [name for name, module in model.named_modules() if module is head]
        if any(_ends_with(name, modules_to_save) for name in names):
            divide_in_forward(head)


def _tying(model: PreTrainedModel, modules_to_save: Sequence[str]) -> bool:
    """Whether whole copies must stay tied: without it the head would be a second, independent copy."""
    if not getattr(model.config, "tie_word_embeddings", False):
        return False
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    return any(module in ends and _ends_with(name, modules_to_save) for name, module in model.named_modules())


def _check_targets(model: nn.Module, target_modules: Sequence[str]) -> None:
    linear = {name for name, module in model.named_modules() if _is_linear(module)}
    for wanted in target_modules:
        if any(_ends_with(name, (wanted,)) for name in linear):
            continue
        if _has_module(model, wanted):
            raise UserError(
                "--lora_target_modules",
                f"{wanted} is not a linear module",
                mend=f"train it whole: --modules_to_save {wanted}",
            )
        last = sorted({name.rsplit(".", 1)[-1] for name in linear})
        raise UserError(
            "--lora_target_modules",
            f"the model has no module {wanted!r}",
            expected=f"some of {', '.join(last)}, or {ALL_LINEAR}",
            mend=did_you_mean(wanted, last),
        )


def _check_names(model: nn.Module, modules_to_save: Sequence[str]) -> None:
    for wanted in modules_to_save:
        if not _has_module(model, wanted):
            last = sorted({name.rsplit(".", 1)[-1] for name, _ in model.named_modules() if name})
            raise UserError("--modules_to_save", f"the model has no module {wanted!r}", mend=did_you_mean(wanted, last))


def _is_linear(module: nn.Module) -> bool:
    # Quantised linear modules are subclasses of Linear; GPT-2 has Conv1D, a linear module with swapped axes.
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _has_module(model: nn.Module, wanted: str) -> bool:
    return any(_ends_with(name, (wanted,)) for name, _ in model.named_modules())


def _ends_with(name: str, wanted: Sequence[str]) -> bool:
    return any(name == end or name.endswith(f".{end}") for end in wanted)


def _in_adapter(live_name: str) -> bool:
    return any(f".{part}.{ADAPTER}." in live_name for part in ("lora_A", "lora_B", "modules_to_save"))


def _disk_name(live_name: str) -> str:
    """``...q_proj.lora_A.default.weight`` to ``...q_proj.lora_A.weight``; ``...modules_to_save.default`` goes."""
    return live_name.replace(f".modules_to_save.{ADAPTER}.", ".").replace(f".{ADAPTER}.", ".")


def _numel(parameter: torch.Tensor) -> int:
    return int(getattr(parameter, "ds_numel", None) or parameter.numel())  # DeepSpeed partitions leave 0 elements


def _write_settings(model: PeftModel, file: Path, base_model_name: str, names: Sequence[str]) -> None:
    """adapter_config.json as PEFT reads it, with the modules that were really written."""
    config = model.peft_config[ADAPTER].to_dict()
    whole = [name.removeprefix("base_model.model.").rsplit(".", 1)[0] for name in names if ".lora_" not in name]
    targets = config["target_modules"]
    config |= {
        "base_model_name_or_path": base_model_name,
        "inference_mode": True,
        "modules_to_save": sorted({module.rsplit(".", 1)[-1] for module in whole}) or None,
        "target_modules": targets if isinstance(targets, str) else _short_names(model, targets),
    }
    plain = {key: value for key, value in config.items() if not isinstance(value, set)}
    file.write_text(json.dumps(plain, ensure_ascii=False, indent=2, default=_plain) + "\n", encoding="utf-8")


def _short_names(model: nn.Module, targets: Iterable[str]) -> list[str]:
    """``q_proj`` for all modules of that name where each of them is a target, as people and other tools write it."""
    full, short = set(targets), set()
    linear = {
        name.removeprefix("base_model.model."): module
        for name, module in model.named_modules()
        if ".base_layer" not in name and ".lora_" not in name
        if _is_linear(module) or hasattr(module, "base_layer")
    }
    for target in sorted(full):
        last = target.rsplit(".", 1)[-1]
        alike = {name for name in linear if _ends_with(name, (last,))}
        short.add(last if alike and alike <= full else target)
    return sorted(short)


def _plain(value: Any) -> Any:
    """JSON form of the enumerations and nested dataclasses in PEFT's config."""
    return getattr(value, "value", None) if hasattr(value, "value") else str(value)


def _verify(directory: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """What lies on the disk is what was to be written, and reads as an adapter."""
    written = open_weight_file(directory / WEIGHT_FILES[0]).tensors
    for name, tensor in tensors.items():
        info = written.get(name)
        if info is None or info.shape != tuple(tensor.shape) or info.dtype != tensor.dtype or 0 in info.shape:
            raise UserError(directory, f"{name} was not written as it is", expected=f"shape {list(tensor.shape)}")
    if len(written) != len(tensors):
        raise UserError(directory, f"{len(written)} tensors were written", expected=str(len(tensors)))
    read_adapter(directory)


def _publish(aside: Path, directory: Path) -> None:
    """Rename ``aside`` to ``directory``; into an existing one each file is renamed by itself, the weights last."""
    files = sorted((f for f in aside.rglob("*") if f.is_file()), key=lambda f: f.name == WEIGHT_FILES[0])
    for file in files:
        sync(file)
    if not directory.exists():
        aside.rename(directory)
        return
    for file in files:
        target = directory / file.relative_to(aside)
        target.parent.mkdir(parents=True, exist_ok=True)
        file.replace(target)
