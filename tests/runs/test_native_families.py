"""Through the verbs: a checkpoint of 2023 is tuned, merged, answers and is loaded again, family by family."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Tokenizer

import plain
from golden import VARIANTS, cases, formula, write_case, write_tensors
from hanlin.cli import main
from hanlin.config.infer import GenerationSettings
from hanlin.infer.engine import open_engine
from hanlin.model.load import load_model
from hanlin.types import Message
from old_tokenizers import old_tokenizer

TEXT = "the quick brown fox jumps over a lazy dog while seven small birds sing in old trees near water"

GREEDY = GenerationSettings(temperature=0, repetition_penalty=1.0, max_new_tokens=8)

OLD_TARGETS = {
    "qwen-v1": "c_attn", "chatglm2": "query_key_value", "chatglm3": "query_key_value", "internlm2": "wqkv",
} | dict.fromkeys(("baichuan-7b", "baichuan2-7b", "baichuan-13b", "baichuan2-13b"), "W_pack")  # fmt: skip


@pytest.fixture
def foreign(base: Path, tmp_path: Path) -> Any:
    """A checkpoint of a family with the tokenizer of the small base, 320 pieces."""

    def make(name: str, **config: Any) -> Path:
        config = {"max_position_embeddings": 512, "model_max_length": 512, **config}
        given = {key: value for key, value in config.items() if key in (write_fields(name) | {"seq_length"})}
        directory = write_case(tmp_path / "foreign", name, rows=320, **given)
        if name == "qwen-v1":  # transformers gives every folder of model type qwen2 its byte-level class
            byte_level(directory)
            return directory
        for file in ("tokenizer.model", "tokenizer_config.json"):
            shutil.copyfile(base / file, directory / file)
        return directory

    return make


def byte_level(directory: Path) -> None:
    """A byte-level BPE tokenizer of 300 pieces and two special ones."""
    trainer = ByteLevelBPETokenizer()
    trainer.train_from_iterator([TEXT] * 4, vocab_size=300)
    model = json.loads(trainer.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    tokenizer = Qwen2Tokenizer(
        vocab=model["vocab"], merges=merges, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    tokenizer.save_pretrained(directory)


def write_fields(name: str) -> set[str]:
    return set(cases()[name]["config"])


def sft(model: Path, data: Path, out: Path, *more: str) -> int:
    return main(
        ["sft", "--model", str(model), "--dataset", str(data), "--template", "alpaca", "--output_dir", str(out),
         "--max_length", "256", "--max_steps", "2", "--per_device_train_batch_size", "2", "--learning_rate", "1e-3",
         "--report_to", "none", *more]
    )  # fmt: skip


def answer(*arguments: str) -> tuple[list[int], str]:
    engine = open_engine(*arguments, template="alpaca")
    messages = [Message("user", "the quick brown fox")]
    return engine.prompt_ids(messages), engine.generate(messages, GREEDY).text


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_tuned_merged_answering_and_reloaded(foreign: Any, instructions: Path, tmp_path: Path, name: str) -> None:
    model = foreign(name, seq_length=512)
    target = OLD_TARGETS.get(name, "q_proj")
    out, merged = tmp_path / "out", tmp_path / "merged"
    assert sft(model, instructions, out, "--lora_target_modules", target) == 0
    settings = json.loads((out / "sft_lora_model" / "adapter_config.json").read_text())
    assert sorted(settings["target_modules"]) == (["q_proj"] if target == "q_proj" else ["k_proj", "q_proj", "v_proj"])
    # The record of the adapter names the base, and the proof of the merge compares logits.
    assert (
        main(["merge", "--model", str(model), "--adapter", str(out / "sft_lora_model"), "--output_dir", str(merged)])
        == 0
    )
    ids, with_adapter = answer(str(out))
    assert answer(str(merged)) == (ids, with_adapter)
    first = load_model(merged, dtype=torch.float32).eval()
    ids = torch.tensor([ids])
    with torch.no_grad():
        expected = first(input_ids=ids).logits
        if "13b" not in name:
            plain = AutoModelForCausalLM.from_pretrained(merged).eval()
            assert torch.equal(plain(input_ids=ids).logits, expected)
    # A merged folder is a base like any other.
    assert sft(merged, instructions, tmp_path / "again", "--lora_target_modules", target) == 0


@pytest.mark.parametrize("name", ["baichuan2-7b", "baichuan2-13b", "qwen-v1"])
def test_all_weights_are_tuned_and_continued(foreign: Any, instructions: Path, tmp_path: Path, name: str) -> None:
    """Full tuning through the normalised head: a run that was interrupted ends where an unbroken one does."""
    model = foreign(name, seq_length=512)
    steps = ("--tuner", "full", "--save_steps", "1", "--save_strategy", "steps")
    assert sft(model, instructions, tmp_path / "whole", *steps) == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoint-2")
    (tmp_path / "cut" / "model.safetensors").unlink()
    assert sft(model, instructions, tmp_path / "cut", *steps, "--resume_from_checkpoint", "last") == 0
    whole, cut = (load_model(tmp_path / folder, dtype=torch.float32) for folder in ("whole", "cut"))
    for key, tensor in whole.state_dict().items():
        assert torch.equal(tensor, cut.state_dict()[key]), key
    if "13b" not in name:
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
        ids = torch.arange(9)[None] + 5
        assert torch.equal(plain.eval()(input_ids=ids).logits, whole.eval()(input_ids=ids).logits)
        assert type(plain.lm_head) is torch.nn.Linear
    if name.startswith("baichuan2"):
        assert torch.allclose(whole.lm_head.weight.norm(dim=1), torch.ones(320), atol=1e-6)
    # The checkpoint in the middle answers too, and is no plain model where its head is not divided yet.
    assert answer(str(tmp_path / "whole" / "checkpoint-2")) == answer(str(tmp_path / "whole"))


def test_a_family_that_the_config_does_not_tell_is_named(
    foreign: Any, instructions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An extended vocabulary: --variant once, and the adapter's record remembers it; the catalog's entry knows it."""
    model, out, asked = foreign("baichuan2-7b"), tmp_path / "out", ("--variant", "baichuan2-7b")
    values = json.loads((model / "config.json").read_text())
    del values["hanlin_family"]
    (model / "config.json").write_text(json.dumps(values))
    assert sft(model, instructions, tmp_path / "none") == 2
    assert "--variant baichuan-7b or baichuan2-7b" in capsys.readouterr().err
    assert sft(model, instructions, out, *asked) == 0
    record = json.loads((out / "sft_lora_model" / "hanlin.json").read_text())
    assert record["base_variant"] == "baichuan2-7b"
    merged = tmp_path / "merged"
    assert main(["merge", str(out), "--output_dir", str(merged)]) == 0
    assert answer(str(out)) == answer(str(merged))
    again = ["--adapter", str(out), "--max_steps", "1"]
    assert sft(model, instructions, tmp_path / "continued", *again) == 0, "the record tells it here too"
    own = tmp_path / "own.yaml"
    own.write_text(f"id: mine\npath: {model}\nfamily: baichuan2-7b\n")
    prompt = ["--prompt", "the quick", "--template", "alpaca", "--max_new_tokens", "2"]
    capsys.readouterr()
    for given in (["--model", str(model), *asked], ["--model_type", "mine", "--register", str(own)]):
        assert main(["infer", *given, *prompt]) == 0
        export = tmp_path / given[0]
        assert main(["export", "--to", "native", *given, "--output_dir", str(export)]) == 0
        assert json.loads((export / "config.json").read_text())["hanlin_family"] == "baichuan2-7b"
    capsys.readouterr()
    for verb, folder, variant, expected in (
        (["infer", *prompt], model, "baichuan2_7b", "is 'baichuan2_7b'; expected one of baichuan-7b, baichuan2-7b, "
         "baichuan-13b, baichuan2-13b; did you mean baichuan2-7b?"),
        (["infer", *prompt], model, "chatglm2", "has model_type 'baichuan'; expected one of baichuan-7b"),
        (["infer", *prompt], merged, "baichuan2-7b", "has model_type 'llama'; leave it out"),
        (["merge", str(out), "--output_dir", str(tmp_path / "no")], model, "baichuan2-14b", "did you mean baichuan2-"),
    ):  # fmt: skip
        assert main([*verb, "--model", str(folder), "--variant", variant]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and error.startswith("hanlin: --variant: "), error
        assert expected in error, error


def test_pretraining_in_packed_blocks(foreign: Any, corpus: Path, tmp_path: Path) -> None:
    model = foreign("baichuan-13b")
    status = main(
        ["pt", "--model", str(model), "--dataset", str(corpus), "--output_dir", str(tmp_path / "out"), "--max_length",
         "64", "--max_steps", "2", "--per_device_train_batch_size", "2", "--report_to", "none"]
    )  # fmt: skip
    assert status == 0
    assert (tmp_path / "out" / "pt_lora_model" / "adapter_model.safetensors").is_file()


def test_infer_from_the_command_line(foreign: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = foreign("chatglm2", seq_length=512)
    status = main(["infer", str(model), "--prompt", "the quick", "--template", "alpaca", "--max_new_tokens", "4"])
    assert status == 0, capsys.readouterr().err


@pytest.mark.parametrize("name", ["chatglm2", "qwen-v1"])
def test_chat_as_it_is_typed(foreign: Any, instructions: Path, tmp_path: Path, name: str) -> None:
    """sft, merge, then the real command with lines on its standard input: the run's folder and the merged model, named
    alone, give the same answers, with the conversation so far before the second."""
    model, out, merged = foreign(name, seq_length=512), tmp_path / "out", tmp_path / "merged"
    assert sft(model, instructions, out, "--lora_target_modules", OLD_TARGETS[name]) == 0
    assert main(["merge", str(out), "--output_dir", str(merged)]) == 0

    def chat(folder: Path) -> str:
        saved = tmp_path / f"{folder.name}.json"
        done = subprocess.run(
            [sys.executable, "-m", "hanlin", "chat", str(folder), "--temperature", "0", "--max_new_tokens", "6"],
            input=f"the quick brown fox\n\nand the birds\n/save {saved}\n/clear\n/exit\nnever read\n",
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        (row,) = json.loads(saved.read_text())
        messages = row["messages"]
        assert [message["role"] for message in messages] == ["user", "assistant"] * 2
        assert [message["content"] for message in messages[::2]] == ["the quick brown fox", "and the birds"]
        said = [message["content"] for message in messages[1::2]]
        assert done.stdout.split() == " ".join(said).split()
        return str(said)

    assert chat(out) == chat(merged)


def test_an_old_adapter_is_continued(foreign: Any, base: Path, instructions: Path, tmp_path: Path) -> None:
    """``--adapter`` with the names of 2023: trained on under native names, and merged."""
    model = foreign("chatglm2", seq_length=512)
    tensors = {}
    for layer in range(2):
        module = f"base_model.model.transformer.encoder.layers.{layer}.self_attention.query_key_value"
        tensors[f"{module}.lora_A.weight"] = torch.randn(2, 32) * 0.1
        tensors[f"{module}.lora_B.weight"] = torch.randn(64, 2) * 0.1
    (tmp_path / "old").mkdir()
    torch.save(tensors, tmp_path / "old" / "adapter_model.bin")
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["query_key_value"], "bias": "none"}
    (tmp_path / "old" / "adapter_config.json").write_text(
        json.dumps({**settings, "base_model_name_or_path": str(model)})
    )
    assert sft(model, instructions, tmp_path / "out", "--adapter", str(tmp_path / "old")) == 0
    out = tmp_path / "out" / "sft_lora_model"
    written = json.loads((out / "adapter_config.json").read_text())
    assert sorted(written["target_modules"]) == ["k_proj", "q_proj", "v_proj"] and written["r"] == 2
    assert main(["merge", str(out), "--output_dir", str(tmp_path / "merged")]) == 0
    assert answer(str(out)) == answer(str(tmp_path / "merged"))
    assert answer(str(model), str(tmp_path / "old"))[1] != ""


def published(directory: Path, family: str) -> Path:
    """A small InternLM2.5-Chat or GLM-4-9B-Chat as a hub has it: shards, its tokenizer, code that must not be run."""
    old_tokenizer(directory, family)  # type: ignore[arg-type]
    config = dict(plain.INTERNLM2 if family == "internlm2" else plain.GLM4)
    rows = 736 if family == "internlm2" else 1024
    glm = {key: shape for key, shape, *_ in cases()["chatglm2"]["weights"]}
    shapes = plain.internlm2_shapes(config) if family == "internlm2" else glm
    shapes = {key: [rows, *shape[1:]] if shape[0] == 40 else shape for key, shape in shapes.items()}
    if family == "internlm2":
        config |= {"vocab_size": rows, "max_position_embeddings": 512}
    else:
        config |= {"padded_vocab_size": rows, "eos_token_id": [676, 683, 685], "pad_token_id": 676, "seq_length": 512}
    code = {"internlm2": "modeling_internlm2.InternLM2ForCausalLM", "glm4": "modeling_chatglm.ChatGLMForX"}[family]
    config["auto_map"] = {"AutoModelForCausalLM": code}
    (directory / "config.json").write_text(json.dumps(config))
    for file in (f"{code.partition('.')[0]}.py", "tokenization.py"):
        (directory / file).write_text("raise SystemExit('the code of the checkpoint was run')\n")
    tensors = {key: formula(*rest) for key, *rest in plain.formulas(shapes)}
    write_tensors(directory, tensors, shards=2)
    return directory


@pytest.mark.parametrize(
    ("family", "folder", "target", "architecture"),
    [
        ("internlm2", "internlm2_5-7b-chat", "wqkv", "LlamaForCausalLM"),
        ("glm4", "glm-4-9b-chat", "query_key_value", "GlmForCausalLM"),
    ],
)
def test_as_published_with_its_own_tokenizer_and_template(
    instructions: Path, tmp_path: Path, family: str, folder: str, target: str, architecture: str
) -> None:
    model, out, merged = published(tmp_path / folder, family), tmp_path / "out", tmp_path / "merged"
    arguments = ("--lora_target_modules", target, "--template", family)  # of two templates the last one holds
    assert sft(model, instructions, out, *arguments) == 0
    assert main(["merge", str(out / "sft_lora_model"), "--output_dir", str(merged)]) == 0
    messages, found = [Message("user", "the quick brown fox")], []
    for place in (out, merged):
        engine = open_engine(str(place))
        found.append((engine.prompt_ids(messages), engine.generate(messages, GREEDY).text))
    assert found[0] == found[1]
    start = {"internlm2": [1, 726], "glm4": [678, 680, 683]}[family]
    assert found[0][0][: len(start)] == start
    plain_model = AutoModelForCausalLM.from_pretrained(merged).eval()
    assert type(plain_model).__name__ == architecture
    plain_tokenizer = AutoTokenizer.from_pretrained(merged)
    assert plain_tokenizer("the quick").input_ids == open_engine(str(merged)).tokenizer.hf("the quick").input_ids
    ids = torch.tensor([found[0][0]])
    with torch.no_grad():
        expected = load_model(merged, dtype=torch.float32).eval()(input_ids=ids).logits
        assert torch.equal(plain_model(input_ids=ids).logits, expected)
    assert not [file.name for file in merged.iterdir() if file.suffix == ".py"]
