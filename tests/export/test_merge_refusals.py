"""Each mistake gets one line, and the output folder is as it was before."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hanlin.errors import UserError
from hanlin.export import merge, proof, shards
from hanlin.export.merge import merge_checkpoint
from hanlin.model.identity import Record, read_record, weights_identity, write_record
from hanlin.model.weights import WeightIndex, open_weights
from hanlin.vocab.tokenizer import TextTokenizer

Make = Callable[..., Path]


def assert_nothing_left(tmp_path: Path) -> None:
    assert not (tmp_path / "out").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def edit_weights(adapter: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> None:
    file = adapter / "adapter_model.safetensors"
    save_file({name: change(name, tensor) for name, tensor in load_file(file).items()}, file)


def put_record(folder: Path, base: Path, **changes: Any) -> None:
    values: dict[str, Any] = {
        "kind": "adapter", "stage": "pt", "base_model": str(base), "template": None, "system": None, "chain": (),
        "base_identity": weights_identity(open_weights(base, "base")), "base_vocab_rows": 64, "hanlin_version": "0",
        "tokenizer_identity": TextTokenizer.load(str(folder)).identity,
    }  # fmt: skip
    write_record(folder, Record(**(values | changes)))


def test_reversed_order(tmp_path: Path, make_base: Make, make_adapter: Make) -> None:
    base = make_base()
    first = make_adapter(base, "first", embedding_rows=80)
    second = make_adapter(base, "second", embedding_rows=81)
    with pytest.raises(UserError, match=r"80 vocabulary rows and .*second before it has 81.*the order is reversed"):
        merge_checkpoint(base, [second, first], tmp_path / "out")
    assert_nothing_left(tmp_path)


def test_smaller_vocabulary_than_the_base(tmp_path: Path, make_base: Make, make_adapter: Make) -> None:
    adapter = make_adapter(make_base("small"), embedding_rows=75)
    with pytest.raises(UserError, match=r"75 vocabulary rows and the base before it has 80"):
        merge_checkpoint(make_base(vocab_size=80), [adapter], tmp_path / "out")


def test_another_base(tmp_path: Path, make_base: Make, make_adapter: Make) -> None:
    base, other = make_base(), make_base("other", seed=9)
    adapter = make_adapter(base)
    put_record(adapter, base)
    with pytest.raises(UserError, match=r"was trained on other weights .*its base was .*base.*--allow_other_base"):
        merge_checkpoint(other, [adapter], tmp_path / "out")
    assert_nothing_left(tmp_path)
    report = merge_checkpoint(other, [adapter], tmp_path / "out", allow_other_base=True, proof="none")
    assert any(notice.startswith("warning:") and "other weights" in notice for notice in report.notices)


def test_an_adapter_of_a_chain(tmp_path: Path, make_base: Make, make_adapter: Make) -> None:
    """The Alpaca-Plus mistake: an adapter that was trained on base + first, merged into the base alone."""
    base = make_base()
    first = make_adapter(base, "first", embedding_rows=80)
    put_record(first, base)
    merge_checkpoint(base, [first], tmp_path / "middle", proof="none")
    middle = read_record(tmp_path / "middle")
    assert middle is not None
    second = make_adapter(tmp_path / "middle", "second", embedding_rows=81, seed=3)
    put_record(second, tmp_path / "middle", chain=middle.chain, base_vocab_rows=80)
    with pytest.raises(UserError, match=r"with 1 adapter\(s\) already merged in .* here it meets 0"):
        merge_checkpoint(base, [second], tmp_path / "out")
    assert_nothing_left(tmp_path)
    report = merge_checkpoint(base, [first, second], tmp_path / "out", proof="none")
    assert not [notice for notice in report.notices if "warning" in notice or "not checked" in notice]
    # The dtype asked for is that of the result; what lies below the second adapter keeps the one it was trained on.
    merge_checkpoint(base, [first, second], tmp_path / "narrow", dtype=torch.bfloat16, proof="weights")
    # The same chain on a base with other weights is found by the identity of what lies below the second adapter.
    other = make_base("other", seed=9)
    put_record(first, other)
    with pytest.raises(UserError, match="second: was trained on other weights"):
        merge_checkpoint(other, [first, second], tmp_path / "again")


def test_an_adapter_without_record_is_merged_with_a_notice(tmp_path: Path, make_base: Make, make_adapter: Make) -> None:
    base = make_base()
    report = merge_checkpoint(base, [make_adapter(base)], tmp_path / "out", proof="none")
    assert any("no record of its base" in notice for notice in report.notices)


def test_grown_tokenizer_without_embeddings(tmp_path: Path, make_base: Make, make_adapter: Make) -> None:
    base = make_base()
    with pytest.raises(UserError, match=r"80 pieces and the merged embedding has 64 rows: the adapters bring no"):
        merge_checkpoint(base, [make_adapter(base, pieces=80)], tmp_path / "out")


def test_tokenizers_mixed(tmp_path: Path, make_base: Make, make_adapter: Make) -> None:
    base = make_base()
    adapter = make_adapter(base, embedding_rows=81, pieces=80)  # Alpaca rows with the LLaMA tokenizer
    with pytest.raises(UserError, match=r"80 pieces and the merged embedding has 81 rows.*mixed"):
        merge_checkpoint(base, [adapter], tmp_path / "out")
    smaller = make_adapter(base, "smaller", embedding_rows=80, pieces=81)
    with pytest.raises(UserError, match=r"81 pieces and the merged embedding has 80 rows"):
        merge_checkpoint(base, [smaller], tmp_path / "out")
    padded = make_adapter(base, "padded", embedding_rows=80, pieces=75)
    report = merge_checkpoint(base, [padded], tmp_path / "out", proof="none")
    assert any("80 rows for 75 pieces; the last 5 are padding" in notice for notice in report.notices)


def test_tokenizer_of_another_training(tmp_path: Path, make_base: Make, make_adapter: Make) -> None:
    base = make_base()
    adapter = make_adapter(base)
    put_record(adapter, base, tokenizer_identity="0" * 64)
    with pytest.raises(UserError, match="not the one that the last adapter was trained with"):
        merge_checkpoint(base, [adapter], tmp_path / "out")


def test_no_tokenizer_anywhere(tmp_path: Path, make_base: Make) -> None:
    from tiny import tiny_adapter

    base = make_base(vocab_size=50)
    with pytest.raises(UserError, match=r"holds a tokenizer.*--tokenizer PATH"):
        merge_checkpoint(base, [tiny_adapter(tmp_path / "adapter", base)], tmp_path / "out")


def test_widths(tmp_path: Path, make_base: Make, make_adapter: Make) -> None:
    adapter = make_adapter(make_base("narrow", hidden=16))
    with pytest.raises(UserError, match=r"_proj\.weight is \[16, .* and the base has \[32, "):
        merge_checkpoint(make_base(), [adapter], tmp_path / "out")
    deeper = make_adapter(make_base("deep", layers=3), "deeper")
    with pytest.raises(UserError, match=r"changes model\.layers\.2\..*which the base does not have"):
        merge_checkpoint(tmp_path / "base", [deeper], tmp_path / "out")


def test_head_and_embedding_of_different_length(tmp_path: Path, make_base: Make, make_adapter: Make) -> None:
    tied = make_base("tied", tied=True)
    adapter = make_adapter(tied, embedding_rows=80)  # embed_tokens only
    with pytest.raises(UserError, match=r"embed_tokens\.weight has 80 rows and lm_head\.weight has 64"):
        merge_checkpoint(make_base(), [adapter], tmp_path / "out")


def test_nothing_changes(tmp_path: Path, make_base: Make, make_adapter: Make) -> None:
    base = make_base(dtype="bfloat16")
    adapter = make_adapter(base, style="safetensors")
    edit_weights(adapter, lambda name, tensor: tensor * 1e-5 if "lora_B" in name else tensor)
    # Only weights that happen to be near zero move: merged, but the user is told that the effect is gone.
    report = merge_checkpoint(base, [adapter], tmp_path / "out", overwrite=True)
    assert any("rounding to bfloat16 moves the logits by" in notice for notice in report.notices)
    shutil.rmtree(tmp_path / "out")
    edit_weights(adapter, lambda name, tensor: tensor * 1e-7 if "lora_B" in name else tensor)
    with pytest.raises(UserError, match=r"changes nothing: every updated weight rounds to what it was in bfloat16"):
        merge_checkpoint(base, [adapter], tmp_path / "out")
    edit_weights(adapter, lambda name, tensor: tensor * 0 if "lora_B" in name else tensor)
    with pytest.raises(UserError, match="changes nothing: every low-rank update is zero"):
        merge_checkpoint(base, [adapter], tmp_path / "out")
    assert_nothing_left(tmp_path)


def test_a_result_that_is_not_finite(tmp_path: Path, make_base: Make, make_adapter: Make) -> None:
    base = make_base(dtype="float16")
    adapter = make_adapter(base, style="safetensors")
    edit_weights(adapter, lambda name, tensor: tensor * 1e5 if "lora_B" in name else tensor)
    with pytest.raises(UserError, match="is not finite after the merge in float16"):
        merge_checkpoint(base, [adapter], tmp_path / "out")
    assert_nothing_left(tmp_path)


def test_quantised_base(tmp_path: Path, make_base: Make, make_adapter: Make) -> None:
    base = make_base()
    adapter = make_adapter(base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(UserError, match=r"the base is quantised \(gptq\)"):
        merge_checkpoint(base, [adapter], tmp_path / "out")


def test_output_folders(tmp_path: Path, make_base: Make, make_adapter: Make) -> None:
    base = make_base()
    adapter = make_adapter(base)
    out = tmp_path / "out"
    out.mkdir()
    (out / "diary.txt").write_text("dear diary")
    with pytest.raises(UserError, match=r"is not empty.*--overwrite"):
        merge_checkpoint(base, [adapter], out)
    with pytest.raises(UserError, match="holds no model"):
        merge_checkpoint(base, [adapter], out, overwrite=True)
    with pytest.raises(UserError, match="holds the input"):
        merge_checkpoint(base, [adapter], base, overwrite=True)
    with pytest.raises(UserError, match="holds the input"):
        merge_checkpoint(base, [adapter], tmp_path, overwrite=True)
    assert (out / "diary.txt").read_text() == "dear diary"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_full_disk(
    tmp_path: Path, make_base: Make, make_adapter: Make, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    base = make_base()
    adapter = make_adapter(base)
    out = tmp_path / "out"
    merge_checkpoint(base, [adapter], out, proof="none")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    written = 0

    def save(tensors: Mapping[str, torch.Tensor], path: Path, metadata: Any = None) -> None:
        nonlocal written
        written += 1
        if written == 2:
            raise error
        save_file(dict(tensors), path, metadata=metadata)

    monkeypatch.setattr(shards, "save_file", save)
    with pytest.raises(UserError, match=r"no space left on the disk.*nothing was left behind"):
        merge_checkpoint(base, [adapter], out, overwrite=True, max_shard_bytes=20_000)
    assert written == 2
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before, "the older model is untouched"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_too_small_a_disk_is_refused_before(
    tmp_path: Path, make_base: Make, make_adapter: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "free_bytes", lambda target: 1000)
    base = make_base()
    with pytest.raises(UserError, match=r"needs 0\.00 GB and the disk has 0\.00 GB free"):
        merge_checkpoint(base, [make_adapter(base)], tmp_path / "out")


def test_overwrite_replaces_a_model(tmp_path: Path, make_base: Make, make_adapter: Make) -> None:
    base = make_base()
    first = merge_checkpoint(base, [make_adapter(base)], tmp_path / "out", proof="none", max_shard_bytes=20_000)
    other = make_adapter(base, "other", seed=4)
    second = merge_checkpoint(base, [other], tmp_path / "out", proof="none", overwrite=True)
    assert first.identity != second.identity
    assert [path.name for path in sorted((tmp_path / "out").glob("*.safetensors*"))] == ["model.safetensors"]


def test_proof_of_weights_finds_one_wrong_element(
    tmp_path: Path, make_base: Make, make_adapter: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_base(dtype="bfloat16")
    adapter = make_adapter(base)
    honest = merge.merge_tensor

    def wrong(plan: Any, name: str) -> Any:
        tensor, change = honest(plan, name)
        if name == "model.layers.1.mlp.up_proj.weight":
            tensor[3, 5] += 0.25
        return tensor, change

    monkeypatch.setattr(merge, "merge_tensor", wrong)
    with pytest.raises(UserError, match=r"layers\.1\.mlp\.up_proj\.weight is not base \+ update"):
        merge_checkpoint(base, [adapter], tmp_path / "out", proof="weights")
    assert_nothing_left(tmp_path)


def test_proof_of_weights_finds_a_disk_that_lies(
    tmp_path: Path, make_base: Make, make_adapter: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_base()
    adapter = make_adapter(base)

    def save(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
        save_file({name: tensor * (1 + 1e-6) for name, tensor in tensors.items()}, path, metadata={"format": "pt"})

    monkeypatch.setattr(shards, "write_shard", save)
    with pytest.raises(UserError, match="is not on the disk as it was written"):
        merge_checkpoint(base, [adapter], tmp_path / "out", proof="weights")
    assert_nothing_left(tmp_path)


def test_proof_of_logits_finds_a_missing_adapter(
    tmp_path: Path, make_base: Make, make_adapter: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The written model is the base itself: what a merge that changed nothing would look like."""
    base = make_base(dtype="bfloat16")
    adapter = make_adapter(base)
    monkeypatch.setattr(proof, "_written_model", lambda *_: proof.load_model(base, dtype=torch.float32))
    with pytest.raises(UserError, match=r"logits of the merged model differ from base \+ adapter"):
        merge_checkpoint(base, [adapter], tmp_path / "out")
    assert_nothing_left(tmp_path)


