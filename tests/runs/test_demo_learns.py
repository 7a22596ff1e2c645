"""The whole demo with its real number of steps: the answers are right. About a minute of one core."""

from __future__ import annotations

import json
from pathlib import Path

from hanlin.cli import main


def test_demo_answers_right(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    assert main(["demo", str(folder)]) == 0
    results = json.loads((folder / "demo.json").read_text(encoding="utf-8"))
    wrong = [row for row in results["answers"] if row["after"].strip() != row["expected"]]
    # All were right with each seed tried; one may differ where a machine rounds otherwise.
    assert len(wrong) <= 1, wrong
    assert all(row["before"].strip() != row["expected"] for row in results["answers"])
    shares = {seen: score["right"] / score["asked"] for seen, score in results["scores"].items()}
    assert shares["trained"] >= 0.95
    assert shares["regrouped"] >= 0.9
    assert shares["unseen"] >= 0.75
    bits = results["measures"]["Bits per byte"]
    assert bits["after pre-training"] < 4 < 8 < bits["English model"]
