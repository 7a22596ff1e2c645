"""Every published command line of 2023 becomes a configuration; what is not named has the published default."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hanlin.cli import OLDER_VERBS, VERBS, main
from hanlin.config.check_flags import SETTINGS
from hanlin.config.older import ENTRY_POINTS, translate
from hanlin.config.parse import parse
from hanlin.errors import UserError
from scripts.published import ALL7, COMMANDS, SEED

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"


def read(entry: str, words: list[str]) -> tuple[Any, list[str]]:
    call = translate(entry, words)
    config, notices = parse(SETTINGS[call.verb], call.argv, call.defaults)
    return config, [*call.notices, *notices]


@pytest.mark.parametrize("name", COMMANDS)
def test_published_command_becomes_a_configuration(name: str) -> None:
    entry, words = COMMANDS[name]
    config, notices = read(entry, words.split())
    pre_training = "pt" in entry
    training, adapter = config.training, config.adapter
    assert training.learning_rate == (2e-4 if pre_training else 1e-4)
    assert training.warmup_ratio == (0.05 if pre_training else 0.03)
    assert training.weight_decay == (0.01 if pre_training else 0.0)
    assert (training.seed, training.fp16, config.model.dtype) == (int(SEED), True, "float16")
    assert (training.lr_scheduler_type, training.logging_steps) == ("cosine", 10)
    assert training.gradient_accumulation_steps == (1 if name in ("S004", "S001", "S002") else 8)
    assert training.max_steps == (100 if name in ("S004", "S001") else -1)
    assert training.num_train_epochs == {"S002": 2, "S004": 3, "S001": 3}.get(name, 1)
    assert config.source.max_length == (1024 if name == "S002" else 512)
    assert (training.do_train, training.do_eval) == (True, not pre_training)
    assert config.trainer["ddp_timeout"] == 30000
    assert config.trainer["ddp_find_unused_parameters"] is False
    assert training.overwrite_output_dir
    assert training.deepspeed == "ds_zero2_no_offload.json"
    if name == "S002":
        assert not {"lora_rank", "lora_alpha", "lora_dropout", "lora_target_modules"} & config.given
    else:
        second = name.startswith("V2")
        assert (adapter.lora_rank, adapter.lora_alpha) == ((64, 128.0) if second else (8, 32.0))
        assert adapter.lora_target_modules == tuple(ALL7.split(","))
        assert adapter.modules_to_save == ("embed_tokens", "lm_head")
    assert bool(adapter.adapter) == (name in ("S002", "S001", "V1 run_sft.sh"))
    # A flag that means nothing today is named, once; nothing else is said.
    named = ["--preprocessing_num_workers", *(["--save_safetensors"] if name.startswith("V2") else [])]
    assert [notice.split(":")[0] for notice in notices] == named


def test_pre_training_has_the_published_defaults() -> None:
    config, _ = read("run_clm_pt_with_peft.py", "--model m --dataset_dir d --output_dir o --do_train".split())
    adapter, training, source = config.adapter, config.training, config.source
    assert (adapter.lora_rank, adapter.lora_alpha, adapter.lora_dropout) == (8, 32.0, 0.1)
    assert (adapter.lora_target_modules, adapter.modules_to_save) == (("q_proj", "v_proj"), ())
    assert (source.max_length, source.validation_split_percentage) == (1024, 0.05)
    assert (config.corpus.document, config.corpus.add_bos, config.corpus.add_eos) == ("line", True, True)
    assert (training.learning_rate, training.lr_scheduler_type, training.num_train_epochs) == (5e-5, "linear", 3)
    assert (training.per_device_train_batch_size, training.per_device_eval_batch_size) == (8, 8)
    assert (training.save_steps, training.logging_steps, training.warmup_ratio, training.seed) == (500, 500, 0, 42)
    assert (training.do_eval, training.eval_strategy, training.save_total_limit) == (False, "no", None)
    assert "lora_rank" not in config.given, "a default is not given: --peft_path may stand beside it"


def test_the_verbs_keep_their_own_defaults() -> None:
    config, _ = parse(SETTINGS["pt"], "--model m --dataset d --output_dir o".split())
    assert (config.adapter.lora_target_modules, config.training.learning_rate) == (("all-linear",), 1e-4)


def test_a_smaller_tokenizer_limit_makes_shorter_blocks(tmp_path: Path) -> None:
    words = f"--model m --tokenizer_name_or_path {tmp_path} --dataset_dir d --output_dir o --do_train".split()
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 256}')
    assert read("run_clm_pt_with_peft.py", words)[0].source.max_length == 256
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 1e30}')
    assert read("run_clm_pt_with_peft.py", words)[0].source.max_length == 1024
    (tmp_path / "tokenizer_config.json").write_text("[")
    assert read("run_clm_pt_with_peft.py", words)[0].source.max_length == 1024


def test_tuning_has_the_length_of_the_generation(shared_data: Path, tmp_path: Path) -> None:
    from hanlin.vocab.extend import extend_by_model
    from hanlin.vocab.tokenizer import TextTokenizer

    words = "--model m --dataset_dir d --output_dir o --do_train --tokenizer_name_or_path".split()
    second = shared_data / "chinese-llama" / "tokenizer-v2"
    config, _ = read("run_clm_sft_with_peft.py", [*words, str(second)])
    assert (config.source.max_length, config.instruction.template) == (1024, "published")
    llama = TextTokenizer.from_sentencepiece(original_llama(second / "tokenizer.model"))
    pieces = (shared_data / "chinese-llama" / "chinese_sp.model").read_bytes()
    alpaca = extend_by_model(llama, pieces, pad_token="[PAD]").tokenizer.sentencepiece_model
    assert alpaca is not None
    (tmp_path / "tokenizer.model").write_bytes(alpaca)
    assert read("run_clm_sft_with_peft.py", [*words, str(tmp_path)])[0].source.max_length == 512


def original_llama(second: Path) -> bytes:
    """The first 32,000 pieces of the second generation's tokenizer are LLaMA's own file."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(second.read_bytes())
    del proto.pieces[32000:]
    data: bytes = proto.SerializeToString()
    return data


