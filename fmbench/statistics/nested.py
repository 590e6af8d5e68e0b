"""The mean over several trainings with an interval that covers training and evaluation noise."""

from __future__ import annotations

import math

import numpy as np

from fmbench.statistics.student import t95


def half_width(units: np.ndarray) -> float:
    """Half-width of a 95 % interval for the mean of ``units``, (trainings, evaluation seeds), at least two of each.

    The seeds are the same for all trainings, so what they share is no smaller after more trainings. The variance of the mean is that between
    trainings, ``var_t(mean_s y) / T``, plus that of the seeds' means over trainings, ``var_s(mean_t y) / S``, less the residual that is in
    both, ``MS(residual) / (T S)``: the components of a crossed design with random rows and columns. Degrees of freedom by Satterthwaite.
    """
    trainings, seeds = units.shape
    rows, columns = units.mean(1), units.mean(0)
    residual = units - rows[:, None] - columns[None, :] + units.mean()
    shared = columns.var(ddof=1) / seeds - (residual**2).sum() / ((trainings - 1) * (seeds - 1)) / (trainings * seeds)
    return _half_width(rows.var(ddof=1) / trainings, trainings - 1, max(shared, 0.0), seeds - 1)


def half_width_from(values: np.ndarray, errors: np.ndarray, freedom: float) -> float:
    """The same for trainings whose ``values`` (T,) were measured on the same samples, with a standard error of each.

    How much of an error is common to all trainings cannot be told from one evaluation; all of it is taken to be, which errs towards wide.
    """
    return _half_width(values.var(ddof=1) / len(values), len(values) - 1, float((errors**2).mean()), freedom)


def _half_width(between: float, trainings: float, shared: float, units: float) -> float:
    total = between + shared
    if total <= 0:
        return 0.0
    freedom = total**2 / (between**2 / trainings + shared**2 / units)
    return t95(freedom) * math.sqrt(total)
