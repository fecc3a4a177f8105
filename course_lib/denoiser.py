"""A denoiser is any callable (x, t, **condition) -> x0_hat. This one wraps a network."""
import inspect
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from . import validate
from .schedules import Schedule, append_dims, randn_like


def edm(alpha: Tensor, sigma: Tensor, sigma_data: float = 0.5) -> tuple[Tensor, Tensor]:
    """(a, b) of (x0 - c_skip x) / c_out, which has variance 1. (Karras et al. 2022, table 1)

    Its squared error is |D - x0|^2 / c_out^2. The paper's sigma is sigma / alpha here, and its x is
    x / alpha; multiplied out, alpha may even be 0. At sigma_data = 1 and alpha^2 + sigma^2 = 1 the
    pair is that of -v.
    """
    r = (sigma**2 + (sigma_data * alpha) ** 2).sqrt()               # the standard deviation of x
    return sigma / (sigma_data * r), -sigma_data * alpha / r


# What a network can be asked for: a * x0 + b * eps. Each entry gives (a, b) from (alpha, sigma).
TARGETS: dict[str, Callable] = {
    "eps":  lambda alpha, sigma: (0 * alpha, 1 + 0 * sigma),        # Ho et al. 2020
    "x0":   lambda alpha, sigma: (1 + 0 * alpha, 0 * sigma),
    "v":    lambda alpha, sigma: (-sigma, alpha),                   # Salimans & Ho 2022
    "flow": lambda alpha, sigma: (-1 + 0 * alpha, 1 + 0 * sigma),   # Lipman et al. 2023: eps - x0
    "edm":  edm,
}


def identity(t: Tensor) -> Tensor:
    """The default time_transform: the network is given t itself."""
    return t


