import random

from results_factory import HOSTILE, estimate, result, row, simple, table_of_results

from fmbench.report.table import build


def only(results, **options):
    tables = build(results, **options)
    assert len(tables) == 1
    return next(iter(tables.values()))


def ranks(table):
    """Lowest rank of every entry."""
    return {r.entry: r.rank and r.rank[0] for r in table.rows}


def cell(table, entry, title):
    line = next(r for r in table.rows if r.entry == entry)
    return line.cells[[c.title for c in table.columns].index(title)]


def test_a_whole_table_in_order():
    table = only(table_of_results())
    assert [r.entry for r in table.rows[:2]] == ["data", "oracle"]
    groups = [r.group for r in table.rows]
    assert groups == sorted(groups, key=["anchor", "closed", "open", "unranked"].index)
    closed = [r for r in table.rows if r.group == "closed"]
    assert closed[0].rank is not None and closed[0].rank[0] == 1
    values = [cell(table, r.entry, "W2 @1" if r.entry == "distilled" else "W2 @8").value for r in closed]
    assert values == sorted(values), "the order is that of the values, whatever the ranks say"
    titles = [table.columns[i].title for i in table.view()]
    assert titles[:5] == ["rank", "entry", "method", "params", "W2 @1"]
    assert {
        "W2 @8",
        "W2 @dopri5",
        "NFE @8",
        "NFE @dopri5",
        "S",
        "PE",
        "NPE",
        "cost",
        "curv",
        "p50 ms",
        "division",
    } <= set(titles)
    assert not any(title.startswith("SW2") for title in titles)
    assert any(table.columns[i].title.startswith("SW2") for i in table.view("sliced_wasserstein2"))


def test_the_order_of_the_results_does_not_matter():
    results = table_of_results()
    expected = only(results)
    random.Random(3).shuffle(results)
    found = only(results)
    assert [(r.entry, r.rank, r.cells, r.curves) for r in found.rows] == [
        (r.entry, r.rank, r.cells, r.curves) for r in expected.rows
    ]
    assert [c.title for c in found.columns] == [c.title for c in expected.columns]


def test_anchors_take_no_rank_and_give_none():
    entries = [simple("a", 1.0, 0.1), simple("b", 2.0, 0.1)]
    anchors = [simple("data", 0.1, 0.01, model={"division": "anchor"}), simple("oracle", 0.2, 0.01)]
    assert ranks(only(entries + anchors)) == {"data": None, "oracle": None, "a": 1, "b": 2}


def test_limited_runs_change_nobody_s_rank():
    entries = [simple("a", 1.0, 0.1), simple("b", 2.0, 0.1)]
    table = only(
        [
            *entries,
            simple("fast-look", 0.01, 0.001, ranked=False, unranked_because=("--limit 100",)),
            simple("data", 0.1, 0.1, ranked=False),
        ]
    )
    assert ranks(table) == {"a": 1, "b": 2, "data": None, "fast-look": None}
    assert cell(table, "fast-look", "rank").text == "not ranked"
    assert cell(table, "fast-look", "rank").note == "--limit 100"
    assert not cell(table, "fast-look", "W2 @8").best
    assert next(r for r in table.rows if r.entry == "data").group == "unranked"


def test_divisions_are_ranked_apart():
    table = only([simple("a", 1.0, 0.1), simple("b", 2.0, 0.1), simple("c", 0.5, 0.1, model={"division": "open"})])
    assert ranks(table) == {"a": 1, "b": 2, "c": 1}
    assert [cell(table, e, "rank").text for e in "abc"] == ["1", "2", "1 (open)"]


def test_protocols_and_task_versions_never_share_a_table():
    old = {"name": "transport-2d", "version": 1, "sha256": "0" * 64}
    new = {"name": "transport-2d", "version": 2, "sha256": "1" * 64}
    results = [simple("a", 1, 0.1, benchmark=old), simple("b", 2, 0.1, benchmark=new)]
    tables = build([*results, simple("c", 3, 0.1, benchmark=new | {"sha256": "2" * 64})])
    assert [(k.version, [r.entry for r in t.rows]) for k, t in tables.items()] == [
        ("2", ["b"]),
        ("2", ["c"]),
        ("1", ["a"]),
    ]
    renewed = simple("a", 1, 0.1)
    renewed.task["version"] = 2
    assert len(build([renewed, simple("b", 1, 0.1)])) == 2


def test_the_budget_decides_who_leads():
    early = result("early", (row(1, {"wasserstein2": estimate(1, 0.1)}), row(8, {"wasserstein2": estimate(0.9, 0.1)})))
    late = result("late", (row(1, {"wasserstein2": estimate(5, 0.1)}), row(8, {"wasserstein2": estimate(0.2, 0.1)})))
    assert ranks(only([early, late], rank_steps=1)) == {"early": 1, "late": 2}
    assert ranks(only([early, late], rank_steps=8)) == {"late": 1, "early": 2}


