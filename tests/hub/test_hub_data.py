"""Fetching, decoding and caching, by the real client against a real HTTP server on loopback."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import HfApi, constants
from server import FAULTS, HubServer
from tiny_dataset import REVISION, Tiny, make_tiny, png, write_parquet

from fmbench.progress import _console
from fmbench.storage import hub as datasets
from fmbench.tasks.hub_data import Dataset, Split, cache_folder, load

Serve = Callable[..., HubServer]


def rows(images: np.ndarray, labels: np.ndarray) -> list[bytes]:
    """Every labelled image as bytes, in no particular order."""
    return sorted(bytes([label]) + image.tobytes() for image, label in zip(images, labels, strict=True))


def left_behind(tiny: Tiny, split: str = "train") -> list[str]:
    """What a failed run left where caches are kept."""
    return [path.name for path in cache_folder(tiny.dataset, split).parent.glob("*")]


def complaint(tiny: Tiny, kind: type[Exception]) -> str:
    """The message of the failure, which must be one line and leave nothing in the cache."""
    with pytest.raises(kind) as failure:
        load(tiny.dataset, "train")
    message = str(failure.value)
    assert "\n" not in message
    assert left_behind(tiny) == []
    return message


@pytest.mark.parametrize("shape", [(1, 5, 7), (3, 8, 6)])
def test_the_cache_holds_exactly_the_labelled_pixels_of_the_file(
    tmp_path: Path, serve: Serve, shape: tuple[int, int, int]
) -> None:
    tiny = make_tiny(tmp_path / "hub", shape)
    serve(tiny.root)
    for split, (images, labels) in tiny.pixels.items():
        arrays = load(tiny.dataset, split)
        assert arrays.images.shape == images.shape
        assert rows(arrays.images, arrays.labels) == rows(images, labels)


def test_arrays_are_memory_maps_that_nobody_can_write(tiny: Tiny, serve: Serve) -> None:
    serve(tiny.root)
    arrays = load(tiny.dataset, "test")
    for array in (arrays.images, arrays.labels):
        assert isinstance(array, np.memmap)
        assert array.dtype == np.uint8
        assert not array.flags.writeable


def test_row_order_of_the_copy_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there, here = make_tiny(tmp_path / "a", (3, 4, 4)), make_tiny(tmp_path / "b", (3, 4, 4), backwards=True)
    assert there.file().read_bytes() != here.file().read_bytes()
    found = []
    for copy, cache in ((there, "one"), (here, "two")):
        monkeypatch.setenv("FMBENCH_DATA", str(copy.root))
        monkeypatch.setenv("FMBENCH_CACHE", str(tmp_path / cache))
        found.append(load(there.dataset, "train"))
    np.testing.assert_array_equal(found[0].images, found[1].images)
    np.testing.assert_array_equal(found[0].labels, found[1].labels)


# -- network -------------------------------------------------------------------------------------------------------


def test_a_healthy_hub_is_asked_once_over_plain_http_at_the_pinned_commit(tiny: Tiny, serve: Serve) -> None:
    hub = serve(tiny.root)
    load(tiny.dataset, "train")
    assert [request.method for request in hub.log] == ["HEAD", "GET"]
    (served,) = hub.served
    assert f"/resolve/{REVISION}/" in served.path
    assert served.sent == tiny.file().stat().st_size


def test_a_cached_split_needs_no_network_and_no_source(
    tiny: Tiny, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = serve(tiny.root)
    first = np.array(load(tiny.dataset, "train").images)
    asked = len(hub.log)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "/nowhere")
    monkeypatch.setenv("FMBENCH_DATA", "/nowhere")
    np.testing.assert_array_equal(load(tiny.dataset, "train").images, first)
    assert len(hub.log) == asked


def test_a_download_that_the_client_keeps_is_used_offline(
    tiny: Tiny, serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    serve(tiny.root)
    load(tiny.dataset, "train")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("FMBENCH_CACHE", str(tmp_path / "another"))
    assert len(load(tiny.dataset, "train").images) == 40


def test_a_dropped_connection_is_resumed_where_it_broke(
    tiny: Tiny, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # the client keeps whole chunks only
    hub = serve(tiny.root, "drop-once")
    load(tiny.dataset, "train")
    size = tiny.file().stat().st_size
    broken, resumed = hub.served
    kept = size // 2 // 1000 * 1000
    assert (broken.status, broken.sent) == (200, size // 2)
    assert (resumed.status, resumed.range, resumed.sent) == (206, f"bytes={kept}-", size - kept)


@pytest.mark.parametrize("fault", ["drop-once", "reset-once", "slow"])
def test_the_pixels_survive_a_bad_line(tiny: Tiny, serve: Serve, fault: str) -> None:
    serve(tiny.root, fault)
    arrays = load(tiny.dataset, "train")
    assert rows(arrays.images, arrays.labels) == rows(*tiny.pixels["train"])


@pytest.mark.parametrize(
    ("fault", "kind", "parts"),
    [
        ("drop-always", ConnectionError, ["broke off", "run again"]),
        ("401", PermissionError, ["refused", "(401)", "HF_TOKEN"]),
        ("403", PermissionError, ["refused", "(403)", "HF_TOKEN"]),
        ("404", FileNotFoundError, ["(404)", "vanished", REVISION[:12], "FMBENCH_DATA"]),
        ("429", ConnectionError, ["429", "too many requests", "wait"]),
        ("500", ConnectionError, ["answered 500", "HF_ENDPOINT"]),
        ("get-500", ConnectionError, ["answered 500", "HF_ENDPOINT"]),
    ],
)
def test_every_failure_of_the_hub_is_one_line(
    tiny: Tiny, serve: Serve, fault: str, kind: type[Exception], parts: list[str]
) -> None:
    hub = serve(tiny.root, fault)
    message = complaint(tiny, kind)
    for part in (hub.url, "someone/noise/plain/train-00000-of-00001.parquet", *parts):
        assert part in message


def test_all_faults_of_the_server_are_used() -> None:
    text = Path(__file__).read_text()
    assert [fault for fault in FAULTS if fault != "healthy" and f'"{fault}"' not in text] == []


def test_a_file_missing_from_the_repository_is_a_404(tiny: Tiny, serve: Serve) -> None:
    serve(tiny.root)
    gone = dataclasses.replace(
        tiny.dataset, splits={"train": dataclasses.replace(tiny.dataset.split("train"), filename="gone.parquet")}
    )
    with pytest.raises(FileNotFoundError, match=r"gone.parquet.*\(404\)"):
        load(gone, "train")


@pytest.mark.parametrize("offline", [False, True])
def test_offline_without_a_cache_says_what_to_do(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, offline: bool) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    message = complaint(tiny, ConnectionError)
    for part in (
        "is not cached",
        "offline mode" if offline else "refused",
        "go online once",
        "HF_ENDPOINT",
        "FMBENCH_DATA",
    ):
        assert part in message


def test_a_server_that_is_no_hub_is_named_as_such(tiny: Tiny, serve: Serve) -> None:
    serve(tiny.root, "no-commit")
    assert "does not seem to be served by a Hugging Face Hub" in complaint(tiny, ConnectionError)


# -- wrong content -------------------------------------------------------------------------------------------------


def test_bytes_corrupted_on_the_way_are_refused_and_fetched_again(tiny: Tiny, serve: Serve) -> None:
    hub = serve(tiny.root, "wrong-bytes")
    message = complaint(tiny, ValueError)
    data = tiny.file().read_bytes()
    assert f"expected {hashlib.sha256(data).hexdigest()}" in message
    assert f"found {hashlib.sha256(bytes(255 - b for b in data)).hexdigest()}" in message
    hub.fault = "healthy"
    assert len(load(tiny.dataset, "train").images) == 40


def test_other_pixels_are_refused_with_both_hashes_and_not_kept(tiny: Tiny, serve: Serve, tmp_path: Path) -> None:
    other = make_tiny(tmp_path / "other", (3, 8, 6), seed=1)
    hub = serve(other.root)
    message = complaint(tiny, ValueError)
    assert f"expected {tiny.dataset.split('train').sha256}" in message
    assert f"found {other.dataset.split('train').sha256}" in message
    hub.folder = tiny.root
    assert len(load(tiny.dataset, "train").images) == 40


def test_one_changed_label_or_pixel_is_refused(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMBENCH_DATA", str(tmp_path))
    images, labels = tiny.pixels["train"]
    for what in ("label", "pixel"):
        changed_images, changed_labels = images.copy(), labels.copy()
        if what == "label":
            changed_labels[7] = (labels[7] + 1) % 10
        else:
            changed_images[7, 0, 0, 0] ^= 1
        encoded = [png(image.transpose(1, 2, 0)) for image in changed_images]
        write_parquet(tmp_path / tiny.file().relative_to(tiny.root), encoded, changed_labels, "img")
        assert "SHA-256 of the pixels expected" in complaint(tiny, ValueError)


def enormous() -> bytes:
    """A PNG of a hundred bytes that says it has 3.6 thousand million pixels."""
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    )
    chunks = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_files_that_are_not_the_dataset_are_refused(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FMBENCH_DATA", str(tmp_path))
    path = tmp_path / tiny.file().relative_to(tiny.root)
    images, labels = tiny.pixels["train"]
    pictures = [image.transpose(1, 2, 0) for image in images]
    encoded = [png(picture) for picture in pictures]
    cases: dict[str, tuple[list[bytes], np.ndarray, str]] = {
        "cannot identify image file": ([png(picture, "JPEG") for picture in pictures], labels, "img"),
        "39 rows": (encoded[1:], labels[1:], "img"),
        "an image is RGB 8x6, not RGB 6x8": ([png(p.transpose(1, 0, 2)) for p in pictures], labels, "img"),
        "an image is L 6x8, not RGB 6x8": ([png(p[:, :, :1]) for p in pictures], labels, "img"),
        "exceeds limit": ([enormous(), *encoded[1:]], labels, "img"),
        "labels from 0 to 300": (encoded, np.r_[labels[:-2], 0, 300], "img"),
        "": (encoded, labels, "photo"),
    }
    for part, content in cases.items():
        write_parquet(path, *content)
        message = complaint(tiny, ValueError)
        assert str(path) in message
        assert "not the parquet file of 40 PNG images 3x8x6" in message
        assert part in message
        assert path.is_file()  # the user's own file is never deleted
    for garbage in (b"", b"<html>log in</html>" * 99, tiny.file().read_bytes()[:5000]):
        path.write_bytes(garbage)
        assert "not the parquet file" in complaint(tiny, ValueError)


LIES = (
    b"(20, 6, 8, 6)",
    b"(-40,3, 8, 6)",
    b"(10**9, 8, 6)",
    b"9999999999,  ",
    b"(39, 3, 8, 6)",
    b"((((((((((((((",
    b"(True,3, 8,6)",
)
"""Shapes in the place of a header's."""


