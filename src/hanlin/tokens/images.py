"""Pictures in conversations: ``<img>PATH</img>`` in a text, as the places that a vision model reads them from.

In the text each becomes a line of its own, ``Picture 2: <img>PATH</img>``; in ids the start token, 256 places and the
end token. On the way to the model the places hold the bytes of the path (as the tokenizer of 2023 left them), so rows
are stored, cut and packed like others; a batch holds pad ids there and the pixels beside. Models without a vision
tower have no ``ImageSlots``, and their texts stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hanlin.errors import UserError
from hanlin.types import Conversation, Segment

PLACES = 256
"""Places of one picture between its start and its end token."""

START, END, PAD = "<img>", "</img>", "<imgpad>"

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Of red, green and blue (0 to 1), as the vision tower was trained."""

_IMAGE = re.compile(r"<img>(.*?)</img>")
_LINE = re.compile(r"(Picture \d+: ?)?<img>(.*?)</img>\n?")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|data:")


class ImageError(UserError):
    """A picture that a text names cannot be used."""


class HasSpecialTokens(Protocol):
    """A tokenizer, as far as pictures need to know it."""

    def special_id(self, token: str) -> int:
        """Id of one special token."""


@dataclass(frozen=True, slots=True)
class ImageSlots:
    """Where a model reads pictures from."""

    start_id: int
    size: int
    """Pixels of a side."""

    @classmethod
    def of(cls, config: Any, tokenizer: HasSpecialTokens) -> ImageSlots | None:
        """The slots of a model with this config, None for a text model. Raises UserError when ``tokenizer`` has other
        ids for the tokens of pictures."""
        visual = getattr(config, "visual", None)
        if not isinstance(visual, dict) or "image_start_id" not in visual:
            return None
        slots = cls(visual["image_start_id"], visual["image_size"])
        wanted = {START: slots.start_id, END: slots.end_id, PAD: slots.pad_id}
        for token, index in wanted.items():
            if tokenizer.special_id(token) != index:
                raise UserError(
                    "--tokenizer",
                    f"has the id {tokenizer.special_id(token)} for {token}",
                    expected=f"{index}, as image_start_id in the model's config.json says",
                )
        if slots.start_id < 256:
            raise UserError("image_start_id", f"is {slots.start_id}", expected="an id behind those of the 256 bytes")
        return slots

    @property
    def end_id(self) -> int:
        """Id behind the places."""
        return self.start_id + 1

    @property
    def pad_id(self) -> int:
        """Id in the places that a model reads."""
        return self.start_id + 2

    def ids(self, path: str) -> list[int]:
        """Start, the bytes of the path, pads, end: 258 ids."""
        name = path.encode()
        return [self.start_id, *name, *([self.pad_id] * (PLACES - len(name))), self.end_id]


def numbered(conversation: Conversation) -> Conversation:
    """``conversation`` with each picture outside the answers on a line of its own, numbered from 1.

    A number that the text gives itself ("Picture 3: <img>...") stays.
    """
    count = 0

    def line(match: re.Match[str]) -> str:
        nonlocal count
        count += 1
        return f"{match[1] or f'Picture {count}: '}{START}{match[2].strip()}{END}\n"

    messages = [
        message if message.role == "assistant" else replace(message, content=_LINE.sub(line, message.content))
        for message in conversation.messages
    ]
    return replace(conversation, messages=tuple(messages))


def split_images(segments: Iterable[Segment], conversation: Conversation) -> list[Segment]:
    """``segments`` with the pictures of ordinary text outside answers as segments of their own, whose text is a path
    that was found and read. Raises ImageError at the conversation's place."""
    found: list[Segment] = []
    for segment in segments:
        if segment.special or segment.trained or segment.message is not None:
            found.append(segment)
            continue
        for number, text in enumerate(_IMAGE.split(segment.text)):
            if number % 2 == 0:
                found.append(segment._replace(text=text))
            else:
                found.append(segment._replace(text=_usable(text, conversation), image=True))
    return found


def paths_in(conversation: Conversation) -> list[str]:
    """What the texts outside answers name as pictures, as they write it."""
    return [path.strip() for m in conversation.messages if m.role != "assistant" for path in _IMAGE.findall(m.content)]


def located(path: str, data_file: str) -> Path:
    """Where the picture is: from the working directory, as in 2023, else from the folder of the data file."""
    here, beside = Path(path), Path(data_file).parent / path
    return beside if file_size(here) is None and file_size(beside) is not None else here


def _usable(path: str, conversation: Conversation) -> str:
    """``path`` as it can be opened later. Raises ImageError."""
    place = conversation.place
    if _URL.match(path):
        raise ImageError(place, f"the picture {path[:80]} is a URL", expected="a file", mend="download it first")
    file = located(path, place.file)
    size = len(str(file).encode())
    if size > PLACES:
        raise ImageError(
            place, f"the path of the picture has {size} bytes", expected=f"at most {PLACES}", mend="use a shorter one"
        )
    fault = image_fault(file)
    if fault:
        raise ImageError(place, f"the picture {path} {fault}", mend="mend the path or the file")
    return str(file)


def file_size(path: Path) -> int | None:
    """Bytes of a file; None where there is none, or none can have such a name (too long, with a null character)."""
    try:
        return path.stat().st_size if path.is_file() else None
    except (OSError, ValueError):
        return None


def image_fault(file: Path) -> str | None:
    """Why a file is no picture that can be read to its end, or None. Large JPEG files are decoded at a lower size."""
    from PIL import Image

    if file_size(file) is None:
        return "does not exist"
    try:
        with Image.open(file) as image:
            image.draft("RGB", (256, 256))
            image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # PIL raises all of these
        return f"cannot be read ({' '.join(str(error).split())[:120]})"
    return None


def load_pixels(file: str, size: int) -> NDArray[np.float32]:
    """The picture as the tower takes it, float32 [3, size, size]: RGB, resized by bicubic curves whatever its aspect,
    less the mean, over the deviation. Raises ImageError."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            resized = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(file, f"cannot be read ({' '.join(str(error).split())[:120]})") from error
    mean, std = np.array(MEAN, dtype=np.float32), np.array(STD, dtype=np.float32)
    values = np.asarray(resized, dtype=np.float32) / np.float32(255)
    return np.ascontiguousarray(((values - mean) / std).transpose(2, 0, 1), dtype=np.float32)


def take_paths(ids: Sequence[int] | NDArray[np.int64], slots: ImageSlots) -> tuple[NDArray[np.int64], list[str]]:
    """Ids [T] with pads in the places of pictures, and the paths that were there, in order."""
    found = np.array(ids, dtype=np.int64)
    paths = []
    for start in np.flatnonzero(found == slots.start_id).tolist():
        places = found[start + 1 : start + 1 + PLACES]
        paths.append(bytes(places[places != slots.pad_id].tolist()).decode())
        places[:] = slots.pad_id
    return found, paths


def stack_pixels(rows: Sequence[Sequence[str]], slots: ImageSlots) -> NDArray[np.float32] | None:
    """Pixels float32 [B, I, 3, S, S] of the pictures of each row, zeros behind those of a row with fewer than I.

    None where no row has any. Raises ImageError.
    """
    most = max(len(row) for row in rows)
    if most == 0:
        return None
    pixels = np.zeros((len(rows), most, 3, slots.size, slots.size), dtype=np.float32)
    for index, row in enumerate(rows):
        for number, path in enumerate(row):
            pixels[index, number] = load_pixels(path, slots.size)
    return pixels
