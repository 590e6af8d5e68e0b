"""fmbench sample."""

from __future__ import annotations

import argparse
from pathlib import Path

from fmbench.cli.shared import DONE, Add, UsageError, device_of, positive, print_json


def cmd_sample(args: argparse.Namespace) -> int:
    """Samples into a picture or an array file."""
    import io

    import numpy as np
    import torch

    from fmbench.execution.foreign import foreign, isolated
    from fmbench.registry import file_class
    from fmbench.storage.files import write_atomic
    from fmbench.zoo.pictures import picture, trajectories
    from fmbench.zoo.resolve import resolve

    suffix = args.output.suffix.lower()
    if suffix not in (".png", ".npy"):
        raise UsageError(f"output {args.output} must end in .png or .npy")
    if args.task is not None and file_class(args.entry) is None:
        raise UsageError(f"--task {args.task} is for a file.py:Class; {args.entry} says its own")
    if args.seed < 0:
        raise UsageError(f"--seed must be 0 or more, got {args.seed}")
    device = device_of(args.device)
    named = resolve(args.entry, args.task)
    with foreign(), isolated():
        model = named.load(device, args.trust_remote_code)
    labels = None
    if args.label is not None:
        if not model.conditional or not 0 <= args.label < model.task.num_classes:
            raise UsageError(
                f"--label {args.label}: {model.name} takes {f'0 to {model.task.num_classes - 1}' if model.conditional else 'no labels'}"
            )
        labels = torch.full((args.n,), args.label)
    buffer = io.BytesIO()
    if args.trajectory is not None:
        if suffix != ".png":
            raise UsageError(f"trajectories are a picture: output {args.output} must end in .png")
        if args.solver != "euler":
            raise UsageError(f"trajectories are drawn by euler; leave --solver {args.solver} out")
        chosen = {"seed": args.seed, "steps": args.steps or 32, "guidance": args.guidance, "labels": labels}
        with foreign():
            drawn = trajectories(model, args.n, columns=args.trajectory, **chosen)
        drawn.save(buffer, format="png")
        shape = (args.n, args.trajectory, *model.task.shape)
    else:
        x = model.sample(
            args.n, seed=args.seed, solver=args.solver, steps=args.steps, guidance=args.guidance, labels=labels
        )
        shape = tuple(x.shape)
        if suffix == ".png":
            picture(x).save(buffer, format="png")
        else:
            np.save(buffer, x.numpy(), allow_pickle=False)
    write_atomic(args.output, buffer.getvalue())
    if args.json:
        print_json({"output": str(args.output), "shape": list(shape)})
    else:
        print(f"{args.output}: {shape}")
    return DONE


def add(add: Add) -> None:
    """The command."""
    p = add("sample", cmd_sample, "draw samples from an entry")
    p.add_argument("entry", help="task/entry, folder, hf:owner/name@revision or file.py:Class")
    p.add_argument("-n", type=positive, default=64)
    p.add_argument("--steps", type=positive, help="solver steps (default: 32)")
    p.add_argument("--solver", default="euler")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--guidance", type=float, default=1.0, help="classifier-free guidance scale of conditional entries")
    p.add_argument("--label", type=int, help="one class for all samples of a conditional entry")
    p.add_argument(
        "--trajectory", type=positive, metavar="TIMES", help="draw each sample at so many times from noise to image"
    )
    p.add_argument("--task", help="task of a file.py:Class")
    p.add_argument("--trust-remote-code", action="store_true", help="run the code of an hf:owner/name@COMMIT")
    p.add_argument("--device", default="auto")
    p.add_argument("-o", "--output", type=Path, default=Path("samples.png"), help=".png or .npy")
