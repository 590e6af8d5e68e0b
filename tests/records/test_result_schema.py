"""What a result may hold: checked on writing and on reading, and every refusal names file and place."""

import copy
import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fmbench.records import result, schema
from fmbench.records.metric import BUILT_IN
from fmbench.records.result import BESIDE, Estimate, Result, Row, check_estimate
from fmbench.records.sampler import Sampler
from fmbench.storage.bundled import PACKAGE

COMMITTED = sorted((PACKAGE.parent / "leaderboard" / "results").rglob("*.json"))
ENTRY = Path(__file__).parent / "data" / "many" / "cfm.json"


@pytest.fixture(scope="module")
def whole():
    return json.loads(json.dumps(result.read(ENTRY).to_json()))


def reading(content, tmp_path):
    """What reading a file with this content says, or None."""
    path = tmp_path / "cfm.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    try:
        result.read(path)
    except ValueError as error:
        text = str(error)
        assert text.startswith(str(path))
        assert "\n" not in text
        assert len(text) < 600 + len(str(path))
        return text.removeprefix(str(path))
    return None


@pytest.mark.slow
def test_every_committed_result_is_read_and_written_byte_for_byte(tmp_path):
    assert len(COMMITTED) >= 158
    for path in COMMITTED:
        assert result.read(path).save(tmp_path).read_bytes() == path.read_bytes(), path


def test_the_schema_has_the_fields_of_the_records():
    for table, record in ((schema.EstimateTable, Estimate), (schema.RowTable, Row), (schema.ResultFile, Result)):
        assert set(table.__struct_fields__) == {field.name for field in dataclasses.fields(record)} - set(BESIDE)


