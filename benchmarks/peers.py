"""Time to 95 % class agreement on MNIST, and images per second: our loop beside the best-known
ones, in one run, on the CPU.

    python benchmarks/peers.py                             all six, each trained for at most 300 s:
                                                           about an hour with the evaluations
    python benchmarks/peers.py --only ours "Hugging Face class" --seconds 600
    python benchmarks/peers.py --speed-only --seconds 60   images per second alone
    (needs pip install diffusers denoising_diffusion_pytorch, which the course itself does not use;
    what is missing is left out)

ours                      course_lib.lab.training.train with UNet(1, widths=(32, 64),
                          num_classes=10) of lessons 1 and 2, as it comes.
diffusers                 huggingface/diffusers, examples/unconditional_image_generation: the
                          network and the defaults of train_unconditional.py with the flags of its
                          README's command: UNet2DModel of six levels, 128 to 512 channels, three
                          colours at 64 x 64, batch 16, AdamW (0.95, 0.999) at 1e-4 with weight
                          decay 1e-6, 500 steps of warm-up, then a cosine over 100 epochs,
                          gradients clipped at 1, eps target, linear betas, fp32, --use_ema.
lucidrains                lucidrains/denoising-diffusion-pytorch, README: Unet(dim=64,
                          dim_mults=(1, 2, 4, 8), flash_attn=True) and its own Trainer, imported:
                          batch 32, two of them for each step, Adam (0.9, 0.99) at 8e-5, ema_decay
                          0.995; GaussianDiffusion's own defaults (v target, sigmoid schedule).
                          One channel at 32 x 32, as the network takes multiples of 8 alone (the
                          README's example has three at 128 x 128: 16 times the pixels). amp=True
                          is fp16, which accelerate refuses on a CPU: left at the Trainer's
                          default, off.
Hugging Face class        huggingface/diffusion-models-class,
                          unit2/02_class_conditioned_diffusion_model_example.ipynb: UNet2DModel at
                          28 x 28 with block_out_channels (32, 64, 64), two layers per block,
                          attention in the two inner levels, four channels more for the class;
                          batch 128, Adam at 1e-3, eps target, squaredcos_cap_v2, fp32, no
                          average.
..., our network          the same loop and settings with our network in it, at 28 x 28 x 1.

What is measured: 500 digits, 50 of each class, 20 steps of `ddim` (eta = 0, guesses clipped), from
the averaged weights where a loop keeps an average; the share in which the course's classifier sees
the digit that was asked for. One sampler for all, w = 1 for all (only our loop drops labels, so
only ours could be guided: --w 2). Where the first 50 digits are below 80 %, the other 450 are not
drawn. Two of the loops know no classes. So that one measure serves all, their networks are made
class-conditional as UNet2DModel offers it (num_class_embeds): one learned vector for each class is
added to the embedding of the time, in the Unet of lucidrains by a layer of ours. Images of 64 x 64
and 32 x 32 are enlarged from 28 x 28 as those loops do (bilinear), and brought back for the
classifier.

The clock runs while a loop trains, after one step to warm up, and not while it is evaluated. To the
peers' advantage: every loop gets its images from memory (a DataLoader over tensors; as documented
they decode and enlarge files one by one), nothing is logged or saved, and the flips are off that
the diffusers README and the Trainer turn on (a mirrored digit is no digit). Peers are evaluated
after 10 s of training, then whenever a quarter more has passed and at least as many seconds as the
last evaluation took, and at the end. Our loop lets its rates fall to zero in the time it is given,
so each of its times is a run of its own, from scratch; the shortest run that reaches 95 % counts,
the shorter ones are not added.
One seed. The standard error of 95 % at n = 500 is 1 point.
"""
import argparse
import contextlib
import copy
import io
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from course_lib import Denoiser, Schedule, UNet, cfg, clip, ddim, last, timesteps
from course_lib.lab import data, metrics, profiling, train

GOAL = 0.95
FIRST = 10.0
GROWTH = 1.25
SCREEN = 50


@dataclass
class Peer:
    net: nn.Module
    steps: Iterator[int]              # trains one step, and says on how many images
    denoiser: Callable[[], Denoiser]  # from the weights that its loop would sample with
    shape: tuple[int, int, int] = (1, 28, 28)


@dataclass
class Result:
    name: str
    parameters: int
    images: int
    seconds: float
    share: float | None = None                                          # class agreement at the end
    n: int = 0                                                          # of so many samples

    @property
    def speed(self) -> float:
        return self.images / self.seconds

    @property
    def reached(self) -> bool:
        return self.share is not None and self.share >= GOAL


# ---- their networks

