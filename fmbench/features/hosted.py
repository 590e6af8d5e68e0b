"""Reference statistics that others host: clean-fid's files (Parmar et al., arXiv:2104.11222), to compare ours with."""

from __future__ import annotations

from fmbench.features.statistics import Statistics, stated_statistics
from fmbench.storage.arrays import STATISTICS, read_array_file
from fmbench.storage.download import RemoteFile, fetch_file
from fmbench.storage.readers import first_line

CLEAN_FID = "https://www.cs.cmu.edu/~clean-fid/stats"
MODES = ("clean", "legacy_pytorch", "legacy_tensorflow")


def clean_fid_statistics(dataset: str, split: str, resolution: int, mode: str = "legacy_tensorflow") -> Statistics:
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
        mean, cov = (read_array_file(path, name).array for name in STATISTICS)
        return stated_statistics(mean, cov, file.address)
    except Exception as error:  # a page, a cut file, another format: their readers have exceptions of their own
        path.unlink(missing_ok=True)
        raise ValueError(
            f"{file.address} holds no statistics ({first_line(error)}); the download was deleted"
        ) from error
