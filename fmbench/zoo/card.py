"""The model card of an entry, for its folder and for its repository on the Hub."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fmbench.flows.flow import Flow
from fmbench.records.metric import METRICS
from fmbench.records.protocol import read as read_protocol
from fmbench.records.recipe import Recipe
from fmbench.records.result import Estimate, Result
from fmbench.registry import NETS
from fmbench.storage.bundled import list_benchmarks
from fmbench.tasks.base import Task
from fmbench.zoo.building import parameters_in

STEPS = 32
"""Euler steps of the pictures."""
GUIDANCE, PER_CLASS = 2.0, 10
"""The picture of a conditional entry: guidance scale and images of every class."""
PIPELINES = {"image": "unconditional-image-generation"}
"""The Hub's pipeline tag by kind of task; it has none for vectors."""
COLUMNS = 4
"""Metrics in the results table of a card."""
ALT = {
    "samples.png": "The first 64 samples of seed 0, not chosen",
    "classes.png": f"A row per class, the first samples of seed 0, guidance {GUIDANCE:g}",
    "trajectory.png": "Five samples from noise (left) to image (right), nine equally spaced times",
}


def _network(recipe: Recipe, method: Flow) -> str:
    """The network that was built: the recipe's, with its settings, or another by the name of its class."""
    net = type(method.net)
    if recipe.net and net is NETS.resolve(recipe.net["name"]):
        return ", ".join(f"{k} {v}" for k, v in recipe.net.items())
    return f"{net.__name__}, built by the method"


def card(recipe: Recipe, method: Flow, entry: str, pictures: Sequence[str] = ()) -> str:
    """The model card as text: YAML metadata, use and limits; ``pictures`` are keys of :data:`ALT`.

    ``method`` is the loaded one: the card describes what was built.
    """
    from huggingface_hub import ModelCardData

    assert recipe.weights is not None
    metadata = ModelCardData(
        license=recipe.license,
        library_name="fmbench",
        tags=["flow-matching", "generative", recipe.task, recipe.method["name"].rpartition(":")[2]],
    )
    name = f"{recipe.task}/{entry}"
    use = "" if recipe.division == "tool" else _use(name, method, "classes.png" in pictures)
    return f"""---
{metadata.to_yaml()}
---
# {name}

{_title(method)}. An entry of the fmbench zoo, made by `fmbench train` from the `recipe.toml` beside this file;
measured results are on the leaderboard, not here.
{use}{_shown(pictures)}
{_details(recipe, method)}
"""


def _title(method: Flow) -> str:
    """The summary of the method's class, and the paper."""
    kind = type(method)
    return kind.summary[:1].upper() + kind.summary[1:] + (f" ({kind.reference})" if kind.reference else "")


def _use(name: str, method: Flow, guided: bool) -> str:
    """Three lines that sample."""
    budget = "" if method.default.steps == 1 else f', solver="euler", steps={STEPS}'
    guidance = f", guidance={GUIDANCE}" if guided else ""
    return f"""
```python
import fmbench
model = fmbench.load("{name}")
x = model.sample(64, seed=0{budget}{guidance})
```
"""


def _shown(pictures: Sequence[str]) -> str:
    return "".join(f"\n![{ALT[name]}]({name})\n" for name in pictures)


def _details(recipe: Recipe, method: Flow) -> str:
    """The list of training settings and hashes."""
    assert recipe.weights is not None
    settings = ", ".join(f"{k} {v}" for k, v in recipe.method.items() if k != "name") or "defaults"
    before = f", trained on {seen:,} samples before" if (seen := recipe.made.get("teacher_samples_seen")) else ""
    teacher = f"\n- teacher: `{recipe.teacher}` (initial weights and targets{before})" if recipe.teacher else ""
    figures = "".join(
        f"\n- {k.replace('_', ' ')}: {v}" for k, v in recipe.made.items() if isinstance(v, float) and k != "seconds"
    )
    total = recipe.train.steps * recipe.train.batch_size
    seen = f"{recipe.train.steps:,} steps of {recipe.train.batch_size} = {total:,} samples seen"
    made = recipe.made
    spent = f", {made['seconds']} s on {made['device']}" if {"seconds", "device"} <= set(made) else ""
    return f"""- task: `{recipe.task}`, division: {recipe.division}{", class-conditional" if recipe.conditional else ""}
- method: `{recipe.method["name"]}` ({settings})
- network: {_network(recipe, method)}; {parameters_in(method):,} parameters, stored as {recipe.train.storage}
- training: {seen}{spent}{teacher}
- weights: `{recipe.weights.file}`, SHA-256 `{recipe.weights.sha256}`{figures}{_trainings(recipe)}"""


