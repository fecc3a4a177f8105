"""What metrics look at: networks that turn pictures into features. Digits have their own; photographs come through doors.

A metric takes features (N, d), whoever made them: the digit classifier that the course ships, LPIPS (shipped, too), or a large
network whose weights your machine fetches once: `inception()` for the published FID, `dinov2()` for a modern judge.
"""
import hashlib
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..networks.unet import ResnetBlock, TimeEmbedding, group_norm
from .checkpoint import load_tensors
from .data import ASSETS, mnist


class DigitClassifier(nn.Module):
    """A small convolutional network for 28 x 28 digits: x (B, 1, 28, 28) in [-1, 1] -> logits (B, 10).

    Its 128 pooled features before the last layer play the part that Inception's 2048 pooled features play for photographs.
    """

    def __init__(self, width: int = 32):
        super().__init__()
        conv = lambda a, b: [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
        self.body = nn.Sequential(
            *conv(1, width), *conv(width, width), nn.MaxPool2d(2),                      # (B, 32, 14, 14)
            *conv(width, 2 * width), *conv(2 * width, 2 * width), nn.MaxPool2d(2),      # (B, 64, 7, 7)
            *conv(2 * width, 4 * width), *conv(4 * width, 4 * width),                   # (B, 128, 7, 7)
            nn.AdaptiveAvgPool2d(1), nn.Flatten())                                      # (B, 128)
        self.head = nn.Linear(4 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


@lru_cache
def classifier(on: str | torch.device = "cpu") -> DigitClassifier:
    """The shipped classifier, in eval mode; configs/mnist_classifier.toml and its header say how it was trained."""
    tensors, header = load_tensors(ASSETS / "checkpoints" / "mnist_classifier.safetensors")
    net = DigitClassifier(**header["net"])
    net.load_state_dict({name: value.float() if value.is_floating_point() else value for name, value in tensors.items()})
    return net.to(on, memory_format=torch.channels_last).eval().requires_grad_(False)        # twice as fast on a CPU


def features(x: Tensor) -> Tensor:
    """The classifier's 128 pooled features of digits: x (N, 1, 28, 28) in [-1, 1] -> (N, 128) float64 on the CPU."""
    x, net = checked_digits(x), classifier(x.device)
    return torch.cat([net.body(part).cpu().double() for part in x.split(100)])


def probabilities(x: Tensor) -> Tensor:
    """What the classifier takes digits for: x (N, 1, 28, 28) in [-1, 1] -> (N, 10) float64 on the CPU, each row adding up to 1."""
    x, net = checked_digits(x), classifier(x.device)
    return torch.cat([net(part).cpu().double().softmax(1) for part in x.split(100)])


def predict(x: Tensor) -> Tensor:
    """The digit that the classifier sees: x (N, 1, 28, 28) in [-1, 1] -> (N,) int64."""
    x, net = checked_digits(x), classifier(x.device)
    return torch.cat([net(part).argmax(1) for part in x.split(100)])


def class_agreement(x: Tensor, y: Tensor) -> float:
    """The share of images x (N, 1, 28, 28) in which the classifier sees the digit y (N,) that was asked for."""
    return (predict(x) == y.to(x.device)).double().mean().item()


@lru_cache
def test_features() -> Tensor:
    """The features of MNIST's 10,000 test digits (10000, 128): the reference of every Fréchet distance in the course."""
    return features(mnist("test")[0])


def checked_digits(x: Tensor) -> Tensor:
    """x as it is, or one clear sentence."""
    if not x.is_floating_point():
        raise TypeError(f"images must be floating point in [-1, 1]; got {x.dtype}: scale with x / 127.5 - 1")
    if x.ndim != 4 or x.shape[1:] != (1, 28, 28):
        raise ValueError(f"digits must be (N, 1, 28, 28); got {tuple(x.shape)}")
    if not x.isfinite().all():
        raise ValueError("the images have values that are not finite (nan or inf)")
    if x.abs().max() > 2:
        raise ValueError(f"images must lie in [-1, 1]; got [{x.min():.4g}, {x.max():.4g}]: scale with x / 127.5 - 1")
    return x


# ---- a classifier that sees noise

class NoisyClassifier(nn.Module):
    """What digit is under the noise? x_t (B, 1, 28, 28) and its time t (B,) or one number -> logits (B, 10).   Dhariwal & Nichol 2021, section 4

    The first half of a small U-Net, with the U-Net's own blocks, and a mean over places at its end. log_prob(x_t, t, y) is what classifier guidance takes.
    """

    def __init__(self, width: int = 32, emb_dim: int = 64):
        super().__init__()
        self.time = nn.Sequential(TimeEmbedding(64), nn.Linear(64, emb_dim), nn.SiLU())
        self.stem = nn.Conv2d(4, width, 3, padding=1)
        self.block1 = ResnetBlock(width, width, emb_dim)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.block2 = ResnetBlock(2 * width, 2 * width, emb_dim)
        self.norm = group_norm(2 * width)
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor, t: Tensor | float) -> Tensor:
        emb = self.time(torch.as_tensor(t, device=x.device).float().expand(len(x)))     # (B, emb_dim)
        h = self.block1(self.stem(F.pixel_unshuffle(x, 2)), emb)                        # (B, 32, 14, 14)
        h = self.block2(self.down(h), emb)                                              # (B, 64, 7, 7)
        return self.head(F.silu(self.norm(h)).mean((2, 3)))

    def log_prob(self, x: Tensor, t: Tensor | float, y: Tensor) -> Tensor:
        """log p(y | x_t) of each example: (B,)"""
        return self(x, t).log_softmax(1).gather(1, y.to(x.device).expand(len(x))[:, None])[:, 0]


@lru_cache
def noisy_classifier(on: str | torch.device = "cpu") -> NoisyClassifier:
    """The shipped classifier of noisy digits (cosine schedule), in eval mode; its header tells its accuracy by noise level.

    Raises FileNotFoundError or OSError when the shipped file is missing or damaged.
    """
    tensors, header = load_tensors(ASSETS / "checkpoints" / "mnist_noisy_classifier.safetensors")
    net = NoisyClassifier(**header["net"])
    net.load_state_dict({name: value.float() for name, value in tensors.items()})
    return net.to(on).eval().requires_grad_(False)


# ---- LPIPS: how different two pictures look

class LPIPS(nn.Module):
    """AlexNet's features of two pictures, compared on five layers, weighted as people judged.   Zhang et al. 2018, eq. 1

    The backbone is torchvision's AlexNet without its classifier; the shipped weights are version 0.1 of the paper's.
    """
    LAYERS = (1, 4, 7, 9, 11)                                           # after each of the five ReLUs

    def __init__(self):
        super().__init__()
        from torchvision.models import alexnet
        self.body = alexnet().features[:12]
        self.heads = nn.ParameterList(torch.zeros(1, c, 1, 1) for c in (64, 192, 384, 256, 256))
        for module in self.body:
            if isinstance(module, nn.ReLU):
                module.inplace = False
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x, y: (B, 3 or 1, H, W) in [-1, 1], H and W at least 31 -> (B,), 0 for equal pictures"""
        a, b, total = (x - self.shift) / self.scale, (y - self.shift) / self.scale, 0.0
        for k, layer in enumerate(self.body):
            a, b = layer(a), layer(b)
            if k in self.LAYERS:
                difference = (unit(a) - unit(b)).square() * self.heads[self.LAYERS.index(k)]
                total = total + difference.sum(1).mean((1, 2))          # over channels, then over places
        return total


def unit(h: Tensor) -> Tensor:
    """Each place's channels, brought to length 1.   (B, C, H, W) -> the same"""
    return h / (h.square().sum(1, keepdim=True).sqrt() + 1e-10)


@lru_cache
def lpips_network(on: str | torch.device = "cpu") -> LPIPS:
    """The shipped LPIPS network (assets/checkpoints/lpips.safetensors), in eval mode."""
    tensors, _ = load_tensors(ASSETS / "checkpoints" / "lpips.safetensors")
    net = LPIPS()
    net.load_state_dict({name: value.float() for name, value in tensors.items()})
    return net.to(on).eval().requires_grad_(False)


def lpips(x: Tensor, y: Tensor) -> Tensor:
    """How different pictures look, pair by pair: x, y (N, 3 or 1, H, W) in [-1, 1] -> (N,).   Zhang et al. 2018

    Pictures below 32 pixels are enlarged to 64 first: AlexNet would see next to nothing of them.
    """
    if x.shape != y.shape or x.ndim != 4 or x.shape[1] not in (1, 3) or not x.is_floating_point():
        raise ValueError(f"two batches of pictures (N, 3 or 1, H, W) in [-1, 1] are compared pair by pair; got {tuple(x.shape)} and {tuple(y.shape)}")
    if max(x.abs().max(), y.abs().max()) > 1.001:
        raise ValueError(f"pictures must lie in [-1, 1]; got up to {max(x.abs().max(), y.abs().max()):.4g}: scale with x / 127.5 - 1, or clamp samples")
    if min(x.shape[2:]) < 32:
        x, y = (F.interpolate(z, size=(64, 64), mode="bilinear") for z in (x, y))
    net = lpips_network(x.device)
    return torch.cat([net(a.expand(-1, 3, -1, -1), b.expand(-1, 3, -1, -1)) for a, b in zip(x.split(100), y.split(100))])


@torch.no_grad()
def alexnet(x: Tensor) -> Tensor:
    """What AlexNet's last convolution sees in colour pictures, averaged over places: x (N, 3, H, W) in [-1, 1] -> (N, 256), float64 on the CPU.

    LPIPS's shipped backbone, for a Fréchet distance of photographs without a network and without a GPU. Not the published FID, which is Inception's.
    Pictures below 64 pixels are enlarged to 64 first.
    """
    if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point():
        raise ValueError(f"AlexNet looks at colour pictures (N, 3, H, W) in [-1, 1]; got {tuple(x.shape)} {x.dtype}: repeat a single channel three times")
    net = lpips_network(x.device)
    large = lambda part: part if min(x.shape[2:]) >= 64 else F.interpolate(part, size=(64, 64), mode="bilinear")
    return torch.cat([net.body((large(part) - net.shift) / net.scale).mean((2, 3)).cpu().double() for part in x.split(100)])


# ---- doors to large networks

INCEPTION = ("https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
             "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2")


def inception(weights: str | Path | None = None, on: torch.device | str = "cpu") -> Callable[[Tensor], Tensor]:
    """The FID network: a function from pictures (N, 3, H, W) in [-1, 1] to their 2048 features (N, 2048), float64 on the CPU.

    It is torch-fidelity's (`pip install torch-fidelity`), whose numbers are those of the original TensorFlow code. The weights, 91 MB,
    are fetched once into torch's hub folder and checked by digest; `weights` (or $COURSE_INCEPTION) names a file that you have.
    Raises ImportError, OSError (no network, a damaged file) with what to do.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        raise ImportError("the Inception network comes with torch-fidelity: pip install torch-fidelity") from None
    net = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(fetched(*INCEPTION, weights or os.environ.get("COURSE_INCEPTION")))).to(on)
    to_bytes = lambda x: ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)        # as pictures are stored

    @torch.no_grad()
    def extract(x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point():
            raise ValueError(f"Inception looks at colour pictures (N, 3, H, W) in [-1, 1]; got {tuple(x.shape)} {x.dtype}: repeat a single channel three times")
        return torch.cat([net(to_bytes(part).to(on))[0].cpu().double() for part in x.split(64)])
    return extract


def dinov2(name: str = "facebook/dinov2-small", on: torch.device | str = "cpu") -> Callable[[Tensor], Tensor]:
    """A modern judge: pictures (N, 3, H, W) in [-1, 1] -> DINOv2's features (N, 384), through the Hugging Face hub.

    Needs `pip install transformers` and, once, a network. Stein et al. 2023 found it nearer to people's judgement than Inception.
    """
    try:
        from transformers import AutoModel
        net = AutoModel.from_pretrained(name).to(on).eval()
    except ImportError:
        raise ImportError("DINOv2 comes with transformers: pip install transformers") from None
    except OSError as error:
        raise OSError(f"{name} could not be fetched from the Hugging Face hub ({str(error).splitlines()[0]}): is there a network?") from None
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)

    @torch.no_grad()
    def extract(x: Tensor) -> Tensor:
        seen = (F.interpolate((x.cpu() + 1) / 2, size=(224, 224), mode="bicubic", antialias=True).clamp(0, 1) - mean) / std
        return torch.cat([net(part.to(on)).last_hidden_state[:, 0].cpu().double() for part in seen.split(32)])
    return extract


def fetched(url: str, digest: str, file: str | Path | None = None) -> Path:
    """A file of weights with this SHA-256: the one you name, else one from torch's hub folder, fetched if need be."""
    path = Path(file) if file else Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if not path.exists():
        if file:
            raise OSError(f"there is no file {path}")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=digest)
        except (OSError, RuntimeError) as error:
            raise OSError(f"{url} could not be fetched ({error}): fetch it on another machine and pass the file as weights=...") from None
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != digest:
        raise OSError(f"{path} is damaged or another file (SHA-256 {found[:12]}..., expected {digest[:12]}...): delete it and call again")
    return path
