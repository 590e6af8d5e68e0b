"""The table of metrics: label, unit, better side, scope. Imports nothing heavy.

A metric from outside is a :class:`Metric` that the entry-point group ``fmbench.metrics`` names; its name is that of the entry point.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from fmbench.execution.foreign import foreign
from fmbench.records import needs as words
from fmbench.records.ranges import AT_LEAST_MINUS_ONE, KERNEL, NON_NEGATIVE, UNBOUNDED, UNIT, Range

SCOPES = ("samples", "flow")
CORE, EXTENDED = TIERS = ("core", "extended")
"""Tiers of metrics: core ones are measured in every run; extended ones, which cost more, only on request."""
BETTER = ("lower", "higher", "neither")
_ANY_KIND = {("vector", "image"), ("image", "vector")}
"""Values of earlier versions that meant "every kind of task" where needs stand today."""


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        label: how tables call it.
        unit: unit, or "" for a pure number.
        better: one of :data:`BETTER`.
        scope: "samples" (one number per sampler) or "flow" (one per model, on its reference solve).
        needs: names of its requirements (:mod:`fmbench.records.needs`): where one is missing it is null with a generated reason.
        interval: how its 95 % interval is made.
        summary: one sentence.
        measure: ``evidence -> Estimate`` (:class:`fmbench.metrics.evidence.Evidence`), or where it is: ``module:function``.
        range: lowest and highest value it can have, which neither value nor interval leaves.
        default: whether `fmbench score` measures it when no metrics are named.
        version: of its definition, raised when the same samples would give another number.
        tier: one of :data:`TIERS`.
        column: whether it has a column in tables; otherwise it is in the result files and the CSV only.

    Raises ValueError in one line for a scope or side that does not exist, and for needs that are no names or that its scope cannot have.
    """

    label: str
    unit: str
    better: str
    scope: str
    needs: tuple[str, ...]
    interval: str
    summary: str
    measure: str | Callable[[Any], Any]
    range: Range = UNBOUNDED
    default: bool = False
    column: bool = True
    version: int = 1
    tier: str = CORE

    def __post_init__(self) -> None:
        fields = (("scope", self.scope, SCOPES), ("better", self.better, BETTER), ("tier", self.tier, TIERS))
        for what, value, allowed in fields:
            if value not in allowed:
                raise ValueError(f"metric {self.label!r}: {what} must be one of {', '.join(allowed)}, got {value!r}")
        if not isinstance(self.version, int) or isinstance(self.version, bool) or self.version < 1:
            raise ValueError(
                f"metric {self.label!r}: version must be a whole number of at least 1, got {self.version!r}"
            )
        needs = words.check_needs(self.needs, f"metric {self.label!r}")
        if needs in _ANY_KIND:
            warnings.warn(
                f"metric {self.label!r} names kinds of tasks; write what it needs, ('coordinates',)",
                DeprecationWarning,
                stacklevel=3,
            )
            needs = ("coordinates",)
        object.__setattr__(self, "needs", needs)
        hidden = words.FLOW if self.scope == "samples" else words.SAMPLES
        for name in (name for need in needs for name in words.alternatives(need)):
            if words.known(name).of == hidden:
                other = SCOPES[1 - SCOPES.index(self.scope)]
                raise ValueError(
                    f"metric {self.label!r}: {name} is there for the scope {other!r}, and this one has {self.scope!r}"
                )

    @property
    def first_seed(self) -> bool:
        """Whether it is measured on the first evaluation seed alone, from whose noises the reference solve starts."""
        return "endpoints" in self.needs

    def resolve(self) -> Callable[[Any], Any]:
        """The function that measures it."""
        if callable(self.measure):
            return self.measure
        module, _, attribute = self.measure.partition(":")
        return getattr(importlib.import_module(module), attribute)

    def contains(self, value: float) -> bool:
        """Whether a value is within the range of the metric."""
        low, high = self.range
        return low <= value <= high