def _trainings(recipe: Recipe) -> str:
    """The line on further trainings; nothing where there are none."""
    if not recipe.replicates:
        return ""
    seeds = ", ".join(str(one.seed) for one in recipe.replicates)
    return f"\n- trainings: {recipe.trainings}, with seed {recipe.train.seed} (above) and {seeds}; `@1` after the name loads the second"


def hub_card(
    repo: str, recipe: Recipe, method: Flow, task: Task, pictures: Sequence[str] = (), results: Sequence[Result] = ()
) -> str:
    """The card of a repository: metadata by which the Hub files it, use, pictures, results with their intervals, limits.

    ``repo`` is ``owner/name``, ``method`` the loaded model, ``results`` those of these weights. There is no ``base_model``, also where a
    teacher was: the Hub's leaderboards hide such entries.
    """
    from huggingface_hub import ModelCardData

    name, paper = f"hf:{repo}", re.search(r"arXiv:(\d{4}\.\d{4,5})", type(method).reference or "")
    tags = ["flow-matching", "generative", recipe.task, recipe.method["name"].rpartition(":")[2], recipe.division]
    source = dataset_of(task)
    metadata = ModelCardData(
        license=recipe.license,
        library_name="fmbench",
        pipeline_tag=PIPELINES.get(task.kind),
        datasets=[source] if source else None,
        tags=[*tags, *([f"arxiv:{paper[1]}"] if paper else [])],
    )
    tables = "".join(f"\n{_results_table(result, task)}" for result in results)
    return f"""---
{metadata.to_yaml()}
---
# {repo.partition("/")[2]}

{_title(method)}. An entry of fmbench, `pip install flow-matching-bench`: the `recipe.toml` beside this file determines the weights and
pins them by their SHA-256. `fmbench pin {name}` prints the address that names these very bytes.
{_use(name, method, "classes.png" in pictures)}{_shown(pictures)}
## Results
{tables or f"{chr(10)}None were published with it; `fmbench run BENCHMARK -m {name}` measures them.{chr(10)}"}
## Limits

- It makes points like those of `{recipe.task}` ({task.summary}), and nothing else.
- Numbers compare with those of the same benchmark and version only; they are of one trained network, not of a method.
- Weights are stored as {recipe.train.storage}; samples of other machines differ in their last bits.

## Details

{_details(recipe, method)}
"""


def dataset_of(task: Task) -> str | None:
    """``owner/name`` of the Hub's dataset that a task uses, None for others."""
    dataset = getattr(task.target, "dataset", None)
    return None if dataset is None else str(dataset.repo)


def primary_metric(result: Result, task: Task) -> str | None:
    """The metric that a result's benchmark ranks its task by; of a benchmark that is not bundled, the first that was measured."""
    bench = result.benchmark["name"]
    rank = read_protocol(bench).rank if bench in list_benchmarks() else {}
    measured = [name for row in result.rows for name, estimate in row.metrics.items() if estimate.value is not None]
    chosen = rank.get(task.name, rank.get(task.kind))
    return chosen if chosen in measured else next(iter(measured), None)


def interval(estimate: Estimate) -> str:
    """A value with its 95 % interval, as a table of a card shows it."""
    if estimate.value is None:
        return "-"
    bounds = "" if estimate.ci is None else f" [{estimate.ci[0]:.4g}, {estimate.ci[1]:.4g}]"
    return f"{estimate.value:.4g}{bounds}"


def _results_table(result: Result, task: Task) -> str:
    """A table in Markdown, a row for each sampler: NFE, and the first metrics with their intervals."""
    first = primary_metric(result, task)
    measured = {name: None for row in result.rows for name, e in row.metrics.items() if e.value is not None}
    ordered = sorted(measured, key=lambda name: name != first)
    names = [name for name in ordered if name in METRICS and METRICS[name].column][:COLUMNS]
    heads = ["sampler", "NFE", *(f"{METRICS[name].label} ({METRICS[name].better})" for name in names)]
    lines = [heads, [":---", "---:", *("---:" for _ in names)]]
    for row in result.rows:
        cells = [interval(row.metrics[n]) if n in row.metrics else "-" for n in names]
        lines.append([row.sampler.label, f"{row.total_nfe:g}", *cells])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    bench, kind = result.benchmark, "ranked" if result.ranked else "not ranked"
    drawn = f"{result.samples_per_seed:,} samples for each of {len(result.seeds)} seeds"
    return (
        f"Benchmark `{bench['name']}` version {bench['version']}, status {result.status}, {kind}: {drawn}, 95 % intervals; "
        f"[all numbers](results/{bench['name']}.json).\n\n{table}\n"
    )