class InSteps(nn.Module):
    """Our network, told integer steps 0 ... 999 as their loops do; y may be set beforehand, where a
    loop passes no labels on.
    """
    channels = out_dim = 1  # what GaussianDiffusion asks of a network
    self_condition = False

    def __init__(self):
        super().__init__()
        self.net = UNet(1, widths=(32, 64), num_classes=10)
        self.y = None

    def forward(self, x: Tensor, steps: Tensor, y: Tensor | None = None) -> Tensor:
        return self.net(x, (steps + 1) / 1000, self.y if y is None else y)


class OfScript(nn.Module):
    """The network of train_unconditional.py, with labels: (B, 3, 64, 64), (B,), (B,)
    -> (B, 3, 64, 64)
    """

    def __init__(self):
        super().__init__()
        from diffusers import UNet2DModel
        down, up = ["DownBlock2D"] * 6, ["UpBlock2D"] * 6
        down[4], up[1] = "AttnDownBlock2D", "AttnUpBlock2D"
        self.unet = UNet2DModel(
            sample_size=64,
            in_channels=3,
            out_channels=3,
            layers_per_block=2,
            down_block_types=down,
            up_block_types=up,
            block_out_channels=(128, 128, 256, 256, 512, 512),
            num_class_embeds=10,
        )

    def forward(self, x: Tensor, steps: Tensor, y: Tensor) -> Tensor:
        return self.unet(x, steps, y).sample


class OfClass(nn.Module):
    """The class's small network; the label becomes four channels beside the image: (B, 1, 28, 28),
    (B,), (B,) -> (B, 1, 28, 28)
    """

    def __init__(self):
        super().__init__()
        from diffusers import UNet2DModel
        self.classes = nn.Embedding(10, 4)
        self.unet = UNet2DModel(
            sample_size=28,
            in_channels=5,
            out_channels=1,
            layers_per_block=2,
            block_out_channels=(32, 64, 64),
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        )

    def forward(self, x: Tensor, steps: Tensor, y: Tensor) -> Tensor:
        planes = self.classes(y)[:, :, None, None].expand(-1, -1, 28, 28)
        return self.unet(torch.cat([x, planes], dim=1), steps).sample


class Labelled(nn.Module):
    """Adds a learned vector for the class y, set beforehand, to an embedding of the time.

    (B,) -> (B, dim)
    """

    def __init__(self, embed: nn.Module, dim: int):
        super().__init__()
        self.embed = embed
        self.classes = nn.Embedding(10, dim)
        self.y = None

    def forward(self, steps: Tensor) -> Tensor:
        return self.embed(steps) + self.classes(self.y)


# ---- their loops, each as a Peer

def batches(x: Tensor, y: Tensor, size: int) -> Iterator[list[Tensor]]:
    """Epoch after epoch."""
    loader = DataLoader(TensorDataset(x, y), batch_size=size, shuffle=True)
    while True:
        yield from loader


def in_steps(net: Callable, betas: Tensor, target: str) -> Denoiser:
    """A network that is told steps 0 ... 999, as one of the course's denoisers."""
    return Denoiser(
        net, Schedule.from_betas(betas), target, time_transform=lambda t: (1000 * t - 1).round()
    )


