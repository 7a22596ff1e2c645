"""Tokenizers whose folders of 2023 expect their own code, built from the vocabulary file alone; no such code is run.

``description`` reads the configuration; ``recognise`` says what a folder holds; ``load`` builds it;
``tiktoken_file`` and ``sentencepiece_file`` turn the two kinds of vocabulary into tokenizers of the tokenizers library,
each compared with a reference on ``probe`` texts.
"""

from hanlin.vocab.native.description import Description
from hanlin.vocab.native.load import NativeTokenizer, load_native
from hanlin.vocab.native.recognise import QWEN_FILE

__all__ = ["QWEN_FILE", "Description", "NativeTokenizer", "load_native"]
