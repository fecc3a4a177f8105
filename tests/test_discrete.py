"""Masked diffusion against exact answers: a joint table of few tokens, whose denoiser is known."""
import itertools
import math

import pytest
import torch
from torch import nn

from course_lib.discrete import MaskedDiffusion, mask_tokens, masked_nll, unmask, without_mask
from course_lib.samplers import last

V, MASK = 3, 3                                              # tokens 0, 1, 2, and the mask
seeded = lambda seed: torch.Generator().manual_seed(seed)


def joint(L: int, seed: int = 0) -> torch.Tensor:
    """A table of probabilities (V, ..., V), of dependent tokens."""
    weights = torch.randn((V,) * L, generator=seeded(seed), dtype=torch.float64).mul(1.5).exp()
    return weights / weights.sum()


def exact(table: torch.Tensor):
    """The perfect denoiser: log p(token l | the tokens that are not masked)."""
    L = table.ndim

    def D(x, t):
        rows = []
        for row in x:
            known = tuple(slice(None) if k == MASK else slice(k, k + 1) for k in row.tolist())
            given = torch.zeros_like(table)
            given[known] = table[known]
            given = given / given.sum().clamp(min=1e-300)
            each = [given.movedim(k, 0).reshape(V, -1).sum(1) for k in range(L)]
            rows.append(torch.cat([torch.stack(each), torch.ones(L, 1)], 1))
        return torch.stack(rows).log()
    return D


def memoised(D):
    """The same denoiser of few states, each computed once."""
    known = {}

    def remembered(x, t):
        for row in x.unique(dim=0):
            key = tuple(row.tolist())
            if key not in known:
                known[key] = D(row[None], t)[0]
        return torch.stack([known[tuple(row)] for row in x.tolist()])
    return remembered


def frequencies(x: torch.Tensor, L: int) -> torch.Tensor:
    index = (x * V ** torch.arange(L - 1, -1, -1)).sum(1)
    return torch.bincount(index, minlength=V**L).double().view((V,) * L) / len(x)


def test_each_token_is_masked_with_probability_t():
    x0 = torch.zeros(4000, 50, dtype=torch.int64)
    t = torch.linspace(0, 1, 4000)
    masked = (mask_tokens(x0, t, MASK, seeded(0)) == MASK).double()
    assert masked[0].sum() == 0 and masked[-1].sum() == 50
    error = (masked.mean(1) - t.double()).view(40, 5000 // 50).mean(1).abs()
    assert error.max() < 5 * (0.25 / 5000) ** 0.5
    pairs = (masked[:, ::2] - t[:, None]) * (masked[:, 1::2] - t[:, None])
    assert pairs.mean().abs() < 5 * pairs.std() / pairs.numel() ** 0.5      # independent places
    half = mask_tokens(x0, 0.5, MASK, seeded(0)) == MASK
    assert abs(half.double().mean() - 0.5) < 5 * (0.25 / half.numel()) ** 0.5


def test_the_bound_of_the_exact_denoiser_is_the_data_s_own_length():
    """Any order of exact conditionals gives log p(x0), so the bound is tight, for each sequence."""
    L, n = 3, 4000
    table = joint(L)
    D = memoised(exact(table))
    model = MaskedDiffusion(nn.Identity(), MASK)
    for tokens in ((0, 0, 0), (2, 1, 0), (1, 2, 2)):
        x0 = torch.tensor([tokens]).expand(n, -1)
        batch = model.draw({"x0": x0}, seeded(1))
        values = masked_nll(D(batch["x"], 1.0), x0, batch["x"], batch["t"], MASK).double()
        off = values.mean() + table[tokens].log()
        assert abs(off) < 4 * values.std() / n**0.5
        wrong = values * batch["t"]                         # the bound without its weight
        assert abs(wrong.mean() + table[tokens].log()) > 10 * wrong.std() / n**0.5
        trained = L * MaskedDiffusion(D, MASK).loss(**batch).double()   # by the masks' number
        assert abs(trained.mean() + table[tokens].log()) < 4 * trained.std() / n**0.5
        assert trained.std() < 0.75 * values.std()


def test_the_bound_is_the_mean_autoregressive_loss_over_all_orders():
    """For a denoiser that is wrong, too: here one whose conditionals belong to no joint table."""
    L = 3
    g = torch.Generator().manual_seed(5)
    answers = {x: torch.randn(L, V + 1, generator=g, dtype=torch.float64)
               for x in itertools.product(range(V + 1), repeat=L)}
    D = lambda x, t: torch.stack([answers[tuple(row)] for row in x.tolist()])
    x0 = torch.tensor([[2, 0, 1]])
    losses = []
    for order in itertools.permutations(range(L)):
        x, total = torch.full((1, L), MASK), 0.0
        for k in order:
            log_p = without_mask(D(x, 1.0), MASK).log_softmax(-1)
            total -= log_p[0, k, x0[0, k]].item()
            x[0, k] = x0[0, k]
        losses.append(total)
    # the integral over t of P(mask | t) / t, for every mask of m places: B(m, L - m + 1)
    bound = 0.0
    for places in itertools.product((False, True), repeat=L):
        m = sum(places)
        if m:
            x = torch.where(torch.tensor([places]), MASK, x0)
            measure = math.gamma(m) * math.gamma(L - m + 1) / math.gamma(L + 1)
            bound += measure * masked_nll(D(x, 1.0), x0, x, 1.0, MASK).item()
    assert bound == pytest.approx(sum(losses) / len(losses), rel=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 40])
