"""Real samples as metrics see them, and what depends on them alone: computed once for all that is compared with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from fmbench.records import needs
from fmbench.statistics.moments import Moments

T = TypeVar("T")


class Lacking(ValueError):
    """A metric asked for what is not there; the message is the reason why it is not measured."""


class Part:
    """What ``make`` gives, made at the first :meth:`get`; a failure is remembered like a value, and raised again.

    Attributes:
        optional: whether ``make`` may give None, for something that is not there after all.
    """

    def __init__(self, make: Callable[[], Any], optional: bool = False) -> None:
        self.make: Callable[[], Any] | None = make
        self.optional = optional
        self.value: Any = None
        self.error: Exception | None = None

    def get(self) -> Any:
        """The value. Raises what making it raised."""
        if self.make is not None:
            try:
                self.value = self.make()
            except Exception as error:
                self.error = error
            self.make = None
        if self.error is not None:
            raise self.error
        return self.value


class Shared:
    """Something that several metrics look at, and what the first of them made of it."""

    def __init__(self) -> None:
        self.made: dict[Any, Part] = {}

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """``make()`` for the first that asks for ``key``, the same again for the others; arrays come back read-only.

        ``key`` is hashable and says what was computed, with every setting that changes it.
        """
        if key not in self.made:
            self.made[key] = Part(lambda: frozen(make()))
        return self.made[key].get()


def frozen(value: Any) -> Any:
    """A read-only view of an array, or of every array in a tuple; anything else as it is."""
    if isinstance(value, np.ndarray):
        value = value.view()
        value.flags.writeable = False
    elif type(value) is tuple:
        value = tuple(map(frozen, value))
    return value


class Reference(Shared):
    """Real samples that generated ones are compared with. It outlives one evaluation: :meth:`once` serves all samplers, seeds and entries.

    Args:
        points: makes the real samples, (m, d); None where nothing but statistics of them is known.
        sha256: makes the hash that pins them.
        features: makes their features, (m, f); None without an extractor.
        moments: makes mean and covariance of the features, where they are stated; computed from the features otherwise.
        fresh: whether they were drawn for one seed from an endless target, so that intervals must cover their randomness too. A finite
            data set is part of a metric's definition: intervals hold given it.
        device: where pairs of its points and of others are looked at: that of the evaluation, said here and nowhere else.
    """

    def __init__(
        self,
        points: Callable[[], np.ndarray] | None,
        sha256: Callable[[], str],
        features: Callable[[], np.ndarray | None] | None = None,
        moments: Callable[[], Any] | None = None,
        fresh: bool = False,
        device: str = "cpu",
    ) -> None:
        super().__init__()
        self._points, self._sha256, self._features, self._moments = points, sha256, features, moments
        self.stated, self.fresh, self.device = points is None, fresh, device

    @property
    def points(self) -> np.ndarray:
        """The real samples, (m, d). Raises Lacking where there are only statistics."""
        if self._points is None:
            raise Lacking(needs.reason("reference"))
        return self.once("points", self._points)

    @property
    def sha256(self) -> str:
        """Hash that pins the real samples."""
        return self.once("sha256", self._sha256)

    @property
    def features(self) -> np.ndarray:
        """Features of the real samples, (m, f). Raises Lacking without them."""
        if self._features is None:
            raise Lacking(needs.reason("reference" if self.stated else "features"))
        found = self.once("features", self._features)
        if found is None:
            raise Lacking(needs.reason("features"))
        return found

    @property
    def has_features(self) -> bool:
        """Whether every real sample has features."""
        return self._features is not None

    @property
    def moments(self) -> Any:
        """Mean and covariance of the features: ``mean`` (f,) and ``cov`` (f, f), float64."""
        return self.once("moments", self._moments or (lambda: Moments.of(self.features)))

    @property
    def n(self) -> int | None:
        """Number of real samples; None where there are only statistics, of which nobody says how many they are of."""
        return None if self.stated else len(self.points if self._features is None else self.features)
