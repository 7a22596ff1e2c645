"""Tiny random checkpoints and adapters, written to a folder in a few milliseconds: ``from tiny import tiny_llama``.

The adapter is written by hand from the published layout (plain key names, no adapter name), so that it is a reference
independent of both PEFT and the package.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

ALL_SEVEN = ("q_proj", "v_proj", "k_proj", "o_proj", "gate_proj", "down_proj", "up_proj")
"""The projections that the published runs adapt."""


def tiny_llama(
    directory: Path | str,
    *,
    vocab_size: int = 64,
    hidden: int = 32,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int | None = None,
    tied: bool = False,
    seed: int = 0,
    dtype: str = "float32",
    format: Literal["safetensors", "bin"] = "safetensors",
    max_shard_size: str = "5GB",
    **config: Any,
) -> Path:
    """Save a random Llama to ``directory`` and return it; ``max_shard_size`` such as "20KB" gives several shards.

    ``config`` overrides fields of LlamaConfig (``bos_token_id=0``). Weights are drawn from N(0, 0.3) so that logits
    differ clearly between models and rows.
    """
    directory = Path(directory)
    llama_config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=hidden * 2,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads or heads,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        **{"bos_token_id": 1, "eos_token_id": 2, **config},
    )
    model = LlamaForCausalLM(llama_config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "norm" not in name:
                parameter.normal_(0.0, 0.3, generator=generator)
    model = model.to(getattr(torch, dtype))
    model.save_pretrained(directory, max_shard_size=max_shard_size)
    if format == "bin":
        _turn_into_bin(directory)
    return directory


def tiny_adapter(
    directory: Path | str,
    base: Path | str,
    *,
    rank: int = 4,
    alpha: float = 8.0,
    target_modules: Sequence[str] = ALL_SEVEN,
    embedding_rows: int | None = None,
    style: Literal["2023", "safetensors", "live"] = "2023",
    seed: int = 1,
    config: dict[str, Any] | None = None,
) -> Path:
    """Save a random LoRA adapter for the tiny Llama in ``base`` and return its folder.

    ``embedding_rows`` adds trained ``embed_tokens`` (and ``lm_head`` unless the base is tied) with that many rows.
    ``style``: "2023" is ``adapter_model.bin`` with the obsolete config keys; "safetensors" is what PEFT writes today;
    "live" keeps the names inside a live PEFT model (``lora_A.default.weight``, ``modules_to_save.default``).
    ``config`` overrides keys of ``adapter_config.json``.
    """
    directory, base = Path(directory), Path(base)
    shape = json.loads((base / "config.json").read_text(encoding="utf-8"))
    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    kv_width = hidden // shape["num_attention_heads"] * shape["num_key_value_heads"]
    sizes = {  # (out, in) of each projection
        "q_proj": (hidden, hidden), "k_proj": (kv_width, hidden), "v_proj": (kv_width, hidden),
        "o_proj": (hidden, hidden), "gate_proj": (inner, hidden), "up_proj": (inner, hidden),
        "down_proj": (hidden, inner),
    }  # fmt: skip
    live = ".default" if style == "live" else ""
    infix = ".modules_to_save.default" if style == "live" else ""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for layer in range(shape["num_hidden_layers"]):
        for module in target_modules:
            block = "self_attn" if module in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
            prefix = f"base_model.model.model.layers.{layer}.{block}.{module}"
            out, width = sizes[module]
            tensors[f"{prefix}.lora_A{live}.weight"] = 0.3 * torch.randn(rank, width, generator=generator)
            tensors[f"{prefix}.lora_B{live}.weight"] = 0.3 * torch.randn(out, rank, generator=generator)
    full = []
    if embedding_rows is not None:
        full = ["embed_tokens"] if shape["tie_word_embeddings"] else ["embed_tokens", "lm_head"]
        for module in full:
            name = f"base_model.model.{'model.' if module == 'embed_tokens' else ''}{module}{infix}.weight"
            tensors[name] = 0.3 * torch.randn(embedding_rows, hidden, generator=generator)
    settings: dict[str, Any] = {
        "base_model_name_or_path": str(base), "bias": "none", "fan_in_fan_out": False, "inference_mode": True,
        "lora_alpha": alpha, "lora_dropout": 0.05, "modules_to_save": full or None, "peft_type": "LORA", "r": rank,
        "target_modules": list(target_modules), "task_type": "CAUSAL_LM",
    }  # fmt: skip
    if style == "2023":
        settings |= {"enable_lora": None, "merge_weights": False}
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "adapter_config.json").write_text(json.dumps(settings | (config or {})), encoding="utf-8")
    if style == "2023":
        torch.save(tensors, directory / "adapter_model.bin")
    else:
        save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    return directory


def _turn_into_bin(directory: Path) -> None:
    """Rewrite the safetensors of ``directory`` as pytorch_model*.bin of 2023, index included."""
    from safetensors.torch import load_file

    names: dict[Path, Path] = {}
    for file in sorted(directory.glob("model*.safetensors")):
        names[file] = directory / file.name.replace("model", "pytorch_model").replace(".safetensors", ".bin")
        torch.save(load_file(file), names[file])
        file.unlink()
    index = directory / "model.safetensors.index.json"
    if index.exists():
        text = json.loads(index.read_text(encoding="utf-8"))
        text["weight_map"] = {name: names[directory / file].name for name, file in text["weight_map"].items()}
        (directory / "pytorch_model.bin.index.json").write_text(json.dumps(text), encoding="utf-8")
        index.unlink()
