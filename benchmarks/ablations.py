"""What does each part of the network contribute? One change at a time, the same images, two seeds.

    python benchmarks/ablations.py                         all of it, about three quarters of an hour on two idle cores
    python benchmarks/ablations.py --only "no attention"   one row, printed beside the base
    python benchmarks/ablations.py --seeds 2               what the shipped table was made with

Every variant trains on the same batches of MNIST (class-conditional, v target, cosine schedule, Muon and AdamW as in
lab/train.py), then is judged by its validation loss (1,000 test digits, 16 noise levels each, the same noise for all) and by
the Fréchet distance of 500 samples (20 steps, eta = 1, w = 1, fp32). Rows go to course_lib/assets/ablations.csv as they are
finished; a row that is there is not repeated.
"""
import argparse
import csv
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import Denoiser, Schedule, UNet, ancestral, clip, grid, last
from course_lib.lab import cost, data, machine, metrics
from course_lib.lab.batches import Batches
from course_lib.lab.run import Run
from course_lib.networks.dit import DiT
from course_lib.networks.unet import AttentionBlock, ResnetBlock, TimeEmbedding, Upsample

CSV = Path(__file__).parents[1] / "course_lib/assets/ablations.csv"
COLUMNS = ("variant", "seed", "images", "parameters", "multiply_adds", "validation_loss", "frechet_distance")


def unet(cls: type = UNet, **changes) -> nn.Module:
    return cls(**dict(channels=1, widths=(32, 64), num_classes=10) | changes)


def dit() -> DiT:
    return DiT(1, 28, patch=4, dim=100, depth=5, heads=4, num_classes=10)


class NoBridges(UNet):
    """The same layers, but nothing comes across: zeros in place of the bridges."""

    @staticmethod
    def join(h: Tensor, bridge: Tensor) -> Tensor:
        return torch.cat([h, torch.zeros_like(bridge)], dim=1)


class AddedTime(UNet):
    """The embedding is added to the features, as in Ho et al. 2020, in place of scale and shift."""

    class Block(ResnetBlock):
        def forward(self, x: Tensor, emb: Tensor) -> Tensor:
            h = self.conv1(F.silu(self.norm1(x)))
            h = h + self.emb(emb)[:, :h.shape[1], None, None]
            return self.skip(x) + self.conv2(self.dropout(F.silu(self.norm2(h))))


class ReLU(UNet):
    """ReLU in place of SiLU inside the blocks."""

    class Block(ResnetBlock):
        def forward(self, x: Tensor, emb: Tensor) -> Tensor:
            h = self.conv1(F.relu(self.norm1(x)))
            scale, shift = self.emb(emb)[:, :, None, None].chunk(2, dim=1)
            return self.skip(x) + self.conv2(self.dropout(F.relu(torch.addcmul(shift, self.norm2(h), 1 + scale))))


class NoShortcut(UNet):
    """Blocks without the way past their two convolutions."""

    class Block(ResnetBlock):
        def forward(self, x: Tensor, emb: Tensor) -> Tensor:
            h = self.conv1(F.silu(self.norm1(x)))
            scale, shift = self.emb(emb)[:, :, None, None].chunk(2, dim=1)
            return self.conv2(self.dropout(F.silu(torch.addcmul(shift, self.norm2(h), 1 + scale))))


def shortened(net: nn.Module) -> nn.Module:
    """The 1x1 convolutions of the ways past, which nothing uses, are not counted either."""
    for module in net.modules():
        if isinstance(module, ResnetBlock):
            module.skip = nn.Identity()
    return net


