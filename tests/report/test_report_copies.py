"""One row for what is one and the same, whatever it is called."""

import dataclasses

from results_factory import estimate, result, row, simple

from fmbench.report.copies import Candidate, copies, joined
from fmbench.report.judging import judge
from fmbench.report.table import build

ONE, TWO = "1" * 64, "2" * 64


def made(entry, value, weights=None, samples=None, **model):
    rows = [row(8, {"wasserstein2": estimate(value, 0.01)}), row(4, {"wasserstein2": estimate(2 * value, 0.01)})]
    if samples is not None:
        rows = [dataclasses.replace(r, samples={"n": 5000, "sha256": f"{samples[0]}{r.steps:063d}"}) for r in rows]
    return result(entry, tuple(rows), model={"weights_sha256": weights, **model})


def shown(*results):
    (table,) = build(results).values()
    return [(r.entry, r.rank) for r in table.rows]


def test_equal_weights_are_one_row_with_its_other_names():
    found = shown(made("rf-1", 1.0, ONE), made("other", 2.0, TWO), made("cfm", 1.0, ONE), made("fm", 1.0, ONE))
    assert found == [("cfm = fm = rf-1", (1, 1)), ("other", (2, 2))]


def test_equal_samples_are_one_row_whatever_the_weights_are_called():
    assert shown(made("a", 1.0, ONE, "x"), made("b", 1.0, TWO, "x")) == [("a = b", (1, 1))]
    assert len(shown(made("a", 1.0, ONE, "x"), made("b", 1.0, TWO, "y"))) == 2


def test_samples_must_agree_for_every_sampler():
    one, other = made("a", 1.0, ONE, "x"), made("b", 1.0, TWO, "x")
    changed = dataclasses.replace(other.rows[1], samples={"n": 5000, "sha256": TWO})
    assert len(shown(one, dataclasses.replace(other, rows=(other.rows[0], changed)))) == 2


def test_the_same_weights_used_in_another_way_are_another_entry():
    assert len(shown(made("a", 1.0, ONE, "x"), made("b", 1.5, ONE, "y"))) == 2
    assert len(shown(made("a", 1.0, ONE, "x"), made("b", 1.000001, ONE, "y"))) == 1  # another machine, last bits


def test_divisions_stay_apart_and_nothing_known_is_nothing_equal():
    assert len(shown(made("a", 1.0, ONE), made("b", 1.0, ONE, division="open"))) == 2
    assert len(shown(made("a", 1.0), made("b", 1.0))) == 2


def test_unranked_copies_stay_where_they_are():
    claimed = dataclasses.replace(made("b", 1.0, ONE), status="claimed")
    assert shown(made("a", 1.0, ONE), claimed) == [("a", (1, 1)), ("b", None)]


def test_every_result_is_in_exactly_one_set():
    candidates = [
        Candidate(made(name, 1.0, w), "closed", 1.0) for name, w in zip("dbca", (ONE, TWO, ONE, None), strict=True)
    ]
    assert copies(candidates) == [[3], [1], [2, 0]]


def test_many_names_are_counted():
    assert joined(["a", "b"]) == "a = b"
    assert joined([str(i) for i in range(9)]) == "0 = 1 = 2 = 3 = 4 = 5 and 3 more"


def test_other_names_of_an_entry_stand_beside_it() -> None:
    results = [simple(name, value, 0.1, task="digits") for name, value in (("cfm", 1.0), ("ot-cfm", 2.0))]
    judged, _ = judge(results, "wasserstein2", 8)
    assert [j.label for j in judged] == ["cfm = fm = rf-1", "ot-cfm"]
