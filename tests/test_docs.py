"""The documentation: every command line parses, every link leads somewhere, both languages say the same."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hanlin.cli import VERBS, _find_verb, _load
from hanlin.config.aliases import ALIASES, REFUSED, RETIRED
from hanlin.config.fields import flags
from hanlin.config.parse import parse
from hanlin.config.passthrough import trainer_fields

ROOT = Path(__file__).resolve().parents[1]
ENGLISH = ROOT / "docs" / "en"
CHINESE = ROOT / "docs" / "zh"
PAGES = [ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted(ENGLISH.glob("*.md")), *sorted(CHINESE.glob("*.md"))]
PAIRS = [
    (ROOT / "README.md", ROOT / "README.zh-CN.md"),
    *((page, CHINESE / page.name) for page in sorted(ENGLISH.glob("*.md"))),
]

OTHER_TOOLS = {
    "clear", "master_addr", "master_port", "nnodes", "node_rank", "nproc_per_node", "version",
    "help", "config", "flag", "with_prompt", "interactive", "llama_tokenizer_dir", "chinese_sp_model_file",
    "leraning_rate",
}  # fmt: skip
"""Flags of pip, torchrun and of the entry points of 2023, the misspelling that the published commands had, and the
word for any flag."""

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
HAN = re.compile(r"[\u3400-\u9fff]")


class Block(NamedTuple):
    """A fenced block of code."""

    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    return [Block(*match.groups()) for match in FENCE.finditer(page.read_text(encoding="utf-8"))]


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def command_lines(text: str) -> list[list[str]]:
    """The words after ``hanlin`` of each command in a shell block, continued lines joined, pipes and ``&&`` parted."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.commenters, lexer.whitespace_split = "#", True
        command: list[str] = []
        for word in [*lexer, ";"]:
            if word.strip("();<>|&"):
                command.append(word)
                continue
            names = [Path(part).name for part in command]
            if "hanlin" in names and "install" not in names:
                found.append(command[names.index("hanlin") + 1 :])
            command = []
    return found


def cases() -> list[Any]:
    """Page and words of each command line, and the YAML that the page shows before it."""
    found = []
    for page in PAGES:
        settings = ""
        for block in blocks(page):
            if block.language == "yaml":
                settings = block.text
            if block.language in ("bash", "sh"):
                for words in command_lines(block.text):
                    name = f"{page.relative_to(ROOT)}: hanlin {' '.join(words)}"
                    found.append(pytest.param(page, words, settings, id=name[:120]))
    return found


@pytest.mark.parametrize(("page", "words", "settings"), cases())
def test_every_command_line_parses(
    page: Path, words: list[str], settings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not words or words in (["--help"], ["--version"]):
        return
    monkeypatch.chdir(tmp_path)
    name, rest = _find_verb(words)
    if rest == ["--help"]:
        return
    for word in rest:
        if word.endswith((".yaml", ".yml")):
            assert settings, "a page shows the file that its command reads"
            (tmp_path / word).write_text(settings, encoding="utf-8")
    _, notices = parse(_load(VERBS[name].config), rest)
    assert not notices or page.name == "older-command-lines.md", "pages use today's names"


def test_the_words_of_a_command_are_found() -> None:
    text = "cd x && .venv/bin/hanlin pt --a 'b c' \\\n  --d e | tee log  # hanlin no\npip install hanlin\nhanlin demo\n"
    assert command_lines(text) == [["pt", "--a", "b c", "--d", "e"], ["demo"]]
    assert len(cases()) > 40


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name} links to {target}"


def anchors(page: Path) -> set[str]:
    """Anchors of the headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_page_has_its_other_language() -> None:
    assert {page.name for page in ENGLISH.glob("*.md")} == {page.name for page in CHINESE.glob("*.md")}


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[0].name)
def test_both_languages_have_the_same_parts(pair: tuple[Path, Path]) -> None:
    english, chinese = (prose(page) for page in pair)
    levels = [re.findall(r"^(#+) ", text, re.MULTILINE) for text in (english, chinese)]
    assert levels[0] == levels[1], "headings and their levels"
    rows = [[line.count("|") for line in text.splitlines() if line.startswith("|")] for text in (english, chinese)]
    assert rows[0] == rows[1], "rows and columns of the tables"
    items = [len(re.findall(r"^\s*(?:- |\d+\. )", text, re.MULTILINE)) for text in (english, chinese)]
    assert items[0] == items[1], "items of the lists"
    names = [sorted(re.findall(r"`(--[a-z_]+)", text)) for text in (english, chinese)]
    assert set(names[0]) == set(names[1]), "flags that the text names"


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[0].name)
def test_both_languages_have_the_same_code(pair: tuple[Path, Path]) -> None:
    """Comments may be translated; everything else is the same."""
    english, chinese = ([without_comments(block) for block in blocks(page)] for page in pair)
    assert english == chinese


def without_comments(block: Block) -> str:
    if block.language == "bash":
        return "\n".join(line for line in block.text.splitlines() if not line.startswith("#"))
    # Pictures and trees explain themselves in words, which are translated: their names are compared.
    return block.text if block.language else " ".join(re.findall(r"[\w./]+\.\w+|\w+/", block.text, re.ASCII))


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[0].name)
def test_each_page_is_in_its_language(pair: tuple[Path, Path]) -> None:
    texts = [re.sub(r"`[^`]*`|\([^)]*\)", "", prose(page)) for page in pair]
    shares = [len(HAN.findall(text)) / len(text) for text in texts]
    assert shares[0] < 0.03 < 0.3 < shares[1]


def known_flags() -> set[str]:
    own = {name for verb in VERBS.values() for name in flags(_load(verb.config))}
    return own | set(ALIASES) | set(RETIRED) | set(REFUSED) | set(trainer_fields()) | OTHER_TOOLS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_flag_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = {name.replace("-", "_").rstrip("_") for name in re.findall(r"(?<![\w-])--([a-z][a-z0-9_-]*)", text)}
    named = {name for name in named if f"{name}_*" not in text and f"--{name}_*" not in text}
    assert named - known_flags() == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_name_no_machine(page: Path) -> None:
    assert not re.search(r"(?<![\w.])/(work|root|home|mnt|tmp|Users)/", page.read_text(encoding="utf-8"))