def test_without_memory_the_logits_are_left_out_loudly(
    tmp_path: Path, make_base: Make, make_adapter: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "available_memory", lambda: 1000)
    base = make_base()
    report = merge_checkpoint(base, [make_adapter(base)], tmp_path / "out")
    assert report.logits_proof is None and report.weights_proof is not None
    assert any("the weights were proved, the logits were not" in notice for notice in report.notices)


def test_a_base_that_names_wrong_special_ids_is_pointed_out(
    tmp_path: Path, make_base: Make, make_adapter: Make
) -> None:
    base = make_base(bos_token_id=0, eos_token_id=1)
    report = merge_checkpoint(base, [make_adapter(base)], tmp_path / "out", proof="none")
    assert any("eos_token_id 1 and the tokenizer has 2" in notice for notice in report.notices)


def test_index_is_only_headers(make_base: Make, make_adapter: Make, tmp_path: Path) -> None:
    """A reversed order is refused without reading a weight."""
    base = make_base()
    first = make_adapter(base, "first", embedding_rows=80, style="safetensors")
    second = make_adapter(base, "second", embedding_rows=81, style="safetensors")
    load, WeightIndex.load = WeightIndex.load, None  # type: ignore[assignment, method-assign]
    try:
        with pytest.raises(UserError, match="the order is reversed"):
            merge_checkpoint(base, [second, first], tmp_path / "out")
    finally:
        WeightIndex.load = load  # type: ignore[method-assign]


def test_a_published_plus_adapter_on_the_original_llama(tmp_path: Path) -> None:
    """Specification 1.2: Alpaca-Plus belongs on LLaMA into which LLaMA-Plus is merged; it carries no record."""
    from tiny import tiny_adapter, tiny_llama

    base = tiny_llama(tmp_path / "llama-7b", vocab_size=32000, hidden=8, layers=1, heads=2)
    adapter = tiny_adapter(tmp_path / "chinese-alpaca-plus-lora-7b", base, embedding_rows=49954, rank=2)
    shutil.copytree(_published_tokenizer(tmp_path), adapter, dirs_exist_ok=True)
    with pytest.raises(UserError, match="does not belong on the original LLaMA"):
        merge_checkpoint(base, [adapter], tmp_path / "out")
    assert_nothing_left(tmp_path)


def _published_tokenizer(tmp_path: Path) -> Path:
    """A byte-level tokenizer of 49,954 tokens, as only its length matters here."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({f"t{i}": i for i in range(49954)}, unk_token="t0"))
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"
