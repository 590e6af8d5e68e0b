"""What the README says of the committed results, held against them: a statement that stops being true, or that is reworded, fails here."""

import re
from pathlib import Path

import pytest

import fmbench
from fmbench.report.build import tables_of
from fmbench.report.reading import read_results
from fmbench.report.trainings import joined_trainings

ROOT = Path(fmbench.__file__).parent.parent
FASHION, MNIST, DIGITS = (f"{name}/{name}" for name in ("fashion-mnist", "mnist", "digits"))
CFM = ("cfm", "cfm@1", "cfm@2")
MOONS, EIGHT = "transport-2d/moons-8gaussians", "transport-2d/gaussian-8gaussians"


@pytest.fixture(scope="module")
def results():
    if not (ROOT / "leaderboard" / "results").is_dir():
        pytest.skip("no committed results beside an installed package")
    found = read_results(ROOT / "leaderboard" / "results")
    assert not found.problems
    return found.results


@pytest.fixture(scope="module")
def says():
    text = re.sub(r"\s+", " ", (ROOT / "README.md").read_text())

    def held(statement):
        assert statement in text, f"the README no longer says: {statement}"

    return held


@pytest.fixture(scope="module")
def entry(results):
    return {f"{r.benchmark['name']}/{r.model['name']}": r for r in results}


@pytest.fixture(scope="module")
def value(entry):
    """Value of a metric at some steps, or of a flow."""

    def found(place, name, metric, steps=None, guidance=1.0):
        result = entry[f"{place}/{name}"]
        if metric in result.flow:
            return result.flow[metric].value
        rows = [r for r in result.rows if r.solver == "none" or (r.steps, r.guidance) == (steps, guidance)]
        return rows[0].metrics[metric].value

    return found


@pytest.fixture(scope="module")
def mean(results):
    """Estimate of a metric at some steps over all trainings of an entry, as the tables show it."""

    def found(place, name, metric, steps):
        chosen = [r for r in results if f"{r.benchmark['name']}/{r.task['name']}" == place]
        (one,) = (r for r in joined_trainings(chosen) if r.entry == name)
        return next(r for r in one.rows if (r.steps, r.guidance) == (steps, 1.0)).metrics[metric]

    return found


@pytest.fixture(scope="module")
def flow(results):
    """Mean over all trainings of an entry of a metric of the flow."""

    def found(place, name, metric):
        chosen = [r for r in results if f"{r.benchmark['name']}/{r.task['name']}" == place]
        return next(r for r in joined_trainings(chosen) if r.entry == name).flow[metric].value

    return found


@pytest.fixture(scope="module")
def ranks(results):
    """(benchmark/task) -> {entry: lowest and highest rank}."""
    tables = tables_of(results, ROOT / "leaderboard").values()
    return {f"{t.key.benchmark}/{t.key.task}": {row.entry: row.rank for row in t.rows if row.rank} for t in tables}


def test_only_w_cfm_is_separated_on_eight_gaussians(says, ranks):
    says("separates `w-cfm` from the seven other methods and these in no pair")
    others = ("cfm", "fm", "rf-1", "rf-2", "rf-3", "rf-distill", "ot-cfm")
    assert ranks[EIGHT]["w-cfm"] == (8, 8)
    assert {ranks[EIGHT][name] for name in others} == {(1, 7)}


def test_one_step_without_a_teacher_beats_eight_of_cfm(says, value):
    says(
        "one step of `shortcut`, `split-meanflow` or `imf` is better than eight of `cfm`, but `imf` and `meanflow` lose"
    )
    eight = value(EIGHT, "cfm", "wasserstein2", 8)
    assert max(value(EIGHT, n, "wasserstein2", 1) for n in ("shortcut", "split-meanflow", "imf")) < eight
    for name in ("imf", "meanflow"):
        assert value(EIGHT, name, "wasserstein2", 100) > value(EIGHT, "w-cfm", "wasserstein2", 100)


def test_one_objective_from_one_seed_is_one_row(says, ranks):
    says("on digits and the mixtures they are one entry with three names (`cfm = fm = rf-1`)")
    for place in (DIGITS, *(f"transport-2d/mixture-{d}d" for d in (2, 16, 64))):
        assert "cfm = fm = rf-1" in ranks[place]


def test_reflow_straightens_and_keeps_a_monge_gap(says, flow):
    says("(S from 64 to 0.06) but keeps a Monge gap of 6.5 of the 7.3 that `rf-1` had")
    assert round(flow(MOONS, "rf-1", "straightness")) == 64
    assert round(flow(MOONS, "rf-3", "straightness"), 2) == 0.06
    assert round(flow(MOONS, "rf-3", "monge_gap"), 1) == 6.5
    assert round(flow(MOONS, "rf-1", "monge_gap"), 1) == 7.3


def test_w_cfm_has_the_highest_w2(says, mean):
    says("tilted marginals, visible as the highest W2 of the methods")
    names = ("cfm", "fm", "rf-1", "rf-2", "rf-3", "ot-cfm", "w-cfm")
    w2 = {n: mean(EIGHT, n, "wasserstein2", 100).value for n in names}
    assert max(w2, key=w2.__getitem__) == "w-cfm"


