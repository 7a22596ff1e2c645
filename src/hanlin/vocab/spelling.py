"""How an old tokenizer wrote the pieces of a new one: the starting point of new embedding rows."""

from __future__ import annotations

from hanlin.errors import UserError
from hanlin.vocab.tokenizer import TextTokenizer


def spell_new_pieces(old: TextTokenizer, new: TextTokenizer) -> list[list[int]]:
    """For each id of ``new``, the ids of ``old`` that spelled its piece; ``len(new)`` lists.

    An old id is spelled by itself (``[7]`` at position 7), which is how ``resize_embeddings`` tells old rows from new
    ones although many models have more rows than their tokenizer has tokens. Special tokens have no spelling: their
    list is empty. Example with the pieces of LLaMA, which has 中 (30275) and 国 (30356): 中国 is ``[30275, 30356]``.

    Raises UserError when ``new`` does not begin with the pieces of ``old``: its ids would mean something else.
    """
    if not new.extends(old):
        raise UserError("--tokenizer", **_difference(old, new))
    added = new.hf.added_tokens_decoder
    spelling: list[list[int]] = [[index] for index in range(len(old))]
    pieces = new.pieces()
    for index in range(len(old), len(new)):
        if index in new.special_ids or not pieces[index]:
            spelling.append([])
        elif index in added:
            spelling.append(old.encode(added[index].content))
        else:
            spelling.append(old.encode_piece(pieces[index]))
    return spelling


def _difference(old: TextTokenizer, new: TextTokenizer) -> dict[str, str]:
    if len(new) < len(old):
        problem = f"has {len(new):,} tokens, fewer than the {len(old):,} of the model's tokenizer"
    else:
        pairs = enumerate(zip(old.pieces(), new.pieces(), strict=False))
        index, (before, after) = next((index, pair) for index, pair in pairs if pair[0] != pair[1])
        problem = f"id {index} is {after!r}, but {before!r} in the model's tokenizer"
    return {
        "problem": problem,
        "expected": "a tokenizer that begins with all tokens of the model's own",
        "mend": "extend the model's tokenizer with hanlin tokenizer extend",
    }
