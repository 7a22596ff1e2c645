"""The account of rows that are not used as given."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from rich.console import Console

from hanlin.data.ledger import Entry, Ledger
from hanlin.errors import UserError
from hanlin.types import Place


def example() -> Ledger:
    ledger = Ledger()
    ledger.saw(1000)
    for line in (3, 7, 9, 11):
        ledger.record(
            Place("a[red].jsonl", line=line), "dropped", "empty answer", "output is empty; expected an answer"
        )
    ledger.record(Place("b.json", index=0), "cut", "too long", "90 tokens; expected at most 64")
    return ledger


def test_counts() -> None:
    ledger = example()
    assert ledger.counts() == {("dropped", "empty answer"): 4, ("cut", "too long"): 1}
    assert (ledger.given, ledger.num_dropped, ledger.num_cut, ledger.num_used) == (1000, 4, 1, 996)


def test_check_counts_each_row_once_and_names_the_first_places() -> None:
    ledger = example()
    ledger.check(0.005)
    ledger.record(Place("b.json", index=0), "dropped", "no trained token")  # the row that was cut before
    ledger.check(0.005)
    ledger.record(Place("b.json", index=1), "cut", "too long")
    with pytest.raises(UserError) as caught:
        ledger.check(0.005)
    assert str(caught.value) == (
        "--max_dropped: 6 of 1000 rows (0.6 %) cannot be used as given: "
        "4 dropped (empty answer), 2 cut (too long), 1 dropped (no trained token); expected at most 0.5 %; "
        "mend the rows, raise --max_length, or accept the loss with --max_dropped 0.006; the first: "
        "a[red].jsonl:3: output is empty; expected an answer (also a[red].jsonl:7, a[red].jsonl:9) | "
        "b.json[0]: 90 tokens; expected at most 64 (also b.json[1]) | b.json[0]: no trained token"
    )


@pytest.mark.parametrize(("given", "bad", "limit", "passes"), [
    (100, 1, 0.01, True), (99, 1, 0.01, False), (3, 1, 0.333, False), (0, 0, 0.0, True), (5, 0, 0.0, True),
    (5, 1, 0.0, False), (5, 5, 1.0, True), (100_000, 1, 0.0, False),
])  # fmt: skip
def test_limit(given: int, bad: int, limit: float, passes: bool) -> None:
    ledger = Ledger()
    ledger.saw(given)
    for line in range(bad):
        ledger.record(Place("a", line=line), "dropped", "x")
    if passes:
        ledger.check(limit)
        return
    with pytest.raises(UserError) as caught:
        ledger.check(limit)
    suggested = float(caught.value.mend.split("--max_dropped ")[1].split(";")[0])
    ledger.check(suggested)  # the mend that is proposed works


def test_no_loss_of_everything_is_proposed() -> None:
    ledger = Ledger()
    ledger.saw()
    ledger.record(Place("a"), "dropped", "x")
    with pytest.raises(UserError) as caught:
        ledger.check(0.01)
    assert "accept" not in str(caught.value)


def test_merge() -> None:
    ledger = example()
    ledger.merge(example())
    assert (ledger.given, ledger.num_dropped, ledger.num_cut) == (2000, 8, 2)


def test_table_shows_names_with_brackets() -> None:
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    console.print(example().table())
    shown = console.export_text()
    assert (
        "a[red].jsonl:3: output is empty" in shown and "0.4 %" in shown and "1000 rows given, 996 used, 1 cut" in shown
    )


def test_save_and_load(tmp_path: Path) -> None:
    ledger = example()
    ledger.record(Place("文\n件", line=1), "cut", "x", '引号" 和 \u2028')
    path = tmp_path / "run" / "ledger.jsonl"
    ledger.save(path)
    ledger.save(path)
    assert Ledger.load(path) == ledger
    assert [p.name for p in path.parent.iterdir()] == ["ledger.jsonl"]
    assert len(path.read_bytes().split(b"\n")) == 1 + len(ledger.entries) + 1
    Ledger().save(path)
    assert Ledger.load(path) == Ledger()


@pytest.mark.parametrize("text", ["", "x", '{"given": 1}\n{"file": "a"}', '{"given": 1}\n[]', '{"given": null}'])
def test_damaged_ledger(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match="prepare the data again"):
        Ledger.load(path)
    with pytest.raises(UserError, match="cannot be read"):
        Ledger.load(tmp_path / "gone.jsonl")


def test_full_disk_leaves_the_old_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.jsonl"
    example().save(path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"ledger\.jsonl: the ledger cannot be written: No space left on device"):
        Ledger().save(path)
    assert Ledger.load(path) == example()
    assert list(tmp_path.iterdir()) == [path]


def test_entry_reads_like_an_error_line() -> None:
    assert str(Entry(Place("a.json", index=4), "dropped", "empty answer")) == "a.json[4]: empty answer"
