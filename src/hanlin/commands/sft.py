"""``hanlin sft``: tuning on instructions and their answers."""

from __future__ import annotations

from rich.console import Console

from hanlin.config.runs import SftConfig
from hanlin.train.prepare import ConversationRows
from hanlin.train.run import Outcome
from hanlin.train.run import run as run_training
from hanlin.train.start import Start


def run(config: SftConfig) -> int:
    """Train and report; returns the exit status."""
    train(config)
    return 0


def train(config: SftConfig, console: Console | None = None) -> Outcome:
    """Conversations → segments of the template → rows of which only answers and stops are trained → training."""

    def rows(start: Start) -> ConversationRows:
        assert start.renderer is not None, "tuning has a template"
        return ConversationRows(
            start.tokenizer,
            start.renderer,
            config.instruction,
            config.source.max_length,
            start.template_source,
            start.date,
            start.images,
        )

    return run_training("sft", config, rows, console=console)
