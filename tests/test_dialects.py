"""Every dialect against the library it is named after: pixels, features and distances, on the same images and weights.

Weights are random and seeded. Where the whole Inception would be slow it is cut to its first convolution, whose pooled channels
are the features; images still go through the libraries' own loading, resizing and statistics.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fmbench.evaluation.dialects import CONVENTIONS, OURS, dialect_features, distance, fid_dialects, spread, table
from fmbench.features.builders import TF1_INCEPTION, inception_network
from fmbench.features.extractor import Extractor
from fmbench.features.inception import empty_inception, random_state

BY_NAME = {convention.name: convention for convention in CONVENTIONS}
CPU = torch.device("cpu")
STATE = random_state(7)
N, M, WIDTH = 18, 20, 12


def draw(n: int, seed: int, contrast: float = 1.0) -> torch.Tensor:
    """Smooth random pictures (n, 3, 32, 32) in [-1, 1], between 8-bit levels."""
    noise = torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return (torch.nn.functional.interpolate(noise, size=(32, 32), mode="bicubic") * contrast).clamp(-1, 1)


def levels(x: torch.Tensor) -> torch.Tensor:
    return ((x + 1) * 127.5).round().to(torch.uint8)


IMAGES, REFERENCE = draw(N, 0, 0.6), levels(draw(M, 1))


def first_convolution() -> nn.Module:
    net = empty_inception()
    net.load_state_dict(STATE, assign=True)
    return net.Conv2d_1a_3x3


STEM = first_convolution()


def stem_features(x: torch.Tensor) -> torch.Tensor:
    """The first 12 channels of the first convolution, pooled: fewer than images, so that covariances have full rank."""
    return STEM(x)[:, :WIDTH].mean(dim=(2, 3))


NARROW = Extractor("stem", "0", lambda x: (stem_features(x), None), TF1_INCEPTION)


@pytest.fixture(scope="module")
def rows():
    return {dialect.name: dialect for dialect in fid_dialects(IMAGES, REFERENCE, NARROW)}


class Archive(nn.Module):
    """What NVIDIA's TorchScript file offers clean-fid: layers, and a forward pass that resizes by an affine grid."""

    def layers(self, x):
        return stem_features(x)

    def forward(self, x, return_features=True):
        theta = torch.eye(2, 3)
        theta[:, 2] = 1 / x.shape[2] - 1 / 299
        grid = nn.functional.affine_grid(theta.expand(len(x), 2, 3), [len(x), 3, 299, 299], align_corners=False)
        x = nn.functional.grid_sample(x.float(), grid, padding_mode="border", align_corners=False)
        return stem_features((x - 128) / 128)


class Narrow64(nn.Module):
    """Stands for the stages of the library's network after its first convolution: '64' features, the last 52 of them 0."""

    def forward(self, x):
        pooled = x[:, :WIDTH].mean(dim=(2, 3), keepdim=True)
        return torch.cat([pooled, pooled.new_zeros(len(x), 64 - WIDTH, 1, 1)], dim=1)


