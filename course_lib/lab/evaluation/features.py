"""Feature extractors: networks that turn images into features (N, d), which metrics compare.

Shipped: the digit classifier, the noisy one, LPIPS with its AlexNet. Downloaded once: `inception()`
for the published FID, `dinov2()` for a modern alternative.
"""
import hashlib
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import validate
from ...networks.classifiers import DigitClassifier, NoisyClassifier
from ...networks.lpips import LPIPS
from ..data.digits import mnist
from ..training.checkpoint import load


@lru_cache
def digit_classifier(device: str | torch.device = "cpu") -> DigitClassifier:
    """The shipped digit classifier, in eval mode. configs/mnist_classifier.toml trained it.

    Raises FileNotFoundError or OSError when the shipped file is missing or damaged.
    """
    # twice as fast on a CPU with channels last
    return load("mnist_classifier", device).to(memory_format=torch.channels_last)


def digit_features(x: Tensor) -> Tensor:
    """The classifier's pooled features: x (N, 1, 28, 28) in [-1, 1] -> (N, 128) float64, CPU.

    Raises TypeError or ValueError for x of another dtype, shape or range.
    """
    x, net = _validate_digits(x), digit_classifier(x.device)
    return torch.cat([net.body(part).cpu().double() for part in x.split(100)])


def digit_probabilities(x: Tensor) -> Tensor:
    """The classifier's probabilities: x (N, 1, 28, 28) in [-1, 1] -> (N, 10) float64, CPU.

    Raises TypeError or ValueError for x of another dtype, shape or range.
    """
    x, net = _validate_digits(x), digit_classifier(x.device)
    return torch.cat([net(part).cpu().double().softmax(1) for part in x.split(100)])


def predict_digits(x: Tensor) -> Tensor:
    """The classifier's prediction: x (N, 1, 28, 28) in [-1, 1] -> (N,) int64, on x's device.

    Raises TypeError or ValueError for x of another dtype, shape or range.
    """
    x, net = _validate_digits(x), digit_classifier(x.device)
    return torch.cat([net(part).argmax(1) for part in x.split(100)])


@lru_cache
def features_of_test_split() -> Tensor:
    """The features of MNIST's 10,000 test digits, (10000, 128): the reference of the course's
    Fréchet distances.
    """
    return digit_features(mnist("test")[0])


def _validate_digits(x: Tensor, limit: float = 2.0) -> Tensor:
    """Digits in float32. Raises TypeError or ValueError for another dtype, shape or range."""
    x = validate.tensor(x, "images")
    if x.ndim != 4 or x.shape[1:] != (1, 28, 28):
        raise ValueError(f"digits must be (N, 1, 28, 28); got {tuple(x.shape)}")
    return validate.images(x, limit=limit).float()


def _validate_colours(x: Tensor) -> Tensor:
    """Colour pictures in float32. Raises TypeError or ValueError for others."""
    x = validate.tensor(x, "images")
    if x.ndim != 4 or x.shape[1] != 3:
        raise ValueError(
            f"these networks look at colour pictures (N, 3, H, W) in [-1, 1]; got "
            f"{tuple(x.shape)}: repeat a single channel three times"
        )
    return validate.images(x, limit=2).float()


@lru_cache
def noisy_digit_classifier(device: str | torch.device = "cpu") -> NoisyClassifier:
    """The shipped classifier of noisy digits (cosine schedule), in eval mode.

    Its header holds its accuracy by noise level. Raises FileNotFoundError or OSError when the
    shipped file is missing or damaged.
    """
    return load("mnist_noisy_classifier", device)


@lru_cache
def lpips_network(device: str | torch.device = "cpu") -> LPIPS:
    """The shipped LPIPS network, in eval mode."""
    return load("lpips", device)


