"""Publishing an entry as a repository of the Hub: its content, the difference to the repository, and one commit.

All changes go into a single commit on top of the one that was compared with, so that a broken connection leaves the repository either
unchanged or complete; repeating a push changes nothing.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from fmbench.records.metric import METRICS
from fmbench.records.names import check_name
from fmbench.records.result import Result
from fmbench.records.result import read as read_result
from fmbench.storage.bundled import data_folder
from fmbench.storage.files import file_sha256, sha256
from fmbench.storage.hub_client import LIBRARY, endpoint, talking
from fmbench.storage.repository import Address
from fmbench.version import __version__
from fmbench.zoo.card import ALT, dataset_of, hub_card, primary_metric
from fmbench.zoo.code import code_files
from fmbench.zoo.model import Model
from fmbench.zoo.pictures import picture
from fmbench.zoo.resolve import Resolved
from fmbench.zoo.sources import require_safe

SCORES = ".eval_results/fmbench.yaml"
"""Path where the Hub looks for scores."""


@dataclass(frozen=True)
class Content:
    """The files of a repository by path: bytes, or a file on this machine; and the line that describes the commit."""

    files: Mapping[str, bytes | Path]
    message: str


@dataclass(frozen=True)
class Difference:
    """The changes of a push.

    Attributes:
        parent: the commit that was compared with; None where there is no repository yet.
        new, changed, same: paths.
    """

    parent: str | None
    new: tuple[str, ...]
    changed: tuple[str, ...]
    same: tuple[str, ...]

    @property
    def rest(self) -> tuple[str, ...]:
        """The paths that are left to push."""
        return (*self.new, *self.changed)


@dataclass(frozen=True)
class Pushed:
    """The outcome of a push: the pinned address, the pull request where one was requested, the paths changed."""

    pin: str
    pull_request: str | None
    changed: tuple[str, ...]


def content(
    named: Resolved, repo: str, results: Sequence[Path] | None = None, dataset: str | None = None
) -> tuple[Content, Model]:
    """The content of an entry's repository, and the loaded entry, so that only entries that can be loaded are published.

    ``results`` are result files, or folders that are searched for results of these weights; None searches the committed leaderboard where it is
    at hand. ``dataset`` is ``owner/name`` of the Hub's dataset that scores are filed under, by default that of the task. Raises ValueError or
    FileNotFoundError in one line for an entry without weights, a result of other weights, and code that cannot be published.
    """
    entry, recipe = named.entry, named.entry.recipe
    if recipe.weights is None:
        raise ValueError(f"{entry.name} has no weights to publish")
    for pinned in recipe.pins:
        require_safe(pinned.file, entry.name)
    model = named.load()
    found = _results(results, recipe.weights.sha256)
    pictures = _pictures(model, entry.folder)
    card = hub_card(repo, recipe, model.method, model.task, tuple(pictures), found.values())  # type: ignore[arg-type]
    files: dict[str, bytes | Path] = {
        "recipe.toml": recipe.to_toml().encode(),
        **{one.recipe.weights.file: one.weights_here() for one in entry.trainings if one.recipe.weights},
        "README.md": card.encode(),
        **pictures,
        **{f"results/{result.benchmark['name']}.json": path for path, result in found.items()},
        **_code(recipe.method["name"], named.code),
    }
    if scores := eval_results(found.values(), model, repo, dataset):
        files[SCORES] = scores
    message = f"{entry.name} by fmbench {__version__}, weights {recipe.weights.sha256[:12]}"
    return Content(files, message), model


def _pictures(model: Model, folder: Path) -> dict[str, bytes | Path]:
    """The pictures in a folder, or a first one of samples where there are none and the points can be drawn."""
    found: dict[str, bytes | Path] = {name: folder / name for name in ALT if (folder / name).is_file()}
    if found or model.task.kind != "vector" or model.task.shape != (2,):
        return found
    buffer = io.BytesIO()
    picture(model.sample(4096, seed=0)).save(buffer, format="png", optimize=True)
    return {"samples.png": buffer.getvalue()}


def _results(given: Sequence[Path] | None, weights: str) -> dict[Path, Result]:
    """Result files of these weights, one for each benchmark. Raises ValueError for a file that was named and is of other weights."""
    if given is None:
        folder = data_folder("leaderboard") / "results"
        given = [folder] if folder.is_dir() else []
    found: dict[str, tuple[Path, Result]] = {}
    for place in given:
        for path in sorted(place.rglob("*.json")) if place.is_dir() else [place]:
            if place.is_dir() and weights not in path.read_text(errors="replace"):
                continue
            result = read_result(path)
            if result.model.get("weights_sha256") == weights:
                found.setdefault(check_name(result.benchmark["name"], "a benchmark"), (path, result))
            elif not place.is_dir():
                raise ValueError(f"{path} is a result of other weights ({result.model.get('weights_sha256')})")
    return dict(found.values())


def _code(method: str, spec: str | None) -> dict[str, Path]:
    """The user's own code that an entry needs, where the user named it: its file and those it imports from beside it."""
    if spec is None:
        return {}
    path = PurePosixPath(method.rpartition(":")[0])
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(
            f"the recipe names its code by {path}, which no repository can hold; train it from the folder of the file"
        )
    file = Path(spec.rpartition(":")[0]).resolve()
    return {str(path.parent / one.relative_to(file.parent).as_posix()): one for one in code_files(file)}


