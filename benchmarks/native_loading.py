"""How much memory does it take to load a checkpoint of 2023 natively? Model + one shard is the bound.

Usage: python benchmarks/native_loading.py [--work /tmp/hanlin-loading]

Writes a random Qwen v1 of about 560 MiB in bfloat16 (4 shards, safetensors and .bin) and a Baichuan2 with a large
normalised head, loads each in a process of its own, and writes benchmarks/results/native-loading-DATE.md. Beside every
figure of memory stands that the loaded tensors are the stored ones, bit for bit.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SHARDS = 4


def qwen(hidden: int = 1024, layers: int = 12, rows: int = 64000) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """Config and shapes of a Qwen v1."""
    inner = 2752
    config = {
        "model_type": "qwen", "vocab_size": rows, "hidden_size": hidden, "num_hidden_layers": layers,
        "num_attention_heads": 16, "kv_channels": hidden // 16, "intermediate_size": 2 * inner, "seq_length": 2048,
        "max_position_embeddings": 8192, "layer_norm_epsilon": 1e-6, "rotary_emb_base": 10000, "no_bias": True,
    }  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {"transformer.wte.weight": (rows, hidden), "lm_head.weight": (rows, hidden)}
    shapes["transformer.ln_f.weight"] = (hidden,)
    for layer in range(layers):
        prefix = f"transformer.h.{layer}"
        shapes |= {
            f"{prefix}.ln_1.weight": (hidden,), f"{prefix}.ln_2.weight": (hidden,),
            f"{prefix}.attn.c_attn.weight": (3 * hidden, hidden), f"{prefix}.attn.c_attn.bias": (3 * hidden,),
            f"{prefix}.attn.c_proj.weight": (hidden, hidden), f"{prefix}.mlp.w1.weight": (inner, hidden),
            f"{prefix}.mlp.w2.weight": (inner, hidden), f"{prefix}.mlp.c_proj.weight": (hidden, inner),
        }  # fmt: skip
    return config, shapes


def baichuan2(hidden: int = 1024, layers: int = 8, rows: int = 125696) -> tuple[dict[str, Any], dict[str, Any]]:
    """Config and shapes of a Baichuan2-7B: its head is computed at loading."""
    inner = 2752
    config = {
        "model_type": "baichuan", "vocab_size": rows, "hidden_size": hidden, "num_hidden_layers": layers,
        "num_attention_heads": 16, "intermediate_size": inner, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6,
        "hidden_act": "silu", "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (rows, hidden), "lm_head.weight": (rows, hidden)}
    shapes["model.norm.weight"] = (hidden,)
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        shapes |= {
            f"{prefix}.input_layernorm.weight": (hidden,), f"{prefix}.post_attention_layernorm.weight": (hidden,),
            f"{prefix}.self_attn.W_pack.weight": (3 * hidden, hidden),
            f"{prefix}.self_attn.o_proj.weight": (hidden, hidden),
            f"{prefix}.mlp.gate_proj.weight": (inner, hidden), f"{prefix}.mlp.up_proj.weight": (inner, hidden),
            f"{prefix}.mlp.down_proj.weight": (hidden, inner),
        }  # fmt: skip
    return config, shapes


def write(directory: Path, config: dict[str, Any], shapes: dict[str, Any], format: str) -> None:
    """Random weights in bfloat16, in four shards."""
    import torch
    from safetensors.torch import save_file

    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(0)
    stem, suffix = ("model", "safetensors") if format == "safetensors" else ("pytorch_model", "bin")
    weight_map = {}
    for number in range(SHARDS):
        part = {
            name: torch.randn(shapes[name], generator=generator).to(torch.bfloat16)
            for name in list(shapes)[number::SHARDS]
        }
        file = f"{stem}-{number + 1:05d}-of-{SHARDS:05d}.{suffix}"
        if suffix == "safetensors":
            save_file(part, directory / file, metadata={"format": "pt"})
        else:
            torch.save(part, directory / file)
        weight_map |= dict.fromkeys(part, file)
    (directory / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": weight_map}))


def memory() -> tuple[float, float]:
    """Anonymous and all resident memory of this process in MiB."""
    text = Path("/proc/self/status").read_text()
    anonymous, everything = (
        int(re.search(rf"{name}:\s+(\d+)", text)[1]) / 1024  # type: ignore[index]
        for name in ("RssAnon", "VmRSS")
    )
    return anonymous, everything


def measure(directory: str, dtype: str) -> None:
    """Load in this process and print the peaks as JSON."""
    import torch

    from hanlin.model.load import load_model, open_base

    torch.zeros(1)
    before, peaks, done = memory(), [0.0, 0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            now = memory()
            peaks[:] = [max(peaks[0], now[0] - before[0]), max(peaks[1], now[1] - before[1])]

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    model = load_model(directory, dtype=getattr(torch, dtype))
    seconds = time.perf_counter() - started
    done.set()
    watcher.join()
    state = model.state_dict()
    index = open_base(directory, "--model").finished()
    equal = all(torch.equal(state[name], index.load(name).to(state[name].dtype)) for name in index.tensors)
    size = sum(tensor.nbytes for tensor in state.values()) / 2**20
    shard = max(file.stat().st_size for file in index.files) / 2**20
    print(json.dumps([size, shard, peaks[0], peaks[1], seconds, equal]))


def main() -> None:
    """Write the checkpoints, measure, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("/tmp/hanlin-loading"))
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure(*given.measure)
        return
    shutil.rmtree(given.work, ignore_errors=True)
    lines = [
        "| checkpoint | files | loaded as | model MiB | largest shard MiB | peak anonymous MiB | peak resident MiB "
        "| seconds | tensors equal |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, make in (("Qwen v1", qwen), ("Baichuan2-7B", baichuan2)):
        for format in ("safetensors", "bin"):
            directory = given.work / f"{make.__name__}-{format}"
            write(directory, *make(), format)
            for dtype in ("bfloat16", "float32"):
                words = [sys.executable, __file__, "--measure", str(directory), dtype]
                output = subprocess.run(words, check=True, capture_output=True, text=True).stdout
                size, shard, anonymous, resident, seconds, equal = json.loads(output.splitlines()[-1])
                lines.append(
                    f"| {name} | {format} | {dtype} | {size:.0f} | {shard:.0f} | {anonymous:.0f} | {resident:.0f} "
                    f"| {seconds:.1f} | {'yes' if equal else 'NO'} |"
                )
                print(lines[-1], flush=True)
    shutil.rmtree(given.work)
    today = datetime.date.today().isoformat()
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "safetensors"))
    head = (
        f"# Loading checkpoints of 2023 natively, {today}\n\n"
        f"`python benchmarks/native_loading.py`, {platform.machine()}, {platform.system()}, CPU, {versions}.\n"
        "Random weights stored in bfloat16. Anonymous memory is what the process needs; resident memory also counts\n"
        "pages of the mapped files, which the system can drop. The bound is model + largest shard.\n\n"
    )
    (HERE / "results" / f"native-loading-{today}.md").write_text(head + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
