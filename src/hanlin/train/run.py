"""One training run from settings to results; pre-training and instruction tuning differ in their rows alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from torch import nn
from transformers import TrainingArguments, set_seed
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

    start = open_start(verb, config, console)
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
    continuation = choose_continuation(config.training, output_dir)
    _say(console, continuation.notices)
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
    fingerprint = fingerprint_of(config, start, data, arguments)
    continuation.check(fingerprint)
    saver = Saver(verb, start, config, built.model)
    if main:
        _begin_output(output_dir, verb, config, data, continuation)
    bar = ProgressBar("Pre-training" if verb == "pt" else "Instruction tuning", console)
    trainer = _trainer(config, start, data, built.model, arguments, fingerprint, saver, bar, console)
    try:
        train = _train(trainer, config, continuation)
        evaluation = _evaluate(trainer) if arguments.do_eval else {}
    finally:
        bar.stop()
    history = tuple(trainer.state.log_history)
    weights = saver.final_folder(output_dir) if config.training.do_train else output_dir
    if main:
        if config.training.do_train:
            saver.save_final(output_dir)
        write_results(output_dir, train, evaluation)
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
    data = assemble(rows, validation, source, layout=layout, seed=config.training.seed)
    if data.ledger.entries:
        console.print(data.ledger.table())
    data.ledger.check(source.max_dropped)
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
        collate=functools.partial(collate, pad_id=pad_id),
        callbacks=[bar, MetricsFile(Path(arguments.output_dir) / METRICS_FILE), StopOnNaN()],
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


def _train(trainer: HanlinTrainer, config: TrainConfig, continuation: Continuation) -> dict[str, Any]:
    if not config.training.do_train:
        return {}
    checkpoint = str(continuation.checkpoint) if continuation.checkpoint else None
    result = trainer.train(resume_from_checkpoint=checkpoint)
    return {**result.metrics, "train_samples": trainer.num_rows}


def _evaluate(trainer: HanlinTrainer) -> dict[str, Any]:
    """Results of the last evaluation when it was of the final weights, else of one made now."""
    for entry in reversed(trainer.state.log_history):
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
