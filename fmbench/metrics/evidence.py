"""Evidence: what one evaluation has to show to its metrics, every part made when the first of them asks for it.

A metric is ``measure(evidence) -> Estimate``. It says in its ``needs`` what it looks at (:mod:`fmbench.records.needs`); whoever asks for a part
that is not there gets :class:`Lacking` with the same generated reason. Arrays are read-only and tensors copies, so that no metric changes what
the next one sees.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from fmbench.metrics.reference import Lacking, Part, Reference, Shared, frozen
from fmbench.metrics.trajectories import Trajectories
from fmbench.records import needs
from fmbench.shapes import Points, Velocity
from fmbench.storage import files
from fmbench.tasks.base import LogDensity

if TYPE_CHECKING:
    from fmbench.tasks.mixture import GaussianMixture

QUADRATIC = 10_000
"""Most samples of each set that metrics on all pairs look at."""


class Evidence(Shared):
    """What is known of one model on one task, and of one draw of its samples.

    Args:
        parts: by name, what there is: a :class:`Part`, or the value itself.
        marks: names of what is there and has no value: capabilities of the flow, properties of the space.
        real: the reference of samples.
        seed: evaluation seed; keys whatever a metric draws at random.
        only_seed: whether there is no other, so that the interval must come from these samples alone.
        kind: kind of the task.
        who: how a reason calls what has or has not a capability.
    """

    def __init__(
        self,
        parts: Mapping[str, Any],
        marks: Iterable[str] = (),
        real: Reference | None = None,
        seed: int = 0,
        only_seed: bool = True,
        kind: str = "vector",
        who: str = "the model",
    ) -> None:
        super().__init__()
        self.parts = {n: p if isinstance(p, Part) else Part(lambda p=p: p) for n, p in parts.items()}
        self.marks, self.kind, self.who = frozenset(marks), kind, who
        self._real, self.seed, self.only_seed = real, seed, only_seed

    def has(self, name: str) -> bool:
        """Whether something is there, by the name of a need. Nothing is made for the answer unless it may turn out to be missing."""
        if name == "reference":
            return self._real is not None and not self._real.stated
        part = self.parts.get(name)
        if part is None:
            return name in self.marks
        return not part.optional or part.get() is not None

    def lacks(self, wanted: Iterable[str]) -> str | None:
        """Why a metric with these needs cannot be measured; None when it can."""
        need = needs.missing(wanted, self.has)
        return None if need is None else needs.reason(need, self.who)

    def __getitem__(self, name: str) -> Any:
        """A part by its name, arrays read-only, tensors copied. Raises Lacking where it is not there."""
        found = self.parts[name].get() if name in self.parts else None
        if found is None:
            raise Lacking(needs.reason(name, self.who))
        return found.clone() if isinstance(found, Tensor) else frozen(found)

    # -- samples ------------------------------------------------------------------------------------------------------

    @property
    def samples(self) -> np.ndarray:
        """Samples of one sampler and seed, flattened by the space of the task: (n, d)."""
        return self["samples"]

    @property
    def real(self) -> Reference:
        """What the samples are compared with; ``real.once(key, make)`` keeps what depends on it alone. Raises Lacking without one."""
        if self._real is None:
            raise Lacking(needs.reason("reference"))
        return self._real

    @property
    def device(self) -> str:
        """Where work on pairs of samples is done, see :class:`Reference`; the CPU without one."""
        return "cpu" if self._real is None else self._real.device

    @property
    def reference(self) -> np.ndarray:
        """Real samples, (m, d)."""
        return self.real.points

    @property
    def reference_sha256(self) -> str:
        """Hash of the real samples."""
        return self.real.sha256

    @property
    def fresh_reference(self) -> bool:
        """Whether intervals must cover the randomness of the reference too, see :class:`Reference`."""
        return self.real.fresh

    @property
    def features(self) -> np.ndarray:
        """Features of the samples, (n, f)."""
        return self["features"]

    @property
    def reference_features(self) -> np.ndarray:
        """Features of the real samples, (m, f)."""
        return self.real.features

    @property
    def logits(self) -> np.ndarray:
        """Class logits of the samples, (n, classes), by the extractor."""
        return self["logits"]

    @property
    def extractor(self) -> dict[str, Any] | None:
        """Name and hash of the feature extractor, None without one."""
        return self["extractor"] if "extractor" in self.parts else None

    def extract(self, points: np.ndarray) -> np.ndarray:
        """Features, (k, f), of other flattened samples, (k, d)."""
        return self["extract"](points)

    @property
    def heldout(self) -> np.ndarray:
        """Real samples kept from training, (k, d), of a finite data set."""
        return self["heldout"]

    @property
    def heldout_features(self) -> np.ndarray:
        """Features of the held-out samples, (k, f)."""
        return self.real.once("heldout features", lambda: self.extract(self.heldout))

    @property
    def in_features(self) -> bool:
        """Whether samples and real samples have features, in which they are compared then."""
        return "features" in self.parts and self.real.has_features

    @property
    def compared(self) -> tuple[np.ndarray, np.ndarray]:
        """Generated and real features where there are any, else samples: (n, f) and (m, f)."""
        if self.in_features:
            return self.features, self.reference_features
        return self.samples, self.reference

    @property
    def quadratic(self) -> tuple[np.ndarray, np.ndarray]:
        """The first 10,000 rows of :attr:`compared`, for metrics whose work grows with n^2.

        Rows of a finite data set stand in the order of their hashes, so its first ones are as good as any.
        """
        generated, real = self.compared
        return generated[:QUADRATIC], real[:QUADRATIC]

    @property
    def details(self) -> dict[str, Any]:
        """What pins a metric of samples: extractor and reference."""
        stated = {"reference": "statistics"} if self.real.stated else {}
        pinned = {"reference_sha256": self.reference_sha256, "reference_n": self.real.n}
        return {"extractor": self.extractor, **pinned, **stated}

    @property
    def endpoints(self) -> np.ndarray:
        """Ends of the reference solve from the noises of the first k samples, (k, d)."""
        return self["endpoints"]

    # -- task ---------------------------------------------------------------------------------------------------------

    @property
    def mixture(self) -> GaussianMixture:
        """The target as a Gaussian mixture whose components are modes."""
        return self["mixture"]

    @property
    def w2_squared(self) -> tuple[float, float]:
        """W2^2 between source and target, length^2, and its half-width."""
        return self["w2_squared"]

    @property
    def oracle(self) -> Velocity:
        """The exact velocity of independent pairs."""
        return self["oracle"]

    @property
    def source_density(self) -> LogDensity:
        """Log density of the source in nats, (n, *shape) -> (n,)."""
        return self["source_density"]

    @property
    def levels(self) -> int:
        """Grey levels of images, equally spaced over [-1, 1]."""
        return self["levels"]

    # -- flow ---------------------------------------------------------------------------------------------------------

    @property
    def trajectories(self) -> Trajectories:
        """The reference solve, with copies of both its ends."""
        found = self["trajectories"]
        changes = {name: frozen(v) for name, v in vars(found).items() if isinstance(v, np.ndarray)}
        return replace(found, start=found.start.clone(), stop=found.stop.clone(), **changes)

    @property
    def cost(self) -> np.ndarray:
        """|Z1 - Z0|^2 per sample, (n,), length^2, also of a model that is only a map."""
        return self["cost"]

    @property
    def velocity(self) -> Velocity:
        """v(x, t) with the labels of the rows of ``x0`` bound; rows independent of each other, on the flow's device."""
        return self["velocity"]

    @property
    def x0(self) -> Points:
        """Source points to look at the field from, the first of the reference solve: (n, *shape)."""
        return self["x0"]

    @property
    def steps(self) -> int:
        """RK4 steps of what is solved from ``x0`` or from ``data``."""
        return self["steps"]

    @property
    def data(self) -> Points:
        """Fresh real points on the flow's device, (m, *shape)."""
        return self["data"]

    @property
    def data_velocity(self) -> Velocity:
        """The velocity with the labels of ``data`` bound."""
        return self["data_velocity"]

    @property
    def data_log_density(self) -> np.ndarray | None:
        """Log density of the target at ``data``, (m,) nats, None where it is not known: no model can do better on average."""
        return self["data_log_density"] if self.has("data_log_density") else None

    @property
    def log_density(self) -> LogDensity:
        """The flow's own log density, exact: (m, *shape) -> (m,) nats."""
        return self["exact_density"]

    @property
    def solver_details(self) -> dict[str, Any]:
        """Solver of the reference solve and how well PE = S + cost holds on it; empty where nothing is solved."""
        if "trajectories" not in self.parts:
            return {}
        solve = self["trajectories"]
        return {"solver": "rk4", "steps": solve.steps, "identity_residual": solve.residual}

    @property
    def probe(self) -> Evidence:
        """The evidence itself: what a probe had, velocity, x0, steps, data and so on, are its own attributes now."""
        warnings.warn("evidence.probe is now the evidence itself", DeprecationWarning, stacklevel=2)
        return self


