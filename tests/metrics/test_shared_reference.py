"""What depends on the reference alone: computed once for all that is compared with it, and the same numbers as on its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fmbench.metrics import frechet, inception_score, kernel, memorisation, mmd, prdc, sliced
from fmbench.metrics.evidence import Evidence, of_samples
from fmbench.metrics.reference import Reference
from fmbench.records.result import Estimate

Measure = Callable[[Evidence], Estimate]
REAL = np.random.default_rng(0).normal(size=(150, 3))
HELDOUT = np.random.default_rng(1).normal(size=(80, 3))
# Metric, and the function whose work for the reference is shared: (module, name, calls for two sets of samples).
SHARED: dict[str, tuple[Measure, Any, str, int]] = {
    "mmd": (mmd.measure, mmd, "self_row_sums", 3),
    "bandwidth": (mmd.measure, mmd, "reference_bandwidth", 1),
    "kernel": (kernel.measure, mmd, "self_row_sums", 3),
    "frechet": (frechet.measure, frechet, "covariance_factor", 3),
    "sliced": (sliced.measure, sliced, "projections_of", 1),
    "precision": (prdc.precision, prdc, "reach_of", 3),
    "authenticity": (memorisation.measure, memorisation, "own_distances", 1),
    "ct": (memorisation.measure_ct, memorisation.Cells, "of", 1),
}


def samples(seed: int) -> np.ndarray:
    return np.random.default_rng(10 + seed).normal(size=(120, 3)) + 0.2 * seed


def evidence(seed: int, reference: Reference, only_seed: bool = False) -> Evidence:
    own = samples(seed)
    return of_samples(own, reference, features=lambda x: x, only_seed=only_seed, heldout=HELDOUT, logits=3 * own)


def fresh() -> Reference:
    return Reference(lambda: REAL, lambda: "", lambda: REAL)


@pytest.mark.parametrize("name", SHARED)
def test_two_sets_of_samples_share_the_work_for_their_reference(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    measure, module, function, expected = SHARED[name]
    alone = [measure(evidence(seed, fresh())) for seed in (0, 1)]
    calls, original = [], getattr(module, function)

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(function)
        return original(*args, **kwargs)

    monkeypatch.setattr(module, function, counted)
    reference = fresh()
    together = [measure(evidence(seed, reference)) for seed in (0, 1)]
    assert len(calls) == expected
    assert together == alone
    assert alone[0].value != alone[1].value


@pytest.mark.parametrize(
    "measure",
    [mmd.measure, kernel.measure, frechet.measure, frechet.measure_infinity, inception_score.measure, sliced.measure],
)
def test_an_interval_that_other_seeds_replace_is_not_computed(measure: Measure) -> None:
    only, several = (measure(evidence(0, fresh(), only_seed=alone)) for alone in (True, False))
    assert only.ci is not None
    assert several.ci is None
    assert several.value == only.value
