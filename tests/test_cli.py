"""The command line as its user meets it: output, exit codes, one clear line for every mistake."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import fmbench
from fmbench import cli, registry
from fmbench.cli.listing import KINDS
from fmbench.registry import REGISTRIES

METHOD = '''
import torch
from fmbench.methods import VelocityMethod


class MyMethod(VelocityMethod):
    """Flow matching, written out."""

    def __init__(self, net, power: float = 1.0):
        super().__init__(net)
        self.power = power

    def loss(self, batch, generator):
        t = torch.rand(len(batch.x0), generator=generator) ** self.power
        s = t.reshape(-1, *[1] * (batch.x0.ndim - 1))
        error = self.net((1 - s) * batch.x0 + s * batch.x1, t) - (batch.x1 - batch.x0)
        return error.square().mean()
'''
ENTRY = "gaussian-moons/cfm"
PROTOCOL = """
name = "own"
version = 1
summary = "for tests"
tasks = ["gaussian-moons"]
samples = 64
seeds = [0]
samplers = [{ solver = "euler", steps = 2 }]
metrics = ["wasserstein2"]
flow = { samples = 8, steps = 4, probes = 8, probe_steps = 4 }
latency = { batches = [1], seconds = 0.0 }
rank = { vector = "wasserstein2", steps = 2 }
"""


def run(*words):
    return cli.main([str(word) for word in words])


def one_line(capsys):
    captured = capsys.readouterr()
    (line,) = captured.err.strip().splitlines()
    assert line.startswith("fmbench: ")
    return line


def test_list_shows_every_kind(capsys):
    assert run("list") == 0
    text = capsys.readouterr().out
    for name in ("digits/ot-cfm", "w-cfm", "mixture-64d", "transport-2d", "wasserstein2"):
        assert name in text
    assert "digits-cnn" not in text


@pytest.mark.parametrize("kind", KINDS)
def test_list_as_json_is_what_the_api_says(kind, capsys):
    assert run("list", kind, "--json") == 0
    listing = getattr(fmbench, f"list_{kind}", None)
    names = list(REGISTRIES[kind].all() if listing is None else listing())
    assert names and json.loads(capsys.readouterr().out) == {kind: names}


def test_every_table_of_names_can_be_listed():
    """A registry that is added is listed, and what it holds is described."""
    tables = [table for table in vars(registry).values() if isinstance(table, registry.Registry)]
    assert {id(table) for table in tables} == {id(table) for table in REGISTRIES.values()}
    assert set(REGISTRIES) < set(KINDS)


@pytest.mark.parametrize(
    "name",
    [
        "digits/ot-cfm",
        "ot-cfm",
        "digits",
        "gaussian-moons",
        "quick",
        "straightness",
        "digits/oracle",
        "adamw",
        "heun",
        "unet",
        "classifier",
        "inception-random",
    ],
)
def test_info_of_anything(name, capsys):
    assert run("info", name) == 0
    assert name in capsys.readouterr().out
    assert run("info", name, "--json") == 0
    assert json.loads(capsys.readouterr().out)["kind"]


def test_a_name_of_two_kinds_says_so(capsys):
    assert run("info", "digits", "--json") == 0
    first = json.loads(capsys.readouterr().out)
    assert first["also"] == "fmbench info digits --kind task"
    assert run("info", "digits", "--kind", "task", "--json") == 0
    second = json.loads(capsys.readouterr().out)
    assert (first["kind"], second["kind"], second["space"]) == ("benchmark", "task", "image")
    assert run("info", "heun", "--kind", "task") == 2
    assert "unknown task 'heun'" in one_line(capsys)


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        (["info", "digits/ot-cmf"], 2, ["digits/ot-cmf", "nearest: digits/ot-cfm"]),
        (["sample", "gaussian-moons/cmf", "-o", "x.png"], 2, ["nearest", ENTRY]),
        (["sample", ENTRY, "-o", "x.jpg"], 2, [".png or .npy"]),
        (["sample", ENTRY, "--solver", "eulr", "-o", "x.png"], 2, ["eulr", "nearest: euler"]),
        (["sample", ENTRY, "--guidance", "2", "-o", "x.png"], 1, ["g2: guidance needs a class-conditional entry"]),
        (["sample", ENTRY, "--label", "1", "-o", "x.png"], 2, ["no labels"]),
        (["sample", "gaussian-moons/rf-distill", "--steps", "4", "-o", "x.png"], 1, ["1 step only"]),
        (["sample", "mixture-16d/cfm", "-o", "x.png"], 1, [".npy"]),
        (["run", "quik", "--out", "o"], 2, ["quik", "nearest: quick"]),
        (["run", "quick", "-m", "--out", "o"], 1, ["empty"]),
        (
            ["run", "quick", "-m", "hf:model@main", "--out", "o"],
            1,
            ["'hf:model@main' names no repository", "write hf:owner/name"],
        ),
        (["run", "quick", "-m", "gone.py:Mine", "--out", "o"], 1, ["no file gone.py"]),
        (["sample", "hf:model"], 1, ["write hf:owner/name"]),
        (["info", "hf:a/b/c"], 1, ["write hf:owner/name"]),
        (["train", "hf:../b"], 1, ["write hf:owner/name"]),
        (["fetch"], 2, ["--all"]),
        (["fetch", "hf:a/b@"], 1, ["write hf:owner/name"]),
        (["fetch", "gaussian-moons/cmf"], 2, ["nearest", ENTRY]),
        (["pin", ENTRY], 2, [ENTRY, "hf:owner/name"]),
        (["push", "gaussian-moons/cmf", "--repo", "a/b"], 2, ["nearest", ENTRY]),
        (["bundle", "export", "x.zip"], 2, ["--all"]),
        (["bundle", "import", "gone.zip"], 1, ["gone.zip"]),
        (["convert", "x.pt"], 2, ["--i-trust-this-file"]),
        (["convert", "gone.pt", "--i-trust-this-file"], 1, ["no checkpoint at gone.pt"]),
        (["sample", ENTRY, "--task", "digits"], 2, ["--task digits", "says its own"]),
        (["run", "digits", "-m", ENTRY, "--out", "o"], 1, ["gaussian-moons", "digits"]),
        (["run", "quick", "--device", "cuda:99", "--out", "o"], 2, ["cuda:99", "available"]),
        (["train", "gaussian-moons/cfm", "--set", "train.stps=3", "--out", "o"], 1, ["stps", "steps"]),
        (["train", "--method", "cfm", "--task", "gaussian-mons"], 2, ["nearest: gaussian-moons"]),
        (["train", "--method", "reflow", "--task", "gaussian-moons", "--out", "o"], 1, ["teacher"]),
        (["train", "--method", "cfm", "--task", "gaussian-moons", "--conditional"], 1, ["gaussian-moons has no class"]),
        (["train"], 2, ["--method"]),
        (["check", "no_such.py:Thing"], 1, ["no file no_such.py"]),
        (["leaderboard", "build", "nowhere"], 2, ["nowhere"]),
    ],
)
def test_a_mistake_is_one_line_with_its_exit_code(words, code, parts, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(*words) == code
    line = one_line(capsys)
    for part in parts:
        assert part in line
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


@pytest.mark.parametrize(
    "words",
    [["sample", ENTRY, "--steps", "0"], ["sample", ENTRY, "-n", "0"], ["run", "quick", "--limit", "-3"], ["list", "x"]],
)
def test_wrong_usage_exits_with_2(words, capsys):
    with pytest.raises(SystemExit) as stop:
        run(*words)
    assert stop.value.code == 2


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('vector = "wasserstein2"', 'vector = "wasserstein3"', "[rank]: vector: unknown metric 'wasserstein3'"),
        ('metrics = ["wasserstein2"]', 'metrics = ["wasserstein3"]', "unknown metric 'wasserstein3'"),
        ('solver = "euler"', 'solver = "eulr"', "unknown solver 'eulr'"),
        ('"gaussian-moons"', '"gaussian-mons"', "unknown task 'gaussian-mons'"),
        ("samples = 64", "samples = 0", "samples must be at least 1"),
    ],
)
def test_a_fault_in_a_protocol_file_exits_with_1_whatever_it_is(old, new, words, tmp_path, monkeypatch, capsys):
    """The command was right; what the file says is not."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.toml").write_text(PROTOCOL.replace(old, new))
    assert old in PROTOCOL
    assert run("run", "own.toml", "--out", "o") == 1
    assert words in one_line(capsys)


