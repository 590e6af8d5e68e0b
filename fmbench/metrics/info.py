"""What every metric is called, its unit and which way is better. Imports nothing heavy: listings and reports read it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fmbench.statistics.ranges import KERNEL, NON_NEGATIVE, UNBOUNDED, UNIT, Range


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
        column: whether it has a column in tables; otherwise it is in the result files and the CSV only.
        range: lowest and highest value it can have, which neither value nor interval leaves.
    """

    label: str
    unit: str
    better: str
    scope: str
    kinds: tuple[str, ...]
    interval: str
    summary: str
    first_seed: bool = False
    column: bool = True
    range: Range = UNBOUNDED


BOTH = ("vector", "image")
SEEDS = "Student t over evaluation seeds; delete-a-group jackknife with one seed"
ROOT = "Student t over evaluation seeds; delete-a-group jackknife on the root with one seed"
DUAL = "Student t over evaluation seeds; from the Kantorovich potentials with one seed"
SHARE = "Student t over evaluation seeds; Wilson over samples with one seed"
BALLS = "Student t over evaluation seeds; Wilson with jackknife variance over generated samples with one seed"
FOLDS = "Student t over evaluation seeds; Wilson with the corrected variance over folds with one seed"
SPREAD = "Student t, over evaluation seeds or, with one seed, over samples"
JACKKNIFE = "delete-a-group jackknife over samples"
MEAN = "Student t, from the spread over trajectories"

