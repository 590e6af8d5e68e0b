"""Ranges of metrics: lowest and highest possible value, infinite where there is no limit. Imports nothing, so that listings are fast."""

from __future__ import annotations

import math
from typing import TypeAlias

Range: TypeAlias = tuple[float, float]
UNBOUNDED: Range = (-math.inf, math.inf)
NON_NEGATIVE: Range = (0.0, math.inf)
AT_LEAST_MINUS_ONE: Range = (-1.0, math.inf)
"""A relative difference of what cannot be negative."""
UNIT: Range = (0.0, 1.0)
"""Shares, probabilities, total variation."""
KERNEL: Range = (-2.0, 2.0)
"""Unbiased squared MMD of a kernel with values in [0, 1]: two means of the kernel less twice a third."""
