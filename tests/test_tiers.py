"""Core metrics are measured in every run, extended ones where they are asked for or have been before; a limit shrinks what is fixed."""

import pytest

import fmbench
from fmbench.evaluation.options import Options
from fmbench.records import protocol
from fmbench.records.metric import METRICS, Metric

PROTOCOL = """
name = "tiers"
version = 1
summary = "core and extended metrics of both scopes"
tasks = ["gaussian-moons"]
samples = 400
seeds = [0]
samplers = [{ solver = "euler", steps = 1 }, { solver = "euler", steps = 2 }]
metrics = ["sliced_wasserstein2", "sinkhorn_divergence", "straightness", "crossing", "lipschitz"]

[flow]
samples = 200
steps = 4
probes = 40
probe_steps = 4

[latency]
batches = [1]
seconds = 0.0

[rank]
vector = "%s"
image = "frechet_distance"
steps = 2
"""


@pytest.fixture
def tiers(tmp_path):
    path = tmp_path / "tiers.toml"
    path.write_text(PROTOCOL % "sliced_wasserstein2")
    return path


def measured(protocol_file, out, **options):
    _, model = fmbench.evaluate("gaussian-moons/cfm", protocol_file, out=out, device="cpu", **options)
    return {name for row in model.rows for name in row.metrics} | set(model.flow), model


def test_extended_metrics_wait_until_they_are_asked_for_and_then_stay(tiers, tmp_path, monkeypatch):
    out = tmp_path / "runs"
    few, core = measured(tiers, out)
    assert few == {"sliced_wasserstein2", "straightness"}
    every, all_of_it = measured(tiers, out, extended=True)
    assert every == {"sliced_wasserstein2", "sinkhorn_divergence", "straightness", "crossing", "lipschitz"}
    # What there was is not measured again: it still says that it was measured in the first run.
    for one, other in zip(core.rows, all_of_it.rows, strict=True):
        assert one.metrics["sliced_wasserstein2"] == other.metrics["sliced_wasserstein2"]
        assert other.metrics["sinkhorn_divergence"].run != other.metrics["sliced_wasserstein2"].run
    assert all_of_it.flow["crossing"].run != all_of_it.flow["straightness"].run

    def nothing(*_, **__):
        raise AssertionError("measured again")

    monkeypatch.setattr("fmbench.evaluation.filling.Filling.filled", nothing)
    assert measured(tiers, out) == (every, all_of_it)


@pytest.mark.slow
def test_without_a_folder_the_option_alone_decides(tiers):
    assert len(measured(tiers, None)[0]) == 2
    assert len(measured(tiers, None, extended=True)[0]) == 5


@pytest.mark.slow
def test_what_a_benchmark_ranks_by_is_always_measured(tmp_path):
    path = tmp_path / "tiers.toml"
    path.write_text(PROTOCOL % "sinkhorn_divergence")
    assert measured(path, None)[0] == {"sliced_wasserstein2", "sinkhorn_divergence", "straightness"}


@pytest.mark.parametrize(
    ("limit", "samples", "probes"),
    [(None, 200, 40), (400, 200, 40), (200, 100, 20), (100, 64, 16), (70, 64, 16), (20, 20, 16), (8, 8, 8)],
)
def test_a_limit_shrinks_the_reference_solve_and_the_probes_in_proportion(limit, samples, probes, tiers):
    flow = Options(limit=limit).flow(protocol.read(tiers))
    assert (flow["samples"], flow["probes"], flow["steps"], flow["probe_steps"]) == (samples, probes, 4, 4)


def test_no_column_of_a_bundled_table_is_extended():
    from fmbench.storage.bundled import list_benchmarks

    wanted = {name for benchmark in list_benchmarks() for name in protocol.read(benchmark).metrics}
    assert not {name for name in wanted if METRICS[name].tier == "extended" and METRICS[name].column}


def test_an_unknown_tier_is_refused():
    with pytest.raises(ValueError, match="tier must be one of core, extended, got 'best'"):
        Metric("x", "", "lower", "samples", (), "none", "text", "a:b", tier="best")
