"""``hanlin chat``: open what was named, then talk."""

from __future__ import annotations

import sys

from hanlin.config.infer import ChatConfig
from hanlin.infer.chat import chat
from hanlin.infer.engine import open_configured


def run(config: ChatConfig) -> int:
    """Chat over standard input and output; returns the exit status."""
    engine = open_configured(config.engine, notify=_say)
    if not engine.keeps_history:
        _say("without a template each text is continued by itself, and no history is kept")
    return chat(engine, config.generation, end_on_empty_line=config.end_on_empty_line)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
