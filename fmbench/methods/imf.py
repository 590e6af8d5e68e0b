"""Improved MeanFlow (iMF): Geng, Lu, Wu, Shechtman, Kolter, He, 2512.02012."""

from __future__ import annotations

import torch

from fmbench.methods.meanflow import MeanFlow
from fmbench.shapes import Condition, Points, Times


class IMF(MeanFlow):
    """MeanFlow as a regression of the velocity, differentiated along the network's own velocity instead of that of the pair.

    The prediction ``V = u - (t - r) sg(du/dr)`` is regressed on ``v = x1 - x0``, a target that does not depend on the network:

        E w |V - v|^2,    du/dr = JVP of u along (u(x_r, r, r), 1, 0) in (x, r, t)

    ``V - v`` is MeanFlow's error with another tangent. The conditional velocity is a noisy one whose mean is right, and the noise is
    amplified by ``(t - r) grad u``; the network's own at r = t is the marginal velocity as far as it is learned. For t = r both are flow
    matching.

    Pitfalls: the tangent must be without gradient; early in training it is wrong, which the samples with t = r repair. The second head of
    the official code, for the tangent, is left out: one network gives both.

    Args: those of :class:`~fmbench.methods.meanflow.MeanFlow`.
    """

    summary = "average velocity as a regression on the velocity, differentiated along the network's own"
    reference = "arXiv:2512.02012"
    objective = "E w |u(x_r, r, t) - (t - r) sg(du/dr) - v|^2, du/dr = JVP of u along (u(x_r, r, r), 1, 0), v = x1 - x0"

    def direction(self, x: Points, r: Times, v: Points, cond: Condition | None) -> Points:
        """The network's own velocity."""
        with torch.no_grad():
            return self.average(x, r, r, cond)
