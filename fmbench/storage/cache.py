"""The cache folder, which holds everything that can be downloaded or computed again."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "FMBENCH_CACHE"


def cache_root() -> Path:
    """``FMBENCH_CACHE``, or ``~/.cache/fmbench``."""
    return Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/fmbench").expanduser()
