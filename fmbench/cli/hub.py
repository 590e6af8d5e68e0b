"""fmbench fetch, pin, push, convert and bundle."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fmbench.cli.shared import DONE, FAILED, Add, UsageError, print_json, report_problems


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def cmd_fetch(args: argparse.Namespace) -> int:
    """Download the named items; one failure does not stop the others."""
    from fmbench.zoo.machine import everything, needs

    if bool(args.names) == args.all:
        raise UsageError("name what to fetch, or give --all")
    rows: list[dict[str, Any]] = []
    problems = []
    for need in needs(everything() if args.all else args.names):
        row: dict[str, Any] = {"kind": need.kind, "name": need.name}
        try:
            files = need.fetch()
            row.update(
                files=sorted(map(str, files.values())), bytes=sum(path.stat().st_size for path in files.values())
            )
        except (ValueError, OSError) as error:
            row["failed"] = _one_line(error)
            problems.append(f"{need.kind} {need.name}: {row['failed']}")
        rows.append(row)
        if not args.json and "failed" not in row:
            size = f"{row['bytes'] / 1e6:.2f} MB" if row["files"] else "nothing to fetch"
            print(f"{need.kind:<10}  {need.name}  {size}")
    report_problems(problems)
    if args.json:
        print_json(rows)
    return FAILED if problems else DONE


def cmd_pin(args: argparse.Namespace) -> int:
    """Print the address of a repository pinned to its present commit."""
    from fmbench.zoo.resolve import resolve

    found = resolve(args.repository).hub
    if found is None:
        raise UsageError(f"{args.repository} is here already; a pin names a repository of the Hub, hf:owner/name")
    told = found.pin()
    if args.json:
        print_json(told)
    else:
        print(told["pin"])
    return DONE


def cmd_adopt(args: argparse.Namespace) -> int:
    """Make an entry of a model that another library published."""
    from fmbench.registry import TASKS
    from fmbench.storage.repository import PREFIX
    from fmbench.zoo import catalogue, published

    if not args.repository.startswith(PREFIX):
        raise UsageError(f"{args.repository} names no repository of the Hub; write hf:owner/name@revision")
    task = TASKS.resolve(args.task)()
    name = args.repository.removeprefix(PREFIX).partition("@")[0].replace("/", "--")
    path = published.write(args.repository, task, args.out or catalogue.LOCAL_ENTRIES / args.task / name)
    print_json({"recipe": str(path)}) if args.json else print(
        f"{path}: evaluate it with `fmbench run BENCHMARK -m {path.parent}`"
    )
    return DONE


def cmd_push(args: argparse.Namespace) -> int:
    """Publish an entry in one commit."""
    from fmbench.storage.repository import PREFIX, parse_address
    from fmbench.zoo import push
    from fmbench.zoo.resolve import resolve

    address = parse_address(PREFIX + args.repo.removeprefix(PREFIX))
    if address.revision is not None:
        raise UsageError(f"--repo {args.repo}: a push goes on top of the newest commit; leave @{address.revision} out")
    made, _ = push.content(resolve(args.entry, args.task), address.repo, args.results, args.dataset)
    if args.dry_run:
        left = push.compare(address, made.files)
        told = {
            "repo": address.repo,
            "parent": left.parent,
            "new": left.new,
            "changed": left.changed,
            "same": left.same,
        }
        lines = [f"{kind:<9}{path}" for kind in ("new", "changed", "same") for path in getattr(left, kind)]
        head = f"{address.repo} is there" if left.parent else f"{address.repo} would be created"
        lines.append(f"{head}; {len(left.rest)} of {len(made.files)} files would go up in one commit: {made.message}")
    else:
        done = push.push(address, made, private=args.private, create_pr=args.create_pr)
        told = {"repo": address.repo, "pin": done.pin, "pull_request": done.pull_request, "changed": done.changed}
        said = f"{len(done.changed)} of {len(made.files)} files went up" if done.changed else "nothing had changed"
        lines = [done.pin, *([done.pull_request] if done.pull_request else []), said]
    if push.SCORES not in made.files:
        lines.append(
            "no scores are filed: no result of these weights, or no dataset of the Hub to file them under (--dataset)"
        )
    if args.json:
        print_json(told)
    else:
        print("\n".join(lines))
    return DONE


def cmd_export(args: argparse.Namespace) -> int:
    """Write a bundle."""
    from fmbench.zoo import bundle
    from fmbench.zoo.machine import everything, needs

    if bool(args.names) == args.all:
        raise UsageError("name what to bundle, or give --all")
    manifest = bundle.export(needs(everything() if args.all else args.names), args.file)
    total = sum(row["bytes"] for row in manifest["files"])
    if args.json:
        print_json({"file": str(args.file), **manifest})
    else:
        print(f"{args.file}: {len(manifest['files'])} files, {total / 1e6:.2f} MB")
    return DONE


def cmd_import(args: argparse.Namespace) -> int:
    """Import a bundle after everything in it has been checked."""
    from fmbench.zoo import bundle

    done = bundle.load(args.file, features=not args.no_features)
    if args.json:
        print_json({"added": done.added, "there": done.there, "unverified": done.unverified})
        return DONE
    print(f"{len(done.added)} files added, {len(done.there)} were there already")
    if done.unverified:
        print(
            f"{len(done.unverified)} files of reference features were taken as they are; --no-features leaves them out"
        )
    return DONE


def cmd_convert(args: argparse.Namespace) -> int:
    """Convert a pickled checkpoint to safetensors."""
    from fmbench.zoo.convert import convert

    if not args.i_trust_this_file:
        raise UsageError(
            f"{args.file} is a pickle, which can hold a program; if you know who made it, add --i-trust-this-file"
        )
    done = convert(args.file, args.output or args.file.with_suffix(".safetensors"), args.part)
    if args.json:
        print_json({"file": str(done.path), "sha256": done.sha256, "tensors": done.tensors, "dropped": done.dropped})
    else:
        print(
            f"{done.path}: {len(done.tensors)} tensors, {len(done.dropped)} other values dropped, SHA-256 {done.sha256}"
        )
    return DONE


def add(add: Add) -> None:
    """Add the commands."""
    p = add("fetch", cmd_fetch, "download models, datasets and extractors, checked, for work without a network")
    p.add_argument("names", nargs="*", help="hf:owner/name@revision, task/entry, a benchmark, a task or an extractor")
    p.add_argument("--all", action="store_true", help="all benchmarks with their data, extractors and entries")
    p = add("pin", cmd_pin, "print the address of what a repository of the Hub holds now")
    p.add_argument("repository", help="hf:owner/name, or hf:owner/name@revision")
    p = add("adopt", cmd_adopt, "make an entry of a model that was published with diffusers")
    p.add_argument("repository", help="hf:owner/name@revision")
    p.add_argument("--task", required=True, help="the task that it makes samples of")
    p.add_argument("--out", type=Path, help="folder of the entry (default: entries/TASK/OWNER--NAME)")
    p = add("push", cmd_push, "publish an entry on the Hub, in one commit")
    p.add_argument("entry", help="task/entry, folder or file.py:Class")
    p.add_argument("--repo", required=True, help="owner/name; it is created where there is none")
    p.add_argument("--private", action="store_true", help="create it for yourself only")
    p.add_argument("--create-pr", action="store_true", help="propose the commit in a pull request")
    p.add_argument("--dry-run", action="store_true", help="say what would change, and write nothing")
    p.add_argument(
        "--results",
        type=Path,
        nargs="*",
        action="extend",
        help="result files of these weights, or folders with them (default: the committed leaderboard, where it is at hand)",
    )
    p.add_argument(
        "--dataset", help="owner/name of the dataset that scores are filed under (default: that of the task)"
    )
    p.add_argument("--task", help="task of a file.py:Class")

    p = add("convert", cmd_convert, "turn a pickled checkpoint that you trust into safetensors")
    p.add_argument("file", type=Path, help=".pt, .pth, .ckpt or .bin, as torch.save writes it")
    p.add_argument("--i-trust-this-file", action="store_true", help="you know who made it")
    p.add_argument("--part", help="the table in it to take, as ema or state_dict.net (default: everything)")
    p.add_argument("-o", "--output", type=Path, help="default: the same name with .safetensors")


def add_bundle(add: Add, commands: Any) -> None:
    """Add the command with its two subcommands."""
    group = commands.add_parser("bundle", help="carry models and data to a machine without a network")
    parts = group.add_subparsers(dest="part", required=True, metavar="PART")
    p = add("export", cmd_export, "write a bundle", parts)
    p.add_argument("file", type=Path, help="the zip file to write")
    p.add_argument("names", nargs="*", help="hf:owner/name@revision, task/entry, a benchmark, a task or an extractor")
    p.add_argument("--all", action="store_true", help="all benchmarks with their data, extractors and entries")
    p = add("import", cmd_import, "check a bundle and put everything in its place", parts)
    p.add_argument("file", type=Path, help="the zip file")
    p.add_argument(
        "--no-features", action="store_true", help="leave features of reference images out and compute them here"
    )