METRICS: dict[str, MetricInfo] = {
    "wasserstein2": MetricInfo(
        "W2",
        "length",
        "lower",
        "samples",
        ("vector",),
        DUAL,
        "Exact 2-Wasserstein distance to fresh target samples, root taken.",
        range=NON_NEGATIVE,
    ),
    "sliced_wasserstein2": MetricInfo(
        "SW2",
        "length",
        "lower",
        "samples",
        BOTH,
        SEEDS,
        "2-Wasserstein distance averaged over 1-D projections, root taken.",
        range=NON_NEGATIVE,
    ),
    "frechet_distance": MetricInfo(
        "FD",
        "feature^2",
        "lower",
        "samples",
        ("image",),
        ROOT,
        "Frechet distance between Gaussians fitted to classifier features.",
        range=NON_NEGATIVE,
    ),
    "kernel_distance": MetricInfo(
        "KD",
        "",
        "lower",
        "samples",
        ("image",),
        ROOT,
        "Unbiased squared MMD with the cubic kernel on classifier features (KID).",
    ),
    "precision": MetricInfo(
        "P",
        "",
        "higher",
        "samples",
        ("image",),
        SHARE,
        "Share of samples inside the k-nearest-neighbour balls of real ones.",
        range=UNIT,
    ),
    "recall": MetricInfo(
        "R",
        "",
        "higher",
        "samples",
        ("image",),
        BALLS,
        "Share of real samples inside the balls of generated ones.",
        range=UNIT,
    ),
    "density": MetricInfo(
        "density",
        "",
        "neither",
        "samples",
        ("image",),
        SPREAD,
        "How many real balls hold a sample, in units of k; 1 for real data.",
        range=NON_NEGATIVE,
    ),
    "coverage": MetricInfo(
        "coverage",
        "",
        "higher",
        "samples",
        ("image",),
        BALLS,
        "Share of real samples whose ball holds a generated one.",
        range=UNIT,
    ),
    "mmd": MetricInfo(
        "MMD^2",
        "",
        "lower",
        "samples",
        BOTH,
        ROOT,
        "Unbiased squared MMD with a Gaussian kernel of median bandwidth.",
        range=KERNEL,
    ),
    "c2st": MetricInfo(
        "C2ST",
        "",
        "lower",
        "samples",
        BOTH,
        FOLDS,
        "Accuracy of a classifier that tells samples from real ones; 0.5 is the floor.",
        range=UNIT,
    ),
    "authenticity": MetricInfo(
        "auth",
        "",
        "neither",
        "samples",
        ("image",),
        SHARE,
        "Share of samples farther from their nearest training image than it is from its own.",
        range=UNIT,
    ),
    "frechet_distance_infinity": MetricInfo(
        "FD inf",
        "feature^2",
        "lower",
        "samples",
        ("image",),
        JACKKNIFE,
        "Frechet distance extrapolated to infinitely many samples, free of its 1/n bias.",
    ),
    "inception_score": MetricInfo(
        "IS",
        "",
        "higher",
        "samples",
        ("image",),
        SEEDS,
        "Exponential of the mutual information between samples and classes; never looks at real data.",
        range=(1.0, math.inf),
    ),
    "sinkhorn_divergence": MetricInfo(
        "SD",
        "length^2",
        "lower",
        "samples",
        ("vector",),
        SEEDS,
        "Debiased entropic transport cost at a twentieth of the mean squared distance.",
        range=NON_NEGATIVE,
    ),
    "mode_coverage": MetricInfo(
        "modes",
        "",
        "higher",
        "samples",
        ("vector",),
        SEEDS,
        "Share of the target's mixture components that get a tenth of their due.",
        column=False,
        range=UNIT,
    ),
    "mode_weights_error": MetricInfo(
        "mode TV",
        "",
        "lower",
        "samples",
        ("vector",),
        SEEDS,
        "Total variation between the weights of the target's components and those of the samples.",
        column=False,
        range=UNIT,
    ),
    "ct_score": MetricInfo(
        "C_T",
        "",
        "neither",
        "samples",
        ("image",),
        "its own null distribution N(0, 1)",
        "Mann-Whitney z score of nearest training distances against held-out data; far below 0 is copying.",
    ),
    "near_copies": MetricInfo(
        "copies",
        "",
        "neither",
        "samples",
        ("image",),
        SEEDS,
        "Share of samples three times nearer to one training image than to any other.",
        range=UNIT,
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
        range=NON_NEGATIVE,
    ),
    "straightness": MetricInfo(
        "S",
        "length^2",
        "lower",
        "flow",
        BOTH,
        MEAN,
        "Mean squared deviation of the velocity from the chord; 0 for straight paths.",
        range=NON_NEGATIVE,
    ),
    "path_energy": MetricInfo(
        "PE",
        "length^2",
        "lower",
        "flow",
        BOTH,
        MEAN,
        "Integral of the mean squared speed; equals S + cost.",
        range=NON_NEGATIVE,
    ),
    "normalized_path_energy": MetricInfo(
        "NPE",
        "",
        "lower",
        "flow",
        ("vector",),
        MEAN,
        "|PE - W2^2| / W2^2 of the task; 0 for optimal transport.",
        range=NON_NEGATIVE,
    ),
    "transport_cost": MetricInfo(
        "cost",
        "length^2",
        "lower",
        "flow",
        BOTH,
        MEAN,
        "Mean squared displacement E|Z1 - Z0|^2; at least W2^2 of what it connects.",
        range=NON_NEGATIVE,
    ),
    "curvature": MetricInfo(
        "curv",
        "length^2",
        "lower",
        "flow",
        BOTH,
        MEAN,
        "Integral of the mean squared acceleration Dv/Dt; 0 for constant speed lines.",
        range=NON_NEGATIVE,
    ),
    "kinetic_energy": MetricInfo(
        "KE",
        "length^2",
        "lower",
        "flow",
        BOTH,
        MEAN,
        "Half the path energy; at least W2^2 / 2.",
        column=False,
        range=NON_NEGATIVE,
    ),
    "monge_gap": MetricInfo(
        "Monge gap",
        "length^2",
        "lower",
        "flow",
        BOTH,
        "Student t over four groups of trajectories",
        "Transport cost minus W2^2 between the same noise and samples; 0 for optimal maps.",
        range=NON_NEGATIVE,
    ),
    "crossing": MetricInfo(
        "V",
        "length^2",
        "lower",
        "flow",
        BOTH,
        MEAN,
        "Mean squared deviation of the velocity on the chords from the chords; 0 for straight paths that never cross.",
        column=False,
        range=NON_NEGATIVE,
    ),
    "first_orderness": MetricInfo(
        "Var eps",
        "length^2",
        "lower",
        "flow",
        BOTH,
        MEAN,
        "Variance of the noise prediction along a trajectory, mean over dimensions; 0 for first-order flows.",
        column=False,
        range=NON_NEGATIVE,
    ),
    "velocity_error": MetricInfo(
        "v err",
        "length^2",
        "neither",
        "flow",
        BOTH,
        MEAN,
        "Squared distance to the exact velocity of independent pairs; other couplings aim at another velocity.",
        column=False,
        range=NON_NEGATIVE,
    ),
    "relative_velocity_error": MetricInfo(
        "rel v err",
        "",
        "neither",
        "flow",
        BOTH,
        "delete-a-group jackknife over trajectories",
        "The same over the energy of the exact velocity: the share of the motion that was not learnt.",
        range=NON_NEGATIVE,
    ),
    "round_trip_error": MetricInfo(
        "round trip",
        "length",
        "lower",
        "flow",
        BOTH,
        "delta method on the spread over trajectories",
        "RMS distance per dimension between a noise and itself after solving forward and back.",
        column=False,
        range=NON_NEGATIVE,
    ),
    "lipschitz": MetricInfo(
        "Lip",
        "1/time",
        "neither",
        "flow",
        BOTH,
        MEAN,
        "Largest singular value of dv/dx met along a trajectory, mean over trajectories.",
        column=False,
        range=NON_NEGATIVE,
    ),
    "nll": MetricInfo(
        "NLL",
        "nats",
        "lower",
        "flow",
        ("vector",),
        MEAN,
        "Exact negative log-likelihood of fresh real points.",
    ),
    "bits_per_dimension": MetricInfo(
        "BPD",
        "bits",
        "lower",
        "flow",
        ("image",),
        MEAN,
        "Negative log2-likelihood per pixel of held-out images, uniformly dequantised, Hutchinson trace.",
    ),
}
