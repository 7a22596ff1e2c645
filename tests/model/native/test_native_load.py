"""Loading foreign checkpoints: every file form, what is saved, what is refused, what memory and dtypes do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM

from golden import VARIANTS, cases, formula, run_logits, tensors_of, worst, write_case, write_tensors
from hanlin.errors import UserError
from hanlin.model.attention import packing_leak
from hanlin.model.identity import weights_identity
from hanlin.model.load import load_config, load_model, open_base
from hanlin.model.native import baichuan13b, own_types
from hanlin.model.native.baichuan13b import AlibiLlamaModel, alibi_slopes, visible
from hanlin.model.native.head import NormalisedLinear, divide_for_good
from hanlin.model.native.recognise import FAMILIES
from hanlin.model.weights import open_weights

ALL = sorted(VARIANTS)
OLD_NAMES = ("transformer.", "W_pack", "c_attn", "query_key", "wqkv", "feed_forward", "tok_emb")
ALIBI = ["baichuan-13b", "baichuan2-13b"]


def short(name: str) -> Any:
    """The first run of a case in evaluation mode that no long-context rule touches."""
    return {**next(run for run in cases()[name]["runs"] if len(run["input_ids"][0]) <= 16), "training": False}


@pytest.mark.parametrize("format", ["safetensors", "bin"])
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("name", ALL)
def test_every_form_of_files(tmp_path: Path, name: str, format: str, shards: int) -> None:
    directory = write_case(tmp_path / "m", name, format=format, shards=shards)
    assert len(open_weights(directory, "--model").files) == shards
    assert worst(load_model(directory, dtype=torch.float32), short(name)) <= 1e-5


def test_a_bin_file_of_before_torch_1_6(tmp_path: Path) -> None:
    directory = write_case(tmp_path / "m", "chatglm2", format="bin")
    torch.save(tensors_of("chatglm2"), directory / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert worst(load_model(directory, dtype=torch.float32), short("chatglm2")) <= 1e-5


@pytest.mark.parametrize("name", ALL)
def test_saved_folders_are_native(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain transformers reads them: same logits, same tensors, no name of 2023. ALiBi needs its class made known."""
    model = load_model(write_case(tmp_path / "m", name), dtype=torch.float32)
    model.save_pretrained(tmp_path / "saved")
    values = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert "auto_map" not in values and values["hanlin_family"] == VARIANTS[name]
    with safe_open(tmp_path / "saved" / "model.safetensors", framework="pt") as handle:
        names = list(handle.keys())
    assert not [key for key in names if any(old in key for old in OLD_NAMES)]
    if name in ALIBI:
        with pytest.raises((ValueError, KeyError), match=values["model_type"]):
            AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
        own_types.register()
        own_types.register()
    try:
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    finally:
        if name in ALIBI:
            unregister()
    run = short(name)
    with torch.no_grad():
        assert torch.equal(run_logits(model, run), run_logits(again, run))
    assert worst(load_model(tmp_path / "saved", dtype=torch.float32), run) <= 1e-5
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key]), key
    assert again.generation_config.eos_token_id == model.generation_config.eos_token_id


