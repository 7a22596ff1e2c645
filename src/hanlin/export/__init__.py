"""Adapters into models: merged shard by shard, written in the form that is asked for, and proved."""
