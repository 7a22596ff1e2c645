"""Answers: one engine for models, adapters and runs; the terminal chat and the batch mode on top of it."""
