"""Which base, adapter, tokenizer and flags go together: the mode tables, checked before any weight is loaded.

Everything here comes from headers, configs and records. Sizes and identities decide; names and known sizes of the
published Chinese-LLaMA-Alpaca families only where a file of 2023 carries nothing else.
"""

from __future__ import annotations

import torch

from hanlin.errors import UserError, did_you_mean
from hanlin.model.adapter_files import OUTPUT_HEADS, AdapterFiles
from hanlin.model.facts import BaseFacts, Facts, TokenizerFacts, read_base
from hanlin.model.native.adapters import native_targets
from hanlin.model.published import check_published

__all__ = ["BaseFacts", "Facts", "TokenizerFacts", "check_modes", "read_base"]

_PADDING = 512  # rows: matrices padded to a multiple of 64 to 512 have fewer spare rows than this
_SAMPLE = 64  # embedding rows compared to find an adapter that is already in its base


def check_modes(facts: Facts) -> list[str]:
    """Notices about a run that may start; raises UserError, with the mend, for one that may not."""
    notices = list(facts.base.index.notices if facts.base else ())
    notices += facts.adapter.notices if facts.adapter else ()
    notices += _check_flags(facts)
    _check_sft_tokenizer(facts)
    if facts.base is None:
        if facts.adapter is not None:
            raise UserError("--adapter", "is given without a base", mend="name its base with --model")
        return notices
    _check_config(facts.base)
    if facts.adapter is not None:
        _check_width(facts.base, facts.adapter)
        _check_adapter_tokenizer(facts, facts.adapter)
        _check_own_base(facts, facts.base, facts.adapter)
        _check_adapter_rows(facts, facts.base, facts.adapter)
    elif facts.tuner == "lora":
        notices += _check_names(facts, facts.base)
    notices += _check_tokenizer(facts, facts.base)
    _check_growth(facts, facts.base)
    return notices + _special_ids(facts, facts.base)


def _check_flags(facts: Facts) -> list[str]:
    """Either an adapter or the settings of a new one; with neither, say what the defaults are."""
    given = ", ".join(f"--{name}" for name in facts.lora_flags)
    adapter = facts.adapter
    if facts.tuner == "full":
        if adapter is not None:
            raise UserError(
                "--adapter",
                "is given, but --tuner full trains no adapter",
                mend="merge the adapter into its base first",
            )
        return [f"{given} have no effect: --tuner full trains all weights"] if given else []
    if adapter is None:
        if given:
            return []
        settings = ", ".join(f"{name} {_plain(value)}" for name, value in facts.lora.items())
        return [f"no --adapter and no --lora_* flags: a new adapter is trained with {settings or 'the defaults'}"]
    if not given:
        return []
    own = (
        f"lora_rank {adapter.r}, lora_alpha {adapter.lora_alpha:g}, lora_dropout {adapter.lora_dropout:g},"
        f" lora_target_modules {_plain(adapter.target_modules)},"
        f" modules_to_save {_plain(adapter.modules_to_save)}"
    )
    if facts.on_lora_flags == "adapter":
        return [f"{given} have no effect: the adapter's own values hold ({own})"]
    raise UserError(
        "--adapter",
        f"is given together with {given}; a continued adapter keeps its own values ({own})",
        mend=f"remove {given}, or let the adapter win with --on_lora_flags adapter, or remove --adapter for a new one",
    )


def _check_sft_tokenizer(facts: Facts) -> None:
    """The first generation's instruction models have one piece more, [PAD]; the two must not be mixed."""
    tokenizer = facts.tokenizer
    llama = (tokenizer.class_name or "").startswith("LlamaTokenizer")
    if facts.verb == "sft" and (tokenizer.known == "chinese-llama" or (tokenizer.length == 49953 and llama)):
        raise UserError(
            "--tokenizer",
            "is the Chinese-LLaMA tokenizer with 49953 pieces, which is for pre-training",
            expected="the Chinese-Alpaca tokenizer with 49954 pieces (one more, [PAD])",
            mend="use that one, or make it: hanlin tokenizer extend --pad_token '[PAD]'",
        )


def _check_config(base: BaseFacts) -> None:
    stored = base.index.tensors.get(f"{base.embedding}.weight")
    wanted = base.modules[base.embedding]
    if stored is not None and stored.shape != wanted:
        raise UserError(
            "--model",
            f"{base.name}: {stored.name} has shape {list(stored.shape)}, config.json makes it {list(wanted)}",
            mend=f"write vocab_size {stored.shape[0]} in config.json"
            if stored.shape[1:] == wanted[1:]
            else "use the config.json of this model",
        )


