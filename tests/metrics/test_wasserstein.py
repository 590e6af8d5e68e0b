import numpy as np

from fmbench.metrics.base import SampleContext
from fmbench.metrics.wasserstein import measure
from fmbench.transport.exact import wasserstein2


def test_measure_reports_the_distance_to_the_reference() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 120, 2))
    estimate = measure(SampleContext("vector", 0, x, y[:100], "abc", only_seed=False))
    assert estimate.value == wasserstein2(x, y[:100])
    assert (estimate.ci, estimate.n) == (None, 120)
    assert estimate.details == {"reference_sha256": "abc", "reference_n": 100}
