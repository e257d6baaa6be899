"""A stand-in for the Hugging Face hub on loopback: repositories with commits, and faults that a test switches on.

::

    with serving(monkeypatch, cache) as hub:
        commit = hub.push("owner/name", {"open_clip_config.json": b"..."})

Other processes need :attr:`Hub.url` as ``HF_ENDPOINT``.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

API = re.compile(r"/api/models/(?P<repository>[^/]+/[^/]+)(?:/revision/(?P<revision>[^/]+))?(?:\?.*)?$")
FILE = re.compile(r"/(?P<repository>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)$")


@dataclass
class Hub:
    """Repositories by name, and faults."""

    url: str = ""
    commits: dict[str, dict[str, Mapping[str, bytes]]] = field(default_factory=dict)
    """repository -> commit -> files"""
    head: dict[str, str] = field(default_factory=dict)
    """newest commit of each repository"""
    status: int = 200
    """Any other status is the answer to every request."""
    cuts: int = 0
    """number of downloads that will end in the middle"""
    asked: list[str] = field(default_factory=list)
    """method and path of each request"""

    def push(self, repository: str, files: Mapping[str, bytes]) -> str:
        """Add a commit to the branch ``main`` and return it."""
        content = [repository, self.head.get(repository, ""), *sorted(files), *(files[name] for name in sorted(files))]
        joined = b"\0".join(item if isinstance(item, bytes) else item.encode() for item in content)
        commit = hashlib.sha1(joined).hexdigest()
        self.commits.setdefault(repository, {})[commit] = dict(files)
        self.head[repository] = commit
        return commit

    def push_folder(self, repository: str, folder: Path) -> str:
        """Add a commit with the files of a folder."""
        return self.push(repository, {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()})

    def commit(self, repository: str, revision: str | None) -> str | None:
        """Return the commit that a revision means, or None."""
        if repository not in self.commits:
            return None
        if revision in (None, "main"):
            return self.head[repository]
        return revision if revision in self.commits[repository] else None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        hub = self.hub
        hub.asked.append(f"{self.command} {self.path}")
        if hub.status != 200:
            self._answer(hub.status, b"")
        elif match := API.match(self.path):
            self._model(match["repository"], match["revision"])
        elif match := FILE.match(self.path):
            self._file(match["repository"], match["revision"], match["name"])
        else:
            self._answer(404, b"")

    do_HEAD = do_GET

    def _model(self, repository: str, revision: str | None) -> None:
        if repository not in self.hub.commits:
            # the hub answers so for any repository that could be private
            self._answer(401, b"", {"X-Error-Message": "Invalid username or password."})
            return
        commit = self.hub.commit(repository, revision)
        if commit is None:
            self._answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
            return
        siblings = [{"rfilename": name} for name in self.hub.commits[repository][commit]]
        self._answer(200, json.dumps({"id": repository, "sha": commit, "siblings": siblings}).encode())

    def _file(self, repository: str, revision: str, name: str) -> None:
        commit = self.hub.commit(repository, revision)
        if commit is None:
            self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})
            return
        content = self.hub.commits[repository][commit].get(name)
        headers = {"X-Repo-Commit": commit}
        if content is None:
            self._answer(404, b"", {**headers, "X-Error-Code": "EntryNotFound"})
            return
        headers |= {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "Accept-Ranges": "bytes"}
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        status = 206 if start else 200
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._answer(status, content[start:], headers)

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.hub.cuts and "/resolve/" in self.path:
            self.hub.cuts -= 1
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
            return
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Hub]:
    """Serve a hub and point huggingface_hub of this process to it, with an empty cache."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        point_to(monkeypatch, hub.url, cache)
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def point_to(monkeypatch: pytest.MonkeyPatch, url: str, cache: Path, *, offline: bool = False) -> None:
    """Set the endpoint, the cache and the offline mode of huggingface_hub, which reads its environment on import."""
    from huggingface_hub import close_session, constants

    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    close_session()
