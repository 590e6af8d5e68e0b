"""The environment that a result records: commit, versions, device."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import version
from typing import Any

import torch

from fmbench.evaluation.cost.latency import device_name
from fmbench.storage.bundled import PACKAGE
from fmbench.version import __version__


@cache
def git_commit() -> str | None:
    """The commit of the checkout fmbench runs from, with ``+`` when it has local changes; None outside a checkout."""
    root = PACKAGE.parent
    if not (root / ".git").exists():
        return None

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD")
    return commit and commit + ("+" if git("status", "--porcelain", "--untracked-files=no", "--", "fmbench") else "")


def describe(device: torch.device) -> dict[str, Any]:
    """Versions, device and threads of this process."""
    import numpy
    import scipy

    return {
        "fmbench": __version__,
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "scipy": scipy.__version__,
        "pot": version("pot"),
        "platform": platform.platform(),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }
