"""The engine against plain transformers, PEFT and SentencePiece, on tiny models whose answers are known."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import pytest
import sentencepiece
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from answering import chain, record, save_adapter, save_model, sentencepiece_bytes, teach, tokenizer
from hanlin.cli import main
from hanlin.config.infer import GenerationSettings
from hanlin.errors import UserError
from hanlin.infer.engine import Engine, choose_dtype, open_engine
from hanlin.model.adapter_files import read_adapter
from hanlin.model.identity import weights_identity, write_record
from hanlin.model.weights import open_weights
from hanlin.types import Message
from hanlin.vocab.tokenizer import TextTokenizer
from tiny import tiny_llama

GREEDY = GenerationSettings(temperature=0, repetition_penalty=1.0, max_new_tokens=20)
QUESTIONS = ["你好", "What is the capital of the country? Write a response.", "床前明月光，疑是地上霜。", "a"]
BOS, EOS = 1, 2


def user(text: str) -> list[Message]:
    return [Message("user", text)]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "model", template="llama2-zh")


@pytest.fixture(scope="module")
def engine(model_dir: Path) -> Engine:
    return open_engine(str(model_dir))


def plain_greedy(model: torch.nn.Module, ids: list[int], num_new: int, penalty: float = 1.0) -> list[int]:
    """Greedy ids by transformers' generate alone, nothing of the package in it."""
    output = model.generate(  # type: ignore[operator]
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
        max_new_tokens=num_new,
        do_sample=False,
        repetition_penalty=penalty,
        eos_token_id=EOS,
        pad_token_id=0,
    )
    return output[0, len(ids) :].tolist()


@pytest.mark.parametrize("penalty", [1.0, 1.1])
def test_greedy_answers_are_those_of_plain_transformers(engine: Engine, model_dir: Path, penalty: float) -> None:
    model = LlamaForCausalLM.from_pretrained(model_dir).eval()
    settings = dataclasses.replace(GREEDY, repetition_penalty=penalty)
    for question in QUESTIONS:
        ids = plain_greedy(model, engine.prompt_ids(user(question)), 20, penalty)
        answer = engine.generate(user(question), settings)
        text = tokenizer().decode([i for i in ids if i != EOS])
        assert answer.text == text.rstrip("\ufffd")
        assert answer.num_new_tokens == len(ids)
        assert answer.finish_reason == ("stop" if ids[-1] == EOS else "length")
        assert answer.num_prompt_tokens == len(engine.prompt_ids(user(question)))


def test_streamed_pieces_join_to_the_answer(engine: Engine) -> None:
    for settings in (GREEDY, GenerationSettings(temperature=1.5, top_k=0, top_p=1, seed=3, max_new_tokens=30)):
        for question in QUESTIONS:
            stream = engine.stream(user(question), settings)
            pieces = list(stream)
            assert "".join(pieces) == stream.answer.text == engine.generate(user(question), settings).text
            assert stream.answer == engine.generate(user(question), settings)
            assert len(pieces) > 1


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_a_batch_answers_as_each_row_alone(model_dir: Path, penalty: float) -> None:
    # EOS as pad token: with a penalty, padding with it would make EOS less likely in padded rows only.
    engine = open_engine(str(model_dir))
    settings = dataclasses.replace(GREEDY, repetition_penalty=penalty, max_new_tokens=30)
    lengths = {len(engine.prompt_ids(user(question))) for question in QUESTIONS}
    assert len(lengths) == len(QUESTIONS), "rows of one length would not be padded"
    together = engine.generate_batch([user(question) for question in QUESTIONS], settings)
    assert together == [engine.generate(user(question), settings) for question in QUESTIONS]


def test_padding_does_not_count_as_something_said(tmp_path: Path) -> None:
    """EOS leads by 5 %, the penalty takes 30 %: counting EOS as said because it fills rows up would make one go on."""
    directory = save_model(tmp_path / "m", template="llama2-zh")
    last = open_engine(str(directory)).prompt_ids(user("a"))[-1]
    moon = tokenizer().encode("月")[-1]
    teach(directory, {last: EOS})
    model = LlamaForCausalLM.from_pretrained(directory)
    with torch.no_grad():
        model.lm_head.weight[moon] = model.lm_head.weight[EOS] * 0.95
    model.save_pretrained(directory)
    settings = dataclasses.replace(GREEDY, repetition_penalty=1.3)
    answers = open_engine(str(directory)).generate_batch([user("a"), user("a longer one")], settings)
    assert [answer.num_new_tokens for answer in answers] == [1, 1]


