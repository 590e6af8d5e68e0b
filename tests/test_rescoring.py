"""`score`: samples from files get the numbers that the harness gives the same samples."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import fmbench
from fmbench.cli import main
from fmbench.evaluation import rescoring
from fmbench.evaluation.rescoring import dialects, score
from fmbench.records import result
from fmbench.registry import TASKS, UnknownName
from fmbench.tasks.digits import digits
from fmbench.zoo.extractors import load_extractor

FEATURES = ["frechet_distance", "kernel_distance", "precision", "coverage"]


def values(r):
    return {name: e.value for name, e in r.rows[0].metrics.items()}


@pytest.fixture(scope="module")
def held():
    return digits().heldout.points()[0].numpy()


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


# -- references that are statistics, hold several arrays, or overshoot ---------------------------------------------------

CNN = "digits/digits-cnn"


@pytest.fixture(scope="module")
def real():
    """Training images and the statistics that FID tools keep of them."""
    images = digits().target.points()[0][:500]
    features = load_extractor(CNN).features(images).astype(np.float64)
    return images.numpy(), features.mean(axis=0), np.cov(features, rowvar=False)


def test_the_distance_to_statistics_is_that_to_the_pictures_they_are_of(tmp_path, held, real):
    """Files of mu and sigma are what other tools keep of a reference (mseitzer/pytorch-fid #106, openai/guided-diffusion)."""
    pictures, mu, sigma = real
    np.save(tmp_path / "x.npy", held)
    np.save(tmp_path / "real.npy", pictures)
    np.savez(tmp_path / "stats.npz", mu=mu, sigma=sigma)
    (direct,) = score(tmp_path / "x.npy", reference=tmp_path / "real.npy", extractor=CNN, metrics=["frechet_distance"])
    (stated,) = score(tmp_path / "x.npy", reference=tmp_path / "stats.npz", extractor=CNN)
    one, two = (r.rows[0].metrics["frechet_distance"] for r in (direct, stated))
    assert two.value == pytest.approx(one.value, rel=1e-9)
    assert two.ci == pytest.approx(one.ci, rel=1e-7)
    assert two.details["reference_n"] is None and two.details["extractor"]["name"] == CNN
    # The inception score never looks at real data; everything else does.
    others = {n: e for n, e in stated.rows[0].metrics.items() if n not in ("frechet_distance", "inception_score")}
    assert len(others) > 5
    assert {e.reason for e in others.values()} == {
        "needs real samples: nothing but statistics of the reference is there"
    }
    assert result.read(stated.save(tmp_path)).rows[0].samples["reference"]["features"] == len(mu)


@pytest.mark.slow
def test_statistics_of_another_extractor_or_of_none_are_refused(tmp_path, held):
    np.save(tmp_path / "x.npy", held)
    np.save(tmp_path / "v.npy", held.reshape(len(held), -1))
    np.savez(tmp_path / "stats.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    go = lambda name, **options: score(tmp_path / name, reference=tmp_path / "stats.npz", **options)  # noqa: E731
    with pytest.raises(ValueError, match=r"statistics of 2048 features, and digits/digits-cnn gives 64"):
        go("x.npy", extractor=CNN)
    with pytest.raises(ValueError, match=r"nothing says of which extractor; name it with --extractor"):
        go("x.npy")
    with pytest.raises(ValueError, match=r"statistics of images, and .*v.npy holds vectors"):
        go("v.npy", extractor=CNN)
    with pytest.raises(ValueError, match=r"holds statistics of features \(mu, sigma\) and no samples"):
        score(tmp_path / "stats.npz", task="digits")
    with pytest.raises(ValueError, match="holds statistics"):
        dialects(tmp_path / "x.npy", reference=tmp_path / "stats.npz", network="inception-random")


def test_a_reference_that_holds_samples_and_statistics_says_which_was_taken(tmp_path, held, real, capsys):
    pictures, mu, sigma = real
    np.save(tmp_path / "x.npy", held)
    np.savez(tmp_path / "both.npz", arr_0=pictures, mu=mu, sigma=sigma)
    np.savez(tmp_path / "open.npz", images=pictures, mu=mu, sigma=sigma)
    words = ["score", str(tmp_path / "x.npy"), "--extractor", CNN, "--metric", "frechet_distance", "--reference"]
    assert main([*words, str(tmp_path / "both.npz")]) == 0
    assert "reference: arr_0 of [arr_0, mu, sigma] was read" in capsys.readouterr().out
    assert main([*words, str(tmp_path / "both.npz"), "--reference-key", "mu"]) == 0
    assert f"reference: mean and covariance of {len(mu)} features" in capsys.readouterr().out
    assert main([*words, str(tmp_path / "open.npz")]) == 1
    assert "choose one with --reference-key: images, mu, sigma" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "both.npz"), "--reference-key", "images"]) == 1
    assert "no array 'images'; choose one with --reference-key" in capsys.readouterr().err


@pytest.mark.slow
def test_the_array_that_was_read_and_what_was_left_out_stand_in_the_record(tmp_path, held, capsys):
    np.savez(tmp_path / "x.npz", labels=np.zeros(len(held)), samples=held)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, image in enumerate(((held[:20, 0] + 1) * 127.5).round().astype(np.uint8)):
        Image.fromarray(image).save(folder / f"{i}.png")
    (folder / "notes.txt").write_text("x")
    options = ["--task", "digits", "--metric", "sliced_wasserstein2"]
    assert main(["score", str(tmp_path / "x.npz"), *options, "--out", str(tmp_path / "out")]) == 0
    assert "samples of [labels, samples] was read" in capsys.readouterr().out
    facts = result.read(tmp_path / "out/results/score/digits/x.json").rows[0].samples
    assert (facts["array"], facts["arrays"]) == ("samples", ["labels", "samples"])
    assert main(["score", str(folder), *options]) == 0
    assert "left out, no PNG picture: 1 files: notes.txt" in capsys.readouterr().out


