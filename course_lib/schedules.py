"""Noise schedules: x_t = alpha(t) x0 + sigma(t) eps, with t = 0 the data and t = 1 the noise.

alpha and sigma are standard-deviation coefficients; the betas of the discrete schedules are
variances.
"""
import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from . import validate


def append_dims(coefficient: Tensor | float, x: Tensor) -> Tensor:
    """The one place where coefficients meet images: (), (B,) or (B, F) becomes (B, 1, ...) in x's
    dtype, on x's device.
    """
    c = torch.as_tensor(coefficient)
    return c.to(x.dtype).to(x.device, non_blocking=True).reshape(c.shape + (1,) * (x.ndim - c.ndim))


def randn_like(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Standard normal noise like x, drawn on the generator's own device (a CPU seed gives a GPU the
    same noise).
    """
    device = x.device if validate.generator(generator) is None else generator.device
    return torch.randn(x.shape, generator=generator, device=device, dtype=x.dtype).to(x.device)


def as_float64(t: Tensor | float) -> Tensor:
    """t in float64 where it lives; Apple's mps has no float64, so from there it moves to the CPU.
    """
    if not isinstance(t, Tensor):
        return validate.tensor(t, "t", torch.float64)
    return t.cpu().double() if t.device.type == "mps" else t.double()


class Schedule:
    """Two functions of t in [0, 1], alpha(t) falling from 1 and sigma(t) rising from 0, both tensor
    -> tensor in float64.

    `Schedule(alpha, sigma)` takes any such pair; the constructors below give the well-known ones.
    Discrete schedules of T steps keep `T` and `betas` (T,), put step i = 0 ... T-1 at t = (i + 1) /
    T, and are linear in alpha^2 between steps.
    Raises TypeError or ValueError for t outside [0, 1], and where alpha and sigma are no functions
    of t; warns where they do not start at 1 and 0.
    """

    def __init__(
        self,
        alpha: Callable[[Tensor], Tensor],
        sigma: Callable[[Tensor], Tensor],
        betas: Tensor | None = None,
        spec: tuple[str, dict] | None = None,
    ):
        _validate_ends(alpha, sigma)
        self._alpha = alpha
        self._sigma = sigma
        self.betas = None if betas is None else _validate_betas(betas)
        self.spec = spec
        self.T = None if betas is None else len(betas)

    def __repr__(self) -> str:
        name, arguments = (
            self.spec
            or ("from_betas" if self.T else "custom", {"T": self.T} if self.T else {})
        )
        return f"Schedule.{name}({', '.join(f'{k}={v}' for k, v in arguments.items())})"

    # ---- the two coefficients and what follows from them

    def alpha(self, t: Tensor | float) -> Tensor:
        """The signal's coefficient, float64, in the shape of t."""
        return self._alpha(validate.time(t))

    def sigma(self, t: Tensor | float) -> Tensor:
        """The noise's coefficient (a standard deviation), float64, in the shape of t."""
        return self._sigma(validate.time(t))

    def d_alpha(self, t: Tensor | float) -> Tensor:
        """The derivative of alpha with respect to t, by automatic differentiation."""
        return _derivative(self._alpha, t)

    def d_sigma(self, t: Tensor | float) -> Tensor:
        """The derivative of sigma with respect to t (infinite at t = 0 where sigma starts like a
        square root).
        """
        return _derivative(self._sigma, t)

    def log_snr(self, t: Tensor | float) -> Tensor:
        """log(alpha^2 / sigma^2): the log of the signal-to-noise ratio of powers; inf at t = 0.

        (Kingma et al. 2021)
        """
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def t_from_log_snr(self, log_snr: Tensor | float) -> Tensor:
        """The t at which log_snr(t) has this value: 60 bisections.

        Values beyond the schedule give its nearest end, 0 or 1.
        """
        wanted = as_float64(log_snr)
        if wanted.isnan().any():
            raise ValueError("log_snr has values that are not numbers (nan)")
        low, high = torch.zeros_like(wanted), torch.ones_like(wanted)
        for _ in range(60):
            middle = (low + high) / 2
            too_clean = self.log_snr(middle) > wanted
            low, high = torch.where(too_clean, middle, low), torch.where(too_clean, high, middle)
        return torch.where(wanted == math.inf, 0.0, high)

    # ---- adding noise

    def perturb(self, x0: Tensor, t: Tensor | float, eps: Tensor) -> Tensor:
        """One draw from q(x_t | x_0): alpha(t) x0 + sigma(t) eps.

        x0, eps: (B, ...), or one x0 (1, ...) for all; t: (B,) or a number in [0, 1].
        Raises TypeError or ValueError for bytes, and where shapes differ.
        """
        x0 = validate.real(x0, "x0", ndim=0)
        eps = validate.tensor(eps, "eps")
        if x0.shape[:1] == (1,) and eps.shape[1:] == x0.shape[1:]:
            x0 = x0.expand_as(eps)
        eps, t = validate.real(eps, "eps", like=x0, ndim=0), validate.time(t, x0)
        return append_dims(self.alpha(t), x0) * x0 + append_dims(self.sigma(t), x0) * eps

    def renoise(
        self,
        x: Tensor,
        s: Tensor | float,
        t: Tensor | float,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """One draw from q(x_t | x_s): from level s up to the noisier level t >= s.   x: (B, ...)"""
        x = validate.real(x, ndim=0)
        s, t = validate.time(s, x), validate.time(t, x)
        validate.generator(generator)
        if (t < s).any():
            raise ValueError(
                f"renoise goes towards noise: t must be at least s; got s = {s.max():.4g}, "
                f"t = {t.min():.4g}"
            )
        # also where both alphas are 0
        ratio = torch.where(s == t, 1.0, self.alpha(t) / self.alpha(s))
        std = (self.sigma(t) ** 2 - (ratio * self.sigma(s)) ** 2).clamp(min=0).sqrt()
        return append_dims(ratio, x) * x + append_dims(std, x) * randn_like(x, generator)

    def sample_prior(
        self,
        shape: tuple[int, ...],
        t: float = 1.0,
        generator: torch.Generator | None = None,
        device="cpu",
    ) -> Tensor:
        """Where sampling starts: sigma(t) times standard normal noise, float32."""
        shape = validate.shape(shape)
        t = validate.number(t, "t", 0, 1)
        validate.generator(generator)
        device = validate.device(device)
        return (
            self.sigma(t).float().to(device)
            * randn_like(torch.empty(shape, device=device), generator)
        )

    # ---- the well-known schedules

    @classmethod
    def from_betas(cls, betas: Tensor, spec: tuple[str, dict] | None = None) -> "Schedule":
        """The schedule of T given variances, as they are (Ho et al. 2020: alpha_bar_t is the
        product of 1 - beta). Raises ValueError for betas outside (0, 1], and for alpha_bar in their
        place.
        """
        betas = _validate_betas(betas)
        # (T + 1,) at t = i / T
        alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - betas, dim=0)])
        at = lambda t: interpolate(alpha_bar, t)
        return cls(lambda t: at(t).sqrt(), lambda t: (1 - at(t)).sqrt(), betas, spec)

    @classmethod
    def linear(cls, T: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> "Schedule":
        """Ho et al. 2020, section 4: betas in a straight line, here times 1000 / T so that any T
        ends in noise.
        """
        _validate_line(T, beta_start, beta_end)
        betas = _rescale_betas(torch.linspace(beta_start, beta_end, T, dtype=torch.float64))
        return cls.from_betas(
            betas, ("linear", {"T": T, "beta_start": beta_start, "beta_end": beta_end})
        )

    @classmethod
    def scaled_linear(cls, T: int = 1000, beta_start: float = 0.00085,
                      beta_end: float = 0.012) -> "Schedule":
        """Rombach et al. 2022, Stable Diffusion: sqrt(beta) in a straight line, T = 1000.

        For another T the betas are multiplied by 1000 / T, as in `linear`. It does not end in pure
        noise: alpha(1) = 0.068.
        """
        _validate_line(T, beta_start, beta_end)
        root = torch.linspace(beta_start**0.5, beta_end**0.5, T, dtype=torch.float64)
        betas = _rescale_betas(root**2)
        spec = ("scaled_linear", {"T": T, "beta_start": beta_start, "beta_end": beta_end})
        return cls.from_betas(betas, spec)

    @classmethod
    def cosine(cls, T: int = 1000) -> "Schedule":
        """Nichol & Dhariwal 2021, eq. 17: alpha_bar follows a squared cosine; betas capped at 0.999
        as in the paper.
        """
        return cls._from_alpha_bar(
            lambda u: torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2, T, "cosine"
        )

    @classmethod
    def sigmoid(cls, T: int = 1000) -> "Schedule":
        """Jabri et al. 2022: alpha_bar follows a sigmoid from -3 to 3; betas capped at 0.999."""
        return cls._from_alpha_bar(
            lambda u: torch.sigmoid(3 - 6 * u) - torch.sigmoid(torch.tensor(-3.0).double()),
            T,
            "sigmoid",
        )

    @classmethod
    def _from_alpha_bar(cls, shape: Callable[[Tensor], Tensor], T: int, name: str) -> "Schedule":
        validate.whole(T, "T", 2)
        curve = shape(torch.linspace(0, 1, T + 1, dtype=torch.float64))  # (T + 1,)
        return cls.from_betas((1 - curve[1:] / curve[:-1]).clamp(max=0.999), (name, {"T": T}))

    @classmethod
    def zero_terminal_snr(cls, betas: Tensor | None = None) -> "Schedule":
        """Lin et al. 2023, algorithm 1: shift and stretch sqrt(alpha_bar) so that nothing of the
        image is left at t = 1.

        betas: (T,), the paper's linear ones when None. The last beta of the result is 1.
        """
        root = (
            cls.linear().alpha(torch.arange(1, 1001, dtype=torch.float64) / 1000)
            if betas is None
            else (1 - _validate_betas(betas)).cumprod(0).sqrt()
        )
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), root**2])
        return cls.from_betas(
            1 - alpha_bar[1:] / alpha_bar[:-1], ("zero_terminal_snr", {}) if betas is None else None
        )

    @classmethod
    def edm(cls, sigma_max: float = 80.0, rho: float = 7.0) -> "Schedule":
        """Karras et al. 2022: alpha = 1, sigma = sigma_max t^rho (equal steps in t are the paper's
        eq. 5 with sigma_min = 0).
        """
        validate.number(sigma_max, "sigma_max", 0, above=True)
        validate.number(rho, "rho", 0, above=True)
        return cls(
            torch.ones_like,
            lambda t: sigma_max * t**rho,
            spec=("edm", {"sigma_max": sigma_max, "rho": rho}),
        )

    @classmethod
    def flow(cls) -> "Schedule":
        """Flow matching with straight paths (Lipman et al. 2023; Liu et al. 2023): alpha = 1 - t,
        sigma = t.
        """
        return cls(lambda t: 1 - t, lambda t: t, spec=("flow", {}))


