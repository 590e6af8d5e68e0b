"""The arrows between modules point one way, and listing stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fmbench
from fmbench.zoo import catalogue

PACKAGE = Path(fmbench.__file__).parent
# A module may import its own layer and those before it. Lazy registry targets are strings, not imports.
LAYERS = [
    ["transfers", "shapes", "progress", "moved", "version"],
    ["noise", "storage"],
    ["execution"],
    ["registry", "solvers", "nets"],
    ["records"],
    ["statistics", "transport"],
    ["tasks"],
    ["paths", "flows"],
    ["methods"],
    ["metrics"],
    ["features"],
    ["zoo"],
    ["training", "report", "testing"],
    ["evaluation"],
    ["validation"],
    ["cli"],
    ["__main__"],
]
RANK = {name: level for level, names in enumerate(LAYERS) for name in names}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def part(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports(path: Path, known: set[str]) -> set[str]:
    """Modules of fmbench that a file imports anywhere, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (names & known) or {node.module}
    return {name for name in found if name.startswith("fmbench.")}


MODULES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py")) if "_data" not in path.parts}
GRAPH = {name: imports(path, set(MODULES)) for name, path in MODULES.items() if name != "fmbench"}


def test_every_part_has_a_layer():
    assert {part(name) for name in GRAPH} <= set(RANK), "a new top-level module needs a place in LAYERS"


@pytest.mark.parametrize("name", sorted(GRAPH))
def test_imports_point_to_earlier_layers(name):
    wrong = {target for target in GRAPH[name] if RANK[part(target)] > RANK[part(name)]}
    assert not wrong


def test_reports_read_results_and_nothing_that_computes():
    allowed = {"report", "records", "storage", "statistics", "registry"}
    light = {f"fmbench.statistics.{name}" for name in ("comparisons", "intervals", "nested", "student")}
    for name in GRAPH:
        if part(name) == "report":
            assert {part(target) for target in GRAPH[name]} <= allowed
            assert not {t for t in GRAPH[name] if part(t) == "statistics"} - light


def test_transport_and_statistics_stand_at_the_bottom():
    """Metrics, paths and methods build on them, so they know nothing but numbers and the schema of an estimate."""
    allowed = {"transport", "statistics", "shapes", "noise", "registry", "records"}
    for name in GRAPH:
        if part(name) in ("transport", "statistics"):
            assert {part(target) for target in GRAPH[name]} <= allowed


def test_no_import_cycles():
    done, active = set(), []

    def visit(name):
        assert name not in active, " -> ".join([*active, name])
        if name in done or name not in GRAPH:
            return
        active.append(name)
        for target in GRAPH[name]:
            visit(target)
        active.pop()
        done.add(name)

    for name in GRAPH:
        visit(name)


@pytest.mark.parametrize("words", [["--help"], ["list"], ["list", "entries", "--json"], ["run", "--help"]])
def test_light_commands_do_not_import_torch(words):
    code = (
        "import sys; sys.argv = ['fmbench', *sys.argv[1:]]\n"
        "from fmbench.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'pandas', 'scipy', 'sklearn', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_data_folders_hold_no_python():
    for folder in ("zoo", "leaderboard"):
        assert not list(catalogue.data_folder(folder).rglob("*.py"))


def test_public_names_resolve():
    assert len(fmbench.__all__) <= 15
    for name in fmbench.__all__:
        assert getattr(fmbench, name) is not None
    # Importing a submodule must not shadow a public function.
    shadowing = {name for name in fmbench.__all__ if f"fmbench.{name}" in MODULES}
    assert not shadowing
