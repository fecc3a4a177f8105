"""No float64 reaches a device that has none, such as Apple's mps (see fake_mps.py)."""
import pytest
import torch
from fake_mps import MPS, fake_mps

from course_lib import Denoiser, Schedule, UNet, cfg, clip, editing, guidance, samplers, sde
from course_lib.discrete import MaskedDiffusion, unmask
from course_lib.lab import sampling, train
from course_lib.networks.dit import DiT
from course_lib.networks.tokens import TokenTransformer
from course_lib.samplers import last, timesteps

SCHEDULES = {
    "cosine": Schedule.cosine(),
    "steps": Schedule.linear(T=100),
    "flow": Schedule.flow(),
    "edm": Schedule.edm(),
}
WALKS = {
    "ddim": samplers.ddim,
    "ancestral": samplers.ancestral,
    "heun": samplers.heun,
    "dpmpp": samplers.dpmpp,
    "unipc": samplers.unipc,
    "consistency": samplers.consistency_sampling,
    "euler_maruyama": sde.euler_maruyama,
}
WRAPPERS = {
    "clip": clip,
    "threshold": guidance.threshold,
    "cfg": lambda D: cfg(D, 2.0, {"y": 10}),
    "rescaled": lambda D: cfg(D, 2.0, {"y": 10}, rescale=0.7),
    "interval": lambda D: cfg(D, guidance.guidance_interval(2.0, 0.2, 0.8), {"y": 10}),
}


@pytest.fixture
def device():
    with fake_mps() as device:
        yield device


def denoiser(name: str, target: str = "v") -> Denoiser:
    torch.manual_seed(0)
    net = UNet(1, widths=(8, 16), num_classes=10)
    return Denoiser(net, SCHEDULES[name], target).to(MPS)


def start(D: Denoiser, n: int = 2) -> tuple:
    g = torch.Generator().manual_seed(0)
    x = D.schedule.sample_prior((n, 1, 8, 8), generator=g, device=MPS)
    return x, torch.arange(n).to(MPS)


def test_the_device_refuses_float64(device):
    x = torch.zeros(3).to(device)
    for make in (x.double, lambda: torch.zeros(3, dtype=torch.float64).to(device)):
        with pytest.raises(TypeError, match="doesn't support float64"):
            make()
    with pytest.raises(RuntimeError, match="tensors on mps and on cpu"):
        x + torch.ones(3)
    assert (x + torch.tensor(1.0)).device == device and x.sum().item() == 0


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("walk", WALKS)
def test_samplers(device, name, walk):
    D = denoiser(name)
    x, y = start(D)
    ts = timesteps(D.schedule, 3, start=0.9)
    assert last(WALKS[walk](clip(D), D.schedule, x, ts, y=y)).device == device


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers(device, wrapper):
    D = denoiser("cosine")
    x, y = start(D)
    made = last(samplers.ddim(WRAPPERS[wrapper](D), D.schedule, x, timesteps(D.schedule, 2), y=y))
    assert made.device == device


@pytest.mark.parametrize("target", ("eps", "x0", "v"))
def test_loss_and_gradient(device, target):
    D = denoiser("cosine", target)
    x, y = start(D, 4)
    loss = D.loss(x, torch.rand(4, device=device), y=y).mean()
    loss.backward()
    assert loss.isfinite().item() and all(p.grad.device == device for p in D.parameters())


def test_editing(device):
    D = denoiser("cosine")
    x, y = start(D)
    known, mask = torch.zeros_like(x), (torch.arange(8) < 4).float().view(1, 1, 8, 1).to(device)
    ts = timesteps(D.schedule, 2)
    for path in (
        samplers.ddim(editing.inpaint(D, known, mask), D.schedule, x, ts, y=y),
        editing.repaint(D, D.schedule, x, known, mask, ts, y=y),
        editing.sdedit(D, D.schedule, known, 0.5, 2, y=y),
    ):
        assert last(path).device == device


def test_a_transformer(device):
    net = DiT(1, size=8, patch_size=2, dim=32, depth=1, num_heads=2).to(device)
    assert net(torch.zeros(2, 1, 8, 8, device=device), torch.rand(2, device=device)).ndim == 4


@pytest.mark.parametrize("order", ("random", "confidence"))
def test_tokens(device, order):
    torch.manual_seed(0)
    model = MaskedDiffusion(TokenTransformer(8, 6, dim=16, depth=1, num_heads=2), 7).to(device)
    x0 = torch.arange(12).view(2, 6).remainder(7).to(device)
    batch = model.draw({"x0": x0}, torch.Generator().manual_seed(0))
    assert model.loss(**batch).mean().isfinite().item()
    x = torch.full_like(x0, 7)
    made = last(unmask(model, x, [1, 0.5, 0], 7, order=order))
    assert made.device == device and (made < 7).all().item()


def test_training_and_samples(device, runs, monkeypatch):
    monkeypatch.setenv("COURSE_DEVICE", "mps")
    D = Denoiser(UNet(1, widths=(8, 16), num_classes=10), Schedule.cosine(), "v")
    x, y = torch.rand(32, 1, 8, 8) * 2 - 1, torch.arange(32) % 10
    D = train.train(D, (x, y), steps=3, batch_size=8, run_name="mps")
    assert next(D.parameters()).device == device
    assert sampling.samples(D, n=2, steps=2).shape == (2, 1, 8, 8)
