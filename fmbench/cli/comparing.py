"""fmbench validate-ranking."""

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


def add(add: Add) -> None:
    """Add the command."""
    p = add("validate-ranking", cmd_validate_ranking, "simulate error and power of the rule that ranks entries")
    p.add_argument("--quick", action="store_true", help="a fifth of the repetitions")
    p.add_argument("--markdown", type=Path, help="also write the report to a file")
