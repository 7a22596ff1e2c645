"""One training run from settings to results; pre-training and instruction tuning differ in their rows alone."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from torch import nn
from transformers import TrainingArguments, set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from hanlin.config.environment import read_processes
from hanlin.config.runs import PtConfig, SftConfig
from hanlin.errors import UserError
from hanlin.model.attention import packing_leak
from hanlin.model.loss import attach_checked_loss
from hanlin.model.precision import Precision, resolve_precision
from hanlin.tokens.collate import collate
from hanlin.train.arguments import training_arguments
from hanlin.train.build import build_model
from hanlin.train.callbacks import MetricsFile, ProgressBar, StopOnNaN
from hanlin.train.choice import choose, pinned
from hanlin.train.continuing import Continuation, choose_continuation, fingerprint_of
from hanlin.train.datasets import Datasets, Layout, assemble
from hanlin.train.prepare import ConversationRows, DocumentRows, prepare
from hanlin.train.results import (
    LEDGER_FILE,
    METRICS_FILE,
    SETTINGS_FILE,
    CardFacts,
    draw_curves,
    write_card,
    write_results,
    write_settings,
)
from hanlin.train.saving import Saver
from hanlin.train.start import Start, open_start
from hanlin.train.trainer import HanlinTrainer

Verb = Literal["pt", "sft"]
TrainConfig = PtConfig | SftConfig
_MOST_LEAK = 1e-3
"""Relative change of hidden states that rounding in half precision can make; a real leak is of the order of 1."""

MakeRows = Callable[[Start], DocumentRows | ConversationRows]
"""Gives the maker of rows for a tokenizer: the one thing in which pre-training and tuning differ."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run gave."""

    output_dir: Path
    weights: Path
    """Folder of the adapter, or of the model after full training."""
    train: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    history: tuple[Mapping[str, Any], ...]


def run(verb: Verb, config: TrainConfig, make_rows: MakeRows, *, console: Console | None = None) -> Outcome:
    """Train, and leave in ``output_dir`` all that the run was. Raises UserError before any weight is loaded where the
    settings, the files or the modes do not fit one another."""
    main = read_processes().is_main
    console = console or Console(quiet=not main, soft_wrap=True)
    output_dir = Path(config.training.output_dir)

    continuation = choose_continuation(config.training, output_dir)
    _say(console, continuation.notices)
    config, choice = choose(config)
    _say(console, choice.notices)
    start = open_start(verb, config, choice, console, date=continuation.date)
    config = pinned(config, start)
    device_type = "cpu" if config.trainer.get("use_cpu") or not torch.cuda.is_available() else "cuda"
    precision = _precision(config, device_type, console)
    arguments, notices = training_arguments(
        config.training,
        device_type=device_type,
        autocast=precision.autocast,
        has_validation=bool(config.source.validation_file) or config.source.validation_split_percentage > 0,
        passed=dict(config.trainer),
    )
    _say(console, notices)
    _one_device(arguments, console)
    with arguments.main_process_first(desc="preparing the data"):
        data = _prepare_data(config, make_rows(start), console)

    set_seed(config.training.seed)  # before the adapter draws its first weights
    built = build_model(
        start,
        config.model,
        config.adapter,
        precision,
        gradient_checkpointing=config.training.gradient_checkpointing,
        console=console,
    )
    fingerprint = fingerprint_of(config, start, data, arguments, precision)
    continuation.check(fingerprint)
    saver = Saver(verb, start, config, built.model)
    if main:
        _begin_output(output_dir, verb, config, data, continuation)
    trains = config.training.do_train
    bar = ProgressBar("Pre-training" if verb == "pt" else "Instruction tuning", console)
    try:
        trainer = _trainer(config, start, data, built.model, arguments, fingerprint, saver, bar, console)
        trainer.get_optimizer_cls_and_kwargs(arguments, trainer.model)  # its package may be missing: better now
    except (ValueError, ImportError, RuntimeError) as error:
        raise UserError("training settings", " ".join(str(error).split())) from error
    try:
        finished = trains and continuation.checkpoint is not None and trainer.is_past_its_end(continuation.checkpoint)
        if finished:
            return _already_complete(trainer, saver, continuation, output_dir, console, main=main)
        train = _train(trainer, continuation) if trains else {}
        evaluation = _evaluate(trainer) if arguments.do_eval else {}
    finally:
        bar.stop()
    history = tuple(trainer.state.log_history)
    weights = saver.final_folder(output_dir) if trains else output_dir
    if main:
        write_results(output_dir, train, evaluation)
        if trains:
            saver.save_final(output_dir)
            trainer.state.save_to_json(str(output_dir / "trainer_state.json"))
            draw_curves(history, output_dir)
            _write_card(verb, config, start, data, built.trained, train, evaluation, weights)
        _say_results(console, train, evaluation, weights, trainer.state.best_model_checkpoint)
    return Outcome(output_dir, weights, train, evaluation, history)


