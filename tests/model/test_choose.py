"""Which model the settings name, on which hub; no network is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hanlin.config.environment import HubEnvironment, read_hub_environment
from hanlin.config.hub import HubConfig
from hanlin.config.parse import parse
from hanlin.config.runs import PtConfig, SftConfig
from hanlin.errors import UserError
from hanlin.model.choose import Choice, choose_model, recorded_access
from hanlin.model.hub import Access
from hanlin.model.identity import Record
from hanlin.model.targets import expand_targets
from hanlin.train.choice import choose

NOTHING = HubEnvironment(use_hf=None, offline=False)


def chosen(
    model: str | None = None,
    model_type: str | None = None,
    *,
    use_hf: bool | None = None,
    environment: HubEnvironment = NOTHING,
    **more: Any,
) -> Choice:
    hub = HubConfig(use_hf=use_hf, offline=more.pop("offline", False), register=more.pop("register", ()))
    return choose_model(model, model_type, hub, environment=environment, **more)


@pytest.mark.parametrize(
    ("use_hf", "environment", "hub", "name"),
    [
        (None, None, "huggingface", "meta-llama/Llama-2-7b-hf"),
        (True, None, "huggingface", "meta-llama/Llama-2-7b-hf"),
        (False, None, "modelscope", "modelscope/Llama-2-7b-ms"),
        (None, False, "modelscope", "modelscope/Llama-2-7b-ms"),
        (True, False, "huggingface", "meta-llama/Llama-2-7b-hf"),
        (False, True, "modelscope", "modelscope/Llama-2-7b-ms"),
    ],
)
def test_the_flag_goes_before_the_environment(
    use_hf: bool | None, environment: bool | None, hub: str, name: str
) -> None:
    for words in ({"model_type": "llama2-7b"}, {"model": "modelscope/Llama-2-7b-ms"}):
        choice = chosen(**words, use_hf=use_hf, environment=HubEnvironment(use_hf=environment, offline=False))
        assert (choice.access.hub, choice.model) == (hub, name)
        assert choice.entry is not None
        assert choice.access.ignore_file_pattern == (r".+\.bin$",)


def test_a_model_that_one_hub_alone_has_comes_from_there() -> None:
    choice = chosen(model_type="openbuddy-mistral-7b-chat")
    assert (choice.access.hub, choice.model) == ("modelscope", "OpenBuddy/openbuddy-mistral-7b-v13.1")
    with pytest.raises(UserError, match="--use_hf: asks for Hugging Face, and openbuddy-mistral-7b-chat has no"):
        chosen(model_type="openbuddy-mistral-7b-chat", use_hf=True)
    with pytest.raises(UserError, match="USE_HF: asks for ModelScope, and smollm2-135m has no known id there"):
        chosen(model_type="smollm2-135m", environment=HubEnvironment(use_hf=False, offline=False))


def test_another_name_of_the_same_model_is_said() -> None:
    assert any("is called meta-llama" in line for line in chosen("modelscope/Llama-2-7b-ms").notices)
    assert not any("is called" in line for line in chosen("meta-llama/Llama-2-7b-hf").notices)


def test_folders_and_unlisted_ids_stay_as_they_are(tmp_path: Path) -> None:
    for name in (str(tmp_path), "someone/else", "./not-here"):
        choice = chosen(name, use_hf=False)
        assert (choice.model, choice.entry, choice.access.hub) == (name, None, "modelscope")


def test_both_are_refused() -> None:
    with pytest.raises(UserError, match=r"and --model .* are both given"):
        chosen("m", "qwen-7b")
    with pytest.raises(UserError, match=r"and --model .* are both given"):
        parse(SftConfig, "--model_type qwen-7b --model_id_or_path qwen/Qwen-7B --dataset d --output_dir o".split())


@pytest.mark.parametrize(
    ("model_type", "words"),
    [
        ("qwen-7b-caht", ["unknown model 'qwen-7b-caht'", "qwen-7b-chat"]),
        ("qwen-7b-chat-int4", ["gptq-int4", "use qwen-7b-chat"]),
        ("qwen-vl-chat-int4", ["gptq-int4", "use qwen-vl-chat"]),
        ("llama", ["unknown model 'llama'"]),
    ],
)
def test_what_cannot_be_had_is_one_line(model_type: str, words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        chosen(model_type=model_type)
    assert all(word in str(error.value) for word in words), error.value
    assert str(error.value).startswith("--model_type: ")


def test_an_id_given_as_a_model_names_the_flag() -> None:
    with pytest.raises(UserError, match="use --model_type qwen-7b-chat"):
        chosen("Qwen-7B-chat")


def test_a_type_of_transformers_starts_from_scratch_where_that_is_possible() -> None:
    choice = chosen(model_type="llama", may_start_from_scratch=True)
    assert (choice.model, choice.scratch, choice.entry) == (None, "llama", None)
    config, _ = parse(PtConfig, "--model_type llama --tokenizer t --dataset d --output_dir o".split())
    resolved, _ = choose(config)
    assert (resolved.model.model, resolved.model.model_config, resolved.model.model_type) == (None, "llama", None)


def test_an_entry_forces_its_dtype(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("id: half\nhuggingface: team/half\ndtype: bfloat16\n")
    choice = chosen(model_type="half", register=(str(file),))
    assert choice.dtype("auto") == choice.dtype("bfloat16") == "bfloat16"
    with pytest.raises(UserError, match="--dtype: is float16, and half works in bfloat16 only"):
        choice.dtype("float16")
    assert chosen(model_type="qwen-7b").dtype("float16") == "float16"


@pytest.mark.parametrize(
    ("words", "targets"),
    [
        ("--model_type qwen-7b", ("qkv",)),
        ("--model_type qwen2.5-7b", ("all-linear",)),
        ("--model_id_or_path Qwen/Qwen-7B", ("qkv",)),
        ("--model_type qwen-7b --lora_target_modules all-linear", ("all-linear",)),
        ("--model_type qwen-7b --lora_target_modules c_attn,w1", ("c_attn", "w1")),
        ("--model someone/else", ("all-linear",)),
    ],
)
def test_lora_goes_where_the_entry_says_unless_the_user_does(words: str, targets: tuple[str, ...]) -> None:
    config, _ = parse(SftConfig, [*words.split(), "--dataset", "d", "--output_dir", "o"])
    resolved, _ = choose(config)
    assert resolved.adapter.lora_target_modules == targets


def test_offline_by_flag_or_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen("someone/else", offline=True).access.offline
    assert chosen("someone/else", environment=HubEnvironment(use_hf=None, offline=True)).access.offline
    assert not chosen("someone/else").access.offline
    for name in ("USE_HF", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    assert read_hub_environment() == NOTHING
    monkeypatch.setenv("USE_HF", "0")
    monkeypatch.setenv("HF_HUB_OFFLINE", "ON")
    assert read_hub_environment() == HubEnvironment(use_hf=False, offline=True)
    monkeypatch.setenv("USE_HF", "perhaps")
    with pytest.raises(UserError, match="USE_HF: is 'perhaps' in the environment"):
        read_hub_environment()


def test_a_record_leads_back_to_its_hub_and_commit() -> None:
    record = Record(
        kind="adapter", stage="sft", base_model="team/model", base_identity=None, tokenizer_identity="t",
        template=None, system=None, chain=(), base_vocab_rows=None, hanlin_version="0", base_hub="modelscope",
        base_revision="abc",
    )  # fmt: skip
    plain = Access(cache_dir="c")
    assert recorded_access(record, plain) == Access(hub="modelscope", revision="abc", cache_dir="c")
    assert recorded_access(record, plain, chosen_hub=True) == plain
    assert recorded_access(record, Access(revision="main")).revision == "main"


LLAMA = [f"model.layers.0.self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj")]


@pytest.mark.parametrize(
    ("targets", "modules", "expected"),
    [
        (("qkv",), LLAMA, ("q_proj", "k_proj", "v_proj")),
        (("qkv", "o_proj", "q_proj"), LLAMA, ("q_proj", "k_proj", "v_proj", "o_proj")),
        (("qkv",), ["h.0.self_attention.query_key_value", "h.0.self_attention.dense"], ("query_key_value",)),
        (("qkv",), ["layers.0.self_attn.qkv_proj"], ("qkv_proj",)),
        (("qkv",), ["h.0.attn.c_attn", "h.0.attn.c_proj"], ("c_attn",)),
        (("all-linear",), LLAMA, ("all-linear",)),
        (("ALL",), LLAMA, ("all-linear",)),
        (("o_proj",), LLAMA, ("o_proj",)),
    ],
)
def test_groups_become_names(targets: tuple[str, ...], modules: list[str], expected: tuple[str, ...]) -> None:
    assert expand_targets(targets, modules) == expected


def test_the_entry_says_what_qkv_is_where_the_model_has_it(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("id: own\nhuggingface: team/own\nqkv: [q_proj, v_proj]\n")
    entry = chosen(model_type="own", register=(str(file),)).entry
    assert expand_targets(("qkv",), LLAMA, entry) == ("q_proj", "v_proj")
    qwen = chosen(model_type="qwen-7b").entry  # c_attn, which the loader has split into three
    assert expand_targets(("qkv",), LLAMA, qwen) == ("q_proj", "k_proj", "v_proj")
    with pytest.raises(UserError, match=r"--lora_target_modules: is qkv, .* some of fc1, fc2"):
        expand_targets(("qkv",), ["a.fc1", "a.fc2"])
