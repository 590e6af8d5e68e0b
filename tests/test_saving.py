"""What is saved is what was trained: the real file, written and read back, before the first step and after the last."""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fmbench.cli import main
from fmbench.records.recipe import Recipe, closed, override, read
from fmbench.registry import TASKS
from fmbench.training.run import CHECKPOINT, train
from fmbench.zoo import weight_file
from fmbench.zoo.code import method_class
from fmbench.zoo.resolve import load

TASK = "gaussian-moons"
HEAD = """
import torch
from torch import nn
from fmbench.methods import VelocityMethod

class Mine(VelocityMethod):
    def loss(self, batch, generator):
        t = torch.rand(len(batch.x0), generator=generator)
        s = t[:, None]
        error = self.net((1 - s) * batch.x0 + s * batch.x1, t) - (batch.x1 - batch.x0)
        return error.square().mean()

    @classmethod
    def build_net(cls, task, net, conditional):
        return Net()

class Net(nn.Module):
    num_classes = 0
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 2)
        self.more()
    def forward(self, x, t):
        return self.last(self.middle(self.first(torch.cat([x, t[:, None]], 1)).relu()))
    def middle(self, h):
        return h
    def more(self):
        pass
"""


def write(folder: Path, body: str) -> str:
    """A method whose network also has what ``body`` adds to its class."""
    text = HEAD + "".join(f"    {line}\n" for line in body.strip("\n").splitlines())
    (folder / "mine.py").write_text(text)
    return f"{folder / 'mine.py'}:Mine"


def short(spec: str, **settings: Any) -> Recipe:
    return override(closed(TASKS.resolve(TASK)(), spec), {"train.steps": 3, "train.batch_size": 16, **settings})


def loaded(spec: str, folder: Path) -> nn.Module:
    from fmbench.zoo.catalogue import open_folder
    from fmbench.zoo.loading import load_entry

    return load_entry(open_folder(folder), method_class(spec), "cpu").method


TIED = """
def more(self):
    self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8)
    self.c.weight = self.b.weight
def middle(self, h):
    return self.c(self.b(h)).relu()
"""


@pytest.mark.parametrize("storage", ["float32", "float16"])
def test_shared_weights_are_saved_once_and_loaded_shared(storage: str, tmp_path: Path) -> None:
    spec = write(tmp_path, TIED)
    out = train(short(spec, **{"train.storage": storage}), tmp_path / "entry")
    state = load_file(out / "model.safetensors")
    assert "net.b.weight" in state and "net.c.weight" not in state
    net: Any = loaded(spec, out).net
    assert net.b.weight is net.c.weight
    assert torch.equal(net.b.weight, state["net.b.weight"].float())
    recipe = read(out / "recipe.toml")
    assert recipe.weights is not None
    assert recipe.weights.parameters == sum(p.numel() for p in net.parameters()) == (3 * 8 + 8) + (64 + 8 + 8) + 18
    assert "Net, built by the method; 130 parameters" in (out / "README.md").read_text()


BUFFERS = """
def more(self):
    self.register_buffer("large", torch.tensor(100_003))
    self.register_buffer("mask", torch.tensor([True, False]))
    self.register_buffer("bytes", torch.arange(3, dtype=torch.uint8))
    self.register_buffer("phase", torch.tensor([1 + 2j]))
    self.register_buffer("walls", torch.tensor([0.5, -torch.inf]))
    self.register_buffer("turned", torch.arange(6.0).reshape(2, 3).t())
    self.register_buffer("none", None)
    self.scale = nn.Parameter(torch.tensor(0.1))
def middle(self, h):
    return h * self.scale
"""