def _check_width(base: BaseFacts, adapter: AdapterFiles) -> None:
    """Every matrix of the adapter has the width of the base's module (a 7B adapter on a 13B base has not)."""
    tensors = adapter.index.tensors
    found: dict[str, tuple[int, ...]] = {}
    for module, (a, b) in adapter.lora_pairs().items():
        out_in = (tensors[b].shape[0], tensors[a].shape[1])
        found[module] = out_in[::-1] if adapter.fan_in_fan_out else out_in
    embeddings = {f"{name}.weight" for name in (base.embedding, base.head) if name}
    for name, stored in adapter.full_tensors().items():
        shape = tensors[stored].shape
        if name.endswith(".weight") and len(shape) == 2:
            own = base.modules.get(name.removesuffix(".weight"))
            # rows of an embedding are compared with the tokenizer, later
            found[name.removesuffix(".weight")] = (own[0], shape[1]) if own and name in embeddings else shape
    for module, shape in found.items():
        if base.tied and module.rsplit(".", 1)[-1] in OUTPUT_HEADS:
            continue
        own = base.modules.get(module)
        if own != shape:
            has = f"has no {module}" if own is None else f"has {list(own)}"
            raise UserError(
                "--adapter",
                f"{adapter.name} was trained on a model of another size: its {module} is {list(shape)},"
                f" {base.name} {has}",
                mend="use the base that the adapter was trained on",
            )


def _check_adapter_tokenizer(facts: Facts, adapter: AdapterFiles) -> None:
    """The tokenizer of the run is the adapter's."""
    own = adapter.record.tokenizer_identity if adapter.record else facts.adapter_tokenizer_identity
    if own is not None and own != facts.tokenizer.identity:
        raise UserError(
            "--tokenizer",
            f"is not the tokenizer that {adapter.name} was trained with"
            f" ({facts.tokenizer.identity[:12]}, not {own[:12]})",
            mend="leave --tokenizer out, so that the adapter's own is taken",
        )


def _check_own_base(facts: Facts, base: BaseFacts, adapter: AdapterFiles) -> None:
    """The base is the one that the adapter was trained on, and does not contain it already."""
    twice = UserError(
        "--model",
        f"{base.name} already contains the adapter {adapter.name}, which would be applied twice",
        expected="the base that the adapter was trained on",
        mend="name that base, or remove --adapter to train a new adapter on this model",
    )
    if base.record is not None and base.record.chain and adapter.identity() in base.record.chain:
        raise twice
    record = adapter.record
    if record is not None and record.base_identity is not None:
        if record.base_vocab_rows not in (None, base.rows) or record.base_identity != base.identity:
            raise UserError(
                "--model",
                f"{base.name} ({base.rows} rows) is not the base of {adapter.name}",
                expected=f"{record.base_model}, {record.base_vocab_rows} rows, weights {record.base_identity[:12]}",
                mend="name the base that the adapter was trained on",
            )
        return
    if _contains(base, adapter):
        raise twice
    check_published(
        adapter,
        base_name=base.name,
        base_folder=base.directory,
        base_rows=base.rows,
        tokenizer_known=facts.tokenizer.known,
    )


