"""Clips that go on: frames drawn after known ones, with noise of its own for each frame.

A denoiser of clips takes x (B, F, ...) and a time for each frame, t (B, F), and was trained on
independent times: clean, noisy and pure noise in every order. (Chen et al. 2024, Diffusion forcing)
"""
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from . import validate
from .guidance import Denoise, as_wrapper
from .samplers import ddim, last, validate_grid, validate_model
from .schedules import Schedule, randn_like


def after(
    D: Denoise, schedule: Schedule, known: Tensor, t_known: float = 0.0, eps: Tensor | None = None
) -> Denoise:
    """A denoiser of the frames that follow the `known` ones: any sampler draws them.

    D:       x (B, F, ...), t (B, F) -> like x, such as the Denoiser of a VideoUNet
    known:   (B, K, ...) or (1, K, ...), clean
    t_known: the time of the known frames. A D that is told of a little noise there relies less on
             details, such as the faults of frames that it drew itself
    eps:     their noise, like known; None: they are scaled by alpha(t_known) alone, and D is told
             of noise that is not there

    The new frames x (B, n, ...) have one time, (B,), or one each, (B, n).
    Raises TypeError or ValueError for frames of another shape, and a t_known outside [0, 1].
    (Chen et al. 2024, section 3.3; their code has no eps where it samples with DDIM)
    """
    validate_model(D, schedule)
    known = validate.real(known, "the known frames", ndim=3)
    eps = torch.zeros_like(known) if eps is None else validate.real(eps, "eps", like=known)
    t_known = validate.number(t_known, "t_known", 0, 1, what="the known frames' time")
    past = schedule.perturb(known, t_known, eps)

    def following(x: Tensor, t: Tensor, **condition) -> Tensor:
        if x.ndim != known.ndim or x.shape[2:] != known.shape[2:] or len(known) not in (1, len(x)):
            raise ValueError(
                f"new frames must be (B, n, ...) like the known ones, {tuple(known.shape)}; "
                f"got {tuple(x.shape)}"
            )
        B, K = len(x), known.shape[1]
        t = validate.time(t, x)
        t = (t[:, None] if t.ndim == 1 else t).expand(x.shape[:2])      # (B, n)
        t = torch.cat([t.new_full((B, K), t_known), t], dim=1)          # (B, K + n)
        clip = torch.cat([past.to(x).expand(B, *past.shape[1:]), x], dim=1)
        return validate.prediction(D(clip, t, **condition), clip)[:, K:]
    return as_wrapper(following, D)


@torch.no_grad()
def rollout(
    D: Denoise,
    schedule: Schedule,
    known: Tensor,
    ts: Iterable[float],
    frames: int,
    window: int,
    *,
    new: int = 1,
    t_known: float = 0.0,
    noisy: bool = False,
    sampler: Callable = ddim,
    generator: torch.Generator | None = None,
    **options,
) -> Tensor:
    """A clip continued by `frames` frames: known (B, K, ...) -> (B, K + frames, ...).

    A window slides over the clip: `new` frames are drawn after the window - new frames before them,
    and are then known themselves. So the clip may become longer than those D was trained on.

    ts:      the sampler's falling times, such as timesteps(schedule, 20)
    window:  how many frames D sees at once, not more than in its training
    new:     how many are drawn together; the last time perhaps fewer
    t_known: the time of known frames, see `after`; noisy: with its noise, else scaled alone
    options: those of the sampler, and conditions of D, such as y=labels
    Raises TypeError or ValueError as `after` and the samplers do, and where window and new do not
    fit together.
    """
    validate_model(D, schedule)
    clip = validate.real(known, "the known frames", ndim=3)
    frames, window = validate.whole(frames, "frames"), validate.whole(window, "window", 2)
    new = validate.whole(new, "new", 1, window - 1, what="frames at once, fewer than the window")
    validate.function(sampler, "sampler", "such as ddim or ancestral")
    ts = validate_grid(ts)
    end = clip.shape[1] + frames
    while clip.shape[1] < end:
        n = min(new, end - clip.shape[1])
        past = clip[:, n - window:]                                     # at most window - n frames
        eps = randn_like(past, generator) if noisy else None
        x = schedule.sample_prior((len(clip), n, *clip.shape[2:]), ts[0], generator).to(clip)
        follow = after(D, schedule, past, t_known, eps)
        x = last(sampler(follow, schedule, x, ts, generator=generator, **options))
        clip = torch.cat([clip, x], dim=1)
    return clip
