import numpy as np

from fmbench.metrics.evidence import of_samples
from fmbench.metrics.wasserstein import measure
from fmbench.transport.exact import wasserstein2


def test_measure_reports_the_distance_to_the_reference() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 120, 2))
    estimate = measure(of_samples(x, y[:100], sha256="abc", only_seed=False))
    assert estimate.value == wasserstein2(x, y[:100])
    assert (estimate.ci, estimate.n) == (None, 120)
    assert estimate.details == {"reference_sha256": "abc", "reference_n": 100}