def eval_results(results: Iterable[Result], model: Model, repo: str, dataset: str | None = None) -> bytes | None:
    """Scores as the Hub files them: the metric that a benchmark ranks by, for every sampler; None where there is no dataset to file them under.

    The format knows one number and no better side: interval, n, side and sampler stand in the notes, and the result file is the source.
    """
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
    from huggingface_hub.utils import yaml_dump

    target, entries = dataset or dataset_of(model.task), []
    for result in results if target else ():
        metric, bench = primary_metric(result, model.task), result.benchmark["name"]
        for row in result.rows:
            estimate = row.metrics.get(metric or "")
            if metric is None or estimate is None or estimate.value is None:
                continue
            within = f"95 % interval {estimate.ci[0]:.6g} to {estimate.ci[1]:.6g}" if estimate.ci else "no interval"
            about = f"{METRICS[metric].label}, {METRICS[metric].better} is better" if metric in METRICS else metric
            entries.append(
                EvalResultEntry(
                    dataset_id=target or "",
                    task_id=f"{bench}-{result.task['name']}-{metric}-{row.sampler.label}",
                    value=estimate.value,
                    date=result.created or None,
                    source_url=f"{endpoint()}/{repo}/blob/main/results/{bench}.json",
                    source_name="fmbench result file",
                    notes=f"{about}; {within}; n = {estimate.n}; NFE {row.total_nfe:g}; {result.status}",
                )
            )
    return yaml_dump(eval_result_entries_to_yaml(entries)).encode() if entries else None


def _blob(data: bytes | Path) -> str:
    """The name that git gives a file."""
    data = data if isinstance(data, bytes) else data.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _is_same(row: Any, data: bytes | Path) -> bool:
    """Whether a file on the Hub has this content."""
    if row.lfs is not None:
        return row.lfs.sha256 == (sha256(data) if isinstance(data, bytes) else file_sha256(data))
    return row.blob_id == _blob(data)


def difference(api: Any, repo: str, files: Mapping[str, bytes | Path], revision: str | None = None) -> Difference:
    """The changes that a push of these files would make at a revision. Raises what the client raises."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        parent = api.model_info(repo, revision=revision).sha
    except RepositoryNotFoundError:
        return Difference(None, tuple(files), (), ())
    there = {row.path: row for row in api.list_repo_tree(repo, recursive=True, revision=parent) if hasattr(row, "lfs")}
    new = tuple(path for path in files if path not in there)
    same = tuple(path for path, data in files.items() if path in there and _is_same(there[path], data))
    return Difference(parent, new, tuple(path for path in files if path not in (*new, *same)), same)


def compare(address: Address, files: Mapping[str, bytes | Path]) -> Difference:
    """The changes that :func:`push` would make; nothing is written. Raises the errors of :func:`fmbench.storage.hub_client.explain`."""
    from huggingface_hub import HfApi

    with talking(str(address)):
        return difference(HfApi(endpoint=endpoint(), **LIBRARY), address.repo, files)


def push(address: Address, made: Content, *, private: bool = False, create_pr: bool = False) -> Pushed:
    """Update a repository to these files, by one commit or none; it is created where there is none.

    With ``create_pr`` the commit is proposed in a pull request, and an open one with the same content is found again. Raises ValueError for
    ``private`` and a repository that is public, and in one line what the client raises; nothing is left half-done.
    """
    from huggingface_hub import HfApi

    with talking(str(address), writing=True):
        api = HfApi(endpoint=endpoint(), **LIBRARY)
        api.create_repo(address.repo, private=private or None, exist_ok=True)
        is_public = private and api.model_info(address.repo).private is False
    if is_public:
        raise ValueError(f"{address} is there and public; make it private in its settings, or leave --private out")
    with talking(str(address), writing=True):
        left = difference(api, address.repo, made.files)
        if not left.rest:
            return Pushed(f"hf:{address.repo}@{left.parent}", None, ())
        if create_pr and (open_one := _proposed(api, address.repo, made)):
            return open_one
        return _commit(api, address.repo, made, left, create_pr)


def _commit(api: Any, repo: str, made: Content, left: Difference, create_pr: bool) -> Pushed:
    """Make the commit; where the response is lost, the repository is read to see whether it was made."""
    from huggingface_hub import CommitOperationAdd
    from huggingface_hub.errors import HfHubHTTPError

    operations = [CommitOperationAdd(path, made.files[path]) for path in left.rest]
    try:
        done = api.create_commit(
            repo, operations, commit_message=made.message, parent_commit=left.parent, create_pr=create_pr
        )
    except HfHubHTTPError:
        raise
    except Exception:
        again = _proposed(api, repo, made) if create_pr else None
        now = difference(api, repo, made.files)
        if again is None and (create_pr or now.rest):
            raise
        return again or Pushed(f"hf:{repo}@{now.parent}", None, left.rest)
    return Pushed(f"hf:{repo}@{done.oid}", done.pr_url, left.rest)


def _proposed(api: Any, repo: str, made: Content) -> Pushed | None:
    """An open pull request that brings exactly these files, None where there is none."""
    for one in api.get_repo_discussions(repo, discussion_type="pull_request", discussion_status="open"):
        if one.is_pull_request and one.title == made.message:
            there = difference(api, repo, made.files, one.git_reference)
            if not there.rest:
                return Pushed(f"hf:{repo}@{there.parent}", one.url, ())
    return None
