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
    D: Denoise,
    schedule: Schedule,
    known: Tensor,
    t_known: float = 0.0,
    eps: Tensor | None = None,
    future: Tensor | None = None,
) -> Denoise:
    """A denoiser of the frames that follow the `known` ones: any sampler draws them.

    D:       x (B, F, ...), t (B, F) -> like x, such as the Denoiser of a VideoUNet
    known:   (B, K, ...) or (1, K, ...), clean
    t_known: the time of the known frames. A D that is told of a little noise there relies less on
             details, such as the faults of frames that it drew itself
    eps:     their noise, like known; None: they are scaled by alpha(t_known) alone, and D is told
             of noise that is not there
    future:  pure noise, like known but for its number of frames: D sees it after the new frames, at
             t = 1. It says nothing of them, and makes the clip as long as those D was trained on

    The new frames x (B, n, ...) have one time, (B,), or one each, (B, n).
    Raises TypeError or ValueError for frames of another shape, and a t_known outside [0, 1].
    (Chen et al. 2024, section 3.3; their code has no eps where it samples with DDIM)
    """
    validate_model(D, schedule)
    known = validate.real(known, "the known frames", ndim=3)
    eps = torch.zeros_like(known) if eps is None else validate.real(eps, "eps", like=known)
    t_known = validate.number(t_known, "t_known", 0, 1, what="the known frames' time")
    past = schedule.perturb(known, t_known, eps)
    future = known[:, :0] if future is None else validate.real(future, "future", ndim=3)
    _validate_frames(future, known, "future frames")

    def following(x: Tensor, t: Tensor, **condition) -> Tensor:
        _validate_frames(x, known, "new frames")
        _validate_frames(x, future, "new frames")
        (B, n), K = x.shape[:2], known.shape[1]
        t = validate.time(t, x)
        t = (t[:, None] if t.ndim == 1 else t).expand(B, n)
        t = torch.cat([t.new_full((B, K), t_known), t, t.new_ones(B, future.shape[1])], dim=1)
        before, beyond = (part.to(x).expand(B, *part.shape[1:]) for part in (past, future))
        clip = torch.cat([before, x, beyond], dim=1)                    # (B, K + n + m, ...)
        return validate.prediction(D(clip, t, **condition), clip)[:, K:K + n]
    return as_wrapper(following, D)


def _validate_frames(x: Tensor, others: Tensor, what: str) -> None:
    """Raises ValueError where x are not frames like the others, which are one clip or as many."""
    if x.ndim != others.ndim or x.shape[2:] != others.shape[2:] or len(others) not in (1, len(x)):
        raise ValueError(
            f"{what} must be (B, n, ...) like the others, {tuple(others.shape)}; "
            f"got {tuple(x.shape)}"
        )


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
    and are then known themselves. So the clip may become longer than those D was trained on. While
    it is shorter than the window, frames of pure noise stand at the end, with t = 1: a network that
    saw 8 frames in all its training draws others, and slower ones, in a clip of 4.

    ts:      the sampler's falling times, such as timesteps(schedule, 20)
    window:  how many frames D sees at once, as many as in its training
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
        x = _noise(schedule, clip, n, ts[0], generator)
        missing = window - past.shape[1] - n
        future = _noise(schedule, clip, missing, 1.0, generator) if missing else None
        follow = after(D, schedule, past, t_known, eps, future)
        x = last(sampler(follow, schedule, x, ts, generator=generator, **options))
        clip = torch.cat([clip, x], dim=1)
    return clip


def _noise(
    schedule: Schedule, clip: Tensor, n: int, t: float, generator: torch.Generator | None
) -> Tensor:
    """The noise of level t for n frames of each clip."""
    return schedule.sample_prior((len(clip), n, *clip.shape[2:]), t, generator).to(clip)