def of_diffusers(x: Tensor, y: Tensor, ours: bool = False) -> Peer:
    """The loop of train_unconditional.py."""
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel
    net, shape = (InSteps(), (1, 28, 28)) if ours else (OfScript(), (3, 64, 64))
    noising = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8
    )
    rates = get_scheduler(
        "cosine", optimizer, num_warmup_steps=500, num_training_steps=100 * -(-len(x) // 16)
    )
    average = EMAModel(
        net.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=3 / 4
    )

    def steps() -> Iterator[int]:
        for images, labels in batches(x, y, 16):
            images = resized(images, shape[1]).expand(-1, shape[0], -1, -1)
            noise, t = torch.randn(images.shape), torch.randint(1000, (len(images),))
            loss = F.mse_loss(net(noising.add_noise(images, noise, t), t, labels), noise)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            rates.step()
            optimizer.zero_grad()
            average.step(net.parameters())
            loss.item()
            yield len(images)

    def denoiser() -> Denoiser:
        averaged = copy.deepcopy(net).eval()
        average.copy_to(averaged.parameters())
        return in_steps(averaged, noising.betas, "eps")
    return Peer(net, steps(), denoiser, shape)


def of_lucidrains(x: Tensor, y: Tensor, ours: bool = False) -> Peer:
    """Their Trainer itself, one step at a time; it trains on what its `dl` yields, here images from
    memory.
    """
    from denoising_diffusion_pytorch import GaussianDiffusion, Trainer, Unet
    net, size = (
        (InSteps(), 28)
        if ours
        else (Unet(dim=64, dim_mults=(1, 2, 4, 8), channels=1, flash_attn=True), 32)
    )
    if not ours:
        net.time_mlp = Labelled(net.time_mlp, 4 * 64)
    labelled = lambda model: model if ours else model.time_mlp  # the module that wants the labels
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
        for k in range(100):  # the Trainer wants to see as many files, and opens none here
            (Path(folder) / f"{k}.png").touch()
        trainer = Trainer(
            GaussianDiffusion(net, image_size=size),
            folder,
            train_batch_size=32,
            train_lr=8e-5,
            gradient_accumulate_every=2,
            ema_decay=0.995,
            augment_horizontal_flip=False,
            save_and_sample_every=10**9,
            results_folder=folder,
            calculate_fid=False,
        )

    def images() -> Iterator[Tensor]:
        for part, labels in batches(resized(x, size) / 2 + 0.5, y, 32):
            labelled(net).y = labels
            yield part
    trainer.dl = images()

    def steps() -> Iterator[int]:
        while True:
            trainer.train_num_steps = trainer.step + 1
            # its progress bar
            with (
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(io.StringIO()),
            ):
                trainer.train()
            yield 2 * 32

    def denoiser() -> Denoiser:
        averaged = trainer.ema.ema_model.eval()

        def predict(x: Tensor, steps: Tensor, y: Tensor) -> Tensor:
            labelled(averaged.model).y = y
            return averaged.model(x, steps)
        return in_steps(predict, averaged.betas, "v")
    return Peer(net, steps(), denoiser, (1, size, size))


def of_class(x: Tensor, y: Tensor) -> Peer:
    """The loop of the Hugging Face class."""
    from diffusers import DDPMScheduler
    net = OfClass()
    noising = DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)

    def steps() -> Iterator[int]:
        for images, labels in batches(x, y, 128):
            # sic: never the last step
            noise, t = torch.randn_like(images), torch.randint(0, 999, (len(images),))
            loss = F.mse_loss(net(noising.add_noise(images, noise, t), t, labels), noise)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
            yield len(images)
    return Peer(net, steps(), lambda: in_steps(copy.deepcopy(net).eval(), noising.betas, "eps"))


PEERS: dict[str, Callable[[Tensor, Tensor], Peer]] = {
    "diffusers": of_diffusers,
    "lucidrains": of_lucidrains,
    "Hugging Face class": of_class,
    "diffusers, our network": lambda x, y: of_diffusers(x, y, ours=True),
    "lucidrains, our network": lambda x, y: of_lucidrains(x, y, ours=True),
}


# ---- what is measured

def resized(x: Tensor, size: int) -> Tensor:
    """Bilinear, as the loops' transforms do.   (N, C, H, W) -> (N, C, size, size)"""
    return (
        x
        if x.shape[-1] == size
        else F.interpolate(x, size=(size, size), mode="bilinear", antialias=True)
    )


@torch.no_grad()
def draw(
    denoise: Callable, schedule: Schedule, y: Tensor, shape: tuple[int, int, int], steps: int = 20
) -> Tensor:
    """One digit for each label y (N,), back at 28 x 28 in grey: (N, 1, 28, 28) in [-1, 1]."""
    g, parts = torch.Generator().manual_seed(1), []
    for labels in y.split(50):
        x = schedule.sample_prior((len(labels), *shape), generator=g)
        x = last(ddim(clip(denoise), schedule, x, timesteps(schedule, steps), y=labels))
        parts.append(resized(x.mean(1, keepdim=True), 28).clamp(-1, 1))
    return torch.cat(parts)