def test_evaluation_is_off_unless_asked_for() -> None:
    words = "--model m --dataset_dir d --output_dir o --do_train".split()
    assert read("run_clm_sft_with_peft.py", words)[0].training.do_eval is False
    assert read("run_clm_sft_with_peft.py", [*words, "--evaluation_strategy", "steps"])[0].training.do_eval is True
    with pytest.raises(UserError, match="nothing to do; add --do_train"):
        read("run_clm_sft_with_peft.py", words[:-1])


def test_a_json_file_holds_all_arguments(tmp_path: Path) -> None:
    file = tmp_path / "arguments.json"
    file.write_text(
        '{"model_name_or_path": "m", "dataset_dir": "d", "output_dir": "o", "do_train": true, "max_seq_length": 64, '
        '"full_finetuning": true, "evaluation_strategy": "steps"}'
    )
    config, _ = read("run_clm_sft_with_peft.py", [str(file)])
    assert (config.source.max_length, config.adapter.tuner, config.training.learning_rate) == (64, "full", 5e-5)
    assert config.training.do_eval is True


ANSWERED = {
    # Flags of specification 3.1, 4.1, 6.1 and 7.1, and where they go today; None is a sentence and no effect.
    "run_clm_pt_with_peft.py": {
        "--tokenizer_name t": ("model", "tokenizer", "t"),
        "--cache_dir c": ("model", "cache_dir", "c"),
        "--use_fast_tokenizer False": None,
        "--model_revision main": ("model", "revision", "main"),
        "--use_auth_token": None,
        "--torch_dtype bfloat16": ("model", "dtype", "bfloat16"),
        "--data_cache_dir x": ("source", "data_cache_dir", "x"),
        "--max_train_samples 5": ("source", "max_train_samples", 5),
        "--max_eval_samples 5": ("source", "max_eval_samples", 5),
        "--dataset_config_name x": None,
        "--validation_file v": ("source", "validation_file", ("v",)),
        "--streaming": None,
        "--overwrite_cache": None,
        "--keep_linebreaks True": None,
        "--peft_path a": ("adapter", "adapter", "a"),
        "--debug_mode False": "silent",
        "--use_flash_attention_2 True": ("model", "attn_implementation", "flash_attention_2"),
        "--flash_attn": ("model", "attn_implementation", "flash_attention_2"),
        "--load_in_kbits 16": ("model", "load_in_kbits", "16"),
        "--double_quant True": None,
        "--quant_type nf4": None,
        "--full_finetuning True": ("adapter", "tuner", "full"),
    },
    "run_clm_sft_with_peft.py": {
        "--max_seq_length 100": ("source", "max_length", 100),
        "--force_resize_embeddings True": None,
        "--validation_split_percentage 0.001": ("source", "validation_split_percentage", 0.001),
        "--resume_from_checkpoint last": ("training", "resume_from_checkpoint", "last"),
    },
}


