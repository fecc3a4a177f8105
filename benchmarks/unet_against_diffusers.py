"""Our U-Net beside diffusers' UNet2DModel, with as many parameters (within 5 %) and the same 28 x
28 digits, on the CPU.

    python benchmarks/unet_against_diffusers.py
        speed: forward and backward of 128 images, in turns
    python benchmarks/unet_against_diffusers.py --loss --images 20000
        then trains each and prints its validation loss
    (needs pip install diffusers, which the course itself does not use)

The same for all: the images, times, noise and labels of every batch (a tenth of the labels
dropped), the v target, the cosine schedule, the precision (fp32; bf16, too, where train.precision
finds that it pays), the optimizer and its learning rates (AdamW; each network is trained at each
rate of --lr), the average of weights, and the noise of the validation loss (2,000 test digits, 16
noise levels). Muon is on lines of its own, for our networks alone.

In two forms. "28 x 28": the images as they are, three levels. "Folded": 2 x 2 pixels become
channels first, two levels, which is cheaper and less accurate; UNet2DModel has no such layer and
gets the folded pixels by a wrapper. In each form ours stands beside two of theirs with as many
parameters, one shaped like ours and the quickest of those we timed. UNet2DModel has one block more
per level on the way up, a narrower embedding of the time, and no layer that starts at zero. All
attend in the middle alone, with two heads. Ours lies channels-last in memory; theirs is timed that
way and in torch's default order, which it comes in and trains in. One seed, and no search for the
best learning rate beyond --lr.
"""
import argparse
import statistics
import time

import torch
import torch.nn.functional as F
from ablations import validation_loss, without_zero_init
from diffusers import UNet2DModel
from torch import Tensor, nn

from course_lib import Denoiser, Schedule, UNet
from course_lib.lab import data, profiling, train

CPU, BATCH = torch.device("cpu"), 128


