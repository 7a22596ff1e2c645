"""A tokenizer for tests that has every token of every template at the published number: ``from every_token import ...``

Ordinary text is one id a byte, from 1000 on, so that a rendering made by hand needs nothing of the package.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hanlin.errors import UserError
from hanlin.template import SpecialTokens

FIRST_BYTE = 1000
NUMBERS = {
    "<unk>": 0, "<s>": 1, "</s>": 2,
    "<reserved_106>": 195, "<reserved_107>": 196,
    "<eoh>": 301, "<eoa>": 302, "[USER]": 303, "[BOT]": 304, "[SEP]": 305, "<|endoftext|>": 306,
    "<|im_start|>": 310, "<|im_end|>": 311, "<|im_sep|>": 312,
    "<|start_header_id|>": 320, "<|end_header_id|>": 321, "<|eot_id|>": 322,
    "<start_of_turn>": 330, "<end_of_turn>": 331, "<|end|>": 332, "<sop>": 333,
    "<｜User｜>": 340, "<｜Assistant｜>": 341,
    "<|START_OF_TURN_TOKEN|>": 350, "<|END_OF_TURN_TOKEN|>": 351, "<|SYSTEM_TOKEN|>": 352, "<|USER_TOKEN|>": 353,
    "<|CHATBOT_TOKEN|>": 354, "<think>": 360, "</think>": 361, "[INST]": 362, "[/INST]": 363,
    "[MASK]": 64789, "[gMASK]": 64790, "[sMASK]": 64791, "sop": 64792, "eop": 64793,
    "<|system|>": 64794, "<|user|>": 64795, "<|assistant|>": 64796, "<|observation|>": 64797,
}  # fmt: skip
"""Those of Baichuan2 and ChatGLM3 are the published ones; the others are free."""

PIECES = [f"piece {i}" for i in range(65_024)]
for _token, _number in NUMBERS.items():
    PIECES[_number] = _token

SPECIAL = SpecialTokens(
    "<s>",
    "</s>",
    tuple(name for name in NUMBERS if name not in ("<unk>", "<eoh>", "<eoa>", "[INST]", "[/INST]")),
    PIECES,
)
"""What a renderer is told; ``<eoh>`` and ``<eoa>`` are ordinary pieces, as in InternLM's file, and ``[INST]`` is one of
the later Mistral alone."""


class EveryToken:
    """Bytes and the tokens above."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [bytes_of(text) for text in texts]

    def special_id(self, token: str) -> int:
        if token not in NUMBERS:
            raise UserError("tokenizer", f"{token!r} is not one token")
        return NUMBERS[token]

    def decode(self, ids: Iterable[int]) -> str:
        data = b"".join(
            bytes([i - FIRST_BYTE]) if FIRST_BYTE <= i < FIRST_BYTE + 256 else PIECES[i].encode() for i in ids
        )
        return data.decode()


def bytes_of(text: str) -> list[int]:
    """Ids of ordinary text."""
    return [FIRST_BYTE + byte for byte in text.encode()]
