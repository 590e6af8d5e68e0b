"""A loaded model: a method with its weights, its task, and the harness's way of sampling it."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from fmbench import nfe
from fmbench.methods.base import Method, VelocityMethod
from fmbench.noise import BLOCK, draw
from fmbench.records.recipe import Recipe, check_table, parameters_of
from fmbench.records.sampler import Sampler
from fmbench.registry import METHODS, NETS, SOLVERS, TASKS
from fmbench.shapes import Labels, Points, Times
from fmbench.storage.files import sha256
from fmbench.tasks.base import Task
from fmbench.zoo import catalogue
from fmbench.zoo.catalogue import Entry


@dataclass(frozen=True)
class Generated:
    """Samples with what they cost: rows through the network, for the model itself and for guidance."""

    samples: Points
    evaluations: nfe.Evaluations


def generate(
    method: Method, noise: Points, sampler: Sampler, labels: Labels | None = None, batch_size: int = BLOCK
) -> Generated:
    """Sample in minibatches, on the method's device; noise and result live on the CPU.

    Adaptive solvers always get one noise block (256 samples) at a time: their error norm runs over the batch, and the result must
    not depend on ``batch_size``. Raises ValueError for batch_size < 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch size must be at least 1, got {batch_size}")
    if method.steps_allowed and sampler.steps not in method.steps_allowed:
        allowed = ", ".join(map(str, method.steps_allowed))
        raise ValueError(f"this model samples with steps {allowed} only, got {sampler.steps}")
    size = BLOCK if sampler.make_solver().adaptive else batch_size
    device = device_of(method)
    chunks = []
    with torch.no_grad(), nfe.counting(method.net) as evaluations:
        for start in range(0, len(noise), size):
            rows = slice(start, start + size)
            chunk_labels = None if labels is None else labels[rows].to(device)
            chunks.append(method.sample(noise[rows].to(device), sampler, chunk_labels).float().cpu())
    return Generated(torch.cat(chunks), evaluations)


def device_of(method: nn.Module) -> torch.device:
    """Where the method's parameters or buffers live, the CPU when it has none."""
    for tensor in (*method.parameters(), *method.buffers()):
        return tensor.device
    return torch.device("cpu")


