"""Seconds for each evaluation: our sampler and diffusers' pipeline, the same network, batch and
steps, in turns, in one run.

    python benchmarks/sampling_against_diffusers.py
        100 digits, 20 steps of ddim, five rounds (needs pip install diffusers)

The network is diffusers' UNet2DModel with random weights (28 x 28, widths 32, 64, 64), in float32
in both. Theirs: DDIMPipeline, as it comes, its progress bar off, images as numpy arrays. Ours:
`from_diffusers` and `ddim`, guesses clipped, as the pipeline does. Last, for scale, the course's
own `mnist` network in the precision that pays here.
"""
import argparse
import statistics
import time

import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

from course_lib import clip, ddim, last, timesteps
from course_lib.lab import sampler_study, sampling, train
from course_lib.lab.training import from_diffusers


def seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = UNet2DModel(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(32, 64, 64),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    ).eval()
    scheduler = DDIMScheduler(timestep_spacing="trailing")
    pipeline, D = DDIMPipeline(model, scheduler), from_diffusers(model, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    ts = timesteps(D.schedule, arguments.steps)
    def theirs():
        return pipeline(
            batch_size=arguments.n, num_inference_steps=arguments.steps, output_type="np"
        )
    ours = lambda: last(ddim(clip(D), D.schedule, torch.randn(arguments.n, 1, 28, 28), ts))
    print(train.about_machine())
    theirs()
    ours()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(arguments.rounds)]
    per = lambda k: 1000 * statistics.median(pair[k] for pair in pairs) / arguments.steps
    print(
        f"{arguments.n} digits, {arguments.steps} evaluations each, median of {arguments.rounds}: "
        f"ours {per(0):.1f} ms, diffusers {per(1):.1f} ms for an evaluation; theirs / ours "
        f"{statistics.median(b / a for a, b in pairs):.3f} ({min(b / a for a, b in pairs):.3f} to "
        f"{max(b / a for a, b in pairs):.3f})"
    )
    mnist, y = train.load("mnist"), torch.arange(arguments.n) % 10
    sampling.sample_labels(mnist, sampler_study.SAMPLERS["ddim"], 2, y)
    times = [
        sampling.sample_labels(mnist, sampler_study.SAMPLERS["ddim"], arguments.steps, y)[2]
        for _ in range(arguments.rounds)
    ]
    print(
        f"the course's `mnist` network, the same work: {statistics.median(times):.2f} s "
        f"({min(times):.2f} to {max(times):.2f})"
    )


if __name__ == "__main__":
    main()
