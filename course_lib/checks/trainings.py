"""The trainings that sheet 3 is about: seven patients (question 3.6), and a small run to stop and resume (3.7)."""
import copy
import math
from functools import lru_cache
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from ..denoiser import Denoiser
from ..lab.metrics import mmd
from ..samplers import ddim, grid, last
from ..schedules import Schedule
from .lesson02 import one_thread

# ---- 3.6: seven trainings, most of them broken

SCHEDULE = Schedule.cosine()
ARC = torch.linspace(0, math.pi, 20)
MOON = torch.stack([ARC.sin() - 0.25, ARC.cos() - 0.5], dim=1) / 1.5                       # (20, 2), the lesson's moons stood upright
WIDTH = 0.1
CENTRES = torch.stack([MOON, -MOON])                                                      # (2, 20, 2), one moon per label


class Net(nn.Module):
    """x (n, 2), t (n,), y (n,) in {0, 1, 2 = none} -> (n, 2); the network of the lesson's clinic, somewhat smaller."""

    def __init__(self, width: int = 48, clock: float = 1.0):
        super().__init__()
        self.label, self.clock = nn.Embedding(3, 16), clock
        self.body = nn.Sequential(nn.Linear(3 * 9 + 16, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2))
        nn.init.zeros_(self.body[-1].weight), nn.init.zeros_(self.body[-1].bias)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        h = torch.cat([x, self.clock * t[:, None]], dim=1)
        waves = (h[:, :, None] * torch.arange(1, 5) * math.pi / 2).flatten(1)
        return self.body(torch.cat([h, waves.sin(), waves.cos(), self.label(y)], dim=1))


def moons(n: int) -> tuple[Tensor, Tensor]:
    y = torch.randint(2, (n,))
    return CENTRES[y, torch.randint(20, (n,))] + WIDTH * torch.randn(n, 2), y


HEALTHY = dict(net=Net, data=moons, times=torch.rand, noise=lambda n: torch.randn(n, 2), p_drop=0.1, lr=5e-3, sampling=SCHEDULE, sign=1.0, power=1,
               decay=lambda k: min(0.99, (k + 1) / (k + 10)))
ONE_NOISE = torch.randn(2, generator=torch.Generator().manual_seed(3))
CHANGES = {
    "healthy": {},
    "time not passed": dict(net=lambda: Net(clock=0.0)),
    "data in [0, 1]": dict(data=lambda n: (lambda x0, y: ((x0 + 1) / 2, y))(*moons(n))),
    "noise drawn once": dict(noise=lambda n: ONE_NOISE.expand(n, 2)),
    "wrong sign": dict(sign=-1.0),
    "labels at 1 - p": dict(p_drop=0.9),
    "average too slow": dict(decay=lambda k: 0.9999),
    "other schedule": dict(sampling=Schedule.linear()),
    "sigma squared": dict(power=2),
    "rate x 30": dict(lr=0.15),
    "t below 0.5": dict(times=lambda n: 0.5 * torch.rand(n)),
}
DEFECTS = tuple(CHANGES)
PATIENTS = dict(zip("ABCDEFG", (6, 10, 3, 0, 7, 5, 4)))


def patient(letter: str) -> SimpleNamespace:
    """One of the trainings A to G: `losses`, `samples` (2000, 2) of labels 0, 1, 0, 1, ..., and `numbers`, name -> measurement."""
    if letter not in PATIENTS:
        raise ValueError(f"the trainings are called {', '.join(PATIENTS)}; got {letter!r}")
    return examined(DEFECTS[PATIENTS[letter]])


