"""Classifiers of digits: one for clean images, one for noisy ones."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import validate
from .layers import ResnetBlock, TimeEmbedding, _validate_even, _validate_pictures, group_norm


def _conv(in_channels: int, out_channels: int) -> list[nn.Module]:
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(out_channels), nn.ReLU()]



def _labels(y: Tensor | int, x: Tensor) -> Tensor:
    """Digits (B,) int64, one for each of x, where x is."""
    y = validate.labels(y, len(x), None if torch.compiler.is_compiling() else 10)
    return y.to(x.device).expand(len(x))


class DigitClassifier(nn.Module):
    """A small convolutional network for digits: x (B, 1, 28, 28) in [-1, 1] -> logits (B, 10).

    Its 128 pooled features before the last layer are to digits what Inception's 2048 are to
    photographs. Raises TypeError or ValueError for images of another shape, dtype or range, and
    labels that are not 0 ... 9.
    """

    num_classes = 10

    def __init__(self, width: int = 32):
        super().__init__()
        validate.whole(width, "width")
        self.config = {"width": width}
        self.body = nn.Sequential(
            *_conv(1, width),
            *_conv(width, width),
            nn.MaxPool2d(2),                                            # (B, 32, 14, 14)
            *_conv(width, 2 * width),
            *_conv(2 * width, 2 * width),
            nn.MaxPool2d(2),                                            # (B, 64, 7, 7)
            *_conv(2 * width, 4 * width),
            *_conv(4 * width, 4 * width),                               # (B, 128, 7, 7)
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),                                               # (B, 128)
        )
        self.head = nn.Linear(4 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        _validate_pictures("x", x, 1, 28, 28)
        return self.head(self.body(x.to(self.head.weight)))

    def loss(self, x0: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy of each example: (B,)."""
        return F.cross_entropy(self(x0), _labels(y, x0), reduction="none")


class NoisyClassifier(nn.Module):
    """A time-conditional classifier: x_t (B, 1, 28, 28), t (B,) or one number -> logits (B, 10).

    The encoder of a small U-Net with global average pooling; log_prob(x_t, t, y) is for classifier
    guidance. Raises TypeError or ValueError for images of another shape or dtype, t outside [0, 1]
    and labels that are not 0 ... 9. (Dhariwal & Nichol 2021, section 4)
    """

    num_classes = 10

    def __init__(self, width: int = 32, emb_dim: int = 64):
        super().__init__()
        validate.whole(width, "width")
        _validate_even(emb_dim)
        self.config = {"width": width, "emb_dim": emb_dim}
        self.time = nn.Sequential(TimeEmbedding(64), nn.Linear(64, emb_dim), nn.SiLU())
        self.stem = nn.Conv2d(4, width, 3, padding=1)
        self.block1 = ResnetBlock(width, width, emb_dim)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.block2 = ResnetBlock(2 * width, 2 * width, emb_dim)
        self.norm = group_norm(2 * width)
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor, t: Tensor | float) -> Tensor:
        _validate_pictures("x", x, 1, 28, 28)
        t = t if torch.compiler.is_compiling() else validate.time(t, x)
        t = torch.as_tensor(t, device=x.device).float().expand(len(x))
        emb = self.time(t)                                        # (B, emb_dim)
        h = self.block1(self.stem(F.pixel_unshuffle(x, 2)), emb)  # (B, 32, 14, 14)
        h = self.block2(self.down(h), emb)                        # (B, 64, 7, 7)
        return self.head(F.silu(self.norm(h)).mean((2, 3)))

    def log_prob(self, x: Tensor, t: Tensor | float, y: Tensor) -> Tensor:
        """log p(y | x_t) of each example: (B,)"""
        return self(x, t).log_softmax(1).gather(1, _labels(y, x)[:, None])[:, 0]

    def loss(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy of each example: (B,). x: noisy images, t (B,)."""
        return -self.log_prob(x, t, y)
