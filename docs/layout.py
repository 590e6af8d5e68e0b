"""Draw the layout of the package from its own imports: ``python docs/layout.py`` writes ``docs/layout.svg`` and prints the counts.

A room is a folder or a module directly below ``fmbench``; an arrow runs from a room to one that it imports, also inside functions. A
room stands one floor above the highest room it imports, so that an arrow that ran upwards would close a circle.
"""

from __future__ import annotations

import ast
import sys
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "fmbench"
WIDTH, HEIGHT, GAP, FLOOR, MARGIN = 118, 34, 16, 78, 24


def imported(path: Path) -> set[str]:
    """Dotted names of fmbench that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return {name for name in found if name.startswith("fmbench.")}


def rooms() -> dict[str, set[str]]:
    """Room -> the rooms that it imports, itself left out."""
    files: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if "_data" not in parts and parts[0] != "__init__":
            files.setdefault(parts[0], []).append(path)
    arrows = {room: {name.split(".")[1] for path in paths for name in imported(path)} for room, paths in files.items()}
    return {room: {other for other in others if other in files and other != room} for room, others in arrows.items()}


def floors(arrows: dict[str, set[str]]) -> dict[str, int]:
    """The floor of every room, the lowest 0. Raises ValueError for a circle, which is what an upward arrow makes."""
    found: dict[str, int] = {}

    def floor(room: str, above: tuple[str, ...] = ()) -> int:
        if room in above:
            raise ValueError("imports run in a circle: " + " -> ".join((*above[above.index(room) :], room)))
        if room not in found:
            found[room] = max((floor(other, (*above, room)) + 1 for other in sorted(arrows[room])), default=0)
        return found[room]

    for room in arrows:
        floor(room)
    return found


def reduced(arrows: dict[str, set[str]]) -> dict[str, set[str]]:
    """Only the arrows that no longer way replaces, so that the picture can be read."""
    below: dict[str, set[str]] = {}
    for room in sorted(arrows, key=floors(arrows).__getitem__):
        below[room] = arrows[room] | {deep for other in arrows[room] for deep in below[other]}
    return {
        room: {o for o in others if not any(o in below[p] for p in others - {o})} for room, others in arrows.items()
    }


def draw(arrows: dict[str, set[str]]) -> str:
    """The picture as SVG: rooms by floor, arrows down; arrows that a longer way replaces are left out."""
    floor_of, places = floors(arrows), {}
    top = max(floor_of.values())
    rows = [[room for room in arrows if floor_of[room] == level] for level in range(top, -1, -1)]
    width = 2 * MARGIN + max(len(row) * (WIDTH + GAP) - GAP for row in rows)
    for level, row in enumerate(rows):
        left = (width - (len(row) * (WIDTH + GAP) - GAP)) / 2
        for index, room in enumerate(row):
            places[room] = (left + index * (WIDTH + GAP), MARGIN + level * FLOOR)
    height = 2 * MARGIN + top * FLOOR + HEIGHT
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" font-family="sans-serif" font-size="13">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#57606a"/></marker></defs>',
        f'<rect width="{width:g}" height="{height:g}" fill="#ffffff"/>',
    ]
    for room, others in reduced(arrows).items():
        for other in sorted(others):
            (x, y), (u, v) = places[room], places[other]
            lines.append(
                f'<path d="M{x + WIDTH / 2:g} {y + HEIGHT:g}C{x + WIDTH / 2:g} {y + HEIGHT + 30:g} {u + WIDTH / 2:g} {v - 30:g} '
                f'{u + WIDTH / 2:g} {v:g}" fill="none" stroke="#57606a" stroke-width="1" marker-end="url(#tip)"/>'
            )
    for room, (x, y) in places.items():
        name = room if (PACKAGE / f"{room}.py").exists() else f"{room}/"
        lines.append(
            f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="5" fill="#ddf4ff" stroke="#0969da"/>'
        )
        lines.append(
            f'<text x="{x + WIDTH / 2:g}" y="{y + 22:g}" text-anchor="middle" fill="#1f2328">{escape(name)}</text>'
        )
    return "\n".join([*lines, "</svg>", ""])


def main() -> int:
    """Write the picture and print the counts."""
    arrows = rooms()
    (ROOT / "docs" / "layout.svg").write_text(draw(arrows))
    count = sum(map(len, arrows.values()))
    print(f"{len(arrows)} rooms, {count} arrows, 0 upwards, {max(floors(arrows).values()) + 1} floors: docs/layout.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