@lru_cache
def examined(name: str) -> SimpleNamespace:
    """Train for 350 steps with one change, and measure."""
    p = SimpleNamespace(**HEALTHY | CHANGES[name])
    with one_thread(), torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(10)
        net = p.net()
        average, losses = copy.deepcopy(net).requires_grad_(False), []
        optimizer = torch.optim.AdamW(net.parameters(), p.lr, fused=True)
        for k in range(350):
            (x0, y), t, eps = p.data(256), p.times(256), p.noise(256)
            alpha, sigma = SCHEDULE.alpha(t).float()[:, None], SCHEDULE.sigma(t).float()[:, None]
            y = torch.where(torch.rand(256) < p.p_drop, 2, y)
            loss = (net(alpha * x0 + sigma**p.power * eps, t, y) - p.sign * (alpha * eps - sigma * x0)).square().mean()
            optimizer.zero_grad(), loss.backward(), optimizer.step()
            losses.append(loss.item())
            with torch.no_grad():
                torch._foreach_lerp_(list(average.parameters()), list(net.parameters()), 1 - p.decay(k))
        return measured(p, net.requires_grad_(False), average, losses)


def measured(p: SimpleNamespace, net: nn.Module, average: nn.Module, losses: list[float]) -> SimpleNamespace:
    """The table's numbers. Validation is by the library's code, on data made as the training made its data."""
    asked = torch.arange(2000) % 2
    start = torch.randn(2000, 2, generator=torch.Generator().manual_seed(1))
    live, x = (last(ddim(Denoiser(m, p.sampling, "v"), p.sampling, start, grid(p.sampling, 20), y=asked)) for m in (net, average))
    torch.manual_seed(5)
    (x0, y), eps = p.data(4000), torch.randn(4000, 2)
    at = {t: Denoiser(average, SCHEDULE).loss(x0, torch.full((4000,), t), eps, y=y).mean().item() for t in (0.2, 0.5, 0.8)}
    real = CENTRES[asked, torch.randint(20, (2000,))] + WIDTH * torch.randn(2000, 2)
    energy = lambda x: mmd(x[:1000].double(), real[:1000].double(), lambda a, b: -torch.cdist(a, b))
    arc = torch.tensor([[-1, -2], [1, 2]])[asked] / 6
    return SimpleNamespace(losses=losses, samples=x, numbers={
        "first loss": losses[0], "highest loss": max(losses), "last loss": sum(losses[-100:]) / 100, **{f"validation at t = {t}": value for t, value in at.items()},
        "energy distance": energy(x), "energy distance with the live weights": energy(live),
        "share of right labels": (torch.cdist(x, CENTRES.flatten(0, 1)).argmin(1) // 20 == asked).double().mean().item(),
        "spread": x.std().item(), "distance from the arc": ((x - arc).norm(dim=1) - 2 / 3).abs().median().item(),
        "correlation with the starting noise": torch.corrcoef(torch.stack([start.flatten(), x.flatten()]))[0, 1].item()})


# ---- 3.7: a run to stop and to resume

class SmallRun:
    """A small training whose every step draws its data, its noise and its times from the run's own generator."""

    def __init__(self, seed: int = 0, steps: int = 60):
        self.generator = torch.Generator().manual_seed(seed)
        self.net = nn.Sequential(nn.Linear(3, 32), nn.SiLU(), nn.Linear(32, 2))
        with torch.no_grad():
            for p in self.net.parameters():
                p.copy_(0.15 * torch.randn(p.shape, generator=self.generator))
        self.average = copy.deepcopy(self.net).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=0.02)
        self.step, self.steps = 0, steps

    def advance(self) -> float:
        """One step of the optimizer and of the average; returns the loss. The rate falls to 0 over the run."""
        turn, t = torch.rand(2, 64, generator=self.generator)
        x0, eps = torch.stack([(6.283 * turn).cos(), (6.283 * turn).sin()], dim=1), torch.randn(64, 2, generator=self.generator)
        alpha, sigma = (1.57 * t).cos()[:, None], (1.57 * t).sin()[:, None]
        out = self.net(torch.cat([alpha * x0 + sigma * eps, t[:, None]], dim=1))
        loss = (out - (alpha * eps - sigma * x0)).square().mean()
        self.optimizer.param_groups[0]["lr"] = 0.02 * (1 - self.step / self.steps)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.net.parameters()), 0.05)
        self.step += 1
        return loss.item()
