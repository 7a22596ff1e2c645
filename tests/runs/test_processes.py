"""Two processes give the trajectory of one on the same global batch: the loss is the mean over the tokens of all."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from outcomes import losses, weights


def free_port() -> int:
    """A port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_two_processes_are_one_larger_batch(run_sft: Any, base: Path, instructions: Path, tmp_path: Path) -> None:
    # 37 rows to train on and 11 to evaluate: neither can be dealt out evenly, and the sixth step is of a second epoch.
    one = run_sft("one", per_device_train_batch_size=8, max_steps=6, validation_split_percentage=0.22)
    output = tmp_path / "two"
    command = (
        f"-m torch.distributed.run --nproc_per_node 2 --master_addr 127.0.0.1 --master_port {free_port()} "
        f"-m hanlin sft --model {base} --dataset {instructions} --template alpaca --output_dir {output} "
        f"--max_length 256 --data_cache_dir {tmp_path / 'cache'} --lora_dropout 0 --learning_rate 1e-2 --max_steps 6 "
        "--logging_steps 1 --per_device_train_batch_size 4 --per_device_eval_batch_size 2 --report_to none "
        "--save_steps 6 --validation_split_percentage 0.22"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command.split()], capture_output=True, text=True, check=False, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines if "loss" in line] == pytest.approx(losses(one), rel=1e-5)
    theirs = load_file(output / "sft_lora_model" / "adapter_model.safetensors")
    for name, tensor in weights(one).items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-4, atol=1e-5)
    results = json.loads((output / "eval_results.json").read_text())
    assert results["eval_samples"] == 11
    assert results["eval_tokens"] == one.evaluation["eval_tokens"]
    assert results["eval_loss"] == pytest.approx(one.evaluation["eval_loss"], rel=1e-5)
    assert (output / "checkpoint-6" / "manifest.json").is_file()
    assert done.stdout.count("Data: ") == 1, "one process prints"
