"""An entry goes to the Hub in one commit and comes back as it was, whatever breaks on the way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import EvalResultEntry, parse_eval_result_entries
from model_hub import KINDS, ModelHub
from repositories import TOKEN, Repo

import fmbench
from fmbench import cli
from fmbench.records import result
from fmbench.storage.bundled import data_folder
from fmbench.storage.repository import Address
from fmbench.training.run import train
from fmbench.zoo import push
from fmbench.zoo.resolve import resolve

ENTRY, NAME = "gaussian-moons/cfm", "someone/moons-cfm"
SPEC = f"hf:{NAME}"
RESULT = data_folder("leaderboard") / "results" / "quick" / ENTRY.partition("/")[0] / "cfm.json"
FILES = {".gitattributes", "README.md", "model.safetensors", "recipe.toml", "results/quick.json", "samples.png"}


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)


@pytest.fixture(scope="module")
def made() -> push.Content:
    return push.content(resolve(ENTRY), NAME, [RESULT])[0]


def fmb(*words: object) -> int:
    return cli.main([*map(str, words)])


def there(models: ModelHub, ref: str = "main") -> dict[str, bytes]:
    repo = models.contents.repos[NAME]
    return repo.commits[repo.refs[ref]]


def card(models: ModelHub) -> tuple[dict, str]:
    _, head, body = there(models)["README.md"].decode().split("---\n", 2)
    return yaml.safe_load(head), body


def test_what_is_pushed_is_what_comes_back(models: ModelHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert fmb("push", ENTRY, "--repo", NAME, "--results", RESULT) == 0
    pin = capsys.readouterr().out.splitlines()[0]
    repo = models.contents.repos[NAME]
    assert pin == f"{SPEC}@{repo.refs['main']}"
    assert set(there(models)) == FILES
    assert len(repo.log) == 2 and not repo.private
    ours, theirs = fmbench.load(ENTRY), fmbench.load(pin)
    for name, value in ours.method.state_dict().items():
        assert torch.equal(value, theirs.method.state_dict()[name])
    assert torch.equal(ours.sample(64, seed=5), theirs.sample(64, seed=5))
    assert theirs.identity["recipe"] == ours.identity["recipe"]


def test_a_second_push_finds_nothing_to_do(models: ModelHub, capsys: pytest.CaptureFixture[str]) -> None:
    fmb("push", ENTRY, "--repo", NAME)
    first = capsys.readouterr().out.splitlines()[0]
    assert fmb("push", ENTRY, "--repo", NAME) == 0
    assert capsys.readouterr().out.splitlines()[:2] == [first, "nothing had changed"]
    assert models.asked("POST", "/commit/") == 1


def test_files_of_others_stay_and_only_what_changed_goes_up(models: ModelHub, made: push.Content) -> None:
    push.push(Address(NAME), made)
    repo = models.contents.repos[NAME]
    repo.commit({**there(models), "notes.md": b"mine", "README.md": b"---\nlicense: mit\n---\nmine"}, "by hand")
    done = push.push(Address(NAME), made)
    assert done.changed == ("README.md",)
    assert there(models)["notes.md"] == b"mine" and there(models)["README.md"] == made.files["README.md"]
    assert models.asked("PUT", "/upload/") == 1


def test_a_dry_run_writes_nothing_and_says_what_would_go_up(
    models: ModelHub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fmb("push", ENTRY, "--repo", NAME, "--dry-run", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["new"]) == FILES - {".gitattributes"} | {"results/transport-2d.json"} and told["parent"] is None
    assert models.contents.repos == {} and {verb for verb, *_ in models.log} == {"GET"}
    fmb("push", ENTRY, "--repo", NAME)
    capsys.readouterr()
    assert fmb("push", ENTRY, "--repo", NAME, "--dry-run") == 0
    assert f"0 of {len(FILES)} files would go up" in capsys.readouterr().out


def test_private_is_private_from_the_first_byte(models: ModelHub, made: push.Content) -> None:
    push.push(Address(NAME), made, private=True)
    assert models.contents.repos[NAME].private
    models.contents.repos[NAME].private = False
    with pytest.raises(ValueError, match="is there and public"):
        push.push(Address(NAME), made, private=True)


def test_a_pull_request_leaves_main_alone_and_is_found_again(models: ModelHub, made: push.Content) -> None:
    models.contents.add(NAME, {"README.md": b"---\nlicense: mit\n---\nnot ours"})
    done = push.push(Address(NAME), made, create_pr=True)
    assert done.pull_request == f"{models.url}/{NAME}/discussions/1"
    assert there(models) == {"README.md": b"---\nlicense: mit\n---\nnot ours"}
    assert set(there(models, "refs/pr/1")) == FILES - {".gitattributes"}
    assert torch.equal(fmbench.load(f"{SPEC}@refs/pr/1").sample(8), fmbench.load(ENTRY).sample(8))
    again = push.push(Address(NAME), made, create_pr=True)
    assert (again.pull_request, again.pin, again.changed) == (done.pull_request, done.pin, ())
    assert len(models.contents.repos[NAME].pulls) == 1


def test_a_push_beside_another_is_refused_whole(
    models: ModelHub, made: push.Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody commits between the comparison and the commit: theirs stays, ours says so."""
    repo = models.contents.add(NAME, {"README.md": b"first"})
    compare = push.difference

    def meanwhile(*args: object) -> push.Difference:
        found = compare(*args)
        if len(repo.log) == 1:
            repo.commit({"README.md": b"second"}, "meanwhile")
        return found

    monkeypatch.setattr(push, "difference", meanwhile)
    with pytest.raises(ConnectionError, match="has changed meanwhile; run again"):
        push.push(Address(NAME), made)
    assert there(models) == {"README.md": b"second"}


