"""Enough of the hub's protocol to fetch a model: which commit, which files, and their bytes, also from a place on."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MODEL = "owner/tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", ".onnx", ".onnx_data", ".bin")  # kept beside Git


class StandInHub:
    """Serves one model's folder. What goes wrong is set on it while it runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gets: list[tuple[str, int]] = []  # each file sent, and from which byte on
        self.cut_at: int | None = None  # the next large file ends after so many bytes
        self.hold_at: int | None = None  # large files stop there until `go_on`
        self.held = threading.Event()
        self.go_on = threading.Event()
        self.damaged = False
        self.url = ""

    @contextmanager
    def running(self) -> Iterator["StandInHub"]:
        """Within this, at `url`."""
        handler = type("Handler", (_Handler,), {"hub": self})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        self.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield self
        finally:
            self.go_on.set()
            server.shutdown()
            server.server_close()
            thread.join()

    def fetched(self, name: str) -> list[int]:
        """From which byte on a file was sent, each time."""
        return [start for path, start in self.gets if path == name]


class _Handler(BaseHTTPRequestHandler):
    hub: StandInHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == f"/api/models/{MODEL}/tree/{COMMIT}":
            body = json.dumps([_entry(self.hub.folder, file) for file in _files(self.hub.folder)]).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        else:
            self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        prefixes = [f"/{MODEL}/resolve/{revision}/" for revision in ("main", COMMIT)]
        prefix = next((prefix for prefix in prefixes if self.path.startswith(prefix)), None)
        if prefix is None:
            return self._refuse("RepoNotFound")
        file = self.hub.folder / self.path.removeprefix(prefix)
        if not file.is_file():
            return self._refuse("EntryNotFound")
        content, entry = file.read_bytes(), _entry(self.hub.folder, file)
        start = int(self.headers["range"].removeprefix("bytes=").rstrip("-")) if self.headers["range"] else 0
        self.send_response(206 if start else 200)
        self.send_header("x-repo-commit", COMMIT)
        self.send_header("accept-ranges", "bytes")
        self.send_header("content-length", str(len(content) - start))
        if start:
            self.send_header("content-range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if "lfs" in entry:
            self.send_header("x-linked-etag", f'"{entry["lfs"]["oid"]}"')  # type: ignore[index]
            self.send_header("x-linked-size", str(len(content)))
        self.send_header("etag", f'"{entry["oid"]}"')
        self.end_headers()
        if with_body:
            self.hub.gets.append((self.path.removeprefix(prefix), start))
            self._send(content[start:], is_large="lfs" in entry)
        return None

    def _send(self, content: bytes, *, is_large: bool) -> None:
        hub = self.hub
        if is_large and hub.damaged:
            content = bytes([content[0] ^ 1]) + content[1:]
        if is_large and hub.cut_at is not None:
            content, hub.cut_at = content[: hub.cut_at], None
            self.close_connection = True
        if is_large and hub.hold_at is not None:
            self.wfile.write(content[: hub.hold_at])
            self.wfile.flush()
            hub.held.set()
            hub.go_on.wait(60)
            content = content[hub.hold_at :]
        try:
            self.wfile.write(content)
        except OSError:
            self.close_connection = True

    def _refuse(self, code: str) -> None:
        self.send_response(404)
        self.send_header("x-error-code", code)
        self.send_header("content-length", "0")
        self.end_headers()


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def _entry(folder: Path, file: Path) -> dict[str, object]:
    """A file as the hub lists it."""
    content = file.read_bytes()
    git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    entry: dict[str, object] = {
        "type": "file",
        "path": file.relative_to(folder).as_posix(),
        "size": len(content),
        "oid": git,
    }
    if file.suffix in LARGE:
        sha256 = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 134}
    return entry
