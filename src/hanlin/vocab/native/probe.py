"""Texts on which a built tokenizer is compared with the reference before it is used.

Fixed texts in many scripts, and texts made of the vocabulary itself: neighbours and repetitions of its pieces, on
which tied scores show.
"""

from __future__ import annotations

from collections.abc import Sequence

FIXED = (
    "",
    " ",
    "    ",
    "\n\n\t \r\n",
    "你好，世界！Hello world 123",
    "  leading spaces\n\nand\ttabs  ",
    "I'm sure they'LL say DON'T, we've 3.14159 and 1,234,567",
    "人工智能的发展历史可以追溯到二十世纪五十年代。《论语》曰：「学而时习之，不亦说乎？」",
    "繁體中文與簡體中文、粵語嘅字：佢哋喺度",
    "日本語のテキスト、カタカナとひらがな。",
    "한국어 문장입니다. 안녕하세요!",
    "Русский текст, українська мова, ελληνικά",
    "العربية نص من اليمين إلى اليسار",
    "हिन्दी में एक वाक्य और ภาษาไทย",
    "Tiếng Việt có dấu, Ünïcödé, naïve café e\u0301",
    "😀👩‍🔬🇨🇳 𠮷野家 龘靐齉 \u200b\ufeff",
    "aaaaaaaaaaaaaaaaaaaaaaaaa bbbbbbbbbb",
    "哈哈哈哈哈哈哈哈哈哈 的的的的的的的",
    "----------========......!!!!！！！！",
    "0000000 1111111 20231231 3.0e-10",
    "def f(x):\n    return {x: [1, 2, 3]}  # comment\n\n\n\tprint(f'{x!r}')",
    "https://example.org/path?a=1&b=%20#frag user@example.org",
    "$\\frac{a}{b} \\le \\sum_{i=1}^{n} x_i^2$",
    "mixed中英文text混排with数字42和символы",
)


def probe_texts(pieces: Sequence[str], num_samples: int = 600) -> list[str]:
    """The fixed texts, and ``num_samples`` made of ``pieces`` (as text), spread evenly over the vocabulary."""
    texts = list(FIXED)
    step = max(1, len(pieces) // num_samples)
    for index in range(0, len(pieces), step):
        piece = pieces[index]
        after = "".join(pieces[index : index + 3])
        # 7919 is a prime: pieces from far away in the vocabulary as neighbours.
        far = pieces[(index * 7919 + 1) % len(pieces)]
        texts += [after, piece * 3, f"{far}{piece}{far}", f" {piece} {piece}{after}"]
    return texts