@dataclass
class Model:
    """A model ready to sample.

    Attributes:
        name: ``task/entry`` or the name given.
        task: its task.
        method: the method with its weights, in evaluation mode.
        recipe: how it was made, None for wrapped modules.
        identity: ``weights_sha256``, ``code_sha256`` and the like: what a result says was evaluated.
    """

    name: str
    task: Task
    method: Method
    recipe: Recipe | None = None
    identity: dict[str, Any] = field(default_factory=dict)

    @property
    def conditional(self) -> bool:
        """Whether the network takes class labels."""
        return bool(getattr(self.method.net, "num_classes", 0))

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""
        return sum(p.numel() for p in self.method.parameters())

    def noise(self, start: int, stop: int, seed: int) -> Points:
        """Source points ``start`` to ``stop`` of an evaluation seed, by the noise contract."""
        return draw(self.task.source.sample, start, stop, seed, "source")

    def labels(self, start: int, stop: int, seed: int) -> Labels | None:
        """Class labels of the same samples, uniform over classes; None for unconditional models."""
        if not self.conditional:
            return None
        classes = self.task.num_classes
        return draw(lambda n, g: torch.randint(classes, (n,), generator=g), start, stop, seed, "label")

    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        solver: str = "euler",
        steps: int | None = None,
        guidance: float = 1.0,
        labels: Labels | None = None,
        batch_size: int = BLOCK,
    ) -> Points:
        """``n`` samples, float32 on the CPU, (n, *task.shape); sample ``i`` depends on (seed, i) only.

        An adaptive solver chooses its steps for a block of 256 samples as one: there, ``i`` in the last block of an ``n`` that is no
        multiple of 256 also depends, within the tolerance of the solver, on how many others are in it.

        ``steps`` defaults to 32, or to the only number the model can do. Raises ValueError for n < 1, steps < 1 and unknown solvers.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        if steps is None and not SOLVERS.resolve(solver).adaptive:
            steps = (self.method.steps_allowed or (32,))[0]
        sampler = Sampler(solver, steps, guidance=guidance)
        if guidance != 1.0 and not isinstance(self.method, VelocityMethod):
            raise ValueError(f"guidance {guidance} needs a velocity field; {self.name} is a map")
        if labels is None:
            labels = self.labels(0, n, seed)
        elif len(labels) != n:
            raise ValueError(f"{len(labels)} labels for {n} samples")
        elif not self.conditional:
            raise ValueError(f"{self.name} takes no labels")
        elif not (labels.min() >= 0 and labels.max() < self.task.num_classes):
            raise ValueError(
                f"labels must be in [0, {self.task.num_classes}), got {int(labels.min())} to {int(labels.max())}"
            )
        return generate(self.method, self.noise(0, n, seed), sampler, labels, batch_size).samples


def build(recipe: Recipe, task: Task, kind: type[Method], where: str) -> Method:
    """The untrained method of a recipe.

    Raises ValueError for unknown or ill-typed parameters, and for a source or labels that the task does not have.
    """
    if recipe.conditional and not task.num_classes:
        raise ValueError(f"{where}: conditional = true, but {task.name} has no class labels; leave conditional out")
    if kind.gaussian_source_only and not task.gaussian_source:
        raise ValueError(f"{recipe.method['name']} needs a Gaussian source, and the source of {task.name} is not")
    parameters = {k: v for k, v in recipe.method.items() if k != "name"}
    check_table(parameters, parameters_of(kind, skip=("self", "net")), f"{where} [method]")
    if recipe.net:
        net_kind = NETS.resolve(recipe.net["name"])
        allowed = parameters_of(net_kind, skip=("self", "shape", "num_classes"))
        check_table({k: v for k, v in recipe.net.items() if k != "name"}, allowed, f"{where} [net]")
    return kind(kind.build_net(task, dict(recipe.net), recipe.conditional), **parameters)


def _execute(file: Path) -> ModuleType:
    """The module of a file, executed once per content; it stays in ``sys.modules``, as ``inspect`` and dataclasses need."""
    name = f"fmbench_user_{file.stem}_{sha256(str(file.resolve()).encode() + file.read_bytes())[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def method_class(spec: str) -> type[Method]:
    """The class of a registered name or of ``path/to/file.py:Class``; the file is executed, so it must be the user's own words.

    Raises UnknownName, FileNotFoundError, or ValueError when the file has no such Method.
    """
    path, separator, name = spec.rpartition(":")
    if not separator or not path.endswith(".py"):
        return METHODS.resolve(spec)
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"no file {path} for the method {spec}")
    module = _execute(file)
    kind = getattr(module, name, None)
    if not (inspect.isclass(kind) and issubclass(kind, Method)):
        found = [
            n
            for n, k in vars(module).items()
            if inspect.isclass(k) and issubclass(k, Method) and k.__module__ == module.__name__
        ]
        raise ValueError(
            f"{path} has no class {name} derived from fmbench.methods.Method; it has: {', '.join(found) or 'none'}"
        )
    return kind


def load_entry(entry: Entry, kind: type[Method] | None, device: str) -> Model:
    """The model of an entry folder; ``kind`` is its class when the recipe names a file, which is never executed from here.

    Raises ValueError in one line when the weights do not fit, are not what the recipe pins, or need code that was not given.
    """
    from safetensors.torch import load as read_safetensors

    recipe = entry.recipe
    if kind is None:
        if ".py:" in recipe.method["name"]:
            raise ValueError(
                f"{entry.name} runs code from {recipe.method['name']}; say so with -m {recipe.method['name']}"
            )
        kind = METHODS.resolve(recipe.method["name"])
    assert kind is not None
    task = TASKS.resolve(recipe.task)()
    # The initial weights are drawn and thrown away; a caller's random numbers must not depend on what was loaded before.
    with torch.random.fork_rng(devices=[]):
        method = build(recipe, task, kind, str(entry.folder / "recipe.toml"))
    identity: dict[str, Any] = {"license": recipe.license, "recipe": recipe.identity(), "code_sha256": code_hash(kind)}
    if any(True for _ in method.parameters()):
        state = read_safetensors(entry.read_weights())
        try:
            method.load_state_dict({k: v.float() for k, v in state.items()})
        except RuntimeError as error:
            what = str(error).partition("\n")[2].strip().partition("\n")[0]
            raise ValueError(f"{entry.folder}: the weights do not fit the recipe's [net]: {what}") from None
        assert recipe.weights is not None
        identity["weights_sha256"] = recipe.weights.sha256
    return Model(entry.name, task, method.eval().to(device), recipe, identity)


def code_hash(kind: type) -> str:
    """SHA-256 of the source file of a class: which code was evaluated."""
    return sha256(Path(inspect.getfile(kind)).read_bytes())


def _load_file(spec: str, task: str | None, device: str) -> Model:
    kind = method_class(spec)
    entry_name = catalogue.kebab(kind.__name__)
    trained = catalogue.trained_here(kind.__name__, task or "*")
    where = ", ".join(map(str, trained)) or f"none in {catalogue.LOCAL_ENTRIES}/*/{entry_name}"
    if task is None and len({folder.parent for folder in trained}) != 1:
        raise ValueError(f"which task is {spec} for? trained entries: {where}; give the task")
    if len(trained) > 1:
        raise ValueError(f"which entry of {spec}? trained here: {where}; move the others elsewhere")
    if trained:
        return load_entry(catalogue.open_folder(trained[0]), kind, device)
    assert task is not None
    definition = TASKS.resolve(task)()
    from fmbench.records.recipe import closed

    method = build(closed(definition, spec), definition, kind, spec)
    if any(True for _ in method.parameters()):
        raise FileNotFoundError(
            f"{spec} has no weights for {task}; make them with `fmbench train --method {spec} --task {task}`"
        )
    return Model(f"{task}/{entry_name}", definition, method.eval().to(device), None, {"code_sha256": code_hash(kind)})


def load(spec: str, *, task: str | None = None, device: str = "cpu") -> Model:
    """Load a model by one string: ``task/entry`` of the zoo, a folder, or ``path/to/file.py:Class`` (then for ``task``).

    Raises UnknownName, FileNotFoundError, or ValueError (ambiguous name, corrupted weights) in one line.
    """
    path, separator, _ = spec.rpartition(":")
    if separator and path.endswith(".py"):
        return _load_file(spec, task, device)
    return load_entry(catalogue.find(spec), None, device)


class _Wrapped(VelocityMethod):
    """A foreign velocity field."""

    def loss(self, batch: Any, generator: torch.Generator) -> Tensor:
        raise ValueError("a wrapped module is already trained")


class _Adapter(nn.Module):
    """Calls a foreign module with its own signature, as a module so that its evaluations are counted."""

    def __init__(self, module: nn.Module, call: Callable[[nn.Module, Points, Times], Points]) -> None:
        super().__init__()
        self.module, self.call = module, call

    def forward(self, x: Points, t: Times, labels: Labels | None = None) -> Points:
        return self.call(self.module, x, t)


def wrap(
    module: nn.Module,
    task: str,
    name: str,
    call: Callable[[nn.Module, Points, Times], Points] = lambda module, x, t: module(x, t),
) -> Model:
    """Make a model of any velocity field: ``call(module, x, t)`` gets (batch, *shape) and (batch,) and returns dx/dt.

    For a field with t = 0 at the data, pass ``lambda m, x, t: -m(x, 1 - t)``.
    """
    state = b"".join(v.detach().cpu().contiguous().numpy().tobytes() for v in module.state_dict().values())
    identity = {"weights_sha256": sha256(state), "code_sha256": None}
    method = _Wrapped(_Adapter(module, call)).eval()
    return Model(f"{task}/{name}", TASKS.resolve(task)(), method, None, identity)
