"""``hanlin script check``: each fault of the published texts with its line, and silence about scripts that work."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.cli import main
from hanlin.config.check import check_script
from hanlin.config.shell import Fault

ROOT = Path(__file__).resolve().parents[2]
S000 = ROOT / "tests" / "scripts" / "s000.sh"

GOOD = """\
#!/bin/bash
lr=1e-4
output_dir=${HOME}/out
if [ -n "$1" ]; then
    output_dir="$1"
fi
echo “开始训练”　lr=${lr} > log.txt 2>&1
CUDA_VISIBLE_DEVICES=0 torchrun --nnodes 1 --nproc_per_node 1 run_clm_sft_with_peft.py \\
    --model_name_or_path /models/chinese-llama \\
    --dataset_dir data \\
    --do_train --learning_rate ${lr} --seed $RANDOM \\
    --output_dir "${output_dir}" \\
    --run_name "run of $(date +%F)" && echo 'done: it''s over'
cat <<EOF
--not_a_flag of anything, $nothing
EOF
python other.py --anything 3
"""


def faults(text: str) -> list[Fault]:
    return [fault for fault in check_script(text) if not fault.is_note]


def only(text: str) -> Fault:
    found = faults(text)
    assert len(found) == 1, found
    return found[0]


def command(*lines: str) -> str:
    """A script whose flags are ``lines``, from line 2 on."""
    start = "python run_clm_sft_with_peft.py --model_name_or_path m --dataset_dir d --output_dir o --do_train \\"
    return "\n".join([start, *lines, ""])


def test_a_script_that_works_has_no_fault() -> None:
    assert check_script(GOOD) == []


def test_every_fault_of_s000_is_found_with_its_line() -> None:
    found = faults(S000.read_text(encoding="utf-8"))
    undefined = {
        8: "pretrained_model", 9: "chinese_tokenizer_path", 10: "dataset_dir", 12: "per_device_batch_size",
        13: "per_device_batch_size", 18: "training_steps", 30: "gradient_accumulation_steps", 33: "output_dir",
        41: "lora_dropout", 43: "validation_file", 44: "peft_model",
    }  # fmt: skip
    assert {fault.line: fault.text for fault in found if "is not set" in fault.why} == {
        line: f"${{{name}}}" for line, name in undefined.items()
    }
    others = {fault.line: fault for fault in found if "is not set" not in fault.why}
    assert sorted(others) == [17, 20, 38, 44, 45]
    assert others[17].text == "--fp16"
    assert others[17].mend == "write --fp16 \\"
    assert "--max_steps" in others[17].why
    assert others[20].mend == "did you mean --learning_rate?"
    assert "space follows the backslash" in others[38].why
    assert others[38].text == "--lora_alpha ${lora_alpha} \\"
    assert all(name in others[44].why for name in ("--lora_rank", "--trainable", "--modules_to_save"))
    assert "choose one of the two words" in others[45].mend
    assert "line 6 sets lora_droppout" in next(fault.mend for fault in found if fault.line == 41)
    notes = [fault for fault in check_script(S000.read_text(encoding="utf-8")) if fault.is_note]
    assert [(note.line, note.text) for note in notes] == [
        (31, "--preprocessing_num_workers"),
        (45, "--force_resize_embeddings"),
    ]


def test_bash_agrees_that_s000_breaks_where_we_say() -> None:
    """The independent reference: what bash itself runs as commands of their own."""
    text = S000.read_text(encoding="utf-8").replace("python ", "true ", 1)
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=False)
    torn = {line.split(": ")[2] for line in done.stderr.splitlines() if "command not found" in line}
    assert torn == {"--max_steps", "--trainable", "False]"}
    ours = [fault for fault in faults(text) if fault.line in (17, 38, 45)]
    assert len(ours) == 3


def test_the_repaired_s000_has_one_fault_left() -> None:
    """What a later edit of the page kept: the misspelt variable."""
    text = S000.read_text(encoding="utf-8")
    text = text.replace("--fp16\n", "--fp16 \\\n").replace("\\ \n", "\\\n").replace("leraning", "learning")
    text = text.replace(" [True|False]", " True").replace("    --peft_path ${peft_model} \\\n", "")
    names = "pretrained_model chinese_tokenizer_path dataset_dir per_device_batch_size training_steps"
    names += " gradient_accumulation_steps output_dir validation_file"
    text = "".join(f"{name}=1\n" for name in names.split()) + text
    assert only(text).text == "${lora_dropout}"
    assert faults(text.replace("lora_droppout", "lora_dropout")) == []


def test_the_multi_node_example_breaks_before_node_rank() -> None:
    text = (
        "num_nodes=2\nnum_gpu_per_node=8\nnode_rank=0\n"
        "torchrun --nnodes ${num_nodes} --nproc_per_node ${num_gpu_per_node} \n"
        "    --node_rank ${node_rank} run_clm_sft_with_peft.py --model_name_or_path m --dataset_dir d \\\n"
        "    --output_dir o --do_train\n"
    )
    fault = only(text)
    assert (fault.line, fault.text) == (4, "${num_gpu_per_node}")
    assert "no backslash" in fault.why


def test_a_script_name_that_lost_its_first_letter() -> None:
    fault = only(command("--fp16").replace("run_clm_sft", "un_clm_sft"))
    assert (fault.line, fault.mend) == (1, "did you mean run_clm_sft_with_peft.py?")
    assert check_script("python train_my_own_thing.py --whatever 1\n") == []


def test_flags_in_quotes_after_the_command_are_no_comment() -> None:
    """S002: a block in three apostrophes, meant as a comment."""
    block = "'''\n    --lora_rank ${lora_rank} \\\n    --lora_alpha ${lora_alpha}\n'''\n"
    fault = only(command("--fp16") + "\n" + block)
    assert fault.line == 4
    assert "no comment" in fault.why
    assert "put # in front" in fault.mend
    assert only(command("--fp16") + block.replace("'''", '"""')).line == 3