def test_the_help_of_limit_says_what_is_refused(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run("run", "--help")
    assert "at most those of the benchmark" in " ".join(capsys.readouterr().out.split())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.toml").write_text(PROTOCOL)
    assert run("run", "own.toml", "--limit", 65, "--out", "o") == 1
    assert "limit 65 is more than the 64 samples" in one_line(capsys)


def test_debug_shows_the_traceback():
    with pytest.raises(ValueError, match="nearest"):
        run("info", "nothing-like-it", "--debug")


def test_sample_writes_pictures_and_arrays(tmp_path, capsys):
    assert run("sample", "digits/cfm", "-n", 9, "--steps", 2, "-o", tmp_path / "grid.png") == 0
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.size == (28 * 5, 28 * 5)
    assert run("sample", ENTRY, "-n", 50, "--steps", 2, "-o", tmp_path / "cloud.png") == 0
    assert run("sample", ENTRY, "-n", 50, "--steps", 2, "-o", tmp_path / "cloud.npy") == 0
    assert np.array_equal(np.load(tmp_path / "cloud.npy"), fmbench.load(ENTRY).sample(50, steps=2).numpy())


@pytest.mark.slow
def test_a_conditional_entry_takes_labels_and_guidance(tmp_path, capsys):
    folder = tmp_path / "cond"
    assert (
        run(
            "train",
            "--method",
            "cfm",
            "--task",
            "digits",
            "--conditional",
            "--set",
            "train.steps=2",
            "--out",
            folder,
        )
        == 0
    )
    from fmbench.zoo.pictures import trajectories

    model = fmbench.load(str(folder))
    assert model.conditional
    with torch.no_grad():  # two steps teach it nothing: make the labels matter
        model.method.net.label_embedding.weight.mul_(10)
        model.method.net.head[-2].weight.normal_(generator=torch.Generator().manual_seed(0))
    three, seven = (model.sample(4, steps=2, labels=torch.full((4,), k)) for k in (3, 7))
    assert not torch.equal(three, seven)
    words = ["sample", folder, "--label", 3, "--guidance", 2, "-n", 4, "--steps", 2, "-o", tmp_path / "x.png"]
    assert run(*words) == 0
    capsys.readouterr()
    assert run(*[w if w != 3 else 10 for w in words]) == 2
    assert "0 to 9" in one_line(capsys)
    chosen = (
        {},
        {"guidance": 3.0},
        {"labels": torch.tensor([3, 3])},
        {"labels": torch.tensor([3, 3]), "guidance": 3.0},
    )
    assert len({trajectories(model, 2, steps=2, columns=3, **more).tobytes() for more in chosen}) == 4
    assert (
        run("sample", folder, "--trajectory", 3, "-n", 2, "--label", 3, "--guidance", 2, "-o", tmp_path / "y.png") == 0
    )
    capsys.readouterr()
    assert run("sample", folder, "--trajectory", 3, "--guidance", "nan") == 1
    assert "guidance must be a finite number" in one_line(capsys)
    assert run("sample", folder, "--trajectory", 3, "--solver", "heun") == 2
    assert "trajectories are drawn by euler" in one_line(capsys)
    assert run("sample", "digits/rf-distill", "--guidance", 3) == 1
    assert "this model is a map" in one_line(capsys)


@pytest.mark.slow
def test_a_method_of_your_own_needs_one_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_method.py").write_text(METHOD)
    spec = "my_method.py:MyMethod"
    assert run("check", spec) == 0
    assert "FAILED" not in capsys.readouterr().out
    assert run("run", "quick", "-m", spec, "--limit", 64) == 1
    assert "fmbench train --method my_method.py:MyMethod" in capsys.readouterr().err
    assert (
        run("train", "--method", spec, "--task", "digits", "--set", "train.steps=3", "--set", "method.power=0.5") == 0
    )
    assert (tmp_path / "entries/digits/my-method/model.safetensors").is_file()
    capsys.readouterr()
    assert run("run", "quick", "-m", spec, "--limit", 64, "--json") == 0
    results = json.loads(capsys.readouterr().out)
    assert [r["model"]["name"] for r in results] == ["digits/data", "digits/my-method"]
    assert results[1]["model"]["division"] == "open"
    assert {p.name for p in (tmp_path / "runs").iterdir()} >= {"README.md", "index.html", "tables", "results"}


def test_check_finds_what_is_wrong(tmp_path, capsys):
    (tmp_path / "bad.py").write_text(
        METHOD.replace("generator=generator", "").replace("self.net((1", "self.net(torch.rand(1) + (1")
    )
    assert run("check", f"{tmp_path / 'bad.py'}:MyMethod") == 1
    assert "global generator" in capsys.readouterr().out
    (tmp_path / "none.py").write_text("x = 1\n")
    assert run("check", f"{tmp_path / 'none.py'}:MyMethod") == 1
    assert "no class MyMethod" in one_line(capsys)


@pytest.mark.slow
def test_interrupted_output_is_quiet():
    code = "import sys; from fmbench.cli import main; sys.exit(main(['list']))"
    writer = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ)
    )
    writer.stdout.close()
    assert b"Traceback" not in writer.communicate()[1]


