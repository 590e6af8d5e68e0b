import numpy as np
import pytest

from fmbench.metrics.evidence import of_samples
from fmbench.metrics.sliced import JACKKNIFE_PROJECTIONS, measure
from fmbench.statistics.intervals import jackknife_estimate
from fmbench.transport.sliced import sliced_wasserstein2


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.slow
def test_jackknife_interval_has_the_width_of_repeated_experiments() -> None:
    y = rng(1).normal(size=(400, 2)) + 1.0
    estimates = [measure(of_samples(rng(s).normal(size=(300, 2)), y, sha256="abc")) for s in range(10, 50)]
    values = np.array([e.value for e in estimates])
    halves = np.array([(e.ci[1] - e.ci[0]) / 2 for e in estimates])
    assert halves.mean() / 1.96 == pytest.approx(values.std(ddof=1), rel=0.3)
    assert estimates[0].value == sliced_wasserstein2(rng(10).normal(size=(300, 2)), y)
    assert (estimates[0].n, estimates[0].details["reference_n"], estimates[0].details["projections"]) == (300, 400, 512)


def test_jackknife_on_sorted_projections_is_the_plain_jackknife() -> None:
    x, y = rng().normal(size=(45, 3)), rng(1).normal(size=(30, 3)) + 1.0
    fast = measure(of_samples(x, y, sha256="abc")).ci
    plain = jackknife_estimate(lambda kept: sliced_wasserstein2(x[kept], y, JACKKNIFE_PROJECTIONS), 45).ci
    assert fast is not None
    assert plain is not None
    assert fast[1] - fast[0] == pytest.approx(plain[1] - plain[0], rel=1e-10)


def test_no_interval_from_too_few_samples_and_none_below_zero() -> None:
    x = rng().normal(size=(3, 2))
    assert measure(of_samples(x, x, sha256="abc")).ci is None
    same = measure(of_samples(rng().normal(size=(40, 2)), rng(1).normal(size=(40, 2)), sha256="abc"))
    assert same.ci is not None
    assert same.ci[0] >= 0.0
