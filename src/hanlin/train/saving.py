"""Where trained weights go: the published folders for adapters, the output folder itself for whole models."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel

from hanlin import __version__
from hanlin.config.runs import PtConfig, SftConfig
from hanlin.errors import UserError
from hanlin.files import share, sync, write_failure
from hanlin.model.adapter import save_adapter
from hanlin.model.adapter_files import CONFIG_FILE, WEIGHT_FILES
from hanlin.model.identity import Record, write_record
from hanlin.model.native.head import divide_for_good
from hanlin.model.stops import StopIds, joined_stops
from hanlin.train.checkpoint import link_or_copy
from hanlin.train.start import Start

ADAPTER_FOLDERS = {"pt": "pt_lora_model", "sft": "sft_lora_model"}
"""The names that older tools wrote and that merge scripts look for (specification 1.4)."""


def _lasting_name(start: Start) -> str | None:
    """The base as a record names it: a folder by its full path, to be found from everywhere, else the hub id."""
    if start.base is None:
        return None
    folder = Path(start.base.name).expanduser()
    return str(folder.resolve()) if folder.exists() else start.base.name


class Saver:
    """Writes the weights of one run with tokenizer and record, in checkpoints and at the end."""

    def __init__(self, verb: str, start: Start, config: PtConfig | SftConfig, model: nn.Module) -> None:
        self.verb = verb
        self.start = start
        self.model = model
        self.base_name = _lasting_name(start)
        self.stops: StopIds = None
        if isinstance(model, PreTrainedModel) and model.generation_config is not None:
            taught = [start.tokenizer.special_id(token) for token in start.stop]
            self.stops = joined_stops(taught, model.generation_config.eos_token_id)
        self.record = Record(
            kind="adapter" if isinstance(model, PeftModel) else "model",
            stage="pt" if verb == "pt" else "sft",
            base_model=self.base_name,
            base_identity=start.base.identity if start.base else None,
            tokenizer_identity=start.tokenizer.identity,
            template=start.renderer.name if start.renderer else start.inherited_template,
            system=start.renderer.system if start.renderer else start.inherited_system,
            chain=start.chain,
            base_vocab_rows=start.base.rows if start.base else None,
            hanlin_version=__version__,
            base_hub=start.base.origin.hub if start.base and start.base.origin else None,
            base_revision=start.base.origin.revision if start.base and start.base.origin else None,
            stop=start.stop,
            base_variant=start.base.variant if start.base else None,
        )

    def save_checkpoint(self, staged: Path, state_dict: Mapping[str, torch.Tensor] | None = None) -> None:
        """Write the weights of a checkpoint so that the trainer can go on from it and every verb can read it.

        ``state_dict`` holds gathered tensors under the live names where parameters are partitioned over processes.
        """
        if not isinstance(self.model, PeftModel):
            assert isinstance(self.model, PreTrainedModel)
            self._write_whole(staged, state_dict)
            return
        folder = staged / ADAPTER_FOLDERS[self.verb]
        self._write_adapter(folder, state_dict)
        # The trainer looks for the adapter in the checkpoint itself: a second name of the same files.
        for file in (CONFIG_FILE, WEIGHT_FILES[0]):
            link_or_copy(folder / file, staged / file)

    def _write_adapter(self, folder: Path, state_dict: Mapping[str, torch.Tensor] | None = None) -> None:
        assert isinstance(self.model, PeftModel)
        save_adapter(
            self.model,
            folder,
            record=self.record,
            tokenizer=self.start.tokenizer,
            base_model_name=self.base_name or "",
            state_dict=state_dict,
        )

    def _write_whole(self, folder: Path, state_dict: Mapping[str, torch.Tensor] | None = None) -> None:
        assert isinstance(self.model, PreTrainedModel)
        if self.model.generation_config is not None:
            self.model.generation_config.eos_token_id = self.stops
        self.model.config.use_cache = True  # training switched it off; the saved model is for answering
        try:
            self.model.save_pretrained(folder, state_dict=state_dict)
        finally:
            self.model.config.use_cache = False
        self.start.tokenizer.save(folder)
        write_record(folder, self.record)
        for file in folder.glob("*.safetensors"):
            share(file)

    def final_folder(self, output_dir: Path) -> Path:
        """Where ``save_final`` puts the weights."""
        return output_dir / ADAPTER_FOLDERS[self.verb] if isinstance(self.model, PeftModel) else output_dir

    def is_saved(self, output_dir: Path) -> bool:
        """Whether the final weights are there."""
        folder = self.final_folder(output_dir)
        return any(folder.glob("*.safetensors"))

    def save_final(self, output_dir: Path) -> None:
        """Write the trained weights, in the main process alone. Raises UserError when the disk is full."""
        try:
            if isinstance(self.model, PeftModel):
                self._write_adapter(self.final_folder(output_dir))
            else:
                self._save_whole(output_dir)
        except (OSError, RuntimeError, SafetensorError) as error:
            reason = write_failure(error)
            if reason is None:
                raise
            raise UserError(
                output_dir,
                f"the trained weights cannot be written: {reason}",
                mend="free some space and start again: the run continues from its last checkpoint",
            ) from error

    def _save_whole(self, output_dir: Path) -> None:
        """A whole model lies in the output folder itself; its files are written aside and moved in one by one."""
        assert isinstance(self.model, PreTrainedModel)
        divide_for_good(self.model)  # checkpoints hold the head as it is trained, the result is a plain model
        aside = output_dir / ".saving-model"
        shutil.rmtree(aside, ignore_errors=True)
        try:
            self._write_whole(aside)
            # The config names the weights' shapes: it comes last, so that an interrupted move leaves no false pair.
            for item in sorted(aside.iterdir(), key=lambda path: path.name == "config.json"):
                sync(item)
                item.replace(output_dir / item.name)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
