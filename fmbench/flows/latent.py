"""A flow inside the latent space of an autoencoder (Dao et al., 2307.08698): its samples are decoded, and the decoder is counted apart."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from fmbench.flows.flow import GUIDANCE, LABELS, Flow
from fmbench.noise import Draws
from fmbench.records.sampler import Sampler
from fmbench.shapes import Condition, Points
from fmbench.tasks.base import Distribution, StandardNormal, Task


class LatentFlow(Flow):
    """A flow of latents, and the decoder that makes data of them.

    Its trajectories are those of latents, which the harness does not measure as if they were data: it has no velocity there.

    Args:
        inner: the flow in the latent space, from a standard normal source.
        decoder: latents, (batch, *latent), to data, (batch, *shape).
        latent: shape of one latent.
    """

    def __init__(self, inner: Flow, decoder: nn.Module, latent: tuple[int, ...]) -> None:
        nn.Module.__init__(self)
        self.inner, self.decoder, self.latent = inner, decoder, tuple(latent)

    @property
    def capabilities(self) -> frozenset[str]:
        """Labels and guidance of the flow inside."""
        return self.inner.capabilities & {LABELS, GUIDANCE}

    def networks(self) -> Mapping[str, nn.Module]:
        """Those of the flow inside, and the decoder."""
        return {**self.inner.networks(), "decoder": self.decoder}

    def source(self, task: Task) -> Distribution:
        """N(0, I) of the latent's shape."""
        return StandardNormal(self.latent)

    def accepts(self, sampler: Sampler) -> str | None:
        """See :meth:`Flow.accepts`, applied to the inner flow."""
        return self.inner.accepts(sampler)

    def sample(self, draws: Draws, sampler: Sampler, cond: Condition | None = None) -> Points:
        """Latents of the flow inside, decoded."""
        return self.decoder(self.inner.sample(draws, sampler, cond))
