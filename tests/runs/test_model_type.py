"""``--model_type`` from the hub to the answer, through the real verbs and clients against hubs on loopback."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from golden import write_case
from hanlin.cli import main
from hub_server import COMMIT, HubServer, needs_modelscope, serve


@pytest.fixture
def hub(base: Path) -> Iterator[HubServer]:
    names = ["meta-llama/Llama-2-7b-hf", "modelscope/Llama-2-7b-ms", "team/tiny"]
    with serve(dict.fromkeys(names, base)) as server:
        yield server


def hanlin(hub: HubServer, home: Path, *words: str) -> str:
    """Both streams of a command, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "hanlin", *words],
        capture_output=True,
        text=True,
        check=False,
        env=hub.environment(home),
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def sft(hub: HubServer, home: Path, rows: Path, *words: str) -> str:
    common = f"sft --dataset {rows} --output_dir {home / 'out'} --max_steps 2 --report_to none --max_length 256"
    return hanlin(hub, home, *common.split(), *words)


def test_a_catalog_id_is_trained_chatted_with_and_merged(hub: HubServer, instructions: Path, tmp_path: Path) -> None:
    said = sft(hub, tmp_path, instructions, "--model_type", "llama2-7b")
    assert "Model llama2-7b: meta-llama/Llama-2-7b-hf on Hugging Face" in said
    assert "Template: default, by the catalog" in said
    adapter = tmp_path / "out" / "sft_lora_model"
    record = json.loads((adapter / "hanlin.json").read_text())
    origin = (record["base_model"], record["base_hub"], record["base_revision"])
    assert origin == ("meta-llama/Llama-2-7b-hf", "huggingface", COMMIT)
    assert sorted(json.loads((adapter / "adapter_config.json").read_text())["target_modules"]) == [
        "k_proj", "q_proj", "v_proj"
    ]  # fmt: skip
    [settings] = [yaml.safe_load(file.read_text()) for file in (tmp_path / "out").glob("*.yaml")]
    assert (settings["model"], settings["revision"], settings["use_hf"]) == (origin[0], COMMIT, True)
    assert "model_type" not in settings

    asked = len(hub.asked)
    hanlin(hub, tmp_path, "infer", str(tmp_path / "out"), "--prompt", "say fox", "--max_new_tokens", "2", "--offline")
    merged = tmp_path / "merged"
    hanlin(hub, tmp_path, "merge", str(adapter), "--output_dir", str(merged), "--offline")
    assert len(hub.asked) == asked, "the recorded commit is taken from the cache"
    record = json.loads((merged / "hanlin.json").read_text())
    assert (record["base_hub"], record["base_revision"]) == ("huggingface", COMMIT)
    assert not [name for name in hub.asked if "modelscope" in name]


def test_a_checkpoint_of_2023_is_trained_by_its_name(base: Path, instructions: Path, tmp_path: Path) -> None:
    """Pickled weights, code beside them and a fused projection: none of it reaches the user."""
    checkpoint = write_case(tmp_path / "baichuan", "baichuan-7b", rows=320, max_position_embeddings=512)
    for file in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copyfile(base / file, checkpoint / file)
    (checkpoint / "modeling_baichuan.py").write_text("raise SystemExit")
    with serve({"baichuan-inc/Baichuan-7B": checkpoint}) as hub:
        sft(hub, tmp_path, instructions, "--model_id_or_path", "baichuan-inc/baichuan-7B")
        assert not [name for name in hub.fetched if name.endswith(".py")]
    settings = json.loads((tmp_path / "out" / "sft_lora_model" / "adapter_config.json").read_text())
    assert sorted(settings["target_modules"]) == ["k_proj", "q_proj", "v_proj"]


@needs_modelscope
def test_an_own_entry_brings_hub_template_and_targets(hub: HubServer, instructions: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("id: tiny\nmodelscope: team/tiny\ntemplate: alpaca\nlora_target_modules: [qkv, o_proj]\n")
    said = sft(hub, tmp_path, instructions, "--model_type", "tiny", "--register", str(own))
    assert "team/tiny on ModelScope" in said
    assert "Template: alpaca, by the catalog" in said
    adapter = tmp_path / "out" / "sft_lora_model"
    record = json.loads((adapter / "hanlin.json").read_text())
    assert (record["base_model"], record["base_hub"], record["base_revision"]) == ("team/tiny", "modelscope", COMMIT)
    assert record["template"] == "alpaca"
    assert sorted(json.loads((adapter / "adapter_config.json").read_text())["target_modules"]) == [
        "k_proj", "o_proj", "q_proj", "v_proj"
    ]  # fmt: skip
    hanlin(hub, tmp_path, "infer", str(tmp_path / "out"), "--prompt", "say fox", "--max_new_tokens", "2")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--model_type llama2-7", "the nearest are llama2-7b"),
        ("--model_type llama2-7b --model_id_or_path x/y", "are both given"),
        ("--model_type llama2-7b --offline", "the cache of Hugging Face does not hold it"),
        ("--model_type qwen-14b-chat-int8", "use qwen-14b-chat"),
        ("--model_type llama2-7b --config_overrides num_hidden_layers=1", "for training from scratch"),
    ],
)
def test_mistakes_are_one_line(
    words: str, said: str, instructions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["sft", "--dataset", str(instructions), "--output_dir", str(tmp_path / "out"), *words.split()]
    assert main([*argv, "--cache_dir", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error
    assert not (tmp_path / "out").exists()
