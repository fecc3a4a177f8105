"""The transformer over tokens, and masked diffusion through the training loop."""
import pytest
import torch

from course_lib.discrete import Autoregressive, MaskedDiffusion, unmask
from course_lib.lab import train
from course_lib.networks.tokens import TokenTransformer
from course_lib.samplers import last

MASK = 6


def network(causal=False):
    torch.manual_seed(0)
    return TokenTransformer(7, 8, dim=32, depth=2, num_heads=4, causal=causal)


def test_what_each_place_sees():
    x = torch.arange(8)[None] % 6
    y = x.clone()
    y[0, 5] = 0
    for causal in (False, True):
        change = (network(causal)(x) - network(causal)(y)).abs().amax(2)[0]         # (8,)
        seen = change > 1e-4
        assert seen[5:].all() and seen[:5].all() == (not causal) and seen[:5].any() == (not causal)


def test_layers_begin_with_weights_of_their_own():
    first, second = network().layers
    assert not torch.equal(first.linear1.weight, second.linear1.weight)


def test_places_are_told_apart_and_shorter_texts_fit():
    net = network()
    same = torch.zeros(1, 8, dtype=torch.int64)
    assert (net(same)[0, 0] - net(same)[0, 1]).abs().max() > 1e-4
    assert net(same[:, :3]).shape == (1, 3, 7)
    for x in (torch.zeros(1, 9, dtype=torch.int64), torch.zeros(8, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"x must be token ids \(B, L\), L at most 8"):
            net(x)
    with pytest.raises(ValueError, match="30 channels cannot be split among 4"):
        TokenTransformer(7, 8, dim=30, num_heads=4)


def test_the_loop_trains_it_and_dependent_tokens_agree(tmp_path, monkeypatch):
    """Language: a token three times, a second one three times. Unmasked one by one it is kept."""
    monkeypatch.setenv("COURSE_RUNS", str(tmp_path))
    g = torch.Generator().manual_seed(0)
    pair = torch.randint(0, 6, (4000, 2), generator=g)
    x0 = pair.repeat_interleave(3, 1)                                   # (4000, 6)
    model = train.train(MaskedDiffusion(network(), MASK), {"x0": x0}, steps=300, batch_size=64,
                        run_name=None)
    x = torch.full((500, 6), MASK)
    slow = last(unmask(model, x, torch.linspace(1, 0, 31), MASK, order="confidence", generator=g))
    fast = last(unmask(model, x, [1.0, 0.0], MASK, generator=g))
    agree = lambda x: (x.view(-1, 2, 3) == x.view(-1, 2, 3)[..., :1]).all(2).double().mean()
    assert agree(slow) > 0.9 and agree(fast) < 0.1 and not (slow == MASK).any()
    assert slow.unique(dim=0).shape[0] > 25                              # of 36


def test_the_autoregressive_rival():
    """nll is the chain rule, loss per token; every sequence together has probability 1."""
    torch.manual_seed(0)
    model = Autoregressive(TokenTransformer(4, 3, dim=16, depth=1, num_heads=2, causal=True), 3)
    every = torch.cartesian_prod(*[torch.arange(3)] * 3)                # (27, 3)
    p = (-model.nll(every)).exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(model.loss(every), model.nll(every) / 3)
    by_hand = 0.0
    for k, token in enumerate((2, 0, 1)):
        before = torch.tensor([[3, 2, 0]])[:, : k + 1]
        by_hand -= model.net(before)[0, k, :3].log_softmax(0)[token].item()
    assert model.nll(torch.tensor([[2, 0, 1]])).item() == pytest.approx(by_hand, rel=1e-5)
    n = 20_000
    x = model.sample(n, 3, generator=torch.Generator().manual_seed(1))
    found = torch.bincount(x @ torch.tensor([9, 3, 1]), minlength=27) / n
    assert (found - p).abs().max() < 5 * (0.25 / n) ** 0.5
    cold = model.sample(4, 3, temperature=0)
    assert (cold == cold[0]).all() and not (cold == 3).any()
    with pytest.raises(ValueError, match="start_id"):
        Autoregressive(model.net, -1)
    with pytest.raises(ValueError, match="temperature"):
        model.sample(2, 3, temperature=-1)
