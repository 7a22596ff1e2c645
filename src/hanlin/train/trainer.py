"""transformers' Trainer with our loss, evaluation over all trained tokens, and checkpoints that are whole or absent."""

from __future__ import annotations

import itertools
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from transformers import Trainer, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import EvalLoopOutput

from hanlin.errors import UserError
from hanlin.files import write_failure
from hanlin.tokens.collate import PackedDataset
from hanlin.train.callbacks import peak_memory_bytes
from hanlin.train.checkpoint import PREFIX, STAGING_PREFIX, rotate, seal
from hanlin.train.sampler import EpochSampler, FilledDataset, empty_row
from hanlin.types import IGNORE_INDEX

SaveWeights = Callable[[Path, Mapping[str, Tensor] | None], None]
"""Writes the weights of a checkpoint into a folder, from the model or from a gathered state dict."""


class HanlinTrainer(Trainer):
    """Expects a model with our loss attached (``hanlin.model.loss``) and batches of ``tokens.collate``.

    The loss of an optimizer step is the sum over its trained tokens divided by their number over all micro-batches and
    ranks, so accumulation and batch size give one trajectory.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        *,
        train_dataset: PackedDataset,
        eval_dataset: PackedDataset | None,
        eval_bytes: int,
        collate: Callable[[list[Any]], dict[str, Tensor]],
        callbacks: list[Any],
        fingerprint: Mapping[str, Any],
        save_weights: SaveWeights,
        save_total_limit: int | None,
    ) -> None:
        """``eval_bytes``: UTF-8 bytes of the evaluated text, for bits per byte; 0 leaves that figure out."""
        super().__init__(
            model=model,
            args=args,
            data_collator=collate,
            train_dataset=FilledDataset(train_dataset, args.train_batch_size * args.world_size),
            eval_dataset=eval_dataset,
            callbacks=callbacks,
        )
        # Wrappers hide the signature of the attached forward, which takes num_items_in_batch.
        self.model_accepts_loss_kwargs = True
        self.num_rows = len(train_dataset)
        self.eval_bytes = eval_bytes
        self.fingerprint = dict(fingerprint)
        self.save_weights = save_weights
        self.rotation_limit = save_total_limit
        self._staging: Path | None = None
        self._reset_speed()

    # ---- order of the rows: each once, on any number of processes ----

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler:
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return EpochSampler(self.num_rows, len(self.train_dataset), seed)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """The rows of this process: every n-th of all, so that each row is evaluated once."""
        rows = eval_dataset if eval_dataset is not None else self.eval_dataset
        share = Subset(rows, range(self.args.process_index, len(rows), self.args.world_size))
        return DataLoader(share, batch_size=self.args.eval_batch_size, collate_fn=self.data_collator)

    # ---- speed, without a synchronising call in the loop ----

    def _reset_speed(self) -> None:
        self._tokens = 0
        self._trained: Tensor | int = 0
        self._since = time.perf_counter()

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Count tokens beside the trainer's own step; that of trained ones stays on the device until it is logged."""
        self._tokens += inputs["input_ids"].numel()
        self._trained = self._trained + (inputs["labels"] != IGNORE_INDEX).sum()
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add speed and memory to every training entry."""
        if "loss" in logs:
            seconds = max(time.perf_counter() - self._since, 1e-9)
            processes = self.args.world_size
            logs["tokens_per_second"] = round(self._tokens * processes / seconds, 1)
            logs["trained_tokens_per_second"] = round(int(self._trained) * processes / seconds, 1)
            logs["peak_memory_bytes"] = peak_memory_bytes()
            self._reset_speed()
        super().log(logs, start_time)

    # ---- evaluation: sums over all tokens, never a mean of means ----

    @torch.no_grad()
    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Loss, accuracy and perplexity over the trained tokens of all rows, and bits per byte of their text.

        Draws no random number and leaves the model's mode as it was, so that a run with evaluation has the trajectory
        of one without.
        """
        started = time.perf_counter()
        with preserved_rng(self.args.device):
            nll, tokens, correct = self._evaluation_sums(dataloader)
        metrics = token_metrics(nll, int(tokens), int(correct), self.eval_bytes, metric_key_prefix)
        num_samples = len(self.eval_dataset)
        metrics[f"{metric_key_prefix}_samples"] = num_samples
        # The time spent here must not count as training speed.
        self._since += time.perf_counter() - started
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=metrics, num_samples=num_samples)

    def _evaluation_sums(self, dataloader: DataLoader[Any]) -> list[float]:
        """Negative log-likelihood, trained tokens and right guesses over the rows of all processes."""
        model = self._wrap_model(self.model, training=False, dataloader=dataloader)
        was_training = model.training
        model.eval()
        sums = torch.zeros(3, dtype=torch.float64, device=self.args.device)
        # A process with fewer batches makes empty ones, since sharded models want all processes at each forward.
        share = -(-len(self.eval_dataset) // self.args.world_size)
        missing = -(-share // self.args.eval_batch_size) - len(dataloader)
        for inputs in itertools.chain(dataloader, [self.data_collator([empty_row()])] * missing):
            prepared = self._prepare_inputs(inputs)
            with self.compute_loss_context_manager():
                output = model(**prepared)
            sums += torch.stack([output.nll_sum, output.num_tokens, output.num_correct]).double()
        if self.args.world_size > 1:
            sums = self.accelerator.reduce(sums, reduction="sum")
        model.train(was_training)
        totals: list[float] = sums.tolist()
        return totals

    # ---- checkpoints ----

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging) if self._staging is not None else str(super()._get_output_dir(trial))

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """A new best is saved when it is found, for evaluations may be more frequent than checkpoints."""
        is_best: bool = super()._determine_best_metric(metrics, trial)
        if is_best and self.args.save_strategy != "no":
            self.control.should_save = True
        return is_best

    def is_past_its_end(self, checkpoint: Path) -> bool:
        """Whether a checkpoint is of the last step, or a later one, of the run as it is now planned."""
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        return int(state.global_step) >= self.planned_steps

    @property
    def planned_steps(self) -> int:
        """Optimizer steps of the whole run; of epochs, as the trainer counts them."""
        if self.args.max_steps > 0:
            return int(self.args.max_steps)
        batches: int = len(self.train_dataset) // (self.args.train_batch_size * self.args.world_size)
        steps: int = max(-(-batches // self.args.gradient_accumulation_steps), 1)
        return math.ceil(float(self.args.num_train_epochs) * steps)

    def check_finite(self, place: str) -> None:
        """Refuse to save trained weights that are not numbers. Raises UserError on every process."""
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        broken = torch.stack([~torch.isfinite(parameter.detach()).all() for parameter in trained if parameter.numel()])
        if self.accelerator.reduce(broken.any().float(), reduction="sum") > 0:
            raise UserError(
                place,
                "trained weights are not finite numbers (NaN or infinite), and are not saved",
                mend="lower --learning_rate, or use --bf16 in place of --fp16; continue from the last checkpoint",
            )

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """In place of the trainer's own: published names, tokenizer and record, nothing pickled, no library's card."""
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            self.save_weights(folder, state_dict)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Let the trainer write into a staging folder, then seal and rename it: a checkpoint is whole or absent."""
        self.check_finite(f"step {self.state.global_step}")
        output_dir = Path(self.args.output_dir)
        name = f"{PREFIX}{self.state.global_step}"
        self._staging = output_dir / f"{STAGING_PREFIX}{self.state.global_step}"
        staged = self._staging / name
        try:
            super()._save_checkpoint(model, trial)
            if self.state.best_global_step == self.state.global_step:
                self.state.best_model_checkpoint = str(output_dir / name)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                self._finish_checkpoint(staged, output_dir / name)
        except (OSError, RuntimeError, SafetensorError) as error:
            reason = write_failure(error)
            if reason is None:
                raise
            raise self._not_saved(output_dir / name, reason) from error
        finally:
            if self._staging is not None and self.args.should_save:
                shutil.rmtree(self._staging, ignore_errors=True)
            self._staging = None
        self.accelerator.wait_for_everyone()

    def _finish_checkpoint(self, staged: Path, final: Path) -> None:
        self.state.save_to_json(str(staged / TRAINER_STATE_NAME))
        seal(staged, final, step=self.state.global_step, fingerprint=self.fingerprint)
        best = self.state.best_model_checkpoint
        rotate(final.parent, self.rotation_limit, Path(best) if best else None)

    def _not_saved(self, place: Path, reason: str) -> UserError:
        return UserError(
            place,
            f"cannot be written: {reason}",
            mend="free some space and continue with --resume_from_checkpoint last; earlier checkpoints are whole",
        )


@contextmanager
def preserved_rng(device: torch.device) -> Iterator[None]:
    """Give torch's generators back as they were: even the start of a data loader draws from them."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def token_metrics(nll: float, tokens: int, correct: int, num_bytes: int, prefix: str) -> dict[str, float]:
    """Loss (nats per token), accuracy, perplexity and bits per byte from sums over trained tokens.

    Bits per byte is nll / ln 2 / bytes of the text (stop tokens are predicted but have no bytes): unlike loss and
    perplexity it compares across vocabularies.
    """
    loss = nll / max(tokens, 1)
    metrics: dict[str, float] = {
        f"{prefix}_loss": loss,
        f"{prefix}_accuracy": correct / max(tokens, 1),
        f"{prefix}_perplexity": math.exp(loss) if loss < 700 else math.inf,
        f"{prefix}_tokens": tokens,
    }
    if num_bytes:
        metrics[f"{prefix}_bits_per_byte"] = nll / math.log(2) / num_bytes
    return metrics
