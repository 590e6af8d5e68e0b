"""A map between two times (the average velocity of MeanFlow, 2505.13447): ``x_t = x_r + (t - r) u(x_r, r, t)``, trained with a JVP."""

import torch

from fmbench.flows.flow_map import FlowMap
from fmbench.methods import Method
from fmbench.nets.mlp import MLP
from fmbench.shapes import like


class TwoTime(FlowMap, Method):
    """Average velocities from their identity ``u = v - (t - r) du/dr`` along straight paths, target without gradient."""

    summary = "average velocity between two times"
    reference = "arXiv:2505.13447"

    @classmethod
    def build_net(cls, task, net, conditional):
        return MLP(task.shape, width=64, depth=3, second_time=True)

    def jump(self, x, r, t, cond=None):
        return x + like(t - r, x) * self.net(x, t, r=r)

    def loss(self, batch, generator):
        times = torch.rand((2, len(batch.x0)), generator=generator).to(batch.x0)
        r, t = times.amin(0), times.amax(0)
        v = batch.x1 - batch.x0
        x_r = batch.x0 + like(r, v) * v
        u, change = torch.func.jvp(lambda x, s: self.net(x, t, r=s), (x_r, r), (v, torch.ones_like(r)))
        target = (v + like(t - r, v) * change).detach()
        return (u - target).square().mean()
