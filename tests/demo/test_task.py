"""The shipped text and the shipped task: what is trained, what is held out, and that both are what they say."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.demo import facts
from hanlin.demo.recipe import CHINESE, COPIED, DATA, ENGLISH, HELD_OUT, QUESTIONS

TASK = facts.read_task()
RECORDS = json.loads((DATA / "instructions.json").read_text(encoding="utf-8"))
PAIRS = [pair for row in RECORDS for pair in (*map(tuple, row["history"]), (row["instruction"], row["output"]))]
TRAINED = {question for question, _ in PAIRS}


def text_of(*names: str) -> str:
    return "\n".join((DATA / name).read_text(encoding="utf-8") for name in names)


def han(text: str) -> str:
    return "".join(re.findall("[\u4e00-\u9fff]", text))


def test_shipped_files_are_those_of_the_task(tmp_path: Path) -> None:
    facts.write(TASK, tmp_path)
    for name in ("facts.txt", "instructions.json", "questions.json"):
        assert (tmp_path / name).read_bytes() == (DATA / name).read_bytes(), f"run python -m hanlin.demo.facts: {name}"


def test_everything_the_stages_read_is_shipped_and_small() -> None:
    assert all((DATA / name).is_file() for name in COPIED)
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 400_000


def test_records_are_stanford_alpaca_with_history() -> None:
    assert 300 <= len(RECORDS) <= 1500
    for record in RECORDS:
        assert list(record) == ["instruction", "input", "output", "history"]
        assert record["instruction"] and record["input"] == "" and record["output"]
    assert Counter(len(record["history"]) for record in RECORDS[:-1]) == {2: len(RECORDS) - 1}


def test_each_trained_pair_is_there_twice() -> None:
    expected = {(q.text, q.answer): 2 for q in facts.questions(TASK) if q.seen == "trained"}
    assert Counter(PAIRS) == expected | dict.fromkeys(TASK.talk, 8)


def test_one_question_has_one_answer() -> None:
    answers: dict[str, set[str]] = {}
    for question, answer in PAIRS:
        answers.setdefault(question, set()).add(answer)
    assert {question: found for question, found in answers.items() if len(found) > 1} == {}
    texts = [question.text for question in facts.questions(TASK)]
    assert [text for text, number in Counter(texts).items() if number > 1] == []


def test_held_out_questions_are_not_trained_and_their_facts_are() -> None:
    trained_answers = {answer for _, answer in PAIRS}
    kinds = Counter()
    for question in facts.questions(TASK):
        kinds[question.seen] += 1
        assert (question.text in TRAINED) == (question.seen == "trained"), question
        assert question.answer in trained_answers, "the fact itself is trained in some wording"
    assert kinds["regrouped"] >= 200 and kinds["unseen"] >= 400, "else the test above proves nothing"


def test_table_says_honestly_what_was_trained() -> None:
    rows = json.loads(QUESTIONS.read_text(encoding="utf-8"))
    assert len(rows) >= 8
    assert {row["seen"] for row in rows} == set(facts.KINDS)
    for row in rows:
        assert (row["question"] in TRAINED) == (row["seen"] == "trained"), row
    asked_in_training = {
        facts.fill(wording, fact)
        for relation in TASK.relations
        for wording in relation.questions
        for fact in relation.facts
    }
    assert not {row["question"] for row in rows if row["seen"] == "unseen"} & asked_in_training
    assert {row["question"] for row in rows if row["seen"] == "regrouped"} <= asked_in_training


def test_english_text_holds_no_chinese() -> None:
    assert han(text_of(*ENGLISH)) == ""
    assert text_of(*ENGLISH).isascii()


def test_held_out_text_is_not_trained() -> None:
    trained = han(text_of(*CHINESE, "instructions.json"))
    held_out = han(HELD_OUT.read_text(encoding="utf-8"))
    windows = [held_out[i : i + 8] for i in range(len(held_out) - 7)]
    assert len(windows) > 200
    assert [window for window in windows if window in trained] == []


def test_poems_of_the_task_are_in_the_classics() -> None:
    classics = text_of("classics.txt")
    relations = {relation.name: relation for relation in TASK.relations}
    for title, poet in relations["author"].facts:
        assert f"《{title}》{poet}：" in classics
    for line, following in relations["verse"].facts:
        assert f"{line}，{following}。" in classics


def test_thousand_characters_hardly_repeat() -> None:
    # No character occurs twice in the Thousand Character Classic; simplified spelling joined 發 and 髮, 雲 and 云 ...
    lines = [line for line in text_of("classics.txt").splitlines() if line.startswith("《千字文》")]
    characters = han("".join(line.removeprefix("《千字文》") for line in lines))
    assert len(characters) >= 300 and len(characters) % 8 == 0
    assert {char for char, number in Counter(characters).items() if number > 1} <= set("云昆发洁并戚")


def test_verses_are_equally_long_in_each_poem() -> None:
    # All poems here are of four or eight verses of five or seven characters; 咏鹅 alone begins with three.
    for line in text_of("classics.txt").splitlines():
        match = re.fullmatch("《([^》]+)》[^：曰]{2,4}：(.+)", line)
        if match and not match[1].endswith("经"):
            lengths = [len(verse) for verse in re.findall("[^，。]+", match[2])]
            if match[1] == "咏鹅":
                lengths[0] += 2
            assert set(lengths) in ({5}, {7}) and len(lengths) in (4, 6, 8), match[1]


def test_sums_are_right() -> None:
    digits = "零一二三四五六七八九十"
    sums = next(relation for relation in TASK.relations if relation.name == "sum")
    assert len(sums.facts) == 36
    assert all(digits.index(a) + digits.index(b) == digits.index(c) for a, b, c in sums.facts)


@settings(max_examples=20, deadline=None)
@given(number=st.integers(1, 60), seed=st.integers(0, 2**32 - 1))
def test_sample_draws_each_kind_without_repeating(number: int, seed: int) -> None:
    drawn = facts.sample(TASK, number, seed=seed)
    assert Counter(question.seen for question in drawn) == dict.fromkeys(facts.KINDS, number)
    assert len({question.text for question in drawn}) == len(drawn)
    assert drawn == facts.sample(TASK, number, seed=seed)
