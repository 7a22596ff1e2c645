"""Vocabulary files of tiktoken (Qwen, GLM-4) as byte-level BPE of the tokenizers library, with equal ids.

tiktoken has no list of merges: it joins the two neighbours whose union is the token of lowest rank, whichever way
that token is cut. So every cut of every token becomes a merge, in the order of the union's rank. One merge a token,
as others convert such files, gives other ids now and then.
"""

from __future__ import annotations

import base64
import binascii
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from hanlin.errors import UserError
from hanlin.vocab.backend import BYTE_OF
from hanlin.vocab.native.probe import probe_texts

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen cuts text into words before any joining: cl100k's pattern with digits one by one."""

GLM4_PATTERN = PATTERN.replace(r"\p{N}| ?", r"\p{N}{1,3}| ?")
"""GLM-4's is cl100k's own, with up to three digits."""

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = (END_OF_TEXT, IM_START, IM_END, *(f"<|extra_{number}|>" for number in range(205)))
"""Qwen's special tokens in id order, right after the vocabulary (151643 to 151850)."""
VISION_SPECIAL = ("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>", "<img>", "</img>", "<imgpad>")
"""Those that Qwen-VL adds (151851 to 151859)."""
GLM4_SPECIAL = (
    END_OF_TEXT, "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>",
    "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>",
    "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>",
)  # fmt: skip
"""GLM-4's special tokens in id order, right after the vocabulary (151329 to 151342)."""

_CHAR_OF = {byte: char for char, byte in BYTE_OF.items()}


def read_ranks(path: Path) -> dict[bytes, int]:
    """Byte strings and their ranks from a file of lines ``base64 rank``.

    Raises UserError for anything else, for ranks that leave a gap and for a vocabulary that lacks one of the 256 bytes.
    """
    ranks: dict[bytes, int] = {}
    lines = path.read_bytes().splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise UserError(
                f"{path}:{number}",
                f"{line[:40].decode('utf-8', 'replace')!r} is not a line of a tiktoken vocabulary",
                expected="a token in base64, a space, its rank",
                mend="check that the download is complete (a Git LFS pointer is a short text file)",
            ) from error
    if sorted(ranks.values()) != list(range(len(ranks))) or len(ranks) < 256:
        raise UserError(
            path, f"its {len(ranks)} tokens do not have the ranks 0, 1, 2 ...", expected="the complete file"
        )
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise UserError(path, f"has no token for the byte {missing[0]}", expected="a token for each of the 256 bytes")
    return ranks


def tiktoken_backend(
    ranks: Mapping[bytes, int], special: Sequence[str], *, pattern: str = PATTERN, composed: bool = True
) -> Tokenizer:
    """The tokenizer with the ids of tiktoken; ``special`` get the ids after the ranks, in order.

    ``pattern`` cuts text into words. ``composed``: with NFC first, which Qwen does and GLM-4 does not.
    """
    spelled = {token: "".join(map(_CHAR_OF.__getitem__, token)) for token in ranks}
    merges: list[tuple[str, str]] = []
    for token in sorted(ranks, key=ranks.__getitem__):
        cuts = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        known = [cut for cut in cuts if cut[0] in ranks and cut[1] in ranks]
        known.sort(key=lambda cut: (ranks[cut[0]], ranks[cut[1]]))
        merges += [(spelled[left], spelled[right]) for left, right in known]
    vocabulary = {spelled[token]: rank for token, rank in ranks.items()}
    # A word that is a token stays one, even where no sequence of joins leads to it: tiktoken looks it up first.
    backend = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=True))
    if composed:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return backend


def check_agreement(backend: Tokenizer, ranks: Mapping[bytes, int], path: Path) -> None:
    """Compare ``backend`` with a plain implementation of tiktoken's rule on the probe; UserError when they differ.

    They can differ only where two cuts of one token compete in one word: tiktoken takes the leftmost, ranked merges
    the first in the list. In Qwen's vocabulary this has not been found.
    """
    by_rank = sorted(ranks, key=ranks.__getitem__)
    as_text = [token.decode("utf-8", "ignore") for token in by_rank]
    for text in probe_texts([piece for piece in as_text if piece]):
        plain = backend.normalizer.normalize_str(text) if backend.normalizer is not None else text
        words = backend.pre_tokenizer.pre_tokenize_str(plain)
        expected = [rank for word, _ in words for rank in join(bytes(BYTE_OF[char] for char in word), ranks)]
        if list(backend.encode(text, add_special_tokens=False).ids) != expected:
            raise UserError(
                path,
                f"this vocabulary gives {text[:40]!r} other ids in the tokenizers library than in tiktoken",
                expected="the vocabulary of a released model of Qwen or GLM-4",
            )


def join(word: bytes, ranks: Mapping[bytes, int]) -> list[int]:
    """Ranks of the tokens of ``word`` by tiktoken's rule, plainly: the lowest union first, the leftmost of equals."""
    if word in ranks:
        return [ranks[word]]
    parts = [word[index : index + 1] for index in range(len(word))]
    while len(parts) > 1:
        unions = [ranks.get(left + right, len(ranks)) for left, right in itertools.pairwise(parts)]
        lowest = min(unions)
        if lowest == len(ranks):
            break
        at = unions.index(lowest)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return [ranks[part] for part in parts]