def _contains(base: BaseFacts, adapter: AdapterFiles) -> bool:
    """Whether the embeddings of the adapter are those of the base, on sampled rows."""
    pairs = [
        (name, stored)
        for name, stored in adapter.full_tensors().items()
        if name in base.index and base.index.tensors[name].shape == adapter.index.tensors[stored].shape
    ]
    for name, stored in pairs:
        total = base.index.tensors[name].shape[0]
        rows = sorted({i * (total - 1) // max(1, _SAMPLE - 1) for i in range(_SAMPLE)})
        ours, theirs = base.index.load_rows(name, rows), adapter.index.load_rows(stored, rows)
        # A merged model may have been stored in a narrower type than the adapter, or the reverse.
        if not any(torch.equal(ours.to(t), theirs.to(t)) for t in (ours.dtype, theirs.dtype)):
            return False
    return bool(pairs)


def _check_adapter_rows(facts: Facts, base: BaseFacts, adapter: AdapterFiles) -> None:
    rows, length = adapter.embedding_rows(), facts.tokenizer.length
    if rows is None:
        return
    if rows < base.rows:
        raise UserError(
            "--model",
            f"{base.name} has {base.rows} rows, {adapter.name} was trained with {rows}",
            expected="the base that the adapter was trained on",
        )
    if adapter.record is not None:
        fits = rows >= length  # the same tokenizer, as the record says; more rows are padding
    else:
        fits = rows == length or ((rows == base.rows or rows % 64 == 0) and 0 < rows - length < _PADDING)
    if not fits:
        raise UserError(
            "--tokenizer",
            f"has {length} pieces, {adapter.name} was trained with {rows} embedding rows",
            mend="leave --tokenizer out, so that the adapter's own is taken",
        )


def _check_names(facts: Facts, base: BaseFacts) -> list[str]:
    """Every name is a module of the base; returns a notice for each that is a name of 2023."""
    last = sorted({module.rsplit(".", 1)[-1] for module in base.modules})
    notices = []
    for flag, names in (("--lora_target_modules", facts.target_modules), ("--modules_to_save", facts.modules_to_save)):
        for wanted in names:
            meant = native_targets(base.config, (wanted,), base.modules)
            if meant != (wanted,):
                notices.append(f"{flag} {wanted} means {','.join(meant)} in the native model")
                continue
            known = _trained(wanted, facts.modules_to_save) if base.tied and wanted in OUTPUT_HEADS else False
            if wanted != "all-linear" and not known and not any(_trained(m, (wanted,)) for m in base.modules):
                raise UserError(
                    flag,
                    f"the model has no module {wanted!r}",
                    expected=f"some of {', '.join(last)}",
                    mend=did_you_mean(wanted, last),
                )
    return notices


def _check_tokenizer(facts: Facts, base: BaseFacts) -> list[str]:
    """The tokenizer is the base's own, or extends it; a matrix is never made smaller."""
    tokenizer = facts.tokenizer
    own = _own_tokenizers(base)
    if tokenizer.identity in own:
        return []
    if tokenizer.length < base.rows and tokenizer.extends_base is not True:
        unknown = tokenizer.extends_base is None and not own
        if not (unknown and base.rows % 64 == 0 and base.rows - tokenizer.length < _PADDING):
            raise UserError(
                "--tokenizer",
                f"has {tokenizer.length} pieces, fewer than the {base.rows} rows of {base.name}, and is not its own",
                expected="the model's own tokenizer, or one that extends it (a model is never made smaller)",
                mend="leave --tokenizer out",
            )
        return [f"{base.name} has {base.rows} rows for {tokenizer.length} pieces; they are taken for padding"]
    if tokenizer.extends_base is False:
        raise UserError(
            "--tokenizer",
            f"does not extend the tokenizer of {base.name}: the same ids would mean other pieces",
            expected="one whose first pieces are those of the model's own",
            mend="extend the model's own tokenizer: hanlin tokenizer extend",
        )
    return []


def _check_growth(facts: Facts, base: BaseFacts) -> None:
    """New rows must be trained and saved, or they stay as they start and the adapter cannot be merged."""
    same = facts.tokenizer.identity in _own_tokenizers(base)
    old = base.rows if same else min(base.rows, base.tokenizer_length or base.rows)  # new pieces may use spare rows
    if facts.tuner == "full" or facts.tokenizer.length <= old:
        return
    if facts.adapter is not None:
        saved = tuple(name.removesuffix(".weight") for name in facts.adapter.full_tensors())
    else:
        saved = native_targets(base.config, facts.modules_to_save, base.modules)
    needed = [module for module in (base.embedding, base.head) if module]
    untrained = [module for module in needed if not _trained(module, saved)]
    if base.tied and any(name.rsplit(".", 1)[-1] in OUTPUT_HEADS for name in saved):
        untrained = []  # one matrix under two names
    if not untrained:
        return
    listed = ",".join(module.rsplit(".", 1)[-1] for module in needed)
    missing = " and ".join(module.rsplit(".", 1)[-1] for module in untrained)
    grows = f"the vocabulary grows from {old} to {facts.tokenizer.length}"
    if facts.adapter is not None:
        raise UserError(
            "--adapter",
            f"{grows}, but {facts.adapter.name} holds no {missing}",
            mend="use the tokenizer and the base that the adapter was trained with",
        )
    raise UserError(
        "--modules_to_save",
        f"{grows}, but {missing} would not be trained, so the new pieces would stay untrained",
        mend=f"add --modules_to_save {listed}",
    )


def _special_ids(facts: Facts, base: BaseFacts) -> list[str]:
    """Third-party conversions of LLaMA exist with bos 0, eos 1 and pad -1."""
    config, tokenizer = base.config.get_text_config(), facts.tokenizer
    wrong = []
    for name, ours in (("bos", tokenizer.bos_id), ("eos", tokenizer.eos_id)):
        theirs = getattr(config, f"{name}_token_id", None)
        accepted = theirs if isinstance(theirs, list | tuple) else (theirs,)
        if theirs is not None and ours is not None and ours not in accepted:
            wrong.append(f"{name}_token_id {theirs} (the tokenizer has {ours})")
    pad = getattr(config, "pad_token_id", None)
    if pad is not None and not 0 <= pad < base.rows:
        wrong.append(f"pad_token_id {pad} (no row of the model)")
    if not wrong:
        return []
    return [f"config.json of {base.name} says {', '.join(wrong)}; the tokenizer's ids are used; correct config.json"]


def _own_tokenizers(base: BaseFacts) -> set[str]:
    """Identities of the tokenizers that the base is known to go with."""
    return {i for i in (base.tokenizer_identity, base.record.tokenizer_identity if base.record else None) if i}


def _trained(module: str, names: tuple[str, ...]) -> bool:
    return any(module == name or module.endswith(f".{name}") for name in names)


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        return ",".join(str(item) for item in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
