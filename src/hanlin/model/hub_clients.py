"""The two hubs behind one small protocol: list a repository, bring files of one commit, find what the cache has.

The clients are asked to tell the hubs nothing about the machine and its user beyond what is fetched.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from hanlin.errors import UserError
from hanlin.model.entry import Hub


class HubError(Exception):
    """A hub does not give what was asked for; ``reason`` is one line. ``unreachable``: it was not even asked."""

    def __init__(self, error: Exception) -> None:
        self.unreachable = _is_unreachable(error)
        failed: Mapping[str, Exception] = getattr(error, "failed_files", None) or {}  # ModelScope's name for them
        first = next(iter(failed), None)
        cause = failed[first] if first else error.__cause__ or error
        lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
        reason = (lines[0] if lines else type(cause).__name__)[:200]
        self.reason = reason if first is None or first in reason else f"{first}: {reason}"
        super().__init__(self.reason)


@dataclass(frozen=True, slots=True)
class Listing:
    """Names of the files of a repository at one revision."""

    asked: str | None
    """The revision as it was asked for."""
    revision: str
    """Its commit."""
    files: tuple[str, ...]
    sums: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 (hex) of files whose hub states it and whose client does not compare it itself."""


Choose = Callable[[Sequence[str]], list[str]]
"""From the names in a repository to those that are wanted."""


class Client(Protocol):
    """What a hub does for us. Every method but ``check`` raises HubError."""

    def check(self, place: str) -> None:
        """Raises UserError when the client is not installed."""

    def list_files(self, name: str, revision: str | None) -> Listing:
        """All files of ``name``, and the commit they are of."""

    def download(
        self, name: str, listing: Listing, files: Sequence[str], cache_dir: str | Path | None
    ) -> tuple[Path, str]:
        """Folder with ``files`` of ``listing``, and their commit."""

    def cached(self, name: str, revision: str | None, choose: Choose, cache_dir: str | Path | None) -> tuple[Path, str]:
        """As ``download``, of what the cache has; the network is not asked. ``choose`` says which files count."""


class HuggingFace:
    """Through huggingface_hub."""

    def check(self, place: str) -> None:
        """Always there: transformers needs it."""

    def list_files(self, name: str, revision: str | None) -> Listing:
        """One request; the commit is the hub's own, and large files come with their SHA-256."""
        from huggingface_hub import HfApi

        with _failures(), _untold():
            info = HfApi().model_info(name, revision=revision, files_metadata=True)
        siblings = info.siblings or []
        sums = {str(sibling.rfilename): str(sibling.lfs.sha256) for sibling in siblings if sibling.lfs}
        return Listing(revision, str(info.sha), tuple(str(sibling.rfilename) for sibling in siblings), sums)

    def download(
        self, name: str, listing: Listing, files: Sequence[str], cache_dir: str | Path | None
    ) -> tuple[Path, str]:
        """The snapshot; asked for by the branch, so that the cache remembers which commit the branch had.

        The client trusts what it receives, so files that were not there before are compared with their SHA-256 here.
        """
        from huggingface_hub import snapshot_download, try_to_load_from_cache

        patterns = [_literal(file) for file in files]
        with _failures(), _untold():
            new = [
                file
                for file in files
                if file in listing.sums
                and not isinstance(try_to_load_from_cache(name, file, cache_dir, listing.revision), str)
            ]
            folder = Path(snapshot_download(name, revision=listing.asked, cache_dir=cache_dir, allow_patterns=patterns))
            for file in new:
                _check_sum(folder / file, listing.sums[file])
        return folder, folder.name

    def cached(self, name: str, revision: str | None, choose: Choose, cache_dir: str | Path | None) -> tuple[Path, str]:
        """The snapshot that the branch had when it was last downloaded; newer clients look whether it is whole."""
        import huggingface_hub

        patterns = None
        with _failures():
            if hasattr(huggingface_hub, "get_cached_repo_tree"):
                tree = huggingface_hub.get_cached_repo_tree(name, revision=revision, cache_dir=cache_dir)
                patterns = [_literal(file) for file in choose([entry.path for entry in tree])]
            folder = huggingface_hub.snapshot_download(
                name, revision=revision, cache_dir=cache_dir, allow_patterns=patterns, local_files_only=True
            )
        return Path(folder), Path(folder).name


