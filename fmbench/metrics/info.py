"""What every metric is called, its unit and which way is better. Imports nothing heavy: listings and reports read it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MetricInfo:
    """One line about a metric.

    Attributes:
        label: how tables call it.
        unit: unit, or "" for a pure number.
        better: "lower", "higher" or "neither".
        scope: "samples" (per sampler), "flow" (per model, on the reference solve).
        kinds: task kinds it applies to.
        interval: how its 95 % interval is made.
        summary: one sentence.
        first_seed: measured on the first evaluation seed only, whose noise the reference solve starts from.
    """

    label: str
    unit: str
    better: str
    scope: str
    kinds: tuple[str, ...]
    interval: str
    summary: str
    first_seed: bool = False


BOTH = ("vector", "image")
SEEDS = "Student t over evaluation seeds; delete-a-group jackknife with one seed"
SPREAD = "normal, from the spread over samples, with balls and classifiers kept fixed"
MEAN = "normal, from the spread over trajectories"

METRICS: dict[str, MetricInfo] = {
    "wasserstein2": MetricInfo(
        "W2",
        "length",
        "lower",
        "samples",
        ("vector",),
        SEEDS,
        "Exact 2-Wasserstein distance to fresh target samples, root taken.",
    ),
    "sliced_wasserstein2": MetricInfo(
        "SW2",
        "length",
        "lower",
        "samples",
        BOTH,
        SEEDS,
        "2-Wasserstein distance averaged over 1-D projections, root taken.",
    ),
    "frechet_distance": MetricInfo(
        "FD",
        "feature^2",
        "lower",
        "samples",
        ("image",),
        SEEDS,
        "Frechet distance between Gaussians fitted to classifier features.",
    ),
    "kernel_distance": MetricInfo(
        "KD",
        "",
        "lower",
        "samples",
        ("image",),
        SEEDS,
        "Unbiased squared MMD with the cubic kernel on classifier features (KID).",
    ),
    "precision": MetricInfo(
        "P",
        "",
        "higher",
        "samples",
        ("image",),
        SPREAD,
        "Share of samples inside the k-nearest-neighbour balls of real ones.",
    ),
    "recall": MetricInfo(
        "R", "", "higher", "samples", ("image",), SPREAD, "Share of real samples inside the balls of generated ones."
    ),
    "density": MetricInfo(
        "density",
        "",
        "neither",
        "samples",
        ("image",),
        SPREAD,
        "How many real balls hold a sample, in units of k; 1 for real data.",
    ),
    "coverage": MetricInfo(
        "coverage",
        "",
        "higher",
        "samples",
        ("image",),
        SPREAD,
        "Share of real samples whose ball holds a generated one.",
    ),
    "mmd": MetricInfo(
        "MMD^2", "", "lower", "samples", BOTH, SEEDS, "Unbiased squared MMD with a Gaussian kernel of median bandwidth."
    ),
    "c2st": MetricInfo(
        "C2ST",
        "",
        "lower",
        "samples",
        BOTH,
        SPREAD,
        "Accuracy of a classifier that tells samples from real ones; 0.5 is the floor.",
    ),
    "authenticity": MetricInfo(
        "auth",
        "",
        "neither",
        "samples",
        ("image",),
        SPREAD,
        "Share of samples farther from their nearest training image than it is from its own.",
    ),
    "truncation_gap": MetricInfo(
        "gap",
        "length",
        "lower",
        "samples",
        BOTH,
        MEAN,
        "RMS distance per dimension to the reference solution from the same noise.",
        first_seed=True,
    ),
    "straightness": MetricInfo(
        "S",
        "length^2",
        "lower",
        "flow",
        BOTH,
        MEAN,
        "Mean squared deviation of the velocity from the chord; 0 for straight paths.",
    ),
    "path_energy": MetricInfo(
        "PE", "length^2", "lower", "flow", BOTH, MEAN, "Integral of the mean squared speed; equals S + cost."
    ),
    "normalized_path_energy": MetricInfo(
        "NPE", "", "lower", "flow", ("vector",), MEAN, "|PE - W2^2| / W2^2 of the task; 0 for optimal transport."
    ),
    "transport_cost": MetricInfo(
        "cost",
        "length^2",
        "lower",
        "flow",
        BOTH,
        MEAN,
        "Mean squared displacement E|Z1 - Z0|^2; at least W2^2 of what it connects.",
    ),
    "curvature": MetricInfo(
        "curv",
        "length^2",
        "lower",
        "flow",
        BOTH,
        MEAN,
        "Integral of the mean squared acceleration Dv/Dt; 0 for constant speed lines.",
    ),
}
