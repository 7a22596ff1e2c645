"""``python -m hanlin``: the same as the console script."""

from hanlin.cli import entry

if __name__ == "__main__":
    entry()