@pytest.mark.parametrize(("entry", "flag"), [(entry, flag) for entry, flags in ANSWERED.items() for flag in flags])
def test_every_older_training_flag_is_used_or_answered(entry: str, flag: str) -> None:
    words = "--model_name_or_path m --dataset_dir d --output_dir o --do_train".split()
    config, notices = read(entry, [*words, *flag.split()])
    expected = ANSWERED[entry][flag]
    if isinstance(expected, tuple):
        section, name, value = expected
        assert getattr(getattr(config, section), name) == value
    else:
        assert len(notices) == (expected is None)
        assert all(notice.startswith(flag.split()[0] + ": ") and len(notice) > 30 for notice in notices)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--load_in_kbits 4", "quantised bases"),
        ("--debug_mode", "name one file with --dataset"),
        ("--config_overrides n=1", "from scratch"),
        ("--block_size 4", "8 or more"),
    ],
)
def test_what_this_version_does_not_do_is_said(flag: str, message: str) -> None:
    words = "--model_name_or_path m --dataset_dir d --output_dir o --do_train".split()
    with pytest.raises(UserError, match=message):
        read("run_clm_pt_with_peft.py", [*words, *flag.split()])


def test_from_scratch_flags_of_pre_training() -> None:
    words = (
        "--model_type llama --tokenizer_name_or_path t --config_overrides a=1 --dataset_dir d --output_dir o --do_train"
    )
    config, _ = read("run_clm_pt_with_peft.py", words.split())
    assert (config.model.model, config.model.model_config, config.model.config_overrides) == (None, "llama", "a=1")


@pytest.mark.parametrize(
    ("entry", "output_type"),
    [
        ("merge_llama_with_chinese_lora_low_mem.py", "pth"),
        ("merge_llama2_with_chinese_lora_low_mem.py", "huggingface"),
    ],
)
def test_merging_has_the_defaults_of_its_generation(entry: str, output_type: str) -> None:
    config, notices = read(entry, "--base_model b --lora_model a1,a2 --offload_dir x --verbose".split())
    assert (config.model, config.adapter, config.output_type) == ("b", ("a1", "a2"), output_type)
    assert (config.output_dir, config.verbose) == ("./merged_model", True)
    assert [notice.split(":")[0] for notice in notices] == ["--offload_dir"]
    assert (
        read(entry, "--base_model b --lora_model a --output_type huggingface".split())[0].output_type == "huggingface"
    )


def test_a_second_adapter_after_a_space_is_merged_too() -> None:
    config, _ = read("merge_llama_with_chinese_lora_low_mem.py", ["--base_model", "b", "--lora_model", "a,", "b"])
    assert config.adapter == ("a", "b")


