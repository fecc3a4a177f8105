"""Score distillation and shadows, against the paper's gradient, known densities and voxels."""
import pytest
import torch

from course_lib import Schedule, cfg
from course_lib.distillation import score_distillation, shadow

COSINE = Schedule.cosine()


def gaussian(mean, std):
    """The exact denoiser of N(mean, std^2)."""
    def D(x, t, **condition):
        alpha, sigma = COSINE.alpha(t), COSINE.sigma(t)
        gain = std**2 * alpha / (alpha**2 * std**2 + sigma**2)
        shape = (-1, 1) if t.ndim else ()
        return mean + (gain.reshape(shape) * (x - alpha.reshape(shape) * mean)).to(x)
    return D


@pytest.mark.parametrize("weight", [None, lambda t: 1 + t])
def test_the_gradient_is_the_papers(weight):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, generator=g, dtype=torch.float64, requires_grad=True)
    eps = torch.randn(3, 5, generator=g, dtype=torch.float64)
    t = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    D = lambda x, t: x.tanh() * 0.7
    loss = score_distillation(D, COSINE, x, t, eps, weight=weight)
    assert loss.shape == (3,)
    loss.sum().backward()
    alpha, sigma = COSINE.alpha(t)[:, None], COSINE.sigma(t)[:, None]
    x_t = alpha * x.detach() + sigma * eps
    eps_hat = (x_t - alpha * D(x_t, t)) / sigma
    w = sigma**2 if weight is None else weight(t)[:, None]
    torch.testing.assert_close(x.grad, w * (eps_hat - eps))


def test_nothing_is_differentiated_through_the_denoiser():
    scale = torch.ones(1, requires_grad=True)
    x = torch.ones(2, 3, requires_grad=True)
    score_distillation(lambda x, t: scale * x, COSINE, x, 0.5).sum().backward()
    assert scale.grad is None and x.grad is not None


def test_all_starts_end_at_the_mode():
    """It does not sample: from 50 starts the spread of N(2, 0.5^2) is lost."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(50, 1, generator=g, dtype=torch.float64).requires_grad_()
    optimizer = torch.optim.SGD([x], lr=0.5)
    for _ in range(400):
        t = 0.02 + 0.96 * torch.rand(50, generator=g, dtype=torch.float64)
        eps = torch.randn(50, 1, generator=g, dtype=torch.float64)
        loss = score_distillation(gaussian(2.0, 0.5), COSINE, x, t, eps).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        optimizer.param_groups[0]["lr"] *= 0.99
    assert abs(x.mean().item() - 2) < 0.05 and x.std().item() < 0.15


def test_guidance_and_conditions_reach_the_denoiser():
    seen = []

    def D(x, t, y):
        seen.append(y)
        return x + y[:, None]
    x = torch.zeros(2, 3, requires_grad=True)
    guided = cfg(D, 2.0, {"y": torch.tensor([0, 0])})
    eps = torch.zeros(2, 3)
    score_distillation(guided, COSINE, x, 0.5, eps, y=torch.tensor([1, 3])).sum().backward()
    assert len(seen) == 2
    alpha, sigma = COSINE.alpha(torch.tensor(0.5)), COSINE.sigma(torch.tensor(0.5))
    wanted = -(sigma * alpha * torch.tensor([2.0, 6.0]))[:, None].expand(2, 3)
    torch.testing.assert_close(x.grad, wanted.float())


def test_a_voxel_casts_its_two_shadows():
    density = torch.zeros(1, 4, 5, 6)
    density[0, 1, 2, 3] = 1                                             # z, y, x
    front, side = shadow(density), shadow(density, "side")
    assert front.shape == (1, 1, 5, 6) and side.shape == (1, 1, 5, 4)
    assert front[0, 0, 2, 3] == side[0, 0, 2, 1] == 1
    assert (front == 1).sum() == (side == 1).sum() == 1 and front.min() == side.min() == -1


def test_two_half_voxels_in_line_let_a_quarter_pass():
    density = torch.zeros(1, 3, 1, 2)
    density[0, :2, 0, 0] = 0.5
    assert shadow(density).flatten().tolist() == [0.5, -1.0]            # 1 - 2 / 4, nothing
    assert shadow(density, "side").flatten().tolist() == [0.0, 0.0, -1.0]


@pytest.mark.parametrize("call, says", [
    (lambda x: score_distillation(gaussian(0, 1), COSINE, x, 0.0), r"t must lie in \(0, 1\)"),
    (lambda x: score_distillation(gaussian(0, 1), COSINE, x, 1.0), r"t must lie in \(0, 1\)"),
    (lambda x: score_distillation(gaussian(0, 1), COSINE, x, 0.5, x[:1]), "eps must have"),
    (lambda x: score_distillation(lambda x, t: x[:1], COSINE, x, 0.5), "of x's shape"),
    (lambda x: score_distillation(3, COSINE, x, 0.5), "D must be"),
    (lambda x: score_distillation(gaussian(0, 1), COSINE, x.long(), 0.5), "floating point"),
    (lambda x: score_distillation(gaussian(0, 1), COSINE, x, 0.5, weight=2), "weight must be"),
    (lambda x: score_distillation(gaussian(0, 1), COSINE, x, 0.5, weight=lambda t: torch.ones(3)),
     r"weight\(t\) must fit \(\); got \(3,\)"),
    (lambda x: shadow(x), r"\(B, ...\)|density must be \(B, Z, Y, X\)"),
    (lambda x: shadow(torch.full((1, 2, 2, 2), 1.5)), r"density must lie in \[0, 1\]; got 1.5"),
    (lambda x: shadow(torch.zeros(1, 2, 2, 2), "top"), "direction"),
])
def test_bad_input_gets_one_sentence(call, says):
    with pytest.raises((TypeError, ValueError), match=says) as error:
        call(torch.ones(2, 3))
    assert "\n" not in str(error.value)