def test_sysinfo(capsys):
    assert run("sysinfo", "--json") == 0
    assert json.loads(capsys.readouterr().out)["fmbench"] == fmbench.__version__


def test_run_says_when_nothing_is_bundled(capsys):
    assert run("run", "cifar10") == 1
    assert "no entry is bundled for cifar10" in capsys.readouterr().err


@pytest.mark.slow
def test_validate_metrics_prints_the_table_and_fails_on_a_wrong_metric(tmp_path, capsys, monkeypatch):
    table = tmp_path / "table.md"
    assert run("validate-metrics", "--metric", "lipschitz", "--markdown", table) == 0
    assert "within tolerance" in capsys.readouterr().out
    assert "lipschitz" in table.read_text()
    assert run("validate-metrics", "--metric", "lipschitz", "--json") == 0
    assert json.loads(capsys.readouterr().out)["passed"] is True
    from fmbench.metrics import lipschitz

    right = lipschitz.local_lipschitz
    monkeypatch.setattr(lipschitz, "local_lipschitz", lambda *args, **options: 1.1 * right(*args, **options))
    assert run("validate-metrics", "--metric", "lipschitz") == 1
    assert "NO" in capsys.readouterr().out
    assert run("validate-metrics", "--metric", "lipshitz") == 2
    assert "lipschitz" in capsys.readouterr().err


