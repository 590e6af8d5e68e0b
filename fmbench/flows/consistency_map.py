"""A consistency function: from any point of a trajectory straight to its end at the data (Song et al., ICML 2023, 2303.01469)."""

from __future__ import annotations

from typing import ClassVar

from fmbench.flows.flow_map import FlowMap
from fmbench.flows.network import evaluate
from fmbench.shapes import Condition, Points, Times, like


class ConsistencyMap(FlowMap):
    """``f(x_t, t) = x_t + (1 - t) net(x_t, t)``, which is x itself at t = 1 whatever the network is.

    A jump to t < 1 goes to the data and back along the path with fresh noise, ``(1 - t) noise + t f(x_r, r)`` (Algorithm 1 of the paper on
    ``x_t = (1-t) x0 + t x1``): it needs a standard normal source.
    """

    noisy: ClassVar[bool] = True

    def data(self, x: Points, t: Times, cond: Condition | None = None) -> Points:
        """f(x, t): the data point at the end of the trajectory through ``x`` at ``t``, (batch, *shape)."""
        return x + like(1 - t, x) * evaluate(self.net, x, t, cond=cond)  # type: ignore[arg-type]

    def jump(self, x: Points, r: Times, t: Times, cond: Condition | None = None, noise: Points | None = None) -> Points:
        """See :meth:`FlowMap.jump`; without ``noise`` the data point itself, at t = 1."""
        found = self.data(x, r, cond)
        return found if noise is None else like(1 - t, x) * noise + like(t, x) * found
