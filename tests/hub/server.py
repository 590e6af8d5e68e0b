"""A loopback Hub: what the real ``huggingface_hub`` client asks for, served from a folder, with faults on demand.

The folder holds ``datasets/<owner>/<name>/<file>``. Every commit hash, and ``main``, names its present content. By
hand::

    python tests/hub/server.py FOLDER --port 8123 --fault slow
    HF_ENDPOINT=http://127.0.0.1:8123 python -c "from fmbench.tasks.hub_images import mnist; mnist().target.arrays"
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from loopback import Loopback

HEAD_COMMIT = "c0ffee" + "0" * 34
CHUNK = 64 * 1024
TRANSFER_FAULTS = ("drop-once", "drop-always", "reset-once", "wrong-bytes", "slow")
ANSWER_FAULTS = ("401", "403", "404", "429", "500", "get-500", "no-commit")
FAULTS = ("healthy", *TRANSFER_FAULTS, *ANSWER_FAULTS)
"""drop: the connection closes half-way, once, or whenever a byte of the second half is asked for. reset: it closes with
RST. wrong-bytes: right length and ETag, every byte inverted. slow: a twentieth of the file at a time, with pauses.
get-500: HEAD is answered, GET is not. no-commit: the header that makes a Hub is missing."""
ERROR_HEADERS = {
    401: {"X-Error-Message": "Invalid credentials in Authorization header"},
    403: {"X-Error-Message": "Forbidden"},
    404: {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"},
    429: {"Retry-After": "1"},
    500: {"X-Error-Message": "Internal Error"},
}


@cache
def file_sha256(path: Path) -> str:
    """The ETag of a file stored in LFS."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Request:
    """What was asked and what was sent."""

    method: str
    path: str
    range: str | None
    status: int
    sent: int


class HubServer(Loopback):
    """``with HubServer(folder) as hub`` runs it in a thread, at the endpoint ``hub.url``, and notes in ``hub.log``."""

    def __init__(self, folder: Path, fault: str = "healthy", port: int = 0, pause: float = 0.02) -> None:
        if fault not in FAULTS:
            raise ValueError(f"unknown fault {fault!r}; allowed: {', '.join(FAULTS)}")
        self.folder, self.fault, self.pause = Path(folder).resolve(), fault, pause
        self.log: list[Request] = []
        self.dropped = False
        super().__init__(("127.0.0.1", port), Handler)

    @property
    def served(self) -> list[Request]:
        """The requests for contents of files."""
        return [request for request in self.log if request.method == "GET" and "/resolve/" in request.path]


