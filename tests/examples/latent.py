"""A flow in a latent space of one dimension, and a decoder that makes two of it."""

import torch
from torch import nn

from fmbench.flows.latent import LatentFlow
from fmbench.methods import Method, VelocityMethod
from fmbench.nets.mlp import MLP
from fmbench.shapes import like


class Inner(VelocityMethod):
    """The field of latents."""

    def loss(self, batch, generator):
        raise ValueError("trained by the latent flow around it")


class Latent(LatentFlow, Method):
    """CFM on the first coordinate; the decoder learns the second from it."""

    summary = "one latent, decoded to two coordinates"

    def __init__(self, net):
        super().__init__(Inner(net), nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 2)), (1,))
        self.net = net

    @classmethod
    def build_net(cls, task, net, conditional):
        return MLP((1,), width=32, depth=2)

    def loss(self, batch, generator):
        t = torch.rand(len(batch.x0), generator=generator).to(batch.x0)
        start, stop = batch.x0[:, :1], batch.x1[:, :1]
        s = like(t, start)
        flow = (self.net((1 - s) * start + s * stop, t) - (stop - start)).square().mean()
        return flow + (self.decoder(stop) - batch.x1).square().mean()
