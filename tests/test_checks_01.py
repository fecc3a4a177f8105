"""Lesson 1's checks: the solution is right, the stub is not attempted, and each plausible mistake gets its own diagnosis."""
import pytest
import torch

from course_lib.checks import Checker


@pytest.fixture(autouse=True)
def lenient(monkeypatch):
    monkeypatch.delenv("COURSE_STRICT", raising=False)


def shaped(a, x0):
    return a.view(-1, *[1] * (x0.ndim - 1))


def sampler(signal, noise):
    """q_sample with the two coefficients as functions of alpha_bar_t."""
    def q_sample(x0, t, eps, alpha_bar):
        a = shaped(alpha_bar[t], x0)
        return signal(a) * x0 + noise(a) * eps
    return q_sample


def one_step_short(x0, t, eps, alpha_bar):
    return sampler(lambda a: a.sqrt(), lambda a: (1 - a).sqrt())(x0, t - 1, eps, alpha_bar)


def one_step_only(x0, t, eps, alpha_bar):
    before = torch.where(t > 0, alpha_bar[t - 1], torch.ones(()).double())
    beta = shaped(1 - alpha_bar[t] / before, x0)
    return (1 - beta).sqrt() * x0 + beta.sqrt() * eps


def images_only(x0, t, eps, alpha_bar):
    a = alpha_bar[t].view(-1, 1, 1, 1)
    return a.sqrt() * x0 + (1 - a).sqrt() * eps


def own_noise(x0, t, eps, alpha_bar):
    return right(x0, t, torch.randn_like(x0), alpha_bar)


def in_place(x0, t, eps, alpha_bar):
    x0 *= shaped(alpha_bar[t], x0).sqrt()
    return x0 + shaped(1 - alpha_bar[t], x0).sqrt() * eps


def raises(x0, t, eps, alpha_bar):
    return x0 * missing_name  # noqa: F821


def stub(x0, t, eps, alpha_bar):
    raise NotImplementedError


right = sampler(lambda a: a.sqrt(), lambda a: (1 - a).sqrt())
WRONG = {
    "You multiply by the *variance*": sampler(lambda a: a.sqrt(), lambda a: 1 - a),
    "one step too few": one_step_short,
    "the mean shrinks by alpha_bar": sampler(lambda a: a, lambda a: (1 - a).sqrt()),
    "both coefficients lack": sampler(lambda a: a, lambda a: 1 - a),
    "changed places": sampler(lambda a: (1 - a).sqrt(), lambda a: a.sqrt()),
    "that is one step": one_step_only,
    "the noise is subtracted": sampler(lambda a: a.sqrt(), lambda a: -(1 - a).sqrt()),
    "not scaled at all": sampler(lambda a: a.sqrt(), torch.ones_like),
    "as many dimensions as x0": images_only,
    "draw none of your own": own_noise,
    "changes x0 itself": in_place,
    "does it end with `return`": lambda x0, t, eps, alpha_bar: None,
    "expected shape": lambda x0, t, eps, alpha_bar: right(x0, t, eps, alpha_bar).flatten(),
    "raised NameError": raises,
    "values are nan or inf": lambda x0, t, eps, alpha_bar: x0 / 0,
    "the values differ": lambda x0, t, eps, alpha_bar: x0,
    "pass the function itself": torch.zeros(3),
}


@pytest.mark.parametrize("diagnosis, answer", WRONG.items(), ids=WRONG)
def test_1_1_wrong(capsys, diagnosis, answer):
    check = Checker()
    check("1.1", answer)
    said = capsys.readouterr().out
    assert not check.passed("1.1") and said.startswith("1.1 not yet") and diagnosis in said


def test_1_1_right_and_not_attempted(capsys):
    check = Checker()
    check("1.1", stub)
    assert check.verdicts["1.1"] == "not attempted"
    check("1.1", right)
    check("1.1", lambda x0, t, eps, alpha_bar: right(x0, t, eps, alpha_bar).float())
    assert check.passed("1.1") and "i = 164" in capsys.readouterr().out


def test_1_1_praise_is_true():
    """The praise says where the tutorial's noise is most wrong; measured here."""
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    gap = (1 - alpha_bar).sqrt() - (1 - alpha_bar)
    assert gap.argmax() == 164 and 1 - alpha_bar[164] == pytest.approx(0.25, abs=0.005)
