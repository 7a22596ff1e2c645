"""One training path for pre-training and instruction tuning, full or LoRA, on transformers' Trainer."""
