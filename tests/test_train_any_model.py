"""One loop for any model: autoencoders, classifiers, masked tokens, adapters, any other loss."""
import importlib.util
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from test_train import state_of, weights
from torch import nn

from course_lib import Consistency, Denoiser, Schedule, UNet
from course_lib.lab import storage, train
from course_lib.lab.training import tasks
from course_lib.lab.training.state import TrainState
from course_lib.networks.classifiers import DigitClassifier, NoisyClassifier

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.usefixtures("runs")

G = torch.Generator().manual_seed(0)
IMAGES = torch.rand(64, 1, 8, 8, generator=G) * 2 - 1
DIGITS = torch.rand(64, 1, 28, 28, generator=G) * 2 - 1
LABELS = torch.arange(64) % 10
LATENTS = 5 * torch.randn(64, 4, 4, 4, generator=G)


# ---- the models

class Autoencoder(nn.Module):
    """A loss without t: squared error of the reconstruction, noise on the latent from draw."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.decoder = nn.ConvTranspose2d(4, 1, 2, stride=2)

    def draw(self, batch, generator):
        shape = (len(batch["x0"]), 4, 4, 4)
        return batch | {"noise": torch.randn(shape, generator=generator)}

    def loss(self, x0, noise):
        x_hat = self.decoder(self.encoder(x0) + 0.1 * noise)
        return (x_hat - x0).square().flatten(1).mean(1)


class MaskedTokens(nn.Module):
    """Whole-number x0: predicts the tokens that draw hides. The output shares the embedding."""
    vocabulary = 7

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(self.vocabulary + 1, 16)          # the last one: hidden
        self.mix = nn.Linear(48, 16)
        self.drop = nn.Dropout(0.1)
        self.out = nn.Linear(16, self.vocabulary + 1, bias=False)
        self.out.weight = self.embedding.weight

    def draw(self, batch, generator):
        x0 = batch["x0"]
        return batch | {"hidden": torch.rand(x0.shape, generator=generator) < 0.3}

    def loss(self, x0, hidden):
        assert x0.dtype == torch.int64
        h = self.embedding(torch.where(hidden, self.vocabulary, x0))    # (B, L, 16)
        h = torch.cat([h.roll(1, 1), h, h.roll(-1, 1)], dim=2)          # with both neighbours
        logits = self.out(self.drop(F.silu(self.mix(h))))
        losses = F.cross_entropy(logits.transpose(1, 2), x0, reduction="none")
        return (losses * hidden).sum(1) / hidden.sum(1).clamp(min=1)


class Adapter(nn.Module):
    """A frozen convolution with a trained low-rank path beside it."""

    def __init__(self, base, rank=2):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Conv2d(base.in_channels, rank, 1, bias=False)
        self.up = nn.Conv2d(rank, base.out_channels, 1, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


class Adapted(nn.Module):
    """A frozen network with batch norm, adapters in it and a trained head."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Dropout())
        self.first.requires_grad_(False)
        self.second = Adapter(nn.Conv2d(8, 8, 1))
        self.head = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 10))

    def loss(self, x0, y):
        h = F.relu(self.second(F.relu(self.first(x0)))).mean((2, 3))
        return F.cross_entropy(self.head(h), y, reduction="none")


class Anything(nn.Module):
    """A network for examples of any shape: each with a scale and the time."""

    def __init__(self, channels):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))
        self.time = nn.Linear(1, channels)

    def forward(self, x, t):
        return self.scale * x + self.time(t[:, None]).view(len(x), *(1,) * (x.ndim - 2), -1)


def noisy_digits(schedule):
    """The random inputs of a noisy classifier's loss: x_t in place of x0, and t."""
    def draw(batch, generator):
        t = torch.rand(len(batch["x0"]), generator=generator).clamp(min=1e-6)
        eps = torch.randn(batch["x0"].shape, generator=generator)
        return {"x": schedule.perturb(batch["x0"], t, eps), "t": t, "y": batch["y"]}
    return draw


def tokens():
    """Rows that count upwards, so that a hidden token can be told from the others."""
    start = torch.arange(64)[:, None]
    return (start + torch.arange(12)) % 7


def fresh(model):
    torch.manual_seed(0)
    return model()


