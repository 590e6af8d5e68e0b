"""A velocity field of two networks: a trunk, and a head that is evaluated three times for every evaluation of the trunk."""

from torch import nn

from fmbench.methods import VelocityMethod
from fmbench.methods.base import uniform_times
from fmbench.nets.mlp import MLP
from fmbench.shapes import like

TIMES = 3


class Head(nn.Module):
    """A small network of the trunk's output."""

    def __init__(self, size):
        super().__init__()
        self.layer = nn.Linear(size, size)

    def forward(self, h):
        return h + 0.1 * self.layer(h)


class Headed(VelocityMethod):
    """CFM through a trunk and a head."""

    summary = "a trunk and a head"

    def __init__(self, net):
        super().__init__(net)
        self.head = Head(2)

    @classmethod
    def build_net(cls, task, net, conditional):
        return MLP(task.shape, width=32, depth=2)

    def networks(self):
        return {"network": self.net, "head": self.head}

    def velocity(self, x, t, cond=None, guidance=1.0):
        h = self.net(x, t)
        for _ in range(TIMES):
            h = self.head(h)
        return h

    def loss(self, batch, generator):
        t = uniform_times(batch, generator)
        s = like(t, batch.x0)
        return (self.velocity((1 - s) * batch.x0 + s * batch.x1, t) - (batch.x1 - batch.x0)).square().mean()
