"""Checkpoints of 2023 that brought their own code, as the architectures of transformers that compute the same.

One file a family: how its settings are called natively and where its tensors go. Nothing of what a checkpoint ships
is imported or run; ``recognise`` reads its settings and the names of its tensors, ``convert`` hands memory-mapped parts
of its files to the native class, ``adapters`` does the same for LoRA adapters on the old module names.
"""