class Diffusers(nn.Module):
    """UNet2DModel as net(x, t, y); fold = 2 gives it 2 x 2 pixels as four channels.

    x: (B, 1, 28, 28), t: (B,), y: (B,) -> like x
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        time: str,
        fold: int = 1,
        memory_format: torch.memory_format = torch.contiguous_format,
    ):
        super().__init__()
        self.fold = fold
        self.memory_format = memory_format
        levels = len(widths)
        self.unet = UNet2DModel(
            sample_size=28 // fold,
            in_channels=fold**2,
            out_channels=fold**2,
            block_out_channels=widths,
            layers_per_block=1,
            down_block_types=("DownBlock2D",) * levels,
            up_block_types=("UpBlock2D",) * levels,
            attention_head_dim=widths[-1] // 2,
            norm_num_groups=2,
            resnet_time_scale_shift=time,
            num_class_embeds=11,
        )
        self.to(memory_format=memory_format)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        x = F.pixel_unshuffle(x, self.fold).contiguous(memory_format=self.memory_format)
        return F.pixel_shuffle(self.unet(x, 1000 * t, y, return_dict=False)[0], self.fold)


OURS = {
    "28 x 28": ("ours 28 x 28 (16, 32, 64)", dict(widths=(16, 32, 64), patch=1)),
    "folded": ("ours folded (32, 64)", dict(widths=(32, 64))),
}
# The widths, how time enters (added, or as scale and shift like ours), and the folding.
THEIRS = {
    "diffusers 28 x 28 (16, 32, 58)": ((16, 32, 58), "scale_shift", 1),
    "diffusers 28 x 28 (16, 16, 66)": ((16, 16, 66), "default", 1),
    "diffusers folded (28, 56)": ((28, 56), "scale_shift", 2),
    "diffusers folded (16, 64)": ((16, 64), "scale_shift", 2),
}
FORM = {name: form for form in OURS for name in (OURS[form][0], *THEIRS) if form in name}
NAMES = [name for form in OURS for name, its in FORM.items() if its == form]


def denoiser(name: str, memory_format: torch.memory_format = torch.contiguous_format) -> Denoiser:
    """One network, untrained."""
    torch.manual_seed(0)
    net = (
        Diffusers(*THEIRS[name], memory_format)
        if name in THEIRS
        else UNet(1, num_classes=10, **dict(OURS.values())[name])
    )
    return Denoiser(net, Schedule.cosine(), "v")


def batches(task: train.Task) -> train.BatchSampler:
    x, y = data.mnist("train")
    return train.BatchSampler({"x0": x, "y": y}, BATCH, 0, CPU, task.draw)


def forward_backward(D: Denoiser, batch: dict, dtype: torch.dtype) -> float:
    """Seconds for one batch: forward, loss and backward, without the optimizer."""
    D.zero_grad()
    start = time.perf_counter()
    with train.autocast(CPU, dtype):
        loss = D.loss(**batch).mean()
    loss.backward()
    return time.perf_counter() - start


def speed(dtype: torch.dtype, rounds: int) -> None:
    """Every network once in each round, after a round to warm up; no layer is at zero, as after
    some training.
    """
    batch, nets = batches(train.Denoising(denoiser(NAMES[0])))[0], {}
    for name in NAMES:
        for order in (
            (torch.contiguous_format, torch.channels_last)
            if name in THEIRS
            else (torch.channels_last,)
        ):
            nets[name, order] = denoiser(name, order)
            without_zero_init(nets[name, order].net)
    table = [
        {key: forward_backward(D, batch, dtype) for key, D in nets.items()}
        for _ in range(rounds + 1)
    ][1:]
    print(
        f"\nforward and backward, images per second, {str(dtype)[6:]}, median of {rounds} rounds; "
        f"ours of the same form / this one in the same round, median and range"
    )
    for name, order in nets:
        ours = (OURS[FORM[name]][0], torch.channels_last)
        ratios = sorted(row[name, order] / row[ours] for row in table)
        shown = (
            f"{name}{', channels-last' if name in THEIRS and order == torch.channels_last else ''}"
        )
        print(
            (
                f"{shown:46} "
                f"{BATCH / statistics.median(row[name, order] for row in table):6.0f}    "
                f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            ),
            flush=True,
        )


def trained_loss(name: str, images: int, lr: float, muon_lr: float = 0.0) -> None:
    """Train as lab/training does, for so many images, and print the validation loss of the averaged
    weights.
    """
    task = train.Denoising(denoiser(name))
    config = train.TrainConfig(steps=images // BATCH, batch_size=BATCH, lr=lr, muon_lr=muon_lr)
    run = train.TrainState(task, batches(task), config)
    while run.progress() < 1:
        run.advance()
    print(
        (
            f"{name:32} AdamW {lr:g}{f', Muon {muon_lr:g}' if muon_lr else '':12} "
            f"{validation_loss(run.result()):.5f}    {run.elapsed:4.0f} s of training"
        ),
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--loss", action="store_true", help="train, too")
    parser.add_argument("--images", type=int, default=20_000, help="to train each network on")
    parser.add_argument(
        "--lr", type=float, nargs="+", default=[1e-3, 4e-3], help="AdamW's learning rates"
    )
    args = parser.parse_args()
    print(f"{train.about_machine()}\n\nparameters and multiply-adds per image, in millions")
    for name in NAMES:
        net = denoiser(name).net
        work = profiling.multiply_adds(
            net, torch.zeros(1, 1, 28, 28), torch.zeros(1), torch.zeros(1, dtype=torch.long)
        )
        print(f"{name:32} {profiling.count_parameters(net) / 1e6:.3f} {work / 1e6:6.1f}")
    for dtype in dict.fromkeys([torch.float32, train.precision(CPU)]):
        speed(dtype, args.rounds)
    if args.loss:
        print(
            f"\nvalidation loss after {args.images // BATCH * BATCH:,} images, trained in "
            f"{str(train.precision(CPU))[6:]}"
        )
        for name, lr in [(name, lr) for lr in args.lr for name in NAMES]:
            trained_loss(name, args.images, lr)
        for name, _ in OURS.values():
            trained_loss(name, args.images, 4e-3, muon_lr=0.02)


if __name__ == "__main__":
    main()
