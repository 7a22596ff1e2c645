"""Checkpoints on disk: sealed, verified, rotated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hanlin.errors import UserError
from hanlin.files import write_json
from hanlin.train import checkpoint


def staged(folder: Path, step: int) -> Path:
    staging = folder / f"{checkpoint.STAGING_PREFIX}{step}"
    (staging / "inner").mkdir(parents=True)
    (staging / "weights.bin").write_bytes(b"w" * 100)
    (staging / "inner" / "state.json").write_text("{}")
    return staging


def sealed(folder: Path, step: int, **fingerprint: object) -> Path:
    final = folder / f"checkpoint-{step}"
    checkpoint.seal(staged(folder, step), final, step=step, fingerprint=fingerprint)
    return final


def test_a_sealed_checkpoint_verifies_and_states_every_file(tmp_path: Path) -> None:
    folder = sealed(tmp_path, 3, data="abc")
    manifest, fault = checkpoint.verify(folder)
    assert fault == ""
    assert manifest is not None
    assert manifest.step == 3
    assert set(manifest.files) == {"weights.bin", "inner/state.json"}
    assert {"torch", "transformers", "peft", "hanlin"} <= manifest.versions.keys()
    assert not (tmp_path / f"{checkpoint.STAGING_PREFIX}3").exists()


@pytest.mark.parametrize("damage", ["manifest", "missing", "size", "bytes", "json"])
def test_every_kind_of_damage_is_found(tmp_path: Path, damage: str) -> None:
    folder = sealed(tmp_path, 3)
    weights, manifest = folder / "weights.bin", folder / checkpoint.MANIFEST
    if damage == "manifest":
        manifest.unlink()
    elif damage == "missing":
        weights.unlink()
    elif damage == "size":
        weights.write_bytes(b"w" * 99)
    elif damage == "bytes":
        weights.write_bytes(b"w" * 99 + b"x")
    else:
        manifest.write_text(manifest.read_text()[:-20])
    assert checkpoint.verify(folder)[0] is None
    older = sealed(tmp_path, 2)
    found, skipped = checkpoint.find_last(tmp_path)
    assert found == older
    assert len(skipped) == 1


def test_the_last_checkpoint_is_by_number_not_by_name(tmp_path: Path) -> None:
    for step in (10, 9, 100):
        sealed(tmp_path, step)
    assert [step for step, _ in checkpoint.list_checkpoints(tmp_path)] == [9, 10, 100]
    assert checkpoint.find_last(tmp_path)[0] == tmp_path / "checkpoint-100"


def test_rotation_keeps_the_best_and_the_newest(tmp_path: Path) -> None:
    folders = [sealed(tmp_path, step) for step in (1, 2, 3, 4, 5)]
    checkpoint.rotate(tmp_path, 3, folders[0])
    assert [step for step, _ in checkpoint.list_checkpoints(tmp_path)] == [1, 4, 5]
    checkpoint.rotate(tmp_path, 1, folders[0])
    assert [step for step, _ in checkpoint.list_checkpoints(tmp_path)] == [1, 5]
    checkpoint.rotate(tmp_path, None, None)
    assert len(checkpoint.list_checkpoints(tmp_path)) == 2


def test_another_fingerprint_is_refused_with_both_values(tmp_path: Path) -> None:
    folder = sealed(tmp_path, 1, seed=42)
    manifest, _ = checkpoint.verify(folder)
    assert manifest is not None
    checkpoint.check_fingerprint(folder, manifest, {"seed": 42})
    with pytest.raises(UserError, match="seed 42, and this run has 43"):
        checkpoint.check_fingerprint(folder, manifest, {"seed": 43})


def test_json_is_replaced_in_one_move(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