class Denoiser(nn.Module):
    """A network, a schedule and the network's target, put together into (x, t, **condition)
    -> x0_hat.

    net:      any module (x (B, ...), time (B,), **condition) -> like x
    target:   a name from TARGETS, or a function (alpha, sigma) -> (a, b): the network predicts
              a * x0 + b * eps
    time_transform: the time that the network is given, a function of t (with target edm: of
    c_noise)
    sigma_data: the data's standard deviation, for target edm alone, whose network gets c_in * x

    about:      what a checkpoint says of itself, {} for a fresh one
    data_shape: the shape of one example, such as (1, 28, 28); None before training
    history, done: losses of the training, (step, loss), and whether it was finished
    run_folder: where the training is kept; None where it is not
    Raises TypeError or ValueError for a net, schedule or target of another kind, and a sigma_data
    that is not above 0.
    """

    about: dict
    data_shape: tuple[int, ...] | None
    history: list[tuple[int, float]]
    done: bool
    run_folder: Path | None

    def __init__(
        self,
        net: nn.Module,
        schedule: Schedule,
        target: str | Callable = "v",
        time_transform: Callable = identity,
        sigma_data: float = 0.5,
    ):
        super().__init__()
        validate.function(net, "net", "(x, t, **condition) -> like x, such as UNet(channels=1)")
        other = not isinstance(net, nn.Module) and hasattr(net, "schedule")
        if isinstance(net, Denoiser) or other:
            raise TypeError("net must be a network; this is a denoiser: of one of yours pass D.net")
        validate.instance(schedule, Schedule, "schedule", "Schedule.cosine()")
        if not callable(target) and target not in list(TARGETS):
            raise ValueError(
                f"target must be one of {', '.join(TARGETS)}, or a function "
                f"(alpha, sigma) -> (a, b); got {target!r}"
            )
        validate.function(time_transform, "time_transform", "t -> like t")
        validate.number(sigma_data, "sigma_data", 0, above=True, what="the data's deviation")
        self.net = net
        self.schedule = schedule
        self.target = target
        self.time_transform = time_transform
        self.sigma_data = sigma_data
        self.coefficients = TARGETS[target] if isinstance(target, str) else target
        if target == "edm":
            self.coefficients = partial(edm, sigma_data=sigma_data)
        _validate_pair(self.coefficients)
        self._conditions = _condition_names(net)
        self.about = {}
        self.data_shape = None
        self.history = []
        self.done = False
        self.run_folder = None

    def forward(self, x: Tensor, t: Tensor | float, **condition) -> Tensor:
        """The prediction of the clean data: E[x0 | x_t = x] when the network is perfect.

        x: (B, ...); t: (B,), a 0-dim tensor or a number in [0, 1], or (B, F) where frames have
        their own noise. Raises TypeError or ValueError for an x that is not floating point, t
        outside [0, 1] or of another shape, a condition that the network does not take, an output
        that is not like x, and where the target says nothing about x0.
        """
        x = validate.real(x)
        t = validate.time(t, x)
        out = self._network(x, t, condition)
        if self.target == "x0":  # the formula below is 0 / 0 there at t = 0
            return out
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        a, b = self.coefficients(alpha, sigma)
        determinant = alpha * b - sigma * a
        if (determinant == 0).any():
            self._refuse(t.expand(determinant.shape)[determinant == 0].max())
        return append_dims(b / determinant, x) * x - append_dims(sigma / determinant, x) * out

    def _refuse(self, t: Tensor) -> None:
        raise ValueError(
            f"target {self.target!r} says nothing about x0 at t = {t:.4g} of {self.schedule} "
            f"(alpha = {self.schedule.alpha(t):.3g}): use v, or start below"
        )

    def loss(self, x0: Tensor, t: Tensor, eps: Tensor | None = None, **condition) -> Tensor:
        """Squared error of the network's output, averaged over each example: (B,).

        x0: (B, ...), t: (B,) in [0, 1], eps: like x0, drawn when None.
        Raises TypeError or ValueError as `forward` does, and for eps of another shape.
        """
        x0 = validate.real(x0, "x0")
        t = validate.time(t, x0)
        eps = randn_like(x0) if eps is None else validate.real(eps, "eps", like=x0)
        out = self._network(self.schedule.perturb(x0, t, eps), t, condition)
        a, b = self.coefficients(self.schedule.alpha(t), self.schedule.sigma(t))
        error = out - append_dims(a, x0) * x0 - append_dims(b, x0) * eps
        return error.square().flatten(1).mean(1)

    def draw_noise(
        self,
        x0: Tensor,
        generator: torch.Generator,
        time_sampler: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The random inputs of `loss`: t (B,) and eps like x0.

        t: one in each of B equal slices of (0, 1] (stratified), then mapped by time_sampler; for a
        network whose `time_axes` is 2, such as a VideoUNet, one for each frame: (B, F).
        eps: drawn where x0 is, from a generator with the same seed.
        """
        x0 = validate.real(x0, "x0")
        validate.generator(generator)
        if time_sampler is not None:
            validate.function(time_sampler, "time_sampler", "uniform numbers (B,) -> times (B,)")
        shape = x0.shape[: getattr(self.net, "time_axes", 1)]
        B = math.prod(shape)
        slots = torch.arange(B) + torch.rand(B, generator=generator)
        t = (1 - slots / B).clamp(min=1e-6)
        if len(shape) > 1:                                  # frames of one clip: any slices
            t = t[torch.randperm(B, generator=generator)].view(shape)
        if x0.is_cuda:                                      # drawn there: a copy would make it wait
            generator = torch.Generator(x0.device).manual_seed(generator.initial_seed())
        eps = randn_like(x0, generator)
        if time_sampler is not None:
            t = validate.time(time_sampler(t), x0).float()
            if t.shape != shape:
                raise ValueError(
                    f"time_sampler must return {tuple(shape)} times; got {tuple(t.shape)}"
                )
        return t, eps

    def fingerprint(self) -> dict:
        """What makes this denoiser this one: its network, schedule and target, as JSON can hold it.
        """
        t = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        a, b = self.coefficients(alpha, sigma)
        values = {"alpha": alpha, "sigma": sigma, "a": a, "b": b, "time": self.time_transform(t)}
        rounded = {k: [round(x, 9) for x in (v + 0 * t).tolist()] for k, v in values.items()}
        return {"net": [type(self.net).__name__, getattr(self.net, "config", None)]} | rounded

    def _network(self, x: Tensor, t: Tensor, condition: dict) -> Tensor:
        """The network at one time per example, in its own precision; the output in x's."""
        if self._conditions is not None and condition.keys() - self._conditions:
            unknown = ", ".join(sorted(condition.keys() - self._conditions))
            known = ", ".join(sorted(self._conditions)) or "no condition"
            raise TypeError(f"{type(self.net).__name__} takes {known}; got {unknown}")
        if self.target == "edm":
            x, t = self._preconditioned(x, t)
        time = validate.tensor(self.time_transform(t), "what time_transform returns")
        if time.shape != t.shape:
            got = tuple(time.shape)
            raise ValueError(f"time_transform must return {tuple(t.shape)}; got {got}")
        t = time
        p = next(self.parameters(), x)
        if p.device != x.device:
            raise ValueError(f"x is on {x.device}, and the network on {p.device}: move one of them")
        t = t.to(p.dtype).to(x.device, non_blocking=True)
        t = t.expand(len(x)) if t.ndim == 0 else t
        out = self.net(x.to(p.dtype), t, **condition)
        if not isinstance(out, Tensor) or out.shape != x.shape:
            got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(
                f"the network must return a tensor like x, {tuple(x.shape)}; got {got}"
            )
        return out.to(x.dtype)

    def _preconditioned(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """c_in * x, of variance 1, and c_noise = log(sigma / alpha) / 4: Karras et al. 2022,
        table 1.
        """
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        c_in = (sigma**2 + (self.sigma_data * alpha) ** 2).rsqrt()
        return append_dims(c_in, x) * x, (sigma.clamp(min=1e-4) / alpha.clamp(min=1e-4)).log() / 4


def _validate_pair(coefficients: Callable) -> None:
    """A target of one's own gives two numbers, or two tensors."""
    alpha, sigma = torch.tensor(0.8, dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64)
    pair = coefficients(alpha, sigma)
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise ValueError("target must return a pair (a, b): the network predicts a x0 + b eps")


def _condition_names(net: nn.Module) -> set[str] | None:
    """The names of a network's conditions; None where it takes any."""
    parameters = list(inspect.signature(getattr(net, "forward", net)).parameters.values())
    if any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in parameters):
        return None
    return {p.name for p in parameters[2:]}