def test_shrunken_clouds_are_rewarded_in_64_dimensions(says, value):
    says("two-step `cfm` scores below real data there")
    place = "transport-2d/mixture-64d"
    assert value(place, "cfm", "wasserstein2", 2) < value(place, "data", "wasserstein2")


def test_minibatch_transport_straightens_on_fashion_mnist(says, value):
    says("straightens the paths (S 39 against 65): `ot-cfm` leads at 16 steps")
    assert round(value(FASHION, "ot-cfm", "straightness")) == 39
    assert round(value(FASHION, "cfm", "straightness")) == 65


def test_ot_cfm_leads_on_images(says, ranks):
    says("`ot-cfm` leads again, with `rf-2` behind it (1 and 2 of the networks)")
    assert ranks[FASHION]["ot-cfm"] == ranks[DIGITS]["ot-cfm"] == (1, 1)
    assert (ranks[MNIST]["ot-cfm"], ranks[MNIST]["rf-2"]) == ((1, 1), (2, 2))


def test_one_step_of_reflow_beats_eight_of_cfm(says, value, mean):
    says("takes S below 4, so that one step of `rf-distill` or `rf-2` beats eight of `cfm`")
    says("and lies within the interval of `cfm` at 16")
    assert value(FASHION, "rf-2", "straightness") < 4
    eight = mean(FASHION, "cfm", "frechet_distance", 8).ci[0]
    assert max(value(FASHION, name, "frechet_distance", 1) for name in ("rf-distill", "rf-2")) < eight
    low, high = mean(FASHION, "cfm", "frechet_distance", 16).ci
    assert low < value(FASHION, "rf-2", "frechet_distance", 16) < high


def test_three_trainings_of_one_method_differ(says, value, mean, entry, ranks):
    says("are one row, the mean of three trainings (`cfm`, `cfm@1`, `cfm@2`). At 16 steps these are 0.2 apart")
    says("the interval of their mean is more than twice as wide as that of each")
    says("`ot-cfm` lies farther from all three trainings of `cfm`")
    found = [value(FASHION, name, "frechet_distance", 16) for name in CFM]
    assert round(max(found) - min(found), 1) == 0.2
    assert min(found) - value(FASHION, "ot-cfm", "frechet_distance", 16) > max(found) - min(found)
    each = [next(r for r in entry[f"{FASHION}/{n}"].rows if r.steps == 16 and r.guidance == 1) for n in CFM]
    widths = [row.metrics["frechet_distance"].ci[1] - row.metrics["frechet_distance"].ci[0] for row in each]
    low, high = mean(FASHION, "cfm", "frechet_distance", 16).ci
    assert high - low > 2 * max(widths)
    assert "cfm = fm = rf-1" in ranks[FASHION]


def test_nobody_without_labels_is_close_to_real_images(says, value):
    says("precision 0.7 against 0.92 and C_T scores of 33 and more")
    names = (*CFM, "rf-2", "ot-cfm", "w-cfm")
    assert round(max(value(FASHION, n, "precision", 16) for n in names), 1) == 0.7
    assert round(value(FASHION, "data", "precision"), 2) == 0.92
    assert min(value(FASHION, n, "ct_score", 16) for n in names) > 33


def test_labels_help_cfm_and_hurt_ot_cfm(says, mean):
    says("(`cfm-cond`, FD @16 from 1.6 to 0.7) and hurt `ot-cfm` (from 1.2 to 1.9)")
    pairs = [("cfm", "1.6"), ("cfm-cond", "0.7"), ("ot-cfm", "1.2"), ("ot-cfm-cond", "1.9")]
    assert [(n, f"{mean(FASHION, n, 'frechet_distance', 16).value:.1f}") for n, _ in pairs] == pairs


def test_guidance_overshoots(says, value):
    says("IS above that of real images, recall from 0.89 to 0.62, C_T below zero")
    assert value(FASHION, "cfm-cond", "inception_score", 16, 2.0) > value(FASHION, "data", "inception_score")
    recall = [value(FASHION, "cfm-cond", "recall", 16, g) for g in (1.0, 2.0)]
    assert [round(r, 2) for r in recall] == [0.89, 0.62]
    assert value(FASHION, "cfm-cond", "ct_score", 16, 2.0) < 0


def test_the_teacher_s_truncation_error_is_larger(says, value):
    says("here `rf-2` beats the teacher it copies, `cfm`, even at 16 steps")
    says("still 0.10 per pixel there, that of `rf-2` 0.04")
    assert round(value(MNIST, "cfm", "truncation_gap", 16), 2) == 0.10
    assert round(value(MNIST, "rf-2", "truncation_gap", 16), 2) == 0.04
    assert value(MNIST, "rf-2", "frechet_distance", 16) < value(MNIST, "cfm", "frechet_distance", 16)
