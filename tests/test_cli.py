"""The command line as a person meets it: help without torch, one line per mistake, exit status 2."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from hanlin.cli import VERBS, main

HEAVY = ("torch", "transformers", "peft", "accelerate", "tokenizers", "sentencepiece", "numpy", "pyarrow")


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_is_fast_and_imports_nothing_heavy(verb: str) -> None:
    code = (
        "import sys, json; from hanlin.cli import main; status = main(sys.argv[1:]);"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr); sys.exit(status)"
    )
    command = [sys.executable, "-c", code, *verb.split(), "--help"]
    best = 10.0
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "[]"
    assert "hanlin" in done.stdout
    # Processor seconds, which other work on the machine does not stretch; alone on a core they are the waiting time.
    assert best < 0.3


def test_unknown_verb_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merg"]) == 2
    assert "did you mean merge?" in capsys.readouterr().err


def test_family_without_second_word_lists_its_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tokenizer"]) == 2
    assert "tokenizer extend" in capsys.readouterr().err


def test_misspelt_flag_gets_the_nearest_name_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["sft", "--model", "m", "--dataset", "d", "--output_dir", "o", "--leraning_rate", "1e-4"])
    error = capsys.readouterr().err
    assert status == 2
    assert error.count("\n") == 1
    assert "did you mean --learning_rate?" in error
