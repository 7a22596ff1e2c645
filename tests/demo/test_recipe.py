"""The stages are command lines that the parser takes, each reading what an earlier one wrote."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from hanlin.cli import VERBS, _load
from hanlin.config.parse import parse
from hanlin.demo.recipe import SYSTEM, TEMPLATE, stages
from hanlin.demo.report import wrapped


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a space in its name."""
    return tmp_path / "my demo"


@pytest.mark.parametrize("fast", [False, True])
def test_every_stage_is_a_command_line(folder: Path, fast: bool) -> None:
    for stage in stages(folder, seed=7, fast=fast):
        words = shlex.split(stage.command)
        assert words[0] == "hanlin"
        verb = stage.verb.split()
        assert words[1 : 1 + len(verb)] == verb
        config, notices = parse(_load(VERBS[stage.verb].config), words[1 + len(verb) :])
        assert notices == []
        if stage.curve:
            assert config.training.seed == 7
            assert (config.training.max_steps > 0) == fast
        else:
            assert config.output_dir == str(folder / stage.name)


def test_stages_read_only_what_is_there(folder: Path) -> None:
    written = {folder / "text"}
    for stage in stages(folder, seed=1, fast=False):
        for word in stage.arguments:
            path = Path(word)
            if path.is_absolute() and path != folder / stage.name:
                assert any(path.is_relative_to(earlier) for earlier in written), f"{stage.name} reads {path}"
        written.add(folder / stage.name)


def test_models_are_asked_as_they_were_tuned(folder: Path) -> None:
    stage = next(stage for stage in stages(folder, seed=1, fast=False) if stage.verb == "sft")
    config, _ = parse(_load(VERBS["sft"].config), list(stage.arguments))
    assert (config.instruction.template, config.instruction.system) == (TEMPLATE, SYSTEM)


def test_wrapped_commands_are_the_same_commands(folder: Path) -> None:
    for stage in stages(folder, seed=1, fast=False):
        lines = wrapped(stage.command)
        assert shlex.split(lines.replace("\\\n", "")) == shlex.split(stage.command)
        assert "\\\n" in lines or len(lines) <= 96
