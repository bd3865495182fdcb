"""A server on loopback that answers as the Hugging Face Hub does, and can be told to misbehave."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def commit_of(revision: str) -> str:
    """The commit that a revision names."""
    return COMMIT if revision == "main" else hashlib.sha1(revision.encode()).hexdigest()


class Hub:
    """Repositories in memory, served on 127.0.0.1.

    Attributes:
        files: Bytes by "owner/name/file"; in another revision than main, by
            "owner/name@revision/file" (a slash in it as %2F).
        behaviour: By the same name, one of "drop once", "always short", "wrong bytes", "html",
            "gated", "error".
        requests: Method, path and Range header of each request.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.sizes: dict[str, int] = {}
        self.behaviour: dict[str, str] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        hub = self

        class Handler(_Handler):
            served = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Hub:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def downloads(self) -> list[str | None]:
        """The Range headers of all requests for content."""
        return [
            span for method, path, span in self.requests if method == "GET" and "/resolve/" in path
        ]


class _Handler(BaseHTTPRequestHandler):
    served: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        self.served.requests.append((self.command, path, self.headers.get("Range")))
        api = re.match(r"^/api/models/([^/]+/[^/]+)(?:/(?:tree|revision)/([^/]+))?$", path)
        match = api or re.match(r"^/([^/]+/[^/]+)/resolve/([^/]+)/(.+)$", path)
        if match is None:
            self._refuse(404, "EntryNotFound")
            return
        # Files of another revision are under a repository with that in its name.
        repository, name = match[1], unquote(match[2] or "main")
        self.commit = name if re.fullmatch("[0-9a-f]{40}", name) else commit_of(name)
        if self.commit != COMMIT:
            others = {"/".join(file.split("/")[:2]) for file in self.served.files if "@" in file}
            commits = {commit_of(unquote(one.partition("@")[2])): one for one in others}
            if self.commit not in commits:
                self._refuse(404, "RevisionNotFound")
                return
            repository = commits[self.commit]
        if api:
            self._repository(repository, tree="/tree/" in path)
        else:
            self._file(repository, f"{repository}/{match[3]}", body)

    def _repository(self, repository: str, tree: bool) -> None:
        names = [name for name in self.served.files if name.startswith(f"{repository}/")]
        if not names:
            self._refuse(404, "RepoNotFound")
            return
        short = [name.removeprefix(f"{repository}/") for name in names]
        if tree:
            answer: object = [
                {
                    "type": "file",
                    "path": file,
                    "size": len(self.served.files[name]),
                    "oid": "0" * 40,
                }
                for name, file in zip(names, short, strict=True)
            ]
        else:
            answer = {
                "id": repository,
                "sha": self.commit,
                "siblings": [{"rfilename": file} for file in short],
            }
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _file(self, repository: str, name: str, body: bool) -> None:
        content = self.served.files.get(name)
        behaviour = self.served.behaviour.get(name)
        if content is None:
            known = any(other.startswith(f"{repository}/") for other in self.served.files)
            self._refuse(404, "EntryNotFound" if known else "RepoNotFound")
            return
        if behaviour == "gated":
            self._refuse(403, "GatedRepo")
            return
        if behaviour == "error":
            self._refuse(500, "")
            return
        announced = self.served.sizes.get(name, len(content))
        headers = {
            "X-Repo-Commit": self.commit,
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Linked-Size": str(announced),
            "Accept-Ranges": "bytes",
        }
        if behaviour == "portal":
            self._send(200, b"<html>Please log in to this network</html>", {}, body)
            return
        if not body:
            self._send(200, b"", {**headers, "Content-Length": str(announced)}, False)
            return
        if behaviour == "html":
            page = b"<!DOCTYPE html><html>Too many requests</html>"
            self._send(200, page, headers)
            return
        if behaviour == "wrong bytes":
            content = content[:-100] + bytes(100)
        first = 0
        if match := re.match(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            first = int(match[1])
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        rest = content[first:]
        if behaviour == "drop once" and first == 0:
            self._cut(rest, headers, len(rest) // 2)
        elif behaviour == "always short":
            self._cut(rest, headers, max(len(content) // 2 - first, 0))
        else:
            self._send(206 if first else 200, rest, headers)

    def _cut(self, content: bytes, headers: dict[str, str], n_bytes: int) -> None:
        """Promise everything, send a part, and hang up."""
        self.send_response(206 if "Content-Range" in headers else 200)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content[:n_bytes])
        self.wfile.flush()
        self.close_connection = True

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, b"", {"X-Error-Code": code} if code else {})

    def _send(
        self, status: int, content: bytes, headers: dict[str, str], body: bool = True
    ) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)
