"""Code that was edited: where the witnesses come out again the result is served under the new hash, else it is measured again."""

import numpy as np
import pytest
import torch
from test_filling import ALL, FLOW, NOTHING, ROW, WHOLE, edit, go, place, watch  # noqa: F401 (fixtures)

from fmbench.evaluation.witness import ROWS, TOLERANCE, agree, witness_of
from fmbench.records import result, sidecar

RESULT = "out/results/tiny/gaussian-moons/mine.json"
BLOCKS = 2 * 256
SERVED = ((ALL, [], ALL), BLOCKS)


@pytest.mark.parametrize(
    "body",
    [
        "return -x + 1.0",
        "towards = torch.ones_like(x)\n        return towards - x",
        "return (1.0 - x) * (1 + 1e-6)",
    ],
    ids=["other words", "a variable", "rounding"],
)
def test_a_refactoring_is_served_under_its_own_hash(place, watch, body):  # noqa: F811
    before = go(place)
    watch.look()
    edit(place / "mine.py", "return 1.0 - x", body)
    after = go(place)
    assert watch.look() == SERVED
    assert after.model["code_sha256"] != before.model["code_sha256"]
    assert after.codes == (before.model["code_sha256"],)
    assert [(r.nfe, r.samples, r.metrics, r.mflop) for r in after.rows] == [
        (r.nfe, r.samples, r.metrics, r.mflop) for r in before.rows
    ]
    assert (after.flow, after.retired, after.created) == (before.flow, {}, before.created)
    assert not {row.id for row in before.rows} & {row.id for row in after.rows}
    # As if the new code had been run from the start, and finished.
    assert go(place) == after == result.read(place / RESULT)
    assert watch.look() == NOTHING
    edit(place / "mine.py", body, "return 1.0 - x")
    again = go(place)
    assert (again.model, again.codes) == (before.model, (after.model["code_sha256"],))
    assert watch.look() == SERVED


@pytest.mark.slow
def test_another_field_is_measured_again_before_anything_is_sampled(place, watch):  # noqa: F811
    go(place)
    watch.look()
    edit(place / "mine.py", "return 1.0 - x", "return 1.0 - x * (1 + 1e-3)")
    assert go(place).codes == ()
    assert watch.look() == WHOLE


SAMPLER = """
    def sample(self, draws, sampler, cond=None):
        return super().sample(draws, sampler, cond) + (0.01 if sampler.steps == 4 else 0.0)
"""
TWICE = """
    def sample(self, draws, sampler, cond=None):
        self.net(draws.start(), torch.zeros(len(draws)))
        return super().sample(draws, sampler, cond)
"""


@pytest.mark.slow
@pytest.mark.parametrize("more", [SAMPLER, TWICE], ids=["other samples", "more evaluations"])
def test_another_sampler_of_the_same_field_is_measured_again(place, watch, more):  # noqa: F811
    go(place)
    watch.look()
    edit(place / "mine.py", "        return batch.x0.mean()\n", "        return batch.x0.mean()\n" + more)
    go(place)
    seen, rows = watch.look()
    assert (seen, rows - WHOLE[1]) in [(WHOLE[0], 256), (WHOLE[0], BLOCKS)]


@pytest.mark.slow
def test_a_change_that_shows_in_later_rows_only_is_not_seen(place, watch):  # noqa: F811
    """The stated limit of a witness."""
    go(place)
    watch.look()
    edit(place / "mine.py", "return 1.0 - x", f"return 1.0 - x + 0.1 * (torch.arange(len(x)) >= {ROWS})[:, None]")
    go(place)
    assert watch.look() == SERVED


@pytest.mark.slow
def test_a_result_without_its_sidecar_is_read_and_measured_again_where_a_witness_is_asked_for(place, watch):  # noqa: F811
    first = go(place)
    path = place / RESULT
    (beside,) = path.parent.glob(f"mine.*{sidecar.ENDING}")
    beside.unlink()
    assert go(place) == first
    watch.look()
    edit(place / "mine.py", "return 1.0 - x", "return -x + 1.0")
    with pytest.warns(UserWarning, match="is missing, which holds the raw values and witnesses of mine.json"):
        after = go(place)
    assert watch.look() == WHOLE
    assert after.codes == ()
    assert not result.read(path).without_sidecar


@pytest.mark.slow
def test_numbers_of_another_kind_are_filled_in_meanwhile(place, watch):  # noqa: F811
    """A refactoring and one metric more."""
    go(place)
    watch.look()
    edit(place / "mine.py", "return 1.0 - x", "return -x + 1.0")
    edit(place / "tiny.toml", '"wasserstein2", "tr', '"wasserstein2", "sliced_wasserstein2", "tr')
    after = go(place)
    assert watch.look() == ((ALL, ["sliced_wasserstein2"] * 2, ALL), 1200 + BLOCKS)
    assert [list(row.metrics) for row in after.rows] == [["wasserstein2", "sliced_wasserstein2", "truncation_gap"]] * 2


def test_witnesses_agree_with_rounding_and_with_nothing_else():
    random = torch.Generator().manual_seed(0)
    x = torch.randn((ROWS + 5, 1, 28, 28), generator=random)
    one = witness_of(x)
    assert one is not None
    assert agree(one, one)
    assert agree(one, witness_of(x + 2e-5 * torch.randn(x.shape, generator=random)))
    assert agree(one, witness_of(torch.cat([x[:ROWS], 0 * x[ROWS:]])))
    assert not agree(one, witness_of(x[:ROWS].flip(0)))
    assert not agree(one, witness_of(1.001 * x))
    assert not agree(one, witness_of(x + 1e-3 * torch.randn(x.shape, generator=random)))
    moved = x.clone()
    moved[3, 0, 5, 5] += 0.05
    assert not agree(one, witness_of(moved))
    assert not agree(one, None)
    assert not agree(None, None)
    assert not agree(one, witness_of(x[:4]))
    assert witness_of(x * float("nan")) is None
    assert agree(witness_of(0 * x), witness_of(0 * x))
    assert not agree(witness_of(0 * x), one)


def test_the_projections_are_fixed_for_good():
    """Their signs come from a hash function, not from a generator that a library may change."""
    found = witness_of(torch.arange(32.0).reshape(16, 2) / 7)
    assert found is not None
    assert found.projections[:3] == (3.9901025295257568, 5.303300857543945, -0.25253811478614807)
    assert all(value == float(np.float32(value)) for value in found.projections)
    size = np.sqrt(np.mean(np.square(found.projections)))
    assert 0.5 < size / float(torch.arange(32.0).norm() / 7 / np.sqrt(32)) < 2
    assert 0 < TOLERANCE < 1e-3
