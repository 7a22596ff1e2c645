"""Which folders are built here, which are left to transformers, and which are refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hanlin.errors import UserError
from hanlin.model.hub import SETTINGS_FILES, choose_files
from hanlin.vocab.metaspace import repair
from hanlin.vocab.tokenizer import TextTokenizer
from old_tokenizers import old_tokenizer


def write(folder: Path, **files: Any) -> Path:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("family", ["qwen", "chatglm2", "glm4", "baichuan", "internlm", "internlm2"])
def test_a_missing_vocabulary_gets_one_line(tmp_path: Path, family: Any) -> None:
    folder = old_tokenizer(tmp_path, family)
    name = "qwen.tiktoken" if family == "qwen" else "tokenizer.model"
    (folder / name).unlink()
    with pytest.raises(
        UserError, match=rf"^--model: .* without its vocabulary; expected {name} in it; complete"
    ) as error:
        TextTokenizer.load(str(folder), place="--model")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("family", ["qwen", "chatglm2", "glm4", "baichuan", "internlm", "internlm2"])
def test_a_folder_that_names_no_class_is_told_by_its_model(tmp_path: Path, family: Any) -> None:
    folder = old_tokenizer(tmp_path, family)
    named = TextTokenizer.load(str(folder))
    write(folder, tokenizer_config={})
    again = TextTokenizer.load(str(folder))
    assert again.is_converted and again.identity == named.identity and again.prefix_ids == named.prefix_ids


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("SomebodysTokenizer", r"is a SomebodysTokenizer, which only code from the checkpoint can load"),
    ],
)
def test_what_only_its_own_code_could_load_is_refused_by_name(tmp_path: Path, name: str, message: str) -> None:
    auto_map = {"AutoTokenizer": [f"tokenization.{name}", None]}
    (tmp_path / "tokenization.py").write_text("raise SystemExit('this was run')")
    for config in ({"tokenizer_class": name, "auto_map": auto_map}, {"auto_map": auto_map}, {"tokenizer_class": name}):
        write(tmp_path, tokenizer_config=config)
        with pytest.raises(UserError, match=message):
            TextTokenizer.load(str(tmp_path))


def test_the_first_chatglm_is_refused(tmp_path: Path) -> None:
    folder = old_tokenizer(tmp_path, "chatglm2")
    write(folder, config={"model_type": "chatglm", "position_encoding_2d": True})
    with pytest.raises(UserError, match="first ChatGLM-6B; expected ChatGLM2 or ChatGLM3"):
        TextTokenizer.load(str(folder))
    write(folder, config={})
    (folder / "tokenizer.model").rename(folder / "ice_text.model")
    with pytest.raises(UserError, match="first ChatGLM-6B"):
        TextTokenizer.load(str(folder))


def test_added_tokens_with_a_gap_are_refused(tmp_path: Path) -> None:
    for family in ("qwen", "baichuan"):
        folder = old_tokenizer(tmp_path / family, family, added_tokens_decoder={"5000": {"content": "<|far|>"}})
        with pytest.raises(UserError, match=r"added token '<\|far\|>' has id 5000, but no token has id \d+"):
            TextTokenizer.load(str(folder))


@pytest.mark.parametrize("name", ["QWenTokenizer", "SomebodysTokenizer"])
def test_a_converted_file_serves_where_only_code_could_read_the_vocabulary(tmp_path: Path, name: str) -> None:
    tokenizer = TextTokenizer.load(str(old_tokenizer(tmp_path / "old", "qwen")))
    tokenizer.save(tmp_path / "new")
    (tmp_path / "new" / "qwen.tiktoken").unlink()
    config = json.loads((tmp_path / "new" / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": name, "auto_map": {"AutoTokenizer": [f"tokenization.{name}", None]}}
    write(tmp_path / "new", tokenizer_config=config)
    again = TextTokenizer.load(str(tmp_path / "new"))
    assert again.identity == tokenizer.identity and again.is_converted


def test_settings_of_the_old_configuration_stay(tmp_path: Path) -> None:
    template = "{{ messages[0].content }}"
    folder = old_tokenizer(tmp_path, "internlm", chat_template=template, padding_side="right", pad_token="</s>")
    tokenizer = TextTokenizer.load(str(folder))
    assert tokenizer.chat_template == template and tokenizer.hf.model_max_length == 4096
    assert tokenizer.hf.padding_side == "right" and tokenizer.pad_id == 2


@pytest.mark.parametrize("starts_with_space", [True, False])
def test_old_metaspace_files_are_repaired(tmp_path: Path, starts_with_space: bool) -> None:
    """XVERSE's kind of file: BPE over a Metaspace that says ``add_prefix_space`` and no ``prepend_scheme``."""
    chars = {char: index for index, char in enumerate(["<unk>", "<s>", "</s>", "\u2581", *"abcd"])}
    backend = Tokenizer(models.BPE(chars | {"\u2581a": 8, "bc": 9}, [("\u2581", "a"), ("b", "c")], unk_token="<unk>"))
    scheme = "always" if starts_with_space else "never"
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(prepend_scheme=scheme)])
    backend.decoder = decoders.Sequence([decoders.Metaspace(prepend_scheme=scheme)])
    PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>").save_pretrained(tmp_path)
    expected = AutoTokenizer.from_pretrained(tmp_path)
    state = json.loads((tmp_path / "tokenizer.json").read_text())
    steps = [state["pre_tokenizer"]["pretokenizers"][0], state["decoder"]["decoders"][0]]
    for step in steps:
        assert step.pop("prepend_scheme") == scheme
        step.pop("split")
        step |= {"add_prefix_space": starts_with_space, "str_rep": "\u2581"}
    write(tmp_path, tokenizer=state, config={"model_type": "xverse", "auto_map": {"AutoConfig": "c.XverseConfig"}})
    tokenizer = TextTokenizer.load(str(tmp_path))
    for text in ("a bc", " abc  a", "bc", ""):
        ids = expected(text, add_special_tokens=False).input_ids
        assert tokenizer.encode(text) == ids and tokenizer.decode(ids) == expected.decode(ids)
    assert tokenizer.is_converted is not starts_with_space, "only what tokenizers refuses is repaired"
    tokenizer.save(tmp_path / "new")
    assert AutoTokenizer.from_pretrained(tmp_path / "new")("a bc").input_ids == expected("a bc").input_ids
    assert repair(state) == 2 and repair(state) == 0
    assert steps[0].keys() == {"type", "replacement", "prepend_scheme", "split"}


