"""fmbench train and check."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from fmbench.cli.shared import DONE, FAILED, Add, UsageError, device_of, not_negative, positive, print_json, setting
from fmbench.progress import progress_bars

MOST_THREADS = 1024


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """Recipe settings changed by the options. Raises UsageError for a setting given twice."""
    given = list(args.set or [])
    if args.teacher is not None:
        given.append(("teacher", args.teacher))
    if args.conditional:
        given.append(("conditional", True))
    if args.precision:
        given.append(("train.precision", {"bf16": "bfloat16"}.get(args.precision, args.precision)))
    keys = [key for key, _ in given]
    twice = [key for key in keys if keys.count(key) > 1]
    if twice:
        raise UsageError(f"{twice[0]} is set twice; say it once")
    return dict(given)


def _require_own_words(chosen: Any, args: argparse.Namespace) -> None:
    """Raise UsageError when a recipe read from a file names code that the command line does not name."""
    from fmbench.registry import file_class

    for option, named, given in (
        ("--method", chosen.method["name"], args.method),
        ("--teacher", chosen.teacher or "", args.teacher),
    ):
        if file_class(named) is not None and given != named:
            raise UsageError(f"{args.entry} runs code from {named}; say so with {option} {named}")


def _of_training(recipe: Any, entry: Any, args: argparse.Namespace) -> Any:
    """The recipe of what was named; that of one training of an entry starts from the teacher that this training had."""
    from fmbench.records.names import split_training
    from fmbench.training.seeds import teacher_of

    index = split_training(entry.name)[1]
    if index is None:
        return recipe
    if args.out is None or args.seeds is not None or args.adopt:
        raise UsageError(
            f"{args.entry} is one training of {entry.whole}; say where to make it again with --out, or train the entry, with --seeds"
        )
    return replace(recipe, teacher=teacher_of(recipe, index))


def _recipe(args: argparse.Namespace) -> tuple[Any, Path]:
    """The recipe to train and the folder to write."""
    from fmbench.records import recipe
    from fmbench.records.names import check_name
    from fmbench.registry import TASKS, file_class
    from fmbench.zoo import catalogue
    from fmbench.zoo.code import rule_parameters
    from fmbench.zoo.resolve import resolve

    settings = _settings(args)
    if args.entry is not None:
        named = resolve(args.entry)
        chosen, out = named.entry.recipe, named.entry.folder
        if named.hub is not None and args.out is None:
            raise UsageError(f"{args.entry} lies in the cache of the Hub's client; say where to train it with --out")
        if args.task is not None or args.method not in (None, chosen.method["name"]):
            raise UsageError("give an entry folder, or --method and --task, not both")
        _require_own_words(chosen, args)
        chosen = _of_training(chosen, named.entry, args)
    elif args.method and args.task:
        _, name = file_class(args.method) or ("", args.method)
        task = TASKS.resolve(args.task)()
        chosen = recipe.closed(task, args.method, rule_parameters(args.method, task))
        folder = catalogue.kebab(name) + catalogue.CONDITIONAL * args.conditional
        out = catalogue.LOCAL_ENTRIES / check_name(args.task, "a task") / check_name(folder, "an entry")
    else:
        raise UsageError("give an entry folder (fmbench train zoo/digits/ot-cfm), or --method and --task")
    return (recipe.override(chosen, settings) if settings else chosen), args.out or out


def _main_process() -> bool:
    """Whether this process speaks: under `accelerate launch` or torchrun every process runs the command."""
    return os.environ.get("RANK", "0") == "0"


def _trained(chosen: Any, out: Path, name: str, args: argparse.Namespace) -> bool:
    """Train one recipe into a folder with progress; returns whether it is finished."""
    from fmbench.training.run import train

    steps, device = chosen.train.steps, device_of(args.device)
    with progress_bars(_main_process() and not args.json) as progress:
        bar = progress.add_task(name, total=steps)

        def report(step: int, loss: float) -> None:
            if step % 20 == 0:
                speed = (progress.tasks[0].speed or 0.0) * chosen.train.batch_size
                text = f"{name} step {step}, loss {loss:.4f}, {speed:,.0f} samples/s"
                progress.update(bar, completed=step, description=text)
            if progress.disable and not args.json and step % max(1, steps // 20) == 0:
                # A log file gets twenty lines in place of a bar.
                print(f"{name} step {step} of {steps}, loss {loss:.4f}", file=sys.stderr)

        train(
            chosen,
            out,
            device=device,
            max_steps=args.max_steps,
            report=report,
            accumulate=args.accumulate,
            processes=args.processes,
            overwrite=args.overwrite,
            checkpoint_seconds=60 * args.checkpoint_minutes,
        )
    return (out / "model.safetensors").is_file() and (args.max_steps is None or args.max_steps >= steps)


def _require_alone(args: argparse.Namespace) -> None:
    """Raise UsageError for options that say nothing about several trainings."""
    for option, given in (("--max-steps", args.max_steps), ("--overwrite", args.overwrite)):
        if given:
            raise UsageError(f"{option} is for one training; leave it out beside --seeds and --adopt")
    if _main_process() and os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError("--seeds and --adopt run in one process; start one launcher per seed with --set train.seed=K")


def cmd_train(args: argparse.Namespace) -> int:
    """Train a recipe, with one seed or with several."""
    import torch

    from fmbench.training import seeds
    from fmbench.zoo.code import method_class

    chosen, out = _recipe(args)
    if args.threads is not None:
        if args.threads > MOST_THREADS:
            raise UsageError(f"--threads must be at most {MOST_THREADS}, got {args.threads}")
        torch.set_num_threads(args.threads)
    name = f"{chosen.task}/{out.name}"
    if args.seeds is None and not args.adopt:
        return _said(args, out, _trained(replace(chosen, replicates=()), out, name, args))
    _require_alone(args)
    kind = method_class(args.method) if args.method and chosen.method["name"] == args.method else None
    for folder in args.adopt or ():
        seeds.adopt(out, folder, kind)
    planned = seeds.missing(chosen, out, args.seeds or 0)

    def train(recipe: Any, folder: Path) -> bool:
        return _trained(recipe, folder, f"{name} seed {recipe.train.seed}", args)

    return _said(args, out, seeds.train_seeds(planned, out, train, kind))


def _said(args: argparse.Namespace, out: Path, finished: bool) -> int:
    """Print what a training left in its folder."""
    if not _main_process():
        return DONE
    from fmbench.zoo.catalogue import open_folder

    trainings = open_folder(out).recipe.trainings if finished else 0
    if args.json:
        print_json({"folder": str(out), "finished": finished, "trainings": trainings})
    elif not finished:
        print(f"{out}: checkpoint; run again to continue")
    else:
        several = f" of {trainings} trainings" if trainings > 1 else ""
        print(f"{out}: model.safetensors{several}, recipe.toml, README.md")
    return DONE


def cmd_card(args: argparse.Namespace) -> int:
    """Write model cards again."""
    from fmbench.zoo.code import method_class
    from fmbench.zoo.entry import write_card
    from fmbench.zoo.resolve import resolve

    kind, named = None if args.method is None else method_class(args.method), [resolve(name) for name in args.entry]
    if there := next((one.spec for one in named if one.hub is not None), None):
        raise UsageError(f"{there} lies on the Hub; fmbench push writes its card")
    if part := next((one for one in named if one.found and one.entry.name != one.entry.whole), None):
        raise UsageError(f"{part.spec} is one training of {part.entry.whole}, which has one card for all of them")
    written = [str(path) for one in named for path in write_card(one.entry, kind)]
    print_json(written) if args.json else print("\n".join(written))
    return DONE


def cmd_check(args: argparse.Namespace) -> int:
    """Run the conformance suite."""
    from fmbench.testing import check_method

    checks = check_method(args.method, args.task)
    if args.json:
        print_json([{"check": c.name, "error": c.error} for c in checks])
    else:
        for check in checks:
            print(
                f"{'ok    ' if check.error is None else 'FAILED'}  {check.name}"
                + (f": {check.error}" if check.error else "")
            )
    return FAILED if any(c.error for c in checks) else DONE


def add(add: Add) -> None:
    """Add the commands."""
    p = add("train", cmd_train, "train a recipe into an entry folder")
    p.add_argument("entry", nargs="?", help="a folder with recipe.toml, or task/entry of the zoo")
    p.add_argument("--method", help="a method name or file.py:Class, with the closed recipe of --task")
    p.add_argument("--task")
    p.add_argument("--teacher", help="task/entry of the teacher for reflow and distillation")
    p.add_argument(
        "--conditional", action="store_true", help="tell the network the class labels, for a task that has them"
    )
    p.add_argument(
        "--set", action="append", type=setting, metavar="KEY=VALUE", help="change a recipe key, e.g. train.steps=500"
    )
    p.add_argument("--out", type=Path, help="folder to write (default: the entry, or entries/TASK/METHOD)")
    p.add_argument("--device", default="auto")
    p.add_argument("--max-steps", type=positive, help="stop early and leave a checkpoint")
    p.add_argument(
        "--processes", type=positive, default=1, help="processes that share every batch, one per GPU on CUDA"
    )
    p.add_argument("--accumulate", type=positive, default=1, help="parts every batch is evaluated in, to save memory")
    p.add_argument(
        "--precision", choices=("float32", "bf16", "bfloat16", "auto"), help="sets train.precision of the recipe"
    )
    p.add_argument(
        "--checkpoint-minutes", type=not_negative, default=1.0, help="minutes between checkpoints (default: 1)"
    )
    p.add_argument("--threads", type=positive, help="CPU threads")
    p.add_argument(
        "--seeds",
        type=positive,
        metavar="N",
        help="train with N seeds, the recipe's and those after it; what is there already stays",
    )
    p.add_argument(
        "--adopt",
        action="append",
        type=Path,
        metavar="FOLDER",
        help="add a finished training of this recipe with another seed, made elsewhere; may be given several times",
    )
    p.add_argument(
        "--overwrite", action="store_true", help="replace a finished entry, or another recipe, in the folder"
    )
    p = add("card", cmd_card, "write the model cards of finished entries again, pictures included")
    p.add_argument("entry", nargs="+", help="task/entry or folder")
    p.add_argument("-m", "--method", help="file.py:Class of entries with a method of your own")
    p = add("check", cmd_check, "run the conformance suite on a method")
    p.add_argument("method", help="a method name or file.py:Class")
    p.add_argument("--task", default="gaussian-moons")
