"""An adapter by its hub id, through the real client against a small server on loopback."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tiny import tiny_adapter, tiny_llama

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Address of a server that gives one repository, team/adapter, and the folder behind it."""
    folder = tiny_adapter(tmp_path / "adapter", tiny_llama(tmp_path / "base"), style="2023")
    (folder / "modeling_evil.py").write_text("raise SystemExit")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def _answer(self, *, body: bool) -> None:
            path = self.path.partition("?")[0]
            files = [{"rfilename": file.name} for file in sorted(folder.iterdir())]
            if path.startswith("/api/models/team/adapter/revision/") or path == "/api/models/team/adapter":
                self._send(200, json.dumps({"id": "team/adapter", "sha": COMMIT, "siblings": files}).encode(), body)
            elif path.startswith("/api/models/team/adapter/tree/"):
                tree = [
                    {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "0" * 40}
                    for file in sorted(folder.iterdir())
                ]
                self._send(200, json.dumps(tree).encode(), body)
            elif path.startswith("/team/adapter/resolve/") and (folder / path.rsplit("/", 1)[-1]).is_file():
                self._send(200, (folder / path.rsplit("/", 1)[-1]).read_bytes(), body)
            else:
                self._send(404, b"{}", body, {"X-Error-Code": "RepoNotFound"})

        def _send(self, status: int, data: bytes, body: bool, extra: dict[str, str] | None = None) -> None:
            self.send_response(status)
            headers = {
                "Content-Length": str(len(data)),
                "ETag": hashlib.sha1(data).hexdigest(),
                "X-Repo-Commit": COMMIT,
                **(extra or {}),
            }
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()


def read_by_id(address: str, home: Path, name: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the client reads its endpoint once, when it is imported."""
    code = (
        "import sys; from hanlin.model.adapter_files import read_adapter; from hanlin.errors import UserError\n"
        "try:\n    files = read_adapter(sys.argv[1]); print(files.r, len(files.lora_pairs()), files.directory)\n"
        "except UserError as error:\n    print(error); sys.exit(2)"
    )
    environment = {
        "HF_ENDPOINT": address,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": ":".join(sys.path),
        "PATH": "/usr/bin:/bin",
    }
    return subprocess.run(
        [sys.executable, "-c", code, name], capture_output=True, text=True, check=False, env=environment, timeout=120
    )


def test_an_adapter_comes_by_its_hub_id_without_code(hub: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = hub
    done = read_by_id(address, tmp_path / "home", "team/adapter")
    assert done.returncode == 0, done.stdout + done.stderr
    rank, pairs, directory = done.stdout.split()
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert int(rank) == settings["r"]
    assert int(pairs) > 0
    assert not list(Path(directory).glob("*.py"))


def test_an_unknown_hub_id_is_one_line(hub: tuple[str, Path], tmp_path: Path) -> None:
    done = read_by_id(hub[0], tmp_path / "home", "team/nothing")
    assert done.returncode == 2
    assert "team/nothing is no folder here, and the hub does not give it" in done.stdout
    assert done.stdout.count("\n") == 1
