"""Peak host memory of scoring CIFAR-10: 50,000 samples against 50,000 training images, features of Inception's width.

    python tests/perf/memory.py [--samples 50000] [--metrics frechet_distance kernel_distance precision]

The network is a stand-in (random projections of the pixels to 2,048 ReLU features), because memory depends on the width of the features
and the number of images, and the real one takes hours on a CPU. Needs the data set: the Hub, or a mirror in HF_ENDPOINT.
"""

from __future__ import annotations

import argparse
import time

import torch

from fmbench.evaluation.cost.memory import process_peak
from fmbench.evaluation.scoring import Scorer
from fmbench.features.extractor import Extractor, InDomain
from fmbench.noise import generator
from fmbench.registry import TASKS

WIDTH = 2048


def stand_in() -> Extractor:
    """2,048 features of (3, 32, 32) images, the same on every machine."""
    projection = torch.randn((3 * 8 * 8, WIDTH), generator=generator(1)) / 8

    def network(x: torch.Tensor) -> tuple[torch.Tensor, None]:
        return torch.nn.functional.avg_pool2d(x, 4).flatten(1).matmul(projection).relu(), None

    return Extractor("stand-in", "0" * 64, network, InDomain((3, 32, 32)), 1000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--metrics", nargs="+", default=["frechet_distance", "kernel_distance", "precision", "recall"])
    args = parser.parse_args()
    task = TASKS.resolve("cifar10")()
    print(f"imports and data set: {process_peak() / 1e9:.2f} GB")
    # Samples as a run holds them: float32 tensors, here real images with noise.
    samples = torch.empty((args.samples, *task.shape))
    random = generator(2)
    for start in range(0, args.samples, 1000):
        part = samples[start : start + 1000]
        part.copy_(task.target.sample(len(part), random)).add_(0.1 * torch.randn(part.shape, generator=random))
    print(f"{args.samples} samples made: {process_peak() / 1e9:.2f} GB")
    scorer = Scorer(task, args.metrics, (0,), args.samples, stand_in())
    evidence = scorer.evidence(samples, 0)
    for name in args.metrics:
        began = time.process_time()
        scorer.metrics = [name]
        estimate = scorer.score([evidence])[name]
        value = estimate.reason if estimate.value is None else f"{estimate.value:.5g}"
        print(f"{name} {value}: {process_peak() / 1e9:.2f} GB, {time.process_time() - began:.0f} s of CPU")


if __name__ == "__main__":
    main()
