"""The transformer over tokens, and masked diffusion through the training loop."""
import pytest
import torch

from course_lib.discrete import Autoregressive, MaskedDiffusion, unmask
from course_lib.lab import train
from course_lib.lab.data.caption_grammar import caption_tokenizer, caption_tokens
from course_lib.lab.training.__main__ import main
from course_lib.lab.training.config import read_config
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
    for wrong in (-1, 7):
        with pytest.raises(ValueError, match=f"ids from 0 to 6, .*; got {wrong} to {wrong}"):
            net(same * 0 + wrong)
    with pytest.raises(ValueError, match=r"whole numbers; got torch.float32 \(1, 8\)"):
        net(same.float())
    with pytest.raises(ValueError, match="30 channels cannot be split among 4"):
        TokenTransformer(7, 8, dim=30, num_heads=4)
    with pytest.raises(TypeError, match="causal must be a bool"):
        TokenTransformer(7, 8, causal="yes")


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
    with pytest.raises(ValueError, match="net must be causal"):
        Autoregressive(network(), MASK)
    with pytest.raises(ValueError, match="never 3, which is the mask or the start"):
        model.nll(every + 1)
    with pytest.raises(ValueError, match="temperature"):
        model.sample(2, 3, temperature=-1)


# ---- by configuration files

TEXT = """
data = "captions"
examples = 60
[network]
type = "TokenTransformer"
dim = 8
depth = 1
num_heads = 2
[train]
steps = 3
batch_size = 8
"""


@pytest.mark.parametrize("causal, kind", [("false", MaskedDiffusion), ("true", Autoregressive)])
def test_text_is_trained_by_a_configuration_file(tmp_path, monkeypatch, causal, kind):
    monkeypatch.setenv("COURSE_RUNS", str(tmp_path))
    (tmp_path / "text.toml").write_text(TEXT.replace("dim = 8", f"dim = 8\ncausal = {causal}"))
    main([str(tmp_path / "text.toml")])
    lines = (tmp_path / "text/text.txt").read_text().splitlines()
    words = caption_tokenizer().words
    assert len(lines) == 16 and {word for line in lines for word in line.split()} <= set(words)
    model = train.load(tmp_path / "text/text.safetensors", device="cpu")
    assert type(model) is kind and model.about["steps"] == 3
    assert model.net.config["length"] == 32 and model.net.out.out_features == len(words) + 1
    special = model.mask_id if kind is MaskedDiffusion else model.start_id
    assert special == len(words)
    x0 = caption_tokens(4, seed=1)
    trained = kind(model.net, special)
    train.save(trained, tmp_path / "again.safetensors")
    again = train.load(tmp_path / "again.safetensors", device="cpu")
    logits = lambda m: m(x0, 0.5) if kind is MaskedDiffusion else m(x0)
    torch.testing.assert_close(logits(again), logits(model))


def test_a_sudoku_is_trained_by_a_configuration_file(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_RUNS", str(tmp_path))
    (tmp_path / "grid.toml").write_text(TEXT.replace("captions", "sudoku"))
    main([str(tmp_path / "grid.toml")])
    rows = (tmp_path / "grid/grid.txt").read_text().splitlines()
    assert len(rows) == 16 and all(len(row.split()) == 36 for row in rows)
    assert train.load(tmp_path / "grid/grid.safetensors", device="cpu").mask_id == 6


@pytest.mark.parametrize("change, words", [
    (("TokenTransformer", "UNet"), "a TokenTransformer is for data = captions or sudoku"),
    (('data = "captions"', 'data = "nouns"'), "got TokenTransformer for nouns"),
    (('data = "captions"', 'data = "captions"\ntarget = "v"'), "target is for denoisers"),
    (("dim = 8", "dim = 8\nwidth = 3"), "has a wrong entry: .*width"),
    (("dim = 8", "dim = 9"), "9 channels cannot be split among 2"),
])
def test_a_configuration_of_tokens_that_cannot_be_trained(tmp_path, change, words):
    (tmp_path / "x.toml").write_text(TEXT.replace(*change))
    with pytest.raises(ValueError, match=words):
        train.from_config(read_config(tmp_path / "x.toml"))


def test_a_run_of_another_model_is_not_resumed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COURSE_RUNS", str(tmp_path))
    x0 = torch.randint(0, 5, (40, 8))
    train.train(MaskedDiffusion(network(), 6), {"x0": x0}, steps=2, run_name="one")
    train.train(MaskedDiffusion(network(), 5), {"x0": x0}, steps=2, run_name="one")
    assert "other special_id (6, now 5)" in capsys.readouterr().out


def test_muon_moves_the_matrices_of_the_layers_alone():
    net = TokenTransformer(vocabulary=9, length=5, dim=16, depth=2, num_heads=2)
    moved = {id(p) for p in net.muon_parameters()}
    names = {name for name, p in net.named_parameters() if id(p) in moved}
    assert len(names) == 2 * 4 and all(name.startswith("layers.") for name in names)
    assert not any(name.endswith("bias") or "norm" in name for name in names)
