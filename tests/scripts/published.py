"""The published command lines of 2023 as the shell hands them over: ``from published import COMMANDS``.

Source: appendix A of the project's specification, which restates the launch scripts of both generations and the pages
S001, S002 and S004. ``SEED`` stands for what ``$RANDOM`` gave.
"""

from __future__ import annotations

SEED = "17137"
ALL7 = "q_proj,v_proj,k_proj,o_proj,gate_proj,down_proj,up_proj"
EMB = "embed_tokens,lm_head"
DS = "ds_zero2_no_offload.json"

_COMMON = (
    "--logging_strategy steps --logging_steps 10 --save_strategy steps --save_total_limit 3 {saving} "
    "--gradient_accumulation_steps {accumulate} --preprocessing_num_workers 8 {length} --output_dir {output} "
    "--overwrite_output_dir --ddp_timeout 30000 --logging_first_step True "
)
_START = (
    f"--deepspeed {DS} --model_name_or_path {{model}} --tokenizer_name_or_path {{tokenizer}} --dataset_dir {{data}} "
)
_END = "--gradient_checkpointing --ddp_find_unused_parameters False"
_KBITS = "--load_in_kbits 16 --save_safetensors False "
_LORA1 = f"--lora_rank 8 --lora_alpha 32 --trainable {ALL7} --modules_to_save {EMB} --lora_dropout 0.05 "
_LORA2 = f"--lora_rank 64 --lora_alpha 128 --trainable {ALL7} --lora_dropout 0.05 --modules_to_save {EMB} "

_PT = (
    "--data_cache_dir temp_data_cache_dir --validation_split_percentage 0.001 --per_device_train_batch_size 1 {more}"
    "--do_train --seed " + SEED + " --fp16 {duration} --lr_scheduler_type cosine --learning_rate 2e-4 "
    "--warmup_ratio 0.05 --weight_decay 0.01 "
)
_SFT = (
    "{split}--per_device_train_batch_size 1 --per_device_eval_batch_size 1 --do_train --do_eval --seed " + SEED + " "
    "--fp16 {duration} --lr_scheduler_type cosine --learning_rate 1e-4 --warmup_ratio 0.03 --weight_decay 0 "
)


def _pt(model: str, tokenizer: str, lora: str, *, duration: str, saving: str, accumulate: int, tail: str = "") -> str:
    return (
        _START.format(model=model, tokenizer=tokenizer, data="path/to/pt/data/dir")
        + _PT.format(duration=duration, more="" if tail else "--per_device_eval_batch_size 1 ")
        + _COMMON.format(saving=saving, accumulate=accumulate, length="--block_size 512", output="output_dir")
        + lora
        + "--torch_dtype float16 "
        + tail
        + _END
    )


def _sft(
    model: str,
    tokenizer: str,
    lora: str,
    *,
    data: str = "path/to/sft/data/dir",
    output: str = "output_dir",
    split: str = "--validation_split_percentage 0.001 ",
    duration: str = "--num_train_epochs 1",
    evaluating: str = "--eval_steps 100",
    saving: str = "--save_steps 200",
    accumulate: int = 8,
    length: int = 512,
    validation: str = "validation_file_name",
    tail: str = "",
) -> str:
    saving = f"--evaluation_strategy steps {evaluating} {saving}"
    return (
        _START.format(model=model, tokenizer=tokenizer, data=data)
        + _SFT.format(split=split, duration=duration)
        + _COMMON.format(saving=saving, accumulate=accumulate, length=f"--max_seq_length {length}", output=output)
        + lora
        + f"--torch_dtype float16 --validation_file {validation} "
        + tail
        + _END
    )


_MODEL1 = "path/to/hf/llama/or/merged/llama/dir/or/model_id"
_PEFT1 = "--peft_path path/to/peft/model/dir "

COMMANDS: dict[str, tuple[str, str]] = {
    "V1 run_pt.sh": (
        "run_clm_pt_with_peft.py",
        _pt("path/to/hf/llama/dir", "path/to/chinese/llama/tokenizer/dir", _LORA1,
            duration="--num_train_epochs 1", saving="--save_steps 200", accumulate=8),
    ),
    "S004": (
        "run_clm_pt_with_peft.py",
        _pt("path/to/hf/llama/dir", "path/to/chinese/llama/tokenizer/dir", _LORA1,
            duration="--max_steps 100", saving="--save_steps 500", accumulate=1),
    ),
    "V2 run_pt.sh": (
        "run_clm_pt_with_peft.py",
        _pt("path/to/hf/llama-2/dir", "path/to/chinese-llama-2/tokenizer/dir", _LORA2,
            duration="--num_train_epochs 1", saving="--save_steps 200", accumulate=8, tail=_KBITS),
    ),
    "V1 run_sft.sh": (
        "run_clm_sft_with_peft.py",
        _sft(_MODEL1, "path/to/chinese/llama/tokenizer/dir", _LORA1, tail=_PEFT1),
    ),
    "S001": (
        "run_clm_sft_with_peft.py",
        _sft(_MODEL1, "path/to/chinese/alpaca/tokenizer/dir", _LORA1, tail=_PEFT1, duration="--max_steps 100",
             evaluating="--eval_steps 250", saving="--save_steps 500", accumulate=1),
    ),
    "V2 run_sft.sh": (
        "run_clm_sft_with_peft.py",
        _sft("path/to/hf/llama-2/or/chinese-llama-2/dir/or/model_id", "path/to/chinese-llama-2/tokenizer/dir", _LORA2,
             split="", tail=_KBITS),
    ),
    "S002": (
        "run_clm_sft_with_peft.py",
        _sft(
            "/mnt/mydisk/llama2_models/Llama-2-7b-hf",
            "/mnt/mydisk/llama2-merage-output/merge-llama2-chinese-alpaca-7B",
            "",
            data="/mnt/mydisk/LLaMA2-Alpaca2/data/train",
            output="/mnt/mydisk/llama2_sft_output",
            duration="--num_train_epochs 2",
            evaluating="--eval_steps 250",
            saving="--save_steps 500",
            accumulate=1,
            length=1024,
            validation="/mnt/mydisk/LLaMA2-Alpaca2/data/eval/alpaca_data_zh_51k.json",
            tail="--peft_path /mnt/mydisk/llama2_models/chinese-alpaca-2-lora-7b ",
        ),
    ),
}  # fmt: skip
"""Name to (entry point, its words joined by spaces)."""
