import pytest
from results_factory import simple

from fmbench.report.build import tables_of
from fmbench.report.readme import fill

BLOCK = "before\n<!-- fmbench: {place} | {columns} -->\nold numbers\n<!-- /fmbench -->\nafter\n"


def test_marked_tables_are_replaced_and_the_rest_is_kept():
    tables = tables_of([simple("one", 1.0, 0.1), simple("two", 2.0, 0.1)])
    (key,) = tables
    place = f"{key.benchmark}/{key.task}"
    text = fill(BLOCK.format(place=place, columns="rank, entry"), tables)
    assert text.startswith("before\n<!-- fmbench:")
    assert text.endswith("<!-- /fmbench -->\nafter\n")
    assert "old numbers" not in text
    assert [line.split("|")[2].strip() for line in text.splitlines() if line.startswith(("| 1", "| 2"))] == [
        "one",
        "two",
    ]
    assert fill(text, tables) == text
    assert fill("no markers", tables) == "no markers"


def test_an_unknown_table_or_column_is_an_error():
    tables = tables_of([simple("one", 1.0, 0.1)])
    (key,) = tables
    with pytest.raises(ValueError, match="no results for quick/mars"):
        fill(BLOCK.format(place="quick/mars", columns="rank"), tables)
    with pytest.raises(ValueError, match=r"no column 'rnk'.*rank"):
        fill(BLOCK.format(place=f"{key.benchmark}/{key.task}", columns="rnk"), tables)
