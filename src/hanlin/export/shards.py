"""Writing a folder of weights so that it is there whole or not at all.

Everything goes into a sibling of the target (``.NAME.partial-PID``), is synced to the disk and then renamed, so neither
a full disk nor a kill leaves half a model under the name that the user gave, and an older model there stays until the
new one is complete.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from hanlin.errors import UserError
from hanlin.files import file_sha256, share, sync, write_failure, write_json, write_text
from hanlin.model.weights import WeightIndex

MODEL_FILES = ("config.json", "params.json", "hanlin.json")
"""One of these marks a folder as a model; ``--overwrite`` replaces nothing else."""

CHECKSUMS_FILE = "checksums.json"


def plan_shards(sizes: Mapping[str, int], max_bytes: int) -> list[list[str]]:
    """Names in their order, cut into groups of at most ``max_bytes``; a tensor larger than that stands alone."""
    groups: list[list[str]] = []
    filled = 0
    for name, size in sizes.items():
        if not groups or filled + size > max_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    return groups


def shard_names(count: int) -> list[str]:
    """File names of ``count`` shards, as transformers expects them."""
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]


def check_target(target: Path, inputs: Iterable[Path], *, overwrite: bool) -> None:
    """Refuse an output folder that is an input, holds one, or holds something already. Raises UserError."""
    resolved = target.resolve()
    for source in inputs:
        if source.resolve() == resolved or resolved in source.resolve().parents:
            raise UserError("--output_dir", f"{target} holds the input {source}", expected="another folder")
    if target.exists() and not target.is_dir():
        raise UserError("--output_dir", f"{target} is a file", expected="a folder to create")
    if not target.is_dir() or not any(target.iterdir()):
        return
    if not overwrite:
        raise UserError("--output_dir", f"{target} is not empty", mend="choose another folder, or add --overwrite")
    if not any((target / name).is_file() for name in MODEL_FILES):
        raise UserError(
            "--output_dir",
            f"{target} is not empty and holds no model (none of {', '.join(MODEL_FILES)})",
            mend="--overwrite replaces models only: choose another folder",
        )


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """A new folder beside ``target`` that takes its place when the block ends well, and is removed when it does not.

    A full disk or another OSError, also in the words that safetensors and torch use for it, becomes a UserError.
    """
    partial = target.parent / f".{target.name}.partial-{os.getpid()}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        yield partial
        for path in sorted(partial.rglob("*")):
            sync(path)
        sync(partial)
        _swap(partial, target)
        sync(target.parent)
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = write_failure(error)
        if reason is None:
            raise
        raise UserError(
            target,
            f"could not be written ({reason})",
            mend="free some space or choose another --output_dir; nothing was left behind",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _swap(partial: Path, target: Path) -> None:
    """Rename ``partial`` to ``target``; an older folder there is moved aside first and removed last."""
    if not target.exists():
        partial.rename(target)
        return
    aside = target.parent / f".{target.name}.replaced-{os.getpid()}"
    target.rename(aside)
    try:
        partial.rename(target)
    except OSError:
        aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def check_space(target: Path, needed: int) -> None:
    """Refuse a disk without ``needed`` free bytes before anything is written. Raises UserError."""
    free = free_bytes(target)
    if free is not None and free < needed:
        raise UserError(
            "--output_dir",
            f"{target} needs {needed / 1e9:.2f} GB and the disk has {free / 1e9:.2f} GB free",
            mend="free some space or choose another --output_dir",
        )


def write_shard(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """One safetensors file; the metadata is what transformers looks for."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
    share(path)


def write_index(folder: Path, groups: list[list[str]], sizes: Mapping[str, int]) -> None:
    """``model.safetensors.index.json`` for several shards; a single file needs none."""
    if len(groups) < 2:
        return
    names = shard_names(len(groups))
    weight_map = {name: file for file, group in zip(names, groups, strict=True) for name in group}
    write_json(
        folder / "model.safetensors.index.json",
        {"metadata": {"total_size": sum(sizes.values())}, "weight_map": dict(sorted(weight_map.items()))},
    )


class SafetensorsWriter:
    """Groups of tensors to ``model*.safetensors`` with an index."""

    def __init__(self, folder: Path, weights: WeightIndex, max_shard_bytes: int) -> None:
        self.folder = folder
        self.sizes = {name: info.nbytes for name, info in weights.tensors.items()}
        self.groups = plan_shards(self.sizes, max_shard_bytes)
        self._names = iter(shard_names(len(self.groups)))

    def write(self, tensors: dict[str, Tensor]) -> None:
        """Write one group; the groups come in the order of ``groups``."""
        write_shard(self.folder / next(self._names), tensors)

    def finish(self) -> None:
        """Write what can only be written at the end."""
        write_index(self.folder, self.groups, self.sizes)


def write_settings(path: Path, settings: Any) -> None:
    """A configuration of transformers as it was: some hold Infinity, which must not become null."""
    write_text(path, json.dumps(settings, ensure_ascii=False, indent=2) + "\n")


def write_checksums(folder: Path, identity: str, hashes: Mapping[str, str]) -> None:
    """``checksums.json``: the identity of the weights, the hash of every tensor and of every file written so far."""
    tensors = {name: hashes[name] for name in sorted(hashes)}
    checksums = {"algorithm": "sha256", "identity": identity, "tensors": tensors, "files": file_hashes(folder)}
    write_json(folder / CHECKSUMS_FILE, checksums)


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file directly in ``folder``, by name."""
    return {path.name: file_sha256(path) for path in sorted(folder.iterdir()) if path.is_file()}


def free_bytes(target: Path) -> int | None:
    """Bytes free on the disk of ``target``, or None when the system does not say."""
    folder = target
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    with suppress(OSError):
        return shutil.disk_usage(folder).free
    return None
