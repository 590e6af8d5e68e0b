import csv
import io

import pytest
from results_factory import HOSTILE, simple, table_of_results

from fmbench.report.csv import guard, render


def lines(results):
    return list(csv.DictReader(io.StringIO(render(results))))


def test_every_number_is_there_at_full_precision():
    results = table_of_results()
    found = lines(results)
    for result in results:
        mine = [line for line in found if line["entry"] == result.entry]
        for row in result.rows:
            for metric, estimate in row.metrics.items():
                keys = (row.solver, "" if row.steps is None else str(row.steps), metric)
                (line,) = [m for m in mine if (m["solver"], m["steps"], m["metric"]) == keys]
                assert (float(line["value"]) if line["value"] else None) == estimate.value
                assert line["reason"] == (estimate.reason or "")
                if estimate.ci:
                    assert (float(line["lo"]), float(line["hi"]), int(line["n"])) == (*estimate.ci, estimate.n)
        assert {m["metric"] for m in mine if not m["solver"]} == set(result.flow)


def test_failures_latencies_and_unused_samplers():
    found = lines(table_of_results())
    failed = [m for m in found if m["entry"] == "w-cfm" and m["steps"] == "8"]
    assert [(m["metric"], m["value"]) for m in failed] == [("", "")]
    assert failed[0]["reason"].startswith("failed: 17 of 5000")
    latencies = [m for m in found if m["entry"] == "cfm" and m["steps"] == "8" and m["metric"] == "latency_p50"]
    assert [float(m["value"]) for m in latencies] == [pytest.approx(8 * 0.0012)]
    assert {m["nfe"] for m in found if m["entry"] == "distilled" and m["solver"] == "dopri5"} == {""}


def test_names_survive_and_formulas_do_not():
    assert HOSTILE in {m["entry"] for m in lines(table_of_results())}
    assert {m["method"] for m in lines([simple("a", 1, 0.1, model={"method": "=cmd|'/c calc'!A1"})])} == {
        "'=cmd|'/c calc'!A1"
    }
    assert [guard(x) for x in ("+1", "-1", "@x", "a=1", "")] == ["'+1", "'-1", "'@x", "a=1", ""]