def _precision(config: TrainConfig, device_type: str, console: Console) -> Precision:
    dtype = None if config.model.dtype == "auto" else config.model.dtype
    precision = resolve_precision(
        device_type=device_type, torch_dtype=dtype, fp16=config.training.fp16, bf16=config.training.bf16
    )
    _say(console, precision.notices)
    return precision


def _one_device(arguments: TrainingArguments, console: Console) -> None:
    """Several GPUs in one process would be used through DataParallel, which copies the model at every step."""
    if arguments.n_gpu > 1:
        console.print(
            f"{arguments.n_gpu} GPUs are seen and one is used; start with torchrun --nproc_per_node {arguments.n_gpu} "
            "-m hanlin ... to use all",
            highlight=False,
        )
        arguments._n_gpu = 1


def _prepare_data(config: TrainConfig, maker: DocumentRows | ConversationRows, console: Console) -> Datasets:
    """Tokens of the files, account of the rows, split and blocks. Stops when too many rows were dropped or cut."""
    source = config.source
    cache_dir = Path(source.data_cache_dir or Path(config.training.output_dir).parent / "token_cache")
    rows = prepare(maker, source.dataset, cache_dir, console, place="--dataset")
    validation = None
    if source.validation_file:
        validation = prepare(maker, source.validation_file, cache_dir, console, place="--validation_file")
    layout: Layout = "rows"
    if isinstance(config, PtConfig):
        layout = "blocks" if config.corpus.packing else "pieces"
    # Each part by itself: clean validation rows must not hide a loss in the training rows.
    for part in (rows, validation):
        if part is not None and part.ledger.entries:
            console.print(part.ledger.table())
            part.ledger.check(source.max_dropped)
    data = assemble(rows, validation, source, layout=layout, seed=config.training.seed)
    if len(data.train) == 0:
        raise UserError("--dataset", "leaves no row to train on", mend="lower --validation_split_percentage")
    console.print(f"Data: {data.summary}", highlight=False)
    _say(console, data.notices)
    return data


def _begin_output(
    output_dir: Path, verb: Verb, config: TrainConfig, data: Datasets, continuation: Continuation
) -> None:
    """Write what is known before the first step, so that a killed run can be understood and started again."""
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        if not config.training.do_train:
            # An evaluation may be made in the folder of a run, and leaves that run's record alone.
            data.ledger.save(output_dir / f"eval_{LEDGER_FILE}")
            return
        continuation.clear(output_dir)
        write_settings(output_dir / SETTINGS_FILE, verb, config)
    except OSError as error:
        raise UserError(output_dir, f"cannot be written: {error.strerror or error}") from error
    data.ledger.save(output_dir / LEDGER_FILE)


