"""What does each part of the network contribute? One change at a time, the same images, two seeds.

    python benchmarks/ablations.py
        all of it, about three quarters of an hour on two idle cores
    python benchmarks/ablations.py --only "no attention"
        one row, printed beside the base
    python benchmarks/ablations.py --seeds 2
        what the shipped table was made with

Every variant trains on the same batches of MNIST (class-conditional, v target, cosine schedule,
Muon and AdamW with the rates of `train.train`), then is measured by its validation loss (1,000
test digits, 16 noise levels each, the same noise for all) and by the Fréchet distance of 500
samples (20 steps, eta = 1, w = 1, fp32). Rows go to course_lib/assets/ablations.csv as they are
finished; a row that is there is not repeated.
"""
import argparse
import csv
import itertools
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import Denoiser, Schedule, UNet, ancestral, clip, last, timesteps
from course_lib.lab import data, features, metrics, profiling, train
from course_lib.networks.dit import DiT
from course_lib.networks.layers import AttentionBlock, ResnetBlock, TimeEmbedding, Upsample

CSV = Path(__file__).parents[1] / "course_lib/assets/ablations.csv"
COLUMNS = (
    "variant",
    "seed",
    "images",
    "parameters",
    "multiply_adds",
    "validation_loss",
    "frechet_distance",
)
BATCH_SIZE = 128


def unet(cls: type = UNet, **changes) -> nn.Module:
    return cls(**dict(channels=1, widths=(32, 64), num_classes=10) | changes)


def dit() -> DiT:
    return DiT(1, 28, patch_size=4, dim=100, depth=5, num_heads=4, num_classes=10)


class NoSkips(UNet):
    """The same layers without skip connections: zeros are concatenated in their place."""

    @staticmethod
    def concat_skip(h: Tensor, skip: Tensor) -> Tensor:
        return torch.cat([h, torch.zeros_like(skip)], dim=1)


class AddedTime(UNet):
    """The embedding is added to the features, not FiLM's scale and shift. (Ho et al. 2020)"""

    class Block(ResnetBlock):
        def forward(self, x: Tensor, emb: Tensor) -> Tensor:
            h = self.conv1(F.silu(self.norm1(x)))
            h = h + self.emb(emb)[:, : h.shape[1], None, None]
            return self.shortcut(x) + self.conv2(self.dropout(F.silu(self.norm2(h))))


class ReLU(UNet):
    """ReLU in place of SiLU inside the blocks."""

    class Block(ResnetBlock):
        def forward(self, x: Tensor, emb: Tensor) -> Tensor:
            h = self.conv1(F.relu(self.norm1(x)))
            scale, shift = self.emb(emb)[:, :, None, None].chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm2(h), 1 + scale)
            return self.shortcut(x) + self.conv2(self.dropout(F.relu(h)))


class NoShortcut(UNet):
    """Blocks without a residual shortcut around their two convolutions."""

    class Block(ResnetBlock):
        def forward(self, x: Tensor, emb: Tensor) -> Tensor:
            h = self.conv1(F.silu(self.norm1(x)))
            scale, shift = self.emb(emb)[:, :, None, None].chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm2(h), 1 + scale)
            return self.conv2(self.dropout(F.silu(h)))


def without_shortcuts(net: nn.Module) -> nn.Module:
    """The network without the shortcuts' 1x1 convolutions, which `NoShortcut` does not use."""
    for module in net.modules():
        if isinstance(module, ResnetBlock):
            module.shortcut = nn.Identity()
    return net


def replace(net: nn.Module, kind: type, make: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """The network with make(module) in place of every module of one kind."""
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, kind):
                setattr(parent, name, make(child))
    return net


def without_zero_init(net: nn.Module) -> nn.Module:
    """The network with torch's usual random weights in the layers that start at zero."""
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and not module.weight.any():
            module.reset_parameters()
    return net


class ScalarTime(nn.Module):
    """The number t itself, times a scale, in place of its sinusoidal embedding."""

    def __init__(self, scale: float):
        super().__init__()
        self.scale = scale

    def forward(self, t: Tensor) -> Tensor:
        return self.scale * t.float()[:, None].expand(-1, 64)


