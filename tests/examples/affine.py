"""A normalizing flow of one affine layer: its density is exact, and so is what maximum likelihood makes of it."""

import math

import torch
from torch import nn

from fmbench.flows.bijection import Bijection
from fmbench.methods import Method


class Layer(nn.Module):
    """``z = L (x - m)`` with ``L`` lower triangular, positive on its diagonal."""

    def __init__(self, size):
        super().__init__()
        self.mean, self.lower, self.log_diagonal = (nn.Parameter(torch.zeros(s)) for s in (size, (size, size), size))

    def matrix(self):
        return torch.tril(self.lower, -1) + torch.diag(self.log_diagonal.exp())

    def forward(self, x):
        return (x - self.mean) @ self.matrix().T, self.log_diagonal.sum().expand(len(x))


class Back(nn.Module):
    """The inverse of a layer, as a module so that its evaluations are counted."""

    def __init__(self, layer):
        super().__init__()
        self.__dict__["layer"] = layer

    def forward(self, z):
        return torch.linalg.solve_triangular(self.layer.matrix(), z.T, upper=False).T + self.layer.mean


class Affine(Bijection, Method):
    """Maximum likelihood of a Gaussian, as a flow."""

    summary = "one affine layer"

    def __init__(self, net):
        super().__init__(net)
        self.back = Back(net)

    @classmethod
    def build_net(cls, task, net, conditional):
        return Layer(task.dim)

    def networks(self):
        return {"network": nn.ModuleList([self.net, self.back])}

    def forward_with_logdet(self, x, cond=None):
        return self.net(x)

    def invert(self, z, cond=None):
        return self.back(z)

    def source_log_density(self, z):
        return -0.5 * (z.square().sum(1) + z.shape[1] * math.log(2 * math.pi))

    def loss(self, batch, generator):
        return -self.log_density(batch.x1).mean()
