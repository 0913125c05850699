"""A web server on loopback that serves files, and misbehaves as told: cuts, refuses, changes."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FileServer:
    """What the server knows and what it saw. Paths of `files` begin with '/'."""

    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)  # answered instead of a file
    etags: bool = True
    lengths: bool = True
    ranges: bool = True
    cut_after: list[int] = field(default_factory=list)  # bytes of each next body before the cut
    hold: threading.Event | None = None  # bodies wait for it
    held: threading.Event = field(default_factory=threading.Event)  # set when a body waits
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)  # method, path, headers
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)  # hub: repo -> path -> data
    wrong_sha256: bool = False
    error_code: str | None = None  # hub: X-Error-Code of refusals
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def requests_for(self, path: str, method: str = "GET") -> list[dict[str, str]]:
        return [headers for m, p, headers in self.seen if m == method and p == path]

    def file_at(self, path: str) -> bytes | None:
        if path in self.files:
            return self.files[path]
        for repo, files in self.repos.items():
            start = f"/{repo}/resolve/{COMMIT}/"
            if path.startswith(start):
                return files.get(unquote(path.removeprefix(start)))
        return None

    def listing_of(self, path: str) -> bytes | None:
        repo = path.removeprefix("/api/models/")
        if not path.startswith("/api/models/") or repo not in self.repos:
            return None
        siblings = []
        for name, data in self.repos[repo].items():
            digest = hashlib.sha256(data).hexdigest() if not self.wrong_sha256 else "f" * 64
            lfs = {"sha256": digest, "size": len(data), "pointerSize": 130}
            siblings.append({"rfilename": name, "size": len(data), "blobId": "0" * 40, "lfs": lfs})
        return json.dumps({"id": repo, "sha": COMMIT, "siblings": siblings, "private": False}).encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    known: FileServer

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        server, path = self.known, urlsplit(self.path).path
        server.seen.append((self.command, path, {k.lower(): v for k, v in self.headers.items()}))
        if path in server.redirects:
            self._empty(302, {"Location": server.redirects[path]})
        elif path in server.statuses:
            code = {"X-Error-Code": server.error_code} if server.error_code else {}
            self._empty(server.statuses[path], code)
        elif (listing := server.listing_of(path)) is not None:
            self._send(200, listing, {"Content-Type": "application/json"}, body)
        elif (data := server.file_at(path)) is not None:
            self._send_file(data, body)
        else:
            is_api = path.startswith("/api/models/")
            self._empty(404, {"X-Error-Code": "RepoNotFound"} if is_api else {})

    def _send_file(self, data: bytes, body: bool) -> None:
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        headers = {"X-Repo-Commit": COMMIT, "X-Linked-Size": str(len(data)), "X-Linked-Etag": etag}
        if self.known.etags:
            headers["ETag"] = etag
        wanted = self.headers.get("Range")
        version = self.headers.get("If-Range", etag)
        if not (wanted and self.known.ranges and version == etag):
            self._send(200, data, headers, body)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(data):
            self._empty(416, {"Content-Range": f"bytes */{len(data)}"})
            return
        headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._send(206, data[start:], headers, body)

    def _send(self, status: int, data: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.known.lengths:
            self.send_header("Content-Length", str(len(data)))
        else:
            self.close_connection = True
            self.send_header("Connection", "close")
        self.end_headers()
        if not body:
            return
        if self.known.hold is not None and "json" not in headers.get("Content-Type", ""):
            self.known.held.set()
            self.known.hold.wait(30)
        if self.known.cut_after and "json" not in headers.get("Content-Type", ""):
            data = data[: self.known.cut_after.pop(0)]
            self.close_connection = True
        try:
            self.wfile.write(data)
        except OSError:
            self.close_connection = True

    def _empty(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def serving(known: FileServer) -> Iterator[FileServer]:
    handler = type("Handler", (_Handler,), {"known": known})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    known.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield known
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