def unregister() -> None:
    """Take our types out of the Auto classes again, so that no test depends on another's order."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    for name, (config, _) in own_types.OWN_TYPES.items():
        CONFIG_MAPPING._extra_content.pop(name, None)
        MODEL_FOR_CAUSAL_LM_MAPPING._extra_content.pop(config, None)


@pytest.mark.parametrize("name", ALL)
def test_the_index_has_the_tensors_of_the_live_model(tmp_path: Path, name: str) -> None:
    directory = write_case(tmp_path / "m", name, shards=2)
    index = open_base(directory, "--model")
    model = load_model(directory, dtype=torch.float32)
    state = model.state_dict()
    assert index.shapes() == {key: tuple(tensor.shape) for key, tensor in state.items()}
    finished = index.finished()
    for key, tensor in state.items():
        assert torch.equal(finished.load(key), tensor), key
        assert torch.equal(finished.load_rows(key, [1, 0]), tensor[[1, 0]]), key
    # One identity for one set of weights, whatever the files are; a saved native folder has it too.
    other = write_case(tmp_path / "other", name, format="bin")
    assert weights_identity(open_base(other, "--model")) == weights_identity(index)
    model.save_pretrained(tmp_path / "saved")
    assert weights_identity(open_base(tmp_path / "saved", "--model")) == weights_identity(finished)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ALL)
def test_half_precision_never_touches_the_rotary_tables(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    model = load_model(write_case(tmp_path / "m", name, dtype=dtype), dtype=dtype, purpose="answers")
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    buffers = dict(model.named_buffers())
    assert bool(buffers) == (name not in ALIBI)
    exact = load_model(write_case(tmp_path / "f", name), dtype=torch.float32)
    for key, buffer in buffers.items():
        assert buffer.dtype == torch.float32
        assert torch.equal(buffer, dict(exact.named_buffers())[key])
    with torch.no_grad():
        run = short(name)
        difference = run_logits(model, run).float() - run_logits(exact, run)
    assert float(difference.abs().max()) < (0.3 if dtype == torch.bfloat16 else 0.05)


@pytest.mark.parametrize("back_end", ["sdpa", "eager"])
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_packed_documents_do_not_see_one_another(
    tmp_path: Path, name: str, back_end: str, columns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if columns:
        monkeypatch.setattr(AlibiLlamaModel, "most_added", 0)
    directory = write_case(tmp_path / "m", name)
    for purpose in ("any", "answers"):
        model = load_model(directory, dtype=torch.float32, attn_implementation=back_end, purpose=purpose)
        assert packing_leak(model) == 0.0


def test_a_checkpoint_of_mixed_parts_is_refused(tmp_path: Path) -> None:
    def without(part: str) -> Any:
        return lambda tensors: {key: tensor for key, tensor in tensors.items() if part not in key}

    for change, message in (
        (without("h.1.attn.c_attn.bias"), r"lacks 3 weights of a qwen2 model, such as model\.layers\.1\.self_attn\.k_"),
        (lambda t: {**t, "transformer.h.0.attn.extra.weight": torch.ones(2, 2)}, r"unknown 1 weights .*attn\.extra"),
        (
            lambda t: {**t, "transformer.h.0.attn.c_attn.bias": torch.ones(95)},
            r"c_attn\.bias has shape \[95\].*32 \+ 3",
        ),
        (lambda t: {**t, "lm_head.weight": torch.ones(41, 32)}, r"lm_head\.weight has shape \[41, 32\]"),
    ):
        directory = write_case(tmp_path / "m", "qwen-v1", change=change)
        with pytest.raises(UserError, match=message):
            load_model(directory, dtype=torch.float32)


def test_constants_of_old_checkpoints_are_ignored(tmp_path: Path) -> None:
    extra = {
        "qwen-v1": ["transformer.rotary_emb.inv_freq", "transformer.h.0.attn.masked_bias"],
        "baichuan-7b": [
            "model.layers.0.self_attn.rotary_emb.inv_freq",
            "model.layers.1.self_attn.rotary_emb.cos_cached",
        ],
        "chatglm2": ["transformer.rotary_pos_emb.inv_freq"],
        "internlm-7b": ["model.layers.0.self_attn.rotary_emb.inv_freq"],
        "internlm2": [f"model.layers.{n}.attention.{part}.inv_freq" for n in (0, 1) for part in ("rotary_emb", "rope")],
    }
    for name, keys in extra.items():
        more = dict.fromkeys(keys, torch.full((4,), torch.nan))
        directory = write_case(tmp_path / name, name, change=lambda tensors, more=more: {**tensors, **more})
        assert worst(load_model(directory, dtype=torch.float32), short(name)) <= 1e-5


def test_pickled_code_is_refused(tmp_path: Path) -> None:
    directory = write_case(tmp_path / "m", "internlm-7b", format="bin")
    torch.save({"model.norm.weight": torch.ones(32), "evil": Path("/")}, directory / "pytorch_model.bin")
    with pytest.raises(UserError, match="needs Python code to be executed"):
        load_model(directory, dtype=torch.float32)


# ---- recognising ----

GLM = {"model_type": "chatglm", "multi_query_attention": True}
BAICHUAN = {"model_type": "baichuan", "hidden_size": 4096, "num_attention_heads": 32}


@pytest.mark.parametrize(
    ("values", "family"),
    [
        ({**BAICHUAN, "vocab_size": 64000, "max_position_embeddings": 4096}, "baichuan-7b"),
        ({**BAICHUAN, "vocab_size": 125696, "max_position_embeddings": 4096, "model_max_length": 4096}, "baichuan2-7b"),
        ({**BAICHUAN, "hidden_size": 5120, "vocab_size": 64000, "model_max_length": 4096}, "baichuan-13b"),
        ({**BAICHUAN, "hidden_size": 5120, "vocab_size": 125696, "model_max_length": 4096}, "baichuan2-13b"),
        ({**BAICHUAN, "vocab_size": 64010, "max_position_embeddings": 1}, r"vocab_size is 64010.*hanlin_family"),
        ({**BAICHUAN, "vocab_size": 64000}, r"does not tell rotary positions \(7B\) from ALiBi"),
        (
            {**BAICHUAN, "hidden_size": 5120, "num_attention_heads": 40, "vocab_size": 64000,
             "max_position_embeddings": 4096}, r"does not tell rotary.*max_position_embeddings 4096.*hidden_size 5120",
        ),
        ({**BAICHUAN, "hanlin_family": "baichuan3"}, r"hanlin_family is 'baichuan3'; expected one of baichuan-7b"),
        ({"model_type": "qwen"}, "qwen"),
        ({"model_type": "qwen", "visual": {"width": 1}}, "qwen-vl"),
        ({"model_type": "qwen", "audio": {"width": 1}}, "audio is set: Qwen-Audio"),
        ({"model_type": "qwen", "quantization_config": {"quant_method": "gptq"}}, r"quantization_config is set.*gptq"),
        ({"model_type": "chatglm", "inner_hidden_size": 1}, "inner_hidden_size is set: ChatGLM-6B of the first"),
        ({"model_type": "chatglm"}, "padded_vocab_size or multi_query_attention is missing"),
        ({**GLM, "padded_vocab_size": 151552, "rope_ratio": 500}, "chatglm3"),
        ({**GLM, "padded_vocab_size": 65024, "rope_ratio": 50, "_name_or_path": "THUDM/chatglm3-6b-128k"}, "chatglm3"),
        ({**GLM, "padded_vocab_size": 65024, "rope_ratio": 50}, "ChatGLM2 divides positions by it"),
        ({"model_type": "internlm2"}, "internlm2"),
    ],
)  # fmt: skip
def test_recognised_or_refused_by_field(tmp_path: Path, values: dict[str, Any], family: str) -> None:
    from hanlin.model.native.recognise import recognise

    if family in FAMILIES:
        assert recognise(tmp_path, values) is FAMILIES[family]
    else:
        with pytest.raises(UserError, match=family):
            recognise(tmp_path, values)


def test_rotary_tables_tell_baichuan_7b(tmp_path: Path) -> None:
    """Where the config does not: a stored rotary table is found by its name."""
    values = {"max_position_embeddings": None, "model_max_length": 64, "hanlin_family": None, "vocab_size": 64000}
    with pytest.raises(UserError, match=r"lm_head\.weight|embed_tokens\.weight"):  # not 64000 rows
        write_case(tmp_path / "m", "baichuan-7b", **values)
        load_model(tmp_path / "m", dtype=torch.float32)
    assert load_config(tmp_path / "m").model_type == "hanlin_alibi_llama"
    tables = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    write_case(tmp_path / "t", "baichuan-7b", change=lambda tensors: {**tensors, **tables}, **values)
    assert load_config(tmp_path / "t").model_type == "llama"


def test_the_caller_may_name_the_family(tmp_path: Path) -> None:
    directory = write_case(tmp_path / "m", "baichuan2-7b", hanlin_family=None)
    model = load_model(directory, dtype=torch.float32, variant="baichuan2-7b")
    assert worst(model, short("baichuan2-7b")) <= 1e-5


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("qwen-v1", {"no_bias": False}, "no_bias is False"),
        ("qwen-v1", {"rotary_pct": 0.5}, "rotary_pct is 0.5"),
        ("qwen-v1", {"kv_channels": 16}, "kv_channels is 16: 4 heads of it are not hidden_size 32"),
        ("qwen-v1", {"num_hidden_layers": None}, "has no field num_hidden_layers"),
        ("chatglm2", {"add_bias_linear": True}, "add_bias_linear is True"),
        ("chatglm2", {"rmsnorm": False}, "rmsnorm is False"),
        ("chatglm2", {"apply_residual_connection_post_layernorm": True}, "post_layernorm is True"),
        ("chatglm2", {"post_layer_norm": False}, "post_layer_norm is False"),
        ("chatglm2", {"multi_query_attention": False}, "multi_query_attention is False.*interleaved per head"),
        ("chatglm2", {"pre_seq_len": 128}, "pre_seq_len is set"),
        ("chatglm2", {"quantization_bit": 4}, "quantization_bit is set"),
        ("chatglm3", {"vision_config": {"image_size": 1120}}, "vision_config is set: GLM-4V has a second network"),
        ("baichuan-7b", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ("baichuan2-7b", {"z_loss_weight": 0.1}, "z_loss_weight is 0.1"),
        ("internlm-7b", {"rotary": {"type": "yarn"}}, "rotary.type is 'yarn'"),
        ("internlm-7b", {"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ("xverse", {"rope_scaling": {"type": "linear"}}, "rope_scaling is set"),
        ("internlm2", {"rope_scaling": {"type": "yarn", "factor": 2.0}}, r"rope_scaling\.type is 'yarn'"),
        ("internlm2", {"rope_scaling": {"type": "dynamic"}}, r"rope_scaling\.factor is None"),
        ("internlm2", {"rope_scaling": {"type": "dynamic", "factor": 0.5}}, r"rope_scaling\.factor is 0\.5"),
        ("internlm2", {"rope_scaling": "dynamic"}, "rope_scaling is 'dynamic'; expected an object"),
        ("internlm2", {"num_key_value_heads": 3}, "num_key_value_heads is 3: 4 query heads cannot be shared"),
        ("internlm2", {"num_key_value_heads": 1}, r"wqkv\.weight has shape \[64, 32\]; expected 32 \+ 8 \+ 8 rows"),
        ("internlm2", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    ],
)
def test_what_cannot_be_expressed_is_refused_by_its_field(
    tmp_path: Path, name: str, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load_model(write_case(tmp_path / "m", name, **fields), dtype=torch.float32)


def test_code_of_no_family_names_what_could_serve(tmp_path: Path) -> None:
    def config(**values: Any) -> Path:
        (tmp_path / "config.json").write_text(json.dumps(values))
        return tmp_path

    code = {"AutoConfig": "configuration_x.XConfig", "AutoModelForCausalLM": "modeling_x.XForCausalLM"}
    for model_type, hint in (
        ("Yi", "model_type 'llama' could serve"),
        ("phi-msft", "'phi'"),
        ("new", "qwen, qwen-vl, baichuan"),
    ):
        with pytest.raises(UserError, match=rf"modeling_x\.XForCausalLM\), which is never executed.*{hint}"):
            load_config(config(model_type=model_type, auto_map=code))
    with pytest.raises(UserError, match="own phi3 could serve: remove auto_map"):
        load_config(config(model_type="phi3", auto_map=code))
    # The published copy of a class that transformers has itself is not needed.
    copy = {"AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"}
    assert load_config(config(model_type="phi3", auto_map=copy)).model_type == "phi3"


def test_the_first_spelling_of_qwen_is_read(tmp_path: Path) -> None:
    old = {
        "n_embd": 32, "n_layer": 2, "n_head": 4, "ffn_hidden_size": 96, "n_positions": 64, "padded_vocab_size": 40,
        "hidden_size": None, "num_hidden_layers": None, "num_attention_heads": None, "intermediate_size": None,
        "max_position_embeddings": None, "vocab_size": 38,
    }  # fmt: skip
    model = load_model(write_case(tmp_path / "m", "qwen-v1", **old), dtype=torch.float32)
    assert worst(model, short("qwen-v1")) <= 1e-5


def test_rope_ratio_has_two_meanings(tmp_path: Path) -> None:
    def rope(folder: str, family: str | None = None, code: str | None = None) -> Any:
        directory = write_case(tmp_path / folder, "chatglm2", hanlin_family=family, rope_ratio=50)
        if code:
            (directory / "modeling_chatglm.py").write_text(code)
        return load_config(directory).rope_parameters

    divided = {"rope_type": "linear", "factor": 50.0, "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    multiplied = {"rope_type": "default", "rope_theta": 500000.0, "partial_rotary_factor": 0.5}
    assert rope("chatglm2-6b-32k") == rope("a", "chatglm2") == rope("b", code="x = seq / self.rope_ratio") == divided
    assert rope("chatglm3-6b-32k") == rope("c", "chatglm3") == rope("d", code="base = base * rope_ratio") == multiplied
    with pytest.raises(UserError, match="ChatGLM2 divides positions by it, ChatGLM3 multiplies the base"):
        rope("unknown")


def test_the_divided_positions_of_chatglm2_32k(tmp_path: Path) -> None:
    """Dividing positions by 1 is the golden model, and by 2 it is another one: the golden logits at halved places."""
    run = short("chatglm2")
    once = load_model(write_case(tmp_path / "chatglm2-1", "chatglm2", rope_ratio=1), dtype=torch.float32)
    twice = load_model(write_case(tmp_path / "chatglm2-2", "chatglm2", rope_ratio=2), dtype=torch.float32)
    ids = torch.tensor(run["input_ids"])
    far = 2 * torch.arange(ids.shape[1]).expand(len(ids), -1)
    mask = torch.ones_like(ids)  # with a mask, distances in position_ids are no packing
    with torch.no_grad():
        expected = once(input_ids=ids, attention_mask=mask).logits
        assert torch.allclose(twice(input_ids=ids, attention_mask=mask, position_ids=far).logits, expected, atol=1e-5)
        assert float((twice(input_ids=ids, attention_mask=mask).logits - expected).abs().max()) > 0.01


def test_internlm_with_dynamic_rotary(tmp_path: Path) -> None:
    directory = write_case(
        tmp_path / "m", "internlm-7b", rotary={"type": "dynamic", "base": 10000, "scaling_factor": 1.0}
    )
    model = load_model(directory, dtype=torch.float32)
    assert model.config.rope_parameters["rope_type"] == "dynamic"
    assert worst(model, short("internlm-7b")) <= 1e-5


# ---- stop ids ----


def test_stop_ids(tmp_path: Path) -> None:
    def stops(name: str, rows: int, generation: dict[str, Any] | None = None, **config: Any) -> Any:
        from hanlin.model.load import generation_values

        directory = write_case(tmp_path / "m", name, vocab_size=rows, **config)
        file = directory / "generation_config.json"
        file.unlink(missing_ok=True)
        if generation:
            file.write_text(json.dumps(generation))
        values = generation_values(directory)
        assert values is not None
        return values["eos_token_id"]

    chat = {"chat_format": "chatml", "eos_token_id": 151643, "pad_token_id": 151643, "stop_words_ids": [[151643]]}
    assert stops("qwen-v1", 151936, chat) == [151645, 151644, 151643]
    assert stops("qwen-v1", 151936, {"chat_format": "raw", "eos_token_id": 151643}) == 151643
    assert stops("qwen-v1", 151936) == 151643
    assert stops("internlm-7b", 103168) == [2, 103028]
    assert stops("internlm2", 92544) == [2, 92542] == stops("internlm2", 92544, {"eos_token_id": [2, 92542]})
    assert stops("chatglm3", 40, eos_token_id=[36, 37, 38]) == [36, 37, 38]
    assert stops("baichuan-7b", 64000) == 2
    assert stops("xverse", 100278) == 3
    assert stops("chatglm2", 40) == 2


def test_the_live_model_stops_where_the_checkpoint_did(tmp_path: Path) -> None:
    directory = write_case(tmp_path / "m", "internlm-7b", rows=103168)
    model = load_model(directory, dtype=torch.float32)
    assert model.generation_config.eos_token_id == [2, 103028] and model.generation_config.pad_token_id == 2
    assert model.name_or_path == model.config._name_or_path == str(directory)  # what PEFT writes into adapters


# ---- ALiBi ----


def test_slopes_of_a_number_of_heads_that_is_no_power_of_two() -> None:
    assert alibi_slopes(8) == [2.0**-k for k in range(1, 9)]
    assert alibi_slopes(40) == [2 ** (-k / 4) for k in range(1, 33)] + [2 ** (-(2 * k - 1) / 8) for k in range(1, 9)]
    assert alibi_slopes(6) == [2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8, 2.0**-1, 2.0**-3]


def test_who_sees_whom() -> None:
    """Causal within a segment, nothing across; padding sees itself alone, so that no row of scores is empty."""
    plain = {"rows": 1, "num_queries": 4, "past": 0}
    assert visible(None, None, **plain) is None
    assert visible(None, torch.arange(4)[None], **plain) is None
    assert visible(torch.ones(1, 4), None, **plain) is None
    assert visible(torch.tensor([[1, 1, 0, 0]]), None, **plain) is None  # behind all that is real
    packed = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]
    for found in (
        visible(None, torch.tensor([[0, 1, 0, 1]]), **plain),
        visible(torch.tensor([[1, 1, 2, 2]]), None, **plain),
    ):
        assert found is not None and found[0, 0].int().tolist() == packed
    padded = visible(torch.tensor([[0, 1, 1, 1]]), None, **plain)
    assert padded is not None and padded[0, 0].int().tolist() == [
        [1, 0, 0, 0],
        [0, 1, 0, 0],
        [0, 1, 1, 0],
        [0, 1, 1, 1],
    ]
    step = visible(torch.tensor([[0, 1, 1, 1]]), None, rows=1, num_queries=1, past=3)
    assert step is not None and step[0, 0].int().tolist() == [[0, 1, 1, 1]]


def alibi(tmp_path: Path, dtype: torch.dtype = torch.float32) -> Any:
    return load_model(write_case(tmp_path / "m", "baichuan-13b"), dtype=dtype).eval()


MASKS: dict[str, Any] = {
    "none": None,
    "right padding": [[1] * 24, [1] * 19 + [0] * 5],
    "left padding": [[1] * 24, [0] * 7 + [1] * 17],
    "segments": [[1] * 9 + [2] * 15, [1] * 5 + [2] * 10 + [3] * 7 + [0] * 2],
}


@pytest.mark.parametrize("mask", list(MASKS))
def test_columns_are_the_bias(tmp_path: Path, mask: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The form without a tensor of heads * T * T, against the form with one."""
    model = alibi(tmp_path)
    ids = torch.arange(48).reshape(2, 24) % 40
    attention_mask = None if MASKS[mask] is None else torch.tensor(MASKS[mask])
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=attention_mask).logits
        monkeypatch.setattr(AlibiLlamaModel, "most_added", 0)
        found = model(input_ids=ids, attention_mask=attention_mask).logits
    kept = torch.ones(2, 24, dtype=torch.bool) if attention_mask is None else attention_mask != 0
    assert torch.allclose(found[kept], expected[kept], atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_columns_carry_far_positions(tmp_path: Path, dtype: torch.dtype) -> None:
    """700 positions are beyond the 256 that one bfloat16 column holds; the reference is the bias in float32."""
    directory = write_case(tmp_path / "m", "baichuan-13b", dtype=torch.bfloat16)
    ids = torch.randint(0, 40, (1, 700), generator=torch.Generator().manual_seed(0))

    def logits(dtype: torch.dtype, most_added: int) -> Tensor:
        model = load_model(directory, dtype=dtype).eval()
        model.model.most_added = most_added
        with torch.no_grad():
            return model(input_ids=ids).logits.float()

    reference = logits(torch.float32, 10**9)
    columns, added = (float((logits(dtype, most) - reference).norm() / reference.norm()) for most in (0, 10**9))
    # In half precision all else is rounded too: measured 0.0283 and 0.0281 in bfloat16, 0.0036 both in float16.
    assert columns < (1e-5 if dtype == torch.float32 else 1.03 * added)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-7), (torch.bfloat16, 2**-16), (torch.float16, 2**-17)])
