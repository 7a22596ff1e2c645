"""Tokenizers: text and ids (tokenizer), read (loading), write (saving), train (train), extend (extend, byte_level;
learning in bpe), measure (measure).

``native`` builds those of 2023 that brought their own code; ``pretrained`` asks transformers for all others, after the
repair of old files (``metaspace``). ``spelling`` says how an old tokenizer wrote the new pieces, from which the model's
new rows start. No torch here.
"""
