"""A Hugging Face Hub of one repository in this process: enough for `hf upload` and for `hf_hub_download`."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

REVISION = "a" * 40


class Hub(http.server.BaseHTTPRequestHandler):
    """Keeps what is committed; all files are taken whole, none by way of a large-file store."""

    files: dict[str, bytes]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            self.answer({"files": files})
        elif "/commit/" in self.path:
            for entry in map(json.loads, body.splitlines()):
                if entry["key"] == "file":
                    self.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            self.answer({"commitUrl": f"http://{self.headers['host']}/me/cells", "commitOid": REVISION})
        else:
            self.answer({"url": f"http://{self.headers['host']}/me/cells"})

    def do_GET(self) -> None:
        name = self.path.partition("/resolve/main/")[2]
        if name in self.files:
            self.send(200, self.files[name], {"ETag": f'"{hashlib.sha1(self.files[name]).hexdigest()}"'})
        elif name:
            self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
        else:
            self.answer({"id": "me/cells", "sha": REVISION})

    do_HEAD = do_GET

    def answer(self, content: dict) -> None:
        self.send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "X-Repo-Commit": REVISION, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@contextlib.contextmanager
def serve(home: Path) -> Iterator[tuple[dict[str, bytes], dict[str, str]]]:
    """Serves an empty repository `me/cells`; gives its files and the environment that leads programs to it."""
    files: dict[str, bytes] = {}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Hub", (Hub,), {"files": files}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    with server:
        yield (files, {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_TOKEN": "hf_none", "NO_PROXY": "127.0.0.1"})
        server.shutdown()
