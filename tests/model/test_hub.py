"""Downloads through the real clients of both hubs against small servers on loopback."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hanlin.errors import UserError
from hanlin.model.hub import SETTINGS_FILES, WEIGHT_FILES, Access, choose_files, fetch_model
from hub_server import COMMIT, HubServer, needs_modelscope, serve
from tiny import tiny_llama

HUBS = ["huggingface", pytest.param("modelscope", marks=needs_modelscope)]

FETCH = """
import sys
from dataclasses import replace
from hanlin.errors import UserError
from hanlin.model.hub import Access, fetch_model
hub, name, *words = sys.argv[1:]
patterns = tuple(word for word in words if word != "offline")
try:
    fetched = fetch_model(name, "--model", Access(hub=hub, offline="offline" in words, ignore_file_pattern=patterns))
except UserError as error:
    print(error); sys.exit(2)
print(fetched.folder); print(fetched.origin.hub, fetched.origin.name, fetched.origin.revision)
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model in two shards, with code beside it that must stay where it is."""
    folder = tiny_llama(tmp_path / "model", max_shard_size="20KB")
    (folder / "modeling_evil.py").write_text("raise SystemExit")
    (folder / "consolidated.safetensors").write_bytes((folder / "model-00001-of-00006.safetensors").read_bytes())
    (folder / "README.md").write_text("# a model\n")
    (folder / "vocab.tiktoken").write_text("IQ== 0\n")
    return folder


@pytest.fixture
def hub(model: Path) -> Iterator[HubServer]:
    with serve({"team/model": model}) as server:
        yield server


def start(server: HubServer, home: Path, *words: str, **more: str) -> subprocess.Popen[str]:
    """In a process of its own: the clients read their endpoints once."""
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=server.environment(home, **more),
    )


def fetch(server: HubServer, home: Path, *words: str, **more: str) -> tuple[Path, str]:
    process = start(server, home, *words, **more)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    folder, origin = out.strip().splitlines()[-2:]
    return Path(folder), origin


def failure(server: HubServer, home: Path, *words: str, **more: str) -> str:
    process = start(server, home, *words, **more)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 2, out + err
    assert out.count("\n") == 1
    return out


@pytest.mark.parametrize("name", HUBS)
def test_a_model_comes_whole_at_its_commit_and_without_code(
    name: str, hub: HubServer, model: Path, tmp_path: Path
) -> None:
    folder, origin = fetch(hub, tmp_path / "home", name, "team/model")
    assert origin == f"{name} team/model {COMMIT}"
    wanted = {file.name for file in model.iterdir()} - {"modeling_evil.py", "README.md", "consolidated.safetensors"}
    assert {file.name for file in folder.iterdir() if not file.name.startswith(".")} == wanted
    for file in wanted:
        assert (folder / file).read_bytes() == (model / file).read_bytes()


@pytest.mark.parametrize("name", HUBS)
def test_what_is_there_is_not_sent_again(name: str, hub: HubServer, tmp_path: Path) -> None:
    fetch(hub, tmp_path / "home", name, "team/model")
    sent = len(hub.fetched)
    fetch(hub, tmp_path / "home", name, "team/model")
    assert len(hub.fetched) == sent > 3


@pytest.mark.parametrize("name", HUBS)
def test_two_processes_download_once(name: str, hub: HubServer, tmp_path: Path) -> None:
    hub.delay = 0.5  # so that they do meet
    processes = [start(hub, tmp_path / "home", name, "team/model") for _ in range(2)]
    folders = set()
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        folders.add(out.splitlines()[-2])
    assert len(folders) == 1
    assert len(hub.fetched) == len(set(hub.fetched)), sorted(hub.fetched)


@pytest.mark.parametrize("name", HUBS)
def test_offline_takes_the_cache_alone(name: str, hub: HubServer, tmp_path: Path) -> None:
    line = failure(hub, tmp_path / "home", name, "team/model", "offline")
    assert "the cache of" in line
    assert "--offline" in line
    online = fetch(hub, tmp_path / "home", name, "team/model")
    asked = len(hub.asked)
    assert fetch(hub, tmp_path / "home", name, "team/model", "offline") == online
    assert len(hub.asked) == asked


@pytest.mark.parametrize("name", HUBS)
def test_a_hub_that_is_away_leaves_the_cache(name: str, hub: HubServer, tmp_path: Path) -> None:
    away = {"HF_ENDPOINT": "http://127.0.0.1:9", "MODELSCOPE_ENDPOINT": "http://127.0.0.1:9"}
    line = failure(hub, tmp_path / "home", name, "team/model", **away)
    assert "the hub does not give it" in line
    online = fetch(hub, tmp_path / "home", name, "team/model")
    assert fetch(hub, tmp_path / "home", name, "team/model", **away) == online


@pytest.mark.parametrize("name", HUBS)
def test_an_unknown_id_is_one_line(name: str, hub: HubServer, tmp_path: Path) -> None:
    line = failure(hub, tmp_path / "home", name, "team/nothing")
    assert "team/nothing is no folder here, and the hub does not give it" in line


@pytest.mark.parametrize("name", HUBS)
def test_a_checksum_that_differs_is_one_line_and_the_file_is_fetched_anew(
    name: str, model: Path, tmp_path: Path
) -> None:
    shard = "model-00002-of-00006.safetensors"
    with serve({"team/model": model}, wrong_sum=shard) as hub:
        for _ in range(2):
            line = failure(hub, tmp_path / "home", name, "team/model")
            assert "could not be downloaded" in line
            assert shard in line
            assert re.search("SHA-256|Hash", line)
        assert hub.fetched.count(f"team/model/{shard}") >= 2


@pytest.mark.parametrize("name", HUBS)
def test_a_hub_is_asked_for_the_model_alone_and_told_nothing(name: str, hub: HubServer, tmp_path: Path) -> None:
    fetch(hub, tmp_path / "home", name, "team/model")
    beside = {path for path in hub.asked if "team/model" not in path}
    # Where to fetch from, within one maker's data centres.
    assert beside <= {"/api/v1/repos/internalAccelerationInfo"}
    told = " ".join(hub.agents)
    assert "torch" not in told
    assert "agent/" not in told
    assert all(part == f"session_id/{'0' * 32}" for part in told.split("; ") if part.startswith("session_id/"))


@pytest.mark.parametrize("name", HUBS)
def test_an_interrupted_download_goes_on(name: str, hub: HubServer, model: Path, tmp_path: Path) -> None:
    """The connection breaks in the middle of a shard; later only that one is sent, by ModelScope only its rest."""
    shard = sorted(model.glob("*.safetensors"))[-1]
    hub.cut = shard.name
    failure(hub, tmp_path / "home", name, "team/model")
    others = sorted(set(hub.fetched) - {f"team/model/{shard.name}"})
    hub.cut, hub.fetched, hub.sent = "", [], {}
    folder, _ = fetch(hub, tmp_path / "home", name, "team/model")
    assert (folder / shard.name).read_bytes() == shard.read_bytes()
    assert len(others) > 5
    assert hub.fetched == [f"team/model/{shard.name}"]
    if name == "modelscope":  # Hugging Face's client keeps what it has of a file from 10 MB on
        assert hub.sent[shard.name] <= shard.stat().st_size // 2 + 1


@pytest.mark.parametrize("name", HUBS)
def test_a_killed_download_goes_on(name: str, hub: HubServer, model: Path, tmp_path: Path) -> None:
    """Killed in the middle of a shard; whole files are never sent again, nor, by ModelScope, what came of the shard."""
    shard = sorted(model.glob("*.safetensors"))[-1]
    shard.write_bytes(shard.read_bytes() + bytes(24 * 2**20))
    hub.stall = shard.name
    process = start(hub, tmp_path / "home", name, "team/model")
    half, until = shard.stat().st_size // 2, time.monotonic() + 100
    while (hub.sent.get(shard.name, 0) < half or len(set(hub.fetched)) < 6) and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(1)
    process.kill()
    process.communicate()
    whole = {file for file in hub.fetched if shard.name not in file}
    hub.stall, hub.fetched, hub.sent = "", [], {}
    folder, _ = fetch(hub, tmp_path / "home", name, "team/model")
    assert (folder / shard.name).read_bytes() == shard.read_bytes()
    assert not whole & set(hub.fetched)
    if name == "modelscope":
        assert hub.sent[shard.name] <= half + 2**20


def test_a_broken_connection_goes_on_where_it_broke(hub: HubServer, model: Path, tmp_path: Path) -> None:
    """Hugging Face's client asks for the rest of a large file in the same run."""
    shard = sorted(model.glob("*.safetensors"))[-1]
    shard.write_bytes(shard.read_bytes() + bytes(44 * 2**20))
    hub.cut, hub.cuts_once = shard.name, True
    folder, _ = fetch(hub, tmp_path / "home", "huggingface", "team/model")
    assert (folder / shard.name).read_bytes() == shard.read_bytes()
    assert hub.fetched.count(f"team/model/{shard.name}") == 2
    assert hub.sent[shard.name] < shard.stat().st_size + 12 * 2**20, "pieces of 10 MB are kept"