@torch.no_grad()
def alexnet_features(x: Tensor) -> Tensor:
    """AlexNet's last convolution, averaged over positions: x (N, 3, H, W) in [-1, 1] -> (N, 256).

    float64 on the CPU. LPIPS's shipped backbone, for a Fréchet distance of photographs without a
    network connection. Not the published FID, which uses Inception. Images below 64 pixels are
    resized to 64 first. Raises TypeError or ValueError for x of another dtype, shape or range.
    """
    x = _validate_colours(x)
    net = lpips_network(x.device)
    parts = []
    for part in x.split(100):
        if min(x.shape[2:]) < 64:
            part = F.interpolate(part, size=(64, 64), mode="bilinear")
        h = net.body((part - net.shift) / net.scale)                    # (B, 256, h, w)
        parts.append(h.mean((2, 3)).cpu().double())
    return torch.cat(parts)


# ---- large networks, downloaded once

INCEPTION = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
)


def inception(
    weights: str | Path | None = None, device: torch.device | str = "cpu"
) -> Callable[[Tensor], Tensor]:
    """The FID network: a function, images (N, 3, H, W) in [-1, 1] -> features (N, 2048) float64.

    torch-fidelity's Inception (`pip install torch-fidelity`), whose numbers are those of the
    original TensorFlow code. The weights, 91 MB, are fetched once into torch's hub folder and
    checked by digest; `weights` (or $COURSE_INCEPTION) names a file that you have.
    Raises ImportError, OSError (no network, a damaged file) with what to do.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        raise ImportError(
            "the Inception network comes with torch-fidelity: pip install torch-fidelity"
        ) from None
    weights = os.environ.get("COURSE_INCEPTION") if weights is None else weights
    file = download(*INCEPTION, weights)
    net = FeatureExtractorInceptionV3(
        "inception", ["2048"], feature_extractor_weights_path=str(file)
    ).to(device)
    # as pictures are stored
    to_bytes = lambda x: ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)

    @torch.no_grad()
    def extract(x: Tensor) -> Tensor:
        parts = (to_bytes(part).to(device) for part in _validate_colours(x).split(64))
        return torch.cat([net(part)[0].cpu().double() for part in parts])
    return extract


def dinov2(
    name: str = "facebook/dinov2-small", device: torch.device | str = "cpu"
) -> Callable[[Tensor], Tensor]:
    """DINOv2: a function, images (N, 3, H, W) in [-1, 1] -> features (N, 384) float64, on the CPU.

    Needs `pip install transformers` and, once, the Hugging Face hub. Stein et al. 2023 found its
    distances nearer to human judgement than Inception's.
    Raises TypeError, ValueError for another name or device; ImportError, OSError (no network) with
    what to do.
    """
    validate.instance(name, str, "name", "'facebook/dinov2-small'")
    validate.device(device)
    try:
        from transformers import AutoModel
        net = AutoModel.from_pretrained(name).to(device).eval()
    except ImportError:
        raise ImportError("DINOv2 comes with transformers: pip install transformers") from None
    except (OSError, ValueError) as error:
        raise OSError(
            f"{name} is no model here, and could not be fetched from the Hugging Face hub "
            f"({str(error).splitlines()[0]}): is there a network?"
        ) from None
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)

    @torch.no_grad()
    def extract(x: Tensor) -> Tensor:
        x = _validate_colours(x).cpu()
        x = F.interpolate((x + 1) / 2, size=(224, 224), mode="bicubic", antialias=True)
        x = (x.clamp(0, 1) - mean) / std
        outputs = (net(part.to(device)).last_hidden_state for part in x.split(32))
        return torch.cat([h[:, 0].cpu().double() for h in outputs])
    return extract


def download(url: str, digest: str, file: str | Path | None = None) -> Path:
    """A file of weights with this SHA-256: `file`, or one in torch's hub folder, fetched if need
    be.

    Raises OSError for a file that is not there, cannot be fetched, or has another digest.
    """
    if file is not None and not isinstance(file, (str, Path)):
        raise TypeError(f"weights must be the path of a file; got {validate.show(file)}")
    path = Path(file) if file else Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if not path.is_file():
        if file:
            raise OSError(f"there is no file {path}")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=digest)
        except (OSError, RuntimeError) as error:
            raise OSError(
                f"{url} could not be fetched ({error}): fetch it on another machine and pass the "
                f"file as weights=..."
            ) from None
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != digest:
        raise OSError(
            f"{path} is damaged or another file (SHA-256 {found[:12]}..., expected "
            f"{digest[:12]}...): delete it and call again"
        )
    return path