def interpolate(table: Tensor, t: Tensor) -> Tensor:
    """table (T + 1,) holds values at t = 0, 1/T, ..., 1; straight lines between them."""
    table = table.to(t.device)
    T = len(table) - 1
    left = (t * T).floor().clamp(0, T - 1).long()
    return torch.lerp(table[left], table[left + 1], t * T - left)


def _derivative(f: Callable[[Tensor], Tensor], t: Tensor | float) -> Tensor:
    with torch.inference_mode(False), torch.enable_grad():
        t = validate.time(t).clone().detach().requires_grad_()
        value = f(t)
        return (
            torch.autograd.grad(value.sum(), t)[0] if value.requires_grad else torch.zeros_like(t)
        )


def validate_schedule(D: Callable, schedule: Schedule) -> None:
    """schedule is one, and D's own, where D says which that is; compared by what they compute.

    Raises TypeError or ValueError.
    """
    validate.instance(schedule, Schedule, "schedule", "Schedule.cosine()")
    own = getattr(D, "schedule", None)
    if own is schedule or not isinstance(own, Schedule):
        return
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    if not torch.allclose(own.log_snr(t), schedule.log_snr(t), atol=1e-3):
        raise ValueError(f"D has the schedule {own}; got {schedule}: pass D.schedule")