def test_a_client_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--model: .* pip install 'hanlin\[modelscope\]'"):
        fetch_model("team/model", "--model", Access(hub="modelscope"))


def test_only_named_kinds_of_files_are_taken() -> None:
    files = ["config.json", "model.safetensors", "pytorch_model.bin", "modeling_x.py", "tokenizer.model", "onnx/m.json"]
    patterns = (*SETTINGS_FILES, *WEIGHT_FILES)
    assert choose_files(files, patterns) == ["config.json", "model.safetensors", "tokenizer.model"]
    pickled = ["config.json", "pytorch_model.bin", "training_args.bin"]
    assert choose_files(pickled, patterns, instead=("pytorch_model*.bin",)) == ["config.json", "pytorch_model.bin"]
    both = [*pickled, "model.safetensors"]
    assert "pytorch_model.bin" not in choose_files(both, patterns, instead=("pytorch_model*.bin",))


def test_ignored_patterns_are_regular_expressions_over_whole_names() -> None:
    files = ["config.json", "a.gguf.json", "x.json"]
    assert choose_files(files, ("*.json",), (r".+\.gguf.*",)) == ["config.json", "x.json"]
    assert choose_files(files, ("*.json",), (r"gguf",)) == files
    bins = ["config.json", "pytorch_model.bin"]
    assert choose_files(bins, ("*.json",), (r".+\.bin$",), instead=("*.bin",)) == bins


@pytest.mark.parametrize("name", HUBS)
def test_an_entry_can_leave_files_out(name: str, hub: HubServer, tmp_path: Path) -> None:
    folder, _ = fetch(hub, tmp_path / "home", name, "team/model", r"vocab\..*")
    assert not (folder / "vocab.tiktoken").exists()
    assert json.loads((folder / "config.json").read_text())["model_type"] == "llama"
