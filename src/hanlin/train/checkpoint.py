"""Checkpoints that are whole or absent: written aside, synced, renamed, with a manifest that is verified on loading.

A checkpoint folder is complete exactly when its ``manifest.json`` is there and every file in it has the size and the
SHA-256 that the manifest states; a run killed while saving leaves only a ``.saving-*`` folder behind.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hanlin import __version__
from hanlin.errors import UserError
from hanlin.files import file_sha256, sync, write_json

MANIFEST = "manifest.json"
PREFIX = "checkpoint-"
STAGING_PREFIX = ".saving-"
_NAME = re.compile(r"^checkpoint-(\d+)$")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a checkpoint is: its step, what it was trained with, and the sum of every file."""

    step: int
    """Optimizer steps done."""
    fingerprint: Mapping[str, Any]
    """Settings that must be the same in a run that continues (data, order, batch, tokenizer, trained weights)."""
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Relative name to ``{"bytes": ..., "sha256": ...}``."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of hanlin and of the libraries."""


def seal(staging: Path, final: Path, *, step: int, fingerprint: Mapping[str, Any]) -> Manifest:
    """Write the manifest of a staged folder, sync everything and rename it to ``final``."""
    files = {}
    for path in sorted(item for item in staging.rglob("*") if item.is_file()):
        files[path.relative_to(staging).as_posix()] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        sync(path)
    manifest = Manifest(step, fingerprint, files, library_versions())
    write_json(
        staging / MANIFEST,
        {"step": step, "fingerprint": dict(fingerprint), "files": files, "versions": dict(manifest.versions)},
    )
    if final.exists():
        shutil.rmtree(final)
    staging.rename(final)
    sync(final.parent)
    return manifest


def library_versions() -> dict[str, str]:
    """Versions that a result depends on."""
    import accelerate
    import peft
    import torch
    import transformers

    return {
        "hanlin": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "accelerate": accelerate.__version__,
    }


def verify(folder: Path) -> tuple[Manifest | None, str]:
    """The manifest of a whole checkpoint, or None and what is wrong with it."""
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        manifest = Manifest(content["step"], content["fingerprint"], content["files"], content["versions"])
    except FileNotFoundError:
        return None, f"{MANIFEST} is missing"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return None, f"{MANIFEST} cannot be read: {error}"
    for name, facts in manifest.files.items():
        file = folder / name
        if not file.is_file():
            return None, f"{name} is missing"
        if file.stat().st_size != facts["bytes"]:
            return None, f"{name} has {file.stat().st_size} bytes instead of {facts['bytes']}"
        if file_sha256(file) != facts["sha256"]:
            return None, f"{name} does not match its SHA-256"
    return manifest, ""


def list_checkpoints(output_dir: Path) -> list[tuple[int, Path]]:
    """Checkpoint folders by step, the newest last; whether they are whole is not looked at."""
    if not output_dir.is_dir():
        return []
    found = [(int(match[1]), item) for item in output_dir.iterdir() if (match := _NAME.match(item.name))]
    return sorted(found)


def find_last(output_dir: Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint and a line for every broken one that was passed over."""
    skipped: list[str] = []
    for _, folder in reversed(list_checkpoints(output_dir)):
        manifest, fault = verify(folder)
        if manifest is not None:
            return folder, skipped
        skipped.append(f"{folder}: skipped, {fault}")
    return None, skipped


def check_fingerprint(folder: Path, manifest: Manifest, fingerprint: Mapping[str, Any]) -> None:
    """Refuse to continue a run with other data, order or weights than it began with. Raises UserError."""
    for name, now in fingerprint.items():
        before = manifest.fingerprint.get(name)
        if before != now:
            raise UserError(
                str(folder),
                f"was trained with {name} {before!r}, and this run has {now!r}",
                expected="the same settings to continue",
                mend="restore the setting, or start anew with --overwrite_output_dir or another --output_dir",
            )


def remove_staging(output_dir: Path) -> None:
    """Delete what killed runs left of unfinished checkpoints."""
    if output_dir.is_dir():
        for item in output_dir.glob(f"{STAGING_PREFIX}*"):
            shutil.rmtree(item, ignore_errors=True)


def rotate(output_dir: Path, limit: int | None, best: Path | None) -> None:
    """Delete the oldest checkpoints above ``limit``; the best and the newest always stay."""
    if limit is None or limit <= 0:
        return
    folders = [folder for _, folder in list_checkpoints(output_dir)]
    keep = {folders[-1], *([best] if best else [])} if folders else set()
    others = [folder for folder in folders if folder not in keep]
    for folder in others[: max(0, len(folders) - max(limit, len(keep)))]:
        shutil.rmtree(folder)


def link_or_copy(source: Path, target: Path) -> None:
    """A second name of the same file where the file system has hard links, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