def test_the_products_of_the_columns_are_slope_times_position(dtype: torch.dtype, error: float) -> None:
    """For the 40 heads of 128 of the released models, in exact arithmetic on the numbers that the dtype holds."""
    slopes, scale = torch.tensor(alibi_slopes(40)), 128**-0.5
    queries = baichuan13b._query_columns(slopes / scale, dtype).double()
    keys = baichuan13b._key_columns(4096, torch.device("cpu")).to(dtype).double()
    assert queries.shape == (40, 1, 8) and keys.shape == (4096, 8)
    expected = slopes[:, None].double() / scale * torch.arange(4096)
    found = (queries * keys).sum(dim=-1)
    assert float(((found - expected).abs() / expected.clamp(min=1e-9))[:, 1:].max()) <= error


@pytest.mark.parametrize("form", ["bias", "columns", "eager"])
def test_generation_with_the_cache_is_generation_without(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if form == "columns":
        monkeypatch.setattr(AlibiLlamaModel, "most_added", 0)
    directory = write_case(tmp_path / "m", "baichuan2-13b")
    model = load_model(directory, dtype=torch.float32, attn_implementation="eager" if form == "eager" else None).eval()
    prompt = torch.tensor([[8, 26, 21, 30, 16, 4, 9], [0, 0, 0, 12, 20, 38, 29]])
    mask = torch.tensor([[1] * 7, [0] * 3 + [1] * 4])
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    cached = model.generate(input_ids=prompt, attention_mask=mask, **options)
    whole = model.generate(input_ids=prompt, attention_mask=mask, use_cache=False, **options)
    alone = model.generate(input_ids=prompt[1:, 3:], attention_mask=mask[1:, 3:], **options)
    beams = model.generate(input_ids=prompt, attention_mask=mask, num_beams=3, **options)
    assert torch.equal(cached, whole) and torch.equal(cached[1:, 3:], alone) and beams.shape == cached.shape
    # Several tokens at a time on top of a cache: the first of them does not line up with the first key.
    with torch.no_grad():
        first = model(input_ids=prompt[:1, :4], use_cache=True)
        rest = model(input_ids=prompt[:1, 4:], past_key_values=first.past_key_values, use_cache=True).logits
        assert torch.allclose(rest, model(input_ids=prompt[:1]).logits[:, 4:], atol=1e-5)


@pytest.mark.parametrize("columns", [False, True])
def test_gradient_checkpointing_changes_nothing(tmp_path: Path, columns: bool) -> None:
    model = alibi(tmp_path).train()
    model.model.most_added = 0 if columns else 10**9
    ids = torch.arange(24).reshape(2, 12)

    def gradients() -> dict[str, Tensor]:
        model.zero_grad()
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    plain = gradients()
    model.gradient_checkpointing_enable()
    for name, gradient in gradients().items():
        assert torch.allclose(gradient, plain[name], atol=1e-6), name


# ---- normalised head ----


@pytest.mark.parametrize("name", ["baichuan2-7b", "baichuan2-13b"])
def test_a_trained_normalised_head_is_saved_as_a_plain_one(tmp_path: Path, name: str) -> None:
    run = short(name)
    model = load_model(write_case(tmp_path / "m", name), dtype=torch.float32, purpose="all weights")
    assert isinstance(model.get_output_embeddings(), NormalisedLinear)
    assert torch.equal(model.lm_head.weight, tensors_of(name)["lm_head.weight"])
    # A checkpoint in the middle of training: its own rows, and no plain Llama that would use them as they are.
    model.save_pretrained(tmp_path / "checkpoint")
    with pytest.raises((ValueError, KeyError), match="hanlin_"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint")
    again = load_model(tmp_path / "checkpoint", dtype=torch.float32, purpose="all weights")
    assert torch.equal(again.lm_head.weight, model.lm_head.weight) and worst(again, run) <= 1e-5
    assert worst(load_model(tmp_path / "checkpoint", dtype=torch.float32), run) <= 1e-5
    divide_for_good(model)
    assert type(model.lm_head) is torch.nn.Linear and worst(model, run) <= 1e-5
    model.save_pretrained(tmp_path / "final")
    if name == "baichuan2-7b":
        assert worst(AutoModelForCausalLM.from_pretrained(tmp_path / "final"), run) <= 1e-5
    # Trained again, the family is still known.
    continued = load_model(tmp_path / "final", dtype=torch.float32, purpose="all weights")
    assert isinstance(continued.get_output_embeddings(), NormalisedLinear) and worst(continued, run) <= 1e-5


@pytest.mark.parametrize("name", ["baichuan2-7b", "baichuan2-13b"])
def test_a_grown_normalised_head_still_divides(tmp_path: Path, name: str) -> None:
    from hanlin.model.resize import resize_embeddings

    model = load_model(write_case(tmp_path / "m", name), dtype=torch.float32, purpose="all weights")
    resize_embeddings(model, 48, [[i] if i < 40 else [3, 4] for i in range(48)])
    assert isinstance(model.get_output_embeddings(), NormalisedLinear)
    run = short(name)
    with torch.no_grad():
        old = run_logits(model, run)[..., :40]
    assert torch.allclose(old, torch.tensor(run["logits"]), atol=1e-5)


# ---- what way C is for ----


def test_parts_are_views_of_the_file(tmp_path: Path) -> None:
    directory = write_case(tmp_path / "m", "qwen-v1")
    state = load_model(directory, dtype=torch.float32).state_dict()
    stored = open_weights(directory, "--model").load("transformer.h.0.attn.c_attn.weight")
    parts = [state[f"model.layers.0.self_attn.{name}_proj.weight"] for name in "qkv"]
    assert torch.equal(torch.cat(parts), stored)
    assert all(part.untyped_storage().nbytes() >= stored.nbytes for part in parts)
    before = (directory / "model.safetensors").read_bytes()
    with torch.no_grad():  # a private mapping: training never reaches the file
        for part in parts:
            part.add_(1)
    assert (directory / "model.safetensors").read_bytes() == before


def test_a_pad_id_without_a_row_is_no_padding(tmp_path: Path) -> None:
    model = load_model(write_case(tmp_path / "m", "internlm-7b", pad_token_id=-1), dtype=torch.float32)
    assert model.get_input_embeddings().padding_idx is None


def test_write_tensors_covers_every_tensor(tmp_path: Path) -> None:
    """The helper itself: shards hold all tensors once."""
    tensors = {str(i): formula([2], i, 0.0, 1.0) for i in range(5)}
    write_tensors(tmp_path, tensors, shards=2)
    assert set(open_weights(tmp_path, "--model").tensors) == set(tensors)
