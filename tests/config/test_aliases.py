"""Older spellings, retired and refused flags, and the words that a shell makes of mistakes (specification 5.2)."""

from __future__ import annotations

from pathlib import Path

import pytest

from hanlin.config.aliases import ALIASES, REFUSED, RETIRED
from hanlin.config.fields import flags
from hanlin.config.infer import InferConfig
from hanlin.config.merge import MergeConfig
from hanlin.config.parse import parse
from hanlin.config.passthrough import trainer_fields
from hanlin.config.runs import PtConfig, SftConfig
from hanlin.config.tokenizer import TokenizerExtend
from hanlin.errors import UserError

BASE = ["--model", "m", "--dataset", "d", "--output_dir", "o"]
CLASSES = (PtConfig, SftConfig, MergeConfig, InferConfig, TokenizerExtend)


def sft(*words: str) -> SftConfig:
    config, _ = parse(SftConfig, [*BASE, *words])
    assert isinstance(config, SftConfig)
    return config


def test_every_alias_leads_to_a_flag_of_some_verb() -> None:
    known = {name for cls in CLASSES for name in flags(cls)} | set(trainer_fields())
    for old, aliases in ALIASES.items():
        assert {alias.name for alias in aliases} & known, old


def test_no_name_has_two_fates() -> None:
    fates = [ALIASES.keys(), RETIRED.keys(), REFUSED.keys()]
    for index, one in enumerate(fates):
        for other in fates[index + 1 :]:
            assert not one & other
    # A field of the installed trainer passes through before RETIRED is looked up: such an entry would never speak.
    assert not RETIRED.keys() & set(trainer_fields())


def test_every_sentence_is_one_line_that_says_something() -> None:
    for reason in [*RETIRED.values(), *(refused.reason for refused in REFUSED.values())]:
        assert len(reason) > 20
        assert "\n" not in reason


@pytest.mark.parametrize(
    ("words", "message"),
    [
        # Row by row of the table: what reaches the program, and the mend.
        (["--lora_alpha", "32", " "], "--lora_alpha: is followed by .* delete the space after the backslash"),
        (["--fp16", " "], "--fp16: is followed by an argument of white space only"),
        (["--ddp_timeout", "30000", " "], "--ddp_timeout: is followed by an argument of white space only"),
        (["--modules_to_save", "a,b", " "], "--modules_to_save: is followed by an argument of white space only"),
        (
            ["--lora_dropout", "--torch_dtype", "float16"],
            "--lora_dropout: has no value.*is empty or .*misspelt",
        ),
        (["--trainable", "--fp16"], "--trainable: has no value.*misspelt"),
        (["--ddp_timeout", "--fp16"], "--ddp_timeout: has no value.*misspelt"),
        (["--lora_dropout", ""], "--lora_dropout: has no value.*misspelt"),
        (["--force_resize_embeddings", "[True"], r"\[True.*choose one of the two words"),
        (["--overwrite_output_dir", "[True|False]"], "choose one of the two words"),
        (["--overwrite_output_dir", "[True"], "choose one of the two words"),
        (["--leraning_rate", "1e-4"], "--leraning_rate: .*did you mean --learning_rate"),
        (["--peft_path", "a,", "b"], "--peft_path: takes one value and got 2: a, b"),
        (["--lora_rank　8"], "--lora_rank: is followed by a full-width space .*write --lora_rank 8"),
        (["--output_dir2"], "--output_dir2: is not a flag"),
        (["--validation_file", "v　"], "full-width space"),
        (["--validation_file", "“v”"], "quote “"),
        (["--validation_file", "v\u00a0"], "no-break space"),
        (["－－fp16"], "begins with a long dash; expected two hyphens; write --fp16"),
        (["—fp16"], "write --fp16"),
        (["--validation_file", "v\r"], "carriage return.*sed -i"),
        (["--fp16\r"], "--fp16: ends in a carriage return.*sed -i"),
        (["--fp16", "\r"], "carriage return.*sed -i"),
        (["--torch_dtype", "floot16"], "--torch_dtype: is 'floot16'.*did you mean float16"),
    ],
)
def test_pasted_mistakes_are_answered_with_the_mend(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        sft(*words)
    assert "\n" not in str(caught.value)


def test_free_text_may_hold_any_character() -> None:
    assert sft("--system", "“你好”　").instruction.system == "“你好”　"


def test_a_text_with_brackets_is_left_alone() -> None:
    assert sft("--validation_file", "[a]b.json").source.validation_file == ("[a]b.json",)


def test_flash_attn_is_accepted_with_its_history() -> None:
    config, notices = parse(SftConfig, [*BASE, "--flash_attn"])
    assert config.model.attn_implementation == "flash_attention_2"
    assert len(notices) == 1
    assert "--use_flash_attention_2" in notices[0]


def test_values_of_older_switches_are_translated_in_files_too(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("full_finetuning: true\nload_in_8bit: false\nuse_flash_attention_2: false\n")
    config = sft("--config", str(file))
    assert (config.adapter.tuner, config.model.attn_implementation) == ("full", "sdpa")
    file.write_text("load_in_8bit: true\n")
    with pytest.raises(UserError, match=r"run.yaml: load_in_8bit: quantised weights"):
        sft("--config", str(file))


def test_two_adapters_for_one_that_answers_are_refused() -> None:
    with pytest.raises(UserError, match="--lora_model: takes one value and got 2"):
        parse(InferConfig, ["--base_model", "b", "--prompt", "x", "--lora_model", "a,", "b"])


def test_defaults_of_an_entry_point_fill_in_and_do_not_count_as_given() -> None:
    config, _ = parse(SftConfig, [*BASE, "--lora_rank", "4"], lambda given: {"lora_rank": 64, "lora_alpha": 1.0})
    assert (config.adapter.lora_rank, config.adapter.lora_alpha) == (4, 1.0)
    assert "lora_alpha" not in config.given
