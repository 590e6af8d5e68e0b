"""Downloads over a real loopback server: whole, resumed, refused, broken; never half a file under the final name."""

import errno
import hashlib
import http.server
import resource
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fmbench.storage.cache import cache_root
from fmbench.storage.download import RemoteFile, fetch_file

DATA = np.random.default_rng(0).integers(0, 256, 400_000, dtype=np.uint8).tobytes()
FILE = RemoteFile("net.bin", "http://127.0.0.1:9/unused", hashlib.sha256(DATA).hexdigest())


def folder():
    return cache_root() / "weights"


def leftovers():
    return sorted(path.name for path in folder().iterdir() if not path.name.endswith(".lock"))


def served(server, least):
    """Requests answered, once the server, which counts after the last byte, has counted enough."""
    until = time.monotonic() + 2
    while len(server.served) < least and time.monotonic() < until:
        time.sleep(0.01)
    return len(server.served)


def test_first_use_downloads_and_the_next_does_not(mirror):
    server = mirror({"net.bin": DATA})
    assert fetch_file(FILE, "weights").read_bytes() == DATA
    assert leftovers() == ["net.bin"]
    fetch_file(FILE, "weights")
    assert served(server, 1) == 1


@pytest.mark.parametrize("fault", ["drop-once", "reset-once"])
def test_a_broken_connection_is_resumed_where_it_broke(mirror, fault):
    server = mirror({"net.bin": DATA}, fault)
    assert fetch_file(FILE, "weights").read_bytes() == DATA
    assert served(server, 2) == 2
    first, second = server.served
    assert first.range is None
    assert second.status == 206 and second.range.startswith("bytes=")
    begin = int(second.range[6:-1])
    assert 0 < begin <= len(DATA) // 2 and second.sent == len(DATA) - begin


def test_what_a_killed_process_left_is_continued(mirror):
    server = mirror({"net.bin": DATA})
    folder().mkdir(parents=True)
    (folder() / ".net.bin.part").write_bytes(DATA[:300_000])
    assert fetch_file(FILE, "weights").read_bytes() == DATA
    assert served(server, 1) == 1
    assert [(request.range, request.sent) for request in server.served] == [("bytes=300000-", 100_000)]
    assert leftovers() == ["net.bin"]


def test_a_part_longer_than_the_file_is_thrown_away(mirror):
    mirror({"net.bin": DATA})
    folder().mkdir(parents=True)
    (folder() / ".net.bin.part").write_bytes(DATA + b"more")
    assert fetch_file(FILE, "weights").read_bytes() == DATA


def test_a_server_without_ranges_starts_over(tmp_path, monkeypatch):
    (tmp_path / "net.bin").write_bytes(DATA)
    handler = lambda *args: http.server.SimpleHTTPRequestHandler(*args, directory=str(tmp_path))  # noqa: E731
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        monkeypatch.setenv("FMBENCH_MIRROR", f"http://127.0.0.1:{server.server_port}/")
        folder().mkdir(parents=True)
        (folder() / ".net.bin.part").write_bytes(b"x" * 1000)
        assert fetch_file(FILE, "weights").read_bytes() == DATA
        server.shutdown()


@pytest.mark.parametrize("start", [b"", b"wrong start"])
def test_wrong_bytes_never_get_the_final_name(mirror, start):
    mirror({"net.bin": DATA}, "wrong-bytes" if not start else "healthy")
    folder().mkdir(parents=True)
    if start:
        (folder() / ".net.bin.part").write_bytes(start)
    with pytest.raises(ValueError, match=rf"^[^\n]*SHA-256 expected {FILE.sha256}, found [0-9a-f]{{64}}; [^\n]*$"):
        fetch_file(FILE, "weights")
    assert leftovers() == []
    mirror({"net.bin": DATA})
    assert fetch_file(FILE, "weights").read_bytes() == DATA


@pytest.mark.parametrize(
    ("fault", "kind", "says"),
    [
        ("404", FileNotFoundError, "is gone"),
        ("401", PermissionError, "refused"),
        ("403", PermissionError, "refused"),
        ("429", ConnectionError, "429"),
        ("500", ConnectionError, "500"),
        ("drop-always", ConnectionError, "run again to resume"),
    ],
)
def test_failures_are_one_line_and_leave_no_file(mirror, fault, kind, says):
    server = mirror({"net.bin": DATA}, fault)
    with pytest.raises(kind) as caught:
        fetch_file(FILE, "weights")
    message = str(caught.value)
    assert "\n" not in message and says in message and server.url in message and "FMBENCH_MIRROR" in message
    assert not (folder() / "net.bin").exists()


def test_no_network_is_one_line():
    with pytest.raises(
        ConnectionError, match=r"^http://127.0.0.1:9/files/net.bin cannot be downloaded \([^\n]*\); [^\n]*$"
    ):
        fetch_file(FILE, "weights")


def test_a_full_disk_names_the_folder_and_keeps_nothing(mirror):
    mirror({"net.bin": DATA})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="no space left") as caught:
            fetch_file(FILE, "weights")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.ENOSPC and "FMBENCH_CACHE" in str(caught.value)
    assert leftovers() == []


def test_a_damaged_cached_file_is_refused(mirror):
    mirror({"net.bin": DATA})
    path = fetch_file(FILE, "weights")
    path.write_bytes(b"?" + DATA[1:])
    with pytest.raises(ValueError, match="is damaged: SHA-256"):
        fetch_file(FILE, "weights")


def test_several_at_once_download_once(mirror):
    server = mirror({"net.bin": DATA}, "slow")
    with ThreadPoolExecutor(3) as pool:
        paths = list(pool.map(lambda _: fetch_file(FILE, "weights"), range(3)))
    assert len(set(paths)) == 1 and paths[0].read_bytes() == DATA
    assert served(server, 1) == 1
