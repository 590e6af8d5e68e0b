"""fmbench leaderboard and sysinfo."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fmbench.cli.shared import DONE, FAILED, Add, UsageError, print_json, report_problems


def cmd_leaderboard(args: argparse.Namespace) -> int:
    """Build the tables and the page from the results of a folder."""
    from fmbench.report.build import build_leaderboard

    folder = args.folder or Path("leaderboard")
    if not (folder / "results").is_dir():
        raise UsageError(f"{folder} has no results folder; name the folder that `fmbench run --out` wrote")
    built = build_leaderboard(folder, args.readme)
    report_problems(built.problems)
    written = [str(path) for path in built.written]
    print_json(written) if args.json else print("\n".join(written))
    return FAILED if built.problems else DONE


def cmd_migrate(args: argparse.Namespace) -> int:
    """Write the results of a folder in the newest schema and under the present names of entries; no number is measured."""
    from fmbench.evaluation.migration import migrate

    folder = args.folder or Path("leaderboard")
    if not (folder / "results").is_dir():
        raise UsageError(f"{folder} has no results folder; name the folder that `fmbench run --out` wrote")
    moved = migrate(folder)
    report_problems(moved.problems)
    written = [str(path) for path in moved.written]
    print_json(written) if args.json else print(
        "\n".join(written) or "every result has the newest schema and its present name already"
    )
    return FAILED if moved.problems else DONE


def cmd_sysinfo(args: argparse.Namespace) -> int:
    """Print versions and devices."""
    import torch

    from fmbench.evaluation import environment

    facts = environment.describe(torch.device("cpu"))
    facts["cuda"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if args.json:
        print_json(facts)
    else:
        for key, value in facts.items():
            print(f"{key:<12}{value}")
    return DONE


def add(add: Add, commands: Any) -> None:
    """Add the commands."""
    board = commands.add_parser("leaderboard", help="build the leaderboard", allow_abbrev=False)
    commands_of_board = board.add_subparsers(required=True, metavar="COMMAND")
    p = add("build", cmd_leaderboard, "tables and page from result files", commands_of_board)
    p.add_argument("folder", nargs="?", type=Path, help="folder with results/ (default: leaderboard)")
    p.add_argument("--readme", type=Path, help="Markdown file whose marked tables are filled from the results")
    p = add(
        "migrate",
        cmd_migrate,
        "results of earlier versions in the newest schema and under the present names of entries, nothing measured",
        commands_of_board,
    )
    p.add_argument("folder", nargs="?", type=Path, help="folder with results/ (default: leaderboard)")
    add("sysinfo", cmd_sysinfo, "versions and devices")
