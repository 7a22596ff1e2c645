#!/usr/bin/env bash
# Instruction tuning: a new adapter on a merged model (mode B of the first generation, modes 3 and 4 of the second).
# Fill in the paths, then run it. The values are the published ones of the second generation (the first had
# lora_rank=8 and lora_alpha=32). What each setting does: hanlin sft --help. Check your edits: hanlin script check FILE.
#
# To continue an adapter instead (modes A, 1 and 2):
#   pretrained_model   the base that the adapter was trained on, not a merged model
#   add                --peft_path path/to/adapter/dir
#   delete             the five lines --lora_rank, --lora_alpha, --trainable, --lora_dropout, --modules_to_save:
#                      the adapter brings its own values

lr=1e-4
lora_rank=64
lora_alpha=128
lora_trainable="q_proj,v_proj,k_proj,o_proj,gate_proj,down_proj,up_proj"
modules_to_save="embed_tokens,lm_head"
lora_dropout=0.05

pretrained_model=path/to/merged/chinese-llama-2/dir             # first generation: merged Chinese-LLaMA
chinese_tokenizer_path=path/to/chinese-llama-2/tokenizer/dir    # first generation: Chinese-Alpaca, 49,954 pieces
dataset_dir=path/to/sft/data/dir                                # a folder of .json files in Stanford Alpaca format
validation_file=path/to/validation.json
output_dir=output_dir                                           # the adapter will lie in output_dir/sft_lora_model

per_device_train_batch_size=1
per_device_eval_batch_size=1
gradient_accumulation_steps=8
max_seq_length=512
scripts=$(dirname "$0")

torchrun --nnodes 1 --nproc_per_node 1 "${scripts}/run_clm_sft_with_peft.py" \
    --deepspeed "${scripts}/ds_zero2_no_offload.json" \
    --model_name_or_path "${pretrained_model}" \
    --tokenizer_name_or_path "${chinese_tokenizer_path}" \
    --dataset_dir "${dataset_dir}" \
    --per_device_train_batch_size ${per_device_train_batch_size} \
    --per_device_eval_batch_size ${per_device_eval_batch_size} \
    --do_train \
    --do_eval \
    --seed $RANDOM \
    --fp16 \
    --num_train_epochs 1 \
    --lr_scheduler_type cosine \
    --learning_rate ${lr} \
    --warmup_ratio 0.03 \
    --weight_decay 0 \
    --logging_strategy steps \
    --logging_steps 10 \
    --save_strategy steps \
    --save_total_limit 3 \
    --evaluation_strategy steps \
    --eval_steps 100 \
    --save_steps 200 \
    --gradient_accumulation_steps ${gradient_accumulation_steps} \
    --max_seq_length ${max_seq_length} \
    --output_dir "${output_dir}" \
    --overwrite_output_dir \
    --ddp_timeout 30000 \
    --logging_first_step True \
    --lora_rank ${lora_rank} \
    --lora_alpha ${lora_alpha} \
    --trainable ${lora_trainable} \
    --lora_dropout ${lora_dropout} \
    --modules_to_save ${modules_to_save} \
    --torch_dtype float16 \
    --validation_file "${validation_file}" \
    --load_in_kbits 16 \
    --gradient_checkpointing \
    --ddp_find_unused_parameters False \
    "$@"
