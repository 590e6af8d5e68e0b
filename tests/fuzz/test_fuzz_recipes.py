"""Recipes, weight files and checkpoints changed at random, seeded: whatever they hold, one line naming the file, and nothing else happens."""

from __future__ import annotations

import copy
import io
import json
import random
import resource
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fmbench.cli import main
from fmbench.records.pins import MOST_PARAMETERS
from fmbench.records.recipe import MOST_STEPS, Recipe, read
from fmbench.training.run import CHECKPOINT, train
from fmbench.zoo import catalogue
from fmbench.zoo.resolve import load

RECIPES, TEXTS, FILES, CHECKPOINTS = 480, 180, 120, 60
SPARE = 64 << 20
"""Bytes that a tensor may have: the entries changed here have less than one million."""
ODD: tuple[Any, ...] = (
    "", " ", "../../x", "/etc/passwd", "a\nb", "x" * 5000, "\x00", "nan", "oracle", "data", "digits", "cfm", "unet", "mlp", "é",
    0, 1, -1, 2**31, 2**63 - 1, -(2**63), 10**30, 10**9, 3, 64, True, False,
    0.0, -1.0, 0.5, 1.0, 1e300, float("nan"), float("inf"), -float("inf"),
    [], [1], ["a"], [[1], [2]], [True], [-1], {}, {"name": "cfm"}, {"a": {"b": {"c": 1}}}, {"name": 3}, {"x y": 1},
)  # fmt: skip


class Largest(TorchDispatchMode):
    """Remembers the most bytes that a tensor in memory has had."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and tensor.device.type != "meta" and tensor.layout == torch.strided:
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return made


@contextmanager
def bounded(what: object) -> Iterator[None]:
    """Inside, no tensor takes more than :data:`SPARE` bytes, and the process no more than ten of them."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Largest() as largest:
        yield
    assert largest.bytes <= SPARE, what
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before <= 10 * SPARE // 1024, what


def tables(content: dict[str, Any]) -> list[dict[str, Any]]:
    return [content, *(v for v in content.values() if isinstance(v, dict))]


def mutate(content: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    """One to three changes: a value, a key, a table; some that only a hostile hand makes."""
    content = copy.deepcopy(content)
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        table = dice.choice(tables(content))
        kind = dice.random()
        if not table or kind < 0.1:
            table[dice.choice(("name", "sigma", "width", "extra", "é", "net", "__class__", "weights", ""))] = (
                dice.choice(ODD)
            )
        elif kind < 0.75:
            table[dice.choice(list(table))] = dice.choice(ODD)
        elif kind < 0.87:
            del table[dice.choice(list(table))]
        else:
            key = dice.choice(list(table))
            table[key] = [table[key]] if kind < 0.93 else {"name": table[key]}
    return content


def scramble(text: str, dice: random.Random) -> bytes:
    """Bytes of a text file cut, doubled, flipped or replaced."""
    data = bytearray(text.encode())
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(data)) if data else 0
        match dice.randrange(5):
            case 0:
                data[at : at + 1] = bytes([dice.randrange(256)])
            case 1:
                del data[at : at + dice.randint(1, 30)]
            case 2:
                data[at:at] = data[at : at + dice.randint(1, 60)]
            case 3:
                data[at:at] = dice.choice((b"\n", b"[", b'"""', b"=", b"\xff", b"nan", b"9" * 5000, b"\r"))
            case _:
                data = data[:at]
    return bytes(data)


def require_schema(recipe: Recipe) -> None:
    """What no recipe may hold, whoever made it."""
    numbers = [recipe.train.lr, recipe.train.clip, recipe.train.ema, recipe.train.weight_decay]
    assert all(x == x and abs(x) < float("inf") for x in numbers)
    assert 1 <= recipe.train.steps <= MOST_STEPS and type(recipe.train.steps) is int
    assert 0 <= recipe.train.seed < 2**63
    assert recipe.division in ("closed", "open", "tool") and type(recipe.conditional) is bool
    assert all(
        isinstance(t, str) and t.strip() and "\n" not in t for t in (recipe.task, recipe.license, recipe.method["name"])
    )
    if recipe.weights is not None:
        assert "/" not in recipe.weights.file and len(recipe.weights.sha256) == 64
        assert 0 <= recipe.weights.parameters <= MOST_PARAMETERS


