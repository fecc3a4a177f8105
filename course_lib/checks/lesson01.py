"""The questions of lesson 1."""
from collections.abc import Callable

import torch

from . import Question, Wrong, compare

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
ALPHA_BAR = torch.cumprod(1 - BETAS, dim=0)


def judge_q_sample(q_sample: Callable) -> None:
    """1.1: q_sample(x0, i, eps, alpha_bar), a draw from q(x_t | x_0)."""
    if not callable(q_sample):
        raise Wrong(f"pass the function itself, check(\"1.1\", my_q_sample); got {type(q_sample).__name__}")
    g = torch.Generator().manual_seed(11)
    for shape in ((6, 3, 4, 4), (6, 2)):
        x0, eps = (torch.randn(shape, generator=g, dtype=torch.float64) for _ in range(2))
        t = torch.tensor([0, 1, 164, 500, 800, 999])
        a, before = (c.view(-1, *[1] * (len(shape) - 1)) for c in (ALPHA_BAR[t], ALPHA_BAR[t - 1]))
        beta = BETAS[t].view_as(a)
        draw = lambda signal, noise: signal * x0 + noise * eps
        mistakes = {
            f"at step 500 your noise has standard deviation {1 - ALPHA_BAR[500]:.2f}, q asks for {(1 - ALPHA_BAR[500]) ** 0.5:.2f}. You multiply "
            "by the *variance*: look at the square root": draw(a.sqrt(), 1 - a),
            "you count one step too few: steps count from 0, and alpha_bar[i] already includes step i": draw(before.sqrt(), (1 - before).sqrt()),
            "the mean shrinks by alpha_bar; q asks for its square root": draw(a, (1 - a).sqrt()),
            "both coefficients lack their square root: alpha_bar and 1 - alpha_bar are variances": draw(a, 1 - a),
            "signal and noise have changed places: at step 0 nearly all must be signal": draw((1 - a).sqrt(), a.sqrt()),
            "that is one step, q(x_t | x_{t-1}) with beta_t; the jump from x_0 needs alpha_bar": draw((1 - beta).sqrt(), beta.sqrt()),
            "the noise is subtracted; it has the right size, but the check (and the loss later) needs + eps": draw(a.sqrt(), -(1 - a).sqrt()),
            "the noise is not scaled at all: its standard deviation is sqrt(1 - alpha_bar)": draw(a.sqrt(), torch.ones_like(a)),
        }
        try:
            kept = x0.clone()
            got = q_sample(x0, t, eps, ALPHA_BAR)
            if not torch.equal(x0, kept):
                raise Wrong("your function changes x0 itself (an operation such as `x0 *= ...`): compute a new tensor")
        except RuntimeError as error:
            if len(shape) == 2 and ("size" in str(error) or "shape" in str(error)):
                raise Wrong(f"right for images, but points of shape {shape} fail: give alpha_bar as many dimensions as x0 has") from None
            raise
        if torch.is_tensor(got) and got.shape == x0.shape and not torch.allclose(got, q_sample(x0, t, eps, ALPHA_BAR), equal_nan=True):
            raise Wrong("the same eps twice gave two answers: use the eps you are given, draw none of your own")
        if torch.is_tensor(got) and got.ndim > len(shape):
            raise Wrong(f"right for images, but x0 of shape {shape} comes back as {tuple(got.shape)}: give alpha_bar as many dimensions as x0 has")
        compare(got, x0 * a.sqrt() + eps * (1 - a).sqrt(), mistakes)


QUESTIONS = [
    Question("1.1", 3, judge_q_sample,
             praise="the difference was largest at i = 164, where 1 - alpha_bar = 1/4 (noise of width 0.25 in place of 0.5); "
                    "at the end the wrong one looks fine, which is why it survived",
             hints=("Draw 10,000 copies of one pixel and compare the standard deviation of what comes out with the walk, step by step.",
                    "The second argument of N(mean, variance) is a variance. What must multiply eps to give that variance?",
                    "x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps, with alpha_bar[i] given one dimension per dimension of x0.")),
]
