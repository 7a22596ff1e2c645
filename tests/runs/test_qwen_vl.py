"""Through the verbs with pictures: a tiny Qwen-VL is tuned, merged, answers about a picture and is loaded again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM

from golden import cases, write_case
from hanlin.cli import main
from hanlin.config.infer import GenerationSettings
from hanlin.infer.engine import Engine, open_engine
from hanlin.model.load import load_model
from hanlin.model.native import own_types
from hanlin.tokens.images import load_pixels
from hanlin.types import Message
from old_tokenizers import SPECIAL_PIECES, old_tokenizer, tiktoken_ranks

GREEDY = GenerationSettings(temperature=0, repetition_penalty=1.0, max_new_tokens=8)
COLOURS = {"red": (220, 30, 20), "green": (10, 200, 40), "blue": (30, 40, 230)}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The golden weights as they would have been published, with the tokenizer of Qwen-VL over 856 tokens."""
    directory = old_tokenizer(tmp_path / "model", "qwen-vl")
    first = len(tiktoken_ranks()) + SPECIAL_PIECES + 6  # <ref> </ref> <box> </box> <quad> </quad> come before <img>
    visual = {**cases()["qwen-vl"]["config"]["visual"], "image_start_id": first}
    return write_case(directory, "qwen-vl", rows=first + 3, visual=visual, shards=2, format="bin")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Three rows about a picture each, which lies beside the file, and one row without."""
    for name, colour in COLOURS.items():
        Image.new("RGB", (30, 20), colour).save(tmp_path / f"{name}.png")
    found: list[dict[str, Any]] = [
        {"instruction": f"<img>{name}.png</img>Which colour?", "output": name} for name in COLOURS
    ]
    found.append({"instruction": "What is a picture?", "output": "many pixels"})
    (tmp_path / "rows.json").write_text(json.dumps(found))
    return tmp_path / "rows.json"


def sft(model: Path, data: Path, out: Path, *more: str) -> int:
    return main(
        ["sft", "--model", str(model), "--dataset", str(data), "--template", "chatml", "--output_dir", str(out),
         "--max_length", "512", "--max_steps", "3", "--per_device_train_batch_size", "2", "--learning_rate", "1e-2",
         "--logging_steps", "1", "--lora_dropout", "0", "--report_to", "none", *more]
    )  # fmt: skip


def question(picture: Path) -> list[Message]:
    return [Message("user", f"<img>{picture}</img>Which colour?")]


def first_logits(engine: Engine, *, ids_of: Path, pixels_of: Path) -> torch.Tensor:
    ids = torch.tensor([engine.prompt_ids(question(ids_of))])
    pixels = torch.from_numpy(load_pixels(str(pixels_of), 56))[None, None]
    with torch.no_grad():
        return engine.model(input_ids=ids, pixel_values=pixels).logits[0, -1]


def test_tuned_merged_answering_and_reloaded(
    model: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, merged, red = tmp_path / "out", tmp_path / "merged", tmp_path / "red.png"
    assert sft(model, rows, out, "--lora_target_modules", "c_attn,attn.c_proj") == 0, capsys.readouterr().err
    settings = json.loads((out / "sft_lora_model" / "adapter_config.json").read_text())
    assert sorted(settings["target_modules"]) == ["k_proj", "o_proj", "q_proj", "v_proj"]
    weights = (out / "sft_lora_model" / "adapter_model.safetensors").read_bytes()
    assert b"visual" not in weights[:20000]
    assert main(["merge", str(out / "sft_lora_model"), "--output_dir", str(merged)]) == 0, capsys.readouterr().err

    tuned, whole = open_engine(str(out)), open_engine(str(merged))
    answers = [engine.generate(question(red), GREEDY) for engine in (tuned, whole)]
    assert answers[0] == answers[1] and answers[0].num_prompt_tokens > 258
    batch = whole.generate_batch([question(red), [Message("user", "What?")], question(tmp_path / "blue.png")], GREEDY)
    assert batch[0].text == answers[0].text
    assert batch[1] == whole.generate([Message("user", "What?")], GREEDY)

    # The picture reaches the logits, and a name alone does not.
    one = first_logits(whole, ids_of=red, pixels_of=red)
    assert (one - first_logits(whole, ids_of=red, pixels_of=tmp_path / "blue.png")).abs().max() > 0.1
    assert torch.equal(one, first_logits(whole, ids_of=tmp_path / "blue.png", pixels_of=red))

    own_types.register()
    plain = AutoModelForCausalLM.from_pretrained(merged).eval()
    expected = load_model(merged, dtype=torch.float32).eval()
    ids = torch.tensor([whole.prompt_ids(question(red))])
    pixels = torch.from_numpy(load_pixels(str(red), 56))[None, None]
    with torch.no_grad():
        assert torch.equal(
            plain(input_ids=ids, pixel_values=pixels).logits, expected(input_ids=ids, pixel_values=pixels).logits
        )
    # A merged folder is a base like any other.
    assert sft(merged, rows, tmp_path / "again") == 0


def test_the_tower_is_tuned_where_it_is_named(model: Path, rows: Path, tmp_path: Path) -> None:
    """Also by a row without a picture alone in its batch, and with checkpointing."""
    one = ("--per_device_train_batch_size", "1", "--max_steps", "4", "--gradient_checkpointing", "true")
    assert sft(model, rows, tmp_path / "out", "--lora_target_modules", "attn.in_proj,q_proj", *one) == 0
    assert main(["merge", str(tmp_path / "out"), "--output_dir", str(tmp_path / "merged")]) == 0
    before, after = (load_model(path, dtype=torch.float32).state_dict() for path in (model, tmp_path / "merged"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {f"model.visual.transformer.resblocks.{n}.attn.in_proj.weight" for n in (0, 1)} < changed
    assert all(name.endswith(("in_proj.weight", "q_proj.weight")) for name in changed)


def test_all_weights_learn_to_tell_pictures_apart(model: Path, rows: Path, tmp_path: Path) -> None:
    steps = ("--tuner", "full", "--max_steps", "30", "--learning_rate", "2e-3", "--per_device_train_batch_size", "4")
    assert sft(model, rows, tmp_path / "out", *steps) == 0
    engine = open_engine(str(tmp_path / "out"))
    assert {name: engine.generate(question(tmp_path / f"{name}.png"), GREEDY).text for name in COLOURS} == {
        name: name for name in COLOURS
    }
    before, after = (load_model(path, dtype=torch.float32).state_dict() for path in (model, tmp_path / "out"))
    table = "model.visual.attn_pool.pos_embed"
    assert torch.equal(before[table], after[table])
    assert not torch.equal(before["model.visual.conv1.weight"], after["model.visual.conv1.weight"])


def test_a_row_without_its_picture_is_on_the_ledger_until_it_has_one(
    model: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = json.loads(rows.read_text())
    given.append({"instruction": "<img>https://host/a.png</img>?", "output": "x"})
    rows.write_text(json.dumps(given))
    (tmp_path / "green.png").rename(tmp_path / "moved.png")
    assert sft(model, rows, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "2 dropped (picture)" in error and "rows.json[1]: the picture green.png does not exist" in error
    assert sft(model, rows, tmp_path / "out", "--max_dropped", "0.5") == 0
    ledger = [json.loads(line) for line in (tmp_path / "out" / "ledger.jsonl").read_text().splitlines()[1:]]
    assert [entry["reason"] for entry in ledger] == ["picture", "picture"]
    assert "is a URL" in ledger[1]["detail"]
    (tmp_path / "moved.png").rename(tmp_path / "green.png")
    assert sft(model, rows, tmp_path / "found", "--max_dropped", "0.5") == 0
    ledger = [json.loads(line) for line in (tmp_path / "found" / "ledger.jsonl").read_text().splitlines()[1:]]
    assert [entry["index"] for entry in ledger] == [4]


def test_infer_from_the_command_line(
    model: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def infer(prompt: str) -> int:
        return main(["infer", str(model), "--template", "chatml", "--max_new_tokens", "4", "--prompt", prompt])

    assert infer(f"<img>{tmp_path / 'red.png'}</img>Which colour?") == 0, capsys.readouterr().err
    capsys.readouterr()
    assert infer("<img>nowhere.png</img>Which colour?") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "the picture nowhere.png does not exist" in error