# -- what is in it -------------------------------------------------------------------------------------------------


def test_the_card_says_what_the_hub_files_by(models: ModelHub, made: push.Content) -> None:
    push.push(Address(NAME), made)
    head, body = card(models)
    assert head["library_name"] == "fmbench" and head["license"] == "apache-2.0"
    assert {"flow-matching", "gaussian-moons", "cfm", "closed"} <= set(head["tags"])
    assert "base_model" not in head and "pipeline_tag" not in head and "datasets" not in head
    assert f'fmbench.load("{SPEC}")' in body and "![" in body and "## Limits" in body
    found = result.read(RESULT)
    for row in found.rows:
        assert f"| {row.sampler.label} | {row.total_nfe:g} | {row.metrics['wasserstein2'].value:.4g} [" in body


def test_images_of_a_dataset_on_the_hub_name_it_and_their_scores_are_filed() -> None:
    made, model = push.content(resolve("mnist/ot-cfm"), "someone/mnist")
    _, head, _ = made.files["README.md"].decode().split("---\n", 2)  # type: ignore[union-attr]
    facts = yaml.safe_load(head)
    assert facts["datasets"] in ("ylecun/mnist", ["ylecun/mnist"])
    assert facts["pipeline_tag"] == "unconditional-image-generation" and "arxiv:2302.00482" in facts["tags"]
    scores = parse_eval_result_entries(yaml.safe_load(made.files[push.SCORES]))  # type: ignore[arg-type]
    found = result.read(data_folder("leaderboard") / "results" / "mnist" / "mnist" / "ot-cfm.json")
    rows = [row for row in found.rows if row.metrics["frechet_distance"].value is not None]
    assert [score.value for score in scores] == [row.metrics["frechet_distance"].value for row in rows]
    for score, row in zip(scores, rows, strict=True):
        assert isinstance(score, EvalResultEntry) and score.dataset_id == "ylecun/mnist"
        assert score.source_url is not None and score.source_url.endswith("/someone/mnist/blob/main/results/mnist.json")
        low, high = row.metrics["frechet_distance"].ci  # type: ignore[misc]
        for part in ("lower is better", "95 % interval", f"{low:.6g} to {high:.6g}", "n = 10000", "NFE"):
            assert part in (score.notes or "")
    assert len({score.task_id for score in scores}) == len(scores)
    assert {"samples.png", "trajectory.png"} <= set(made.files)
    assert model.name == "mnist/ot-cfm"


def test_scores_are_filed_under_a_dataset_that_is_named(capsys: pytest.CaptureFixture[str], models: ModelHub) -> None:
    fmb("push", ENTRY, "--repo", NAME, "--dry-run")
    assert "no scores are filed" in capsys.readouterr().out
    made, _ = push.content(resolve(ENTRY), NAME, [RESULT], "someone/benchmark")
    scores = yaml.safe_load(made.files[push.SCORES])  # type: ignore[arg-type]
    assert {score["dataset"]["id"] for score in scores} == {"someone/benchmark"}


def test_a_result_of_other_weights_is_refused() -> None:
    other = RESULT.with_name("ot-cfm.json")
    with pytest.raises(ValueError, match="other weights"):
        push.content(resolve(ENTRY), NAME, [other])
    made, _ = push.content(resolve(ENTRY), NAME, [other.parent])
    assert made.files["results/quick.json"] == RESULT


def test_what_has_no_weights_is_not_published(capsys: pytest.CaptureFixture[str]) -> None:
    assert fmb("push", "gaussian-moons/oracle", "--repo", NAME) == 1
    assert "has no weights to publish" in capsys.readouterr().err


def test_damaged_weights_are_not_published(models: ModelHub, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(data_folder("zoo") / ENTRY, tmp_path / "moons-cfm"))
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "model.safetensors").write_bytes(data)
    assert fmb("push", copy, "--repo", NAME) == 1
    assert models.log == []