REAL_VECTORS, REAL_IMAGES, REAL = ("vector", "reference"), ("image", "reference"), ("coordinates", "reference")
FEATURES, FIELD = ("image", "reference", "features"), ("velocity",)
LIKELIHOOD = ("exact_density|density", "exact_density|source_density")
SEEDS = "Student t over evaluation seeds; delete-a-group jackknife with one seed"
ROOT = "Student t over evaluation seeds; delete-a-group jackknife on the root with one seed"
DUAL = "Student t over evaluation seeds; from the Kantorovich potentials with one seed"
SHARE = "Student t over evaluation seeds; Wilson over samples with one seed"
BALLS = "Student t over evaluation seeds; Wilson with jackknife variance over generated samples with one seed"
FOLDS = "Student t over evaluation seeds; Wilson with the corrected variance over folds with one seed"
SPREAD = "Student t, over evaluation seeds or, with one seed, over samples"
JACKKNIFE = "delete-a-group jackknife over samples"
MEAN = "Student t, from the spread over trajectories"

BUILT_IN: dict[str, Metric] = {
    "wasserstein2": Metric(
        "W2", "length", "lower", "samples", REAL_VECTORS, DUAL,
        "Exact 2-Wasserstein distance to fresh target samples, root taken.",
        "fmbench.metrics.wasserstein:measure", range=NON_NEGATIVE, default=True,
    ),
    "sliced_wasserstein2": Metric(
        "SW2", "length", "lower", "samples", REAL, SEEDS,
        "2-Wasserstein distance averaged over 1-D projections, root taken.",
        "fmbench.metrics.sliced:measure", range=NON_NEGATIVE, default=True,
    ),
    "frechet_distance": Metric(
        "FD", "feature^2", "lower", "samples", ("image", "features"), ROOT,
        "Frechet distance between Gaussians fitted to classifier features, given the reference and n.",
        "fmbench.metrics.frechet:measure", range=NON_NEGATIVE, default=True,
    ),
    "frechet_distance_at_heldout": Metric(
        "FD n=data", "feature^2", "lower", "samples", ("image", "features", "heldout"), ROOT,
        "Frechet distance of as many samples as there are held-out images, so that real data stand in the same column.",
        "fmbench.metrics.frechet:measure_at_heldout", range=NON_NEGATIVE,
    ),
    "kernel_distance": Metric(
        "KD", "", "lower", "samples", FEATURES, ROOT,
        "Unbiased squared MMD with the cubic kernel on classifier features (KID), an estimate of the distance between the distributions.",
        "fmbench.metrics.kernel:measure", default=True, version=2,
    ),
    "precision": Metric(
        "P", "", "higher", "samples", REAL_IMAGES, SHARE,
        "Share of samples inside the k-nearest-neighbour balls of real ones.",
        "fmbench.metrics.prdc:precision", range=UNIT, default=True,
    ),
    "recall": Metric(
        "R", "", "higher", "samples", REAL_IMAGES, BALLS,
        "Share of real samples inside the balls of generated ones.",
        "fmbench.metrics.prdc:recall", range=UNIT, default=True,
    ),
    "density": Metric(
        "density", "", "neither", "samples", REAL_IMAGES, SPREAD,
        "How many real balls hold a sample, in units of k; 1 for real data.",
        "fmbench.metrics.prdc:density", range=NON_NEGATIVE, default=True,
    ),
    "coverage": Metric(
        "coverage", "", "higher", "samples", REAL_IMAGES, BALLS,
        "Share of real samples whose ball holds a generated one.",
        "fmbench.metrics.prdc:coverage", range=UNIT, default=True,
    ),
    "mmd": Metric(
        "MMD^2", "", "lower", "samples", REAL, ROOT,
        "Unbiased squared MMD with a Gaussian kernel of median bandwidth.",
        "fmbench.metrics.mmd:measure", range=KERNEL, default=True,
    ),
    "c2st": Metric(
        "C2ST", "", "lower", "samples", REAL, FOLDS,
        "Accuracy of a classifier that tells samples from real ones; 0.5 is the floor.",
        "fmbench.metrics.c2st:measure", range=UNIT, tier=EXTENDED,
    ),
    "authenticity": Metric(
        "auth", "", "neither", "samples", REAL_IMAGES, SHARE,
        "Share of samples farther from their nearest training image than it is from its own.",
        "fmbench.metrics.memorisation:measure", range=UNIT, default=True,
    ),
    "frechet_distance_infinity": Metric(
        "FD inf", "feature^2", "lower", "samples", FEATURES, JACKKNIFE,
        "Frechet distance extrapolated to infinitely many samples, free of its 1/n bias, given the reference.",
        "fmbench.metrics.frechet:measure_infinity", default=True, version=2,
    ),
    "inception_score": Metric(
        "IS", "", "higher", "samples", ("image", "logits"), SEEDS,
        "Exponential of the mutual information between samples and classes; never looks at real data.",
        "fmbench.metrics.inception_score:measure", range=(1.0, math.inf), default=True,
    ),
    "sinkhorn_divergence": Metric(
        "SD", "length^2", "lower", "samples", REAL_VECTORS, SEEDS,
        "Debiased entropic transport cost at a twentieth of the mean squared distance.",
        "fmbench.metrics.sinkhorn_divergence:measure", range=NON_NEGATIVE, tier=EXTENDED,
    ),
    "mode_coverage": Metric(
        "modes", "", "higher", "samples", ("vector", "mixture"), SEEDS,
        "Share of the target's mixture components that get a tenth of their due.",
        "fmbench.metrics.modes:measure_coverage", range=UNIT, default=True, column=False,
    ),
    "mode_weights_error": Metric(
        "mode TV", "", "lower", "samples", ("vector", "mixture"), SEEDS,
        "Total variation between the weights of the target's components and those of the samples.",
        "fmbench.metrics.modes:measure_weights", range=UNIT, default=True, column=False,
    ),
    "ct_score": Metric(
        "C_T", "", "neither", "samples", (*REAL_IMAGES, "heldout"), "its own null distribution N(0, 1)",
        "Mann-Whitney z score of nearest training distances against held-out data; far below 0 is copying.",
        "fmbench.metrics.memorisation:measure_ct", default=True, version=2,
    ),
    "near_copies": Metric(
        "copies", "", "neither", "samples", (*REAL_IMAGES, "heldout"), SEEDS,
        "Share of samples three times nearer to one training image than to any other.",
        "fmbench.metrics.memorisation:measure_copies", range=UNIT, default=True,
    ),
    "truncation_gap": Metric(
        "gap", "length", "lower", "samples", ("coordinates", "endpoints"), MEAN,
        "RMS distance per dimension to the reference solution from the same noise.",
        "fmbench.metrics.truncation:measure", range=NON_NEGATIVE,
    ),
    "straightness": Metric(
        "S", "length^2", "lower", "flow", FIELD, MEAN,
        "Mean squared deviation of the velocity from the chord; 0 for straight paths.",
        "fmbench.metrics.flow:straightness", range=NON_NEGATIVE, version=2,
    ),
    "path_energy": Metric(
        "PE", "length^2", "lower", "flow", FIELD, MEAN,
        "Integral of the mean squared speed; equals S + cost.",
        "fmbench.metrics.flow:path_energy", range=NON_NEGATIVE, version=2,
    ),
    "normalized_path_energy": Metric(
        "NPE", "", "neither", "flow", ("vector", "w2_squared", "velocity"), MEAN,
        "(PE - W2^2) / W2^2 of the task; 0 for optimal transport, below 0 for a flow that does not arrive.",
        "fmbench.metrics.flow:normalized_path_energy", range=AT_LEAST_MINUS_ONE, version=2,
    ),
    "transport_cost": Metric(
        "cost", "length^2", "lower", "flow", ("velocity|flow_map",), MEAN,
        "Mean squared displacement E|Z1 - Z0|^2; at least W2^2 of what it connects.",
        "fmbench.metrics.flow:transport_cost", range=NON_NEGATIVE,
    ),
    "curvature": Metric(
        "curv", "length^2", "lower", "flow", FIELD, MEAN,
        "Integral of the mean squared acceleration Dv/Dt; 0 for constant speed lines.",
        "fmbench.metrics.flow:curvature", range=NON_NEGATIVE, version=2,
    ),
    "kinetic_energy": Metric(
        "KE", "length^2", "lower", "flow", FIELD, MEAN,
        "Half the path energy; at least W2^2 / 2.",
        "fmbench.metrics.flow:kinetic_energy", range=NON_NEGATIVE, column=False, version=2,
    ),
    "monge_gap": Metric(
        "Monge gap", "length^2", "lower", "flow", FIELD, "Student t over four groups of trajectories",
        "Transport cost minus W2^2 between independent noise and samples, debiased; 0 for optimal maps.",
        "fmbench.metrics.monge_gap:measure", range=NON_NEGATIVE, version=2,
    ),
    "crossing": Metric(
        "V", "length^2", "lower", "flow", FIELD, MEAN,
        "Mean squared deviation of the velocity on the chords from the chords; 0 for straight paths that never cross.",
        "fmbench.metrics.crossing:measure", range=NON_NEGATIVE, column=False, tier=EXTENDED,
    ),
    "first_orderness": Metric(
        "Var eps", "length^2", "lower", "flow", FIELD, MEAN,
        "Variance of the noise prediction along a trajectory, mean over dimensions; 0 for first-order flows.",
        "fmbench.metrics.first_order:measure", range=NON_NEGATIVE, column=False, tier=EXTENDED,
    ),
    "velocity_error": Metric(
        "v err", "length^2", "neither", "flow", ("velocity", "oracle"), MEAN,
        "Squared distance to the exact velocity of independent pairs; other couplings aim at another velocity.",
        "fmbench.metrics.velocity_error:measure", range=NON_NEGATIVE, column=False, tier=EXTENDED,
    ),
    "relative_velocity_error": Metric(
        "rel v err", "", "neither", "flow", ("velocity", "oracle"), "delete-a-group jackknife over trajectories",
        "The same over the energy of the exact velocity: the share of the motion that was not learnt.",
        "fmbench.metrics.velocity_error:measure_relative", range=NON_NEGATIVE,
    ),
    "round_trip_error": Metric(
        "round trip", "length", "lower", "flow", FIELD, "delta method on the spread over trajectories",
        "RMS distance per dimension between a noise and itself after solving forward and back.",
        "fmbench.metrics.inversion:measure", range=NON_NEGATIVE, column=False, tier=EXTENDED,
    ),
    "lipschitz": Metric(
        "Lip", "1/time", "neither", "flow", FIELD, MEAN,
        "Largest singular value of dv/dx met along a trajectory, mean over trajectories.",
        "fmbench.metrics.lipschitz:measure", range=NON_NEGATIVE, column=False, tier=EXTENDED,
    ),
    "nll": Metric(
        "NLL", "nats", "lower", "flow", ("vector", *LIKELIHOOD), MEAN,
        "Exact negative log-likelihood of fresh real points.",
        "fmbench.metrics.likelihood:measure_nll",
    ),
    "bits_per_dimension": Metric(
        "BPD", "bits", "lower", "flow", ("image", "levels", *LIKELIHOOD), MEAN,
        "Negative log2-likelihood per pixel of held-out images, uniformly dequantised, Hutchinson trace.",
        "fmbench.metrics.likelihood:measure_bits", version=2,
    ),
}  # fmt: skip


class Metrics(Mapping[str, Metric]):
    """Metrics by name, built-in ones first. A plug-in is imported when it is asked for, and cannot replace a built-in."""

    @cached_property
    def plugins(self) -> dict[str, EntryPoint]:
        """Entry points of the group ``fmbench.metrics``."""
        return {point.name: point for point in entry_points(group="fmbench.metrics") if point.name not in BUILT_IN}

    def __getitem__(self, name: str) -> Metric:
        if name in BUILT_IN:
            return BUILT_IN[name]
        if name not in self.plugins:
            raise KeyError(name)
        point = self.plugins[name]
        with foreign(f"metric {name} ({point.value}) cannot be imported"):
            found = point.load()
        if not isinstance(found, Metric):
            raise ValueError(
                f"metric {name} ({point.value}) must be a fmbench.records.metric.Metric, got {type(found).__name__}"
            )
        return found

    def __contains__(self, name: object) -> bool:
        return name in BUILT_IN or name in self.plugins

    def __iter__(self) -> Iterator[str]:
        yield from BUILT_IN
        yield from self.plugins

    def __len__(self) -> int:
        return len(BUILT_IN) + len(self.plugins)


METRICS = Metrics()
