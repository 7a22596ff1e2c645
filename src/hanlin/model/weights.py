"""Reading checkpoints by their headers: names, dtypes and shapes are known before any weight is loaded."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from hanlin.errors import UserError

_SAFETENSORS_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What a header says about one tensor."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    file: Path

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class WeightIndex:
    """The tensors of one checkpoint and the files they lie in; nothing is loaded until ``load``."""

    def __init__(self, files: Sequence[Path], tensors: Sequence[TensorInfo], *, notices: Sequence[str] = ()) -> None:
        self.files: tuple[Path, ...] = tuple(files)
        self.tensors: dict[str, TensorInfo] = {tensor.name: tensor for tensor in tensors}
        self.notices: tuple[str, ...] = tuple(notices)
        self._pickled: tuple[Path, dict[str, torch.Tensor]] | None = None

    @property
    def nbytes(self) -> int:
        """Size of all tensors in bytes."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor, by name."""
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    def shards(self) -> list[tuple[Path, list[str]]]:
        """Each file with the names of its tensors, in the order of the files."""
        return [(file, [n for n, t in self.tensors.items() if t.file == file]) for file in self.files]

    def load(self, name: str) -> torch.Tensor:
        """The tensor, on the CPU, in its stored dtype; raises KeyError for an unknown name."""
        file = self.tensors[name].file
        if file.suffix == ".safetensors":
            with _open_safetensors(file) as handle:
                tensor: torch.Tensor = handle.get_tensor(name)
                return tensor
        return self._unpickled(file)[name]

    def load_rows(self, name: str, rows: Sequence[int]) -> torch.Tensor:
        """Some rows (int, along the first dimension) of a tensor, without reading the others."""
        file = self.tensors[name].file
        if file.suffix == ".safetensors":
            with _open_safetensors(file) as handle:
                part = handle.get_slice(name)
                return torch.stack([part[row] for row in rows])
        return self._unpickled(file)[name][list(rows)]

    def finish(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """``tensor``, trained in the place of ``name``, as the finished model holds it; here: as it is."""
        return tensor

    def finished(self) -> WeightIndex:
        """The tensors as a plain model holds them; here: these."""
        return self

    def _unpickled(self, file: Path) -> dict[str, torch.Tensor]:
        # Memory-mapped, so keeping the last file open holds addresses and not bytes.
        if self._pickled is None or self._pickled[0] != file:
            self._pickled = (file, _read_bin(file))
        return self._pickled[1]


def open_weights(directory: Path | str, place: str) -> WeightIndex:
    """Index of the model weights in ``directory``: safetensors or pytorch_model*.bin, single or sharded.

    Where both forms lie side by side safetensors is read and a notice says so. Raises UserError at ``place`` for a
    folder without weights, files missing from a set, damaged files and files that need code to be executed.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(place, f"{directory} is not a folder", expected="a folder with model weights")
    safetensors = _file_sets(directory, "model", "safetensors", place)
    pickled = _file_sets(directory, "pytorch_model", "bin", place) if not safetensors else []
    sets = safetensors or pickled
    if not sets:
        raise UserError(
            place,
            f"{directory} holds no model weights",
            expected="model*.safetensors or pytorch_model*.bin",
            mend=_mend_no_weights(directory),
        )
    notices = []
    if len(sets) > 1:
        notices.append(f"{directory} holds two sets of weights; {sets[0][0].name} is read, the shards are not")
    if safetensors and any(directory.glob("pytorch_model*.bin")):
        notices.append(f"{directory} holds safetensors and pytorch_model*.bin; the safetensors are read")
    return _index_of(sets[0], notices)


def open_weight_file(file: Path | str) -> WeightIndex:
    """Index of one safetensors or .bin file; raises UserError when it cannot be read."""
    return _index_of([Path(file)], [])


def _index_of(files: Sequence[Path], notices: Sequence[str]) -> WeightIndex:
    tensors: list[TensorInfo] = []
    for file in files:
        tensors += _safetensors_header(file) if file.suffix == ".safetensors" else _bin_header(file)
    index = WeightIndex(files, tensors, notices=notices)
    if len(index.tensors) != len(tensors):
        seen: set[str] = set()
        twice = next(t for t in tensors if t.name in seen or seen.add(t.name))  # type: ignore[func-returns-value]
        raise UserError(twice.file, f"tensor {twice.name} lies in two shards", mend="download the checkpoint again")
    return index


def _file_sets(directory: Path, stem: str, suffix: str, place: str) -> list[list[Path]]:
    """Complete sets of files, the preferred one (the single file, as transformers does) first."""
    sets = []
    single = directory / f"{stem}.{suffix}"
    if single.is_file():
        sets.append([single])
    index = directory / f"{stem}.{suffix}.index.json"
    if index.is_file():
        names = sorted(set(_weight_map(index).values()))
        missing = [name for name in names if not (directory / name).is_file()]
        if missing and not sets:
            raise UserError(
                place,
                f"{index} names {len(names)} files, of which {len(missing)} are missing: {', '.join(missing[:3])}",
                mend="download the missing files again",
            )
        if not missing:
            sets.append([directory / name for name in names])
    elif not sets:
        shards = sorted(f for f in directory.glob(f"{stem}-*.{suffix}") if _SHARD.search(f.name))
        if shards:
            numbers = {int(m[1]): int(m[2]) for f in shards if (m := _SHARD.search(f.name))}
            expected = max(numbers.values())
            if set(numbers) != set(range(1, expected + 1)) or len(set(numbers.values())) > 1:
                raise UserError(
                    place,
                    f"{directory} holds {len(shards)} of {expected} shards and no index",
                    mend="download the missing files again",
                )
            sets.append(shards)
    return sets


def _weight_map(index: Path) -> dict[str, str]:
    try:
        weight_map: Any = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = {str(name): str(file) for name, file in weight_map.items()}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(
            index, "is not an index of weights", expected='JSON with "weight_map"', mend="download it again"
        ) from error
    outside = [file for file in names.values() if Path(file).name != file]
    if outside:
        raise UserError(index, f"names the file {outside[0]!r}", expected="names of files in the same folder")
    return names


def _mend_no_weights(directory: Path) -> str:
    if any(directory.glob("consolidated.*.pth")):
        return "these are Meta's own files; convert them with transformers' convert_llama_weights_to_hf.py"
    if (directory / "adapter_config.json").is_file():
        return "this is an adapter; name its base with --model and the adapter with --adapter"
    if any(directory.glob("*.gguf")):
        return "GGUF files are for llama.cpp; name the checkpoint they were made from"
    return ""


def _open_safetensors(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise _unreadable(file, error) from error


def _safetensors_header(file: Path) -> list[TensorInfo]:
    found = []
    with _open_safetensors(file) as handle:
        for name in handle.keys():  # noqa: SIM118 - the handle is not a mapping
            part = handle.get_slice(name)
            dtype = _SAFETENSORS_DTYPES.get(part.get_dtype())
            if dtype is None:
                raise UserError(file, f"tensor {name} has dtype {part.get_dtype()}, which torch does not know")
            found.append(TensorInfo(name, dtype, tuple(part.get_shape()), file))
    return found


def _bin_header(file: Path) -> list[TensorInfo]:
    tensors = _read_bin(file)
    return [TensorInfo(name, tensor.dtype, tuple(tensor.shape), file) for name, tensor in tensors.items()]


def _read_bin(file: Path) -> dict[str, torch.Tensor]:
    """Tensors of a torch file; code in the file is never executed (``weights_only``)."""
    try:
        try:
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            content = torch.load(file, map_location="cpu", weights_only=True)  # written before torch 1.6
    except pickle.UnpicklingError as error:
        if _is_pointer(file):
            raise _unreadable(file, error) from error
        raise UserError(
            file,
            "needs Python code to be executed while it is read, which is refused",
            expected="a file of tensors only",
            mend="save it as safetensors where you trust it",
        ) from error
    except Exception as error:  # random bytes make the reader fail in every way (IndexError, AssertionError ...)
        raise _unreadable(file, error) from error
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in content.items()
    ):
        raise UserError(file, "is not a table of tensors", expected="names and tensors, as state_dict() gives")
    return dict(content)


def _is_pointer(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(40).startswith(b"version https://git-lfs")


def _unreadable(file: Path, error: Exception) -> UserError:
    if not file.is_file():
        return UserError(file, "does not exist")
    size = file.stat().st_size
    if _is_pointer(file):
        return UserError(file, "is a Git LFS pointer and not the file itself", mend="run git lfs pull")
    reason = str(error).splitlines()[0].split(". ")[0] if str(error) else type(error).__name__
    return UserError(file, f"cannot be read ({size} bytes, {reason[:120]})", mend="download or copy it again")
