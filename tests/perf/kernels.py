"""What the kernels of the harness gain over how each was computed before, in one process: ``python tests/perf/kernels.py [--only w2]``.

Every line is one kernel on one input: CPU milliseconds of both ways, taken in turns, the median of their ratios (above 1 ours is faster)
and by how much the two answers differ, relative to the largest. Not a test: nothing here passes or fails.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from case import features
from measuring import compare

import fmbench
from fmbench.execution.checked import guarded_field
from fmbench.metrics import jacobian, lipschitz, mmd, prdc
from fmbench.metrics.kernel import polynomial_kernel
from fmbench.noise import generator
from fmbench.paths.couplings import costs, exact_pairs
from fmbench.shapes import Points, Velocity
from fmbench.transport.exact import wasserstein2

STEPS = 4
"""Steps of a solve whose nodes are looked at."""


@dataclass(frozen=True)
class Kernel:
    """One computation on one input, and how it was done before."""

    name: str
    input: str
    ours: Callable[[], Any]
    before: Callable[[], Any]


def _field(name: str, n: int) -> tuple[Velocity, Points, Points]:
    """Velocity of an entry, noises and real points."""
    model = fmbench.load(name)
    return guarded_field(model.method.field(None)), model.noise(0, n, 0), model.task.target.sample(n, generator(1))  # type: ignore[operator]


def derivatives() -> Iterator[Kernel]:
    """Products with a Jacobian from one graph, beside a pass for each."""
    for name, n in (("gaussian-8gaussians/cfm", 256), ("mixture-64d/cfm", 256), ("digits/cfm", 64)):
        velocity, x0, x1 = _field(name, n)
        times, probes = torch.full((n,), 0.5), torch.randn((1, *x0.shape), generator=generator(2)).sign()
        way = jacobian.linearisation(velocity, x0, times, second=True)

        def singular(how: Any = way, velocity: Any = velocity, x: Any = x0, t: Any = times) -> np.ndarray:
            start = torch.randn(x.shape, generator=generator(3))
            return lipschitz.largest_singular_value(velocity, x, t, start, 10, how)[0].numpy()

        def trace(how: Any = way, velocity: Any = velocity, x: Any = x1, t: Any = times, e: Any = probes) -> np.ndarray:
            return jacobian.hutchinson_divergence(velocity, x, t, e, how)[1].numpy()

        yield Kernel("Lipschitz, one node", f"{name}, {n}", singular, partial(singular, jacobian.by_passes))
        yield Kernel("Hutchinson trace", f"{name}, {n}", trace, partial(trace, jacobian.by_passes))


def transport() -> Iterator[Kernel]:
    """Exact transport by the solver that is chosen, beside the network simplex."""
    for name, n, steps in (("mixture-2d/cfm", 1000, 32), ("mixture-16d/cfm", 1000, 1), ("mixture-16d/cfm", 1000, 32)):
        model = fmbench.load(name)
        x = model.sample(n, seed=0, solver="euler", steps=steps).double().numpy()
        y = model.task.target.sample(n, generator(4)).double().numpy()
        yield Kernel("W2", f"{name}@{steps}, {n}", partial(wasserstein2, x, y), partial(wasserstein2, x, y, "simplex"))
    for name, n in (("gaussian-8gaussians/cfm", 256), ("mixture-64d/cfm", 256), ("digits/cfm", 128)):
        _, x0, x1 = _field(name, n)

        def pairs(x0: Points = x0, x1: Points = x1) -> np.ndarray:
            return x1[exact_pairs(x0, x1)[1]].numpy()

        def by_simplex(x0: Points = x0, x1: Points = x1) -> np.ndarray:
            from fmbench.transport.exact import simplex

            return x1[torch.from_numpy(simplex(costs(x0, x1)).partners)].numpy()

        yield Kernel("pairs of a batch", f"{name}, {n}", pairs, by_simplex)


def references() -> Iterator[Kernel]:
    """Distances to a reference that was seen before, beside one seen for the first time."""
    for n, d in ((1000, 64), (1000, 512)):
        x, y = features(n, d)
        cubic = polynomial_kernel(3, 1 / d, 1.0, y.mean(axis=0))
        known, reach = mmd.Within.of(y, cubic), prdc.reach_of(y, 5)

        def kid(reference: Any, interval: bool, x: Any = x, y: Any = y, kernel: Any = cubic) -> float:
            found = mmd.mmd_estimate(x, y, kernel, reference=reference, interval=interval).value
            assert found is not None
            return found

        yield Kernel("KD, known reference", f"{n}, {d}-d", partial(kid, known, True), partial(kid, None, True))
        yield Kernel("KD, one of several seeds", f"{n}, {d}-d", partial(kid, known, False), partial(kid, None, True))
        yield Kernel(
            "PRDC, known reference",
            f"{n}, {d}-d",
            lambda: prdc.prdc(x, y, real_reach=lambda: reach).real_balls,  # noqa: B023
            lambda: prdc.prdc(x, y).real_balls,  # noqa: B023
        )


GROUPS = {"derivatives": derivatives, "transport": transport, "references": references}


def line(kernel: Kernel, repeat: int) -> str:
    """One line of the table."""
    ours, before = (np.asarray(call(), dtype=np.float64) for call in (kernel.ours, kernel.before))
    apart = float(np.abs(ours - before).max()) / max(float(np.abs(before).max()), np.finfo(np.float64).tiny)
    timed = compare(kernel.ours, kernel.before, repeat, "cpu")
    spread = f"{timed.ratio:.2f} ({timed.least:.2f} to {timed.most:.2f})"
    return f"| {kernel.name} | {kernel.input} | {1e3 * timed.ours:.2f} | {1e3 * timed.theirs:.2f} | {spread} | {apart:.0e} |"


def imports() -> Iterator[str]:
    """CPU seconds of commands that should start at once, the least of three."""
    program = "import resource, sys; from fmbench.cli import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
    program += "u = resource.getrusage(resource.RUSAGE_SELF); print(u.ru_utime + u.ru_stime, file=sys.stderr)"
    for words in (["--help"], ["list"], ["list", "methods"]):
        runs = [
            subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
            for _ in range(3)
        ]
        yield f"| fmbench {' '.join(words)} | {min(float(r.stderr.split()[-1]) for r in runs):.2f} s |"


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", choices=[*GROUPS, "imports"], action="append", help="a group; may be repeated")
    parser.add_argument("--repeat", type=int, default=5, help="pairs of runs")
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    print("| kernel | input | ours ms | before ms | before / ours | difference |\n|---|---|---|---|---|---|")
    with torch.no_grad():
        for name, group in GROUPS.items():
            if args.only is None or name in args.only:
                for kernel in group():
                    print(line(kernel, args.repeat), flush=True)
    if args.only is None or "imports" in args.only:
        print("\n| command | CPU |\n|---|---|\n" + "\n".join(imports()))


if __name__ == "__main__":
    main()