def test_adapter_and_lora_flags_exclude_each_other() -> None:
    fault = only(command("--lora_rank 8 \\", "--peft_path a"))
    assert (fault.line, fault.text) == (3, "--peft_path")
    assert "--lora_rank" in fault.why
    assert faults(command("--lora_rank 8 \\", "--peft_path a \\", "--on_lora_flags adapter")) == []


@pytest.mark.parametrize(
    ("lines", "line", "text", "expected"),
    [
        (["--fp16 \\", "", "--bf16 False"], 3, "(empty line)", "empty line ends the command"),
        (["--fp16 \\", "# --seed 1 \\", "--bf16 False"], 3, "# ...", "a comment stands inside"),
        (["--fp16 \\   ", "--seed 1"], 2, "--fp16 \\", "space follows the backslash"),
        (["--flash_atn"], 2, "--flash_atn", "did you mean --flash_attn"),
        (["--lora_dropout --fp16"], 2, "--lora_dropout", "has no value"),
        (["--lora_rank eight"], 2, "--lora_rank eight", "expected a whole number"),
        (["--load_in_kbits 4"], 2, "--load_in_kbits", "quantised bases"),
        (["--debug_mode"], 2, "--debug_mode", "name one file"),
        (["--fp16 \\", "--bf16"], 2, "--fp16", "both given"),
        (["--seed ${--validation_file}"], 2, "${--validation_file}", "names no variable"),
        (["--seed　5"], 2, "full-width space (U+3000)", "ordinary space"),
        (["--validation_file “v.json”"], 2, "“", "is no quote"),
        (["——seed 5"], 2, "——seed", "write --seed"),
        (["－－seed 5"], 2, "－－seed", "write --seed"),
        (["--trainable q_proj，v_proj"], 2, "，", "full-width character"),
        (["--seed ＄{RANDOM}"], 2, "＄", "write $"),
        (["--peft_path path/to/peft/model/dir"], 2, "path/to/peft/model/dir", "placeholder"),
        (["--validation_file 'v.json"], 2, "--validation_file 'v.json", "never closed"),
        (["--seed ${sed}"], 2, "${sed}", "is not set"),
    ],
)
def test_one_fault_a_line(lines: list[str], line: int, text: str, expected: str) -> None:
    found = faults(command(*lines))
    assert (line, text) in {(fault.line, fault.text) for fault in found}, found
    fault = next(fault for fault in found if (fault.line, fault.text) == (line, text))
    assert expected in f"{fault.why}; {fault.mend}"
    assert len({fault.line for fault in found}) == 1, "one slip hides no other and makes none up"


