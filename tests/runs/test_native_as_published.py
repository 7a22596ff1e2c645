"""PolyLM (GPT-2) and SeqGPT (Bloom), the families of 2023 that transformers has itself: tuned on their fused modules,
merged, answering and loaded again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

from hanlin.cli import main
from hanlin.config.infer import GenerationSettings
from hanlin.infer.engine import open_engine
from hanlin.types import Message
from old_tokenizers import old_tokenizer

GREEDY = GenerationSettings(temperature=0, repetition_penalty=1.0, max_new_tokens=6)


def polylm(directory: Path) -> Path:
    """As released: one pickle with the triangular buffers of GPT-2's old code, beside a SentencePiece file."""
    old_tokenizer(directory, "polylm")
    config = GPT2Config(
        vocab_size=704, n_embd=32, n_layer=2, n_head=4, n_positions=256, activation_function="gelu_fast",
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    tensors = {key: value for key, value in GPT2LMHeadModel(config).state_dict().items() if key != "lm_head.weight"}
    for layer in range(2):
        tensors[f"transformer.h.{layer}.attn.bias"] = torch.ones(1, 1, 256, 256, dtype=torch.uint8).tril()
        tensors[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    torch.save(tensors, directory / "pytorch_model.bin")
    config.save_pretrained(directory)
    return directory


def seqgpt(directory: Path) -> Path:
    BloomForCausalLM(BloomConfig(vocab_size=320, hidden_size=32, n_layer=2, n_head=4)).save_pretrained(directory)
    trainer = ByteLevelBPETokenizer()
    trainer.train_from_iterator(
        ["the quick brown fox"] * 4, vocab_size=300, special_tokens=["<unk>", "<s>", "</s>", "<pad>"]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=trainer._tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    ).save_pretrained(directory)
    return directory


@pytest.mark.parametrize(
    ("make", "template", "target"),
    [(polylm, "default", "c_attn"), (seqgpt, "default-generation", "query_key_value")],
    ids=["polylm", "seqgpt"],
)
def test_tuned_merged_answering_and_reloaded(
    instructions: Path, tmp_path: Path, make: object, template: str, target: str
) -> None:
    torch.manual_seed(0)
    model, out, merged = make(tmp_path / "model"), tmp_path / "out", tmp_path / "merged"  # type: ignore[operator]
    argv = f"sft --model {model} --dataset {instructions} --template {template} --output_dir {out} --max_steps 2"
    argv += f" --max_length 256 --learning_rate 1e-2 --report_to none --lora_target_modules {target}"
    assert main(argv.split()) == 0
    settings = json.loads((out / "sft_lora_model" / "adapter_config.json").read_text())
    assert settings["target_modules"] == [target], "fused natively too: nothing is renamed"
    assert main(["merge", str(out), "--output_dir", str(merged)]) == 0
    messages = [Message("user", "the quick brown fox")]
    tuned, whole = open_engine(str(out)), open_engine(str(merged))
    assert tuned.prompt_ids(messages) == whole.prompt_ids(messages)
    assert tuned.generate(messages, GREEDY).text == whole.generate(messages, GREEDY).text
    ids = torch.tensor([whole.prompt_ids(messages)])
    plain = AutoModelForCausalLM.from_pretrained(merged).eval()
    before = AutoModelForCausalLM.from_pretrained(model).eval()
    with torch.no_grad():
        assert torch.equal(plain(input_ids=ids).logits, whole.model(input_ids=ids).logits)
        assert not torch.equal(plain(input_ids=ids).logits, before(input_ids=ids).logits), "the adapter is in it"
