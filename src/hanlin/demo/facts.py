"""The small task of the demo, from ``data/task.toml``: facts, and which of the questions for them are trained.

``python -m hanlin.demo.facts`` writes ``data/facts.txt`` (the facts as sentences, for pre-training),
``data/instructions.json`` (Stanford Alpaca records, for tuning) and ``data/questions.json`` (the table before and
after). All are shipped; a test compares them with the task.

Which question of which fact is trained: a relation has Q ``questions``, and fact number i is trained with all of them
except number i mod Q. So each wording is trained, each fact is trained, and each fact has one question whose wording
the model met only with other facts. The wordings in ``unseen`` are not trained with any fact of the relation.
"""

from __future__ import annotations

import itertools
import json
import random
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"

KINDS = ("trained", "regrouped", "unseen")
"""How far a question was met in training: as it stands; its wording only with other facts; its wording never with facts
of this relation (parts of it, such as "please tell me", occur in other relations)."""


@dataclass(frozen=True, slots=True)
class Relation:
    """Facts of one kind. ``{a}``, ``{b}`` and ``{c}`` in the wordings are the words of a fact in order."""

    name: str
    facts: tuple[tuple[str, ...], ...]
    answer: str
    questions: tuple[str, ...]
    unseen: tuple[str, ...]
    statements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Task:
    """All that the model is to learn."""

    relations: tuple[Relation, ...]
    talk: tuple[tuple[str, str], ...]
    """Question and answer of short exchanges, trained as they stand and as often as a fact."""
    shown: tuple[tuple[str, str], ...]
    """Questions of the table before and after, with their meaning in English."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question with its answer."""

    relation: str
    text: str
    answer: str
    seen: str
    """One of KINDS."""


def read_task(path: Path = DATA / "task.toml") -> Task:
    """The task in a TOML file."""
    with path.open("rb") as stream:
        content = tomllib.load(stream)
    return Task(
        relations=tuple(_relation(table) for table in content["relation"]),
        talk=tuple((question, answer) for question, answer in content["talk"]),
        shown=tuple((question, gloss) for question, gloss in content["shown"]),
    )


def _relation(table: Mapping[str, Any]) -> Relation:
    lines = [line for line in table["facts"].splitlines() if line]
    facts: list[tuple[str, ...]]
    if table.get("in_order"):
        facts = [pair for line in lines for pair in itertools.pairwise(line.split())]
    else:
        facts = [tuple(fact.split()) for line in lines for fact in line.split(";")]
    if table.get("both_ways"):
        facts = [turned for fact in facts for turned in (fact, fact[::-1])]
    wordings = {name: tuple(table[name]) for name in ("questions", "unseen", "statements")}
    return Relation(name=table["name"], facts=tuple(facts), answer=table["answer"], **wordings)


def fill(wording: str, fact: tuple[str, ...]) -> str:
    """``wording`` with its ``{a}``, ``{b}``, ``{c}`` replaced by the words of ``fact``."""
    return wording.format(**dict(zip("abc", fact, strict=False)))


def questions(task: Task) -> Iterator[Question]:
    """Each question that can be asked of each fact, trained or not."""
    for relation in task.relations:
        for i, fact in enumerate(relation.facts):
            answer = fill(relation.answer, fact)
            left_out = i % len(relation.questions)
            for number, wording in enumerate(relation.questions):
                seen = "regrouped" if number == left_out else "trained"
                yield Question(relation.name, fill(wording, fact), answer, seen)
            for wording in relation.unseen:
                yield Question(relation.name, fill(wording, fact), answer, "unseen")


def sample(task: Task, number: int, *, seed: int) -> list[Question]:
    """``number`` questions of each kind, drawn at random."""
    chance = random.Random(seed)
    asked = list(questions(task))
    return [q for kind in KINDS for q in chance.sample([q for q in asked if q.seen == kind], number)]


def statements(task: Task) -> str:
    """The facts as sentences: six of one relation in one form are a line."""
    lines = []
    for relation in task.relations:
        for statement in relation.statements:
            for start in range(0, len(relation.facts), 6):
                lines.append("".join(fill(statement, fact) for fact in relation.facts[start : start + 6]))
    return "\n".join(lines) + "\n"


def trained(task: Task) -> list[tuple[str, str]]:
    """All trained pairs of question and answer, the talk as often as a fact."""
    return [(q.text, q.answer) for q in questions(task) if q.seen == "trained"] + [*task.talk] * 4


def records(task: Task) -> list[dict[str, Any]]:
    """Stanford Alpaca records, each with a history of two earlier turns; each trained pair occurs in two of them.

    The first turn teaches to answer a single question, the others to keep answering in a conversation. And as all
    records are about equally long, little of a batch is filling.
    """
    chance = random.Random(0)
    shuffled = [pair for _ in range(2) for pair in chance.sample(trained(task), len(trained(task)))]
    rows = []
    for start in range(0, len(shuffled), 3):
        *history, (question, answer) = shuffled[start : start + 3]
        rows.append({"instruction": question, "input": "", "output": answer, "history": [*map(list, history)]})
    return rows


def shown(task: Task) -> list[dict[str, str]]:
    """The questions of the table with their meaning, right answer, and how far they were met in training."""
    known = {q.text: q for q in questions(task)}
    known |= {text: Question("talk", text, answer, "trained") for text, answer in task.talk}
    return [
        {"question": text, "gloss": gloss, "answer": known[text].answer, "seen": known[text].seen}
        for text, gloss in task.shown
    ]


def write(task: Task, directory: Path) -> None:
    """Write all that is made from ``task`` into ``directory``."""
    (directory / "facts.txt").write_text(statements(task), encoding="utf-8")
    files: dict[str, Sequence[Mapping[str, Any]]] = {
        "instructions.json": records(task),
        "questions.json": shown(task),
    }
    for name, rows in files.items():
        lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        (directory / name).write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    write(read_task(), DATA)
