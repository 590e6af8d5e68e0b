"""A loopback Hub of models: what the real client asks for, over plain HTTP, with a fault at any request on demand. By hand::

python tests/hub/model_hub.py --port 8124
HF_ENDPOINT=http://127.0.0.1:8124 HF_HUB_DISABLE_XET=1 HF_TOKEN=hf_loopback fmbench push gaussian-moons/cfm --repo me/cfm
"""

from __future__ import annotations

import argparse
import contextlib
import re
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qsl, urlsplit

from loopback import Loopback
from repositories import Answer, Repositories, refused

KINDS = ("cut", "cut-after", "half", "500", "429", "wrong-bytes", "slow")
"""cut: the connection closes before anything is done. cut-after: it is done, and closes without an answer. half: it closes
in the middle of the body. wrong-bytes: right length, every byte inverted. slow: twenty pieces with pauses."""


@dataclass
class Fault:
    """What goes wrong with the first ``times`` requests of a method whose path matches; -1 for all of them."""

    kind: str
    method: str
    path: str
    times: int = 1

    def __post_init__(self) -> None:
        assert self.kind in KINDS

    def strikes(self, method: str, path: str) -> bool:
        if self.times == 0 or method != self.method or not re.search(self.path, path):
            return False
        self.times -= 1
        return True


class ModelHub(Loopback):
    """``with ModelHub() as hub`` runs it in a thread at ``hub.url``; ``hub.log`` holds (method, path, status)."""

    def __init__(self, port: int = 0, pause: float = 0.01) -> None:
        self.contents, self.faults, self.pause = Repositories(), list[Fault](), pause
        self.log: list[tuple[str, str, int]] = []
        self.agents: set[str] = set()
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", port), Handler)
        self.contents.url = self.url

    def fault(self, kind: str, method: str, path: str, times: int = 1) -> None:
        self.faults = [Fault(kind, method, path, times)]

    def asked(self, method: str, path: str) -> int:
        """How often a method was asked for at paths that match."""
        return sum(one == method and bool(re.search(path, at)) for one, at, _ in self.log)


class Handler(BaseHTTPRequestHandler):
    """Every request through one door, so that every one of them can go wrong."""

    protocol_version = "HTTP/1.1"
    server: ModelHub

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.route()

    do_HEAD = do_POST = do_PUT = do_GET

    def route(self) -> None:
        hub, parts = self.server, urlsplit(self.path)
        body = self.received()
        with hub.lock:
            kind = next((f.kind for f in hub.faults if f.strikes(self.command, self.path)), None)
            hub.agents.add(self.headers.get("User-Agent", ""))
            if kind == "cut":
                hub.log.append((self.command, self.path, 0))
                self.close_connection = True
                return
            if kind in ("500", "429"):
                answer = refused(int(kind), "", f"status {kind}")
            else:
                answer = hub.contents.answer(self.command, parts.path, dict(parse_qsl(parts.query)), self.headers, body)
                answer = self.ranged(answer)
            hub.log.append((self.command, self.path, answer.status))
        if kind == "cut-after":
            self.close_connection = True
            return
        with contextlib.suppress(ConnectionError):  # the client has seen enough
            self.send(answer, kind)

    def received(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def ranged(self, answer: Answer) -> Answer:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked or answer.status != 200 or "ETag" not in answer.headers:
            return answer
        size = len(answer.body)
        start, stop = int(asked[1]), int(asked[2]) + 1 if asked[2] else size
        headers = {**answer.headers, "Content-Range": f"bytes {start}-{stop - 1}/{size}"}
        return Answer(206, answer.body[start:stop], headers)

    def send(self, answer: Answer, kind: str | None) -> None:
        body = bytes(255 - byte for byte in answer.body) if kind == "wrong-bytes" else answer.body
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if kind == "half":
            body = body[: len(body) // 2]
            self.close_connection = True
        size = max(1, len(body) // 20) if kind == "slow" else max(1, len(body))
        for start in range(0, len(body), size):
            self.wfile.write(body[start : start + size])
            if kind == "slow":
                time.sleep(self.server.pause)


def main() -> None:
    """Serve an empty Hub until interrupted."""
    parser = argparse.ArgumentParser(description="An empty Hub of models on 127.0.0.1; the token is hf_loopback.")
    parser.add_argument("--port", type=int, default=8124)
    with ModelHub(parser.parse_args().port) as hub:
        print(f"HF_ENDPOINT={hub.url}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