@pytest.mark.slow
def test_fid_dialects_of_one_set_of_pictures(tmp_path, capsys, monkeypatch):
    """The network is cut to its first layers, so that the table costs seconds; what it holds is tested beside the libraries."""
    from fmbench.evaluation import rescoring
    from fmbench.features.extractor import Extractor, InDomain

    tiny = Extractor("tiny", "0" * 64, lambda x: (x.mean(dim=(2, 3)), None), InDomain((3, 299, 299)))
    monkeypatch.setattr(rescoring, "load_extractor", lambda name, device: tiny)
    x = np.random.default_rng(0).integers(0, 256, (6, 3, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "a.npy", x)
    np.save(tmp_path / "b.npy", x[::-1] // 2)
    words = ("score", tmp_path / "a.npy", "--reference", tmp_path / "b.npy", "--metric", "sliced_wasserstein2")
    assert run(*words, "--fid-dialects", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["fid_dialects"]
    assert {row["n"] for row in rows} == {6} and len(rows) >= 7
    assert rows[0]["difference"] == 0
    assert run(*words, "--fid-dialects", "--dialect-images", "5") == 0
    out = capsys.readouterr().out
    assert "FID of the same 5 images against 5" in out
    for name in ("clean-fid clean", "torch-fidelity", "torchmetrics"):
        assert name in out


@pytest.mark.slow
def test_an_accelerated_run_says_so_and_is_not_ranked(tmp_path, capsys):
    words = (
        "run",
        "quick",
        "-m",
        "gaussian-moons/cfm",
        "--limit",
        "40",
        "--out",
        tmp_path,
        "--dtype",
        "bfloat16",
        "--json",
    )
    assert run(*words) == 0
    _, found = json.loads(capsys.readouterr().out)
    assert found["ranked"] is False
    assert {row["latency"]["dtype"] for row in found["rows"]} == {"bfloat16"}


@pytest.mark.slow
def test_trajectories_go_from_the_noise_to_the_sample(tmp_path):
    """First and last column of the strip are the pictures of the noise and of the Euler samples, and a strip of two is just those."""
    strip, noise, samples = (tmp_path / name for name in ("strip.png", "noise.png", "samples.png"))
    words = ("digits/ot-cfm", "-n", 3, "--steps", 6)
    assert run("sample", *words, "--trajectory", 4, "-o", strip) == 0
    assert run("sample", *words, "-o", samples) == 0
    model = fmbench.load("digits/ot-cfm")
    from fmbench.zoo.pictures import grid

    grid(model.noise(0, 3, 0), 1).save(noise)
    grid(model.sample(3, steps=6), 1).save(samples)
    drawn, first, last = (np.asarray(Image.open(path)) for path in (strip, noise, samples))
    cell = last.shape[1]
    assert drawn.shape[0] == last.shape[0]
    np.testing.assert_array_equal(drawn[:, :cell], first)
    np.testing.assert_array_equal(drawn[:, -cell:], last)


@pytest.mark.parametrize(
    "words", [("gaussian-moons/cfm", "--trajectory", 4), ("digits/ot-cfm", "--trajectory", 9, "--steps", 4)]
)
def test_trajectories_that_cannot_be_drawn_are_one_line(tmp_path, capsys, words):
    assert run("sample", *words, "-n", 2, "-o", tmp_path / "a.png") == 1
    one_line(capsys)
    assert not (tmp_path / "a.png").exists()