def test_reading_needs_no_torch():
    code = (
        "import sys; from pathlib import Path; from fmbench.records import result\n"
        "result.read(Path(sys.argv[1])); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(ENTRY)], check=False).returncode == 0


def at(*keys, **fields):
    """An edit: fields of the table at a place."""

    def edit(content):
        for key in keys:
            content = content[key]
        content.update(fields)

    return edit


W2 = ("rows", 2, "metrics", "wasserstein2")
SAME = "c" * 64
CASES = [
    (lambda c: c.update(schema=99), "schema 99, this version reads 1 and 2"),
    (lambda c: c.pop("schema"), "the whole lacks schema"),
    (lambda c: c.pop("rows"), "the whole lacks rows"),
    (at(extra=1), "the whole has 'extra', which is no field of it"),
    (at(rows=[]), "rows must be a list of length >= 1, got []"),
    (at(rows=[3]), "rows[0] must be a table, got 3"),
    (at(flow=[]), "flow must be a table, got []"),
    (at(ranked="yes"), "ranked must be true or false, got 'yes'"),
    (at(status="official"), "status must be one of claimed, rescored, rerun, replicated, got 'official'"),
    (at(environment=None), "environment must be a table, got None"),
    (at(seeds=[0, 0, 1, 2, 3]), "seeds must differ from each other, got [0, 0, 1, 2, 3]"),
    (at(seeds=[0, -1]), "seeds[1] must be a whole number >= 0, got -1"),
    (at(seeds=[]), "seeds must be a list of length >= 1, got []"),
    (at(seeds=[0, 1, 2]), "rows[0].metrics.wasserstein2.details.per_seed must have one value for each of 3 seeds, got 5"),
    (at(samples_per_seed=0), "samples_per_seed must be a whole number >= 1, got 0"),
    (at(samples_per_seed=1e3), "samples_per_seed must be a whole number, got 1000.0"),
    (at(created="yesterday"), "created must be a time as in ISO 8601, or empty, got 'yesterday'"),
    (at(unranked_because=["--limit"]), "unranked_because must be empty where ranked is true"),
    (at(ranked=False, unranked_because=[""]), "unranked_because[0] must be text of length >= 1, got ''"),
    (at(seconds=-1.0), "seconds must be a number >= 0.0, got -1.0"),
    (at("benchmark", name="../../escape"), "benchmark.name: '../../escape' cannot name a benchmark"),
    (at("benchmark", version=0), "benchmark.version must be a whole number >= 1, got 0"),
    (at("benchmark", sha256="abc"), "benchmark.sha256 must be 64 hexadecimal digits, got 'abc'"),
    (at("benchmark", sha256=SAME + "\n"), "benchmark.sha256 must be 64 hexadecimal digits"),
    (at("task", name="digits"), "model.name must be digits/ENTRY, as its task says, got 'gaussian-moons/cfm'"),
    (at("task", kind="so/und"), "task.kind: 'so/und' cannot name a kind of task"),
    (at("model", name="gaussian-moons/"), "model.name: '' cannot name an entry"),
    (at("model", name=7), "model.name must be text, got 7"),
    (at("model", name="gaussian-moons/a\nb"), "model.name: 'a\\nb' cannot name an entry"),
    (at("model", conditional="false"), "model.conditional must be true or false, got 'false'"),
    (at("model", conditional=None), "model.conditional must be true or false, got None"),
    (at("model", conditonal=True), "model has 'conditonal', which is no field of it"),
    (at("model", parameters="many"), "model.parameters must be a whole number or null, got 'many'"),
    (at("model", parameters=-1), "model.parameters must be a whole number >= 0, got -1"),
    (at("model", parameters=True), "model.parameters must be a whole number or null, got True"),
    (at("model", division="best"), "model.division must be one of closed, open, anchor, tool, got 'best'"),
    (at("model", weights_sha256="0"), "model.weights_sha256 must be 64 hexadecimal digits, got '0'"),
    (at("cost", flops_per_evaluation=-1.0), "cost.flops_per_evaluation must be a number >= 0.0, got -1.0"),
    (at("cost", "memory", peak="much"), "cost.memory.peak must be a whole number or null, got 'much'"),
    (at("cost", "energy", joules_per_sample=[]), "cost.energy.joules_per_sample must be a number or null, got []"),
    (at("environment", threads=-1), "environment.threads must be a whole number >= 0, got -1"),
    (at("environment", "flow", device=3), "environment.flow.device must be text or null, got 3"),
    (lambda c: c["rows"].append(c["rows"][0]), "rows[8] has the sampler of rows[0]"),
    (lambda c: c["rows"][1]["metrics"].pop("mmd"), "rows[1].metrics must have the metrics of the other rows"),
    (at("rows", 0, steps="8"), "rows[0].steps must be a whole number or null, got '8'"),
    (at("rows", 0, steps=0), "rows[0].steps must be a whole number >= 1, got 0"),
    (at("rows", 0, steps=10**9), "rows[0].steps must be a whole number <= 100000, got 1000000000"),
    (at("rows", 0, solver="none"), "rows[0].steps must be null without a solver, got 1"),
    (at("rows", 0, solver="../x"), "rows[0].solver: '../x' cannot name a solver"),
    (at("rows", 0, guidance=None), "rows[0].guidance must be a number, got None"),
    (at("rows", 0, nfe={"network": "<b>"}), "rows[0].nfe.network must be a number, got '<b>'"),
    (at("rows", 0, nfe={"network": -1}), "rows[0].nfe.network must be a number >= 0.0, got -1"),
    (at("rows", 0, nfe={"a\nb": -1}), "rows[0].nfe['a\\nb'] must be a number >= 0.0, got -1"),
    (at("rows", 0, failed="NaN"), "rows[0].failed: a row that failed has no value"),
    (at("rows", 0, failed=""), "rows[0].failed must be text of length >= 1, got ''"),
    (at("rows", 0, samples={"n": 5}), "rows[0].samples.n and sha256 come together"),
    (at("rows", 0, "latency", p50="fast"), "rows[0].latency.p50 must be a number or null, got 'fast'"),
    (at("rows", 0, "latency", p99=1e-9), "rows[0].latency.p50, p95 and p99 must not fall"),
    (at("rows", 0, "latency", "batches", 1, batch=0), "rows[0].latency.batches[1].batch must be a whole number >= 1, got 0"),
    (at("rows", 0, "latency", "best", throughput=None), "rows[0].latency.best.throughput must be a number, got None"),
    (at(*W2, value="<img>"), "rows[2].metrics.wasserstein2.value must be a number or null, got '<img>'"),
    (at(*W2, value=True), "rows[2].metrics.wasserstein2.value must be a number or null, got True"),
    (at(*W2, value=-5.0, ci=None, details={}), "rows[2].metrics.wasserstein2.value must be at least 0, got -5.0"),
    (at(*W2, value=1e301), "rows[2].metrics.wasserstein2.value must be a number <= 1e+300, got 1e+301"),
    (at(*W2, value=10**400), "rows[2].metrics.wasserstein2.value must be a number that a double can hold"),
    (at(*W2, value=9.0), "rows[2].metrics.wasserstein2.value must lie in its interval"),
    (at(*W2, ci=[3, 1]), "rows[2].metrics.wasserstein2.ci must be two numbers in order, got [3.0, 1.0]"),
    (at(*W2, ci=[1.0]), "rows[2].metrics.wasserstein2.ci must be a list of length 2, got [1.0]"),
    (at(*W2, n=0), "rows[2].metrics.wasserstein2.n must be at least 1 beside a value, got 0"),
    (at(*W2, n=-1), "rows[2].metrics.wasserstein2.n must be a whole number >= 0, got -1"),
    (at(*W2, reason="none"), "rows[2].metrics.wasserstein2.reason must be null beside a value, got 'none'"),
    (at(*W2, value=None, ci=None), "rows[2].metrics.wasserstein2.reason must say why there is no value"),
    (at(*W2, value=None, reason="lost"), "rows[2].metrics.wasserstein2.ci must be null where there is no value"),
    (at(*W2, "details", per_seed=[9.0] * 5), "rows[2].metrics.wasserstein2.details.per_seed must have the mean"),
    (at(*W2, "details", per_seed=None), "rows[2].metrics.wasserstein2.details.per_seed must be a list, got None"),
    (at(*W2, "details", reference_sha256="x"), "rows[2].metrics.wasserstein2.details.reference_sha256 must be 64 hex"),
    (at("flow", "straightness", value=True), "flow.straightness.value must be a number or null, got True"),
    (lambda c: c["flow"].update(wasserstein2=c["flow"]["curvature"]), "flow.wasserstein2 is no metric of flow"),
    (lambda c: c["flow"].update({"a\x1bb": c["flow"]["curvature"]}), "flow['a\\x1bb']: a metric has a name"),
]  # fmt: skip


@pytest.mark.parametrize(("edit", "says"), CASES, ids=[says[:60] for _, says in CASES])
def test_what_is_wrong_is_refused_with_its_place_by_reading_and_by_writing(whole, tmp_path, edit, says):
    content = copy.deepcopy(whole)
    edit(content)
    found = reading(content, tmp_path)
    assert found is not None
    assert found.startswith(f": {says}"), found
    written = dict(content)
    unsaved = set(content) - {field.name for field in dataclasses.fields(Result)} or "rows" not in content
    if unsaved or not all(isinstance(row, dict) for row in content["rows"]) or not isinstance(content["flow"], dict):
        return  # no such result can be made
    written |= {"rows": tuple(made(row) for row in content["rows"]), "flow": estimates(content["flow"])}
    written.setdefault("schema", 1)
    if content.get("schema") == 1:
        with pytest.raises(ValueError, match="cannot be written") as error:
            Result(**written).save(tmp_path / "out")
        assert says in str(error.value)
        assert not (tmp_path / "out").exists()


def estimates(table):
    return {name: Estimate(**estimate) for name, estimate in table.items()}


def made(row):
    return Row(**{**row, "metrics": estimates(row["metrics"])})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (lambda t: t.replace('"ranked": true', '"ranked": false, "ranked": true'), "the key 'ranked' stands twice"),
        (lambda t: t.replace('"seconds": ', '"seconds": NaN, "s": '), "NaN is no number of JSON"),
        (lambda t: t.replace('"seconds": ', '"seconds": 1e999, "s": '), "1e999 is no number of JSON"),
        (lambda t: t.replace('"cost": {', '"cost": ' + "[" * 5000), "recursion"),
        (lambda t: t.replace('"cost": {', '"cost": {"x": ' + "[" * 50 + "]" * 50 + ","), "nested more than"),
        (lambda t: t[:1000], "no result"),
        (lambda t: t + " " * schema.LARGEST_FILE, "larger than 16 MiB"),
        (lambda t: "", "no result"),
    ],
)
def test_a_file_that_is_no_plain_record_is_refused(tmp_path, text, says):
    changed = text(json.dumps(result.read(ENTRY).to_json()))
    found = reading(changed, tmp_path)
    assert found is not None
    assert says in found


