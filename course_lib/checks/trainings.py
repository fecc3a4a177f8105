"""The trainings of sheet 3: seven to diagnose (question 3.6), one to stop and resume (3.7)."""
import copy
import math
from functools import lru_cache
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from ..denoiser import Denoiser
from ..lab.evaluation.metrics import mmd
from ..samplers import ddim, last, timesteps
from ..schedules import Schedule
from .common import one_thread

# ---- 3.6: seven trainings, six of them with a defect

SCHEDULE = Schedule.cosine()
ARC = torch.linspace(0, math.pi, 20)
# (20, 2), one of the lesson's two moons, turned upright
MOON = torch.stack([ARC.sin() - 0.25, ARC.cos() - 0.5], dim=1) / 1.5
CENTRES = torch.stack([MOON, -MOON])                                # (2, 20, 2), one moon per label
WIDTH = 0.1                                                         # standard deviation
ARC_CENTRES = torch.tensor([[-1, -2], [1, 2]]) / 6                  # (2, 2), one per label
ARC_RADIUS = 2 / 3


class Net(nn.Module):
    """x (n, 2), t (n,), y (n,) in {0, 1, 2 = none} -> (n, 2). An MLP with Fourier features.

    The inputs x and time_scale * t enter as they are and as sines and cosines.
    """

    def __init__(self, width: int = 48, time_scale: float = 1.0):
        super().__init__()
        self.label_embedding = nn.Embedding(3, 16)
        self.time_scale = time_scale
        self.body = nn.Sequential(
            nn.Linear(3 * 9 + 16, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, 2),
        )
        nn.init.zeros_(self.body[-1].weight)
        nn.init.zeros_(self.body[-1].bias)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        h = torch.cat([x, self.time_scale * t[:, None]], dim=1)                 # (n, 3)
        phases = (h[:, :, None] * torch.arange(1, 5) * math.pi / 2).flatten(1)  # (n, 12)
        h = torch.cat([h, phases.sin(), phases.cos(), self.label_embedding(y)], dim=1)
        return self.body(h)


def moons(n: int) -> tuple[Tensor, Tensor]:
    """n points of the two moons (n, 2) and their labels (n,)."""
    y = torch.randint(2, (n,))
    return CENTRES[y, torch.randint(20, (n,))] + WIDTH * torch.randn(n, 2), y


def moons_in_unit_range(n: int) -> tuple[Tensor, Tensor]:
    """The moons, scaled from [-1, 1] to [0, 1]."""
    x0, y = moons(n)
    return (x0 + 1) / 2, y


ONE_NOISE = torch.randn(2, generator=torch.Generator().manual_seed(3))

HEALTHY = {
    "net": Net,
    "data": moons,
    "time_sampler": torch.rand,
    "noise": lambda n: torch.randn(n, 2),
    "p_drop": 0.1,
    "lr": 5e-3,
    "sampling_schedule": SCHEDULE,
    # v is multiplied by target_sign; x_t = alpha x0 + sigma^sigma_power eps
    "target_sign": 1.0,
    "sigma_power": 1,
    "ema_decay": lambda step: min(0.99, (step + 1) / (step + 10)),
}

# defect -> the settings that differ from the healthy training
CHANGES = {
    "healthy": {},
    "time not passed": {"net": lambda: Net(time_scale=0.0)},
    "data in [0, 1]": {"data": moons_in_unit_range},
    "noise drawn once": {"noise": lambda n: ONE_NOISE.expand(n, 2)},
    "wrong sign": {"target_sign": -1.0},
    "labels at 1 - p": {"p_drop": 0.9},
    "average too slow": {"ema_decay": lambda step: 0.9999},
    "other schedule": {"sampling_schedule": Schedule.linear()},
    "sigma squared": {"sigma_power": 2},
    "rate x 30": {"lr": 0.15},
    "t below 0.5": {"time_sampler": lambda n: 0.5 * torch.rand(n)},
}
DEFECTS = tuple(CHANGES)
# letter -> index of the defect. The sheet calls these trainings patients.
TRAININGS = dict(zip("ABCDEFG", (6, 10, 3, 0, 7, 5, 4)))


def patient(letter: str) -> SimpleNamespace:
    """One of the trainings A to G. Raises ValueError for other letters.

    Has `losses` (one per step), `samples` (2000, 2) and `numbers` (name -> measurement). The
    samples' labels are 0, 1, 0, 1, ...
    """
    if letter not in TRAININGS:
        raise ValueError(f"the trainings are called {', '.join(TRAININGS)}; got {letter!r}")
    return train_with(DEFECTS[TRAININGS[letter]])


@lru_cache
def train_with(defect: str) -> SimpleNamespace:
    """Train with the settings of one defect, and measure. Returns what `patient` does."""
    settings = SimpleNamespace(**HEALTHY | CHANGES[defect])
    with one_thread(), torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(10)
        net = settings.net()
        ema = copy.deepcopy(net).requires_grad_(False)
        losses = fit(net, ema, settings)
        samples, numbers = measure(net.requires_grad_(False), ema, settings)
    numbers = loss_statistics(losses) | numbers
    return SimpleNamespace(losses=losses, samples=samples, numbers=numbers)


def fit(net: nn.Module, ema: nn.Module, settings: SimpleNamespace) -> list[float]:
    """Train net, and ema along with it, for 350 steps; returns the losses."""
    optimizer = torch.optim.AdamW(net.parameters(), settings.lr, fused=True)
    losses = []
    for step in range(350):
        loss = v_loss(net, settings)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        update_ema(ema, net, settings.ema_decay(step))
    return losses


