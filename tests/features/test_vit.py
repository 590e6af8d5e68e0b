"""The vision transformer against timm (DINOv2) and torch-fidelity (CLIP), and CLIP's archive read without running it."""

import zipfile

import pytest
import torch

from fmbench.features.torchscript import read_archive
from fmbench.features.vit import (
    CLIP_B32,
    CLIP_L14_336,
    DINOV2_L14,
    Shape,
    VisionTransformer,
    build_vit,
    from_clip,
    from_dinov2,
)

SMALL_DINO = Shape(patch=14, grid=4, width=32, depth=2, heads=4)
SMALL_CLIP = Shape(patch=8, grid=3, width=32, depth=2, heads=4, clip=True, out=16)


def seeded(net: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    draw = torch.Generator().manual_seed(seed)
    state = {name: torch.randn(value.shape, generator=draw) * 0.3 for name, value in net.state_dict().items()}
    net.load_state_dict(state)
    return net.eval().requires_grad_(False)


def pixels(side: int) -> torch.Tensor:
    return torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(1))


def clip_tower():
    fidelity = pytest.importorskip("torch_fidelity.feature_extractor_clip")

    class Clip(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.visual = seeded(fidelity.VisionTransformer(24, 8, 32, 2, 4, 16))

        def forward(self, x):
            return self.visual(x)

    return Clip().eval()


def test_dinov2_equals_timm_on_the_trained_grid():
    timm = pytest.importorskip("timm.models.vision_transformer")
    theirs = timm.VisionTransformer(56, 14, embed_dim=32, depth=2, num_heads=4, num_classes=0, init_values=1.0)
    theirs = seeded(theirs)
    state = {**theirs.state_dict(), "mask_token": torch.zeros(1, 32)}
    ours = build_vit(SMALL_DINO, from_dinov2(state))
    expected = theirs.forward_features(pixels(56))[:, 0]
    assert (ours(pixels(56)) - expected).abs().max() < 5e-6 * expected.abs().max()


def test_clip_equals_torch_fidelity():
    theirs = clip_tower()
    ours = build_vit(SMALL_CLIP, from_clip(theirs.state_dict()))
    expected = theirs(pixels(24))
    assert (ours(pixels(24)) - expected).abs().max() < 5e-6 * expected.abs().max()


def test_a_torchscript_archive_gives_the_same_weights_without_running(tmp_path):
    tower = clip_tower().half()
    tower.visual.float()
    tower.visual.conv1.half()  # archives mix precisions
    traced = torch.jit.trace(tower.float(), pixels(24), check_trace=False)
    traced.save(str(tmp_path / "clip.pt"))
    state = read_archive(tmp_path / "clip.pt")
    expected = tower.state_dict()
    assert state.keys() >= expected.keys()
    assert all(torch.equal(state[name], value) for name, value in expected.items())


def test_an_archive_that_names_anything_else_is_refused(tmp_path):
    """The pickle below would make a folder when an ordinary unpickler reads it."""
    evil = f"cos\nmkdir\n(V{tmp_path / 'ran'}\ntR.".encode()
    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as archive:
        archive.writestr("evil/data.pkl", evil)
    with pytest.raises(ValueError, match=r"^[^\n]*no TorchScript archive of weights \(it names os.mkdir\)[^\n]*$"):
        read_archive(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"no archive"])
def test_a_file_that_is_no_archive_is_one_line(tmp_path, content):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"^[^\n]*no TorchScript archive[^\n]*$"):
        read_archive(tmp_path / "x.pt")


def test_positions_of_another_grid_shift_as_dinov2_does():
    """Constants stay, a ramp is read at (i + 1/2) 37 / 16.1 - 1/2, and the class token is left alone."""
    with torch.no_grad():
        net = VisionTransformer(Shape(patch=14, grid=37, width=2, depth=0, heads=1))
        grid = torch.arange(37.0).expand(37, 37)
        net.pos_embed[0, 1:, 0], net.pos_embed[0, 1:, 1], net.pos_embed[0, 0] = 3.0, grid.flatten(), -1.0
        made = net.positions(16)
    assert made.shape == (1, 257, 2)
    assert (made[0, 0] == -1).all() and (made[0, 1:, 0] - 3).abs().max() < 1e-5
    expected = (torch.arange(16) + 0.5) * 37 / 16.1 - 0.5
    interior = (made[0, 1:, 1].unflatten(0, (16, 16)) - expected)[:, 1:-1]
    assert interior.abs().max() < 0.1  # without the offset 0.2


@pytest.mark.parametrize(("shape", "millions"), [(DINOV2_L14, 304.4), (CLIP_B32, 87.8), (CLIP_L14_336, 304.3)])
def test_sizes_are_those_published(shape, millions):
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in VisionTransformer(shape).parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.1)
