"""The published commands of the second generation run end to end on a CPU, with a tiny model for the placeholders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from answering import TEXT, save_model, tokenizer
from hanlin.cli import main
from hanlin.config.older import translate
from hanlin.config.parse import parse
from hanlin.config.runs import PtConfig
from hanlin.train.results import write_settings
from hanlin.vocab.extend import extend_by_pad
from scripts.published import COMMANDS

TRAINING = Path(__file__).resolve().parents[2] / "scripts" / "training"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, tokenizers with the padding token of either generation, and a little data."""
    root = tmp_path_factory.mktemp("older")
    save_model(root / "base")
    extend_by_pad(tokenizer(), "<pad>").tokenizer.save(root / "second")
    extend_by_pad(tokenizer(), "[PAD]").tokenizer.save(root / "first")
    (root / "pt").mkdir()
    (root / "pt" / "a.txt").write_text(TEXT * 60, encoding="utf-8")
    (root / "sft").mkdir()
    rows = [{"instruction": f"说出第{n}句", "input": "", "output": "床前明月光"} for n in range(20)]
    (root / "sft" / "a.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    (root / "valid.json").write_text(json.dumps(rows[:2], ensure_ascii=False), encoding="utf-8")
    return root


def substituted(name: str, inputs: Path, output: Path, *, tokenizer: str = "second") -> tuple[str, list[str]]:
    """The published words with real paths, and two steps instead of an epoch."""
    entry, words = COMMANDS[name]
    kind = "pt" if "pt" in entry else "sft"
    paths = {
        "--deepspeed": TRAINING / "ds_zero2_no_offload.json",
        "--model_name_or_path": inputs / "base",
        "--tokenizer_name_or_path": inputs / tokenizer,
        "--dataset_dir": inputs / kind,
        "--data_cache_dir": output.parent / "cache",
        "--validation_file": inputs / "valid.json",
        "--output_dir": output,
    }
    argv = words.split()
    for flag, path in paths.items():
        if flag in argv:
            argv[argv.index(flag) + 1] = str(path)
    return entry, [*argv, "--max_steps", "2"]


def test_pre_training_tuning_merging_and_answering(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry, words = substituted("V2 run_pt.sh", inputs, tmp_path / "pt")
    assert main(words, older=entry) == 0
    said = capsys.readouterr()
    assert "--save_safetensors:" in said.err
    assert "bf16 is used instead" in said.out
    assert "--deepspeed: not used" in said.out
    adapter = tmp_path / "pt" / "pt_lora_model"
    names = {path.name for path in adapter.iterdir()}
    assert {"adapter_config.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"} <= names
    settings = json.loads((adapter / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["lora_dropout"]) == (64, 128, 0.05)
    assert (tmp_path / "pt" / "checkpoint-2" / "pt_lora_model" / "adapter_config.json").is_file()
    assert {"train_results.json", "all_results.json", "trainer_state.json"} <= {
        path.name for path in (tmp_path / "pt").iterdir()
    }

    merging = ["--base_model", str(inputs / "base"), "--lora_model", str(adapter), "--output_dir", str(tmp_path / "m")]
    assert main(merging, older="merge_llama2_with_chinese_lora_low_mem.py") == 0
    as_pth = [*merging[:-1], str(tmp_path / "pth")]
    assert main(as_pth, older="merge_llama_with_chinese_lora_low_mem.py") == 0
    assert (tmp_path / "pth" / "consolidated.00.pth").is_file()

    (tmp_path / "questions.txt").write_text("你好\n", encoding="utf-8")
    answers = tmp_path / "answers" / "predictions.json"
    asking = f"--data_file {tmp_path / 'questions.txt'} --predictions_file {answers} --with_prompt --only_cpu"
    asking += f" --base_model {tmp_path / 'm'} --max_new_tokens 2"
    assert main(asking.split(), older="inference_hf.py") == 0
    (answer,) = json.loads(answers.read_text(encoding="utf-8"))
    # Neither the adapter of pre-training nor the model names a template: the padding token tells the generation.
    assert answer["Input"].startswith("[INST] <<SYS>>\nYou are a helpful assistant. 你是一个乐于助人的助手。\n<</SYS>>")


@pytest.mark.parametrize(
    ("name", "tokenizer", "template"), [("V2 run_sft.sh", "second", "llama2-zh"), ("V1 run_sft.sh", "first", "alpaca")]
)
def test_tuning_takes_the_template_of_its_generation(
    name: str, tokenizer: str, template: str, inputs: Path, tmp_path: Path
) -> None:
    entry, words = substituted(name, inputs, tmp_path / "sft", tokenizer=tokenizer)
    if "--peft_path" in words:
        at = words.index("--peft_path")
        del words[at : at + 2]
    assert main(words, older=entry) == 0
    record = json.loads((tmp_path / "sft" / "sft_lora_model" / "hanlin.json").read_text(encoding="utf-8"))
    assert record["template"] == template
    results = json.loads((tmp_path / "sft" / "all_results.json").read_text())
    assert {"train_loss", "eval_loss", "eval_perplexity"} <= results.keys()
    assert yaml.safe_load((tmp_path / "sft" / "run.yaml").read_text())["per_device_eval_batch_size"] == 1


def test_the_settings_of_a_run_say_what_was_unlimited(tmp_path: Path) -> None:
    """The file that runs again is read with the verb's defaults, not with those of the entry point."""
    call = translate("run_clm_pt_with_peft.py", "--model m --dataset_dir d --output_dir o --do_train".split())
    config, _ = parse(PtConfig, call.argv, call.defaults)
    write_settings(tmp_path / "run.yaml", "pt", config)
    again, _ = parse(PtConfig, [str(tmp_path / "run.yaml")])
    assert again.training == config.training
    assert again.training.save_total_limit is None
    assert (again.source, again.adapter, again.corpus) == (config.source, config.adapter, config.corpus)


def test_adapter_and_lora_flags_together_stop_with_both_mends(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tiny import tiny_adapter

    tiny_adapter(tmp_path / "adapter", inputs / "base", rank=4, alpha=8.0)
    tokenizer().save(tmp_path / "adapter")
    entry, words = substituted("S001", inputs, tmp_path / "out")
    words[words.index("--peft_path") + 1] = str(tmp_path / "adapter")
    words[words.index("--tokenizer_name_or_path") + 1] = str(inputs / "base")
    assert main(words, older=entry) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "lora_rank 4" in error
    assert "lora_alpha 8" in error
    assert "--on_lora_flags adapter" in error
    assert not (tmp_path / "out").exists()
    assert main([*words, "--on_lora_flags", "adapter", "--template", "alpaca"], older=entry) == 0
    assert "have no effect: the adapter's own values hold" in capsys.readouterr().out


def test_an_unknown_tokenizer_asks_for_the_template(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry, words = substituted("V2 run_sft.sh", inputs, tmp_path / "out")
    words[words.index("--tokenizer_name_or_path") + 1] = str(inputs / "base")
    assert main(words, older=entry) == 2
    assert "name a template with --template" in capsys.readouterr().err