def loss_statistics(losses: list[float]) -> dict[str, float]:
    """The training losses of the table; the last one is a mean of 100 steps."""
    return {
        "first loss": losses[0],
        "highest loss": max(losses),
        "last loss": sum(losses[-100:]) / 100,
    }


def v_loss(net: nn.Module, settings: SimpleNamespace, n: int = 256) -> Tensor:
    """The loss of target v on a batch of n examples, with the defect of the settings."""
    x0, y = settings.data(n)
    t = settings.time_sampler(n)
    eps = settings.noise(n)
    alpha = SCHEDULE.alpha(t).float()[:, None]                      # (n, 1)
    sigma = SCHEDULE.sigma(t).float()[:, None]                      # (n, 1)
    y = torch.where(torch.rand(n) < settings.p_drop, 2, y)
    x_t = alpha * x0 + sigma**settings.sigma_power * eps
    v = settings.target_sign * (alpha * eps - sigma * x0)
    return (net(x_t, t, y) - v).square().mean()


@torch.no_grad()
def update_ema(ema: nn.Module, net: nn.Module, decay: float) -> None:
    """ema = decay * ema + (1 - decay) * net, parameter by parameter."""
    torch._foreach_lerp_(list(ema.parameters()), list(net.parameters()), 1 - decay)


def measure(
    net: nn.Module, ema: nn.Module, settings: SimpleNamespace
) -> tuple[Tensor, dict[str, float]]:
    """Samples (2000, 2) of the averaged weights, and the table's numbers.

    The validation loss is the library's, on data made as the training made its data.
    """
    y = torch.arange(2000) % 2
    noise = torch.randn(2000, 2, generator=torch.Generator().manual_seed(1))
    x_live = sample(net, settings.sampling_schedule, noise, y)
    x = sample(ema, settings.sampling_schedule, noise, y)
    torch.manual_seed(5)
    numbers = validation_losses(ema, settings)
    real = CENTRES[y, torch.randint(20, (2000,))] + WIDTH * torch.randn(2000, 2)
    numbers["energy distance"] = energy_distance(x, real)
    numbers["energy distance with the live weights"] = energy_distance(x_live, real)
    return x, numbers | sample_statistics(x, y, noise)


def sample(net: nn.Module, schedule: Schedule, noise: Tensor, y: Tensor) -> Tensor:
    """20 steps of DDIM from the noise (n, 2), for labels y (n,)."""
    D = Denoiser(net, schedule, "v")
    return last(ddim(D, schedule, noise, timesteps(schedule, 20), y=y))


def validation_losses(net: nn.Module, settings: SimpleNamespace) -> dict[str, float]:
    """The loss at three noise levels, on 4000 fresh examples."""
    x0, y = settings.data(4000)
    eps = torch.randn(4000, 2)
    D = Denoiser(net, SCHEDULE)
    return {
        f"validation at t = {t}": D.loss(x0, torch.full((4000,), t), eps, y=y).mean().item()
        for t in (0.2, 0.5, 0.8)
    }


def energy_distance(x: Tensor, real: Tensor) -> float:
    """The energy distance of the first 1000 points of each. (Székely & Rizzo 2013)"""
    return mmd(x[:1000].double(), real[:1000].double(), lambda a, b: -torch.cdist(a, b))


def sample_statistics(x: Tensor, y: Tensor, noise: Tensor) -> dict[str, float]:
    """What samples x (n, 2) for labels y (n,), drawn from the starting noise (n, 2), measure."""
    moon = torch.cdist(x, CENTRES.flatten(0, 1)).argmin(1) // 20    # (n,), the nearest one
    radius = (x - ARC_CENTRES[y]).norm(dim=1)
    pairs = torch.stack([noise.flatten(), x.flatten()])
    return {
        "share of right labels": (moon == y).double().mean().item(),
        "spread": x.std().item(),
        "distance from the arc": (radius - ARC_RADIUS).abs().median().item(),
        "correlation with the starting noise": torch.corrcoef(pairs)[0, 1].item(),
    }


# ---- 3.7: a training to stop and to resume

class SmallRun:
    """A small training. Each step draws its data, noise and times from the run's own generator."""

    def __init__(self, seed: int = 0, steps: int = 60):
        self.generator = torch.Generator().manual_seed(seed)
        self.net = nn.Sequential(nn.Linear(3, 32), nn.SiLU(), nn.Linear(32, 2))
        with torch.no_grad():
            for p in self.net.parameters():
                p.copy_(0.15 * torch.randn(p.shape, generator=self.generator))
        self.average = copy.deepcopy(self.net).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=0.02)
        self.step = 0
        self.steps = steps

    def advance(self) -> float:
        """One step of the optimizer and of the EMA of the weights; returns the loss.

        The learning rate falls linearly, to 0 at the end of the run.
        """
        loss = self.loss()
        self.optimizer.param_groups[0]["lr"] = 0.02 * (1 - self.step / self.steps)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            averages, weights = list(self.average.parameters()), list(self.net.parameters())
            torch._foreach_lerp_(averages, weights, 0.05)
        self.step += 1
        return loss.item()

    def loss(self) -> Tensor:
        """The loss of target v on 64 points of the unit circle."""
        turn, t = torch.rand(2, 64, generator=self.generator)
        x0 = torch.stack([(6.283 * turn).cos(), (6.283 * turn).sin()], dim=1)
        eps = torch.randn(64, 2, generator=self.generator)
        alpha = (1.57 * t).cos()[:, None]
        sigma = (1.57 * t).sin()[:, None]
        out = self.net(torch.cat([alpha * x0 + sigma * eps, t[:, None]], dim=1))
        return (out - (alpha * eps - sigma * x0)).square().mean()