def test_what_is_fetched_from_a_hub_is_all_that_a_tokenizer_of_2023_needs(tmp_path: Path) -> None:
    for family in ("qwen", "chatglm3"):
        folder, fetched = old_tokenizer(tmp_path / family, family), tmp_path / f"{family}-fetched"
        fetched.mkdir()
        for name in choose_files([file.name for file in folder.iterdir()], SETTINGS_FILES):
            shutil.copyfile(folder / name, fetched / name)
        from_hub, local = TextTokenizer.load(str(fetched)), TextTokenizer.load(str(folder))
        assert from_hub.identity == local.identity and from_hub.prefix_ids == local.prefix_ids


def test_bos_that_the_configuration_rules_out_is_no_prefix(tmp_path: Path) -> None:
    model = (old_tokenizer(tmp_path / "old", "baichuan-13b") / "tokenizer.model").read_bytes()
    (tmp_path / "tokenizer.model").write_bytes(model)
    for rule, prefix in ((False, ()), (True, (1,))):
        write(tmp_path, tokenizer_config={"tokenizer_class": "LlamaTokenizer", "add_bos_token": rule})
        tokenizer = TextTokenizer.load(str(tmp_path))
        assert tokenizer.prefix_ids == prefix and tokenizer.bos_id == 1
        tokenizer.save(tmp_path / "new")
        assert TextTokenizer.load(str(tmp_path / "new")).prefix_ids == prefix


def test_a_fast_class_that_says_nothing_of_a_space_leaves_it_to_the_model(tmp_path: Path) -> None:
    TextTokenizer.load(str(old_tokenizer(tmp_path / "old", "chatglm2"))).save(tmp_path / "new")
    config = json.loads((tmp_path / "new" / "tokenizer_config.json").read_text())
    assert config.pop("add_prefix_space") is True and config["tokenizer_class"] == "TokenizersBackend"
    write(tmp_path / "new", tokenizer_config=config)
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "new" / "tokenizer.model"))
    tokenizer = TextTokenizer.load(str(tmp_path / "new"))
    assert tokenizer.encode("river") == model.encode("river") and model.encode("river", out_type=str)[0][0] == "\u2581"
