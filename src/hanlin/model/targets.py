"""Which modules ``--lora_target_modules`` means: names, and groups of names that every architecture has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hanlin.errors import UserError
from hanlin.model.entry import ALL_LINEAR, Q_K_V, QKV_GROUP, Entry

_PROJECTIONS: tuple[tuple[str, ...], ...] = (
    Q_K_V,
    ("query_key_value",),
    ("qkv_proj",),
    ("c_attn",),
    ("W_pack",),
    ("wqkv",),
    ("Wqkv",),
    ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj"),
    ("q_proj", "kv_a_proj_with_mqa", "kv_b_proj"),
    ("query", "key", "value"),
)
"""Names of the projections to queries, keys and values over the architectures of transformers, tried in order."""


def expand_targets(targets: Sequence[str], modules: Iterable[str], entry: Entry | None = None) -> tuple[str, ...]:
    """``targets`` with the group ``qkv`` replaced by names of ``modules`` (full names of the model's linear modules).

    The entry's own names come first where the model has them; a checkpoint that was renamed while loading has others.
    ``ALL`` of the older tool is ``all-linear``. Raises UserError when the model has no such projections.
    """
    if [target.lower() for target in targets] == ["all"]:
        return (ALL_LINEAR,)
    expanded: list[str] = []
    for target in targets:
        expanded += _qkv(modules, entry) if target == QKV_GROUP else [target]
    return tuple(dict.fromkeys(expanded))


def _qkv(modules: Iterable[str], entry: Entry | None) -> tuple[str, ...]:
    last = {module.rsplit(".", 1)[-1] for module in modules}
    for names in (*([entry.qkv] if entry is not None else []), *_PROJECTIONS):
        if last.issuperset(names):
            return names
    raise UserError(
        "--lora_target_modules",
        "is qkv, and the model has no query, key and value projections of a known name",
        expected=f"some of {', '.join(sorted(last))}, or {ALL_LINEAR}",
    )