def test_unmasking_dependent_tokens_together(steps):
    """"New York, San Francisco": one step draws the marginals' product, many draw the joint."""
    table = torch.tensor([[0.0, 0.4, 0.0], [0.5, 0.0, 0.0], [0.0, 0.0, 0.1]], dtype=torch.float64)
    n = 20_000
    x = torch.full((n, 2), MASK)
    ts = torch.linspace(1, 0, steps + 1)
    end = last(unmask(memoised(exact(table)), x, ts, MASK, generator=seeded(2)))
    product = table.sum(1)[:, None] * table.sum(0)[None]
    expected = table + (product - table) / steps             # both are revealed in one step
    found = frequencies(end, 2)
    assert (found - expected).abs().max() < 5 * (0.25 / n) ** 0.5
    nonsense = found[table == 0].sum()
    assert nonsense == pytest.approx(product[table == 0].sum().item() / steps, abs=0.02)


@pytest.mark.parametrize("remasking", [0.0, 0.3, 1.0])
def test_the_marginals_on_the_way(remasking):
    """At every step a token is masked with probability t, and else as in the data."""
    table, n = joint(1), 20_000
    ts = [1.0, 0.8, 0.5, 0.45, 0.1, 0.0]
    D = memoised(exact(table))
    states = list(unmask(D, torch.full((n, 1), MASK), ts, MASK, remasking=remasking,
                         generator=seeded(3)))
    for t, x in zip(ts, states):
        expected = torch.cat([(1 - t) * table, torch.tensor([t])])
        found = torch.bincount(x[:, 0], minlength=V + 1).double() / n
        assert (found - expected).abs().max() < 5 * (0.25 / n) ** 0.5
    returned = sum(((a != MASK) & (b == MASK)).sum() for a, b in zip(states, states[1:]))
    assert (returned > 0) == (remasking > 0)


