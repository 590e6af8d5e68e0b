"""Models that live on the Hub, by the real client against a loopback one: the bytes that were named, or one clear line."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from model_hub import KINDS, ModelHub
from repositories import TOKEN, Repo

import fmbench
from fmbench import cli
from fmbench.evaluation.run import evaluate, run
from fmbench.records import result
from fmbench.storage import repository
from fmbench.storage.bundled import data_folder
from fmbench.version import __version__
from fmbench.zoo import catalogue
from fmbench.zoo.resolve import resolve

ENTRY, NAME = "gaussian-moons/cfm", "someone/moons-cfm"
SPEC = f"hf:{NAME}"


def folder(name: str = ENTRY) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (data_folder("zoo") / name).iterdir()}


@pytest.fixture
def repo(models: ModelHub) -> Repo:
    return models.contents.add(NAME, folder())


def samples(spec: str) -> torch.Tensor:
    return fmbench.load(spec).sample(8, seed=3, steps=2)


def blobs() -> list[Path]:
    """The contents of files that the client keeps."""
    return [path for path in Path(constants.HF_HUB_CACHE).rglob("blobs/*") if path.is_file()]


def complaint(spec: str, kind: type[Exception]) -> str:
    """What a failure says: one line."""
    with pytest.raises(kind) as failure:
        fmbench.load(spec)
    assert "\n" not in str(failure.value)
    return str(failure.value)


# -- fetch ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("revision", ["", "@main", "@v1", "@refs/pr/1", "pinned"])
def test_a_repository_gives_the_samples_of_its_entry(repo: Repo, revision: str) -> None:
    sha = repo.refs["main"]
    repo.refs.update({"v1": sha, "refs/pr/1": sha})
    model = fmbench.load(f"{SPEC}@{sha}" if revision == "pinned" else SPEC + revision)
    assert torch.equal(model.sample(8, seed=3, steps=2), samples(ENTRY))
    assert model.name == "gaussian-moons/someone--moons-cfm"
    assert model.identity["hub"] == f"{SPEC}@{sha}"
    assert model.identity["weights_sha256"] == fmbench.load(ENTRY).identity["weights_sha256"]
    assert "remote_code" not in model.identity


def test_a_revision_gives_its_own_weights(repo: Repo) -> None:
    old = repo.refs["main"]
    repo.commit(folder("gaussian-moons/ot-cfm"), "another method")
    assert torch.equal(samples(SPEC), samples("gaussian-moons/ot-cfm"))
    assert torch.equal(samples(f"{SPEC}@{old}"), samples(ENTRY))


def test_only_the_files_of_an_entry_are_fetched_and_each_once(models: ModelHub, repo: Repo) -> None:
    more = {"notes.txt": b"x", "other.safetensors": b"y", "sub/recipe.toml": b"z", "setup.py": b"raise SystemExit"}
    repo.commit({**folder(), **more}, "more")
    fmbench.load(SPEC)
    for name in folder():
        assert models.asked("GET", f"/resolve/.*/{name}$") == 1
    for name in more:
        assert models.asked("GET", f"/resolve/[0-9a-f]*/{name}$") == 0
    assert {agent.split(";")[0] for agent in models.agents} == {f"fmbench/{__version__}"}


def test_what_is_pinned_and_here_asks_nothing_of_the_network(models: ModelHub, repo: Repo) -> None:
    first = samples(SPEC)
    models.log.clear()
    assert torch.equal(samples(f"{SPEC}@{repo.refs['main']}"), first)
    assert models.log == []


@pytest.mark.parametrize("how", ["offline", "nobody listens"])
def test_without_a_network_the_cache_is_used(repo: Repo, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    first = samples(SPEC)
    if how == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for spec in (SPEC, f"{SPEC}@{repo.refs['main']}"):
        assert torch.equal(samples(spec), first)
    for spec in ("hf:someone/other", f"{SPEC}@{'0' * 40}", f"{SPEC}@v2"):
        message = complaint(spec, ConnectionError)
        assert spec in message and "not on this machine" in message


def test_a_private_repository_needs_the_users_token(
    models: ModelHub, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo.private = True
    message = complaint(SPEC, FileNotFoundError)
    assert SPEC in message and "private" in message and "hf auth login" in message
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert torch.equal(samples(SPEC), samples(ENTRY))


def test_a_gated_repository_says_where_to_ask(models: ModelHub, repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    repo.gated = True
    message = complaint(SPEC, PermissionError)
    assert SPEC in message and "gated" in message and models.url in message
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert torch.equal(samples(SPEC), samples(ENTRY))


# -- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    ["hf:", "hf:x", "hf:a/b/c", "hf:a/b@", "hf:a/..", "hf:../b", "hf:a/b@../c", "hf:a--b/c", "hf:a/b@x y", "hf:a/b@-x"],
)
def test_what_names_no_repository_is_refused_before_anything_is_asked(models: ModelHub, spec: str) -> None:
    assert "write hf:owner/name" in complaint(spec, ValueError)
    assert models.log == []


def test_a_repository_that_is_not_there_is_named(repo: Repo, models: ModelHub) -> None:
    message = complaint("hf:someone/nothing", FileNotFoundError)
    assert models.url in message and "hf:someone/nothing" in message


@pytest.mark.parametrize("revision", ["v9", "0" * 40])
def test_a_revision_that_is_not_there_is_named(repo: Repo, revision: str) -> None:
    assert f"{SPEC}@{revision}" in complaint(f"{SPEC}@{revision}", FileNotFoundError)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (("model_index.json", "unet/config.json"), "a diffusers pipeline"),
        (("config.json", "model.safetensors"), "a model of diffusers or transformers"),
        (("net.safetensors",), "weights without their network"),
        (("edm.pkl",), "a pickle, as EDM publishes"),
        (("last.ckpt",), "a pickled checkpoint"),
        (("README.md",), "no model that fmbench knows"),
    ],
)
def test_a_repository_that_is_no_entry_says_what_it_may_be(
    models: ModelHub, files: tuple[str, ...], words: str
) -> None:
    models.contents.add("else/where", dict.fromkeys(files, b"content"))
    message = complaint("hf:else/where", ValueError)
    assert "no recipe.toml" in message and words in message
    assert ("fmbench convert" in message) == files[0].endswith((".pkl", ".ckpt"))
    assert blobs() == []


def test_a_recipe_of_a_newer_version_says_so_and_not_what_it_does_not_know(repo: Repo) -> None:
    recipe = folder()["recipe.toml"].replace(b"schema = 1", b'schema = 2\nspace = "sequence"')
    repo.commit({**folder(), "recipe.toml": recipe}, "newer")
    message = complaint(SPEC, ValueError)
    assert "schema 2" in message and "update flow-matching-bench" in message and SPEC in message


def test_weights_that_are_not_those_pinned_are_not_downloaded(models: ModelHub, repo: Repo) -> None:
    weights = bytearray(folder()["model.safetensors"])
    weights[-1] ^= 1
    repo.commit({**folder(), "model.safetensors": bytes(weights)}, "one bit")
    for words in ("nothing was downloaded", "removed from the cache"):
        # The client keeps the bytes of a listing and not its hashes: the second time only the download tells.
        message = complaint(SPEC, ValueError)
        assert "SHA-256" in message and fmbench.load(ENTRY).identity["weights_sha256"] in message and words in message
        assert bytes(weights) not in [path.read_bytes() for path in blobs()]
    repo.commit({**folder(), "model.safetensors": b"short"}, "short")
    assert "nothing was downloaded" in complaint(SPEC, ValueError)


@pytest.mark.parametrize("damage", ["another bit", "a lost tail", "empty"])
def test_a_damaged_cache_is_found_deleted_and_fetched_again(repo: Repo, damage: str) -> None:
    first = samples(SPEC)
    address = repository.Address(NAME, repo.refs["main"])
    path = repository.snapshot_folder(address) / "model.safetensors"
    data = path.read_bytes()
    worse = {"another bit": data[:-1] + bytes([data[-1] ^ 1]), "a lost tail": data[:-100], "empty": b""}[damage]
    path.resolve().write_bytes(worse)
    message = complaint(f"{address}", ValueError)
    assert repository.file_sha256(data_folder("zoo") / ENTRY / "model.safetensors") in message
    assert not path.exists() and not path.resolve().exists()
    assert torch.equal(samples(str(address)), first)


@pytest.mark.parametrize("where", ["before", "while"])
def test_a_full_disk_is_one_line_and_leaves_nothing(repo: Repo, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    if where == "before":
        few = type("Usage", (), {"free": 10})
        monkeypatch.setattr(repository.shutil, "disk_usage", lambda _: few)
    else:

        def full(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("huggingface_hub.file_download._chmod_and_move", full)
    message = complaint(SPEC, OSError)
    assert "no space left" in message and "HF_HUB_CACHE" in message
    assert blobs() == []
    monkeypatch.undo()


# -- faults --------------------------------------------------------------------------------------------------------

REQUESTS = {
    "commit": ("GET", "/api/models/[^/]+/[^/]+$"),
    "listing": ("GET", "/tree/"),
    "head of the recipe": ("HEAD", "/recipe.toml$"),
    "recipe": ("GET", "/recipe.toml$"),
    "head of the weights": ("HEAD", "/model.safetensors$"),
    "weights": ("GET", "/model.safetensors$"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "cut-after"])
@pytest.mark.parametrize("request_name", REQUESTS)
def test_a_fault_at_any_request_of_a_fetch_is_survived_or_one_line(
    models: ModelHub, repo: Repo, kind: str, request_name: str
) -> None:
    """Whatever it was, the right weights are loaded now or by the same command again."""
    models.fault(kind, *REQUESTS[request_name])
    right = samples(ENTRY)
    try:
        found = samples(SPEC)
    except (ConnectionError, ValueError) as error:
        assert "\n" not in str(error) and SPEC in str(error), error
        assert kind != "slow"
        found = samples(SPEC)
    assert models.faults[0].times == 0, "the fault never struck"
    assert torch.equal(found, right)


@pytest.mark.parametrize(
    ("kind", "words"),
    [("500", "answered 500"), ("429", "too many requests"), ("cut", "broke off"), ("wrong-bytes", "expected")],
)
def test_a_fault_that_stays_is_one_line_and_the_cache_is_consistent(
    models: ModelHub, repo: Repo, kind: str, words: str
) -> None:
    models.fault(kind, "GET", "/resolve/", -1)
    with pytest.raises((ConnectionError, ValueError)) as failure:
        fmbench.load(SPEC)
    message = str(failure.value)
    assert "\n" not in message and (words in message or "announced" in message)
    assert blobs() == []
    models.faults.clear()
    assert torch.equal(samples(SPEC), samples(ENTRY))


def test_a_broken_download_goes_on_where_it_broke(
    models: ModelHub, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # the client keeps whole chunks only
    models.fault("half", "GET", "/model.safetensors$")
    assert torch.equal(samples(SPEC), samples(ENTRY))
    assert models.asked("GET", "/recipe.toml$") == 1
    first, second = (status for method, at, status in models.log if (method, at[-11:]) == ("GET", "safetensors"))
    assert (first, second) == (200, 206)


# -- evaluation and the command line -------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_result_says_which_commit_was_run(repo: Repo, tmp_path: Path) -> None:
    outcome = run("quick", [SPEC], tmp_path, options=fmbench.evaluation.options.Options(device="cpu", limit=16))
    assert outcome.errors == []
    written = result.read(tmp_path / "results" / "quick" / "gaussian-moons" / "someone--moons-cfm.json")
    assert written.model["hub"] == f"{SPEC}@{repo.refs['main']}"
    ours = evaluate(ENTRY, "quick", device="cpu", limit=16)[1]
    for mine, theirs in zip(ours.rows, written.rows, strict=True):
        assert mine.samples["sha256"] == theirs.samples["sha256"]


def test_two_repositories_of_one_name_have_results_of_their_own(models: ModelHub, repo: Repo) -> None:
    models.contents.add("another/moons-cfm", folder())
    assert resolve("hf:another/moons-cfm").name != resolve(SPEC).name


def test_info_needs_no_weights(models: ModelHub, repo: Repo, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", SPEC]) == 0
    assert "gaussian-moons" in capsys.readouterr().out
    assert models.asked("GET", "/model.safetensors$") == 0


def test_pin_prints_the_address_that_never_changes(repo: Repo, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pin", SPEC]) == 0
    pin = capsys.readouterr().out.strip()
    assert pin == f"{SPEC}@{repo.refs['main']}"
    repo.commit(folder("gaussian-moons/ot-cfm"), "later")
    assert torch.equal(samples(pin), samples(ENTRY))


def test_fetch_makes_it_ready_for_work_without_a_network(
    models: ModelHub, repo: Repo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["fetch", SPEC, ENTRY]) == 0
    assert "someone/moons-cfm" in capsys.readouterr().out
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert cli.main(["sample", SPEC, "-n", "4", "-o", str(tmp_path / "x.npy")]) == 0


def test_fetch_goes_on_after_one_that_fails(repo: Repo, capsys: pytest.CaptureFixture[str]) -> None:
    repo.commit({**folder(), "model.safetensors": b"short"}, "short")
    assert cli.main(["fetch", SPEC, ENTRY]) == 1
    told = capsys.readouterr()
    assert ENTRY in told.out and told.err.count("\n") == 1 and "nothing was downloaded" in told.err


def test_weights_may_lie_on_the_hub_while_the_recipe_is_here(
    models: ModelHub, repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = f"{SPEC}@{repo.refs['main']}"
    here = tmp_path / "zoo" / "gaussian-moons" / "far"
    here.mkdir(parents=True)
    recipe = folder()["recipe.toml"].decode().replace("[weights]", f'[weights]\nsource = "{source}"')
    (here / "recipe.toml").write_text(recipe)
    monkeypatch.setattr(catalogue, "data_folder", lambda name: tmp_path / "zoo" if name == "zoo" else data_folder(name))
    entry = catalogue.find("gaussian-moons/far")
    assert "not on this machine: fmbench fetch gaussian-moons/far" in entry.where
    assert models.log == []
    assert torch.equal(samples("gaussian-moons/far"), fmbench.load(source).sample(8, seed=3, steps=2))
    assert entry.where.endswith("here") and "not on" not in entry.where
    (here / "recipe.toml").write_text(recipe.replace(source, SPEC))
    with pytest.raises(ValueError, match=r"source must be hf:owner/name@ and the 40 digits"):
        catalogue.find("gaussian-moons/far")


@pytest.mark.parametrize("words", [["train", SPEC], ["card", SPEC]])
def test_nothing_is_written_into_the_cache_of_the_client(
    repo: Repo, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    fmbench.load(SPEC)
    before = {path: path.read_bytes() for path in Path(constants.HF_HUB_CACHE).rglob("*") if path.is_file()}
    assert cli.main(words) == 2
    assert "Hub" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path(constants.HF_HUB_CACHE).rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_a_plain_process_does_the_same(repo: Repo, models: ModelHub, tmp_path: Path) -> None:
    code = f"import fmbench; print(fmbench.load('{SPEC}').sample(2, steps=1).tolist())"
    env = {"HF_ENDPOINT": models.url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1", "PATH": ""}
    root = str(Path(fmbench.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", code], env={**env, "PYTHONPATH": root}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(fmbench.load(ENTRY).sample(2, steps=1).tolist())
