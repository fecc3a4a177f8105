"""LPIPS: a perceptual distance, fitted to human judgement."""
import torch
from torch import Tensor, nn

from .layers import _validate_pictures


class LPIPS(nn.Module):
    """Learned perceptual image patch similarity on AlexNet's five layers.

    Zhang et al. 2018, eq. 1

    The backbone is torchvision's AlexNet without its classifier; the shipped weights are version
    0.1 of the paper's.
    """
    LAYERS = (1, 4, 7, 9, 11)  # after each of the five ReLUs

    def __init__(self):
        super().__init__()
        from torchvision.models import alexnet
        self.config: dict = {}
        self.body = alexnet().features[:12]
        self.heads = nn.ParameterList(torch.zeros(1, c, 1, 1) for c in (64, 192, 384, 256, 256))
        for module in self.body:
            if isinstance(module, nn.ReLU):
                module.inplace = False
        shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
        scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
        self.register_buffer("shift", shift, persistent=False)
        self.register_buffer("scale", scale, persistent=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x, y: (B, 3 or 1, H, W) in [-1, 1], H and W at least 31 -> (B,), 0 for equal images

        Raises TypeError or ValueError for images of another shape, dtype or range.
        """
        _validate_pictures("x", x, "3 or 1", "H", "W")
        _validate_pictures("y", y, *x.shape[1:])
        if len(x) != len(y) or x.shape[1] not in (1, 3) or min(x.shape[2:]) < 31:
            raise ValueError(
                "x and y must be pairs of images (B, 3 or 1, H, W), H and W at least 31; "
                f"got {tuple(x.shape)} and {tuple(y.shape)}"
            )
        a = (x - self.shift) / self.scale
        b = (y - self.shift) / self.scale
        total = 0.0
        for k, layer in enumerate(self.body):
            a, b = layer(a), layer(b)
            if k in self.LAYERS:
                weights = self.heads[self.LAYERS.index(k)]              # (1, C, 1, 1)
                difference = (l2_normalize(a) - l2_normalize(b)).square() * weights
                total = total + difference.sum(1).mean((1, 2))          # channels, then positions
        return total


def l2_normalize(h: Tensor) -> Tensor:
    """Unit length across the channels, at every position.   (B, C, H, W) -> the same"""
    return h / (h.square().sum(1, keepdim=True).sqrt() + 1e-10)
