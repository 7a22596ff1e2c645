"""What a run leaves beside the weights: resolved settings, ledger, results, curves and a model card."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hanlin.config.adapter import LORA_FLAGS
from hanlin.config.fields import flags, flatten
from hanlin.files import write_json
from hanlin.train.checkpoint import library_versions

SETTINGS_FILE = "run.yaml"
METRICS_FILE = "metrics.jsonl"
LEDGER_FILE = "ledger.jsonl"


def write_settings(path: Path, verb: str, config: Any) -> None:
    """Write the resolved settings as YAML that runs again: ``hanlin VERB run.yaml``."""
    defaults = flags(type(config))
    # An absent setting may be left out, unless its default is something else (--save_total_limit none).
    flat = {
        name: value
        for name, value in flatten(config).items()
        if value not in (None, []) or defaults[name].default not in (None, ())
    }
    if flat.get("adapter"):
        # The adapter that is continued brings these; stated again they would contradict it.
        flat = {name: value for name, value in flat.items() if name not in LORA_FLAGS}
    # Continuing is a property of one start, not of the run.
    flat.pop("resume_from_checkpoint", None)
    if config.trainer:
        flat["trainer"] = dict(config.trainer)
    head = f"# Resolved settings of this run. Again: hanlin {verb} {path.name}\n"
    path.write_text(head + yaml.safe_dump(flat, allow_unicode=True, sort_keys=False), encoding="utf-8")


def write_results(output_dir: Path, train: Mapping[str, Any], evaluation: Mapping[str, Any]) -> None:
    """The published names: train_results.json, eval_results.json, and after training both in all_results.json."""
    if train:
        write_json(output_dir / "train_results.json", dict(train))
    if evaluation:
        write_json(output_dir / "eval_results.json", dict(evaluation))
    if train:
        write_json(output_dir / "all_results.json", {**train, **evaluation})


def draw_curves(history: Sequence[Mapping[str, Any]], output_dir: Path) -> list[Path]:
    """Draw loss.png and learning_rate.png from the trainer's log history; returns what was drawn."""
    # The object interface needs no display and leaves pyplot's global state alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = []
    plots = {
        "loss.png": [("loss", "training", "-"), ("eval_loss", "validation", "o-")],
        "learning_rate.png": [("learning_rate", "learning rate", "-")],
    }
    for name, series in plots.items():
        figure = Figure(figsize=(7, 4), dpi=110, layout="constrained")
        axes = figure.subplots()
        for key, label, style in series:
            points = [(entry["step"], entry[key]) for entry in history if key in entry and "step" in entry]
            points = [(step, value) for step, value in points if math.isfinite(value)]
            if points:
                axes.plot(*zip(*points, strict=True), style, label=label, linewidth=1.4, markersize=3)
        if not axes.lines:
            continue
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("loss per trained token (nats)" if name == "loss.png" else "learning rate")
        axes.grid(alpha=0.3)
        axes.legend()
        FigureCanvasAgg(figure).print_png(str(output_dir / name))
        drawn.append(output_dir / name)
    return drawn


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What the model card states."""

    stage: str
    base_model: str
    template: str | None
    trained: str
    rows: str
    train: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    command: str


def write_card(path: Path, facts: CardFacts) -> None:
    """Write README.md: what was trained on what, with which result, and how to use it."""
    names = {"pt": "continued pre-training", "sft": "instruction tuning"}
    lines = [
        "---",
        "library_name: peft" if facts.trained.startswith("LoRA") else "library_name: transformers",
        f"base_model: {facts.base_model}",
        "tags: [hanlin]",
        "---",
        "",
        f"# {names[facts.stage].capitalize()} of {Path(facts.base_model).name}",
        "",
        f"- Base model: `{facts.base_model}`",
        f"- Trained: {facts.trained}",
        f"- Data: {facts.rows}",
        f"- Prompt template: `{facts.template}`" if facts.template else "- Prompt template: none (text continuation)",
        "",
        "| result | value |",
        "|---|---|",
    ]
    shown = ("train_loss", "eval_loss", "eval_accuracy", "eval_perplexity", "eval_bits_per_byte")
    values = {**facts.train, **facts.evaluation}
    lines += [f"| {name} | {values[name]:.4f} |" for name in shown if isinstance(values.get(name), float)]
    lines += ["", "Use:", "", "```", facts.command, "```", "", "Versions: "]
    lines[-1] += ", ".join(f"{name} {version}" for name, version in library_versions().items())
    lines += ["", f"The settings are in `{SETTINGS_FILE}`, rows that were dropped or cut in `{LEDGER_FILE}`.", ""]
    path.write_text("\n".join(lines), encoding="utf-8")
