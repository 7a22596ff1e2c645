"""The demo's report: one HTML page that needs nothing else, pictures drawn as SVG, readable on light and dark."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class StageTime:
    """One stage as it ran."""

    title: str
    command: str
    """Empty for what is no command line of its own."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Measure:
    """A number of each model or tokenizer, in the order in which they were made."""

    title: str
    unit: str
    note: str
    values: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Curve:
    """A loss over the optimizer steps."""

    title: str
    points: Points


@dataclass(frozen=True, slots=True)
class Answered:
    """One question with the answers before and after."""

    question: str
    gloss: str
    """The question in English."""
    seen: str
    """Key of SEEN."""
    expected: str
    before: str
    after: str

    @property
    def right_before(self) -> bool:
        """Whether the answer was the expected one, character by character."""
        return self.before.strip() == self.expected

    @property
    def right_after(self) -> bool:
        """As ``right_before``, for the answer after."""
        return self.after.strip() == self.expected


SEEN = {
    "trained": "trained as it stands",
    "regrouped": "wording trained, but only with other facts",
    "unseen": "wording not trained with facts of this kind",
}
"""How far the model met a question in training, in words."""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that the page shows."""

    stages: tuple[StageTime, ...]
    measures: tuple[Measure, ...]
    curves: tuple[Curve, ...]
    answers: tuple[Answered, ...]
    scores: tuple[tuple[str, int, int], ...]
    """Key of SEEN, questions answered right, questions asked."""
    chat: str
    """Command line that talks with the result."""
    facts: tuple[tuple[str, str], ...]
    """Name and value: sizes, seed, versions."""
    complete: bool = True
    """False after a run of a few steps, whose answers cannot be right."""


def printable(text: str, limit: int = 60) -> str:
    """``text`` on one line of at most ``limit`` characters; what cannot be shown becomes U+FFFD."""
    line = "".join(char if char.isprintable() else "\ufffd" if char not in "\n\t" else " " for char in text)
    return line if len(line) <= limit else line[: limit - 1] + "…"


def render(report: Report) -> str:
    """The whole page."""
    seconds = sum(stage.seconds for stage in report.stages)
    right = sum(answer.right_after for answer in report.answers)
    knew = sum(answer.right_before for answer in report.answers)
    summary = (
        f"In {seconds:.0f} seconds a model that knew no Chinese got Chinese characters into its vocabulary, "
        f"read Chinese, and learned to answer: {right} of {len(report.answers)} questions right, {knew} before."
    )
    parts = [
        f"<h1>hanlin demo <span lang='zh'>翰林</span></h1><p class='lead'>{_escape(summary)}</p>",
        ""
        if report.complete
        else "<p class='warn'>This was a run of a few steps (--fast): its answers mean nothing.</p>",
        "<h2>The same questions, before and after</h2>",
        _answers(report.answers),
        _scores(report.scores),
        *(f"<h2>{_escape(measure.title)}</h2>{_bars(measure)}" for measure in report.measures),
        "<h2>Loss curves</h2>",
        "<p>Cross-entropy in nats per trained token; each point is the mean since the one before.</p>",
        "<div class='curves'>" + "".join(map(_curve, report.curves)) + "</div>",
        "<h2>What happened</h2>",
        _stages(report.stages, seconds),
        "<h2>Again, step by step</h2>",
        "<p>Each stage is a command of its own. To repeat one, give it another --output_dir; with your own model and "
        "files it is the same line.</p>",
        _commands(report),
        "<h2>This run</h2>",
        "<table class='facts'>"
        + "".join(f"<tr><th>{_escape(name)}</th><td>{_escape(value)}</td></tr>" for name, value in report.facts)
        + "</table>",
    ]
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>hanlin demo</title><style>{_STYLE}</style></head><body><main>{''.join(parts)}</main></body></html>\n"
    )


def _escape(text: str) -> str:
    return html.escape(text, quote=True)


def _answers(answers: Iterable[Answered]) -> str:
    rows = []
    for answer in answers:
        before = _said(answer.before, answer.right_before)
        after = _said(answer.after, answer.right_after)
        if not answer.right_after:
            after += f"<small>expected {_escape(answer.expected)}</small>"
        rows.append(
            f"<tr><td><span lang='zh'>{_escape(answer.question)}</span><small>{_escape(answer.gloss)}</small></td>"
            f"<td>{before}</td><td>{after}</td><td class='seen'>{_escape(SEEN[answer.seen])}</td></tr>"
        )
    head = "<tr><th>question</th><th>before</th><th>after</th><th>the question in training</th></tr>"
    return f"<div class='wide'><table class='answers'>{head}{''.join(rows)}</table></div>"


def _said(text: str, is_right: bool) -> str:
    """An answer with its mark."""
    mark = "<b class='right' title='right'>✓</b>" if is_right else "<b class='wrong' title='wrong'>✗</b>"
    return f"{mark} <span lang='zh'>{_escape(printable(text)) or '<i>nothing</i>'}</span>"


def _scores(scores: Sequence[tuple[str, int, int]]) -> str:
    if not scores:
        return ""
    items = "".join(
        f"<li>{_escape(SEEN[seen])}: <b>{right} of {asked}</b> right ({right / asked:.0%})</li>"
        for seen, right, asked in scores
    )
    return (
        "<p>Right means: the same text as the expected answer, character by character. The table is small, so the "
        "tuned model was also asked questions drawn at random from all that can be made of the facts:</p>"
        f"<ul>{items}</ul>"
        "<p>Every fact was trained in some wording. The model learned these facts by heart; it knows no others.</p>"
    )


def _bars(measure: Measure) -> str:
    """Horizontal bars with their numbers, as one SVG picture."""
    top = max((value for _, value in measure.values), default=1) or 1
    height = 34 * len(measure.values) + 6
    rows = []
    for index, (name, value) in enumerate(measure.values):
        y = 34 * index + 6
        width = max(360 * value / top, 1)
        rows.append(
            f"<text x='172' y='{y + 17}' text-anchor='end'>{_escape(name)}</text>"
            f"<rect x='180' y='{y}' width='{width:.1f}' height='24' rx='3' class='bar{' last' if index else ''}'/>"
            f"<text x='{188 + width:.1f}' y='{y + 17}'>{value:.2f}</text>"
        )
    label = f"{measure.title}: " + ", ".join(f"{name} {value:.2f}" for name, value in measure.values)
    return (
        f"<svg viewBox='0 0 600 {height}' class='bars' role='img' aria-label='{_escape(label)}'>{''.join(rows)}</svg>"
        f"<p class='note'>{_escape(measure.unit)}. {_escape(measure.note)}</p>"
    )


def _curve(curve: Curve) -> str:
    """A loss curve with axes, as one SVG picture."""
    width, height, left, top, right, bottom = 420, 240, 46, 12, 12, 40
    if not curve.points:
        return ""
    last = max(step for step, _ in curve.points)
    ceiling, unit = _scale(max(loss for _, loss in curve.points))

    def x(step: float) -> float:
        return left + (width - left - right) * step / max(last, 1)

    def y(loss: float) -> float:
        return height - bottom - (height - top - bottom) * loss / ceiling

    grid = []
    for number in range(round(ceiling / unit) + 1):
        level = y(number * unit)
        grid.append(
            f"<line x1='{left}' x2='{width - right}' y1='{level:.1f}' y2='{level:.1f}' class='grid'/>"
            f"<text x='{left - 7}' y='{level + 4:.1f}' text-anchor='end'>{number * unit:g}</text>"
        )
    step_unit = _scale(last)[1]
    for number in range(int(last / step_unit) + 1):
        place = x(number * step_unit)
        grid.append(
            f"<text x='{place:.1f}' y='{height - bottom + 17}' text-anchor='middle'>{number * step_unit:g}</text>"
        )
    path = " ".join(f"{x(step):.1f},{y(loss):.1f}" for step, loss in curve.points)
    label = f"{curve.title}: loss {curve.points[0][1]:.2f} at first, {curve.points[-1][1]:.2f} at the end"
    return (
        f"<figure><figcaption>{_escape(label)}</figcaption>"
        f"<svg viewBox='0 0 {width} {height}' role='img' aria-label='{_escape(label)}'>{''.join(grid)}"
        f"<polyline points='{path}' class='line'/>"
        f"<text x='{(left + width - right) / 2}' y='{height - 6}' text-anchor='middle'>optimizer step</text>"
        "</svg></figure>"
    )


def _scale(value: float) -> tuple[float, float]:
    """A round number at or above ``value`` and the distance of grid lines: 6.7 gives (8, 2), 0.3 gives (0.3, 0.1)."""
    power = 1.0
    while power > value > 0:
        power /= 10
    while power * 10 <= value:
        power *= 10
    for unit in (power / 5, power / 2, power, power * 2):
        count = -int(-value // unit)
        if count <= 5:
            return unit * max(count, 1), unit
    return power * 10, power * 2


def _stages(stages: Sequence[StageTime], seconds: float) -> str:
    longest = max((stage.seconds for stage in stages), default=1) or 1
    rows = "".join(
        f"<tr><td>{_escape(stage.title)}</td><td class='number'>{stage.seconds:.1f} s</td>"
        f"<td class='share'><i style='width:{100 * stage.seconds / longest:.0f}%'></i></td></tr>"
        for stage in stages
    )
    total = f"<tr class='total'><td>all together</td><td class='number'>{seconds:.1f} s</td><td></td></tr>"
    return f"<table class='stages'>{rows}{total}</table>"


def _commands(report: Report) -> str:
    steps = [(stage.title, stage.command) for stage in report.stages if stage.command]
    steps.append(("Talk with it", report.chat))
    return "".join(
        f"<p class='step'>{_escape(title)}</p><pre>{_escape(wrapped(command))}</pre>" for title, command in steps
    )


def wrapped(command: str, width: int = 96) -> str:
    """``command`` broken before flags into lines of about ``width`` characters, as a shell reads them."""
    lines = [""]
    for number, part in enumerate(command.split(" --")):
        piece = part if number == 0 else f"--{part}"
        if lines[-1] and len(lines[-1]) + len(piece) > width:
            lines.append(f"  {piece}")
        else:
            lines[-1] = f"{lines[-1]} {piece}".lstrip() if len(lines) == 1 else f"{lines[-1]} {piece}"
    return " \\\n".join(lines)


_STYLE = """
:root{--ink:#1d2433;--soft:#5d6880;--paper:#fff;--line:#d9dfe9;--fill:#f3f6fa;--a:#9aa7bd;--b:#2563c9;--ok:#16803c;--no:#b3261e}
@media(prefers-color-scheme:dark){:root{--ink:#e5eaf3;--soft:#9aa6bb;--paper:#12161e;--line:#2d3546;--fill:#1a202c;
--a:#64718a;--b:#6ea3ff;--ok:#5fd38a;--no:#ff8a80}}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,
"Segoe UI",Roboto,"PingFang SC","Hiragino Sans GB","Microsoft YaHei","Noto Sans CJK SC","Source Han Sans SC",
"WenQuanYi Micro Hei",sans-serif}
main{max-width:60rem;margin:0 auto;padding:2rem 1.2rem 4rem}
h1{margin:0 0 .4rem}h1 span{color:var(--soft);font-weight:400}
h2{margin:2.4rem 0 .6rem;font-size:1.25rem}.lead{font-size:1.12rem}.warn{color:var(--no);font-weight:600}
.note,.seen,small{color:var(--soft);font-size:.86rem}small{display:block}.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%}th,td{padding:.42rem .6rem;text-align:left;vertical-align:top;
border-bottom:1px solid var(--line)}th{font-weight:600}
.answers td:nth-child(2){color:var(--soft);overflow-wrap:anywhere}
.answers{min-width:40rem}.answers td:nth-child(-n+3){width:28%}.right{color:var(--ok)}.wrong{color:var(--no)}
.number{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}.stages td:first-child{width:50%}
.share{width:35%}
.share i{display:block;height:.7rem;margin-top:.4rem;background:var(--b);border-radius:2px;min-width:1px}
.total td{font-weight:600;border-bottom:0}.facts th{width:16rem;font-weight:400;color:var(--soft)}
svg{width:100%;height:auto;display:block}svg text{fill:var(--ink);font-size:13px}.bars{max-width:40rem}
.bar{fill:var(--a)}.bar.last{fill:var(--b)}.grid{stroke:var(--line)}.line{fill:none;stroke:var(--b);stroke-width:2;
stroke-linejoin:round}.curves{display:grid;grid-template-columns:repeat(auto-fit,minmax(17rem,1fr));gap:1.2rem}
figure{margin:0}figcaption{font-size:.9rem;margin-bottom:.3rem}.step{margin:.9rem 0 .2rem}
pre{margin:0;padding:.6rem .8rem;background:var(--fill);border:1px solid var(--line);border-radius:4px;font-size:.8rem;
white-space:pre-wrap;overflow-wrap:anywhere}
"""