def test_inference_answers_a_file_with_the_template_on_request() -> None:
    words = "--base_model b --lora_model a --tokenizer_path t --data_file q.txt".split()
    config, _ = read("inference_hf.py", words)
    assert (config.engine.model, config.engine.adapter, config.engine.tokenizer) == ("b", "a", "t")
    assert (config.engine.template, config.prompts, config.output) == ("none", "q.txt", "./predictions.json")
    assert config.engine.device == "auto"
    more = "--with_prompt --predictions_file p.json --gpus 1 --system_prompt 你好 --use_flash_attention_2".split()
    config, _ = read("inference_hf.py", [*words, *more])
    assert (config.engine.template, config.output, config.engine.device) == ("published", "p.json", "cuda:1")
    assert (config.engine.system, config.engine.attn_implementation) == ("你好", "flash_attention_2")
    generation = config.generation
    assert (generation.temperature, generation.top_k, generation.top_p) == (0.2, 40, 0.9)
    assert (generation.repetition_penalty, generation.max_new_tokens) == (1.1, 400)


def test_inference_without_a_file_asks_one_question() -> None:
    config, _ = read("inference_hf.py", ["--base_model", "b", "--only_cpu", "--gpus", "0"])
    assert config.prompt
    assert config.engine.device == "cpu"


def test_interactive_inference_is_a_chat() -> None:
    config, notices = read("inference_hf.py", "--base_model b --interactive --with_prompt --data_file q".split())
    assert (type(config).__name__, config.engine.template, config.end_on_empty_line) == (
        "ChatConfig",
        "published",
        True,
    )
    assert any(notice.startswith("--data_file: has no effect") for notice in notices)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--use_vllm --lora_model a", "vLLM took no adapter; merge it first"),
        ("--use_vllm --load_in_8bit", "quantised"),
        ("--use_vllm --load_in_4bit", "quantised"),
        ("--use_vllm --only_cpu", "GPU"),
        ("--use_vllm --guidance_scale 1.5", "guidance"),
        ("--use_vllm --speculative_sampling", "speculative"),
        ("--load_in_8bit --load_in_4bit", "either 8 or 4 bits"),
        ("--load_in_8bit --only_cpu", "need a GPU"),
        ("--speculative_sampling", "needs a draft model"),
        ("--draft_model_load_in_8bit --draft_model_load_in_4bit", "either 8 or 4 bits"),
        ("--use_vllm", "not in this version"),
        ("--load_in_8bit", "quantised weights are not in this version"),
        ("--load_in_4bit", "quantised weights are not in this version"),
        ("--speculative_sampling --draft_base_model d", "speculative sampling is not in this version"),
        ("--guidance_scale 1.5", "guidance is not in this version"),
        ("--negative_prompt x", "guidance is not in this version"),
        ("--alpha 2.0", "NTK scaling is not in this version"),
        ("--alpha auto", "NTK scaling is not in this version"),
        ("--use_ntk", "NTK scaling is not in this version"),
        ("--gpus 0,1", "one GPU"),
    ],
)
def test_inference_refuses_in_one_line(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--base_model", "b", "--data_file", "q", *words.split()], older="inference_hf.py") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_inference_takes_values_that_ask_for_nothing() -> None:
    words = "--alpha 1.0 --guidance_scale 1.0 --load_in_8bit False --draft_k 0".split()
    _, notices = read("inference_hf.py", ["--base_model", "b", "--data_file", "q", *words])
    assert [notice.split(":")[0] for notice in notices] == ["--draft_k"]


def test_alpha_of_a_training_verb_is_not_taken_for_scaling() -> None:
    with pytest.raises(UserError, match="did you mean --lora_alpha"):
        parse(SETTINGS["sft"], "--model m --dataset d --output_dir o --alpha 2".split())


def test_every_entry_point_has_its_script() -> None:
    found = {path.name: path for path in SCRIPTS.rglob("*.py")}
    assert set(found) == set(ENTRY_POINTS)
    for path in found.values():
        assert "older=Path(__file__).name" in path.read_text(encoding="utf-8")


def test_the_checker_knows_the_settings_of_every_verb() -> None:
    ours = {name: f"{cls.__module__}:{cls.__qualname__}" for name, cls in SETTINGS.items()}
    for name, verb in {**VERBS, **OLDER_VERBS}.items():
        if name not in ("demo", "script check"):
            assert ours[name] == verb.config


def test_help_of_an_entry_point_tells_its_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"], older="run_clm_sft_with_peft.py") == 0
    shown = capsys.readouterr().out
    assert "run_clm_sft_with_peft.py is hanlin sft" in shown
    assert "--lora_target_modules q_proj,v_proj" in shown


def test_a_script_answers_a_mistake_with_one_line(tmp_path: Path) -> None:
    script = SCRIPTS / "training" / "run_clm_pt_with_peft.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, str(script), "--leraning_rate", "1e-4"],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "hanlin: --leraning_rate: is not a flag of this verb; did you mean --learning_rate?\n"


@pytest.mark.parametrize(("name", "entry"), [("run_pt.sh", "V2 run_pt.sh"), ("run_sft.sh", "V2 run_sft.sh")])
def test_our_launch_scripts_pass_the_published_values(name: str, entry: str, tmp_path: Path) -> None:
    """The shell runs the script with a torchrun that only shows its words."""
    stub = tmp_path / "torchrun"
    stub.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    stub.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    script = SCRIPTS / "training" / name
    done = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=True, env=environment)
    words = done.stdout.splitlines()
    assert words[:4] == ["--nnodes", "1", "--nproc_per_node", "1"]
    program, published_words = COMMANDS[entry]
    assert Path(words[4]).resolve() == (script.parent / program).resolve()
    config, notices = read(program, words[5:])
    published, _ = read(program, published_words.split())
    assert not notices
    assert config.adapter == published.adapter
    assert config.source.max_length == published.source.max_length
    assert config.given == published.given
    assert Path(config.training.deepspeed).is_file()
    for setting in ("learning_rate", "warmup_ratio", "weight_decay", "gradient_accumulation_steps", "save_steps"):
        assert getattr(config.training, setting) == getattr(published.training, setting)


