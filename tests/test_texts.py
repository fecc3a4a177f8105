"""Measures of models of tokens, against exact tables and known captions."""
import math

import pytest
import torch

from course_lib.discrete import Autoregressive, MaskedDiffusion
from course_lib.lab.data.caption_grammar import caption_tokenizer, caption_tokens
from course_lib.lab.data.noun_parts import PARTS
from course_lib.lab.data.sudoku import is_sudoku, sudoku_puzzles
from course_lib.lab.evaluation import texts
from course_lib.networks.tokens import TokenTransformer


class Table(torch.nn.Module):
    """The same distribution at each place, whatever is around it; three tokens and the mask."""

    def __init__(self, length=4):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor([0.5, 0.3, 0.2, 1e-9]).log())
        self.config = {"length": length}

    def forward(self, x, t=None):
        return self.logits.expand(*x.shape, 4)


def test_nats_of_independent_tokens_are_known():
    """For independent tokens the bound is the probability itself, on average over the masks."""
    x0 = torch.tensor([[0, 1, 2, 0], [2, 2, 2, 2]]).repeat(500, 1)
    known = [-(2 * math.log(0.5) + math.log(0.3) + math.log(0.2)), -4 * math.log(0.2)]
    exact = texts.nats(Autoregressive(Table(), 3), x0)
    torch.testing.assert_close(exact[:2], torch.tensor(known).double(), rtol=1e-5, atol=1e-5)
    bound = texts.nats(MaskedDiffusion(Table(), 3), x0, draws=20, batch_size=300)
    assert bound.shape == (1000,) and bound.dtype == torch.float64
    for k in (0, 1):
        mean, error = bound[k::2].mean(), bound[k::2].std() / 500**0.5
        assert abs(mean - known[k]) < 4 * error and error < 0.1
    by_seed = [texts.nats(MaskedDiffusion(Table(), 3), x0[:10], seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(by_seed[0], by_seed[1]) and not torch.equal(by_seed[0], by_seed[2])


@pytest.mark.parametrize("model", [MaskedDiffusion, Autoregressive])
def test_samples_have_the_distribution(model):
    x = texts.sample_tokens(model(Table(), 3), 4000, batch_size=1500)
    assert x.shape == (4000, 4) and not (x == 3).any()
    shares = torch.bincount(x.flatten(), minlength=3) / x.numel()
    assert (shares - torch.tensor([0.5, 0.3, 0.2])).abs().max() < 4 * 0.5 / x.numel() ** 0.5
    assert torch.equal(x[:10], texts.sample_tokens(model(Table(), 3), 4000, batch_size=1500)[:10])


def test_steps_are_evaluations():
    calls = []
    model = MaskedDiffusion(Table(6), 3)
    model.net.register_forward_hook(lambda *args: calls.append(1))
    texts.sample_tokens(model, 2, steps=3)
    assert len(calls) == 3
    texts.sample_tokens(model, 2)
    assert len(calls) == 3 + 6


def test_scores_of_captions():
    x = caption_tokens(3000, seed=7)
    scores = texts.caption_scores(x)
    assert scores["valid"] == 1.0 and set(scores) == {"valid", *PARTS}
    for part, names in zip(PARTS, (2, 30, 143, 254, 23)):
        floor = (names / (2 * math.pi * 3000)) ** 0.5
        assert 0.5 * floor < scores[part] < 1.6 * floor
    same = texts.caption_scores(x[:1].expand(50, -1))
    assert same["valid"] == 1.0 and same["background"] == 0.5
    assert same["head"] == pytest.approx(253 / 254)
    broken = x[:40].clone()
    broken[:10] = broken[:10].flip(1)
    assert texts.caption_scores(broken)["valid"] == 0.75
    unsaid = caption_tokenizer()(["a noun, purple body"] * 4)           # a caption, but not of all
    assert texts.caption_scores(unsaid)["valid"] == 0


def test_what_is_known_of_a_puzzle_stays():
    torch.manual_seed(0)
    model = MaskedDiffusion(TokenTransformer(7, 36, dim=8, depth=1, num_heads=2), 6)
    grids, hidden = sudoku_puzzles(5, 12, seed=1)
    x = texts.solve(model, grids, hidden, steps=4, order="confidence")
    assert torch.equal(x[~hidden], grids[~hidden]) and not (x == 6).any()
    assert not is_sudoku(x).all()                                       # it was not trained


def test_a_model_may_be_a_function_without_weights():
    x0 = torch.randint(3, (50, 4), generator=torch.Generator().manual_seed(0))
    found = texts.nats(MaskedDiffusion(flat, 3), x0, draws=50)
    assert found.mean().item() == pytest.approx(4 * math.log(3), rel=0.05)
    known = torch.arange(4) < 2
    hidden = ~known.expand(50, -1)
    x = texts.solve(MaskedDiffusion(flat, 3), x0, hidden, 2, "random")
    assert torch.equal(x[:, known], x0[:, known]) and (x < 3).all()


ZEROS = torch.zeros(2, 4).long()
flat = lambda x, t: torch.zeros(*x.shape, 4)


@pytest.mark.parametrize("call, says", [
    (lambda: texts.nats(Table(), torch.zeros(2, 4).long()), "model must be a MaskedDiffusion"),
    (lambda: texts.nats(MaskedDiffusion(Table(), 3), torch.zeros(2, 4)), "token ids"),
    (lambda: texts.nats(MaskedDiffusion(Table(), 3), torch.zeros(2, 4).long(), 0), "draws"),
    (lambda: texts.sample_tokens(3, 4), "model must be a MaskedDiffusion"),
    (lambda: texts.sample_tokens(MaskedDiffusion(Table(), 3), 0), "n must be"),
    (lambda: texts.sample_tokens(MaskedDiffusion(Table(), 3), 2, order="left"), "order must be"),
    (lambda: texts.solve(Autoregressive(Table(), 3), None, None, 3, "random"), "model must be"),
    (lambda: texts.solve(MaskedDiffusion(Table(), 3), ZEROS, ZEROS, 3, "random"), "hidden must"),
    (lambda: texts.solve(MaskedDiffusion(Table(), 3), ZEROS, ZEROS[:1] == 0, 3, "random"), "bool "),
    (lambda: texts.nats(MaskedDiffusion(Table(), 3), ["a"]), "x0 must be a tensor"),
    (lambda: texts.nats(MaskedDiffusion(Table(), 0), ZEROS), "never 0, which is the mask"),
    (lambda: texts.sample_tokens(MaskedDiffusion(flat, 3), 2), "must say its length"),
    (lambda: texts.sample_tokens(MaskedDiffusion(Table(), 3), 2, batch_size=0), "batch_size must"),
    (lambda: texts.caption_scores(ZEROS[:0]), "at least one row"),
])
def test_bad_input_gets_one_sentence(call, says):
    with pytest.raises((TypeError, ValueError), match=says) as error:
        call()
    assert "\n" not in str(error.value)
