"""The classifier that sees noise: whole, good enough to guide, and differentiable."""
import shutil

import pytest
import torch

from course_lib import Schedule
from course_lib.lab import features, storage
from course_lib.lab.data import mnist

FILE = storage.ASSETS / "checkpoints/mnist_noisy_classifier.safetensors"
SCHEDULE = Schedule.cosine()


def noisy(t: float, n: int = 500):
    x, y = (part[:n] for part in mnist("test"))
    eps = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return SCHEDULE.perturb(x, torch.tensor(t), eps), y


@pytest.mark.parametrize("t, least", [(0.05, 0.97), (0.3, 0.97), (0.75, 0.7)])
def test_it_reads_digits_under_noise(t, least):
    x_t, y = noisy(t)
    right = features.noisy_digit_classifier()(x_t, t).argmax(1).eq(y)
    assert right.double().mean() >= least


def test_it_knows_how_much_it_knows():
    """At t = 0.9 it is right one time in three, and says so: -log p is below log 10, and not far
    below its accuracy's."""
    x_t, y = noisy(0.9)
    loss = -features.noisy_digit_classifier().log_prob(x_t, 0.9, y).mean()
    assert 1.6 < loss < 2.2
    x_t, y = noisy(1.0)
    loss = -features.noisy_digit_classifier().log_prob(x_t, 1.0, y).mean()
    assert abs(loss - 2.3026) < 0.03, "pure noise: log 10"


def test_log_prob_is_a_log_probability_with_a_gradient():
    net, (x_t, y) = features.noisy_digit_classifier(), noisy(0.6, 8)
    t = torch.full((8,), 0.6)
    total = sum(net.log_prob(x_t, t, torch.full((8,), k)).exp() for k in range(10))
    torch.testing.assert_close(total, torch.ones(8))
    torch.testing.assert_close(net.loss(x_t, t, y), -net.log_prob(x_t, t, y))
    x_t.requires_grad_(True)
    gradient, = torch.autograd.grad(net.log_prob(x_t, 0.6, y).sum(), x_t)
    assert gradient.isfinite().all() and (gradient.flatten(1).norm(dim=1) > 0).all()
    step = x_t + 0.05 * gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    assert (net.log_prob(step, 0.6, y) > net.log_prob(x_t, 0.6, y)).all(), "uphill"


def test_the_card_is_true_and_a_damaged_file_is_refused(tmp_path):
    _, header = storage.load_tensors(FILE)
    about = header["about"]
    assert FILE.stat().st_size < 5e5 and about["test_at_t"]["0.25"]["accuracy"] > 0.98
    assert "train_noisy" in about["command"]
    bad = tmp_path / "bad.safetensors"
    shutil.copy(FILE, bad)
    whole = bytearray(bad.read_bytes())
    whole[-100] ^= 1
    bad.write_bytes(whole)
    with pytest.raises(OSError, match="damaged"):
        storage.load_tensors(bad)
    bad.write_bytes(whole[:-500])
    with pytest.raises(OSError):
        storage.load_tensors(bad)