def replaced(net: nn.Module, kind: type, make: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Every module of one kind, exchanged."""
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, kind):
                setattr(parent, name, make(child))
    return net


def woken(net: nn.Module) -> nn.Module:
    """No layer starts at zero: torch's usual random start everywhere."""
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and not module.weight.any():
            module.reset_parameters()
    return net


class Scalar(nn.Module):
    """The bare number t in place of its waves."""

    def __init__(self, scale: float):
        super().__init__()
        self.scale = scale

    def forward(self, t: Tensor) -> Tensor:
        return self.scale * t.float()[:, None].expand(-1, 64)


class SlowWaves(TimeEmbedding):
    """The waves without the factor 1000."""

    def forward(self, t: Tensor) -> Tensor:
        return super().forward(t / 1000)


class Table(nn.Module):
    """A learned vector for each hundredth of the time, in place of the waves."""

    def __init__(self, entries: int = 100):
        super().__init__()
        self.table = nn.Embedding(entries, 64)

    def forward(self, t: Tensor) -> Tensor:
        entries = self.table.num_embeddings
        return self.table((t * entries).long().clamp(max=entries - 1))


class Transposed(nn.Module):
    """A transposed convolution doubles height and width."""

    def __init__(self, up: Upsample):
        super().__init__()
        self.conv = nn.ConvTranspose2d(up.conv.in_channels, up.conv.out_channels, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class NormalisedAttention(AttentionBlock):
    """Queries and keys of length 1, times a learned temperature (QK normalisation)."""

    def __init__(self, old: AttentionBlock):
        super().__init__(old.norm.num_channels, old.heads)
        self.temperature = nn.Parameter(torch.tensor(10.0))

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        q, k, v = self.qkv(self.norm(x).flatten(2).transpose(1, 2)).view(B, H * W, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        h = ((self.temperature * F.normalize(q, dim=-1)) @ F.normalize(k, dim=-1).transpose(-1, -2)).softmax(-1) @ v
        return x + self.proj(h.transpose(1, 2).reshape(B, H * W, C)).transpose(1, 2).view(B, C, H, W)


def lost(net: DiT) -> DiT:
    """Patches that do not know where they are."""
    net.positions.zero_()
    return net


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


VARIANTS: dict[str, Callable[[], nn.Module]] = {
    "base": unet,
    "no bridges": lambda: unet(NoBridges),
    "no attention": lambda: replaced(unet(), AttentionBlock, lambda _: Nothing()),
    "time: none": lambda: replaced(unet(), TimeEmbedding, lambda _: Scalar(0.0)),
    "time: the bare number": lambda: replaced(unet(), TimeEmbedding, lambda _: Scalar(1.0)),
    "no normalisation": lambda: replaced(unet(), nn.GroupNorm, lambda _: Nothing()),
    "no zero initialisation": lambda: woken(unet()),
    "no zeros, no way past the blocks": lambda: woken(shortened(unet(NoShortcut))),       # with zeros nothing would ever pass
    "time added, not scale and shift": lambda: unet(AddedTime),
    "DiT, equal multiply-adds": dit,
    "depth 2": lambda: unet(depth=2),
    "DiT without positions": lambda: lost(dit()),
    "time: a learned table": lambda: replaced(unet(), TimeEmbedding, lambda _: Table()),
    "time: waves without the 1000": lambda: replaced(unet(), TimeEmbedding, lambda old: SlowWaves(64)),
    "transposed convolution to go up": lambda: replaced(unet(), Upsample, Transposed),
    "ReLU, not SiLU": lambda: unet(ReLU),
    "attention at 14 x 14, too": lambda: unet(attend=(True, True)),
    "widths (48, 96)": lambda: unet(widths=(48, 96)),
    "patch 4, one level": lambda: unet(patch=4, widths=(64,)),
    "patch 1, three levels": lambda: unet(patch=1, widths=(16, 32, 64)),
    "attention with QK normalisation": lambda: replaced(unet(), AttentionBlock, NormalisedAttention),
    "dropout 0.1": lambda: unet(dropout=0.1),
}


def variant(name: str, seed: int = 0) -> Denoiser:
    """One variant, untrained, its random start fixed by the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = VARIANTS[name]()
    return Denoiser(net.to(memory_format=torch.channels_last) if isinstance(net, UNet) else net, Schedule.cosine(), "v")


@torch.no_grad()
def validation_loss(D: Denoiser, n: int = 1000, levels: int = 16) -> float:
    """The loss on test digits never trained on, at fixed noise levels with fixed noise."""
    x, y = (part[:n] for part in data.mnist("test"))
    g, losses = torch.Generator().manual_seed(0), []
    for t in (torch.arange(levels) + 0.5) / levels:
        eps = torch.randn(x.shape, generator=g)
        losses += [D.loss(a, torch.full((len(a),), float(t)), e, y=b).mean() for a, e, b in zip(x.split(500), eps.split(500), y.split(500))]
    return torch.stack(losses).mean().item()


@torch.no_grad()
def samples(D: Denoiser, n: int = 500) -> Tensor:
    """n digits with labels as frequent as in the training set, 20 ancestral steps."""
    labels = data.mnist("train")[1]
    y = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[:n]]
    g, parts = torch.Generator().manual_seed(1), []
    for part in y.split(500):
        x = D.schedule.prior((len(part), 1, 28, 28), generator=g)
        parts.append(last(ancestral(clip(D), D.schedule, x, grid(D.schedule, 20), g, y=part)))
    return torch.cat(parts)


def trained(D: Denoiser, steps: int, seed: int, batch: int = 128) -> Denoiser:
    """The averaged denoiser after so many steps on the CPU."""
    x, y = data.mnist("train")
    run = Run(D, Batches({"x0": x, "y": y}, batch, 0.1, {"y": 10}, seed, torch.device("cpu")), 4e-3, 0.02, steps, None)
    while run.progress() < 1:
        run.advance()
    return run.result()


def row(name: str, seed: int, steps: int) -> dict:
    """Train, judge, and say what it cost."""
    D = variant(name, seed)
    net_cost = cost.parameters(D.net), cost.multiply_adds(D.net.eval(), torch.zeros(1, 1, 28, 28), torch.zeros(1), torch.zeros(1, dtype=torch.long))
    try:
        D = trained(D, steps, seed)
        result = validation_loss(D), metrics.frechet_distance(metrics.features(samples(D).clamp(-1, 1)), metrics.test_features())
    except (FloatingPointError, ValueError) as error:                   # a variant may diverge: that is a result, too
        print(f"{name}, seed {seed}: {error}")
        result = float("nan"), float("nan")
    values = (name, seed, steps * 128, *net_cost, round(result[0], 5), round(result[1], 3))
    return dict(zip(COLUMNS, values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=250, help="of 128 images")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", choices=VARIANTS, help="this variant beside the base; nothing is written")
    args = parser.parse_args()
    print(machine.about())
    if args.only:
        for name in ("base", args.only):
            print(row(name, 0, args.steps))
        return
    done = {(r["variant"], r["seed"]) for r in csv.DictReader(CSV.open())} if CSV.exists() else set()
    with CSV.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if not done and CSV.stat().st_size == 0:
            writer.writeheader()
        for name in VARIANTS:
            for seed in range(args.seeds):
                if (name, str(seed)) not in done:
                    start = time.time()
                    writer.writerow(result := row(name, seed, args.steps))
                    file.flush()
                    print(f"{time.time() - start:4.0f} s  {result}", flush=True)


if __name__ == "__main__":
    main()