CASES = {
    "autoencoder": (Autoencoder, IMAGES, {}),
    "classifier": (lambda: DigitClassifier(4), (DIGITS, LABELS), {}),
    "noisy classifier": (
        lambda: NoisyClassifier(8),
        (DIGITS, LABELS),
        {"draw": noisy_digits(Schedule.cosine())},
    ),
    "masked tokens": (MaskedTokens, tokens(), {}),
    "adapter": (Adapted, (IMAGES, LABELS), {}),
    "consistency": (
        lambda: Consistency(UNet(1, (16,)), Schedule.cosine(), None),
        IMAGES,
        {},
    ),
    "latents": (
        lambda: Denoiser(UNet(4, (16,)), Schedule.edm(), "edm", sigma_data=5.0),
        LATENTS,
        {},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_it_resumes_bit_for_bit(name, monkeypatch):
    """Stopped at a random step and resumed by the same call: the same weights, buffers and losses
    as without the stop."""
    model, rows, options = CASES[name]
    settings = {"steps": 15, "batch_size": 16, "lr": 1e-2} | options
    whole = train.train(fresh(model), rows, **settings, run_name="whole")
    assert whole.done and not whole.training
    step, honest = random.Random().randrange(1, 15), TrainState.advance

    def interrupt(self):
        if self.step == step and not stopped:
            stopped.append(True)
            raise KeyboardInterrupt
        honest(self)
    stopped = []
    monkeypatch.setattr(TrainState, "advance", interrupt)
    part = train.train(fresh(model), rows, **settings, run_name="parts")
    assert stopped and not part.done
    again = fresh(model)
    torch.manual_seed(99)                                   # the run's seed is its own
    rest = train.train(again, rows, **settings, run_name="parts")
    assert rest.done and rest.history == whole.history, f"stopped at step {step}"
    for (key, a), b in zip(whole.state_dict().items(), rest.state_dict().values()):
        assert torch.equal(a, b), f"{key}, stopped at step {step}"


def test_an_autoencoder_is_taught():
    """Its loss needs no t; its draw gives the noise on the latent."""
    first = fresh(Autoencoder)
    ema = train.train(fresh(Autoencoder), IMAGES, steps=150, batch_size=32, lr=1e-2)
    noise = torch.randn(64, 4, 4, 4)
    assert ema.loss(IMAGES, noise).mean() < 0.3 * first.loss(IMAGES, noise).mean()


def bright_and_dark(n=256):
    """Digits' pictures of two classes that a mean can tell: (x0, y)."""
    y = torch.arange(n) % 2
    return torch.rand(n, 1, 28, 28) * 0.5 + y[:, None, None, None] - 1, y


def test_a_classifier_is_taught():
    """Bright and dark pictures; the average has the batch norm's running statistics."""
    x, y = bright_and_dark()
    model = DigitClassifier(4)
    net = train.train(model, (x, y), steps=60, batch_size=32, lr=1e-2)
    assert net(x).argmax(1).eq(y).double().mean() > 0.95
    for a, b in zip(net.buffers(), model.buffers()):
        assert torch.equal(a, b)
    assert net.body[1].num_batches_tracked == 60 and net.body[1].running_mean.abs().sum() > 0
    with pytest.raises(ValueError, match=r"labels are one whole number per example.*y.argmax\(1\)"):
        train.train(model, (x, F.one_hot(y, 10).float()), steps=1)
    with pytest.raises(ValueError, match="labels are integers from 0 to 9"):
        train.train(model, (x, y + 9), steps=1)


def test_a_noisy_classifier_is_taught():
    """The schedule stays outside of the network: draw makes x_t and t."""
    x, y = bright_and_dark()
    schedule = Schedule.cosine()
    net = train.train(
        NoisyClassifier(8), (x, y), steps=40, batch_size=32, lr=1e-2, draw=noisy_digits(schedule)
    )
    t = torch.full((len(x),), 0.5)
    x_t = schedule.perturb(x, t, torch.randn_like(x))
    assert net(x_t, t).argmax(1).eq(y).double().mean() > 0.95


def test_masked_tokens_are_learnt():
    """Half of the loss of guessing is left at most; tied weights stay tied and are saved once."""
    model = fresh(MaskedTokens)
    ema = train.train(model, tokens(), steps=200, batch_size=32, lr=2e-2, run_name="tokens")
    assert ema.history[-1][1] < 0.5 * torch.tensor(7.0).log()
    assert ema.out.weight is ema.embedding.weight and model.out.weight is model.embedding.weight
    saved, _ = storage.load_tensors(train.runs_folder() / "tokens/state.safetensors")
    assert "model.embedding.weight" in saved and "model.out.weight" not in saved


def test_bytes_that_are_tokens_stay_whole_numbers():
    seen = []

    def loss(model, batch):
        seen.append(batch["x0"].dtype)
        return model.embedding(batch["x0"].long()).square().mean((1, 2))
    train.train(MaskedTokens(), tokens().to(torch.uint8), steps=1, loss=loss)
    assert seen == [torch.uint8]


# ---- parts that are frozen

def base_of(model):
    """The frozen part of an Adapted: its parameters, and the buffers of frozen modules."""
    names = ("first.", "second.base.")
    return {n: v for n, v in model.state_dict(keep_vars=True).items() if n.startswith(names)}


def test_the_base_of_an_adapter_is_untouched():
    """Its bytes are the same before and after, and shared with the average; the optimizers and the
    saved state have the rest alone."""
    torch.manual_seed(1)
    model = Adapted()
    model.first[1].running_mean.fill_(0.3)
    before = {name: value.detach().clone() for name, value in base_of(model).items()}
    own = weights(model.head), model.second.up.weight.detach().clone()
    ema = train.train(model, (IMAGES, LABELS), steps=20, batch_size=16, run_name="adapter")
    for name, value in base_of(model).items():
        assert torch.equal(value, before[name]), name
        assert value is base_of(ema)[name], "shared with the average"
    assert len(before) == 9 and not torch.equal(weights(model.head), own[0])
    assert not torch.equal(model.second.up.weight, own[1])
    assert not model.first.training and not model.second.base.training and model.head.training
    assert model.head[0].num_batches_tracked == 20 and ema.head[0].num_batches_tracked == 20
    folder = train.runs_folder() / "adapter"
    saved, _ = storage.load_tensors(folder / "state.safetensors")
    assert {name.split(".")[0] for name in saved} == {"model", "ema", "optimizer", "losses"} - (
        {"losses"} if "losses" not in saved else set()
    )
    assert not [name for name in saved if "first" in name or "base" in name]
    assert "model.second.up.weight" in saved and "ema.head.0.running_mean" in saved
    small = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(v.numel() for n, v in saved.items() if "exp_avg" in n) == 2 * small


def test_an_adapter_in_a_denoiser_and_its_optimizer():
    """Muon and AdamW have no state for what is frozen; the average still follows the adapter."""
    D = Denoiser(UNet(1, (16,)), Schedule.cosine(), "v").requires_grad_(False)
    block = D.net.down[0].block
    block.conv1 = Adapter(block.conv1)
    block.conv1.up.weight.data.normal_(std=0.1)
    block.conv1.down = nn.Conv2d(16, 2, 3, padding=1, bias=False)
    before = {n: p.clone() for n, p in D.named_parameters() if not p.requires_grad}
    state = state_of(D, IMAGES, steps=10, batch_size=16, ema_gamma=3.0)
    assert [type(o).__name__ for o in state.optimizers] == ["Muon"]
    for _ in range(3):
        state.advance()
    moved = {id(p) for p in state.optimizers[0].state}
    assert moved == {id(block.conv1.up.weight), id(block.conv1.down.weight)}
    after = dict(D.named_parameters())
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    up = state.ema.net.down[0].block.conv1.up.weight
    assert up is not block.conv1.up.weight and not torch.equal(up, block.conv1.up.weight)
    assert up.requires_grad, "so that training the average goes on with the adapter alone"
    assert all(p.grad is None for n, p in D.named_parameters() if n in before)


def test_another_base_is_another_run(capsys):
    """Also where only a running mean of the base differs, which no shape shows."""
    def start(change):
        torch.manual_seed(1)
        model = Adapted()
        change(model)
        train.train(model, (IMAGES, LABELS), steps=2, batch_size=16, run_name="run")
        return "other settings" in capsys.readouterr().out
    assert not start(lambda model: None) and not start(lambda model: None)
    assert start(lambda model: model.first[1].running_mean.add_(1))
    assert start(lambda model: model.second.base.weight.data.add_(1))
    assert start(lambda model: model.second.down.requires_grad_(False))


def test_a_loaded_model_is_trained_again():
    """What `load` and `train` return requires no gradient: then all of it is trained."""
    D = train.train(Denoiser(UNet(1, (16,)), Schedule.cosine(), "v"), IMAGES, steps=2)
    assert not any(p.requires_grad for p in D.parameters())
    before = weights(D).clone()
    train.train(D, IMAGES, steps=2)
    assert (weights(D) != before).double().mean() > 0.5
    with pytest.raises(ValueError, match="there is nothing to train"):
        train.train(nn.Identity(), IMAGES, steps=1, loss=lambda model, batch: 0)


# ---- another loss, in five lines

def test_another_loss_for_a_denoiser():
    """Absolute errors; the denoiser's own t, eps and dropped conditions come in the batch."""
    def l1(D, batch):
        x_t = D.schedule.perturb(batch["x0"], batch["t"], batch["eps"])
        v = D.schedule.alpha(batch["t"]), D.schedule.sigma(batch["t"])
        alpha, sigma = (c.float()[:, None, None, None] for c in v)
        wanted = alpha * batch["eps"] - sigma * batch["x0"]
        return (D.net(x_t, batch["t"], batch["y"]) - wanted).abs().mean((1, 2, 3))

    def make():
        torch.manual_seed(0)
        return Denoiser(UNet(1, (16,), num_classes=10), Schedule.cosine(), "v")
    seen = []
    D = train.train(make(), (IMAGES, LABELS), steps=5, batch_size=16, loss=l1)
    squares = train.train(make(), (IMAGES, LABELS), steps=5, batch_size=16)
    assert not torch.equal(weights(D), weights(squares))
    # the same loss, written out, and a draw that sees t and eps
    again = train.train(
        make(),
        (IMAGES, LABELS),
        steps=5,
        batch_size=16,
        loss=lambda D, batch: D.loss(**batch),
        draw=lambda batch, g: seen.append(set(batch)) or batch,
    )
    assert torch.equal(weights(again), weights(squares))
    assert seen == 5 * [{"x0", "t", "eps", "y"}]


def test_another_loss_for_a_plain_module():
    net = nn.Linear(3, 3)
    x = torch.randn(64, 3)
    wanted = x.flip(1)

    def l1(model, batch):
        return (model(batch["x0"]) - batch["target"]).abs().mean(1)
    ema = train.train(net, {"x0": x, "target": wanted}, loss=l1, steps=300, lr=3e-2)
    torch.testing.assert_close(ema.weight, torch.eye(3).flip(0), atol=0.05, rtol=0)
    scalar = train.train(
        nn.Linear(3, 3),
        {"input": x, "target": wanted},
        loss=lambda model, batch: F.mse_loss(model(batch["input"]), batch["target"]),
        steps=2,
    )
    assert scalar.history[0][1] > 0, "a mean and other names than x0 will do"


@pytest.mark.parametrize("loss, draw, error, sentence", [
    (None, None, TypeError, r"Linear does not say its loss: give it a method loss\(self, x0"),
    (lambda m, b: 1.0, None, TypeError, "the loss must be a tensor, .B,. or ..; got float"),
    (
        lambda m, b: m(b["x0"]).mean().detach(),
        None,
        ValueError,
        "the loss does not depend on any trained parameter",
    ),
    (lambda m, b: m(b["x0"]).mean(1), lambda b, g: None, TypeError, "draw must return a batch"),
    (
        lambda m, b: m(b["x0"]).mean(1),
        lambda b, g: b | {"t": torch.rand((), generator=g)},
        ValueError,
        "draw must return one row per example, 8 here; got {'t': ..}",
    ),
])
def test_losses_that_cannot_be_right(loss, draw, error, sentence):
    with pytest.raises(error, match=sentence):
        train.train(nn.Linear(3, 3), torch.randn(8, 3), steps=1, loss=loss, draw=draw)


def test_options_for_denoisers_alone():
    for option in (
        {"p_drop": 0.5},
        {"horizontal_flip": True},
        {"time_sampler": torch.sqrt},
        {"null": {"y": 3}},
    ):
        sentence = f"{next(iter(option))}: for denoisers alone, and this is a Autoencoder"
        with pytest.raises(ValueError, match=sentence):
            train.train(Autoencoder(), IMAGES, steps=1, **option)


def test_another_loss_or_draw_is_another_run(capsys):
    """By what they compute: layout, comments and the place of the call do not matter, constants and
    plain values that they close over do."""
    def start(loss, draw=None):
        torch.manual_seed(0)
        train.train(nn.Linear(3, 3), X, steps=2, loss=loss, draw=draw, run_name="run")
        return "other settings" in capsys.readouterr().out
    X = torch.ones(16, 3)

    def power(p):
        return lambda model, batch: model(batch["x0"]).abs().pow(p).mean(1)
    assert not start(power(2)) and not start(power(2)) and start(power(3))
    assert start(lambda model, batch: model(batch["x0"]).abs().mean(1) * 2.0)
    assert not start(
        lambda model, batch:
            model(batch["x0"]).abs().mean(1) * 2.0          # the same, elsewhere
    )
    assert start(lambda model, batch: model(batch["x0"]).abs().mean(1) * 3.0)
    assert start(lambda model, batch: model(batch["x0"]).mean(1) * 3.0)
    assert start(lambda model, batch: model(batch["x0"]).mean(1) * 3.0, draw=lambda b, g: dict(b))


def test_the_model_s_own_loss_is_part_of_the_experiment(capsys):
    """A method that was edited in a notebook between two calls."""
    def start(exponent):
        class Net(nn.Linear):
            def loss(self, x0):
                return self(x0).abs().pow(exponent).mean(1)
        torch.manual_seed(0)
        train.train(Net(3, 3), torch.ones(16, 3), steps=2, run_name="run")
        return "other settings" in capsys.readouterr().out
    assert not start(2) and not start(2) and start(3)
    described = tasks.Task(MaskedTokens()).fingerprint()
    assert described["draw"] is not None and described == tasks.Task(MaskedTokens()).fingerprint()


# ---- shapes

@pytest.mark.parametrize("shape", [(3, 20), (10, 3), (5,), (2, 3, 4, 5)])
def test_a_denoiser_of_any_shape(shape):
    """(B, C, L), (B, N, 3), (B, L) and films; none of them has a range to keep to."""
    x = 40 + 10 * torch.randn(64, *shape)
    D = Denoiser(Anything(shape[-1]), Schedule.cosine(), "v")
    D = train.train(D, x, steps=5, batch_size=16)
    assert D.data_shape == shape and D(x, 0.5).shape == x.shape


def test_latents_need_no_range_and_three_channels_of_them_say_so():
    """Four channels are no image; three might be: the sentence says how to switch the check off."""
    def make(channels):
        return Denoiser(UNet(channels, (16,)), Schedule.edm(), "edm", sigma_data=5.0)
    train.train(make(4), LATENTS, steps=2, batch_size=16)
    with pytest.raises(ValueError, match="for standardised images or latents pass data_range=None"):
        train.train(make(3), LATENTS[:, :3], steps=2, batch_size=16)
    D = train.train(make(3), LATENTS[:, :3], steps=2, batch_size=16, data_range=None)
    assert D.data_shape == (3, 4, 4)
    train.train(make(3), LATENTS[:, :3], steps=2, batch_size=16, data_range=(-40, 40))


def test_images_of_a_plain_module_are_checked_too():
    for x, error, sentence in (
        (IMAGES * 3, ValueError, r"images must lie in \[-1, 1\]"),
        ((IMAGES * 100).byte(), TypeError, "scale with x / 127.5 - 1"),
    ):
        with pytest.raises(error, match=sentence):
            train.train(Autoencoder(), x, steps=1)


def test_double_precision_data_are_trained_on_in_single():
    net = nn.Linear(3, 3)
    rows = {"x0": torch.randn(8, 3).double(), "target": torch.randn(8, 3).double()}
    train.train(net, rows, steps=1, loss=lambda m, b: (m(b["x0"]) - b["target"]).square().mean(1))


# ---- the recipes of the course's classifiers

@pytest.mark.parametrize("name", ["train_classifier", "train_noisy_classifier"])
def test_the_recipe_of_a_classifier_runs(name, runs, monkeypatch, capsys):
    """Three steps of it on a few digits, to a file of its own, which `load` reads."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"tools/recipes/{name}.py")
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    monkeypatch.setattr(recipe, "mnist", lambda split: (DIGITS, LABELS))
    file = runs / "net.safetensors"
    monkeypatch.setattr(sys, "argv", [name, "--steps", "3", "--out", str(file)])
    recipe.main()
    net = train.load(file, device="cpu")
    assert type(net).__name__ in ("DigitClassifier", "NoisyClassifier")
    assert net.about["config"]["train"]["steps"] == 3 and name in net.about["command"]
    assert capsys.readouterr().out.count("test accuracy") >= 3
    if name == "train_classifier":
        changed = recipe.augment(DIGITS, net.about["config"]["augment"], torch.Generator())
        assert changed.shape == DIGITS.shape and not torch.equal(changed, DIGITS)
        assert changed.min() >= -1 and changed.max() <= 1


# ---- several processes

TWO = """
import sys, torch
sys.path.insert(0, "tests")
torch.set_num_threads(1)
from accelerate import PartialState
from test_train_any_model import an_autoencoder, a_denoiser
trained = [train(run_name, accumulation_steps=2)
           for run_name, train in (("two", an_autoencoder), ("images", a_denoiser))]
if PartialState().is_main_process:
    torch.save([PartialState().num_processes,
                *([D.history, [p.clone() for p in D.parameters()]] for D in trained)], sys.argv[1])
"""


def an_autoencoder(run_name=None, **options):
    """With its own draw and a frozen part."""
    model = fresh(Autoencoder)
    model.decoder.bias.requires_grad_(False)
    settings = {"steps": 50, "batch_size": 16, "lr": 1e-2}
    return train.train(model, IMAGES, run_name=run_name, **settings, **options)


def a_denoiser(run_name=None, **options):
    """With labels, some of them dropped, and clipped gradients."""
    torch.manual_seed(0)
    D = Denoiser(UNet(1, (16, 32), num_classes=10), Schedule.cosine(), "v")
    settings = {"steps": 50, "batch_size": 16, "clip_grad_norm": 1.0}
    return train.train(D, (IMAGES, LABELS), run_name=run_name, **settings, **options)


def assert_same_training(history, parameters, alone):
    """The same global batches, so the same losses, up to the order of sums."""
    assert [step for step, _ in history] == [step for step, _ in alone.history]
    losses, wanted = (torch.tensor([loss for _, loss in h]) for h in (history, alone.history))
    torch.testing.assert_close(losses, wanted, rtol=1e-4, atol=1e-6)
    for a, b in zip(parameters, alone.parameters()):
        torch.testing.assert_close(a, b.detach(), rtol=1e-2, atol=2e-3)


@pytest.mark.slow
def test_two_processes_give_the_loss_of_one(runs):
    """As torchrun or accelerate start them, on the CPU (gloo); each takes half of a batch."""
    (runs / "two.py").write_text(TWO)
    launch = "torch.distributed.run --standalone --nproc_per_node 2".split()
    done = subprocess.run(
        [sys.executable, "-m", *launch, str(runs / "two.py"), str(runs / "two.pt")],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("M parameters") == 2, "only the first process speaks"
    processes, autoencoder, denoiser = torch.load(runs / "two.pt")
    assert processes == 2
    assert_same_training(*autoencoder, an_autoencoder())
    assert_same_training(*denoiser, a_denoiser())
    saved, header = storage.load_tensors(runs / "two/state.safetensors")
    assert header["step"] == 50 and "model.decoder.bias" not in saved


def test_a_saved_state_of_other_tensors_is_refused(runs, monkeypatch):
    train.train(fresh(Autoencoder), IMAGES, steps=1, run_name="run")
    tensors, header = storage.load_tensors(runs / "run/state.safetensors")
    tensors["model.strange"] = torch.ones(1)
    storage.save_tensors(runs / "run/state.safetensors", tensors, header)
    with pytest.raises(OSError, match="has tensors that the model has not: strange"):
        train.train(fresh(Autoencoder), IMAGES, steps=1, run_name="run")
    assert train.runs_folder() == runs
