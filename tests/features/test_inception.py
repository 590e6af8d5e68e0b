"""The FID Inception against the two libraries that carry it, on the same seeded weights."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fmbench.features import builders
from fmbench.features.builders import inception_network, read_state
from fmbench.features.inception import WIDTHS, Inception, empty_inception
from fmbench.features.resize import tf1_bilinear
from fmbench.zoo.extractors import load_extractor

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (1, 3, 32, 32), generator=torch.Generator().manual_seed(5), dtype=torch.uint8)


@pytest.fixture(scope="module")
def net(inception_file):
    net = empty_inception()
    net.load_state_dict(read_state(inception_file), assign=True)
    return net


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.slow
def test_every_width_and_the_logits_equal_torch_fidelity(images, net, inception_file):
    fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    names = [*map(str, WIDTHS), "logits_unbiased"]
    theirs = fidelity.FeatureExtractorInceptionV3("inception-v3-compat", names, str(inception_file))(images)
    x = (tf1_bilinear(images.float(), 299) - 128) / 128
    features, logits = net(x)
    ours = [*(net.features(x, width) for width in WIDTHS if width < 2048), features, logits]
    assert max(relative(*pair) for pair in zip(ours, theirs, strict=True)) < 2e-6
    assert theirs[-1].shape == (1, 1008)


@pytest.mark.slow
def test_features_equal_the_torchvision_graph_of_clean_fid(images, net, inception_file, monkeypatch):
    theirs = pytest.importorskip("cleanfid.inception_pytorch")
    monkeypatch.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: torch.load(inception_file))
    library = theirs.InceptionV3(resize_input=False, normalize_input=False).eval()
    x = (tf1_bilinear(images.float(), 299) - 128) / 128
    with torch.no_grad():
        assert relative(net.features(x), library(x)[0].flatten(1)) < 2e-6


def test_the_published_checkpoint_would_fit():
    """566 entries is what the published conversion has; fc is there for the inception score."""
    state = empty_inception().state_dict()
    assert len(state) == 566 and state["fc.weight"].shape == (1008, 2048)
    assert all(value.is_meta for value in state.values())


def test_building_draws_no_random_numbers():
    before = torch.get_rng_state()
    load_extractor("inception-random")
    assert torch.equal(before, torch.get_rng_state())


def test_an_unknown_width_is_refused(net):
    with pytest.raises(ValueError, match="no features of width 100; it has 64, 192, 768, 2048"):
        net.features(torch.zeros(1, 3, 299, 299), 100)


@pytest.mark.slow
def test_inception_tf_downloads_verifies_and_scores(images, inception_file, mirror, monkeypatch):
    from fmbench.storage.download import RemoteFile
    from fmbench.storage.files import file_sha256

    pinned = RemoteFile("inception.pth", "http://127.0.0.1:9/none", file_sha256(inception_file))
    monkeypatch.setattr(builders, "INCEPTION", pinned)
    server = mirror({"inception.pth": inception_file.read_bytes()}, "drop-once")
    extractor = replace(builders.inception_tf("inception-tf", CPU), chunk=1)
    assert server.dropped
    x = images[:1].float() / 127.5 - 1
    ours, logits = extractor.outputs(x)
    direct = inception_network(read_state(inception_file), CPU)((tf1_bilinear(images[:1].float(), 299) - 128) / 128)
    assert np.array_equal(ours, direct[0].numpy()) and np.array_equal(logits, direct[1].numpy())
    assert extractor.identity["sha256"] == pinned.sha256
    assert extractor.identity["resize"] == "tf1-bilinear to 299x299"


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    import os
    import pickle

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"conv.weight": Evil()}, tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.pth", "plain.pth"):
        with pytest.raises(ValueError, match="no state dict that can be read safely") as caught:
            read_state(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_modules_are_the_forward_order():
    with torch.device("meta"):
        names = [name for name, _ in Inception().named_children()]
    assert names[0] == "Conv2d_1a_3x3" and names[-2:] == ["Mixed_7c", "fc"]
