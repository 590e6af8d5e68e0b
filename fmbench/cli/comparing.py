"""fmbench compare and validate-ranking."""

from __future__ import annotations

import argparse
from pathlib import Path

from fmbench.cli.shared import DONE, FAILED, Add, print_json
from fmbench.progress import progress_bars


def cmd_validate_ranking(args: argparse.Namespace) -> int:
    """Simulate how often tables claim a difference that is not there, and how often they find one that is."""
    from fmbench.storage.files import check_writable, write_atomic
    from fmbench.validation.ranking import run
    from fmbench.validation.ranking_table import summary, to_json, to_markdown, to_text

    if args.markdown:
        check_writable(args.markdown.parent)
    with progress_bars(not args.json) as progress:
        bar = progress.add_task("simulate", total=None)

        def report(what: str, done: int, total: int) -> None:
            progress.update(bar, description=what, completed=done, total=total)

        lines = list(run(args.quick, report))
    if args.markdown:
        write_atomic(args.markdown, to_markdown(lines))
    if args.json:
        print_json(to_json(lines))
    else:
        print(to_text(lines))
        print(f"per cent; {summary(lines)}")
    return DONE if all(line.held for line in lines) else FAILED


def cmd_compare(args: argparse.Namespace) -> int:
    """Compare two entries by their results."""
    from fmbench.report.frames import compare_entries

    found = compare_entries(args.one, args.other, args.benchmark, args.results)
    if args.json:
        print_json({"verdict": found.verdict, "metrics": found.table.to_dict("records")})
    else:
        print(f"{found.table.to_string(index=False)}\n\n{found.verdict}")
    return DONE


def add(add: Add) -> None:
    """Add the commands."""
    p = add("compare", cmd_compare, "compare two entries by their results, and say in words which is better")
    p.add_argument("one", help="task/entry")
    p.add_argument("other", help="task/entry")
    p.add_argument("--benchmark", required=True, help="the benchmark whose results are compared")
    p.add_argument(
        "--results", type=Path, help="folder of results, as `fmbench run --out` writes it (default: the bundled ones)"
    )
    p = add("validate-ranking", cmd_validate_ranking, "simulate error and power of the rule that ranks entries")
    p.add_argument("--quick", action="store_true", help="a fifth of the repetitions")
    p.add_argument("--markdown", type=Path, help="also write the report to a file")
