"""Evidence: made once and when asked, never changed by a metric, and the reasons why something is not measured are true."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from fmbench.evaluation.references import References
from fmbench.evaluation.scoring import Scorer, attempt
from fmbench.flows.flow import CAPABILITIES
from fmbench.metrics.evidence import Evidence, of_flow, of_samples
from fmbench.metrics.flow import reference_solve
from fmbench.metrics.reference import Lacking, Part, Reference
from fmbench.records import needs
from fmbench.records.metric import BUILT_IN, Metric
from fmbench.records.result import Estimate
from fmbench.registry import TASKS

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(160, 2)), RNG.normal(size=(150, 2))


def metric(measure, *wanted: str, scope: str = "samples") -> Metric:
    return Metric("own", "", "lower", scope, wanted, "none", "For tests.", measure)


@pytest.fixture
def plugged(monkeypatch):
    """``plugged(measure, *needs)``: the estimate of a metric of a plug-in, as the harness makes it."""

    def plug(measure, *wanted, evidences, scope="samples"):
        monkeypatch.setattr("fmbench.evaluation.scoring.METRICS", {"own": metric(measure, *wanted, scope=scope)})
        return attempt("own", evidences)

    return plug


# -- made once, when asked --------------------------------------------------------------------------------------------


def test_a_part_is_made_once_and_only_when_asked_and_so_is_its_failure():
    made = []

    def make():
        made.append(1)
        raise RuntimeError("no memory")

    evidence = Evidence({"samples": Part(make)})
    assert evidence.has("samples") and not made
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no memory"):
            _ = evidence.samples
    assert made == [1]


def test_what_depends_on_the_reference_alone_is_made_once_for_every_seed_and_entry():
    task, made = TASKS.resolve("digits")(), []
    held = References()
    for seed, _ in itertools.product((0, 1), range(3)):
        reference = held.of(task, task.distinct((0, seed))[-1], 64, None)
        reference.once("sum", lambda of=reference: made.append(1) or of.points.sum())
    assert made == [1]


def test_references_of_seeds_sizes_and_tasks_are_kept_apart():
    moons, gaussians = (TASKS.resolve(name)() for name in ("gaussian-moons", "gaussian-8gaussians"))
    held = References()
    one = held.of(moons, 0, 64, None)
    assert held.of(moons, 0, 64, None) is one
    others = [held.of(moons, 1, 64, None), held.of(moons, 0, 65, None), held.of(gaussians, 0, 64, None)]
    hashes = {reference.sha256 for reference in (one, *others)}
    assert len(hashes) == 4
    # The next task takes the place of the last.
    assert len(held.held) == 1
    assert held.of(moons, 0, 64, None).sha256 == one.sha256


@pytest.mark.slow
def test_a_shared_reference_changes_no_number():
    task = TASKS.resolve("gaussian-moons")()
    x = task.target.sample(80, torch.Generator().manual_seed(1))
    names = ("mmd", "sliced_wasserstein2", "wasserstein2", "c2st")
    scorers = [Scorer(task, names, (0, 1), 80) for _ in range(2)]
    one, two = (s.score([s.evidence(x, seed) for seed in (0, 1)]) for s in scorers)
    assert one == two


# -- nothing is changed for the next ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spoil",
    [
        lambda e: e.samples.__setitem__(0, 9.0),
        lambda e: e.reference.__imul__(2),
        lambda e: e.features.sort(),
        lambda e: e.reference_features.fill(0),
        lambda e: e.compared[0].__iadd__(1),
        lambda e: e.real.once("own", lambda: np.zeros(3)).__setitem__(0, 1),
    ],
)
def test_no_metric_changes_the_samples_for_the_next(spoil, plugged):
    evidence = of_samples(X.copy(), Y.copy(), features=lambda a: a.copy())
    before = attempt("mmd", [evidence])

    def measure(evidence):
        spoil(evidence)
        return Estimate(0.0, n=1)

    found = plugged(measure, evidences=[evidence])
    assert found.value is None and "read-only" in found.reason
    fresh = of_samples(X, Y, features=lambda a: a.copy())
    assert BUILT_IN["mmd"].resolve()(evidence) == BUILT_IN["mmd"].resolve()(fresh) == before


def test_no_metric_changes_the_points_of_a_flow_for_the_next():
    solve = reference_solve(lambda x, t: x, torch.ones(4, 2), 4)
    evidence = of_flow(lambda x, t: x, torch.ones(4, 2), 4, solve)
    for points in (evidence.x0, evidence.data, evidence.trajectories.stop, evidence.trajectories.start):
        points.mul_(0)
    assert evidence.x0.sum() == evidence.data.sum() == evidence.trajectories.start.sum() == 8
    assert torch.equal(evidence.trajectories.stop, solve.stop) and bool(solve.stop.all())
    with pytest.raises(ValueError, match="read-only"):
        evidence.cost[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        evidence.trajectories.energy[0] = 1


# -- needs and reasons ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_metric_looks_at_nothing_that_it_does_not_name(name):
    """With nothing but its needs every metric gives a number: an undeclared look would be Lacking."""
    points = torch.from_numpy(X).float()
    solve = reference_solve(lambda x, t: 0.1 * x, points, 4)
    levels = torch.randint(0, 3, (160, 2), generator=torch.Generator().manual_seed(0)).float() - 1
    field = lambda x, t: 0.1 * x  # noqa: E731
    normal = lambda x: -0.5 * x.square().flatten(1).sum(dim=1)  # noqa: E731
    mixture = TASKS.resolve("gaussian-8gaussians")().target
    there = {
        "features": {"features": X, "extract": lambda a: a, "extractor": {"name": "id", "sha256": "0" * 64}},
        "logits": {"logits": X, "extractor": {"name": "id", "sha256": "0" * 64}},
        "endpoints": {"endpoints": X + 0.1},
        "heldout": {"heldout": Y + 0.01},
        "mixture": {"mixture": mixture},
        "velocity": {"velocity": field, "x0": points, "trajectories": solve, "cost": solve.cost, "steps": 4},
        "oracle": {"oracle": lambda x, t: 0.2 * x},
        "w2_squared": {"w2_squared": (1.0, 0.0)},
        "density": {"data_velocity": field, "data": levels, "steps": 4},
        "source_density": {"source_density": normal},
        "levels": {"levels": 3},
    }
    wanted = {option for need in BUILT_IN[name].needs for option in needs.alternatives(need)} - {
        "exact_density",
        "flow_map",
    }
    parts = {key: part for need in wanted & set(there) for key, part in there[need].items()}
    features = (lambda: Y) if "features" in wanted else None
    real = Reference(lambda: Y, lambda: "0" * 64, features) if {"reference", "features"} & wanted else None
    own = {"samples": X} if BUILT_IN[name].scope == "samples" else {}
    evidence = Evidence({**own, **parts}, wanted - set(there) | (wanted & {"density"}), real)
    assert evidence.lacks(BUILT_IN[name].needs) is None
    assert attempt(name, [evidence]).value is not None, attempt(name, [evidence]).reason


@pytest.mark.parametrize("name", BUILT_IN)
def test_without_any_of_its_needs_a_metric_is_null_with_a_generated_reason(name):
    everything = {option for need in BUILT_IN[name].needs for option in needs.alternatives(need)}
    for need in BUILT_IN[name].needs:
        gone = needs.alternatives(need)
        if "reference" in gone:
            continue
        rest = everything - set(gone)
        evidence = Evidence({}, rest, Reference(lambda: Y, lambda: ""))
        assert attempt(name, [evidence]).reason == needs.reason(need)


def test_a_look_that_was_not_announced_gives_the_same_reason(plugged):
    silent = plugged(lambda e: Estimate(float(e.w2_squared[0]), n=1), evidences=[of_samples(X, Y)])
    said = plugged(lambda e: Estimate(float(e.w2_squared[0]), n=1), "w2_squared", evidences=[of_samples(X, Y)])
    assert silent.reason == said.reason == "needs W2^2 between source and target: it is not known for this task"


def test_a_metric_is_measured_on_the_seeds_that_have_what_it_needs(plugged):
    evidences = [of_samples(X, Y, endpoints=X), of_samples(X, Y), of_samples(X, Y)]
    found = plugged(lambda e: Estimate(float(len(e.endpoints)), n=160), "endpoints", evidences=evidences)
    assert (found.value, found.n) == (160.0, 160)
    assert "starts" not in str(plugged(lambda e: e, "endpoints", evidences=evidences[1:]).reason)


def test_reasons_name_alternatives_and_whose_they_are():
    reason = needs.reason("exact_density|source_density", "this map")
    assert CAPABILITIES["exact_density"] in reason and "this map has none" in reason
    assert "the density of the source" in reason and "not known for this task" in reason
    assert needs.reason("reward_model") == "needs reward model: this task does not provide it"
    with pytest.raises(Lacking, match="needs pmf: this task does not provide it"):
        of_samples(X, Y)["pmf"]


@pytest.mark.parametrize("wanted", ["vector", ("Vector",), ("a b",), (3,), ("a|",), None])
def test_needs_are_names(wanted):
    with pytest.raises(ValueError, match="needs must be a tuple of names"):
        Metric("own", "", "lower", "samples", wanted, "none", "For tests.", print)


@pytest.mark.parametrize(("scope", "need"), [("samples", "velocity"), ("flow", "features"), ("flow", "endpoints")])
def test_needs_that_a_scope_never_has_are_refused(scope, need):
    with pytest.raises(ValueError, match=f"{need} is there for the scope"):
        metric(print, need, scope=scope)


# -- earlier names ----------------------------------------------------------------------------------------------------


def test_kinds_of_tasks_in_the_place_of_needs_still_work():
    with pytest.warns(DeprecationWarning, match="write what it needs"):
        assert metric(print, "vector", "image").needs == ("coordinates",)
    assert metric(print, "image").needs == ("image",)


def test_contexts_by_their_earlier_names_are_evidence():
    with pytest.warns(DeprecationWarning, match=r"fmbench\.metrics\.base is now fmbench\.metrics\.legacy"):
        import fmbench.metrics.base as base
    context = base.SampleContext("vector", 0, X, Y, "hash")
    assert BUILT_IN["mmd"].resolve()(context) == BUILT_IN["mmd"].resolve()(of_samples(X, Y, sha256="hash"))
    with pytest.warns(DeprecationWarning, match="Evidence"):
        from fmbench.metrics.flow import FlowContext
    assert FlowContext is Evidence
