"""A tokenizer by its hub id, from a filled cache and without a network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hanlin.vocab.tokenizer import TextTokenizer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def load_by_id(cache: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the client reads whether it is offline once, when it is imported."""
    code = (
        "import sys; from hanlin.vocab.tokenizer import TextTokenizer\n"
        "found = TextTokenizer.load('team/tok', cache_dir=sys.argv[1])\n"
        "print(found.identity, found.pad_to_multiple_of)"
    )
    environment = {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(cache),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": ":".join(sys.path),
        "PATH": "/usr/bin:/bin",
    }
    return subprocess.run(
        [sys.executable, "-c", code, str(cache)],
        capture_output=True, text=True, check=False, env=environment, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize("multiple", [None, 64])
def test_the_record_beside_a_hub_tokenizer_is_read(
    english: TextTokenizer, tmp_path: Path, multiple: int | None
) -> None:
    assert english.sentencepiece_model is not None
    saved = TextTokenizer.from_sentencepiece(english.sentencepiece_model)
    saved.pad_to_multiple_of = multiple
    repository = tmp_path / "models--team--tok"
    saved.save(repository / "snapshots" / COMMIT)
    (repository / "snapshots" / COMMIT / "config.json").write_text('{"model_type": "llama"}')
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    done = load_by_id(tmp_path)
    assert done.stdout.split() == [saved.identity, str(multiple)], done.stderr
