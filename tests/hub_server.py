"""Two small hubs on loopback that speak the protocols of Hugging Face and of ModelScope, as far as downloads need them.

``with serve({"team/model": folder}) as hub:`` serves folders by id; ``hub.fetched`` lists the contents that were sent,
``hub.environment(home)`` is that of a process whose clients use it (they read their endpoint when imported).
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
"""Commit that the hubs give every repository on its default branch."""

LARGE = (".safetensors", ".bin")

needs_modelscope = pytest.mark.skipif(
    importlib.util.find_spec("modelscope_hub") is None, reason="ModelScope's client is not installed"
)


@dataclass
class HubServer:
    """What runs, and what it was asked for."""

    address: str
    fetched: list[str] = field(default_factory=list)
    """``id/file`` of each content that was sent, in order."""
    asked: list[str] = field(default_factory=list)
    """Path of each request."""
    agents: set[str] = field(default_factory=set)
    """What the clients called themselves."""
    sent: dict[str, int] = field(default_factory=dict)
    """Bytes of each file that were sent."""
    cut: str = ""
    """File of which a first half is sent and no more."""
    cuts_once: bool = False
    """Only the first request of that file is cut."""
    stall: str = ""
    """File of which a first half is sent and then nothing for a minute."""
    delay: float = 0.0
    """Seconds before each content is sent."""

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Environment of a process that knows no other hub."""
        path = [entry for entry in sys.path if entry]
        return {
            "HF_ENDPOINT": self.address,
            "MODELSCOPE_ENDPOINT": self.address,
            "HF_HOME": str(home / "huggingface"),
            "MODELSCOPE_CACHE": str(home / "modelscope"),
            "HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "0",
            "MODELSCOPE_API_MAX_RETRIES": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(path),
            "PATH": os.environ.get("PATH", ""),
            "COLUMNS": "200",
            **more,
        }


@contextlib.contextmanager
def serve(repositories: Mapping[str, Path], *, wrong_sum: str = "") -> Iterator[HubServer]:
    """Serve ``repositories``; ``wrong_sum`` names a file whose SHA-256 is stated wrongly.

    ModelScope states that of every file, Hugging Face that of large ones (here: the weights).
    """
    hub = HubServer("")

    def _sum(file: Path) -> str:
        return "0" * 64 if file.name == wrong_sum else hashlib.sha256(file.read_bytes()).hexdigest()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def _answer(self, *, body: bool) -> None:
            url = urlsplit(self.path)
            path, query = unquote(url.path), parse_qs(url.query)
            hub.asked.append(path)
            hub.agents.add(self.headers.get("User-Agent", ""))
            for name, folder in repositories.items():
                files = sorted(file for file in folder.iterdir() if file.is_file())
                if path in (f"/api/models/{name}", f"/api/models/{name}/revision/main"):
                    return self._info(name, files, body)
                if path == f"/api/models/{name}/revision/{COMMIT}":
                    return self._info(name, files, body)
                if path.startswith(f"/api/models/{name}/tree/"):
                    tree = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "0" * 40} for f in files]
                    return self._send(200, json.dumps(tree).encode(), body)
                if path.startswith(f"/{name}/resolve/") and (folder / path.rsplit("/", 1)[-1]).is_file():
                    return self._file(name, folder / path.rsplit("/", 1)[-1], body)
                if path == f"/api/v1/models/{name}/repo/files" and query["Revision"][0] in ("master", COMMIT):
                    return self._modelscope(files, body)
                if path == f"/api/v1/models/{name}/repo" and (folder / query["FilePath"][0]).is_file():
                    return self._file(name, folder / query["FilePath"][0], body)
            return self._send(404, b'{"Code":404,"Message":"not found"}', body, {"X-Error-Code": "RepoNotFound"})

        def _info(self, name: str, files: list[Path], body: bool) -> None:
            siblings = [
                {"rfilename": file.name}
                | ({"lfs": {"sha256": _sum(file), "size": 1, "pointerSize": 1}} if file.suffix in LARGE else {})
                for file in files
            ]
            self._send(200, json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode(), body)

        def _modelscope(self, files: list[Path], body: bool) -> None:
            listed = [
                {
                    "Path": file.name,
                    "Name": file.name,
                    "Type": "blob",
                    "Size": file.stat().st_size,
                    "Sha256": _sum(file),
                    "Revision": COMMIT if index == 0 else f"{index:040x}",
                    "CommittedDate": 1700000000 - index,
                }
                for index, file in enumerate(files)
            ]
            data = {"Code": 200, "Success": True, "Data": {"Files": listed}}
            self._send(200, json.dumps(data).encode(), body)

        def _file(self, name: str, file: Path, body: bool) -> None:
            if body:
                hub.fetched.append(f"{name}/{file.name}")
                time.sleep(hub.delay)
            self._send(200, file.read_bytes(), body, file=file.name)

        def _send(
            self, status: int, data: bytes, body: bool, extra: dict[str, str] | None = None, file: str = ""
        ) -> None:
            start = 0
            asked = self.headers.get("Range", "")
            if status == 200 and asked.startswith("bytes="):
                start = int(asked.removeprefix("bytes=").split("-")[0] or 0)
            self.send_response(206 if start else status)
            headers = {
                "Content-Length": str(len(data) - start),
                "Accept-Ranges": "bytes",
                "ETag": (hashlib.sha256 if file.endswith(LARGE) else hashlib.sha1)(data).hexdigest(),
                "X-Repo-Commit": COMMIT,
                **({"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}),
                **(extra or {}),
            }
            for key, value in headers.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                stops = file and file in (hub.cut, hub.stall)
                part = data[start : max(start, len(data) // 2)] if stops else data[start:]
                if stops and hub.cuts_once:
                    hub.cut = ""
                self.wfile.write(part)
                self.wfile.flush()
                hub.sent[file] = hub.sent.get(file, 0) + len(part)
                if file and file == hub.stall:
                    time.sleep(60)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
