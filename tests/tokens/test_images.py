"""Pictures in conversations: how they are written, numbered, stored as ids and read as pixels."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from golden import cases
from hanlin.errors import UserError
from hanlin.template import SpecialTokens, resolve_renderer
from hanlin.tokens.collate import Feature, collate
from hanlin.tokens.encode import encode_conversation, encode_prompt, encode_rows
from hanlin.tokens.fit import fit
from hanlin.tokens.images import ImageError, ImageSlots, load_pixels, numbered, take_paths
from hanlin.types import IGNORE_INDEX, Conversation, Message, Place

SLOTS = ImageSlots(start_id=900, size=56)
SPECIAL = {"<|im_start|>": 800, "<|im_end|>": 801, "<|endoftext|>": 802, "<img>": 900, "</img>": 901, "<imgpad>": 902}


class Characters:
    """A tokenizer with one id for each character, 1000 and up, and few special tokens."""

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [[1000 + ord(character) for character in text] for text in texts]

    def special_id(self, token: str) -> int:
        return SPECIAL[token]


@functools.cache
def renderer() -> object:
    return resolve_renderer(
        "chatml", chat_template=None, special=SpecialTokens("<|endoftext|>", "<|endoftext|>", tuple(SPECIAL))
    )


def talk(*texts: str, file: str = "data.json") -> Conversation:
    roles = ("user", "assistant")
    messages = tuple(Message(roles[number % 2], text) for number, text in enumerate(texts))  # type: ignore[arg-type]
    return Conversation(messages, Place(file, line=3))


def written(ids: list[int]) -> str:
    """Ids as text again; a picture as its path in brackets."""
    names = {index: name for name, index in SPECIAL.items()}
    filled, paths = take_paths(ids, SLOTS)
    text, position = "", 0
    while position < len(ids):
        if filled[position] == 900:
            assert (filled[position + 1 : position + 257] == 902).all() and filled[position + 257] == 901
            text += f"[{paths.pop(0)}]"
            position += 258
        else:
            index = int(filled[position])
            text += names.get(index) or chr(index - 1000)
            position += 1
    assert not paths
    return text


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """a.png and 图.png in the working directory."""
    for number, name in enumerate(("a.png", "图.png")):
        values = ((37 + number) * np.arange(40 * 70 * 3) + 11) % 256
        Image.fromarray(values.astype(np.uint8).reshape(40, 70, 3)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_picture_is_a_numbered_line(pictures: Path) -> None:
    conversation = talk(
        "<img>a.png</img>What is it?", "Grass <img>a.png</img>", "And <img>图.png</img> and\n<img>a.png</img>\nhere?"
    )
    text = written(encode_prompt(conversation, renderer(), Characters(), SLOTS))  # type: ignore[arg-type]
    assert "Picture 1: [a.png]\nWhat is it?<|im_end|>" in text
    assert "Grass <img>a.png</img><|im_end|>" in text  # ordinary characters: an answer shows nothing
    assert text.count("<img>") == 1
    assert "And Picture 2: [图.png]\n and\nPicture 3: [a.png]\nhere?<|im_end|>" in text
    given = numbered(talk("Picture 7: <img>a.png</img>\nlike <img>图.png</img>"))
    assert given.messages[0].content == "Picture 7: <img>a.png</img>\nlike Picture 2: <img>图.png</img>\n"


def test_a_prompt_is_the_start_of_its_row_and_text_models_see_text(pictures: Path) -> None:
    whole = talk("<img>a.png</img>What?", "Grass")
    row = encode_conversation(whole, renderer(), Characters(), images=SLOTS)  # type: ignore[arg-type]
    prompt = encode_prompt(Conversation(whole.messages[:1], whole.place), renderer(), Characters(), SLOTS)  # type: ignore[arg-type]
    _, paths = take_paths(row.ids, SLOTS)
    assert paths == ["a.png"]
    assert take_paths(row.ids[: len(prompt)], SLOTS)[0].tolist() == take_paths(prompt, SLOTS)[0].tolist()
    ((start, stop),) = row.images
    assert stop - start == 258 and row.ids[start] == 900 and row.ids[stop - 1] == 901
    assert set(row.labels[start:stop]) == {IGNORE_INDEX}
    plain = encode_conversation(whole, renderer(), Characters())  # type: ignore[arg-type]
    assert plain.images == () and 900 not in plain.ids
    assert "<img>a.png</img>What?" in "".join(chr(i - 1000) for i in plain.ids if i >= 1000)


def test_a_picture_lies_in_the_working_directory_or_beside_its_file(
    pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("data")
    (elsewhere / "b.png").write_bytes((pictures / "a.png").read_bytes())
    (elsewhere / "a.png").write_bytes(b"no picture")
    talked = talk("<img>a.png</img><img>b.png</img>", file=str(elsewhere / "rows.json"))
    ids = encode_prompt(talked, renderer(), Characters(), SLOTS)  # type: ignore[arg-type]
    assert take_paths(ids, SLOTS)[1] == ["a.png", str(elsewhere / "b.png")]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("none.png", "the picture none.png does not exist"),
        ("https://host/a.png", "is a URL; expected a file; download it first"),
        ("broken.png", "the picture broken.png cannot be read"),
        ("text.png", "the picture text.png cannot be read"),
        ("图" * 90, "has 270 bytes; expected at most 256"),
        ("", "does not exist"),
    ],
)
def test_a_picture_that_cannot_be_used_is_one_line(pictures: Path, path: str, message: str) -> None:
    (pictures / "broken.png").write_bytes((pictures / "a.png").read_bytes()[:200])
    (pictures / "text.png").write_text("text")
    bad = talk(f"<img>{path}</img>?", "x")
    good = talk("<img>a.png</img>?", "x")
    with pytest.raises(ImageError, match=rf"^data.json:3: .*{message}"):
        encode_conversation(bad, renderer(), Characters(), images=SLOTS)  # type: ignore[arg-type]
    results = [found for _, found in encode_rows([bad, good], renderer(), Characters(), images=SLOTS)]  # type: ignore[arg-type]
    assert isinstance(results[0], ImageError) and not isinstance(results[1], UserError)


def test_a_row_is_never_cut_through_a_picture(pictures: Path) -> None:
    """The prompt is cut from its start: first what stands before the picture, and never the picture."""
    row = encode_conversation(talk("word " * 20 + "<img>a.png</img>?", "yes"), renderer(), Characters(), images=SLOTS)  # type: ignore[arg-type]
    ((start, _),) = row.images
    tail = len(row.ids) - start
    assert take_paths(fit(row, tail).encoded.ids, SLOTS)[1] == ["a.png"]  # type: ignore[union-attr]
    fitted = fit(row, tail)
    assert fitted.encoded is not None and fitted.encoded.images == ((0, 258),)
    for limit in (tail - 1, tail - 200, tail - 258, tail - 259, 16):
        fitted = fit(row, limit)
        assert fitted.encoded is None and fitted.reason == "too long: a picture would be cut", limit
    # A later turn goes whole, with its picture.
    two = encode_conversation(
        talk("<img>a.png</img>?", "yes", "<img>图.png</img><img>a.png</img>?", "no"),
        renderer(),
        Characters(),
        images=SLOTS,
    )  # type: ignore[arg-type]
    fitted = fit(two, two.turn_ends[0])
    assert fitted.reason == "too long: turns cut" and fitted.encoded is not None
    assert take_paths(fitted.encoded.ids, SLOTS)[1] == ["a.png"]


def test_pixels_are_those_of_the_model_of_2023(pictures: Path) -> None:
    found = load_pixels("a.png", 56)
    assert found.shape == (3, 56, 56) and found.dtype == np.float32
    sample = cases()["qwen-vl"]["runs"][0]["pixel_sample"]
    assert found[:, 0, :3].flatten().tolist() == pytest.approx(sample, abs=1e-5)
    Image.open("a.png").convert("RGBA").save("alpha.png")
    assert np.array_equal(load_pixels("alpha.png", 56), found)
    with pytest.raises(ImageError, match=r"gone.png: cannot be read"):
        load_pixels("gone.png", 56)


def feature(*ids: int) -> Feature:
    row = np.array(ids, dtype=np.int64)
    return Feature(input_ids=row, labels=np.full(len(row), IGNORE_INDEX), lengths=np.array([len(row)]))


def test_a_batch_holds_pads_and_pixels(pictures: Path) -> None:
    two = feature(5, *SLOTS.ids("图.png"), *SLOTS.ids("a.png"), 6)
    none, one = feature(7, 8), feature(*SLOTS.ids("a.png"))
    batch = collate([two, none, one], pad_id=0, images=SLOTS)
    pixels = batch["pixel_values"].numpy()
    assert pixels.shape == (3, 2, 3, 56, 56)
    assert np.array_equal(pixels[0, 0], load_pixels("图.png", 56)) and not pixels[1].any() and not pixels[2, 1].any()
    assert np.array_equal(pixels[0, 1], pixels[2, 0]) and np.array_equal(pixels[2, 0], load_pixels("a.png", 56))
    assert sorted(set(batch["input_ids"].flatten().tolist())) == [0, 5, 6, 7, 8, 900, 901, 902]
    assert two["input_ids"][2] != 902  # the stored row keeps its path
    assert "pixel_values" not in collate([none], pad_id=0, images=SLOTS)
    assert "pixel_values" not in collate([none, one], pad_id=0)


def test_the_tokenizer_must_have_the_tokens_of_pictures() -> None:
    class Config:
        visual = {"image_start_id": 900, "image_size": 56}  # noqa: RUF012

    assert ImageSlots.of(Config, Characters()) == SLOTS
    assert ImageSlots.of(object(), Characters()) is None
    Config.visual["image_start_id"] = 899
    with pytest.raises(UserError, match=r"--tokenizer: has the id 900 for <img>; expected 899"):
        ImageSlots.of(Config, Characters())