def test_windows_line_ends_are_one_fault() -> None:
    fault = only(GOOD.replace("\n", "\r\n"))
    assert fault.line == 1
    assert "sed -i" in fault.mend


def test_a_variable_that_is_set_too_late() -> None:
    fault = only(command("--seed ${number}") + "number=5\n")
    assert fault.mend == "it is set only on line 3: move that line up"


def test_spaces_around_an_assignment() -> None:
    found = faults("lr = 1e-4\n" + command("--seed 1"))
    assert [(fault.line, fault.mend) for fault in found] == [(1, "write lr=1e-4")]


def test_a_list_that_goes_on_in_the_next_line() -> None:
    text = "python merge_llama_with_chinese_lora_low_mem.py --base_model b --lora_model first,\n  second\n"
    fault = only(text)
    assert (fault.line, fault.mend) == (1, "write first,second in one word")


def test_values_of_variables_are_checked_where_they_are_used() -> None:
    fault = only("lr=fast\n" + command("--learning_rate ${lr}"))
    assert fault.line == 3
    assert "expected a number" in fault.why


def test_a_missing_flag_is_told_at_the_command() -> None:
    fault = only("\npython run_clm_pt_with_peft.py --model_name_or_path m --dataset_dir d --do_train\n")
    assert (fault.line, fault.text) == (2, "--output_dir")


def test_todays_verbs_are_checked_too() -> None:
    fault = only("hanlin sft --model m --dataset d --output_dir o \\\n  --leraning_rate 1\n")
    assert (fault.line, fault.mend) == (2, "did you mean --learning_rate?")
    assert faults("hanlin tokenizer extend tok --pieces_from p --output_dir o\n") == []
    assert faults("python inference_hf.py --base_model b --with_prompt --interactive --only_cpu\n") == []


@pytest.mark.parametrize("name", ["run_pt.sh", "run_sft.sh"])
def test_our_scripts_want_nothing_but_paths(name: str) -> None:
    text = (ROOT / "scripts" / "training" / name).read_text(encoding="utf-8")
    assert {fault.why for fault in check_script(text)} == {"is the placeholder of a published script"}
    assert faults(text.replace("path/to/", "/data/")) == []


def test_the_verb_prints_lines_and_a_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "run.sh"
    script.write_text(command("--save_safetensors False \\", "--leraning_rate 1"))
    assert main(["script", "check", str(script)]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{script}:2: note: --save_safetensors: weights are always safetensors")
    assert lines[1].startswith(f"{script}:3: --leraning_rate 1: is not a flag")
    assert lines[2:] == [f"{script}: 1 fault"]
    script.write_text(GOOD)
    assert main(["script", "check", str(script)]) == 0
    assert capsys.readouterr().out == f"{script}: no fault\n"


def test_a_file_that_is_no_script_gets_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x").write_bytes(b"\xff\xfe")
    assert main(["script", "check", str(tmp_path / "x")]) == 2
    assert main(["script", "check", str(tmp_path / "nothing")]) == 2
    assert main(["script", "check", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 3


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                *"\\ \n\"'`$(){}[]|;&<>#=-—“　＄\r1x",
                "<<EOF\n",
                "${",
                "'''",
                "--seed ",
                "hanlin sft ",
                "export a=",
                "2>&1",
            ]
        ),
        max_size=40,
    )
)
def test_any_text_is_read_to_its_end_and_faults_lie_within_it(parts: list[str]) -> None:
    text = "".join(parts)
    assert all(1 <= fault.line <= text.count("\n") + 1 for fault in check_script(text))
