import math

import numpy as np
import pytest

from fmbench.records.result import Estimate
from fmbench.report.cells import clean, count_cell, estimate_cell, with_half_width


@pytest.mark.parametrize(
    ("value", "half", "text"),
    [
        (0.12345, 0.0123, "0.123 ± 0.012"),
        (1234.6, 56.7, "1235 ± 57"),
        (1234.6, 567.0, "1230 ± 570"),
        (0.5, 0.0996, "0.50 ± 0.10"),  # rounding the half-width up must not leave it three digits
        (3.0, 1.0, "3.0 ± 1.0"),
        (-0.00004, 0.012, "0.000 ± 0.012"),  # never "-0.000"
        (2.0, 500.0, "0 ± 500"),
        (1.2e-5, 1.2e-6, "(1.20 ± 0.12)e-5"),
        (1.234e9, 5.6e7, "(1.234 ± 0.056)e9"),
        (0.25, 0.0, "0.25"),
        (2.0, 1e-12, "2 ± 1e-12"),
        (0.0, 5e-324, "0 ± 4.9e-324"),  # ten to that power is zero
        (1e300, 1e300, "(1.0 ± 1.0)e300"),
    ],
)
def test_digits_are_decided_by_the_half_width(value, half, text):
    assert with_half_width(value, half) == text


def test_shown_numbers_are_within_half_a_unit_of_the_second_digit():
    rng = np.random.default_rng(0)
    for value, ratio in zip(
        10 ** rng.uniform(-8, 8, 400) * rng.choice([-1, 1], 400), 10 ** rng.uniform(-4, 1, 400), strict=True
    ):
        half = abs(value) * ratio
        text = with_half_width(value, half)
        body, _, power = text.partition(")e")
        shown = [float(part) * 10.0 ** int(power or 0) for part in body.strip("(").split(" ± ")]
        unit = 10.0 ** (int(f"{half:.1e}".partition("e")[2]) - 1)
        for exact, rounded in zip((value, half), shown, strict=True):
            assert abs(exact - rounded) <= 0.5 * unit * (1 + 1e-6), text


@pytest.mark.parametrize(("value", "half"), [(math.nan, 1.0), (1.0, math.inf), (1.0, -0.1)])
def test_no_digits_without_a_number(value, half):
    with pytest.raises(ValueError, match="finite"):
        with_half_width(value, half)


def test_a_missing_number_is_a_dash_with_its_reason():
    cell = estimate_cell(Estimate.missing("needs a velocity field"))
    assert (cell.text, cell.value, cell.note) == ("–", None, "needs a velocity field")
    assert estimate_cell(None).text == "–"
    assert estimate_cell(Estimate(math.nan, n=3)).value is None


def test_the_note_has_the_exact_interval_and_n():
    note = estimate_cell(Estimate(0.5, (0.4, 0.65), 5000), "length").note
    assert "0.4 to 0.65" in note
    assert "n = 5,000" in note
    assert "length" in note
    assert "no interval" in estimate_cell(Estimate(0.5, None, 7)).note


def test_text_that_could_deceive_is_cleaned():
    assert clean("a\x1b[31m\nb\u202egnp.exe\u2028c") == "a [31m b gnp.exe c"
    assert clean("x" * 100, 10) == "x" * 9 + "…"
    assert clean("é × 漢字") == "é × 漢字"


@pytest.mark.parametrize(
    ("count", "text"), [(12_934, "12.9 k"), (1_204_000, "1.2 M"), (999, "999"), (999_700, "1000 k"), (0, "0")]
)
def test_parameters_are_short(count, text):
    assert count_cell(count).text == text