class Handler(BaseHTTPRequestHandler):
    """``/datasets/<repo>/resolve/<commit>/<file>`` and ``/api/datasets/<repo>[/revision/<commit> | /tree/<commit>]``."""

    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.route()

    def do_GET(self) -> None:
        self.route()

    def route(self) -> None:
        path = unquote(urlsplit(self.path).path)
        fault = self.server.fault
        if fault.isdigit() or (fault == "get-500" and self.command == "GET"):
            self.fail(int(fault.removeprefix("get-")))
        elif match := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.resolve(*match.groups())
        elif match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            self.info(match[1], match[2] or "main")
        elif match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/tree/([^/]+)/?", path):
            self.tree(match[1])
        else:
            self.fail(404, {"X-Error-Code": "RepoNotFound"})

    def fail(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.answer(status, json.dumps({"error": f"status {status}"}).encode(), headers or ERROR_HEADERS[status])

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.begin(status, len(body), {"Content-Type": "application/json", **headers})
        if self.command == "GET":
            self.wfile.write(body)
        self.note(status, len(body) if self.command == "GET" else 0)

    def begin(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def note(self, status: int, sent: int) -> None:
        self.server.log.append(Request(self.command, self.path, self.headers.get("Range"), status, sent))

    def repository(self, repo: str) -> Path | None:
        root = self.server.folder / "datasets"
        folder = (root / repo).resolve()
        return folder if folder.is_relative_to(root) and folder.is_dir() else None

    def files(self, folder: Path) -> list[Path]:
        return sorted(path for path in folder.rglob("*") if path.is_file())

    def info(self, repo: str, revision: str) -> None:
        folder = self.repository(repo)
        if folder is None:
            return self.fail(404, {"X-Error-Code": "RepoNotFound"})
        names = [{"rfilename": path.relative_to(folder).as_posix()} for path in self.files(folder)]
        content: dict[str, Any] = {
            "id": repo,
            "sha": commit(revision),
            "private": False,
            "tags": [],
            "downloads": 0,
            "siblings": names,
        }
        return self.answer(200, json.dumps(content).encode(), {})

    def tree(self, repo: str) -> None:
        folder = self.repository(repo)
        if folder is None:
            return self.fail(404, {"X-Error-Code": "RepoNotFound"})
        rows = []
        for path in self.files(folder):
            size, digest = path.stat().st_size, file_sha256(path)
            lfs = {"oid": digest, "size": size, "pointerSize": 134}
            rows.append(
                {
                    "type": "file",
                    "path": path.relative_to(folder).as_posix(),
                    "size": size,
                    "oid": digest[:40],
                    "lfs": lfs,
                }
            )
        return self.answer(200, json.dumps(rows).encode(), {})

    def resolve(self, repo: str, revision: str, name: str) -> None:
        folder = self.repository(repo)
        if folder is None:
            return self.fail(404, {"X-Error-Code": "RepoNotFound"})
        path = (folder / name).resolve()
        if not (path.is_relative_to(folder) and path.is_file()):
            return self.fail(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit(revision)})
        size = path.stat().st_size
        headers = {"ETag": f'"{file_sha256(path)}"', "X-Repo-Commit": commit(revision), "Accept-Ranges": "bytes"}
        headers["Content-Type"] = "application/octet-stream"
        if self.server.fault == "no-commit":
            del headers["X-Repo-Commit"]
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, stop = (int(asked[1]), int(asked[2]) + 1 if asked[2] else size) if asked else (0, size)
        if start >= size:
            return self.fail(416, {"Content-Range": f"bytes */{size}"})
        if asked:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        status = 206 if asked else 200
        self.begin(status, stop - start, headers)
        self.note(status, self.send(path, start, min(stop, size), size) if self.command == "GET" else 0)
        return None

    def send(self, path: Path, start: int, stop: int, size: int) -> int:
        fault, hub = self.server.fault, self.server
        breaks = fault == "drop-always" or (fault in ("drop-once", "reset-once") and not hub.dropped)
        end = min(stop, max(start, size // 2)) if breaks else stop
        piece = max(1, size // 20) if fault == "slow" else CHUNK
        with path.open("rb") as file:
            file.seek(start)
            for position in range(start, end, piece):
                data = file.read(min(piece, end - position))
                self.wfile.write(bytes(255 - byte for byte in data) if fault == "wrong-bytes" else data)
                if fault == "slow":
                    time.sleep(hub.pause)
        if breaks:
            hub.dropped = True
            self.close_connection = True
            if fault == "reset-once":
                self.wfile.flush()
                time.sleep(hub.pause)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                # The standard server says goodbye before it closes, which would turn the reset into an ordinary end.
                self.server.shutdown_request = self.server.close_request  # type: ignore[method-assign]
        return end - start


def commit(revision: str) -> str:
    """The commit that a revision names."""
    return revision if re.fullmatch("[0-9a-f]{40}", revision) else HEAD_COMMIT


def main() -> None:
    """Serve a folder until interrupted."""
    parser = argparse.ArgumentParser(description="Serve a folder as a Hugging Face Hub on 127.0.0.1.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--fault", choices=FAULTS, default="healthy")
    args = parser.parse_args()
    with HubServer(args.folder, args.fault, args.port) as hub:
        print(f"HF_ENDPOINT={hub.url}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
