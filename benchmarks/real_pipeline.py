"""Real text through the whole pipeline on a tiny model: tokenizer extension, pre-training, merge, tuning, merge.

Usage: python benchmarks/real_pipeline.py [--data ../shared/data] [--work /tmp/hanlin-real] [--scale 1.0]

Writes benchmarks/results/real-pipeline-DATE.{json,md}. Every stage is the command line that it prints.
"""

from __future__ import annotations

import argparse
import datetime
import json
import lzma
import math
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def run(name: str, words: list[str], stages: list[dict[str, Any]]) -> None:
    """Run one command line and keep its time, its peak memory and the end of its output."""
    line = shlex.join(["hanlin", *words])
    print(f"\n### {name}\n{line}", flush=True)
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "hanlin", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    print(output[-3000:], flush=True)
    if status != 0:
        raise SystemExit(f"{name} failed")
    stages.append({"stage": name, "command": line, "seconds": round(seconds, 1), "peak_mib": usage.ru_maxrss // 1024})


def results_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (folder / ("all_results.json" if (folder / "all_results.json").is_file() else "eval_results.json")).read_text()
    )
    return found


def ledger_of(folder: Path) -> dict[str, int]:
    """Rows given, and rows dropped or cut by reason."""
    lines = [json.loads(line) for line in (folder / "ledger.jsonl").read_text(encoding="utf-8").splitlines()]
    counts = {"given": lines[0]["given"]}
    for entry in lines[1:]:
        key = f"{entry['action']}: {entry['reason']}"
        counts[key] = counts.get(key, 0) + 1
    return counts


def write_inputs(data: Path, work: Path, scale: float) -> dict[str, Path]:
    """Plain copies of what must be cut to size: English text, poems to train on, poems held out, instructions."""
    work.mkdir(parents=True)
    english = work / "english.txt"
    rows = (data / "real" / "c4_demo.jsonl").read_text(encoding="utf-8").splitlines()
    english.write_text("\n".join(" ".join(json.loads(row)["text"].split()) for row in rows), encoding="utf-8")
    with lzma.open(data / "zh-poetry" / "corpus.txt.xz", "rt", encoding="utf-8") as stream:
        documents = stream.read().split("\n\n")
    count = int(4000 * scale)
    # Every k-th document, so that poems of all kinds and lives of poets are in both parts.
    chosen = documents[:: max(1, len(documents) // (count + 400))]
    train, held = work / "poetry.txt", work / "poetry-heldout.txt"
    train.write_text("\n\n".join(d for i, d in enumerate(chosen) if i % 11) + "\n", encoding="utf-8")
    held.write_text("\n\n".join(d for i, d in enumerate(chosen) if i % 11 == 0) + "\n", encoding="utf-8")
    with lzma.open(data / "zh-poetry" / "instructions-51k.json.xz", "rt", encoding="utf-8") as stream:
        records = json.load(stream)
    tasks = work / "tasks.json"
    tasks.write_text(json.dumps(records[:: max(1, int(len(records) / (2000 * scale)))], ensure_ascii=False), "utf-8")
    return {"english": english, "train": train, "held": held, "tasks": tasks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared" / "data")
    parser.add_argument("--work", type=Path, default=Path("/tmp/hanlin-real"))
    parser.add_argument("--scale", type=float, default=1.0, help="share of the rows that are used")
    options = parser.parse_args()
    if not options.data.is_dir():
        raise SystemExit(f"{options.data} is not a folder; name the real inputs with --data")
    shutil.rmtree(options.work, ignore_errors=True)
    inputs = write_inputs(options.data, options.work, options.scale)
    work, stages = options.work, []
    alpaca = str(options.data / "real" / "alpaca_zh_demo.json")

    common = ["--report_to", "none", "--save_strategy", "no", "--logging_steps", "20", "--data_cache_dir", f"{work}/c"]
    poetry = ["--document", "blank_line", "--validation_file", str(inputs["held"]), "--max_length", "256"]
    lora = ["--lora_rank", "16", "--lora_alpha", "32", "--modules_to_save", "embed_tokens,lm_head"]
    shape = "hidden_size=192,intermediate_size=512,num_hidden_layers=4,num_attention_heads=6,num_key_value_heads=6"

    run("English tokenizer", ["tokenizer", "train", str(inputs["english"]), "--vocab_size", "4000",
        "--output_dir", f"{work}/tok-en"], stages)  # fmt: skip
    run("English base", ["pt", "--model_config", "llama", "--config_overrides", shape, "--tuner", "full",
        "--tokenizer", f"{work}/tok-en", "--dataset", str(inputs["english"]), "--output_dir", f"{work}/base",
        "--max_length", "256", "--per_device_train_batch_size", "8", "--learning_rate", "1e-3", *common],
        stages)  # fmt: skip
    run("Before: bits per byte of the base", ["pt", "--model", f"{work}/base", "--dataset", str(inputs["train"]),
        *poetry, "--do_train", "false", "--do_eval", "--output_dir", f"{work}/before", *common], stages)  # fmt: skip
    run("Extend the vocabulary", ["tokenizer", "extend", f"{work}/tok-en", "--corpus", str(inputs["train"]), alpaca,
        "--text_field", "output", "--document", "blank_line", "--vocab_size", "6000",
        "--pad_to_multiple_of", "64", "--output_dir", f"{work}/tok-zh"], stages)  # fmt: skip
    run("Measure it", ["tokenizer", "report", f"{work}/tok-zh", "--before", f"{work}/tok-en", "--corpus",
        str(inputs["held"]), "--json", f"{work}/tokens.json"], stages)  # fmt: skip
    run("Continued pre-training", ["pt", "--model", f"{work}/base", "--tokenizer", f"{work}/tok-zh",
        "--dataset", str(inputs["train"]), *poetry, *lora, "--per_device_train_batch_size", "8",
        "--learning_rate", "1e-3", "--output_dir", f"{work}/pt", *common], stages)  # fmt: skip
    run("Merge", ["merge", f"{work}/pt", "--output_dir", f"{work}/merged-pt"], stages)
    run("Instruction tuning", ["sft", "--model", f"{work}/merged-pt", "--dataset", alpaca, str(inputs["tasks"]),
        "--template", "alpaca", *lora, "--validation_split_percentage", "0.05", "--max_length", "512",
        "--per_device_train_batch_size", "8", "--learning_rate", "1e-3", "--max_dropped", "0.2",
        "--output_dir", f"{work}/sft", *common], stages)  # fmt: skip
    run("Merge again", ["merge", f"{work}/sft", "--output_dir", f"{work}/merged-sft"], stages)
    run("Ask", ["infer", f"{work}/merged-sft", "--prompt", "床前明月光的下一句是什么？", "--max_new_tokens", "40",
        "--temperature", "0", "--output", f"{work}/answers.json"], stages)  # fmt: skip
    write_result(options, stages)


def write_result(options: argparse.Namespace, stages: list[dict[str, Any]]) -> None:
    work: Path = options.work
    before, pt, sft = (results_of(work / name) for name in ("before", "pt", "sft"))
    merged = {name: json.loads((work / name / "hanlin.json").read_text()) for name in ("merged-pt", "merged-sft")}
    versions = json.loads(subprocess.run([sys.executable, "-c", (
        "import json; from hanlin.train.checkpoint import library_versions; print(json.dumps(library_versions()))"
    )], capture_output=True, text=True, check=True).stdout)  # fmt: skip
    result = {
        "date": datetime.date.today().isoformat(),
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
        "threads": os.environ.get("OMP_NUM_THREADS", "default"),
        "scale": options.scale,
        "bits_per_byte": {"before": before["eval_bits_per_byte"], "after": pt["eval_bits_per_byte"]},
        "tuning": {name: sft[name] for name in ("eval_loss", "eval_accuracy", "eval_bits_per_byte")},
        "tokens": json.loads((work / "tokens.json").read_text()),
        "ledgers": {name: ledger_of(work / name) for name in ("pt", "sft")},
        "chain": {name: len(record["chain"]) for name, record in merged.items()},
        "answer": json.loads((work / "answers.json").read_text()),
        "stages": stages,
    }
    stem = HERE / "results" / f"real-pipeline-{result['date']}"
    stem.parent.mkdir(exist_ok=True)
    text = (
        json.dumps(result, ensure_ascii=False, indent=1).replace(str(work), "WORK").replace(str(options.data), "DATA")
    )
    stem.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    stem.with_suffix(".md").write_text(markdown(json.loads(text)), encoding="utf-8")
    print(f"\n{stem}.md")


def markdown(result: dict[str, Any]) -> str:
    bits = result["bits_per_byte"]
    assert math.isfinite(bits["after"])
    lines = [
        f"# Real text through the pipeline, {result['date']}",
        "",
        f"{result['hardware']}, Python {result['python']}, OMP_NUM_THREADS {result['threads']}, "
        + ", ".join(f"{name} {version}" for name, version in result["versions"].items()),
        "",
        f"Command: `python benchmarks/real_pipeline.py --scale {result['scale']:g}`",
        "",
        f"- Bits per byte of held-out poems: {bits['before']:.3f} before, {bits['after']:.3f} after pre-training.",
        f"- Tuning: validation loss {result['tuning']['eval_loss']:.3f}, "
        f"accuracy {result['tuning']['eval_accuracy']:.3f}.",
        f"- Rows, pre-training: {result['ledgers']['pt']}; tuning: {result['ledgers']['sft']}.",
        "- Both merges were proved equal to base and adapter (the command fails otherwise).",
        "",
        "| stage | seconds | peak MiB |",
        "|---|---:|---:|",
    ]
    lines += [f"| {s['stage']} | {s['seconds']} | {s['peak_mib']} |" for s in result["stages"]]
    lines += ["", "Commands:", "", "```", *(s["command"] for s in result["stages"]), "```", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
