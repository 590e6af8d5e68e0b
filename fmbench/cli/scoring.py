"""fmbench score and validate-metrics."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmbench.cli.shared import DONE, FAILED, Add, UsageError, device_of, positive, print_json
from fmbench.progress import progress_bars

if TYPE_CHECKING:
    from fmbench.records.result import Result

DIALECT_NETWORK = "inception-tf"
RANGES = ("signed", "unit", "bytes")
SCORES = ("metric", "value", "95 % interval", "unit")
WIDE = 120
"""Columns of a terminal that shows the whole validation table."""


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.5g}"


def _interval(ci: tuple[float, float] | None) -> str:
    return "-" if ci is None else f"[{ci[0]:.5g}, {ci[1]:.5g}]"


def _print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    # What does not fit goes, never a part of a number: first what a reader can do without.
    late = ("tolerance", "95 % interval") if console.width < WIDE else ()
    shown = [i for i, title in enumerate(titles) if title not in late or len(titles) <= len(SCORES)]
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for i in shown:
        grid.add_column(titles[i], no_wrap=titles[i] not in ("case", "unit"))
    for row in rows:
        # Text objects, never strings: a name like "[red]" is not markup.
        grid.add_row(*(Text(row[i]) for i in shown))
    console.print(grid)


def _read(facts: Mapping[str, Any], side: str) -> list[str]:
    """Notes on how a file was read: the array chosen, files left out, values outside the range."""
    from fmbench.storage.arrays import listed
    from fmbench.storage.readers import shown

    lines = []
    if "features" in facts:
        lines.append(
            f"mean and covariance of {facts['features']} features; the file does not say which extractor made them"
        )
    elif "arrays" in facts:
        lines.append(f"{shown(facts['array'])} of [{listed(facts['arrays'])}] was read")
    if "left_out" in facts:
        left = facts["left_out"]
        lines.append(f"left out, no PNG picture: {left['files']} files: {listed(left['first'])}")
    if facts.get("clipped_share"):
        lines.append(
            f"{100 * facts['clipped_share']:.2f} % of the values lie outside [-1, 1]; features see them clipped"
        )
    return [side + line for line in lines]


def _print_scores(result: Result) -> None:
    from fmbench.records.metric import METRICS

    (row,) = result.rows
    print(f"{result.model['name']}: {row.samples['n']} samples, {result.status}, sha256 {row.samples['sha256'][:16]}")
    for line in _read(row.samples, "") + _read(row.samples.get("reference", {}), "reference: "):
        print(line)
    cells = []
    for name, e in row.metrics.items():
        found = e.reason or "" if e.value is None else METRICS[name].unit
        cells.append((name, _number(e.value), _interval(e.ci), found))
    _print_table(SCORES, cells)
    print()


def _compared(args: argparse.Namespace) -> dict[str, Any]:
    """Samples and reference as arguments of :func:`fmbench.evaluation.rescoring.score` and ``dialects``."""
    return {
        "task": args.task,
        "reference": args.reference,
        "key": args.key,
        "value_range": args.range,
        "reference_key": args.reference_key,
    }


def _check_usage(args: argparse.Namespace) -> None:
    """Raise UsageError for options that contradict each other or would have no effect."""
    if (args.task is None) == (args.reference is None):
        raise UsageError("give what to compare with: --task NAME or --reference FILE, one of them")
    if args.reference is None and args.reference_key is not None:
        raise UsageError("--reference-key is for a --reference, and there is none; leave it out")
    for option, given in (("--dialect-network", args.dialect_network), ("--dialect-images", args.dialect_images)):
        if given is not None and not args.fid_dialects:
            raise UsageError(f"{option} is for --fid-dialects; add that, or leave it out")
    if args.benchmark is not None:
        for option in ("metric", "reference", "extractor"):
            if getattr(args, option) is not None:
                raise UsageError(f"--benchmark decides what is measured, against what and how; leave --{option} out")


def cmd_score(args: argparse.Namespace) -> int:
    """Score samples that exist already."""
    from fmbench.evaluation.rescoring import score
    from fmbench.storage.files import check_writable

    _check_usage(args)
    device = device_of(args.device)
    if args.out:
        check_writable(args.out)
    results = score(
        args.samples,
        **_compared(args),
        metrics=args.metric,
        benchmark=args.benchmark,
        extractor=args.extractor,
        name=args.name,
        device=device,
    )
    # Saved first: dialects need a network that may not be had.
    saved = [result.save(args.out / "results") for result in results] if args.out else []
    spread_of = _dialects(args, device) if args.fid_dialects else []
    if args.json:
        content = [result.to_json() for result in results]
        print_json({"results": content, "fid_dialects": spread_of} if args.fid_dialects else content)
    else:
        for result in results:
            _print_scores(result)
        if spread_of:
            _print_dialects(spread_of)
        for path in saved:
            print(path)
    return DONE


def _dialects(args: argparse.Namespace, device: str) -> list[dict[str, Any]]:
    from fmbench.evaluation.dialects import table
    from fmbench.evaluation.rescoring import dialects

    with progress_bars(not args.json) as progress:
        bar = progress.add_task("FID dialects", total=None)
        rows = dialects(
            args.samples,
            **_compared(args),
            network=args.dialect_network or DIALECT_NETWORK,
            limit=args.dialect_images,
            device=device,
            report=lambda name: progress.update(bar, description=name),
        )
    return table(rows)


def _print_dialects(rows: Sequence[dict[str, Any]]) -> None:
    first, scores = rows[0], [row["fid"] for row in rows]
    print(f"FID of the same {first['n']} images against {first['reference_n']}, as each library computes it")
    cells = [
        (
            row["name"],
            row["resize"],
            row["quantise"],
            f"{row['fid']:.6g}",
            f"{100 * row['relative']:+.4f} %",
        )
        for row in rows
    ]
    _print_table(("convention", "resize", "8 bits", "FID", "to ours"), cells)
    print(f"spread: {min(scores):.6g} to {max(scores):.6g}")


def cmd_validate(args: argparse.Namespace) -> int:
    """Run every metric on cases whose answer is known."""
    from fmbench.storage.files import check_writable, write_atomic
    from fmbench.validation import run, summary, to_json, to_markdown
    from fmbench.validation.table import COLUMNS, cells

    if args.markdown:
        check_writable(args.markdown.parent)
    with progress_bars(not args.json) as progress:
        bar = progress.add_task("validate", total=None)

        def report(what: str, done: int, total: int) -> None:
            progress.update(bar, description=what, completed=done, total=total)

        checks = run(args.metric, report)
    if args.markdown:
        write_atomic(args.markdown, to_markdown(checks))
    if args.json:
        print_json(to_json(checks))
    else:
        # The last column, how the answer is known, is in the Markdown; a terminal is too narrow for it.
        _print_table(COLUMNS[:-1], [cells(check)[:-1] for check in checks])
        for check in checks:
            if check.passed is not True:
                print(f"{check.metric}, {check.case}: {check.note}")
        print(summary(checks))
    return FAILED if any(check.passed is False for check in checks) else DONE


def add(add: Add) -> None:
    """Add the commands."""
    p = add("score", cmd_score, "score samples that exist already")
    p.add_argument("samples", type=Path, help=".npy, .npz, .safetensors, or a folder or .zip of PNG pictures")
    p.add_argument("--task", help="compare with the real samples of a task")
    p.add_argument(
        "--reference", type=Path, help="compare with another file of samples, or with mu and sigma of features"
    )
    p.add_argument("--metric", nargs="+", help="metrics by name (default: all that need samples only)")
    p.add_argument("--benchmark", help="the metrics of a benchmark instead")
    p.add_argument("--extractor", help="feature extractor for images (default: the task's)")
    p.add_argument("--key", help="array of a .npz or .safetensors file")
    p.add_argument("--reference-key", help="the same for the reference; mu takes the statistics of one that has both")
    p.add_argument("--device", default="auto", help="where the extractor runs: auto, cpu, cuda (default: auto)")
    p.add_argument("--range", choices=RANGES, help="black and white of float images: -1 to 1, 0 to 1, 0 to 255")
    p.add_argument(
        "--fid-dialects",
        action="store_true",
        help="also the FID as clean-fid, torch-fidelity and torchmetrics compute it",
    )
    p.add_argument(
        "--dialect-network",
        help=f"Inception of the dialects (default: {DIALECT_NETWORK}); inception-random needs no download",
    )
    p.add_argument("--dialect-images", type=positive, help="images of each side for the dialects")
    p.add_argument("--name", help="what to call the samples (default: the file's name)")
    p.add_argument("--out", type=Path, help="folder to save the results in")
    p = add("validate-metrics", cmd_validate, "run every metric on cases whose answer is known")
    p.add_argument("--metric", nargs="+", help="only these")
    p.add_argument("--markdown", type=Path, help="also write the table to a file")
