"""Identities depend on contents and on nothing else. Reference: hashlib over the raw bytes, written out here."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from hanlin.errors import UserError
from hanlin.model import identity
from hanlin.model.identity import Record, read_record, tensor_hash, weights_identity, write_record
from hanlin.model.weights import open_weights
from tiny import tiny_llama

RECORD = Record(
    kind="adapter", stage="sft", base_model="底座", base_identity=None, tokenizer_identity="t", template="alpaca",
    system=None, chain=("a", "b"), base_vocab_rows=64, hanlin_version="0.1.0",
)  # fmt: skip


def test_one_identity_in_every_form(tmp_path):
    forms = [
        tiny_llama(tmp_path / f"{format}-{size}", format=format, max_shard_size=size, dtype="bfloat16")
        for format in ("safetensors", "bin")
        for size in ("5GB", "20KB")
    ]
    assert len({weights_identity(open_weights(form, "--model")) for form in forms}) == 1


def test_identity_is_the_documented_hash(tmp_path):
    base = tiny_llama(tmp_path / "m", dtype="float16")
    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(base / "model.safetensors").items()):
        content = hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
        digest.update((json.dumps([name, "float16", list(tensor.shape), content]) + "\n").encode())
    assert weights_identity(open_weights(base, "--model")) == digest.hexdigest()


def test_every_change_of_content_changes_the_identity(tmp_path):
    base = tiny_llama(tmp_path / "m")
    tensors = load_file(base / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"

    def of(changed: dict[str, torch.Tensor]) -> str:
        save_file(changed, base / "model.safetensors")
        return weights_identity(open_weights(base, "--model"))

    bit = tensors[name].clone()
    bit.view(torch.int32)[-1, -1] ^= 1
    seen = {
        of(tensors),
        of(tensors | {name: bit}),
        of(tensors | {name: tensors[name].reshape(64, 32)}),
        of(tensors | {name: tensors[name].view(torch.int32)}),
        of({("x" if n == name else n): t for n, t in tensors.items()}),
        of({n: t for n, t in tensors.items() if n != name}),
    }
    assert len(seen) == 6
    constants = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    assert of(tensors | constants) == of(tensors)


@given(
    st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.uint8]),
    st.lists(st.integers(0, 4), max_size=3),
    st.integers(1, 9),
)
@settings(max_examples=40, deadline=None)
def test_tensor_hash_is_that_of_the_bytes(dtype, shape, chunk):
    tensor = (torch.randn(shape) * 9).to(dtype)
    plain = bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist()) if tensor.numel() else b""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(identity, "_CHUNK", chunk)
        assert tensor_hash(tensor) == hashlib.sha256(plain).hexdigest()
        if tensor.ndim > 1:
            assert tensor_hash(tensor.t().contiguous().t() if tensor.ndim == 2 else tensor) == tensor_hash(tensor)


def test_record_round_trip(tmp_path):
    assert read_record(tmp_path) is None
    write_record(tmp_path / "new", RECORD)
    assert read_record(tmp_path / "new") == RECORD
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["hanlin.json"]
    assert "底座" in (tmp_path / "new" / "hanlin.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "nothing"}, "kind is 'nothing'"),
        ({"chain": [1]}, r"chain is \(1,\)"),
        ({"chain": None}, "chain is None"),
        ({"chain": "abc"}, "chain is 'abc'"),
        ({"base_vocab_rows": "64"}, "base_vocab_rows is '64'"),
        ({"base_vocab_rows": True}, "base_vocab_rows is True"),
        ({"tokenizer_identity": None}, "tokenizer_identity is None"),
    ],
)
def test_a_record_with_a_wrong_value(tmp_path, change, message):
    write_record(tmp_path, RECORD)
    file = tmp_path / "hanlin.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(values | change))
    with pytest.raises(UserError, match=message):
        read_record(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not valid JSON"), ("[]", "holds list"), ("{}", "no field 'kind'")]
)
def test_a_damaged_record(tmp_path, text, message):
    (tmp_path / "hanlin.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read_record(tmp_path)


def test_a_later_field_is_no_fault(tmp_path):
    write_record(tmp_path, RECORD)
    file = tmp_path / "hanlin.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | {"later": 1}))
    assert read_record(tmp_path) == RECORD


def test_a_full_disk_leaves_the_old_record(tmp_path, monkeypatch):
    write_record(tmp_path, RECORD)
    before = (tmp_path / "hanlin.json").read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="No space left"):
        write_record(tmp_path, RECORD)
    assert (tmp_path / "hanlin.json").read_bytes() == before
    assert [Path(f).name for f in tmp_path.iterdir()] == ["hanlin.json"]


def test_a_record_from_before_hubs_were_recorded_is_read(tmp_path):
    write_record(tmp_path, RECORD)
    values = json.loads((tmp_path / "hanlin.json").read_text())
    for name in ("base_hub", "base_revision"):
        assert values.pop(name) is None
    (tmp_path / "hanlin.json").write_text(json.dumps(values))
    assert read_record(tmp_path) == RECORD
    (tmp_path / "hanlin.json").write_text(json.dumps({**values, "base_hub": "elsewhere"}))
    with pytest.raises(UserError, match="base_hub is 'elsewhere'"):
        read_record(tmp_path)