def test_the_deepspeed_file_is_the_published_one() -> None:
    import json

    settings = json.loads((SCRIPTS / "training" / "ds_zero2_no_offload.json").read_text())
    assert settings["zero_optimization"]["stage"] == 2
    assert "offload_optimizer" not in settings["zero_optimization"]
    assert (settings["fp16"]["initial_scale_power"], settings["fp16"]["min_loss_scale"]) == (16, 1e-10)
    assert settings["gradient_clipping"] == "auto"


def test_merge_tokenizers_gives_the_published_file(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shared_data / "chinese-llama"
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama" / "tokenizer.model").write_bytes(original_llama(data / "tokenizer-v2" / "tokenizer.model"))
    (tmp_path / "chinese_sp.model").write_bytes((data / "chinese_sp.model").read_bytes())
    monkeypatch.chdir(tmp_path)
    assert main(["--llama_tokenizer_dir", "llama"], older="merge_tokenizers.py") == 0
    merged = (tmp_path / "merged_tokenizer_sp" / "chinese_llama.model").read_bytes()
    # The sum is the published one of the first generation's tokenizer.
    assert hashlib.sha256(merged).hexdigest() == "e2676d4ca29ca1750f6ff203328d73b189321dc5776ceede037cbd36541d70c0"
    assert (tmp_path / "merged_tokenizer_hf" / "tokenizer.model").read_bytes() == merged
    shown = capsys.readouterr().out
    assert "49,953" in shown
    assert "before: 49 tokens" in shown
    assert "</s> 2" in shown
    # Again, over what is there, as the older script did.
    assert main(["--llama_tokenizer_dir", "nowhere/x/y"], older="merge_tokenizers.py") == 2
