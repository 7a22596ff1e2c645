"""Checkpoints of 2023 in their own layout, and what their own code computed: ``reference/native-golden.json``.

Weights come from a formula of their place, so the file holds results and no weights. The families whose own code could
not be run have cases of the same form, which ``plain`` computes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

import plain

FILE = Path(__file__).parent / "reference" / "native-golden.json"

VARIANTS = {
    "qwen-v1": "qwen",
    "baichuan-7b": "baichuan-7b",
    "baichuan2-7b": "baichuan2-7b",
    "baichuan-13b": "baichuan-13b",
    "baichuan2-13b": "baichuan2-13b",
    "chatglm2": "chatglm2",
    "internlm-7b": "internlm",
    "internlm-20b": "internlm",
    "xverse": "xverse",
    "internlm2": "internlm2",
    "chatglm3": "chatglm3",
}
"""Case to family; the tiny vocabularies of the cases do not tell the generations of Baichuan apart."""

FAMILY_OF = {**VARIANTS, "qwen-vl": "qwen-vl"}
"""The same with the case that needs pixels beside ids."""

Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]


@cache
def cases() -> Mapping[str, Any]:
    found = json.loads(FILE.read_text(encoding="utf-8"))["cases"]
    glm = {key: shape for key, shape, *_ in found["chatglm2"]["weights"]}
    for name, forward, config, shapes in (
        ("internlm2", plain.internlm2, plain.INTERNLM2, plain.internlm2_shapes(plain.INTERNLM2)),
        ("chatglm3", plain.chatglm, plain.CHATGLM3, glm),
    ):
        weights = plain.formulas(shapes)
        tensors = {key: formula(*rest) for key, *rest in weights}
        runs = [plain.computed(forward, config, tensors, run) for run in plain.runs(80)]
        found[name] = {"config": config, "weights": weights, "runs": runs}
    return found


def formula(shape: list[int], stream: int, mean: float, amplitude: float) -> Tensor:
    """mean + amplitude * u, u from the finaliser of SplitMix64 on stream * 2^32 + flat index."""
    with np.errstate(over="ignore"):
        z = np.uint64(stream << 32) + np.arange(int(np.prod(shape)), dtype=np.uint64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    u = (z >> np.uint64(11)).astype(np.float64) * 2.0**-53 - 0.5
    return torch.from_numpy((mean + amplitude * u).astype(np.float32).reshape(shape))


def tensors_of(name: str, rows: int = 40) -> dict[str, Tensor]:
    """The weights of a case under their names of 2023; ``rows`` is the size of the vocabulary."""
    return {
        key: formula([rows, *shape[1:]] if shape[0] == 40 else shape, *rest)
        for key, shape, *rest in cases()[name]["weights"]
    }


def write_tensors(
    directory: Path, tensors: Mapping[str, Tensor], *, format: str = "safetensors", shards: int = 1
) -> None:
    """Weights as files of 2023: one or several, with an index."""
    stem, suffix = ("model", "safetensors") if format == "safetensors" else ("pytorch_model", "bin")
    names = sorted(tensors)
    weight_map = {}
    for number in range(shards):
        part = names[number::shards]
        file = f"{stem}.{suffix}" if shards == 1 else f"{stem}-{number + 1:05d}-of-{shards:05d}.{suffix}"
        content = {key: tensors[key].clone().contiguous() for key in part}
        if format == "safetensors":
            save_file(content, directory / file, metadata={"format": "pt"})
        else:
            torch.save(content, directory / file)
        weight_map |= dict.fromkeys(part, file)
    if shards > 1:
        index = {"metadata": {}, "weight_map": weight_map}
        (directory / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))


def write_case(
    directory: Path,
    name: str,
    *,
    format: str = "safetensors",
    shards: int = 1,
    change: Change | None = None,
    dtype: torch.dtype = torch.float32,
    code: bool = True,
    rows: int = 40,
    **config: Any,
) -> Path:
    """The checkpoint of a case in ``directory``; ``config`` adds or overrides fields, None removes one."""
    directory.mkdir(parents=True, exist_ok=True)
    values = {**cases()[name]["config"], "hanlin_family": FAMILY_OF[name], **config}
    if code:  # as released: with code of its own, which must not be touched
        values["auto_map"] = {"AutoModelForCausalLM": "modeling_old.OldForCausalLM"}
        (directory / "modeling_old.py").write_text("raise SystemExit('the code of the checkpoint was run')\n")
    values = {key: value for key, value in values.items() if value is not None}
    if rows != 40:
        values["padded_vocab_size" if "padded_vocab_size" in values else "vocab_size"] = rows
    (directory / "config.json").write_text(json.dumps(values))
    tensors = {key: tensor.to(dtype) for key, tensor in tensors_of(name, rows).items()}
    write_tensors(directory, change(tensors) if change else tensors, format=format, shards=shards)
    return directory


def expected_logits(run: Mapping[str, Any]) -> Tensor:
    return torch.tensor(run["logits"])


def short_run(name: str) -> dict[str, Any]:
    """The first short run of a case, in evaluation mode."""
    return {**next(run for run in cases()[name]["runs"] if len(run["input_ids"][0]) <= 16), "training": False}


def run_logits(model: Any, run: Mapping[str, Any]) -> Tensor:
    """Logits [B, logits_last, V] of a run."""
    model.train(run["training"])
    inputs = {
        name: torch.tensor(run[name]) for name in ("input_ids", "attention_mask", "position_ids") if run.get(name)
    }
    return model(**inputs, use_cache=False).logits[:, -run["logits_last"] :]


def real(run: Mapping[str, Any]) -> Tensor:
    """Positions that hold text, bool [B, logits_last]."""
    rows = torch.tensor(run["input_ids"]).shape[0]
    mask = torch.tensor(run["attention_mask"]) if run.get("attention_mask") else torch.ones(rows, run["logits_last"])
    return mask[:, -run["logits_last"] :].bool()


def worst(model: Any, run: Mapping[str, Any]) -> float:
    """Largest difference of a logit from the golden one, over real positions."""
    with torch.no_grad():
        difference = (run_logits(model, run) - expected_logits(run)).abs()
    return float(difference[real(run)].max())


def loss_of(model: Any, run: Mapping[str, Any]) -> Tensor:
    """Mean cross entropy over next tokens, without padding as target or as the place that predicts."""
    ids = torch.tensor(run["input_ids"])
    mask = torch.tensor(run["attention_mask"]) if run.get("attention_mask") else torch.ones_like(ids)
    model.train(run["training"])
    inputs = {name: torch.tensor(run[name]) for name in ("attention_mask", "position_ids") if run.get(name)}
    logits = model(input_ids=ids, **inputs, use_cache=False).logits
    kept = (mask[:, 1:] != 0) & (mask[:, :-1] != 0)
    return torch.nn.functional.cross_entropy(logits[:, :-1][kept].float(), ids[:, 1:][kept])