@pytest.mark.parametrize("repo", ["x", "a/b/c", "a/b@main", "hf:a/..", "../b"])
def test_what_names_no_repository_is_refused(models: ModelHub, repo: str) -> None:
    assert fmb("push", ENTRY, "--repo", repo) in (1, 2)
    assert models.log == []


@pytest.mark.parametrize("given", ["", "hf_wrong"])
def test_without_a_token_that_may_write_it_says_so(
    models: ModelHub, made: push.Content, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", given)
    with pytest.raises(PermissionError, match="log in") as failure:
        push.push(Address(NAME), made)
    assert "\n" not in str(failure.value) and models.contents.repos == {}


# -- faults --------------------------------------------------------------------------------------------------------

REQUESTS = {
    "create": ("POST", "/api/repos/create"),
    "commit before": ("GET", f"/api/models/{NAME}$"),
    "listing": ("GET", "/tree/"),
    "card": ("POST", "/api/validate-yaml"),
    "kinds of files": ("POST", "/preupload/"),
    "where to": ("POST", "/objects/batch"),
    "upload": ("PUT", "/upload/"),
    "verify": ("POST", "/verify/"),
    "commit": ("POST", "/commit/"),
}


def state(repo: Repo | None) -> tuple[int, bool]:
    """Commits of a repository, and whether it holds a whole entry."""
    if repo is None:
        return 0, False
    return len(repo.log), set(repo.commits[repo.refs["main"]]) >= FILES


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("request_name", REQUESTS)
@pytest.mark.filterwarnings("ignore:Warnings while validating")
def test_a_fault_at_any_request_leaves_all_or_nothing_and_the_same_push_finishes(
    models: ModelHub, made: push.Content, kind: str, request_name: str
) -> None:
    models.fault(kind, *REQUESTS[request_name])
    try:
        push.push(Address(NAME), made)
    except (OSError, ValueError) as error:
        assert "\n" not in str(error) and SPEC in str(error), error
        assert kind != "slow"
        assert state(models.contents.repos.get(NAME)) in ((0, False), (1, False), (2, True))
    assert models.faults[0].times == 0, "the fault never struck"
    push.push(Address(NAME), made)
    assert state(models.contents.repos[NAME]) == (2, True)
    assert there(models)["model.safetensors"] == (data_folder("zoo") / ENTRY / "model.safetensors").read_bytes()


@pytest.mark.parametrize("kind", ["cut", "cut-after", "500"])
def test_a_pull_request_whose_answer_is_lost_is_not_opened_twice(
    models: ModelHub, made: push.Content, kind: str
) -> None:
    models.contents.add(NAME, {"notes.md": b"mine"})
    models.fault(kind, "POST", "/commit/")
    try:
        push.push(Address(NAME), made, create_pr=True)
    except OSError:
        assert kind != "cut-after"
    push.push(Address(NAME), made, create_pr=True)
    assert len(models.contents.repos[NAME].pulls) == 1


# -- code ----------------------------------------------------------------------------------------------------------

OWN = """
from fmbench.methods.cfm import CFM
from helper import SIGMA
from pathlib import Path
Path("ran").touch()
class OwnFlow(CFM):
    sigma = SIGMA
"""


def test_code_of_a_repository_runs_only_where_its_commit_is_named_and_trusted(
    models: ModelHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_recipe: Callable
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN)
    Path("helper.py").write_text("SIGMA = 0.0\n")
    train(tiny_recipe("gaussian-moons", "own.py:OwnFlow"), Path("entries") / "gaussian-moons" / "own-flow")
    assert fmb("push", "own.py:OwnFlow", "--repo", NAME) == 0
    assert {"own.py", "helper.py"} <= set(there(models))
    ours = fmbench.load("own.py:OwnFlow").sample(8, steps=2)
    for name in ("own.py", "helper.py", "ran"):
        Path(name).unlink()
    pin = f"{SPEC}@{models.contents.repos[NAME].refs['main']}"
    for spec in (SPEC, pin):
        with pytest.raises(ValueError, match=r"runs code from own\.py") as failure:
            fmbench.load(spec)
        assert pin in str(failure.value) and "--trust-remote-code" in str(failure.value)
    with pytest.raises(ValueError, match="name the commit") as failure:
        fmbench.load(SPEC, trust_remote_code=True)
    assert pin in str(failure.value)
    assert not Path("ran").exists()
    model = fmbench.load(pin, trust_remote_code=True)
    assert Path("ran").exists()
    assert torch.equal(model.sample(8, steps=2), ours)
    assert model.identity["remote_code"] == models.contents.repos[NAME].refs["main"]
    assert model.identity["code_sha256"] is not None
    assert fmb("run", "quick", "-m", pin, "--limit", "8", "--out", "runs") == 1
    assert fmb("run", "quick", "-m", pin, "--limit", "8", "--out", "runs", "--trust-remote-code") == 0
    (written,) = Path("runs/results/quick/gaussian-moons").glob("someone*.json")
    assert result.read(written).model["remote_code"] == model.identity["remote_code"]
