"""``hanlin pt``: continued pre-training on plain text."""

from __future__ import annotations

from rich.console import Console

from hanlin.config.runs import PtConfig
from hanlin.train.prepare import DocumentRows
from hanlin.train.run import Outcome
from hanlin.train.run import run as run_training


def run(config: PtConfig) -> int:
    """Train and report; returns the exit status."""
    train(config)
    return 0


def train(config: PtConfig, console: Console | None = None) -> Outcome:
    """Documents → rows of tokens, all of them trained → blocks → training."""
    return run_training("pt", config, lambda start: DocumentRows(start.tokenizer, config.corpus), console=console)