def relative(ours, theirs) -> float:
    return abs(ours / theirs - 1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The images as PNG files, which is how clean-fid and torch-fidelity read them."""
    made = {}
    for name, images in (("generated", levels(IMAGES)), ("real", REFERENCE)):
        made[name] = tmp_path_factory.mktemp(name)
        for index, image in enumerate(images):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(made[name] / f"{index:03d}.png")
    return made


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "tolerance"), [("clean", 1e-6), ("legacy_tensorflow", 2e-5)])
def test_clean_fid_from_files(mode, tolerance, folders, rows, monkeypatch):
    theirs = pytest.importorskip("cleanfid.fid")
    script = pytest.importorskip("cleanfid.inception_torchscript")
    monkeypatch.setattr(script, "check_download_inception", lambda **_: None)
    monkeypatch.setattr(torch.jit, "load", lambda _: Archive())
    monkeypatch.setattr(script.InceptionV3W, "forward", _flat(script.InceptionV3W.forward))
    model = theirs.build_feature_extractor(mode, device=CPU, use_dataparallel=False)
    made = {
        name: theirs.get_folder_features(
            str(folder), model, num_workers=0, batch_size=16, device=CPU, mode=mode, verbose=False
        )
        for name, folder in folders.items()
    }
    ours = dialect_features(IMAGES, BY_NAME[f"clean-fid {mode}"], NARROW)
    print(mode, "features", np.abs(ours - made["generated"]).max() / np.abs(ours).max())
    assert np.abs(ours - made["generated"]).max() < (1e-6 if mode == "clean" else 1e-4) * np.abs(ours).max()
    expected = theirs.fid_from_feats(made["generated"], made["real"])
    print(mode, relative(rows[f"clean-fid {mode}"].fid, expected))
    assert relative(rows[f"clean-fid {mode}"].fid, expected) < tolerance


def _flat(forward):
    """clean-fid reshapes to 2,048 features; let it reshape to what the cut network has."""

    class Reshaping:
        def __init__(self, tensor):
            self.tensor = tensor

        def view(self, shape):
            return self.tensor.view(shape[0], WIDTH)

    def patched(self, x):
        base, layers = self.base, self.base.layers
        if self.resize_inside:
            return base(x, return_features=True).view(len(x), WIDTH)
        holder = type("Layers", (), {"forward": staticmethod(lambda y: Reshaping(layers(y)))})
        self.layers = holder
        return forward(self, x)

    return patched


@pytest.mark.slow
def test_clean_fid_legacy_pytorch_on_the_whole_network(folders, monkeypatch):
    theirs = pytest.importorskip("cleanfid.fid")
    network = pytest.importorskip("cleanfid.inception_pytorch")
    monkeypatch.setattr(network, "load_state_dict_from_url", lambda *_, **__: STATE)
    model = theirs.build_feature_extractor("legacy_pytorch", device=CPU, use_dataparallel=False)
    files = sorted(str(path) for path in folders["real"].iterdir())[:2]
    expected = theirs.get_files_features(
        files, model, num_workers=0, batch_size=2, device=CPU, mode="legacy_pytorch", verbose=False
    )
    whole = Extractor("whole", "0", inception_network(STATE, CPU), TF1_INCEPTION, chunk=2)
    ours = dialect_features(REFERENCE[:2], BY_NAME["clean-fid legacy_pytorch"], whole)
    print("legacy_pytorch features", np.abs(ours - expected).max() / np.abs(expected).max())
    assert ours.shape == (2, 2048)
    assert np.abs(ours - expected).max() < 2e-6 * np.abs(expected).max()


@pytest.mark.slow
def test_clean_fid_legacy_pytorch_distance(rows):
    """Its statistics on features that its own resizing made."""
    theirs = pytest.importorskip("cleanfid.fid")
    resize = pytest.importorskip("cleanfid.resize").build_resizer("legacy_pytorch")
    made = []
    for images in (levels(IMAGES), REFERENCE):
        resized = np.stack([resize(image.permute(1, 2, 0).numpy()).transpose(2, 0, 1) for image in images])
        with torch.no_grad():
            made.append(stem_features(2 * (torch.from_numpy(resized) / 255) - 1).numpy())
    expected = theirs.fid_from_feats(*made)
    print("legacy_pytorch", relative(rows["clean-fid legacy_pytorch"].fid, expected))
    assert relative(rows["clean-fid legacy_pytorch"].fid, expected) < 1e-6


@pytest.fixture(scope="module")
def library_net(tmp_path_factory):
    """torchmetrics' subclass of torch-fidelity's network with weights of seed 7, cut after the first convolution."""
    module = pytest.importorskip("torchmetrics.image.fid")
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(STATE, path)
    net = module.NoTrainInceptionV3("inception-v3-compat", ["64"], str(path))
    net.Conv2d_2a_3x3, net.Conv2d_2b_3x3, net.MaxPool_1 = nn.Identity(), Narrow64(), nn.Identity()
    return net


class Pictures(torch.utils.data.Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]


@pytest.mark.slow
def test_torch_fidelity(rows, library_net, monkeypatch):
    fidelity = pytest.importorskip("torch_fidelity")
    from torch_fidelity import metrics
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    monkeypatch.setattr(library_net, "forward", lambda x: FeatureExtractorInceptionV3.forward(library_net, x))
    monkeypatch.setattr(metrics, "create_feature_extractor", lambda *_, **__: library_net)
    result = fidelity.calculate_metrics(
        input1=Pictures(levels(IMAGES)),
        input2=Pictures(REFERENCE),
        fid=True,
        cuda=False,
        verbose=False,
        cache=False,
        batch_size=8,
        feature_layer_fid="64",
        save_cpu_ram=True,
    )
    expected = result["frechet_inception_distance"]
    print("torch-fidelity", relative(rows["torch-fidelity"].fid, expected))
    assert relative(rows["torch-fidelity"].fid, expected) < 1e-6


def torchmetrics_fid(library_net, monkeypatch, normalize: bool = False, antialias: bool = True) -> float:
    from torchmetrics.image import fid

    def build(name, features_list, feature_extractor_weights_path, antialias):
        library_net.use_antialias = antialias
        return library_net

    monkeypatch.setattr(fid, "NoTrainInceptionV3", build)
    metric = fid.FrechetInceptionDistance(64, normalize=normalize, antialias=antialias)
    metric.update((IMAGES + 1) / 2 if normalize else levels(IMAGES), real=False)
    metric.update(REFERENCE.float() / 255 if normalize else REFERENCE, real=True)
    return float(metric.compute())


@pytest.mark.slow
@pytest.mark.parametrize(("normalize", "name"), [(False, "torchmetrics"), (True, "torchmetrics normalize=True")])
def test_torchmetrics(normalize, name, rows, library_net, monkeypatch):
    expected = torchmetrics_fid(library_net, monkeypatch, normalize)
    print(name, relative(rows[name].fid, expected))
    assert relative(rows[name].fid, expected) < 1e-6


@pytest.mark.slow
def test_torchmetrics_without_antialiasing_is_ours(rows, library_net, monkeypatch):
    """The convention of torchmetrics before 1.8."""
    expected = torchmetrics_fid(library_net, monkeypatch, antialias=False)
    assert relative(rows[OURS].fid, expected) < 1e-6


@pytest.mark.slow
def test_rows_and_spread(rows):
    ours = rows[OURS]
    assert list(rows) == [convention.name for convention in CONVENTIONS]
    assert (ours.difference, ours.relative, ours.n, ours.reference_n, ours.ddof) == (0, 0, N, M, 1)
    for dialect in rows.values():
        assert dialect.difference == pytest.approx(dialect.fid - ours.fid)
    far = spread(list(rows.values()))
    assert far.lowest <= ours.fid <= far.highest and far.relative > 0.01
    assert table(list(rows.values()))[0]["resize"] == "tf1-bilinear"


def test_conventions_that_differ_by_the_mean_alone_agree_closely(rows):
    """torch-fidelity and clean-fid average in float32; nothing else separates them from ours."""
    assert rows["torch-fidelity"].fid == rows["clean-fid legacy_tensorflow"].fid
    gap = relative(rows["torch-fidelity"].fid, rows[OURS].fid)
    assert 0 < gap < 1e-5


@pytest.mark.slow
def test_conventions_with_the_same_pixels_share_the_network():
    seen = []

    def network(x):
        seen.append(len(x))
        return stem_features(x), None

    fid_dialects(IMAGES[:8], REFERENCE[:8], replace(NARROW, network=network))
    assert len(seen) == 2 * 5


@pytest.mark.slow
def test_features_are_the_extractors_own_under_our_convention():
    assert np.array_equal(dialect_features(IMAGES, CONVENTIONS[0], NARROW), NARROW.features(IMAGES))


@pytest.mark.slow
def test_equal_images_have_distance_zero_in_every_dialect():
    features = dialect_features(REFERENCE, CONVENTIONS[0], NARROW)
    assert all(distance(features, features, convention) < 1e-9 for convention in CONVENTIONS)


@pytest.mark.slow
def test_greyscale_and_bad_input():
    grey = IMAGES[:4, :1]
    first, second = fid_dialects(grey, REFERENCE[:4, :1], NARROW, CONVENTIONS[:2])
    assert math.isfinite(first.fid) and math.isfinite(second.fid)
    with pytest.raises(ValueError, match="at least 2 reference images, got 1"):
        fid_dialects(IMAGES, REFERENCE[:1], NARROW)
    with pytest.raises(ValueError, match=r"0\.\.255"):
        fid_dialects(REFERENCE.float(), REFERENCE, NARROW)
    with pytest.raises(ValueError, match="4 channels"):
        fid_dialects(torch.zeros(4, 4, 8, 8), REFERENCE, NARROW)


@pytest.mark.slow
def test_a_reference_of_samples_that_overshoot_is_clipped_like_the_samples():
    """Another model's samples as reference (Lightning-AI/torchmetrics #1244, #1339): the same seven numbers as of what a viewer sees."""
    x, real = draw(N, 0) * 1.4, draw(M, 1) * 1.4
    found, seen = fid_dialects(x, real, NARROW), fid_dialects(x.clamp(-1, 1), real.clamp(-1, 1), NARROW)
    assert found == seen and len(found) == 7
    with pytest.raises(ValueError, match=r"0\.\.255"):
        fid_dialects(IMAGES, REFERENCE.float(), NARROW)