def test_a_damaged_cache_is_refused(tiny: Tiny, serve: Serve) -> None:
    serve(tiny.root)
    load(tiny.dataset, "train")
    folder = cache_folder(tiny.dataset, "train")
    whole = (folder / "images.npy").read_bytes()
    for damage, part in (
        (whole[:-1] + bytes([whole[-1] ^ 1]), f"expected {tiny.dataset.split('train').sha256}, found"),
        (whole[: len(whole) // 2], "damaged"),
        (b"", "damaged"),
        *((whole.replace(b"(40, 3, 8, 6)", lie), "damaged") for lie in LIES),
        (whole.replace(b"|u1", b"|i1"), "damaged"),
        (whole.replace(b"'|u1'", b"'|O' "), "damaged"),
        (whole.replace(b"False", b"True "), "found"),
    ):
        (folder / "images.npy").write_bytes(damage)
        with pytest.raises(ValueError, match=part) as failure:
            load(tiny.dataset, "train")
        assert "delete the folder" in str(failure.value)
        assert "\n" not in str(failure.value)


def test_an_unknown_split_lists_the_known(tiny: Tiny) -> None:
    with pytest.raises(ValueError, match="no split 'valid'; it has: train, test"):
        load(tiny.dataset, "valid")


# -- disk, processes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "variable"), [(4000, "FMBENCH_CACHE"), (9000, "HF_HUB_CACHE")])
def test_a_full_disk_leaves_nothing_behind(
    tiny: Tiny, serve: Serve, monkeypatch: pytest.MonkeyPatch, limit: int, variable: str
) -> None:
    """The process may not write files longer than a limit: below the decoded pixels (5,760 bytes) or the download."""
    resource = pytest.importorskip("resource")
    hub = serve(tiny.root)
    if variable == "FMBENCH_CACHE":
        monkeypatch.setenv("FMBENCH_DATA", str(tiny.root))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        message = complaint(tiny, OSError)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "no space left in" in message
    assert f"set {variable}" in message
    blobs = [path for path in Path(constants.HF_HUB_CACHE).rglob("blobs/*") if path.is_file()]
    assert blobs == []
    assert len(load(tiny.dataset, "train").images) == 40
    assert len(hub.served) == (0 if variable == "FMBENCH_CACHE" else 2)


def test_no_space_is_told_from_other_failures(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FMBENCH_DATA", str(tiny.root))
    for code, part in ((errno.ENOSPC, "no space left"), (errno.EDQUOT, "no space left"), (errno.EIO, "cannot write")):

        def fail(*_: object, code: int = code) -> None:
            raise OSError(code, os.strerror(code))

        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", fail)
            message = complaint(tiny, OSError)
        assert part in message
        assert "FMBENCH_CACHE" in message
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FMBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"cannot write in .*; set FMBENCH_CACHE to another folder"):
        load(tiny.dataset, "train")


def test_what_a_killed_process_left_is_removed_after_a_day_only(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMBENCH_DATA", str(tiny.root))
    parent = cache_folder(tiny.dataset, "train").parent
    old, young = parent / ".train-0.a.tmp", parent / ".train-0.b.tmp"
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "images.npy").write_bytes(b"half")
    os.utime(old, (0, 0))
    load(tiny.dataset, "train")
    assert not old.exists()
    assert young.exists()


RACER = """
import sys
from fmbench.tasks.hub_data import Dataset, Split, load
repo, revision, filename, rows, sha256 = sys.argv[1:]
dataset = Dataset(repo, revision, "img", (3, 8, 6), {"train": Split(filename, int(rows), sha256)})
import huggingface_hub, pyarrow.parquet, PIL.Image
print("ready", flush=True)
sys.stdin.readline()
print(load(dataset, "train").images.sum())
"""


@pytest.mark.slow
def test_processes_that_race_agree(tiny: Tiny, serve: Serve, tmp_path: Path) -> None:
    hub = serve(tiny.root)
    split = tiny.dataset.split("train")
    words = [tiny.dataset.repo, REVISION, split.filename, str(split.rows), split.sha256]
    environment = {
        **os.environ,
        "HF_HUB_CACHE": str(tmp_path / "client"),
        "HF_HOME": str(tmp_path),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-W", "ignore", "-c", RACER, *words]
    pipe = subprocess.PIPE
    racers = [
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment) for _ in range(2)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    results = [racer.communicate(timeout=60) for racer in racers]
    expected = str(int(tiny.pixels["train"][0].astype(np.int64).sum()))
    assert [(racer.returncode, out.strip()) for racer, (out, _) in zip(racers, results, strict=True)] == [
        (0, expected)
    ] * 2
    assert left_behind(tiny) == [cache_folder(tiny.dataset, "train").name]
    assert hub.served


def test_losing_the_race_keeps_the_winner(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMBENCH_DATA", str(tiny.root))
    folder = cache_folder(tiny.dataset, "train")
    order = datasets.fetch

    def slower(*arguments: object) -> datasets.SourceFile:
        with monkeypatch.context() as patch:
            patch.setattr("fmbench.tasks.hub_data.fetch", order)
            load(tiny.dataset, "train")
        (folder / "winner").write_text("")
        return order(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("fmbench.tasks.hub_data.fetch", slower)
    assert len(load(tiny.dataset, "train").images) == 40
    assert (folder / "winner").exists()
    assert left_behind(tiny) == [folder.name]


# -- local folder, progress, server --------------------------------------------------------------------------------


def test_a_local_folder_touches_no_network(tiny: Tiny, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = serve(tiny.root)
    monkeypatch.setenv("FMBENCH_DATA", str(tiny.root))
    arrays = load(tiny.dataset, "train")
    assert rows(arrays.images, arrays.labels) == rows(*tiny.pixels["train"])
    assert hub.log == []


def test_a_local_folder_without_the_file_says_which(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FMBENCH_DATA", str(tmp_path))
    message = complaint(tiny, FileNotFoundError)
    assert f"{tmp_path} has no datasets/someone/noise/plain/train-00000-of-00001.parquet" in message
    assert "unset FMBENCH_DATA" in message


def test_progress_is_shown_on_a_terminal_only(
    tiny: Tiny, serve: Serve, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(tiny.root)
    load(tiny.dataset, "test")
    quiet = capsys.readouterr()
    assert (quiet.out, quiet.err) == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    _console.cache_clear()  # The console looks at its terminal once.
    load(tiny.dataset, "train")
    _console.cache_clear()
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "download noise/train-00000-of-00001.parquet" in shown.err
    assert "decode noise/train" in shown.err
    assert "100%" in shown.err


def test_the_server_answers_the_api_of_the_real_client(tiny: Tiny, serve: Serve) -> None:
    api = HfApi(endpoint=serve(tiny.root).url, token=False)
    assert api.dataset_info("someone/noise", revision=REVISION).sha == REVISION
    assert api.list_repo_files("someone/noise", repo_type="dataset") == [
        "plain/test-00000-of-00001.parquet",
        "plain/train-00000-of-00001.parquet",
    ]
    sizes = [entry.size for entry in api.list_repo_tree("someone/noise", recursive=True, repo_type="dataset")]
    assert sizes == [tiny.file(split).stat().st_size for split in ("test", "train")]


def test_a_dataset_is_plain_data() -> None:
    a = Dataset("a/b", REVISION, "img", (1, 2, 2), {"train": Split("f", 1, "0" * 64)})
    assert dataclasses.asdict(a)["splits"]["train"]["rows"] == 1