def _trainer(
    config: TrainConfig,
    start: Start,
    data: Datasets,
    model: nn.Module,
    arguments: TrainingArguments,
    fingerprint: Mapping[str, Any],
    saver: Saver,
    bar: ProgressBar,
    console: Console,
) -> HanlinTrainer:
    model.to(arguments.device)
    sample = torch.from_numpy(data.train[0]["input_ids"][None, :64]).to(arguments.device)
    if data.packed:
        _check_isolation(model)
    _, notice = attach_checked_loss(model, sample)
    _say(console, [notice] if notice else [])
    pad_id = next(i for i in (start.tokenizer.pad_id, start.tokenizer.eos_id, 0) if i is not None)
    trainer = HanlinTrainer(
        model,
        arguments,
        train_dataset=data.train,
        eval_dataset=data.validation,
        eval_bytes=data.validation_bytes,
        collate=functools.partial(collate, pad_id=pad_id, images=start.images),
        callbacks=[bar, *([MetricsFile(Path(arguments.output_dir) / METRICS_FILE)] * arguments.do_train), StopOnNaN()],
        fingerprint=fingerprint,
        save_weights=saver.save_checkpoint,
        save_total_limit=config.training.save_total_limit,
    )
    for own in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(own)
    return trainer


def _check_isolation(model: nn.Module) -> None:
    """Documents of a block must not see one another; some architectures and back ends ignore packed positions."""
    leak = packing_leak(model)
    if leak > _MOST_LEAK:
        raise UserError(
            "--attn_implementation",
            f"lets the documents of a packed block see one another (measured {leak:.2g}, 0 is right)",
            expected="a model and a back end that keep them apart",
            mend="try --attn_implementation sdpa or eager, or write one document a block with --packing false",
        )


def _train(trainer: HanlinTrainer, continuation: Continuation) -> dict[str, Any]:
    checkpoint = str(continuation.checkpoint) if continuation.checkpoint else None
    result = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.check_finite("the end of the run")
    return {**result.metrics, "train_samples": trainer.num_rows}


def _already_complete(
    trainer: HanlinTrainer,
    saver: Saver,
    continuation: Continuation,
    output_dir: Path,
    console: Console,
    *,
    main: bool,
) -> Outcome:
    """The run was over before this start: not one step more is made, and its results stay as they are."""
    weights = saver.final_folder(output_dir)
    assert continuation.checkpoint is not None
    if main and not saver.is_saved(output_dir):  # it was stopped between the last step and the end
        trainer._load_from_checkpoint(str(continuation.checkpoint))
        saver.save_final(output_dir)
    console.print(
        f"This run is complete: {continuation.checkpoint.name} is its last step. Nothing was trained; raise "
        "--max_steps or --num_train_epochs to go on, or start anew with --overwrite_output_dir",
        highlight=False,
    )
    state = json.loads((continuation.checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    return Outcome(output_dir, weights, {}, {}, tuple(state["log_history"]))


def _evaluate(trainer: HanlinTrainer) -> dict[str, Any]:
    """Results of the last evaluation when it was of the final weights, else of one made now."""
    for entry in reversed([] if trainer.args.load_best_model_at_end else trainer.state.log_history):
        if "eval_loss" in entry and entry["step"] == trainer.state.global_step:
            return {name: value for name, value in entry.items() if name.startswith("eval_")}
    return dict(trainer.evaluate())


def _write_card(
    verb: Verb,
    config: TrainConfig,
    start: Start,
    data: Datasets,
    trained: str,
    train: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    weights: Path,
) -> None:
    facts = CardFacts(
        stage=verb,
        base_model=config.model.model or f"{config.model.model_config} (from scratch)",
        template=start.renderer.name if start.renderer else None,
        trained=trained,
        rows=data.summary,
        train=train,
        evaluation=evaluation,
        command=f"hanlin chat {weights}",
    )
    write_card(Path(config.training.output_dir) / "README.md", facts)


def _say_results(
    console: Console, train: Mapping[str, Any], evaluation: Mapping[str, Any], weights: Path, best: str | None
) -> None:
    for metrics, names in (
        (train, ("train_loss", "train_runtime")),
        (evaluation, ("eval_loss", "eval_accuracy", "eval_perplexity", "eval_bits_per_byte")),
    ):
        line = " · ".join(f"{name} {metrics[name]:.4f}" for name in names if name in metrics)
        if line:
            console.print(line, highlight=False)
    if best:
        console.print(f"Best checkpoint: {best}", highlight=False)
    console.print(f"Saved: {weights}", highlight=False)


def _say(console: Console, lines: Any) -> None:
    for line in lines:
        console.print(line, highlight=False, markup=False)