def test_an_older_file_without_reasons_may_be_unranked(whole, tmp_path):
    assert reading({**whole, "ranked": False}, tmp_path) is None
    (tmp_path / "cfm.json").write_text(json.dumps({**whole, "ranked": False, "unranked_because": ["--limit 100"]}))
    told = result.read(tmp_path / "cfm.json")
    assert told.unranked_because == ("--limit 100",)
    again = told.save(tmp_path / "out")
    assert result.read(again) == told
    assert "unranked_because" not in dataclasses.replace(told, unranked_because=()).save(tmp_path / "out").read_text()


def test_round_off_is_no_lie(whole, tmp_path):
    content = copy.deepcopy(whole)
    estimate = content["rows"][0]["metrics"]["wasserstein2"]
    value = estimate["value"]
    estimate["ci"] = [math.nextafter(value, 9), estimate["ci"][1]]
    estimate["details"]["per_seed"][0] = math.nextafter(estimate["details"]["per_seed"][0], 9)
    assert reading(content, tmp_path) is None


@pytest.mark.parametrize(
    ("details", "says"),
    [
        ({"x": math.nan}, "details.x must be a finite number, got nan"),
        ({"x": np.zeros(2)}, "details.x must be plain data, got ndarray"),
        ({"x": [{"y": {1, 2}}]}, "details.x[0].y must be plain data, got set"),
        ({3: 4}, "details has the key 3, which is no text"),
    ],
)
def test_only_plain_data_is_written(tmp_path, details, says):
    found = result.read(ENTRY)
    metrics = {**found.rows[0].metrics, "mmd": dataclasses.replace(found.rows[0].metrics["mmd"], details=details)}
    rows = (dataclasses.replace(found.rows[0], metrics=metrics), *found.rows[1:])
    with pytest.raises(ValueError, match="cannot be written") as error:
        dataclasses.replace(found, rows=rows).save(tmp_path / "out")
    assert f"rows[0].metrics.mmd.{says}" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_result_larger_than_what_is_read_is_not_written(tmp_path):
    found = result.read(ENTRY)
    rows = tuple(
        dataclasses.replace(row, metrics=row.metrics | {"note": Estimate.missing("x" * 3_000_000)})
        for row in found.rows
    )
    with pytest.raises(ValueError, match=r"cannot be written: it takes .* MiB, and at most 16"):
        dataclasses.replace(found, rows=rows).save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_estimate_is_checked_before_it_joins_the_others():
    check_estimate("wasserstein2", Estimate(1.0, (0.5, 2.0), 10))
    check_estimate("somebody-s own", Estimate(-1.0, None, 10))
    for wrong, says in (
        (Estimate(-1.0, None, 10), "value must be at least 0"),
        (Estimate(math.nan, None, 10), "value must be a finite number"),
        (Estimate(1.0, (2.0, 3.0), 10), "value must lie in its interval"),
        (Estimate(1.0), "n must be at least 1"),
    ):
        with pytest.raises(ValueError, match=says):
            check_estimate("wasserstein2", wrong)


@pytest.mark.parametrize("name", [n for n, m in BUILT_IN.items() if any(map(math.isfinite, m.range))])
def test_every_bound_of_a_metric_holds(name):
    metric = BUILT_IN[name]
    for bound, step in zip(metric.range, (-1e-3, 1e-3), strict=True):
        if math.isfinite(bound):
            check_estimate(name, Estimate(float(bound), None, 1))
            with pytest.raises(ValueError, match=f"{bound:g}"):
                check_estimate(name, Estimate(bound + step, None, 1))
            outside = {"per_seed": [bound + step, bound - step]}
            with pytest.raises(ValueError, match="per_seed"):
                check_estimate(name, Estimate(float(bound), None, 1, details=outside))


def test_a_row_knows_its_sampler():
    row = Row("heun", 4, 2.0, {}, {})
    assert row.sampler == Sampler("heun", 4, guidance=2.0)
    with pytest.raises(ValueError, match="whole number"):
        _ = Row("heun", 0, 1.0, {}, {}).sampler


def test_a_missing_file_is_missing():
    with pytest.raises(FileNotFoundError):
        result.read(Path("nowhere.json"))
