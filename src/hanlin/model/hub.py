"""Models and adapters from Hugging Face or ModelScope, through their own clients: weights, settings, tokenizer, never
code.

A repository is listed once, the files that are wanted are chosen here, and the client brings exactly those at the
commit of the listing: resumed where it was interrupted, checked, and kept in the hub's own cache. Both clients lock a
file while they bring it, so that of several processes of a machine one downloads and the others wait and find it.
"""

from __future__ import annotations

import contextlib
import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hanlin.config.environment import read_hub_environment
from hanlin.errors import UserError
from hanlin.model.entry import HUB_NAMES, Hub
from hanlin.model.hub_clients import CLIENTS, Choose, Client, HubError, Listing
from hanlin.names import is_hub_id

SETTINGS_FILES = ("*.json", "*.model", "*.txt", "*.tiktoken", "*.jinja")
WEIGHT_FILES = ("*.safetensors",)
SECOND_COPY = r"consolidated.*\.safetensors"
"""The same weights once more in their maker's own layout, beside those of transformers (Mistral's repositories)."""
PICKLED_FILES = ("pytorch_model*.bin",)
ADAPTER_FILES = (*SETTINGS_FILES, *WEIGHT_FILES, "adapter_model.bin")
"""Patterns of what is taken, of files at the top of a repository. Python files match none of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How a hub id is looked up."""

    hub: Hub = "huggingface"
    revision: str | None = None
    """Branch, tag or commit. None: the default branch."""
    cache_dir: str | Path | None = None
    """None: the cache of the hub's client."""
    offline: bool = False
    """Take what the cache has and never ask the network."""
    ignore_file_pattern: tuple[str, ...] = ()
    """Regular expressions; files whose whole name matches one are left out."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where downloaded files came from: enough to get the same ones again."""

    hub: Hub
    name: str
    revision: str
    """Commit, or what the hub calls the revision where it gives no commit."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """Files on this machine."""

    folder: Path
    origin: Origin


def default_access(
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    *,
    use_hf: bool | None = None,
    offline: bool = False,
) -> Access:
    """The access that the environment asks for; ``use_hf`` and ``offline`` are what the user said of it."""
    environment = read_hub_environment()
    asked = environment.use_hf if use_hf is None else use_hf
    hub: Hub = "modelscope" if asked is False else "huggingface"
    return Access(hub=hub, revision=revision, cache_dir=cache_dir, offline=offline or environment.offline)


def fetch_model(name: str, place: str, access: Access) -> Fetched:
    """A model with its tokenizer; pickled weights are taken only where there are no others. Raises UserError."""
    access = replace(access, ignore_file_pattern=(*access.ignore_file_pattern, SECOND_COPY))
    fetched = _fetch(name, place, access, (*SETTINGS_FILES, *WEIGHT_FILES), instead=PICKLED_FILES)
    if not (fetched.folder / "config.json").is_file():
        raise _absent(name, place, access, "config.json")
    return fetched


def fetch_tokenizer(name: str, place: str, access: Access) -> Fetched:
    """The tokenizer and settings of a model, without weights. Raises UserError."""
    return _fetch(name, place, access, SETTINGS_FILES)


def local_tokenizer(name: str, place: str, access: Access) -> str:
    """``name`` itself when it is a file or a folder, or none that a hub could have; else the folder of its download."""
    if Path(name).expanduser().exists() or not is_hub_id(name):
        return name
    return str(fetch_tokenizer(name, place, replace(access, ignore_file_pattern=())).folder)


def fetch_adapter(name: str, place: str, access: Access) -> Fetched:
    """An adapter. Raises UserError."""
    return _fetch(name, place, replace(access, ignore_file_pattern=()), ADAPTER_FILES)


def _fetch(name: str, place: str, access: Access, patterns: Sequence[str], instead: Sequence[str] = ()) -> Fetched:
    client = CLIENTS[access.hub]

    def choose(files: Sequence[str]) -> list[str]:
        return choose_files(files, patterns, access.ignore_file_pattern, instead=instead)

    try:
        client.check(place)
        listing = None if access.offline else _list(client, name, access, choose)
        if listing is None:
            folder, revision = client.cached(name, access.revision, choose, access.cache_dir)
    except HubError as failure:
        raise _refused(name, place, access, failure.reason) from failure
    if listing is not None:
        try:
            folder, revision = client.download(name, listing, choose(listing.files), access.cache_dir)
        except HubError as failure:
            raise UserError(
                place,
                f"{name} could not be downloaded from {HUB_NAMES[access.hub]} ({failure.reason})",
                mend="start again: whole files are kept",
            ) from failure
    return Fetched(folder, Origin(access.hub, name, revision))


def _list(client: Client, name: str, access: Access, choose: Choose) -> Listing | None:
    """The files of ``name``; None when the hub is not reached and the cache has it. Raises HubError."""
    try:
        return client.list_files(name, access.revision)
    except HubError as failure:
        if failure.unreachable:
            with contextlib.suppress(HubError):
                client.cached(name, access.revision, choose, access.cache_dir)
                return None
        raise


def choose_files(
    files: Sequence[str], patterns: Sequence[str], ignored: Sequence[str] = (), *, instead: Sequence[str] = ()
) -> list[str]:
    """The names among ``files`` that match one of ``patterns`` and none of the regular expressions ``ignored``.

    Where no safetensors are among them, names matching ``instead`` come too, ignored or not: 2023's patterns leave the
    pickled weights out because there are others.
    """
    top = [file for file in files if "/" not in file]
    kept = [file for file in top if not any(re.fullmatch(pattern, file) for pattern in ignored)]
    chosen = [file for file in kept if _matches(file, patterns)]
    if instead and not any(_matches(file, WEIGHT_FILES) for file in chosen):
        chosen += [file for file in top if _matches(file, instead)]
    return chosen


def _matches(file: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(file, pattern) for pattern in patterns)


def _refused(name: str, place: str, access: Access, reason: str) -> UserError:
    if access.offline:
        return UserError(
            place,
            f"{name} is no folder here, and the cache of {HUB_NAMES[access.hub]} does not hold it",
            expected="a folder or a hub id that was downloaded before",
            mend="run once without --offline",
        )
    other = "try --use_hf false (ModelScope)" if access.hub == "huggingface" else "try --use_hf true (Hugging Face)"
    return UserError(
        place,
        f"{name} is no folder here, and the hub does not give it ({HUB_NAMES[access.hub]}: {reason})",
        expected="a folder or a hub id",
        mend=other if "404" in reason or "not exist" in reason.lower() or "not found" in reason.lower() else "",
    )


def _absent(name: str, place: str, access: Access, file: str) -> UserError:
    if access.offline:
        return UserError(place, f"the cache holds only a part of {name} (no {file})", mend="run once without --offline")
    return UserError(place, f"{name} on {HUB_NAMES[access.hub]} holds no {file}", expected="a model")
