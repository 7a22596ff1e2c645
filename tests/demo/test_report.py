"""The report page: needs nothing from elsewhere, escapes what models say, draws the numbers that it was given."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser

from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.demo.report import Answered, Curve, Measure, Report, StageTime, _scale, printable, render

POINTS = ((1, 8.0), (5, 4.0), (10, 2.0), (15, 2.0))

REPORT = Report(
    stages=(StageTime("Loading", "", 2.0), StageTime("Learn", "hanlin pt --dataset 'a b.txt' --x <y>", 8.0)),
    measures=(Measure("Tokens per character", "Tokens", "Note.", (("before", 3.0), ("after", 0.75))),),
    curves=(Curve("English", POINTS),),
    answers=(
        Answered("问题一？", "Question one?", "trained", "对。", "<script>alert(1)</script>", "对。"),
        Answered("问题二？", "Question two?", "unseen", "对。", "\x00\x1b[31m", "错。"),
    ),
    scores=(("trained", 59, 60), ("unseen", 30, 60)),
    chat="hanlin chat out/chat-model",
    facts=(("seed", "42"),),
)


class Tags(HTMLParser):
    """Collects tags, checks that they close in order, and gathers the text."""

    VOID = frozenset({"meta", "line", "rect", "polyline"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def parsed(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    return tags


def test_page_is_whole_and_needs_nothing_else() -> None:
    page = render(REPORT)
    tags = parsed(page)
    assert not tags.names & {"script", "link", "img", "iframe", "object", "base"}
    assert not {name for name, _ in tags.attributes} & {"src", "href", "srcset", "onload", "onclick"}
    assert "http" not in page and "url(" not in page and "@import" not in page
    assert "charset='utf-8'" in page and "prefers-color-scheme:dark" in page
    assert {"svg", "polyline", "rect", "table", "pre"} <= tags.names


def test_answers_are_escaped_marked_and_counted() -> None:
    page = render(REPORT)
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "\x00" not in page and "\x1b" not in page
    assert page.count("title='right'") == 1 and page.count("title='wrong'") == 3
    assert "1 of 2 questions right, 0 before" in page
    assert "59 of 60" in page and "98%" in page
    assert "expected 对。" in page
    assert "In 10 seconds" in page


def test_right_is_the_whole_answer() -> None:
    answer = Answered("问", "", "trained", "北京。", "北京", " 北京。\n")
    assert not answer.right_before, "a part is not the answer"
    assert answer.right_after
    assert not Answered("问", "", "trained", "北京。", "", "北京。上海。").right_after, "more is not the answer either"


def test_fast_run_says_that_its_answers_mean_nothing() -> None:
    from dataclasses import replace

    assert "--fast" not in render(REPORT)
    assert "--fast" in render(replace(REPORT, complete=False))


def test_curve_goes_right_and_down() -> None:
    match = re.search("polyline points='([^']+)'", render(REPORT))
    assert match
    x, y = zip(*(map(float, pair.split(",")) for pair in match[1].split()), strict=True)
    assert sorted(x) == list(x) and len(x) == len(POINTS)
    # Against the grid lines, which carry the numbers: 8, 4 and 2 are among them.
    page = render(REPORT)
    grid = {
        float(number): float(level)
        for level, number in re.findall(r"y2='([\d.]+)' class='grid'/><text [^>]+>([\d.]+)</text>", page)
    }
    assert list(y) == [grid[8], grid[4], grid[2], grid[2]]
    assert grid[8] < 20 < grid[4] < grid[2] < 190 < grid[0], "the curve fills the picture"


def test_bars_are_proportional() -> None:
    first, second = re.findall(r"<rect x='180' y='\d+' width='([\d.]+)'", render(REPORT))
    assert math.isclose(float(first) / float(second), 4, rel_tol=1e-3)
    assert float(first) == 360, "the longest bar leaves room for its number in a picture 600 wide"


@settings(max_examples=200, deadline=None)
@given(st.floats(1e-6, 1e6))
def test_scale_is_round_and_just_above(value: float) -> None:
    ceiling, unit = _scale(value)
    assert ceiling >= value * (1 - 1e-9)
    assert ceiling - value < unit * (1 + 1e-6)
    assert 1 <= round(ceiling / unit) <= 10
    digits = f"{unit:e}".split("e")[0].rstrip("0").rstrip(".")
    assert digits in {"1", "2", "5"}


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=100))
def test_printable_is_one_short_line(text: str) -> None:
    line = printable(text, 20)
    assert len(line) <= 20
    assert line.isprintable()