@pytest.mark.parametrize("storage", ["float32", "float16"])
def test_buffers_of_other_dtypes_keep_them(storage: str, tmp_path: Path) -> None:
    spec = write(tmp_path, BUFFERS)
    net: Any = loaded(spec, train(short(spec, **{"train.storage": storage}), tmp_path / "entry")).net
    assert net.large.dtype == torch.int64 and int(net.large) == 100_003
    assert net.mask.tolist() == [True, False]
    assert net.bytes.dtype == torch.uint8 and net.bytes.tolist() == [0, 1, 2]
    assert net.phase.tolist() == [1 + 2j]
    assert net.walls.tolist() == [0.5, -torch.inf]
    assert net.turned.tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
    assert net.scale.dtype == torch.float32 and net.scale.ndim == 0


UNSAVABLE = {
    "extra state": ("def get_extra_state(self):\n    return {'a': 1}\ndef set_extra_state(self, state):\n    pass", "keep it in a buffer"),
    "sparse": ("def more(self):\n    self.register_buffer('s', torch.eye(2).to_sparse())", "'net.s' is sparse"),
    "double complex": ("def more(self):\n    self.register_buffer('z', torch.ones(1, dtype=torch.complex128))", "complex128"),
    "lazy": ("def more(self):\n    self.lazy = nn.LazyLinear(2)", "has no shape before the first call"),
    "overflow": ("def more(self):\n    self.register_buffer('far', torch.tensor(1e6))", r"far reaches 1e\+06, which float16 cannot hold"),
    "expanded": ("def more(self):\n    self.register_buffer('wide', torch.zeros(1).expand(4))", "cannot be loaded"),
    "hidden weights": ("def state_dict(self, *a, destination, prefix='', **k):\n    destination[prefix + 'x'] = torch.ones(1)",
                       "net.first.weight of Mine is not part of its state_dict"),
    "random tensor": ("def more(self):\n    self.frequencies = torch.randn(3)", "net.frequencies of Mine is not part of its state_dict"),
    "random tensors in a list": ("def more(self):\n    self.all = [torch.randn(3)]", "net.all"),
    "random buffer": ("def more(self):\n    self.register_buffer('f', torch.randn(3), persistent=False)", "net.f of Mine is not part"),
    "failing hook": ("def state_dict(self, *a, **k):\n    raise KeyError('gone')", "KeyError: 'gone'"),
    "hook that forgets": ("def more(self):\n    self.b = type('F', (nn.Linear,), {'_load_from_state_dict': lambda *a, **k: None})(8, 8)",
                          "net.b.bias comes back changed|net.b.weight comes back changed"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNSAVABLE)
def test_what_cannot_be_saved_is_refused_before_the_first_step(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    body, words = UNSAVABLE[case]
    spec, steps = write(tmp_path, body), []
    recipe = short(spec, **{"train.storage": "float16"})
    with pytest.raises(ValueError, match=words) as caught:
        train(recipe, tmp_path / "entry", report=lambda step, loss: steps.append(step))
    assert "\n" not in str(caught.value)
    assert steps == [] and list((tmp_path / "entry").iterdir()) == []
    if case != "overflow":  # the closed recipe of this task stores float32
        assert main(["check", spec, "--task", TASK]) == 1
        assert "FAILED  state: saved and reloaded" in capsys.readouterr().out


def test_weights_that_overflow_when_stored_are_not_lost(tmp_path: Path) -> None:
    """The weights grow beyond float16 in training: no half-written entry, and another storage goes on from the last step."""
    grows = "def forward(self, x, t):\n    return x + 0 * t[:, None] + self.first.bias.sum() * 1e-6"
    spec, out = write(tmp_path, grows), tmp_path / "entry"
    settings = {"train.steps": 1, "train.lr": 1e5, "train.schedule": "constant", "train.ema": 0.0}
    with pytest.raises(
        ValueError, match=r'net.first.bias reaches .*, which float16 cannot hold; set train.storage = "float32"'
    ):
        train(short(spec, **settings, **{"train.storage": "float16"}), out)
    assert [p.name for p in out.iterdir()] == [CHECKPOINT]
    steps: list[int] = []
    train(short(spec, **settings), out, report=lambda step, loss: steps.append(step))
    assert steps == []
    assert float(loaded(spec, out).net.first.bias.detach().abs().max()) > 65504  # type: ignore[union-attr]


def changed_header(path: Path, change: Callable[[dict], Any]) -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    text = change(header)
    text = (json.dumps(header) if text is None else text).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def repeated(header: dict) -> str:
    name = next(iter(header))
    return json.dumps(header)[:-1] + f', "{name}": {json.dumps(header[name])}}}'


HEADERS: dict[str, Callable[[dict], Any]] = {
    "overlap": lambda h: h["net.layers.2.weight"].update(data_offsets=[0, 64]),
    "beyond the end": lambda h: h["net.layers.2.weight"].update(data_offsets=[0, 10**15]),
    "shape": lambda h: h["net.layers.0.weight"].update(shape=[2**40, 2**40]),
    "dtype": lambda h: h["net.layers.0.weight"].update(dtype="Q7"),
    "twice": repeated,
    "list": lambda h: "[]",
    "deep": lambda h: "[" * 100_000,
    "no json": lambda h: "{",
}


@pytest.mark.parametrize("case", HEADERS)
def test_hostile_headers_are_one_line_with_the_path(case: str, zoo: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes((zoo / "gaussian-8gaussians" / "tiny" / "model.safetensors").read_bytes())
    changed_header(path, HEADERS[case])
    with pytest.raises(ValueError, match=f"^{path} is no weight file: ") as caught:
        weight_file.read_header(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [0, 2**63, 2**64 - 1, 10**7])
def test_headers_that_lie_about_their_length_are_not_read(length: int, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(struct.pack("<Q", length) + b"{}")
    with pytest.raises(ValueError, match=f"^{path} is no weight file: "):
        weight_file.read_header(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"net.width": 10**9}, "more than 1,000,000,000 numbers; lower the sizes in .net."),
        ({"net.depth": 10**9}, "more than 20,000 tensors"),
        ({"net": {"name": "unet", "channels": 8 * 10**6}}, "images divisible|more than"),
    ],
)
def test_networks_beyond_all_bounds_are_refused_at_once(settings: dict, words: str, tmp_path: Path) -> None:
    task = "digits" if "net" in settings else TASK
    recipe = override(closed(TASKS.resolve(task)(), "cfm"), settings)
    with pytest.raises(ValueError, match=words):
        train(recipe, tmp_path / "entry")
    (tmp_path / "file.py").write_text("from fmbench.methods.cfm import CFM\nclass Own(CFM):\n    pass\n")
    with pytest.raises(ValueError, match=words):
        train(override(recipe, {"method.name": f"{tmp_path / 'file.py'}:Own"}), tmp_path / "entry")


def test_a_recipe_larger_than_its_weights_is_refused_before_it_is_built(zoo: Path, tmp_path: Path) -> None:
    import shutil

    entry = Path(shutil.copytree(zoo / "gaussian-8gaussians" / "tiny", tmp_path / "entry"))
    text = (entry / "recipe.toml").read_text()
    (entry / "recipe.toml").write_text(text.replace("width = 16", "width = 20000"))
    with pytest.raises(
        ValueError, match=r"entry/model.safetensors: the weights do not fit .*has shape \(16,\), not \(20000,\)"
    ):
        load(str(entry))


def test_a_teacher_with_shared_weights_is_identified_by_them(tmp_path: Path) -> None:
    """Its hash is that of the same weights held apart, and changes with them."""
    from fmbench.execution.state import state_hash
    from fmbench.zoo.building import build

    spec = write(tmp_path, TIED)
    tied: Any = build(short(spec), TASKS.resolve(TASK)(), method_class(spec), "r")
    before = state_hash(tied)
    apart = copy.deepcopy(tied)
    apart.net.c.weight = nn.Parameter(apart.net.b.weight.detach().clone())
    assert state_hash(apart) == before
    with torch.no_grad():
        tied.net.b.weight.add_(1)
    assert state_hash(tied) != before