def _validate_ends(alpha: Callable, sigma: Callable) -> None:
    """alpha and sigma are functions of t. Warns unless they start at 1 and 0, and fall and rise."""
    ts = torch.linspace(0, 1, 5, dtype=torch.float64)
    values = []
    for name, f in (("alpha", alpha), ("sigma", sigma)):
        found = validate.function(f, name, "t -> like t")(ts)
        if not isinstance(found, Tensor) or found.shape != ts.shape:
            raise ValueError(f"{name} must return a tensor like t, {tuple(ts.shape)}")
        values.append(found.detach())
    alpha, sigma = values
    falls = (alpha.diff() < 1e-9).all() and (sigma.diff() > -1e-9).all()
    if not falls or abs(alpha[0] - 1) > 1e-3 or abs(sigma[0]) > 1e-3:
        warnings.warn(
            "alpha must fall from 1 and sigma rise from 0 at t = 0, the data; got alpha from "
            f"{alpha[0]:.4g} to {alpha[-1]:.4g}, sigma from {sigma[0]:.4g} to {sigma[-1]:.4g}",
            stacklevel=3,
        )


def _validate_line(T: int, beta_start: float, beta_end: float) -> None:
    validate.whole(T, "T")
    validate.number(beta_start, "beta_start", 0, 1, above=True)
    validate.number(beta_end, "beta_end", 0, 1, above=True)


def _rescale_betas(betas: Tensor) -> Tensor:
    """betas (T,) of a schedule of 1000 steps, times 1000 / T: about the same alpha_bar at t = 1.

    Raises ValueError where that exceeds 1.
    """
    T = len(betas)
    if (betas * 1000 > T).any():
        raise ValueError(f"betas rescaled to T = {T} steps would exceed 1: "
                         f"take T >= {math.ceil(1000 * betas.max())}")
    return betas * (1000 / T)


def _validate_betas(betas: Tensor) -> Tensor:
    betas = validate.tensor(betas, "betas", torch.float64).cpu()
    if betas.ndim != 1 or len(betas) == 0 or not ((betas > 0) & (betas <= 1)).all():
        raise ValueError(
            f"betas must be one row of variances in (0, 1]; got shape {tuple(betas.shape)}"
            + (f" from {betas.min():.4g} to {betas.max():.4g}" if betas.numel() else "")
        )
    if len(betas) > 2 and (betas.diff() < 0).all() and betas[0] > 0.5:
        raise ValueError(
            "these fall from near 1, as alpha_bar does: betas are 1 - alpha_bar_t / alpha_bar_(t-1)"
        )
    return betas
