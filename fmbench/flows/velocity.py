"""A velocity field: its trajectories are the samples; likelihood and inversion come with it."""

from __future__ import annotations

from torch import nn

from fmbench.execution.checked import checked_points
from fmbench.flows.evaluations import GUIDANCE as AS_GUIDANCE
from fmbench.flows.evaluations import counted_as
from fmbench.flows.flow import CAPABILITIES, DENSITY, GUIDANCE, INVERSE, LABELS, SCORE, VELOCITY, Flow, as_draws
from fmbench.flows.network import evaluate
from fmbench.noise import Draws
from fmbench.records.sampler import Sampler
from fmbench.registry import SOLVERS
from fmbench.shapes import Condition, Points, Times, Velocity, as_condition


class VelocityFlow(Flow):
    """The velocity field of an ODE from source (t = 0) to data (t = 1).

    Attributes:
        net: its network; one with classes (``num_classes``) takes labels.
        label_dropout: probability that it was trained without the label; a field that never lost one cannot be guided.
        has_score: whether the score of its marginals follows from the velocity: a standard normal source, independent of the data.
        has_density: whether its samples have a density; False for a flow that ends in points, or in what a solver cannot tell from points.
    """

    label_dropout: float = 0.0
    has_density: bool = True
    has_score: bool = False

    def __init__(self, net: nn.Module) -> None:
        nn.Module.__init__(self)
        self.net = net

    @property
    def capabilities(self) -> frozenset[str]:
        """A velocity and its inverse; a density unless it ends in points; labels and guidance where it was trained with them."""
        can = {VELOCITY, INVERSE}
        can |= {DENSITY} if self.has_density else set()
        can |= {SCORE} if self.has_score else set()
        can |= {LABELS} if getattr(self.net, "num_classes", 0) else set()
        can |= {GUIDANCE} if LABELS in can and self.label_dropout else set()
        return frozenset(can)

    def accepts(self, sampler: Sampler) -> str | None:
        """A reason for a solver without steps, for one that draws noise where the score is not known, and those of :meth:`Flow.accepts`."""
        if SOLVERS.resolve(sampler.solver).stepless:
            return f"{sampler.solver} samples a bijection, and this model is a velocity field"
        if SOLVERS.resolve(sampler.solver).stochastic and SCORE not in self.capabilities:
            return f"{sampler.solver} needs {CAPABILITIES[SCORE]}"
        return super().accepts(sampler)

    def velocity(self, x: Points, t: Times, cond: Condition | None = None, guidance: float = 1.0) -> Points:
        """v(x, t), (batch, *shape); with ``guidance`` w != 1 it is ``v(x|none) + w (v(x|cond) - v(x|none))`` (2207.12598).

        Raises ValueError when the network returns anything but points like ``x``.
        """
        conditional = checked_points(evaluate(self.net, x, t, cond=as_condition(cond)), x)
        if cond is None or guidance == 1.0:
            return conditional
        with counted_as(AS_GUIDANCE):
            unconditional = checked_points(evaluate(self.net, x, t), x)
        return unconditional + guidance * (conditional - unconditional)

    def field(self, cond: Condition | None = None, guidance: float = 1.0) -> Velocity:
        """The velocity as a function of (x, t) only."""
        return lambda x, t: self.velocity(x, t, cond, guidance)

    def require_guidable(self, guidance: float, cond: Condition | None) -> None:
        """Raise ValueError for guidance without a condition, or of an entry not trained for it."""
        if guidance == 1.0:
            return
        if cond is None:
            raise ValueError(f"guidance {guidance} needs a class-conditional entry; this one takes no labels")
        if not self.label_dropout:
            raise ValueError(
                f"guidance {guidance} needs an entry trained with label_dropout > 0; this one never saw a null label"
            )

    def sample(self, draws: Draws, sampler: Sampler, cond: Condition | None = None) -> Points:
        """Integrate the velocity from t = 0 to t = 1. Raises ValueError for guidance without labels, or of an entry not trained for it."""
        cond, draws = as_condition(cond), as_draws(draws)
        self.require_guidable(sampler.guidance, cond)
        solver, field = sampler.make_solver(), self.field(cond, sampler.guidance)
        drawn = {"draws": draws} if solver.stochastic else {}
        return solver.solve(field, draws.start(), sampler.times(), **drawn)