def agreement(
    denoise: Callable, schedule: Schedule, shape: tuple[int, int, int] = (1, 28, 28), n: int = 500
) -> tuple[float, int]:
    """The class agreement and of how many samples: n, or the first 50 where these leave no hope."""
    y = torch.arange(10).repeat(n // 10)
    x = draw(denoise, schedule, y[:SCREEN], shape)
    if metrics.class_agreement(x, y[:SCREEN]) >= 0.8:
        x = torch.cat([x, draw(denoise, schedule, y[SCREEN:], shape)])
    return metrics.class_agreement(x, y[:len(x)]), len(x)


def run_ours(x: Tensor, y: Tensor, seconds: float, speed_only: bool, w: float) -> Result:
    """Runs of 10 s, 12.5 s, ... from scratch, until one reaches 95 % or the next would take longer
    than `seconds`.
    """
    def trained(**how_long) -> Denoiser:
        torch.manual_seed(0)
        D = Denoiser(UNet(1, widths=(32, 64), num_classes=10), Schedule.cosine(), "v")
        with contextlib.redirect_stdout(io.StringIO()):                 # its progress bar
            return train.train(D, (x, y), device="cpu", **how_long)

    parameters = sum(p.numel() for p in trained(steps=1).parameters())  # and warms up
    given = seconds if speed_only else min(FIRST, seconds)
    while True:
        result, start = Result("ours", parameters, 0, 0.0), time.perf_counter()
        D = trained(seconds=given)
        result.images = 128 * D.history[-1][0]
        result.seconds = time.perf_counter() - start
        if speed_only:
            return result
        result.share, result.n = agreement(cfg(D, w, {"y": 10}), D.schedule)
        say(result)
        if result.reached or given >= seconds:
            return result
        given = min(GROWTH * given, seconds)


def run_peer(name: str, x: Tensor, y: Tensor, seconds: float, speed_only: bool) -> Result:
    """One run, looked at now and then, until it reaches 95 % or has trained for `seconds`."""
    torch.manual_seed(0)
    peer = PEERS[name](x, y)
    result, due = Result(name, profiling.count_parameters(peer.net), 0, 0.0), min(FIRST, seconds)
    next(peer.steps)  # warms up, a step for nothing
    while not result.reached and result.seconds < seconds:
        start = time.perf_counter()
        result.images += next(peer.steps)
        result.seconds += time.perf_counter() - start
        if result.seconds >= due and not speed_only:
            start, D = time.perf_counter(), peer.denoiser()
            with torch.random.fork_rng(devices=[]):
                result.share, result.n = agreement(D, D.schedule, peer.shape)
            say(result)
            due = min(
                seconds, max(GROWTH * result.seconds, result.seconds + time.perf_counter() - start)
            )
    return result


def say(result: Result) -> None:
    print(
        (
            f"{result.name:24} {result.seconds:6.1f} s, {result.images:9,} images: "
            f"{result.share:.1%} of {result.n}"
        ),
        flush=True,
    )


def table(results: list[Result], speed_only: bool) -> None:
    ours = next((r for r in results if r.name == "ours"), None)
    title = "ours / this" if speed_only else "this / ours"
    print(
        f"\n{'':24} {'parameters':>12} {'images/s':>9}   "
        f"{title if speed_only else f'seconds to 95 %   {title}'}"
    )
    for r in results:
        if speed_only:
            ending = f"{ours.speed / r.speed:8.1f}" if ours else "       -"
        else:
            ratio = (
                f"{'' if r.reached else 'more than '}{r.seconds / ours.seconds:.1f}"
                if ours and ours.reached
                else "-"
            )
            time_taken = (
                f"{r.seconds:.0f}"
                if r.reached
                else (
                    f"not reached: {r.share:.1%} (of {r.n}) after {r.images:,} images, "
                    f"{r.seconds:.0f} s"
                )
            )
            ending = f"{time_taken:15}   {ratio}"
        print(f"{r.name:24} {r.parameters:12,} {r.speed:9,.1f}   {ending}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=300, help="the longest that each may train"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=("ours", *PEERS),
        metavar="NAME",
        help=f"some of: ours, {'; '.join(PEERS)}",
    )
    parser.add_argument(
        "--speed-only", action="store_true", help="train each for --seconds, draw nothing"
    )
    parser.add_argument(
        "--w", type=float, default=1.0, help="guidance weight of ours; the others cannot be guided"
    )
    args = parser.parse_args()
    os.environ |= {"ACCELERATE_USE_CPU": "true", "COURSE_DEVICE": "cpu"}
    x, y = data.mnist("train")
    print(f"{train.about_machine()}; the peers in float32")
    if not args.speed_only:
        digits, labels = (part[:2000] for part in data.mnist("test"))
        enlarged = [resized(resized(digits, size), 28).clamp(-1, 1) for size in (28, 32, 64)]
        real = [f"{metrics.class_agreement(x, labels):.2%}" for x in enlarged]
        print(
            f"class agreement of 2,000 real test digits: {real[0]}; enlarged to 32 and back "
            f"{real[1]}, to 64 and back {real[2]}; ours at w = {args.w:g}"
        )
    results = []
    for name in [name for name in ("ours", *PEERS) if not args.only or name in args.only]:
        try:
            results.append(
                run_ours(x, y, args.seconds, args.speed_only, args.w)
                if name == "ours"
                else run_peer(name, x, y, args.seconds, args.speed_only)
            )
        except ImportError as error:
            print(f"{name}: left out ({error}); it comes with: pip install {error.name}")
    table(results, args.speed_only)


if __name__ == "__main__":
    main()