def test_a_one_step_map_is_ranked_among_the_others():
    table = only(table_of_results(), rank_steps=1)
    assert ranks(table)["distilled"] == 1
    assert ranks(only(table_of_results(), rank_steps=100))["distilled"] > 1
    assert cell(table, "distilled", "NFE @1").text == "1"
    assert cell(table, "distilled", "W2 @8").text == "–"
    assert "1 step only" in cell(table, "distilled", "NFE @dopri5").note
    assert "velocity field" in cell(table, "distilled", "S").note


def test_a_failure_at_the_budget_is_not_ranked_and_says_why():
    table = only(table_of_results(), rank_steps=8)
    assert ranks(table)["w-cfm"] is None
    assert cell(table, "w-cfm", "W2 @8").text == "failed"
    assert "17 of 5000" in cell(table, "w-cfm", "W2 @8").note
    assert "17 of 5000" in cell(table, "w-cfm", "rank").note
    assert any(n.entry == "w-cfm" and n.where == "@8" and "17 of 5000" in n.reason for n in table.failures)
    assert ranks(only(table_of_results(), rank_steps=4))["w-cfm"] is not None


def test_bold_means_rank_one_in_its_column():
    table = only([simple("a", 1.0, 0.2), simple("b", 1.2, 0.2), simple("c", 2.0, 0.2), simple("data", 0.1, 0.1)])
    assert [cell(table, e, "W2 @8").best for e in ("a", "b", "c", "data")] == [True, True, False, False]


def test_higher_is_better_where_the_metric_says_so(monkeypatch):
    from dataclasses import replace

    from fmbench.records.metric import BUILT_IN

    monkeypatch.setitem(BUILT_IN, "wasserstein2", replace(BUILT_IN["wasserstein2"], better="higher"))
    table = only([simple("a", 1.0, 0.1), simple("b", 2.0, 0.1)])
    assert ranks(table) == {"b": 1, "a": 2}
    assert [r.entry for r in table.rows] == ["b", "a"]


def test_entries_of_the_same_short_name_are_told_apart():
    table = only([simple("x", 1.0, 0.1, model={"name": "a/x"}), simple("x", 2.0, 0.1, model={"name": "b/x"})])
    assert [r.entry for r in table.rows] == ["a/x", "b/x"]


def test_several_solvers_and_guidances_have_their_own_columns():
    number = {"wasserstein2": estimate(1.0, 0.1)}
    rows = (row(8, number), row(8, number, "heun", 16), row(8, number, guidance=2.0))
    titles = [c.title for c in only([result("a", rows)]).columns if c.metric]
    assert titles == ["W2 @euler 8", "W2 @euler 8 g2", "W2 @heun 8"]


def test_an_entry_that_is_told_the_classes_competes_only_with_its_like():
    told = {"conditional": True}
    results = [
        simple("plain", 2.0, 0.1),
        simple("told", 1.0, 0.1, model=told),
        simple("told-worse", 3.0, 0.1, model=told),
        simple("told-open", 0.5, 0.1, model={**told, "division": "open"}),
    ]
    table = only(results)
    assert [(r.entry, r.group, r.rank) for r in table.rows] == [
        ("plain", "closed", (1, 1)),
        ("told", "closed conditional", (1, 1)),
        ("told-worse", "closed conditional", (2, 2)),
        ("told-open", "open conditional", (1, 1)),
    ]
    assert [cell(table, e, "rank").text for e in ("plain", "told-worse")] == ["1", "2 (closed conditional)"]
    assert cell(table, "told", "division").text == "closed conditional"


def test_points_of_the_plot_are_the_measured_evaluations():
    table = only(table_of_results())
    curves = {r.entry: r.curves["wasserstein2"] for r in table.rows}
    assert [p.nfe for p in curves["cfm"] if p.line == "euler"] == [1, 2, 4, 8, 16, 32, 100]
    assert [p.sampler for p in curves["cfm"] if p.line == "dopri5"] == ["dopri5"]
    assert [p.nfe for p in curves["data"]] == [0]
    assert [p.nfe for p in curves["distilled"]] == [1]
    assert 8 not in [p.nfe for p in curves["w-cfm"]]
    assert HOSTILE in curves


def test_a_metric_nobody_described_is_shown_by_its_name():
    table = only([result("a", (row(8, {"wasserstein2": estimate(1, 0.1), "my_metric": estimate(3, 0.1)}),))])
    assert list(table.metrics) == ["wasserstein2", "my_metric"]
    assert "my_metric @8" in [c.title for c in table.columns]


def test_no_results_give_no_tables():
    assert build([]) == {}