def test_a_seed_repeats_a_drawn_answer_and_leaves_torch_alone(engine: Engine) -> None:
    settings = GenerationSettings(temperature=2.0, top_k=0, top_p=1, max_new_tokens=20, seed=5)
    torch.manual_seed(1)
    wanted = torch.rand(1)
    torch.manual_seed(1)
    first = engine.generate(user("你好"), settings)
    assert torch.equal(torch.rand(1), wanted)
    assert engine.generate(user("你好"), settings) == first
    assert engine.generate(user("你好"), dataclasses.replace(settings, seed=6)) != first


def taught(directory: Path, question: str, answer_ids: list[int], *, template: str = "llama2-zh") -> Engine:
    """An engine that answers with these ids, whatever was asked."""
    save_model(directory, template=template)
    last = open_engine(str(directory)).prompt_ids(user(question))[-1]
    teach(directory, chain([last, *answer_ids]))
    return open_engine(str(directory))


def test_the_stop_token_ends_the_answer_and_is_not_shown(tmp_path: Path) -> None:
    said = tokenizer().encode("月光好😀")
    answer = taught(tmp_path / "m", "你好", [*said, EOS]).generate(user("你好"), GREEDY)
    assert (answer.text, answer.finish_reason, answer.num_new_tokens) == ("月光好😀", "stop", len(said) + 1)


def test_a_cut_answer_ends_with_a_whole_character(tmp_path: Path) -> None:
    said = tokenizer().encode("月光好😀")
    engine = taught(tmp_path / "m", "你好", [*said, EOS])
    settings = dataclasses.replace(GREEDY, max_new_tokens=len(said) - 1)
    answer = engine.generate(user("你好"), settings)
    assert (answer.text, answer.finish_reason) == ("月光好", "length")
    assert "".join(engine.stream(user("你好"), settings)) == "月光好"


def test_rows_of_a_batch_end_at_their_own_stop(tmp_path: Path) -> None:
    said = tokenizer().encode("月光")
    engine = taught(tmp_path / "m", "你好", [*said, EOS])
    answers = engine.generate_batch([user("你好"), user("long " * 20)], GREEDY)
    assert [answer.text for answer in answers] == ["月光", "月光"]
    assert {answer.num_new_tokens for answer in answers} == {len(said) + 1}


def test_beams_give_the_answer_at_once(engine: Engine) -> None:
    settings = dataclasses.replace(GREEDY, num_beams=3)
    pieces = engine.stream(user("你好"), settings)
    assert "".join(pieces) == engine.generate(user("你好"), settings).text != ""


def test_history_reaches_the_prompt_as_the_spec_writes_it(engine: Engine) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_bytes())
    system = "You are a helpful assistant. 你是一个乐于助人的助手。"
    turns = [Message("user", "你好"), Message("assistant", "明月"), Message("user", "again")]
    expected = [
        BOS,
        *processor.encode(f"[INST] <<SYS>>\n{system}\n<</SYS>>\n\n你好 [/INST]"),
        *processor.encode("明月"),
        EOS,
        BOS,
        *processor.encode("[INST] again [/INST]"),
    ]
    assert engine.prompt_ids(turns) == expected
    own = [Message("system", "Be brief."), *turns[:1]]
    assert engine.prompt_ids(own) == [
        BOS,
        *processor.encode("[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n你好 [/INST]"),
    ]
    assert engine.prompt_text(turns[:1]) == f"[INST] <<SYS>>\n{system}\n<</SYS>>\n\n你好 [/INST]"


def test_without_a_template_the_text_goes_on(tmp_path: Path) -> None:
    text = "The answer"
    more = tokenizer().encode("is short")
    save_model(tmp_path / "m")
    teach(tmp_path / "m", chain([tokenizer().encode(text)[-1], *more, EOS]))
    notices: list[str] = []
    engine = open_engine(str(tmp_path / "m"), notify=notices.append)
    assert "--template" in notices[0] and not engine.keeps_history
    assert engine.prompt_ids(user(text)) == [BOS, *tokenizer().encode(text)]
    assert engine.generate(user(text), GREEDY).text == " is short"


