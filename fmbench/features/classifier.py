"""A classifier: no generative model, but the source of in-domain features, trained by the same recipe machinery."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmbench.flows.flow import FEATURES
from fmbench.methods.base import Batch, Method
from fmbench.noise import Draws
from fmbench.records.sampler import Sampler
from fmbench.shapes import Condition, Points
from fmbench.tasks.base import Task


class Classifier(Method):
    """Cross entropy on training images shifted by up to ``shift`` pixels and blurred by noise of std ``noise``.

    The augmentation makes the features react to content rather than to the exact pixel grid.
    """

    summary = "image classifier, used as feature extractor"

    def __init__(self, net: nn.Module, noise: float = 0.1, shift: int = 1) -> None:
        super().__init__(net)
        self.noise, self.shift = noise, shift

    @classmethod
    def build_net(cls, task: Task, net: dict, conditional: bool) -> nn.Module:  # noqa: ARG003
        """A classifier always knows the classes. Raises ValueError for a network that needs a time."""
        if net.get("name") != "cnn":
            raise ValueError(
                f"a classifier needs the network cnn, got {net.get('name')}; train a folder whose recipe.toml has it"
            )
        return super().build_net(task, net, conditional=True)

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Mean cross entropy in nats. Raises ValueError on a task without labels."""
        if batch.labels is None:
            raise ValueError("a classifier needs a task with labels")
        rows, columns = torch.randint(-self.shift, self.shift + 1, (2,), generator=generator).tolist()
        x = F.pad(batch.x1, [self.shift] * 4, value=-1.0)
        height, width = batch.x1.shape[-2:]
        x = x[..., self.shift + rows : self.shift + rows + height, self.shift + columns : self.shift + columns + width]
        x = x + self.noise * torch.randn(x.shape, generator=generator).to(x)
        return F.cross_entropy(self.net(x), batch.labels)

    def diagnostics(self, task: Task) -> dict[str, float]:
        """Accuracy on the held-out images."""
        images, labels = task.heldout.points()  # type: ignore[attr-defined]
        device = next(self.parameters()).device
        with torch.no_grad():
            predicted = self.net(images.to(device)).argmax(dim=1).cpu()
        return {"heldout_accuracy": round(float((predicted == labels).float().mean()), 4)}

    def features(self, x: Points) -> Tensor:
        """Penultimate activations, (batch, features)."""
        return self.net.body(x)  # type: ignore[operator]

    @property
    def capabilities(self) -> frozenset[str]:
        """Features, and nothing that a flow can do."""
        return frozenset({FEATURES})

    def accepts(self, sampler: Sampler) -> str | None:
        """The reason: a classifier does not generate."""
        return "a classifier generates no samples; it is a feature extractor"

    def sample(self, draws: Draws, sampler: Sampler, cond: Condition | None = None) -> Points:
        """Raises ValueError: a classifier does not generate."""
        raise ValueError(self.accepts(sampler))
