"""Tokenizers: load (tokenizer), train (train), extend (extend, byte_level; learning in bpe), measure (measure).

``spelling`` says how an old tokenizer wrote the new pieces, from which the model's new rows start. No torch here.
"""
