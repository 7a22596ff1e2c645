#!/usr/bin/env bash
# Continued pre-training: a new adapter (LoRA, with the embeddings and the head in full) on a base model.
# Fill in the paths, then run it. The values are the published ones of the second generation (the first had
# lora_rank=8 and lora_alpha=32). What each setting does: hanlin pt --help. Check your edits: hanlin script check FILE.

lr=2e-4
lora_rank=64
lora_alpha=128
lora_trainable="q_proj,v_proj,k_proj,o_proj,gate_proj,down_proj,up_proj"
modules_to_save="embed_tokens,lm_head"
lora_dropout=0.05

pretrained_model=path/to/hf/llama-2/dir                         # the base model
chinese_tokenizer_path=path/to/chinese-llama-2/tokenizer/dir    # its tokenizer, extended
dataset_dir=path/to/pt/data/dir                                 # a folder of .txt files, one document a line
data_cache=temp_data_cache_dir                                  # prepared tokens; a changed file is noticed
output_dir=output_dir                                           # the adapter will lie in output_dir/pt_lora_model

per_device_train_batch_size=1
gradient_accumulation_steps=8
block_size=512
scripts=$(dirname "$0")

# To continue an adapter, add --peft_path ADAPTER and delete the five lines from --lora_rank to --modules_to_save.
# With the package deepspeed installed, ds_zero2_no_offload.json applies; without it, one process trains the same.
torchrun --nnodes 1 --nproc_per_node 1 "${scripts}/run_clm_pt_with_peft.py" \
    --deepspeed "${scripts}/ds_zero2_no_offload.json" \
    --model_name_or_path "${pretrained_model}" \
    --tokenizer_name_or_path "${chinese_tokenizer_path}" \
    --dataset_dir "${dataset_dir}" \
    --data_cache_dir "${data_cache}" \
    --validation_split_percentage 0.001 \
    --per_device_train_batch_size ${per_device_train_batch_size} \
    --do_train \
    --seed $RANDOM \
    --fp16 \
    --num_train_epochs 1 \
    --lr_scheduler_type cosine \
    --learning_rate ${lr} \
    --warmup_ratio 0.05 \
    --weight_decay 0.01 \
    --logging_strategy steps \
    --logging_steps 10 \
    --save_strategy steps \
    --save_total_limit 3 \
    --save_steps 200 \
    --gradient_accumulation_steps ${gradient_accumulation_steps} \
    --block_size ${block_size} \
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
    --load_in_kbits 16 \
    --gradient_checkpointing \
    --ddp_find_unused_parameters False \
    "$@"
