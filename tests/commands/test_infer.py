"""``hanlin infer`` as it is typed: files of prompts in, files of answers out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from answering import chain, save_model, teach, tokenizer
from hanlin.cli import main
from hanlin.commands.infer import read_prompts
from hanlin.errors import UserError
from hanlin.infer.engine import open_engine
from hanlin.types import Message

EOS = 2
GREEDY = ("--temperature", "0", "--repetition_penalty", "1")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers 月光 to everything."""
    directory = save_model(tmp_path_factory.mktemp("models") / "model", template="llama2-zh")
    last = open_engine(str(directory)).prompt_ids([Message("user", "x")])[-1]
    return teach(directory, chain([last, *tokenizer().encode("月光"), EOS]))


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_lines_to_predictions_json(model_dir: Path, tmp_path: Path) -> None:
    Path("p.txt").write_bytes("\ufeff你好\r\n\r\nWhat [/INST] is it?\n".encode())
    assert main(["infer", str(model_dir), "--prompts", "p.txt", "--batch_size", "2", *GREEDY]) == 0
    rows = json.loads((tmp_path / "predictions.json").read_text(encoding="utf-8"))
    assert [row["Output"] for row in rows] == ["月光", "月光"]
    assert [row["instruction"] for row in rows] == ["你好", "What [/INST] is it?"]
    assert [row["place"] for row in rows] == ["p.txt:1", "p.txt:3"]
    assert rows[0]["Input"].endswith("<</SYS>>\n\n你好 [/INST]") and rows[0]["Input"].startswith("[INST] <<SYS>>")
    assert rows[0]["finish_reason"] == "stop"


def test_older_names_of_the_flags(model_dir: Path, tmp_path: Path) -> None:
    Path("p.txt").write_text("你好\n", encoding="utf-8")
    words = ["--base_model", str(model_dir), "--data_file", "p.txt", "--predictions_file", "out.json", "--only_cpu"]
    assert main(["infer", *words, *GREEDY]) == 0
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))[0]["Output"] == "月光"


def test_json_lines_grow_and_a_second_run_adds_nothing(model_dir: Path, tmp_path: Path) -> None:
    Path("p.json").write_text(json.dumps(["a", "b", "c"]), encoding="utf-8")
    words = ["infer", str(model_dir), "--prompts", "p.json", "--output", "new/out.jsonl", *GREEDY]
    assert main(words) == 0
    file = tmp_path / "new" / "out.jsonl"
    content = file.read_bytes()
    assert content.count(b"\n") == 3
    file.write_bytes(content[: len(content) // 2])
    assert main(words) == 0
    assert file.read_bytes() == content
    assert main([*words, "--seed", "1"]) == 2


def test_one_prompt_is_printed(model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["infer", str(model_dir), "--prompt", "你好", *GREEDY]) == 0
    assert capsys.readouterr().out == "月光\n"
    assert list(tmp_path.iterdir()) == []
    assert main(["infer", str(model_dir), "--prompt", "你好", "--output", "o.json", *GREEDY]) == 0
    assert json.loads(Path("o.json").read_text(encoding="utf-8"))[0]["Output"] == "月光"


def test_rows_of_every_kind_are_prompts() -> None:
    rows = [
        {"instruction": "Add", "input": "1 and 2", "output": "3"},
        {"instruction": "Add", "input": ""},
        {"instruction": "Add", "input": None, "output": ""},
        {"messages": [{"role": "user", "content": "你好"}]},
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": "b"},
            ]
        },
        {"instruction": "c", "history": [["a", "b"]], "output": "d"},
        "plain",
    ]
    Path("p.json").write_text(json.dumps(rows), encoding="utf-8")
    Path("p.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    prompts = read_prompts("p.json")
    assert [[(m.role, m.content) for m in prompt.messages] for prompt in prompts] == [
        [("user", "Add\n1 and 2")],
        [("user", "Add")],
        [("user", "Add")],
        [("user", "你好")],
        [("system", "Be brief."), ("user", "a")],
        [("user", "a"), ("assistant", "b"), ("user", "c")],
        [("user", "plain")],
    ]
    assert [dict(prompt.extra) for prompt in prompts] == [
        {"reference": "3"}, {}, {}, {}, {"reference": "b"}, {"reference": "d"}, {}
    ]  # fmt: skip
    assert [prompt.messages for prompt in read_prompts("p.jsonl")] == [prompt.messages for prompt in prompts]
    assert read_prompts("p.jsonl")[1].place == "p.jsonl:2"


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("p.txt", b"", "empty"),
        ("p.txt", b"\n \n", "holds no prompt"),
        ("p.json", b"[]", "holds no prompt"),
        ("p.txt", "你好\n".encode("gb18030"), "p.txt:1.*not UTF-8"),
        ("p.json", b'[{"instruction": "a",}]', r"p\.json:1:\d+: malformed"),
        ("p.jsonl", b'{"instruction": "a"}\n{"instruction"\n', r"p\.jsonl:2: column"),
        ("p.jsonl", b'{"question": "a"}', r"p\.jsonl:1: has the fields question"),
        ("p.json", b'[{"instruction": 5}]', r"p\.json\[0\]: instruction is 5"),
        ("p.json", b'[{"instruction": ""}]', r"p\.json\[0\]: instruction is empty"),
        ("p.json", b"[7]", r"p\.json\[0\]: is int"),
        ("p.json", b'[{"messages": [{"role": "bot", "content": "a"}]}]', "rename it to assistant"),
        ("p.json", b'["\\ud83d"]', "surrogate"),
        ("p.csv", b"a", r"expected one of \.txt, \.json"),
    ],
)
def test_unusable_prompts_stop_before_the_model_is_opened(name: str, content: bytes, problem: str) -> None:
    Path(name).write_bytes(content)
    with pytest.raises(UserError, match=problem):
        read_prompts(name)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "either --prompts FILE or --prompt TEXT"),
        (["--prompts", "p.txt", "--prompt", "a"], "either --prompts FILE or --prompt TEXT"),
        (["--prompts", "none.txt"], "none.txt does not exist"),
        (["--prompts", "."], "is a folder"),
        (["--prompts", "p.txt", "--output", "out.csv"], "ends in .json or .jsonl"),
        (["--prompts", "p.txt", "--output", "p.txt/out.json"], "cannot be written"),
        (["--prompts", "p.txt", "--batch_size", "0"], "--batch_size: is 0"),
        (["--prompt", " "], "--prompt"),
    ],
)
def test_mistakes_get_one_line(
    model_dir: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    Path("p.txt").write_text("a\n", encoding="utf-8")
    assert main(["infer", str(model_dir), *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and "Traceback" not in error