class UnscaledTimeEmbedding(TimeEmbedding):
    """The sinusoidal embedding without the factor 1000."""

    def forward(self, t: Tensor) -> Tensor:
        return super().forward(t / 1000)


class LearnedTimeEmbedding(nn.Module):
    """A learned vector for each hundredth of the time, in place of the sinusoids."""

    def __init__(self, entries: int = 100):
        super().__init__()
        self.table = nn.Embedding(entries, 64)

    def forward(self, t: Tensor) -> Tensor:
        entries = self.table.num_embeddings
        return self.table((t * entries).long().clamp(max=entries - 1))


class TransposedUpsample(nn.Module):
    """Upsampling by 2 with a transposed convolution."""

    def __init__(self, up: Upsample):
        super().__init__()
        self.conv = nn.ConvTranspose2d(
            up.conv.in_channels, up.conv.out_channels, 4, stride=2, padding=1
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class QKNormAttention(AttentionBlock):
    """QK normalisation: queries and keys of length 1, times a learned temperature."""

    def __init__(self, old: AttentionBlock):
        super().__init__(old.norm.num_channels, old.num_heads)
        self.temperature = nn.Parameter(torch.tensor(10.0))

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2)                # (B, HW, C)
        qkv = self.qkv(tokens).view(B, H * W, 3, self.num_heads, -1)    # (B, HW, 3, heads, d)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)                            # (B, heads, HW, d) each
        q = self.temperature * F.normalize(q, dim=-1)
        k = F.normalize(k, dim=-1)
        h = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        h = self.proj(h.transpose(1, 2).reshape(B, H * W, C))           # (B, HW, C)
        return x + h.transpose(1, 2).view(B, C, H, W)


def without_positions(net: DiT) -> DiT:
    """The network with zeros in place of its positional encoding."""
    net.positions.zero_()
    return net


VARIANTS: dict[str, Callable[[], nn.Module]] = {
    "base": unet,
    "no skip connections": lambda: unet(NoSkips),
    "no attention": lambda: replace(unet(), AttentionBlock, lambda _: nn.Identity()),
    "time: none": lambda: replace(unet(), TimeEmbedding, lambda _: ScalarTime(0.0)),
    "time: the bare number": lambda: replace(unet(), TimeEmbedding, lambda _: ScalarTime(1.0)),
    "no normalisation": lambda: replace(unet(), nn.GroupNorm, lambda _: nn.Identity()),
    "no zero initialisation": lambda: without_zero_init(unet()),
    # with layers at zero and no shortcut the output would stay zero
    "no zero initialisation, no shortcuts": (
        lambda: without_zero_init(without_shortcuts(unet(NoShortcut)))
    ),
    "time added, not scale and shift": lambda: unet(AddedTime),
    "DiT, equal multiply-adds": dit,
    "depth 2": lambda: unet(depth=2),
    "DiT without positions": lambda: without_positions(dit()),
    "time: a learned table": lambda: replace(
        unet(), TimeEmbedding, lambda _: LearnedTimeEmbedding()
    ),
    "time: sinusoids without the 1000": lambda: replace(
        unet(), TimeEmbedding, lambda _: UnscaledTimeEmbedding(64)
    ),
    "transposed convolution to go up": lambda: replace(unet(), Upsample, TransposedUpsample),
    "ReLU, not SiLU": lambda: unet(ReLU),
    "attention at 14 x 14, too": lambda: unet(attention_levels=(True, True)),
    "widths (48, 96)": lambda: unet(widths=(48, 96)),
    "patch 4, one level": lambda: unet(patch_size=4, widths=(64,)),
    "patch 1, three levels": lambda: unet(patch_size=1, widths=(16, 32, 64)),
    "attention with QK normalisation": lambda: replace(
        unet(), AttentionBlock, QKNormAttention
    ),
    "dropout 0.1": lambda: unet(dropout=0.1),
}


