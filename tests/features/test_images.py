"""What passes for an image, 8-bit rounding, and resizing conventions against the libraries that define them."""

import numpy as np
import pytest
import torch

from fmbench.features.images import as_rgb, check_images, to_uint8, truncated_uint8
from fmbench.features.resize import RESIZES, bilinear, bilinear_antialias, pil_bicubic, pil_bicubic_uint8, tf1_bilinear

LEVELS = torch.arange(256, dtype=torch.uint8)


def levels(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def samples(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.6


GOOD = samples(2, 3, 4, 4).clamp(-1, 1)


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (levels(2, 3, 4, 4).float(), "look like 0..255 levels"),
        (levels(2, 3, 4, 4).float() * 0.98 - 0.3, "look like 0..255 levels"),
        (GOOD * 1.2, "must be in \\[-1, 1\\]"),
        (GOOD.masked_fill(GOOD > 0.9, float("nan")), "NaN or infinite pixels of 96"),
        (GOOD.masked_fill(GOOD > 0.9, float("inf")), "NaN or infinite pixels of 96"),
        (GOOD[:, :2], "have 2 channels, the extractor takes 1 or 3"),
        (GOOD.permute(0, 2, 3, 1), "have 4 channels"),
        (GOOD[0], "must be \\(n, channels, height, width\\)"),
        (GOOD[:0], "not empty"),
        (levels(2, 3, 4, 4).int(), "got torch.int32"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(images, says):
    with pytest.raises(ValueError, match=says) as caught:
        check_images(images, (1, 3))
    assert "\n" not in str(caught.value)


def test_samples_that_overshoot_pass_when_they_will_be_clipped():
    check_images(samples(4, 3, 8, 8) * 4, (3,), clip=True)
    check_images(GOOD * (1 + 5e-5), (3,))
    check_images(levels(2, 1, 4, 4), (1, 3))
    for mixed_up in (levels(2, 3, 4, 4).float(), levels(2, 3, 4, 4).float() * 0.98 - 0.3):
        with pytest.raises(ValueError, match=r"look like 0\.\.255"):
            check_images(mixed_up, (3,), clip=True)


def test_every_level_survives_the_round_trip_and_rounding_is_unbiased():
    assert torch.equal(to_uint8(LEVELS.float() / 127.5 - 1), LEVELS)
    assert torch.equal(truncated_uint8(LEVELS), LEVELS)
    dense = torch.linspace(-1, 1, 255 * 64 + 1, dtype=torch.float64)[None]
    exact = (dense + 1) * 127.5
    assert abs(float((to_uint8(dense).double() - exact).mean())) < 0.01
    assert float((truncated_uint8(dense).double() - exact).mean()) == pytest.approx(-0.5, abs=0.01)
    assert to_uint8(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


def test_truncation_is_what_torchmetrics_does_to_unit_floats():
    x = samples(2, 3, 9, 9).clamp(-1, 1)
    assert torch.equal(truncated_uint8(x), ((x + 1) / 2 * 255).byte())
    assert (truncated_uint8(x) != to_uint8(x)).float().mean() > 0.4


def test_greyscale_is_repeated():
    grey = levels(2, 1, 5, 5)
    assert torch.equal(as_rgb(grey), torch.cat([grey, grey, grey], dim=1))


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (1, 3, 7, 45), (1, 1, 400, 300)])
def test_tensorflow_1_resizing_equals_torch_fidelity_bit_for_bit(shape):
    theirs = pytest.importorskip("torch_fidelity.interpolate_compat_tensorflow")
    x = levels(*shape).float()
    expected = theirs.interpolate_bilinear_2d_like_tensorflow1x(x, size=(299, 299), align_corners=False)
    assert torch.equal(tf1_bilinear(x, 299), expected)


def test_tensorflow_1_resizing_equals_its_grid_sampling_form():
    """An independent form: sampling at i * 32 / 299 as an affine grid whose half-pixel shift is taken back."""
    x = levels(2, 3, 32, 32).double()
    theta = torch.eye(2, 3, dtype=torch.float64)
    theta[:, 2] = 1 / 32 - 1 / 299
    grid = torch.nn.functional.affine_grid(theta.expand(2, 2, 3), [2, 3, 299, 299], align_corners=False)
    expected = torch.nn.functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
    assert (tf1_bilinear(x, 299) - expected).abs().max() < 1e-3


@pytest.mark.parametrize(("ours", "mode"), [(pil_bicubic, "clean"), (bilinear, "legacy_pytorch")])
def test_resizing_equals_clean_fid_bit_for_bit(ours, mode):
    theirs = pytest.importorskip("cleanfid.resize").build_resizer(mode)
    x = levels(2, 3, 32, 32)
    expected = [theirs(image.permute(1, 2, 0).numpy()).transpose(2, 0, 1) for image in x]
    assert np.array_equal(ours(x.float(), 299).numpy(), np.stack(expected))


def test_eight_bit_bicubic_equals_torchvision_on_pictures():
    functional = pytest.importorskip("torchvision.transforms.functional")
    x = levels(2, 3, 32, 32)
    bicubic = functional.InterpolationMode.BICUBIC
    pictures = [functional.resize(functional.to_pil_image(image), [224, 224], bicubic) for image in x]
    expected = torch.stack([functional.pil_to_tensor(picture) for picture in pictures]).float()
    assert torch.equal(pil_bicubic_uint8(x.float(), 224), expected)


@pytest.mark.parametrize("name", RESIZES)
def test_resizing_keeps_constants_and_the_range(name):
    constant = torch.full((1, 3, 20, 20), 77.0)
    assert torch.allclose(RESIZES[name](constant, 33), torch.full((1, 3, 33, 33), 77.0), atol=1e-4)
    made = RESIZES[name](levels(2, 3, 16, 16).float(), 40)
    assert made.shape == (2, 3, 40, 40) and made.dtype == torch.float32 and made.min() >= 0 and made.max() <= 255


def test_antialiasing_matters_downwards_only_and_tensorflow_is_shifted():
    up, down = levels(1, 3, 32, 32).float(), levels(1, 3, 598, 598).float()
    assert (bilinear_antialias(up, 299) - bilinear(up, 299)).abs().max() < 1e-3
    assert (bilinear_antialias(down, 299) - bilinear(down, 299)).abs().max() > 10
    assert (tf1_bilinear(up, 299) - bilinear(up, 299)).abs().max() > 10
