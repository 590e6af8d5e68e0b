import io
import re

import pytest
from results_factory import HOSTILE, simple, table_of_results
from rich.console import Console

from fmbench.report.terminal import print_results


def printed(results, width, **options):
    out = io.StringIO()
    print_results(results, Console(file=out, width=width, color_system=None, legacy_windows=False), **options)
    return out.getvalue()


@pytest.mark.parametrize("width", [70, 80, 120, 400])
def test_rows_fit_the_window_and_stay_whole(width):
    text = printed(table_of_results(), width, rank_steps=8)
    table = text.partition("not shown")[0].partition("w-cfm @8")[0].splitlines()
    assert max(map(len, table)) <= width
    for entry in ("data", "oracle", "ot-cfm", HOSTILE, "wide-unet"):
        assert sum(re.match(rf"\s*\S+( \(open\))?  {re.escape(entry)}\s", line) is not None for line in table) == 1
    header = next(line for line in table if "entry" in line)
    assert "W2 @8" in header
    assert ("curv" in header) == (width == 400)


def test_markup_and_control_characters_do_nothing():
    text = printed([simple("a", 1, 0.1, model={"name": "t/[bold red]x\x1b]0;owned\x07[blink]"})], 200)
    assert "[bold red]x ]0;owned [blink]" in text
    assert "\x1b" not in text


def test_reasons_stand_below_the_table():
    text = printed(table_of_results(), 100, rank_steps=8)
    assert "w-cfm @8: failed: 17 of 5000" in text
    assert "quick-look rank: marked as not ranked" in text


def test_nothing_is_printed_for_nothing():
    assert printed([], 80) == ""