def variant(name: str, seed: int = 0) -> Denoiser:
    """One variant, untrained; its initial weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = VARIANTS[name]()
    if isinstance(net, UNet):
        net = net.to(memory_format=torch.channels_last)
    return Denoiser(net, Schedule.cosine(), "v")


@torch.no_grad()
def validation_loss(D: Denoiser, n: int = 1000, levels: int = 16) -> float:
    """The loss on test digits never trained on, at fixed noise levels with fixed noise."""
    x, y = (part[:n] for part in data.mnist("test"))
    generator = torch.Generator().manual_seed(0)
    losses = []
    for t in (torch.arange(levels) + 0.5) / levels:
        eps = torch.randn(x.shape, generator=generator)
        losses += [
            D.loss(x0, t.expand(len(x0)), e, y=label).mean()
            for x0, e, label in zip(x.split(500), eps.split(500), y.split(500))
        ]
    return torch.stack(losses).mean().item()


@torch.no_grad()
def samples(D: Denoiser, n: int = 500) -> Tensor:
    """n digits with labels as frequent as in the training set, 20 ancestral steps."""
    labels = data.mnist("train")[1]
    y = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[:n]]
    generator = torch.Generator().manual_seed(1)
    ts = timesteps(D.schedule, 20)
    parts = []
    for part in y.split(500):
        x = D.schedule.sample_prior((len(part), 1, 28, 28), generator=generator)
        states = ancestral(clip(D), D.schedule, x, ts, generator=generator, y=part)
        parts.append(last(states))
    return torch.cat(parts)


def train_on_cpu(D: Denoiser, steps: int, seed: int) -> Denoiser:
    """The averaged denoiser after so many steps of 128 images."""
    x, y = data.mnist("train")
    task = train.Denoising(D)
    batches = train.BatchSampler(
        {"x0": x, "y": y}, BATCH_SIZE, seed, torch.device("cpu"), task.draw
    )
    config = train.TrainConfig(steps=steps, batch_size=BATCH_SIZE, seed=seed)
    state = train.TrainState(task, batches, config)
    while state.progress() < 1:
        state.advance()
    return state.result()


def measure(D: Denoiser) -> tuple[float, float]:
    """Validation loss and Fréchet distance."""
    generated = features.digit_features(samples(D).clamp(-1, 1))
    distance = metrics.frechet_distance(generated, features.features_of_test_split())
    return validation_loss(D), distance


def row(name: str, seed: int, steps: int) -> dict:
    """One row of the table: a variant's cost, and its measurements after training."""
    D = variant(name, seed)
    image, t, y = torch.zeros(1, 1, 28, 28), torch.zeros(1), torch.zeros(1, dtype=torch.long)
    parameters = profiling.count_parameters(D.net)
    multiply_adds = profiling.multiply_adds(D.net.eval(), image, t, y)
    try:
        loss, distance = measure(train_on_cpu(D, steps, seed))
    except (FloatingPointError, ValueError) as error:
        # a variant may diverge: that is a result, too
        print(f"{name}, seed {seed}: {error}")
        loss, distance = float("nan"), float("nan")
    cost = (parameters, multiply_adds)
    values = (name, seed, steps * BATCH_SIZE, *cost, round(loss, 5), round(distance, 3))
    return dict(zip(COLUMNS, values))


def append_rows(seeds: int, steps: int) -> None:
    """Measure every variant with every seed that the shipped table does not have yet."""
    done = set()
    if CSV.exists():
        done = {(r["variant"], r["seed"]) for r in csv.DictReader(CSV.open())}
    with CSV.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if not done and CSV.stat().st_size == 0:
            writer.writeheader()
        for name, seed in itertools.product(VARIANTS, range(seeds)):
            if (name, str(seed)) in done:
                continue
            start = time.time()
            result = row(name, seed, steps)
            writer.writerow(result)
            file.flush()
            print(f"{time.time() - start:4.0f} s  {result}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=250, help="of 128 images")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument(
        "--only", choices=VARIANTS, help="this variant beside the base; nothing is written"
    )
    args = parser.parse_args()
    print(train.about_machine())
    if not args.only:
        append_rows(args.seeds, args.steps)
        return
    for name in ("base", args.only):
        print(row(name, 0, args.steps))


if __name__ == "__main__":
    main()
