"""A small convolutional classifier whose penultimate layer gives features."""

from __future__ import annotations

from torch import Tensor, nn

from fmbench.nets.sizes import require_sizes
from fmbench.shapes import Condition, Points, Times


class CNN(nn.Module):
    """Two 3x3 convolutions, pooling, one more, a linear layer of ``features`` units and a linear classifier.

    The features are layer-normalised: every image has a feature vector of mean 0 and mean square 1, which fixes their scale.

    Args:
        shape: (channels, height, width).
        num_classes: classes.
        channels: width of the first convolutions (doubled below).
        features: size of the penultimate layer.
    """

    def __init__(self, shape: tuple[int, int, int], num_classes: int, channels: int = 32, features: int = 64) -> None:
        super().__init__()
        require_sizes("CNN", channels=channels, features=features)
        self.num_classes = num_classes
        area = (shape[1] // 2) * (shape[2] // 2)
        self.body = nn.Sequential(
            nn.Conv2d(shape[0], channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.SiLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(channels, 2 * channels, 3, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(2 * channels * area, features),
            nn.LayerNorm(features, elementwise_affine=False),
        )
        self.head = nn.Sequential(nn.SiLU(), nn.Linear(features, num_classes))

    def forward(
        self, x: Points, t: Times | None = None, *, r: Times | None = None, cond: Condition | None = None
    ) -> Tensor:
        """Class logits, (batch, num_classes); times and conditions are ignored."""
        return self.head(self.body(x))
