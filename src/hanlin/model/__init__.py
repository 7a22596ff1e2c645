"""Weights: checkpoints by header and live, adapters, the mode tables, precision, resizing and the loss."""
