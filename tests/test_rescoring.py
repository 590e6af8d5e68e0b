"""`score`: samples from files get the numbers that the harness gives the same samples."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import fmbench
from fmbench.cli import main
from fmbench.evaluation.rescoring import score
from fmbench.records import result
from fmbench.registry import TASKS, UnknownName
from fmbench.tasks.digits import digits

FEATURES = ["frechet_distance", "kernel_distance", "precision", "coverage"]


def values(r):
    return {name: e.value for name, e in r.rows[0].metrics.items()}


@pytest.fixture(scope="module")
def held():
    return digits().heldout.points()[0].numpy()


def test_held_out_images_score_like_the_data_anchor(tmp_path, held):
    np.save(tmp_path / "held.npy", held)
    data, mine = score(tmp_path / "held.npy", task="digits", metrics=FEATURES)
    assert values(mine) == pytest.approx(values(data), rel=1e-9)
    assert (mine.status, mine.ranked, mine.rows[0].samples["n"]) == ("rescored", False, len(held))
    assert mine.rows[0].samples["sha256"] == data.rows[0].samples["sha256"]
    assert mine.rows[0].metrics["frechet_distance"].details["extractor"]["name"] == "digits/digits-cnn"


def test_samples_of_an_entry_score_as_in_its_evaluation(tmp_path):
    x = fmbench.load("gaussian-moons/ot-cfm").sample(200, seed=0, steps=8)
    np.save(tmp_path / "x.npy", x.numpy())
    protocol = tmp_path / "p.toml"
    protocol.write_text(
        'name = "p"\nversion = 1\nsummary = "s"\ntasks = ["gaussian-moons"]\nsamples = 200\nseeds = [0]\n'
        'samplers = [{ solver = "euler", steps = 8 }]\nmetrics = ["wasserstein2", "mmd"]\n'
        "flow = { samples = 8, steps = 4, probes = 4, probe_steps = 4 }\nlatency = { batches = [1], seconds = 0.0 }\n"
        'rank = { vector = "wasserstein2", image = "frechet_distance", steps = 8 }\n'
    )
    _, evaluated = fmbench.evaluate("gaussian-moons/ot-cfm", protocol)
    _, scored = score(tmp_path / "x.npy", task="gaussian-moons", benchmark=protocol)
    assert values(scored) == pytest.approx(values(evaluated), rel=1e-9)
    assert scored.benchmark["sha256"] == evaluated.benchmark["sha256"]


def test_a_folder_of_pictures_scores_like_the_tensor(tmp_path):
    """8-bit pictures of digits (17 grey levels) against the same pixels as floats: no resize, no second quantisation."""
    levels = ((digits().heldout.points()[0][:60] + 1) * 127.5).round().to(torch.uint8)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, image in enumerate(levels[:, 0].numpy()):
        Image.fromarray(image).save(folder / f"{i:05d}.png")
    np.save(tmp_path / "tensor.npy", levels.float().numpy() / np.float32(127.5) - 1)
    from_pictures, from_tensor = (
        score(path, task="digits", metrics=FEATURES)[1] for path in (folder, tmp_path / "tensor.npy")
    )
    assert values(from_pictures) == values(from_tensor)


def test_two_sets_are_compared_without_a_task(tmp_path):
    x = np.random.default_rng(0).normal(size=(80, 3))
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "moved.npy", x + np.array([3.0, 0.0, 4.0]))
    (moved,) = score(tmp_path / "moved.npy", reference=tmp_path / "x.npy", metrics=["wasserstein2"])
    assert moved.rows[0].metrics["wasserstein2"].value == pytest.approx(5.0, abs=1e-5)
    (same,) = score(tmp_path / "x.npy", reference=tmp_path / "x.npy", metrics=["wasserstein2"])
    assert same.rows[0].metrics["wasserstein2"].value == pytest.approx(0.0, abs=1e-12)


def test_images_against_images_need_an_extractor_for_feature_metrics(tmp_path, held):
    np.save(tmp_path / "a.npy", held[:100])
    np.save(tmp_path / "b.npy", held[100:300])
    (bare,) = score(tmp_path / "a.npy", reference=tmp_path / "b.npy", metrics=["frechet_distance"])
    assert bare.rows[0].metrics["frechet_distance"].value is None
    assert "extractor" in (bare.rows[0].metrics["frechet_distance"].reason or "")
    (seen,) = score(
        tmp_path / "a.npy", reference=tmp_path / "b.npy", metrics=["frechet_distance"], extractor="digits/digits-cnn"
    )
    assert seen.rows[0].metrics["frechet_distance"].value > 0


def test_modes_are_counted_on_separate_modes_only(tmp_path):
    target = TASKS.resolve("mixture-2d")().target
    x = target.sample(400, torch.Generator().manual_seed(0)).numpy()
    np.save(tmp_path / "x.npy", x)
    centre = x[np.linalg.norm(x - x[0], axis=1) < 1.5]
    np.save(tmp_path / "one.npy", centre)
    every, one = (
        score(tmp_path / name, task="mixture-2d", metrics=["mode_coverage"])[1].rows[0].metrics["mode_coverage"]
        for name in ("x.npy", "one.npy")
    )
    assert every.value == 1.0
    assert one.value == pytest.approx(1 / 4)
    np.save(tmp_path / "m.npy", np.zeros((5, 2)))
    moons = score(tmp_path / "m.npy", task="gaussian-moons", metrics=["mode_coverage"])[1]
    assert moons.rows[0].metrics["mode_coverage"].value is None


def test_the_command(tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.random.default_rng(1).normal(size=(64, 2)))
    assert main(["score", str(tmp_path / "x.npy"), "--task", "gaussian-moons", "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "wasserstein2" in out
    assert "gaussian-moons/data" in out
    saved = result.read(tmp_path / "out" / "results" / "score" / "gaussian-moons" / "x.json")
    assert saved.status == "rescored"
    assert main(["score", str(tmp_path / "x.npy"), "--task", "gaussian-moons", "--metric", "mmd", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [set(r["rows"][0]["metrics"]) for r in content] == [{"mmd"}, {"mmd"}]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({}, ValueError, "--task NAME or --reference"),
        ({"task": "gaussian-moons", "reference": "x.npy"}, ValueError, "one of them"),
        ({"task": "gaussian-moon"}, UnknownName, "gaussian-moons"),
        ({"task": "gaussian-moons", "metrics": ["w2"]}, UnknownName, "w2"),
        ({"task": "gaussian-moons", "benchmark": "digits"}, ValueError, "digits has no task gaussian-moons"),
        ({"task": "gaussian-moons", "metrics": ["mmd", "straightness"]}, ValueError, "straightness cannot be measured"),
        ({"task": "gaussian-moons", "name": "x/data"}, ValueError, r"'x/data' cannot name samples \(--name\)"),
        ({"task": "gaussian-moons", "name": "../evil"}, ValueError, "has 1 to 100 letters, digits"),
        ({"task": "gaussian-moons", "name": "a\nb"}, ValueError, r"cannot name samples \(--name\)"),
        ({"task": "gaussian-moons", "name": "data"}, ValueError, "'data' is what tables call"),
        ({"task": "digits"}, ValueError, r"\(1, 8, 8\)"),
    ],
)
def test_bad_requests_are_one_line(tmp_path, options, error, words):
    np.save(tmp_path / "x.npy", np.zeros((5, 2)))
    if "reference" in options:
        options = {**options, "reference": tmp_path / "x.npy"}
    with pytest.raises(error, match=words):
        score(tmp_path / "x.npy", **options)


def test_one_sample_is_too_few(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((1, 2)))
    with pytest.raises(ValueError, match="holds 1 sample; at least 2"):
        score(tmp_path / "x.npy", task="gaussian-moons")


def test_the_order_of_a_file_does_not_matter_much(tmp_path):
    """Groups of a jackknife are drawn, not cut from the file: sorting it leaves values and hardly changes intervals."""
    x = np.random.default_rng(0).normal(size=(400, 2)) + 0.3
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "sorted.npy", x[np.argsort(x[:, 0])])
    a, b = (
        score(tmp_path / name, task="gaussian-moons", metrics=["mmd"])[1].rows[0].metrics["mmd"]
        for name in ("x.npy", "sorted.npy")
    )
    assert a.value == pytest.approx(b.value, rel=1e-9)
    assert 0.5 < (a.ci[1] - a.ci[0]) / (b.ci[1] - b.ci[0]) < 2


def test_usage_errors_come_before_any_work(tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.zeros((5, 2)))
    (tmp_path / "file").write_text("")
    assert main(["score", str(tmp_path / "x.npy")]) == 2
    assert main(["score", str(tmp_path / "x.npy"), "--task", "gaussian-moons", "--out", str(tmp_path / "file")]) == 1
    assert "cannot write" in capsys.readouterr().err