def test_a_reference_that_overshoots_is_clipped_like_the_samples(tmp_path, held):
    """Float samples of a model as reference (Lightning-AI/torchmetrics #1244): one rule for both sides, whoever scores."""
    over = held[:100] * np.float32(1.3)
    np.save(tmp_path / "x.npy", over[:40])
    np.save(tmp_path / "over.npy", over[40:])
    np.save(tmp_path / "clipped.npy", over[40:].clip(-1, 1))
    np.save(tmp_path / "x-clipped.npy", over[:40].clip(-1, 1))
    files = [(x, r) for x in ("x.npy", "x-clipped.npy") for r in ("over.npy", "clipped.npy")]
    scores = [values(score(tmp_path / x, reference=tmp_path / r, extractor=CNN, metrics=FEATURES)[0]) for x, r in files]
    assert all(found == scores[0] for found in scores)
    shares = score(tmp_path / "x.npy", reference=tmp_path / "over.npy", metrics=["mmd"])[0].rows[0].samples
    assert shares["reference"]["clipped_share"] == pytest.approx(float((abs(over[40:]) > 1 + 1e-4).mean()))


@pytest.mark.parametrize(
    ("samples", "options", "words"),
    [
        ("x.npy", {"task": "gaussian-moons", "key": "a"}, r"no named arrays.*leave --key a out"),
        ("x.npy", {"reference": "x.npy", "reference_key": "a"}, r"leave --reference-key a out"),
        ("x.npy", {"task": "gaussian-moons", "reference_key": "a"}, r"--reference-key a is for a --reference"),
        ("x.npy", {"task": "gaussian-moons", "value_range": "unit"}, r"--range unit is for float images.*vectors"),
        ("u8.npy", {"task": "digits", "value_range": "unit"}, r"--range unit is for float images.*uint8"),
        ("x.npy", {"task": "gaussian-moons", "extractor": CNN}, r"--extractor digits/digits-cnn is for images"),
        ("u8.npy", {"task": "digits", "benchmark": "digits", "extractor": CNN}, r"leave --extractor"),
        ("x.npy", {"reference": "x.npy", "benchmark": "digits"}, r"a benchmark compares with its tasks"),
        ("x.npy", {"task": "gaussian-moons", "metrics": ["mmd", "mmd"]}, r"named once each"),
        ("x.npy", {"task": "gaussian-moons", "metrics": []}, r"one at least"),
        ("x.npy", {"task": "gaussian-moons", "name": ""}, r"'' cannot name samples"),
        ("x.npy", {"reference": "one.npy"}, r"one.npy holds 1 sample; at least 2"),
        ("x.npy", {"reference": "same.npy"}, r"same.npy holds one and the same sample 9 times"),
        ("half.npy", {"task": "gaussian-moons"}, r"1 NaN or infinite values, the first in sample 3"),
        ("long.npy", {"reference": "x.npy"}, r"integers beyond 2\^53"),
    ],
)
def test_what_would_change_nothing_or_compare_nothing_is_refused(tmp_path, held, samples, options, words):
    x = np.random.default_rng(0).normal(size=(9, 2))
    half = x.astype(np.float16)
    half[3, 1] = np.nan
    files = {
        "x": x,
        "one": x[:1],
        "same": np.ones((9, 2)),
        "half": half,
        "long": np.array([[2**62, 1], [2**62 + 1, 2]]),
    }
    for name, array in {**files, "u8": ((held[:9] + 1) * 127.5).round().astype(np.uint8)}.items():
        np.save(tmp_path / f"{name}.npy", array)
    if "reference" in options:
        options = {**options, "reference": tmp_path / options["reference"]}
    with pytest.raises(ValueError, match=words) as error:
        score(tmp_path / samples, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options",
    [
        ["--dialect-images", "5"],
        ["--dialect-network", "inception-random"],
        ["--reference-key", "a"],
        ["--benchmark", "digits", "--metric", "mmd"],
        ["--benchmark", "digits", "--extractor", CNN],
    ],
)
def test_options_that_need_or_exclude_others_are_wrong_usage(tmp_path, capsys, options):
    np.save(tmp_path / "x.npy", np.zeros((5, 2)))
    assert main(["score", str(tmp_path / "x.npy"), "--task", "gaussian-moons", *options]) == 2
    assert "leave" in capsys.readouterr().err


def test_the_extractor_of_scores_and_dialects_is_loaded_where_it_is_asked_for(tmp_path, held, monkeypatch):
    """A GPU that is not there: what matters is that the name of it arrives."""
    np.save(tmp_path / "x.npy", held[:20])
    asked = []

    def load(name, device):
        asked.append((name, device))
        raise ValueError("no such device")

    monkeypatch.setattr(rescoring, "load_extractor", load)
    for call in (score, lambda *a, **k: dialects(*a, network="inception-random", **k)):
        with pytest.raises(ValueError, match="no such device"):
            call(tmp_path / "x.npy", task="digits", device="cuda:1")
    assert asked == [(CNN, "cuda:1"), ("inception-random", "cuda:1")]
