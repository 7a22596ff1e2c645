"""Flags, YAML and older spellings become one configuration."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from hanlin.config.aliases import ALIASES, RETIRED
from hanlin.config.fields import build, flags, flatten
from hanlin.config.parse import parse
from hanlin.config.passthrough import trainer_fields
from hanlin.config.runs import PtConfig, SftConfig
from hanlin.errors import UserError

BASE = ["--model", "m", "--dataset", "d", "--output_dir", "o"]


def sft(*words: str) -> SftConfig:
    config, _ = parse(SftConfig, [*BASE, *words])
    assert isinstance(config, SftConfig)
    return config


@pytest.mark.parametrize(
    ("words", "expected"), [(["--bf16"], True), (["--bf16", "true"], True), (["--bf16=False"], False), ([], False)]
)
def test_a_boolean_flag_reads_both_forms(words: list[str], expected: bool) -> None:
    assert sft(*words).training.bf16 is expected


def test_an_empty_system_text_is_a_value_and_other_empty_texts_are_not() -> None:
    assert sft("--system", "").instruction.system == ""
    assert sft().instruction.system is None
    with pytest.raises(UserError, match="no value"):
        sft("--template", "")


def test_lists_take_spaces_and_commas() -> None:
    assert sft("--modules_to_save", "embed_tokens,lm_head").adapter.modules_to_save == ("embed_tokens", "lm_head")
    assert sft("--modules_to_save", "embed_tokens", "lm_head").adapter.modules_to_save == ("embed_tokens", "lm_head")


def test_older_spellings_mean_todays_flags() -> None:
    config, notices = parse(
        SftConfig,
        "--model_name_or_path m --tokenizer_name_or_path t --dataset_dir d --max_seq_length 512 --peft_path a "
        "--evaluation_strategy steps --eval_steps 250 --torch_dtype float16 --output_dir o --overwrite_output_dir "
        "--save_safetensors False --ddp_timeout 30000 --use_flash_attention_2".split(),
    )
    assert (config.model.model, config.model.tokenizer, config.source.dataset) == ("m", "t", ("d",))
    assert (config.source.max_length, config.adapter.adapter, config.model.dtype) == (512, "a", "float16")
    assert config.training.eval_strategy == "steps"
    assert config.model.attn_implementation == "flash_attention_2"
    assert config.trainer == {"ddp_timeout": 30000}
    assert len(notices) == 1
    assert notices[0].startswith("--save_safetensors:")


def test_fields_of_the_trainer_have_their_types() -> None:
    config = sft("--adam_epsilon", "1e-7", "--dataloader_num_workers", "2", "--neftune_noise_alpha", "5")
    assert config.trainer == {
        "adam_epsilon": 1e-7,
        "dataloader_num_workers": 2,
        "neftune_noise_alpha": 5,
    }


def test_full_finetuning_becomes_the_tuner() -> None:
    assert sft("--full_finetuning").adapter.tuner == "full"
    assert sft("--full_finetuning", "False").adapter.tuner == "lora"


def test_two_names_of_one_setting_must_agree() -> None:
    assert sft("--max_length", "64", "--max_seq_length", "64").source.max_length == 64
    with pytest.raises(UserError, match="two names of one setting"):
        sft("--max_length", "64", "--max_seq_length", "128")


def test_an_unambiguous_prefix_is_understood() -> None:
    assert sft("--gradient_acc", "4").training.gradient_accumulation_steps == 4
    with pytest.raises(UserError, match="short for several"):
        sft("--logging", "4")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lora_alpha", "32", " "], "backslash"),
        (["--lora_dropout", "--dtype", "float16"], "variable"),
        (["--learning_rate", "fast"], "expected a number"),
        (["--lora_rank", "1.5"], "expected a whole number"),
        (["--overwrite_output_dir", "[True"], "choose one of the two words"),
        (["--overlong", "cutt"], "did you mean cut"),
        (["--validation_split_percentage", "5"], "write 0.05 for 5 percent"),
        (["--load_in_kbits", "4"], "quantised bases"),
        (["--fp16", "--bf16"], "both"),
        (["—bf16"], "long dash"),
        (["--tuner", "full", "--adapter", "a"], "merge the adapter first"),
        (["--hub_token", "hf_x"], "hf auth login"),
        (["--train_sampling_strategy", "group_by_length"], "function of the seed"),
        (["--use_liger_kernel"], "in chunks"),
    ],
)
def test_mistakes_get_one_line_with_a_mend(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        sft(*words)
    assert "\n" not in str(caught.value)


def test_yaml_and_flags_mix_and_flags_win(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "model: m\ndataset: [a, b]\noutput_dir: o\nlearning_rate: 1e-3\nlora_rank: 4\ntrainer: {adam_beta2: 0.95}\n"
    )
    config, _ = parse(SftConfig, [str(path), "--lora_rank", "16"])
    assert config.source.dataset == ("a", "b")
    assert (config.training.learning_rate, config.adapter.lora_rank) == (1e-3, 16)
    assert config.trainer == {"adam_beta2": 0.95}
    assert "lora_rank" in config.given


def test_yaml_mistakes_name_file_and_key(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("modle: m\n")
    with pytest.raises(UserError, match=r"run.yaml: modle: is not a setting of this verb; did you mean model\?"):
        parse(SftConfig, ["--config", str(path)])
    path.write_text("model: [\n")
    with pytest.raises(UserError, match=r"run.yaml:2:1: is not YAML"):
        parse(SftConfig, ["--config", str(path)])


def test_flattened_settings_build_the_same_configuration() -> None:
    config = sft("--lora_rank", "64", "--bf16")
    again = build(SftConfig, {name: tuple(v) if isinstance(v, list) else v for name, v in flatten(config).items()})
    assert dataclasses.replace(again, given=config.given) == config
    assert yaml.safe_load(yaml.safe_dump(flatten(config))) == flatten(config)


def test_every_setting_has_a_help_text() -> None:
    for cls in (PtConfig, SftConfig):
        for flag in flags(cls).values():
            assert flag.help, flag.name


def test_trainer_fields_are_those_of_transformers() -> None:
    from transformers import TrainingArguments

    expected = {field.name for field in dataclasses.fields(TrainingArguments) if field.init}
    # inherited or private fields aside, the syntax tree shows what the class has
    assert set(trainer_fields()) >= {"adam_beta1", "ddp_timeout", "neftune_noise_alpha", "optim"}
    assert set(trainer_fields()) <= expected | {"_n_gpu", "n_gpu", "framework", "default_optim", "_VALID_DICT_FIELDS"}


def test_no_alias_is_also_a_setting_it_would_hide() -> None:
    for old in ALIASES:
        assert old not in RETIRED
