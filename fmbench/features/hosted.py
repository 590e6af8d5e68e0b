"""Reference statistics that others host: clean-fid's files (Parmar et al., arXiv:2104.11222), to compare ours with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fmbench.storage.download import RemoteFile, fetch_file

CLEAN_FID = "https://www.cs.cmu.edu/~clean-fid/stats"
MODES = ("clean", "legacy_pytorch", "legacy_tensorflow")


@dataclass(frozen=True, eq=False)
class HostedStatistics:
    """Mean (f,) and covariance (f, f) of features, float64, and the address they came from."""

    mean: np.ndarray
    cov: np.ndarray
    origin: str


def clean_fid_statistics(
    dataset: str, split: str, resolution: int, mode: str = "legacy_tensorflow"
) -> HostedStatistics:
    """clean-fid's own statistics, e.g. ``("cifar10", "train", 32)``, downloaded on first use. No hash is published for them.

    Compare with ``frechet_distance(ours.mean, ours.cov, theirs.mean, theirs.cov)``; ``inception-tf`` is their
    ``legacy_tensorflow``.

    Raises ValueError for an unknown mode or a file that holds no statistics, and what
    :func:`fmbench.storage.download.fetch_file` raises, one line each.
    """
    if mode not in MODES:
        raise ValueError(f"clean-fid has no mode {mode!r}; it has: {', '.join(MODES)}")
    filename = f"{dataset}_{mode}_{split}_{resolution}.npz".lower()
    file = RemoteFile(filename, f"{CLEAN_FID}/{filename}", None)
    path = fetch_file(file, "statistics")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            mean, cov = (np.asarray(arrays[name], dtype=np.float64) for name in ("mu", "sigma"))
        if cov.shape != mean.shape * 2 or not (np.isfinite(mean).all() and np.isfinite(cov).all()):
            raise ValueError(f"mu {mean.shape} and sigma {cov.shape} are no finite mean and covariance")
    except (OSError, ValueError, KeyError, EOFError) as error:
        path.unlink(missing_ok=True)
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{file.address} holds no statistics ({reason}); the download was deleted") from error
    return HostedStatistics(mean, cov, file.address)
