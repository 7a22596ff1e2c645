"""The mode tables, on fabricated checkpoints with the published row counts and a hidden size of 8."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hanlin.errors import UserError
from hanlin.model.adapter_files import read_adapter
from hanlin.model.identity import Record, weights_identity, write_record
from hanlin.model.preflight import Facts, TokenizerFacts, check_modes, read_base
from hanlin.model.weights import open_weights
from tiny import tiny_adapter, tiny_llama

LLAMA, V1_LLAMA, V1_ALPACA, V2 = 32000, 49953, 49954, 55296
KNOWN = {LLAMA: "llama", V1_LLAMA: "chinese-llama", V1_ALPACA: "chinese-alpaca", V2: "chinese-llama-2"}
LORA = {"lora_rank": 8, "lora_alpha": 32.0, "lora_dropout": 0.05, "lora_target_modules": ("q_proj",)}
FLAGS = ("lora_rank", "lora_alpha", "lora_dropout", "lora_target_modules", "modules_to_save")
EMB = ("embed_tokens", "lm_head")
SMALL = {"hidden": 8, "heads": 2, "layers": 1}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Callable[..., Path]:
    """Makes a base by name and rows, once."""
    root = tmp_path_factory.mktemp("bases")

    def make(name: str, rows: int, **options) -> Path:
        if not (root / name).exists():
            tiny_llama(root / name, vocab_size=rows, **(SMALL | {"seed": len(name)} | options))
        return root / name

    return make


def base_of(directory: Path, length: int | None = None, identity: str | None = None):
    rows = length or json.loads((directory / "config.json").read_text())["vocab_size"]
    return read_base(directory, tokenizer_length=rows, tokenizer_identity=identity or f"tokenizer-{rows}")


def tokenizer(length: int, **values) -> TokenizerFacts:
    defaults = {
        "length": length, "identity": f"tokenizer-{length}", "known": KNOWN.get(length),
        "class_name": "LlamaTokenizer", "extends_base": True, "bos_id": 1, "eos_id": 2,
    }  # fmt: skip
    return TokenizerFacts(**(defaults | values))


def new_lora(verb: str, base, length: int, modules_to_save=EMB, **values) -> Facts:
    return Facts(
        verb=verb, base=base, tokenizer=tokenizer(length), lora_flags=FLAGS, lora=LORA,
        modules_to_save=modules_to_save, **values,
    )  # fmt: skip


def continued(verb: str, base, length: int, adapter: Path, **values) -> Facts:
    return Facts(verb=verb, base=base, tokenizer=tokenizer(length), adapter=read_adapter(adapter), **values)


def merge_by_hand(base: Path, adapter: Path, target: Path, rows: int) -> Path:
    """What merging made of 2023: embeddings replaced, LoRA added, vocab_size set."""
    files = read_adapter(adapter)
    tensors = load_file(base / "model.safetensors")
    for module, (a, b) in files.lora_pairs().items():
        tensors[f"{module}.weight"] = tensors[f"{module}.weight"] + files.index.load(b) @ files.index.load(a) * 2
    for name, stored in files.full_tensors().items():
        tensors[name] = files.index.load(stored)
    target.mkdir()
    save_file({n: t.half() for n, t in tensors.items()}, target / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text()) | {"vocab_size": rows}
    (target / "config.json").write_text(json.dumps(config))
    return target


# --- the modes that are right: tables 3.6 and 4.5, and bases without an adapter ---


@pytest.mark.parametrize(
    ("verb", "rows", "length", "modules_to_save"),
    [
        ("pt", LLAMA, V1_LLAMA, EMB),  # build Chinese LLaMA
        ("pt", LLAMA, LLAMA, ()),  # continue the original
        ("pt", V1_LLAMA, V1_LLAMA, EMB),  # continue the merged one
        ("pt", V1_ALPACA, V1_ALPACA, EMB),
        ("pt", LLAMA, V2, EMB),  # build Chinese LLaMA-2
        ("pt", V2, V2, ()),  # continue the merged one, embeddings optional
        ("sft", V1_LLAMA, V1_ALPACA, EMB),  # mode B
        ("sft", V2, V2, ()),  # modes 3 and 4
        ("sft", V2, V2, EMB),
    ],
)
def test_new_adapter_modes_that_are_right(made, verb, rows, length, modules_to_save):
    assert check_modes(new_lora(verb, base_of(made(f"base-{rows}", rows)), length, modules_to_save)) == []


@pytest.mark.parametrize(
    ("verb", "rows", "length", "name"),
    [
        ("pt", LLAMA, V1_LLAMA, "chinese-llama-lora-7b"),
        ("pt", LLAMA, V2, "chinese-llama-2-lora-7b"),
        ("pt", LLAMA, V2, "chinese-alpaca-2-lora-7b"),
        ("sft", LLAMA, V1_ALPACA, "chinese_alpaca_lora_7b"),  # mode A, not Plus
        ("sft", V1_LLAMA, V1_ALPACA, "chinese_alpaca_plus_lora_7b"),  # mode A, Plus
        ("sft", V1_LLAMA, V1_ALPACA, "chinese-alpaca-pro-lora-7b"),
        ("sft", LLAMA, V2, "chinese-llama-2-lora-7b"),  # mode 1
        ("sft", LLAMA, V2, "chinese-alpaca-2-lora-7b"),  # mode 2
    ],
)
def test_continued_modes_that_are_right(made, tmp_path, verb, rows, length, name):
    base = made(f"base-{rows}", rows)
    adapter = tiny_adapter(tmp_path / name, base, embedding_rows=length)
    notices = check_modes(continued(verb, base_of(base), length, adapter))
    assert len(notices) == 1
    assert "enable_lora, merge_weights no longer exist" in notices[0]


def test_own_adapter_of_2023_on_its_merged_base(made, tmp_path):
    """Mode 3 continued: trained on a merged model with embeddings, no record, config names the base."""
    base = made("merged-llama-2", V2)
    adapter = tiny_adapter(tmp_path / "sft_lora_model", base, embedding_rows=V2)
    check_modes(continued("sft", base_of(base), V2, adapter))


def test_full_tuning_may_grow_and_from_scratch_has_no_base(made):
    base = base_of(made("base-32000", LLAMA))
    facts = Facts(verb="pt", tuner="full", base=base, tokenizer=tokenizer(V2), lora_flags=("lora_rank",))
    assert check_modes(facts) == ["--lora_rank have no effect: --tuner full trains all weights"]
    assert check_modes(Facts(verb="pt", tuner="full", base=None, tokenizer=tokenizer(V2))) == []


def test_full_tuning_takes_no_adapter(made, tmp_path):
    base = made("grow-False", 64)
    facts = continued("pt", base_of(base), 64, tiny_adapter(tmp_path / "a", base), tuner="full")
    with pytest.raises(UserError, match="--tuner full trains no adapter; merge the adapter into its base first"):
        check_modes(facts)


# --- the violations of table 4.5, row by row ---


def test_both_adapter_and_lora_flags(made, tmp_path):
    base = made("base-32000", LLAMA)
    adapter = tiny_adapter(tmp_path / "a", base, rank=4, alpha=8, embedding_rows=V2, target_modules=("q_proj",))
    facts = continued("sft", base_of(base), V2, adapter, lora_flags=("lora_rank", "lora_alpha"))
    own = (
        "lora_rank 4, lora_alpha 8, lora_dropout 0.05, lora_target_modules q_proj, modules_to_save embed_tokens,lm_head"
    )
    with pytest.raises(UserError) as caught:
        check_modes(facts)
    assert own in str(caught.value)
    assert "remove --lora_rank, --lora_alpha, or" in str(caught.value)
    assert "--on_lora_flags adapter" in str(caught.value)
    notices = check_modes(dataclasses.replace(facts, on_lora_flags="adapter"))
    assert any(own in notice for notice in notices)


def test_neither_adapter_nor_lora_flags(made):
    base = base_of(made("base-32000", LLAMA))
    facts = Facts(verb="pt", base=base, tokenizer=tokenizer(LLAMA), lora=LORA)
    assert check_modes(facts) == [
        "no --adapter and no --lora_* flags: a new adapter is trained with"
        " lora_rank 8, lora_alpha 32, lora_dropout 0.05, lora_target_modules q_proj"
    ]
    with pytest.raises(UserError, match=r"grows from 32000 to 55296.*add --modules_to_save embed_tokens,lm_head"):
        check_modes(dataclasses.replace(facts, tokenizer=tokenizer(V2)))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("modules_to_save", [(), ("embed_tokens",), ("lm_head",), EMB])
def test_growth_needs_every_matrix_with_rows(made, tied, modules_to_save):
    base = base_of(made(f"grow-{tied}", 64, tied=tied))
    right = modules_to_save == EMB or (tied and modules_to_save)
    facts = new_lora("pt", base, 80, modules_to_save)
    if right:
        assert check_modes(facts) == []
    else:
        listed = "embed_tokens" if tied else "embed_tokens,lm_head"
        with pytest.raises(UserError, match=f"add --modules_to_save {listed}$"):
            check_modes(facts)


def test_growth_into_spare_rows_is_growth(made):
    """A matrix of 64 rows for 50 pieces: 60 pieces fit, and the new ten must be trained all the same."""
    base = base_of(made("grow-False", 64), length=50)
    with pytest.raises(UserError, match="grows from 50 to 60"):
        check_modes(new_lora("pt", base, 60, ()))
    assert check_modes(new_lora("pt", base, 60)) == []
    assert check_modes(new_lora("pt", base, 50, ())) == []


def test_growth_with_an_adapter_without_embeddings(made, tmp_path):
    base = made("grow-False", 64)
    with pytest.raises(UserError, match="holds no embed_tokens and lm_head"):
        check_modes(continued("sft", base_of(base), 80, tiny_adapter(tmp_path / "a", base)))


def test_tokenizer_folder_beside_a_base_that_was_never_grown(made):
    """Problem 14: the extended tokenizer was copied into the folder of the original model."""
    base = base_of(made("base-32000", LLAMA), length=V2)
    with pytest.raises(UserError, match="grows from 32000 to 55296"):
        check_modes(new_lora("sft", base, V2, ()))


@pytest.mark.parametrize("values", [{}, {"known": None}, {"class_name": None}])
def test_49953_tokenizer_in_sft(made, values):
    base = base_of(made("base-49953", V1_LLAMA))
    facts = dataclasses.replace(new_lora("sft", base, V1_LLAMA), tokenizer=tokenizer(V1_LLAMA, **values))
    with pytest.raises(UserError, match=r"49954.*hanlin tokenizer extend --pad_token '\[PAD\]'"):
        check_modes(facts)
    other_family = tokenizer(V1_LLAMA, known=None, class_name="Qwen2Tokenizer")
    assert check_modes(dataclasses.replace(facts, tokenizer=other_family)) == []


@pytest.mark.parametrize(("rows", "name"), [(V1_ALPACA, "chinese-alpaca-lora-7b"), (V2, "chinese-alpaca-2-lora-7b")])
@pytest.mark.parametrize("renamed", [False, True])
def test_base_that_contains_the_adapter(made, tmp_path, rows, name, renamed):
    original = made("base-32000", LLAMA)
    adapter = tiny_adapter(tmp_path / ("a" if renamed else name), original, embedding_rows=rows)
    merged = merge_by_hand(original, adapter, tmp_path / "merged", rows)
    with pytest.raises(UserError, match="applied twice"):
        check_modes(continued("sft", base_of(merged), rows, adapter))


@pytest.mark.parametrize("name", ["chinese-llama-2-lora-7b", "renamed"])
def test_published_adapter_on_another_merged_base(made, tmp_path, name):
    """Chinese-Alpaca-2 merged, with the Chinese-LLaMA-2 adapter: other embeddings, same wrong base."""
    adapter = tiny_adapter(tmp_path / name, made("base-32000", LLAMA), embedding_rows=V2)
    with pytest.raises(UserError, match=r"which already has 55296 rows.*original Llama-2 with 32000 rows"):
        check_modes(continued("sft", base_of(made("merged", V2)), V2, adapter))


def test_merged_base_with_a_record_of_the_adapter(made, tmp_path):
    base = made("base-32000", LLAMA)
    adapter = tiny_adapter(tmp_path / "a", base)
    merged = merge_by_hand(base, adapter, tmp_path / "merged", LLAMA)
    assert check_modes(continued("sft", base_of(merged), LLAMA, adapter))  # nothing tells, without records
    write_record(merged, record(chain=(read_adapter(adapter).identity(),), kind="model", stage="merge"))
    with pytest.raises(UserError, match="applied twice"):
        check_modes(continued("sft", base_of(merged), LLAMA, adapter))


def test_chat_model_as_base(made, tmp_path):
    chat = made("Llama-2-7b-chat-hf", LLAMA)
    other = made("base-32000", LLAMA)
    adapter = tiny_adapter(tmp_path / "chinese-alpaca-2-lora-7b", other, embedding_rows=V2)
    with pytest.raises(UserError, match="is a chat model"):
        check_modes(continued("sft", base_of(chat), V2, adapter))
    own = tiny_adapter(tmp_path / "own", chat, embedding_rows=V2)  # its config names the chat model
    check_modes(continued("sft", base_of(chat), V2, own))
    assert check_modes(new_lora("sft", base_of(chat), LLAMA, ())) == []


@pytest.mark.parametrize("name", ["chinese_alpaca_plus_lora_7b", "chinese-alpaca-pro-lora-33b"])
def test_alpaca_plus_on_the_original(made, tmp_path, name):
    base = made("base-32000", LLAMA)
    adapter = tiny_adapter(tmp_path / name, base, embedding_rows=V1_ALPACA)
    with pytest.raises(UserError, match="Chinese-LLaMA-Plus adapter is merged"):
        check_modes(continued("sft", base_of(base), V1_ALPACA, adapter))


def test_plain_alpaca_on_a_merged_llama(made, tmp_path):
    base = made("base-49953", V1_LLAMA)
    adapter = tiny_adapter(tmp_path / "chinese_alpaca_lora_7b", base, embedding_rows=V1_ALPACA)
    with pytest.raises(UserError, match="does not belong on a merged Chinese-LLaMA"):
        check_modes(continued("sft", base_of(base), V1_ALPACA, adapter))


@pytest.mark.parametrize("embedding_rows", [None, 80])
@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"hidden": 16}, "another size"),
        ({"layers": 2}, r"layers\.1.* has no model\.layers\.1"),
        ({"heads": 4, "kv_heads": 2}, r"[kv]_proj is \[8, 8\], .* has \[4, 8\]"),
    ],
)
def test_adapter_of_another_width(made, tmp_path, other, message, embedding_rows):
    base = made("grow-False", 64)
    sizes = SMALL | other
    if "kv_heads" in other:  # the adapter belongs to the plain one, the base has grouped queries
        trained_on, base = base, made("grouped", 64, **other)
    else:
        trained_on = made(f"other-{len(other)}-{sizes['hidden']}-{sizes['layers']}", 64, **other)
    adapter = tiny_adapter(tmp_path / "a", trained_on, embedding_rows=embedding_rows)
    with pytest.raises(UserError, match=message) as caught:
        check_modes(continued("sft", base_of(base), 80, adapter))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("rows", "length"), [(V1_ALPACA, V1_LLAMA), (V1_LLAMA, V1_ALPACA), (V2, V1_ALPACA)])
def test_adapter_rows_and_tokenizer_length(made, tmp_path, rows, length):
    base = made("base-32000", LLAMA)
    adapter = tiny_adapter(tmp_path / "a", base, embedding_rows=rows)
    with pytest.raises(UserError, match=f"has {length} pieces, a was trained with {rows} embedding rows"):
        check_modes(continued("pt", base_of(base), length, adapter))


def test_adapter_with_fewer_rows_than_the_base(made, tmp_path):
    """The Chinese-LLaMA adapter on a merged Chinese-Alpaca: one row would be cut off."""
    adapter = tiny_adapter(tmp_path / "a", made("base-32000", LLAMA), embedding_rows=V1_LLAMA)
    with pytest.raises(UserError, match="has 49954 rows, a was trained with 49953"):
        check_modes(continued("pt", base_of(made("base-49954", V1_ALPACA)), V1_LLAMA, adapter))


@pytest.mark.parametrize(
    ("embedding_rows", "modules_to_save", "message"),
    [
        (64, None, r'modules_to_save is null but .* write "modules_to_save": \["embed_tokens", "lm_head"\]'),
        (64, ["embed_tokens"], "modules_to_save is .* holds lm_head"),
        (None, ["embed_tokens", "lm_head"], 'does not hold it; write "modules_to_save": null'),
    ],
)
def test_modules_to_save_and_weights_disagree(made, tmp_path, embedding_rows, modules_to_save, message):
    base = made("grow-False", 64)
    adapter = tiny_adapter(
        tmp_path / "a", base, embedding_rows=embedding_rows, config={"modules_to_save": modules_to_save}
    )
    with pytest.raises(UserError, match=message):
        read_adapter(adapter)


# --- records, tokenizers, special ids ---


def record(**values) -> Record:
    defaults = {
        "kind": "adapter", "stage": "sft", "base_model": "base", "base_identity": None,
        "tokenizer_identity": "tokenizer-64", "template": None, "system": None, "chain": (), "base_vocab_rows": 64,
        "hanlin_version": "0.1.0",
    }  # fmt: skip
    return Record(**(defaults | values))


def test_record_decides_about_the_base(made, tmp_path):
    base, other = made("grow-False", 64), made("another-base", 64)
    adapter = tiny_adapter(tmp_path / "a", base)
    write_record(adapter, record(base_identity=weights_identity(open_weights(base, "--model"))))
    check_modes(continued("sft", base_of(base), 64, adapter))
    with pytest.raises(UserError, match=r"another-base \(64 rows\) is not the base of a"):
        check_modes(continued("sft", base_of(other), 64, adapter))
    with pytest.raises(UserError, match=r"\(80 rows\) is not the base of a"):
        check_modes(continued("sft", base_of(made("eighty", 80), identity="tokenizer-64"), 64, adapter))


def test_record_says_that_a_chat_or_merged_base_is_right(made, tmp_path):
    chat = made("llama-2-7b-chat", V2)
    adapter = tiny_adapter(tmp_path / "chinese-alpaca-2-lora-7b", chat, embedding_rows=V2)
    identity = weights_identity(open_weights(chat, "--model"))
    write_record(adapter, record(base_identity=identity, tokenizer_identity=f"tokenizer-{V2}", base_vocab_rows=V2))
    check_modes(continued("sft", base_of(chat), V2, adapter))


@pytest.mark.parametrize("from_record", [True, False])
def test_another_tokenizer_of_the_same_length(made, tmp_path, from_record):
    base = made("grow-False", 64)
    adapter = tiny_adapter(tmp_path / "a", base, embedding_rows=64)
    if from_record:
        write_record(adapter, record(tokenizer_identity="another"))
    facts = continued("sft", base_of(base), 64, adapter, adapter_tokenizer_identity="another")
    with pytest.raises(UserError, match="is not the tokenizer that a was trained with"):
        check_modes(facts)


def test_padded_matrices_are_fine(made, tmp_path):
    padded = base_of(made("padded", 128), length=100, identity="tokenizer-100")
    assert check_modes(new_lora("sft", padded, 100, ())) == []
    unknown = dataclasses.replace(padded, tokenizer_length=None, tokenizer_identity=None)
    facts = dataclasses.replace(new_lora("sft", unknown, 100, ()), tokenizer=tokenizer(100, extends_base=None))
    assert check_modes(facts) == [f"{padded.name} has 128 rows for 100 pieces; they are taken for padding"]
    adapter = tiny_adapter(tmp_path / "a", made("grow-False", 64), embedding_rows=128)
    check_modes(continued("pt", base_of(made("grow-False", 64)), 100, adapter))


def test_a_record_allows_any_padding(made, tmp_path):
    base = made("grow-False", 64)
    adapter = tiny_adapter(tmp_path / "a", base, embedding_rows=1024)
    with pytest.raises(UserError, match="has 80 pieces, a was trained with 1024 embedding rows"):
        check_modes(continued("pt", base_of(base), 80, adapter))
    write_record(adapter, record(tokenizer_identity="tokenizer-80"))
    check_modes(continued("pt", base_of(base), 80, adapter))
    write_record(adapter, record(tokenizer_identity="tokenizer-2000"))
    with pytest.raises(UserError, match="has 2000 pieces, a was trained with 1024 embedding rows"):
        check_modes(continued("pt", base_of(base), 2000, adapter))


@pytest.mark.parametrize("extends_base", [False, None])
def test_a_model_is_never_made_smaller(made, extends_base):
    base = base_of(made("base-49954", V1_ALPACA))
    if extends_base is None:
        base = dataclasses.replace(base, tokenizer_length=None, tokenizer_identity=None)
    facts = new_lora("pt", base, V1_LLAMA)
    facts = dataclasses.replace(facts, tokenizer=tokenizer(V1_LLAMA, extends_base=extends_base))
    with pytest.raises(UserError, match="never made smaller"):
        check_modes(facts)


def test_tokenizer_with_other_pieces(made):
    facts = new_lora("pt", base_of(made("grow-False", 64)), 80)
    with pytest.raises(UserError, match="the same ids would mean other pieces"):
        check_modes(dataclasses.replace(facts, tokenizer=tokenizer(80, extends_base=False)))


def test_special_ids_of_a_third_party_conversion(made):
    base = base_of(made("decapoda", 64, bos_token_id=0, eos_token_id=1, pad_token_id=-1))
    (notice,) = check_modes(new_lora("sft", base, 64))
    for part in ("bos_token_id 0 (the tokenizer has 1)", "eos_token_id 1 (the tokenizer has 2)", "pad_token_id -1"):
        assert part in notice
    several = base_of(made("several", 64, eos_token_id=[2, 7], pad_token_id=0))
    assert check_modes(new_lora("sft", several, 64)) == []


def test_config_with_another_vocabulary_than_the_weights(made, tmp_path):
    """Problem 4: a merge that forgot vocab_size leaves 32000 in config.json."""
    base = tiny_llama(tmp_path / "m", vocab_size=80, **SMALL)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"vocab_size": 64}))
    with pytest.raises(UserError, match=r"\[80, 8\], config.json makes it \[64, 8\]; write vocab_size 80"):
        check_modes(new_lora("sft", base_of(base), 80))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"target_modules": ("q_porj",)}, "did you mean q_proj"),
        ({"modules_to_save": ("embed_token",)}, "did you mean embed"),
    ],
)
def test_module_names_are_checked_by_header(made, values, message):
    facts = new_lora("sft", base_of(made("grow-False", 64)), 64)
    with pytest.raises(UserError, match=message):
        check_modes(dataclasses.replace(facts, **values))


def test_nothing_is_loaded(made, tmp_path, monkeypatch):
    base = made("base-32000", LLAMA)
    adapter = tiny_adapter(tmp_path / "chinese-alpaca-2-lora-7b", base, embedding_rows=V2, style="safetensors")
    monkeypatch.setattr("hanlin.model.weights.WeightIndex.load", lambda *_: pytest.fail("a tensor was loaded"))
    check_modes(continued("sft", base_of(base), V2, adapter))


def test_adapter_without_a_base(made, tmp_path):
    adapter = tiny_adapter(tmp_path / "a", made("grow-False", 64))
    with pytest.raises(UserError, match="name its base with --model"):
        check_modes(Facts(verb="pt", base=None, tokenizer=tokenizer(64), adapter=read_adapter(adapter)))


def test_rows_are_compared_in_the_narrower_type(made, tmp_path):
    """The merged base lies in float16, the adapter in float32: equal after rounding is equal."""
    base = made("grow-False", 64)
    adapter = tiny_adapter(tmp_path / "a", base, embedding_rows=80, style="safetensors")
    merged = merge_by_hand(base, adapter, tmp_path / "merged", 80)
    assert open_weights(merged, "--model").tensors["lm_head.weight"].dtype == torch.float16
    facts = continued("sft", base_of(merged), 80, adapter)
    with pytest.raises(UserError, match="already contains the adapter a"):
        check_modes(facts)