class ModelScope:
    """Through modelscope-hub, the client that ModelScope's other packages use themselves."""

    def check(self, place: str) -> None:
        """An optional package."""
        if importlib.util.find_spec("modelscope_hub") is None:
            raise UserError(
                place,
                "is to come from ModelScope, whose client is not installed",
                mend="pip install 'hanlin[modelscope]', or take it from Hugging Face with --use_hf true",
            )

    def list_files(self, name: str, revision: str | None) -> Listing:
        """The commit is that of the newest file: ModelScope names none for a branch, but downloads by commits."""
        with _failures(), _silent():
            api = self._api(name)
            files = [file for file in api.legacy.list_repo_files(name, "model", revision or "master") if _is_file(file)]
        dated = [file for file in files if file.get("Revision") and file.get("CommittedDate") is not None]
        newest = max(dated, key=lambda file: float(file["CommittedDate"]), default=None)
        commit = str(newest["Revision"]) if newest is not None and len(dated) == len(files) else None
        return Listing(revision, commit or revision or "master", tuple(str(file["Path"]) for file in files))

    def download(
        self, name: str, listing: Listing, files: Sequence[str], cache_dir: str | Path | None
    ) -> tuple[Path, str]:
        """The client compares every file with the hub's SHA-256."""
        with _failures(), _silent():
            folder = self._api(name).download_repo(
                name,
                "model",
                revision=listing.revision,
                cache_dir=_folder(cache_dir),
                allow_patterns=[_literal(file) for file in files],
            )
        return Path(folder), listing.revision

    def cached(self, name: str, revision: str | None, choose: Choose, cache_dir: str | Path | None) -> tuple[Path, str]:
        """The one revision that was downloaded; several need ``--revision``."""
        with _failures(), _silent():
            folder = _modelscope().download_repo(
                name, "model", revision=revision, cache_dir=_folder(cache_dir), local_files_only=True
            )
        return Path(folder), Path(folder).name

    def _api(self, name: str) -> Any:
        """The client of the site (.cn or .ai) that has ``name``, as ModelScope's own tools choose it."""
        return _modelscope(_modelscope().resolve_endpoint_for_read(name, repo_type="model"))


_LIBRARIES = ("huggingface_hub", "modelscope_hub", "httpx", "httpx2", "httpcore", "requests", "urllib3")
"""Top-level modules of the clients' own exceptions and of those below them."""

CLIENTS: dict[Hub, Client] = {"huggingface": HuggingFace(), "modelscope": ModelScope()}


@contextlib.contextmanager
def _untold() -> Iterator[None]:
    """huggingface_hub without its telemetry, by its own switch.

    Left on, version 2.4 asks the hub once a day for a list of programs (``/api/agent-harnesses``), looks for them in
    the environment, and writes what it finds and the version of torch into every request.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_DISABLE_TELEMETRY
    constants.HF_HUB_DISABLE_TELEMETRY = True
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY = before


def _modelscope(endpoint: str | None = None) -> Any:
    """ModelScope's client without the number by which it tells one machine from another in every request."""
    from modelscope_hub import HubApi
    from modelscope_hub.config import HubConfig

    class Untold(HubConfig):
        def get_session_id(self) -> str:
            return "0" * 32

    return HubApi(Untold(), endpoint=endpoint)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """ModelScope's client without its log lines: what fails is told once, in our words; its progress bars stay."""
    log = logging.getLogger("modelscope_hub")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


def _check_sum(file: Path, expected: str) -> None:
    """Raises OSError, and removes ``file`` with what it points to, when its SHA-256 (hex) is not ``expected``."""
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != expected:
        file.resolve().unlink()
        file.unlink(missing_ok=True)
        raise OSError(f"{file.name} arrived with SHA-256 {found[:12]}, the hub states {expected[:12]}; it was deleted")


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """What the clients raise for a hub that refuses, is not reached or sends something else than it promised."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        raise HubError(error) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in _LIBRARIES:
            raise
        raise HubError(error) from error


def _is_unreachable(error: BaseException | None) -> bool:
    """Whether there was no connection at all, as the clients and the libraries below them say it."""
    while error is not None:
        names = {cls.__name__ for cls in type(error).__mro__}
        if names & {"ConnectionError", "TransportError", "OfflineModeIsEnabled", "NetworkError", "Timeout"}:
            return True
        error = error.__cause__
    return False


def _folder(cache_dir: str | Path | None) -> Path | None:
    return Path(cache_dir).expanduser() if cache_dir else None


def _is_file(file: dict[str, Any]) -> bool:
    return bool(file.get("Path")) and (file.get("Type") or "blob") != "tree"


def _literal(name: str) -> str:
    """A pattern that matches ``name`` alone."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)
