"""Answers to a file of prompts, or a chat, under its name of 2023: hanlin infer and hanlin chat."""

import sys
from pathlib import Path

from hanlin.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], older=Path(__file__).name))