def test_template_none_wins_over_the_record(model_dir: Path) -> None:
    engine = open_engine(str(model_dir), template="none")
    assert engine.prompt_ids(user("你好")) == [BOS, *tokenizer().encode("你好")]


def test_named_template_and_system_win_over_the_record(model_dir: Path) -> None:
    engine = open_engine(str(model_dir), template="alpaca")
    assert engine.prompt_text(user("你好")).endswith("### Instruction:\n你好\n\n### Response: ")
    brief = open_engine(str(model_dir), system="Be brief.")
    assert "<<SYS>>\nBe brief.\n<</SYS>>" in brief.prompt_text(user("你好"))


# --- adapters --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("bases") / "base", seed=3)


def peft_answer(base: Path, adapter: Path, engine: Engine) -> list[int]:
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter)).eval()
    return plain_greedy(model, engine.prompt_ids(user("你好")), 20)


def test_the_adapter_folder_alone_is_enough(base_dir: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", base_dir, style="safetensors")
    engine = open_engine(str(adapter))
    assert engine.renderer is not None and engine.renderer.name == "llama2-zh"
    answer = engine.generate(user("你好"), GREEDY)
    ids = peft_answer(base_dir, adapter, engine)
    assert answer.num_new_tokens == len(ids)
    assert answer.text == tokenizer().decode([i for i in ids if i != EOS]).rstrip("\ufffd")
    without = open_engine(str(base_dir), template="llama2-zh").generate(user("你好"), GREEDY)
    assert answer.text != without.text, "the adapter changes the answer"


def test_the_training_output_folder_is_enough(base_dir: Path, tmp_path: Path) -> None:
    save_adapter(tmp_path / "run" / "sft_lora_model", base_dir)
    engine = open_engine(str(tmp_path / "run"))
    named = open_engine(str(base_dir), str(tmp_path / "run"))
    by_flag = open_engine(None, str(tmp_path / "run" / "sft_lora_model"))
    answers = {each.generate(user("你好"), GREEDY).text for each in (engine, named, by_flag)}
    assert len(answers) == 1


def test_an_adapter_of_2023_with_its_own_embedding_rows(tmp_path: Path) -> None:
    small = tiny_llama(tmp_path / "base", vocab_size=len(tokenizer()) - 40)
    adapter = save_adapter(tmp_path / "adapter", small, embedding_rows=len(tokenizer()), style="2023")
    engine = open_engine(str(adapter))
    assert engine.model.get_input_embeddings().weight.shape[0] == len(tokenizer())
    assert engine.generate(user("你好"), GREEDY).num_new_tokens > 0


def test_a_base_beside_the_adapter_is_found_from_there(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base")
    save_adapter(tmp_path / "adapter", base, named="../base")
    assert open_engine(str(tmp_path / "adapter")).generate(user("你好"), GREEDY)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_adapter_that_is_not_finite_is_one_line(base_dir: Path, tmp_path: Path, value: float) -> None:
    adapter = save_adapter(tmp_path / "adapter", base_dir, style="safetensors")
    tensors = load_file(adapter / "adapter_model.safetensors")
    name = next(name for name in tensors if "layers.1.self_attn.v_proj.lora_B" in name)
    tensors[name][1, 0] = value
    save_file(tensors, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"adapter: .*layers\.1\.self_attn\.v_proj\.lora_B.* is not finite in float32"):
        open_engine(str(adapter))


def test_a_model_that_computes_no_numbers_is_one_line(tmp_path: Path) -> None:
    model = save_model(tmp_path / "m", template="llama2-zh")
    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"][:] = float("nan")
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="computes no numbers"):
        open_engine(str(model)).generate(user("x"), GenerationSettings(max_new_tokens=2, temperature=0.7, seed=1))


@pytest.mark.parametrize("text", ["{", '{"model_type": "lama"}'])
@pytest.mark.parametrize("verb", ["infer", "sft", "merge"])
def test_a_broken_config_is_told_at_its_place(
    base_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str, text: str
) -> None:
    """And not as a tokenizer that cannot be read, whose library looks into it."""
    model = tmp_path / "m"
    shutil.copytree(base_dir, model)
    adapter = save_adapter(tmp_path / "adapter", base_dir)
    (model / "config.json").write_text(text)
    data = tmp_path / "rows.json"
    data.write_text('[{"instruction": "a", "input": "", "output": "b"}]')
    words = {
        "infer": ["--model", str(model), "--prompt", "x"],
        "sft": [
            "--model",
            str(model),
            "--dataset",
            str(data),
            "--template",
            "alpaca",
            "--output_dir",
            str(tmp_path / "o"),
        ],
        "merge": ["--model", str(model), "--adapter", str(adapter), "--output_dir", str(tmp_path / "o")],
    }[verb]
    assert main([verb, *words]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"hanlin: {model / 'config.json'}: "), error
    assert ("is not valid JSON" if text == "{" else "did you mean llama?") in error


def test_a_recorded_system_prompt_is_used(base_dir: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", base_dir)
    write_record(adapter, record("adapter", str(base_dir), "llama2-zh", system="Answer in verse."))
    assert "Answer in verse." in open_engine(str(adapter)).prompt_text(user("你好"))
    assert "Answer in verse." not in open_engine(str(adapter), system="").prompt_text(user("你好"))


# --- room ------------------------------------------------------------------------------------------------------------


def conversation(num_turns: int) -> list[Message]:
    turns = [(Message("user", f"question {n}"), Message("assistant", f"answer {n}")) for n in range(num_turns)]
    return [Message("system", "Be brief."), *(message for turn in turns for message in turn), Message("user", "last")]


@pytest.mark.parametrize("num_turns", [20, 21])
def test_oldest_turns_make_room_and_it_is_said(model_dir: Path, num_turns: int) -> None:
    notices: list[str] = []
    engine = open_engine(str(model_dir), notify=notices.append)
    seen: list[int] = []
    real = engine._answer

    def spy(prompts, *rest, **named):  # type: ignore[no-untyped-def]
        seen.extend(len(prompt.ids) for prompt in prompts)
        read.extend(prompts[0].ids)
        return real(prompts, *rest, **named)

    read: list[int] = []
    engine._answer = spy  # type: ignore[method-assign]
    settings = dataclasses.replace(GREEDY, max_new_tokens=300)
    engine.generate(conversation(num_turns), settings)
    assert "oldest" in notices[0] and "left out" in notices[0]
    assert seen[0] + 300 <= engine.max_positions == 512
    text = tokenizer().decode(read, skip_special=False)
    kept = [int(number) for number in re.findall(r"question (\d+)", text)]
    assert "Be brief." in text and text.rstrip().endswith("last [/INST]")
    assert kept == list(range(num_turns - len(kept), num_turns)), "the newest turns stay, in order"
    messages = conversation(num_turns)
    one_more = [messages[0], *messages[-2 * (len(kept) + 1) - 1 :]]
    assert len(engine.prompt_ids(one_more)) + 300 > 512, "not one turn more than needed is left out"


def test_a_long_question_shortens_the_answer_and_a_longer_one_is_refused(model_dir: Path) -> None:
    notices: list[str] = []
    engine = open_engine(str(model_dir), notify=notices.append)
    question = "光" * 300
    room = 512 - len(engine.prompt_ids(user(question)))
    widths: list[int] = []
    real = engine.model.generate

    def spy(**inputs):  # type: ignore[no-untyped-def]
        widths.append(inputs["input_ids"].shape[1] + inputs["generation_config"].max_new_tokens)
        return real(**inputs)

    engine.model.generate = spy
    answers = engine.generate_batch([user(question), user("a")], dataclasses.replace(GREEDY, max_new_tokens=room + 40))
    assert 0 < answers[0].num_new_tokens <= room and f"{room:,} remain" in notices[0]
    assert len(widths) == 2 and max(widths) == 512, "a shorter row must not push it past the last position"
    with pytest.raises(UserError, match="expected fewer than 512"):
        engine.stream(user("光" * 600), GREEDY)


# --- what is refused -------------------------------------------------------------------------------------------------


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        open_engine(str(tmp_path / "none"))


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a model nor an adapter"):
        open_engine(str(tmp_path))


def test_an_adapter_whose_base_is_gone(base_dir: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", base_dir, named=str(tmp_path / "gone"))
    with pytest.raises(UserError, match=r"gone does not exist here; name the base: --model BASE"):
        open_engine(str(adapter))
    assert open_engine(str(base_dir), str(adapter))


def test_a_tokenizer_larger_than_the_model_is_refused_before_weights_are_loaded(tmp_path: Path) -> None:
    tiny_llama(tmp_path / "m", vocab_size=len(tokenizer()) - 1)
    tokenizer().save(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(UserError, match=rf"{len(tokenizer())} tokens, and the model {len(tokenizer()) - 1} rows"):
        open_engine(str(tmp_path / "m"))


def test_the_engine_itself_refuses_a_tokenizer_larger_than_the_model(tmp_path: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(tiny_llama(tmp_path / "m", vocab_size=100))
    with pytest.raises(UserError, match="100 rows"):
        Engine(model, tokenizer(), None)


def test_another_tokenizer_than_the_recorded_is_refused(base_dir: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", base_dir)
    other = TextTokenizer.from_sentencepiece(sentencepiece_bytes(440))
    other.save(tmp_path / "other")
    with pytest.raises(UserError, match="another tokenizer than the one trained with"):
        open_engine(str(adapter), tokenizer=str(tmp_path / "other"))
    shutil.copytree(tmp_path / "other", adapter, dirs_exist_ok=True)
    with pytest.raises(UserError, match="another tokenizer than the one trained with"):
        open_engine(str(adapter))


def test_an_adapter_is_not_put_on_another_base_nor_twice(base_dir: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", base_dir)
    own = weights_identity(open_weights(base_dir, "--model"))
    write_record(adapter, dataclasses.replace(record("adapter", str(base_dir), "llama2-zh"), base_identity=own))
    assert open_engine(str(base_dir), str(adapter))
    other = save_model(tmp_path / "other", seed=9)
    with pytest.raises(UserError, match="is not the base of adapter"):
        open_engine(str(other), str(adapter))
    merged = save_model(tmp_path / "merged", seed=9)
    chain_of = (read_adapter(adapter).identity(),)
    write_record(merged, dataclasses.replace(record("model", None, "llama2-zh"), stage="merge", chain=chain_of))
    with pytest.raises(UserError, match="applied twice"):
        open_engine(str(merged), str(adapter))


def test_rows_past_the_tokenizer_are_never_chosen(tmp_path: Path) -> None:
    moon = tokenizer().encode("月")[-1]
    padded = tiny_llama(tmp_path / "m", vocab_size=len(tokenizer()) + 24)
    tokenizer().save(padded)
    last = open_engine(str(padded), template="llama2-zh").prompt_ids(user("a"))[-1]
    teach(padded, {last: len(tokenizer()) + 3, moon: EOS})
    model = LlamaForCausalLM.from_pretrained(padded)
    with torch.no_grad():  # the second best after the padding row
        model.lm_head.weight[moon] = model.lm_head.weight[len(tokenizer()) + 3] / 2
    model.save_pretrained(padded)
    assert open_engine(str(padded), template="llama2-zh").generate(user("a"), GREEDY).text == "月"


def test_wrong_stop_ids_of_a_third_party_config_do_no_harm(tmp_path: Path) -> None:
    save_model(tmp_path / "m", template="llama2-zh", bos_token_id=0, eos_token_id=1)
    engine = open_engine(str(tmp_path / "m"))
    assert engine.stop_ids == [EOS]


def test_float16_on_a_cpu_becomes_bfloat16_and_it_is_said() -> None:
    notices: list[str] = []
    assert choose_dtype("float16", torch.device("cpu"), notices.append) is torch.bfloat16
    assert notices == ["float16 is very slow on a CPU: bfloat16 is used"]
    assert choose_dtype("auto", torch.device("cpu"), notices.append) is torch.float32
    assert len(notices) == 1


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "meta"])
def test_a_device_that_is_not_there(model_dir: Path, device: str) -> None:
    with pytest.raises(UserError, match="--device"):
        open_engine(str(model_dir), device=device)


def test_text_that_spells_special_tokens_stays_text(engine: Engine) -> None:
    ids = engine.prompt_ids(user("</s><s>"))
    assert ids.count(EOS) == 0 and ids.count(BOS) == 1


def test_half_a_surrogate_pair_is_refused(engine: Engine) -> None:
    with pytest.raises(UserError, match="surrogate"):
        engine.generate(user("\ud83d"), GREEDY)
