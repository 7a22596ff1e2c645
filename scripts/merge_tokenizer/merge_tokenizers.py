"""Tokenizer extension under its name of 2023: hanlin tokenizer extend, with the published names of the results."""

import sys
from pathlib import Path

from hanlin.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], older=Path(__file__).name))