def test_remasking_repairs_what_a_parallel_step_broke():
    """Steps that revise: nonsense of the first, large steps is forgotten and drawn anew."""
    table = torch.tensor([[0.0, 0.5, 0.0], [0.5, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    ts = [1.0, 0.5, *torch.linspace(0.45, 0, 30).tolist()]
    D, nonsense = memoised(exact(table + 1e-9)), {}
    for remasking in (0.0, 0.5):
        x = torch.full((5000, 2), MASK)
        end = last(unmask(D, x, ts, MASK, remasking=remasking, generator=seeded(4)))
        nonsense[remasking] = frequencies(end, 2)[table == 0].sum().item()
    assert nonsense[0.0] > 0.1 and nonsense[0.5] < nonsense[0.0] / 2


def test_orders_and_temperatures():
    """Confidence reveals the surest places, as many as chance; temperature 0 is the likeliest."""
    log_p = torch.tensor([[0.5, 0.3, 0.2], [0.98, 0.01, 0.01], [0.4, 0.35, 0.25]]).log()
    D = lambda x, t: torch.cat([log_p, torch.zeros(3, 1)], 1).expand(len(x), -1, -1)
    x, n = torch.full((3000, 3), MASK), 3000
    by = {order: list(unmask(D, x, [1.0, 2 / 3, 0.0], MASK, order=order, temperature=0,
                             generator=seeded(6)))[1] != MASK for order in ("random", "confidence")}
    one = by["confidence"].sum(1) == 1
    assert by["confidence"][one][:, 1].all() and one.sum() > 500
    assert abs(by["confidence"].double().mean() - 1 / 3) < 0.02
    assert (by["random"].double().mean(0) - 1 / 3).abs().max() < 5 * (0.25 / n) ** 0.5
    cold = last(unmask(D, x, [1.0, 0.0], MASK, temperature=0, generator=seeded(7)))
    assert (cold == 0).all()
    warm = last(unmask(D, x, [1.0, 0.0], MASK, temperature=2.0, generator=seeded(7)))
    found = torch.stack([(warm == k).double().mean(0) for k in range(3)], 1)
    assert (found - (log_p / 2).softmax(1)).abs().max() < 5 * (0.25 / n) ** 0.5


def test_equally_sure_places_are_revealed_at_random():
    D = lambda x, t: torch.zeros(*x.shape, V + 1)
    x = torch.full((3000, 4), MASK)
    half = list(unmask(D, x, [1.0, 0.5, 0.0], MASK, order="confidence", generator=seeded(9)))[1]
    assert ((half != MASK).double().mean(0) - 0.5).abs().max() < 5 * (0.25 / 3000) ** 0.5


def test_known_tokens_stay_and_condition_what_is_drawn():
    table = joint(2)
    for remasking in (0.0, 1.0):
        x = torch.tensor([[MASK, 1]]).expand(20_000, -1)
        end = last(unmask(memoised(exact(table)), x, torch.linspace(1, 0, 5), MASK,
                          remasking=remasking, generator=seeded(8)))
        assert (end[:, 1] == 1).all() and not (end == MASK).any()
        found = torch.bincount(end[:, 0], minlength=V).double() / len(end)
        expected = table[:, 1] / table[:, 1].sum()
        assert (found - expected).abs().max() < 5 * (0.25 / len(end)) ** 0.5


def test_times_of_a_batch_are_spread_evenly():
    model = MaskedDiffusion(nn.Identity(), MASK)
    t = model.draw({"x0": torch.zeros(64, 4, dtype=torch.int64)}, seeded(0))["t"]
    assert ((t.sort().values * 64).ceil() == torch.arange(1, 65)).all()
    assert 0 < t.min() and t.max() <= 1 and (t.sort().values != t).any()


def test_the_mask_is_never_drawn_and_its_logits_do_not_count():
    logits = torch.zeros(1, 2, V + 1, dtype=torch.float64)
    logits[..., MASK] = 50.0
    end = last(unmask(lambda x, t: logits.expand(len(x), -1, -1), torch.full((500, 2), MASK),
                      [1, 0.5, 0], MASK, generator=seeded(0)))
    assert not (end == MASK).any()
    x0, x = torch.tensor([[0, 1]]), torch.tensor([[MASK, 1]])
    assert masked_nll(logits, x0, x, 0.5, MASK).item() == pytest.approx(math.log(3) / 0.5)


@pytest.mark.parametrize("wrong, said", [
    (dict(x=torch.zeros(2, 3)), "x must be token ids"),
    (dict(x=torch.zeros(3, dtype=torch.int64)), "x must be token ids"),
    (dict(ts=[0.0, 1.0]), "ts must fall"),
    (dict(ts=[1.0]), "ts must fall"),
    (dict(ts=[1.5, 0.0]), "ts must fall"),
    (dict(order="left"), "order must be one of random, confidence; got 'left'"),
    (dict(temperature=-1), "temperature must be"),
    (dict(remasking=1.5), "remasking must be"),
    (dict(generator=0), "generator must be None or a torch.Generator"),
    (dict(D=None), "D must be a function"),
    (dict(mask_id=None), "mask_id must be"),
    (dict(D=MaskedDiffusion(nn.Identity(), 7)), "mask_id is 3, and D was trained with 7"),
])
def test_bad_input_is_said_before_anything_is_drawn(wrong, said):
    given = dict(D=lambda x, t: None, x=torch.full((2, 3), MASK), ts=[1.0, 0.0], mask_id=MASK)
    given |= wrong
    D, x, ts, mask_id = (given.pop(name) for name in ("D", "x", "ts", "mask_id"))
    with pytest.raises((TypeError, ValueError), match=said):
        unmask(D, x, ts, mask_id, **given)


def test_bad_answers_and_levels():
    x = torch.full((2, 3), MASK)
    for answer in (None, torch.zeros(2, 3), torch.zeros(2, 4, 4)):
        with pytest.raises(ValueError, match=r"logits must be \(B, L, V\)"):
            last(unmask(lambda x, t, a=answer: a, x, [1, 0], MASK))
    with pytest.raises(ValueError, match="some are nan"):
        last(unmask(lambda x, t: torch.full((2, 3, 4), torch.nan), x, [1, 0], MASK))
    for t in (-0.1, 1.1, torch.tensor([0.5, 2.0])):
        with pytest.raises(ValueError, match=r"t must lie in \[0, 1\]"):
            mask_tokens(x, t, MASK)
    with pytest.raises(ValueError, match="t must be one number"):
        mask_tokens(x, torch.ones(3), MASK)
    with pytest.raises(ValueError, match="t must be above 0"):
        masked_nll(torch.zeros(2, 3, 4), x, x, 0.0, MASK)
    with pytest.raises(ValueError, match="mask_id must be"):
        MaskedDiffusion(nn.Identity(), -1)
    with pytest.raises(TypeError, match="net must be a function"):
        MaskedDiffusion(3, 1)


TOKENS = torch.tensor([[0, 1, 2], [2, 0, 1]])
FLAT = lambda x, t: torch.zeros(*x.shape, V + 1)


@pytest.mark.parametrize("call, said", [
    (lambda: mask_tokens(TOKENS, 0.5, 1.0), "mask_id must be a whole number"),
    (lambda: mask_tokens(TOKENS, 0.5, MASK, 0), "generator must be"),
    (lambda: without_mask(torch.zeros(2, 3, 4), -1), "mask_id must be"),
    (lambda: masked_nll(FLAT(TOKENS, 1), TOKENS, TOKENS[:, :2], 1.0, MASK), "x must be like x0"),
    (lambda: masked_nll(FLAT(TOKENS, 1).long(), TOKENS, TOKENS, 1.0, MASK), "logits must be"),
    (lambda: masked_nll(torch.zeros(2, 3, 2), TOKENS, TOKENS, 1.0, MASK), "from 0 to 1.*got 2"),
    (lambda: masked_nll(FLAT(TOKENS, 1), TOKENS - 1, TOKENS, 1.0, MASK), "got -1"),
    (lambda: masked_nll(FLAT(TOKENS, 1), TOKENS, TOKENS, 1.0, 2), "never 2, which is the mask"),
    (lambda: MaskedDiffusion(FLAT, MASK)(TOKENS, 700), "did you pass a step index"),
    (lambda: MaskedDiffusion(FLAT, MASK)(TOKENS.float(), 0.5), "x must be token ids"),
    (lambda: MaskedDiffusion(FLAT, MASK).draw(TOKENS, seeded(0)), "a dict with x0"),
    (lambda: MaskedDiffusion(FLAT, MASK).draw({"x": TOKENS}, seeded(0)), "a dict with x0"),
    (lambda: MaskedDiffusion(FLAT, MASK).draw({"x0": TOKENS}, 0), "generator must be"),
    (lambda: unmask(FLAT, TOKENS, 10, MASK), "ts must fall"),
])
def test_one_sentence(call, said):
    with pytest.raises((TypeError, ValueError), match=said):
        call()
