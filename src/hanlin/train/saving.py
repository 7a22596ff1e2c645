"""Where trained weights go: the published folders for adapters, the output folder itself for whole models."""

from __future__ import annotations

import filecmp
import shutil
from pathlib import Path

from peft import PeftModel
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel

from hanlin import __version__
from hanlin.config.runs import PtConfig, SftConfig
from hanlin.errors import UserError
from hanlin.model.adapter import save_adapter
from hanlin.model.identity import Record, write_record
from hanlin.train.checkpoint import link_or_copy, sync_file, write_failure
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
        )

    def save_checkpoint_export(self, weights: Path, staged: Path) -> None:
        """Make a staged checkpoint readable by every verb: adapter folder, or tokenizer and record beside the model."""
        if isinstance(self.model, PeftModel):
            folder = staged / ADAPTER_FOLDERS[self.verb]
            save_adapter(
                self.model,
                folder,
                record=self.record,
                tokenizer=self.start.tokenizer,
                base_model_name=self.base_name or "",
            )
            self._share_weights(weights, folder)
            return
        self.start.tokenizer.save(staged)
        write_record(staged, self.record)

    def _share_weights(self, checkpoint: Path, folder: Path) -> None:
        """The trainer wrote the same tensors for resuming; where both files are equal, one copy is enough."""
        name = "adapter_model.safetensors"
        ours, theirs = folder / name, checkpoint / name
        if theirs.is_file() and filecmp.cmp(ours, theirs, shallow=False):
            theirs.unlink()
            link_or_copy(ours, theirs)

    def save_final(self, output_dir: Path) -> Path:
        """Write the trained weights; returns their folder. Raises UserError when the disk is full."""
        try:
            if isinstance(self.model, PeftModel):
                folder = output_dir / ADAPTER_FOLDERS[self.verb]
                save_adapter(
                    self.model,
                    folder,
                    record=self.record,
                    tokenizer=self.start.tokenizer,
                    base_model_name=self.base_name or "",
                )
                return folder
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
        return output_dir

    def _save_whole(self, output_dir: Path) -> None:
        """A whole model lies in the output folder itself; its files are written aside and moved in one by one."""
        assert isinstance(self.model, PreTrainedModel)
        aside = output_dir / ".saving-model"
        shutil.rmtree(aside, ignore_errors=True)
        try:
            self.model.config.use_cache = True
            self.model.save_pretrained(aside)
            self.start.tokenizer.save(aside)
            write_record(aside, self.record)
            # The config names the weights' shapes: it comes last, so that an interrupted move leaves no false pair.
            for item in sorted(aside.iterdir(), key=lambda path: path.name == "config.json"):
                sync_file(item)
                item.replace(output_dir / item.name)
        finally:
            self.model.config.use_cache = False
            shutil.rmtree(aside, ignore_errors=True)