def snapshot(root: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder with its size and time of change."""
    return {str(p): (p.lstat().st_size, p.lstat().st_mtime_ns) for p in root.rglob("*")}


def refused(call: Callable[[], Any], names: tuple[str, ...], what: object) -> bool:
    """Whether a call was refused, which must be in one line that holds one of ``names``; True as well for nothing but success."""
    try:
        call()
    except (ValueError, OSError) as error:
        said = str(error)
        assert said and "\n" not in said and len(said) < 2000, (said[:300], what)
        assert any(name in said for name in names), (said[:300], what)
        return True
    return False


def command(words: list[str], what: object) -> tuple[int, str]:
    """Exit code and message of a command run in this process; never a traceback, never more than one line."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = main(words)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
    said = err.getvalue()
    assert "Traceback" not in said and (code == 0 or said.count("\n") == 1), (said, what)
    return code, said


@pytest.fixture(scope="module")
def originals() -> list[Path]:
    """Entries of the bundled zoo that are small, of every method."""
    zoo = catalogue.data_folder("zoo")
    return [zoo / task / name for task in ("gaussian-moons", "moons-8gaussians") for name in ("cfm", "rf-distill", "oracle", "w-cfm")
            if (zoo / task / name).is_dir()]  # fmt: skip


def placed(original: Path, root: Path) -> Path:
    """A copy of an entry two folders below the root that must not change."""
    return Path(shutil.copytree(original, root / "deep" / "entry"))


def attempt(entry: Path, out: Path, what: object) -> bool:
    """Load an entry and start its training without a step; whether either was refused."""
    names = (str(entry), entry.name, str(out))
    loaded_no = refused(lambda: load(str(entry)).sample(1, steps=1), (*names, "steps", "classifier"), what)
    try:
        recipe = read(entry / "recipe.toml")
    except (ValueError, OSError):
        return True
    require_schema(recipe)
    # A teacher of the zoo draws thousands of pairs; the command below stops before it would.
    if recipe.teacher is None and recipe.train.batch_size <= 1024 and ".py:" not in recipe.method["name"]:
        said = (str(out), recipe.method["name"], "[method]", "class", "unknown")
        refused(lambda: train(recipe, out, max_steps=0), said, what)
    return loaded_no


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_changed_recipes_are_refused_in_a_line_or_right(seed: int, originals: list[Path], tmp_path: Path) -> None:
    dice, counted = random.Random(1000 + seed), 0
    root, out = tmp_path / "root", tmp_path / "out"
    sources = [(path, read_table(path / "recipe.toml")) for path in originals]
    for number in range((RECIPES + TEXTS) // 4):
        original, content = dice.choice(sources)
        shutil.rmtree(root, ignore_errors=True)
        shutil.rmtree(out, ignore_errors=True)
        entry = placed(original, root)
        path = entry / "recipe.toml"
        if number % 11 < 3:
            path.write_bytes(what := scramble(path.read_text(), dice))
        else:
            what = mutate(content, dice)
            try:
                path.write_text(tomli_w.dumps(what))
            except (TypeError, UnicodeEncodeError):
                continue
        before = snapshot(root)
        with bounded(what):
            was_refused = attempt(entry, out / "new", what)
            if number % 5 == 0:
                code, said = command(["train", str(entry), "--out", str(out / "cli"), "--max-steps", "1", "--set", "train.batch_size=2",
                                      "--set", "method.name=cfm", "--set", "teacher=nowhere/at-all"], what)  # fmt: skip
                assert code and (not said.startswith("Traceback"))
                code, said = command(["info", str(entry)], what)
                command(["sample", str(entry), "-n", "1", "--steps", "1", "-o", str(out / "x.npy")], what)
        assert snapshot(root) == before, what
        assert {p.name for p in tmp_path.iterdir()} <= {"root", "out"}, what
        assert {p.name for p in out.iterdir()} <= {"new", "cli", "x.npy"} if out.exists() else True, what
        counted += was_refused
    assert counted > (RECIPES + TEXTS) / 10  # the changes do hit


def read_table(path: Path) -> dict[str, Any]:
    import tomllib

    return tomllib.loads(path.read_text())


def hostile(data: bytes, dice: random.Random) -> bytes:
    """A weight file with a changed header, other lengths, or damaged bytes."""
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    kind = dice.randrange(8)
    name = dice.choice([k for k in header if k != "__metadata__"])
    if kind == 0:
        header[name]["data_offsets"] = [
            dice.choice((-1, 0, 2**62, 10)),
            dice.choice((-5, 0, 4, 2**63, len(body), 10**18)),
        ]
    elif kind == 1:
        header[name]["shape"] = dice.choice(
            ([2**40, 2**40], [], [-1], [0], [1.5], "x", [2**64], [*header[name]["shape"][::-1], 1])
        )
    elif kind == 2:
        header[name]["dtype"] = dice.choice(("F64", "I32", "Q4", "", 3, None, "BOOL", "F16"))
    elif kind == 3:
        header[dice.choice(("net.other", "", "\ud800", name + "x", "__metadata__"))] = header.pop(name)
    elif kind == 4:
        return struct.pack("<Q", dice.choice((0, 1, 2**63, 2**64 - 1, length + 1, length - 1, 10**9))) + data[8:]
    elif kind == 5:
        return data[: dice.randrange(len(data))]
    elif kind == 6:
        at = dice.randrange(len(data))
        return data[:at] + bytes([data[at] ^ (1 << dice.randrange(8))]) + data[at + 1 :]
    else:
        body = body + bytes(dice.randint(1, 50))
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


@pytest.mark.slow
def test_changed_weight_files_are_refused_in_a_line(originals: list[Path], tmp_path: Path) -> None:
    """Once pinned by the old hash and size, and once by their own, as a hostile entry would pin them."""
    from fmbench.storage.files import sha256

    dice, root = random.Random(7), tmp_path / "root"
    accepted = 0
    for number in range(FILES):
        shutil.rmtree(root, ignore_errors=True)
        entry = placed(dice.choice([p for p in originals if p.name != "oracle"]), root)
        table = read_table(entry / "recipe.toml")
        path = entry / "model.safetensors"
        good = path.read_bytes()
        data = hostile(good, dice)
        path.write_bytes(data)
        if number % 4:
            table["weights"] |= {"bytes": len(data), "sha256": sha256(data)}
            (entry / "recipe.toml").write_text(tomli_w.dumps(table))
        before = snapshot(root)
        with bounded(number):
            was = refused(lambda entry=entry: load(str(entry)), (str(path), str(entry)), (number, data[:200]))
        assert was or data == good or number % 4, "changed bytes under the old pin"
        accepted += not was
        assert snapshot(root) == before
    assert accepted < FILES / 4  # a flipped bit under its own pin is another weight


def worsen(state: dict[str, Any], dice: random.Random) -> None:
    """Another value somewhere in the tables of a checkpoint."""
    table: Any = state
    while True:
        key = dice.choice(list(table)) if isinstance(table, dict) else dice.randrange(len(table))
        value = table[key]
        if isinstance(value, (dict, list)) and value and dice.random() < 0.8:
            table = value
            continue
        if isinstance(value, torch.Tensor):
            odd = (
                torch.zeros(2, 3, 4),
                value.double(),
                value[None],
                torch.zeros(()),
                3,
                None,
                value.to_sparse() if value.ndim else 0,
            )
        else:
            odd = (None, -1, 2**70, "x", float("nan"), True, [], {}, torch.zeros(3), 10**9)
        table[key] = dice.choice(odd)
        return


@pytest.mark.slow
def test_changed_checkpoints_are_refused_or_right(tmp_path: Path, tiny_recipe: Callable[..., Recipe]) -> None:
    dice, recipe = random.Random(11), tiny_recipe("gaussian-moons", "cfm")
    start = train(recipe, tmp_path / "start", max_steps=2) / CHECKPOINT
    good = start.read_bytes()
    torch.manual_seed(0)
    for number in range(CHECKPOINTS):
        out = tmp_path / "work" / "entry"
        shutil.rmtree(out.parent, ignore_errors=True)
        out.mkdir(parents=True)
        if number % 3:
            state = torch.load(start, weights_only=True)
            worsen(state, dice)
            torch.save(state, out / CHECKPOINT)
        else:
            (out / CHECKPOINT).write_bytes(scramble_bytes(good, dice))
        before = (out / CHECKPOINT).read_bytes()
        with bounded(number):
            if refused(lambda out=out: train(recipe, out, max_steps=2), (str(out / CHECKPOINT),), number):
                assert (out / CHECKPOINT).read_bytes() == before
                assert [p.name for p in out.iterdir()] == [CHECKPOINT]
        assert sorted(p.name for p in tmp_path.iterdir()) == ["start", "work"]


def scramble_bytes(data: bytes, dice: random.Random) -> bytes:
    """Bytes cut off, or some of them replaced."""
    if dice.random() < 0.3:
        return data[: dice.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(dice.randint(1, 40)):
        changed[dice.randrange(len(changed))] = dice.randrange(256)
    return bytes(changed)


def test_the_bound_of_these_tests_bites() -> None:
    with pytest.raises(AssertionError, match="too large"), bounded("too large"):
        torch.empty(SPARE // 4 + 1)