def of_samples(
    samples: np.ndarray,
    reference: np.ndarray | Reference,
    *,
    features: Callable[[np.ndarray], np.ndarray] | None = None,
    marks: Iterable[str] = ("vector", "image", "coordinates"),
    seed: int = 0,
    only_seed: bool = True,
    fresh_reference: bool = False,
    extractor: Mapping[str, Any] | None = None,
    sha256: str = "",
    kind: str = "vector",
    device: str = "cpu",
    **parts: Any,
) -> Evidence:
    """Evidence of samples alone, to call a metric on arrays of one's own: a test, a known answer.

    Args:
        samples, reference: (n, d) and (m, d), or a :class:`Reference`.
        features: an extractor, (n, d) -> (n, f).
        marks: properties of the space; all that fmbench knows by default.
        seed, only_seed, fresh_reference, kind, device: see :class:`Evidence` and :class:`Reference`.
        extractor: what results say about the extractor.
        sha256: what results say about the reference, its own hash unless given.
        parts: further parts by name, e.g. ``heldout`` or ``logits``.
    """
    if not isinstance(reference, Reference):
        points = reference
        of_points = None if features is None else (lambda: features(points))
        pinned = lambda: sha256 or files.sha256(np.ascontiguousarray(points))  # noqa: E731
        reference = Reference(lambda: points, pinned, of_points, fresh=fresh_reference, device=device)
    own: dict[str, Any] = {"samples": samples}
    if features is not None:
        own["extract"] = features
        own["features"] = Part(lambda: features(samples))
    if extractor is not None:
        own["extractor"] = dict(extractor)
    return Evidence({**own, **parts}, marks, reference, seed, only_seed, kind)


def of_flow(
    velocity: Velocity | None,
    x0: Points | None,
    steps: int = 0,
    trajectories: Trajectories | None = None,
    *,
    marks: Iterable[str] = (),
    seed: int = 0,
    **parts: Any,
) -> Evidence:
    """Evidence of a flow alone: a field, points to look at it from, and a reference solve of it where a metric looks at one.

    Args:
        velocity: v(x, t), None for a flow without.
        x0: (n, *shape) source points, which stand for real points as well unless ``data`` is among the parts.
        steps: RK4 steps of what is solved from them.
        trajectories: the reference solve.
        marks: capabilities and properties of the space, beside those that follow from what is given.
        seed: see :class:`Evidence`.
        parts: further parts by name, e.g. ``w2_squared`` or ``source_density``.
    """
    own: dict[str, Any] = {}
    if velocity is not None:
        own |= {"velocity": velocity, "data_velocity": velocity, "steps": steps}
    if x0 is not None:
        own |= {"x0": x0, "data": x0}
    if trajectories is not None:
        own |= {"trajectories": trajectories, "cost": trajectories.cost}
        marks = {*marks, "velocity"}
    return Evidence({**own, **parts}, marks, seed=seed)
