"""MM-DiT: joint attention of image and text tokens, each stream with weights of its own."""
import pytest
import torch
from torch import nn

from course_lib import Denoiser, Schedule
from course_lib.lab import data, train
from course_lib.networks.dit import JointBlock, MMDiT
from course_lib.networks.text import PAD

WORDS = ["a", "panda", "shark", "head"]


def small(seed=0):
    """All weights random: gates of zero would hide everything behind them."""
    torch.manual_seed(seed)
    net = MMDiT(3, 8, WORDS, length=6, text_dim=16, text_depth=1, patch_size=2, dim=32, depth=2,
                num_heads=2)
    for p in net.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return net.eval()


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
T = torch.tensor([0.2, 0.8])


def test_joint_attention_is_attention_over_both_streams():
    """By hand: one softmax over image and text keys, projected and gated by each stream's own."""
    torch.manual_seed(0)
    block = JointBlock(8, 2)
    for p in block.parameters():
        p.data += 0.3 * torch.randn_like(p)
    x, c, emb = torch.randn(1, 5, 8), torch.randn(1, 3, 8), torch.randn(1, 8)
    mask = torch.tensor([[True, True, False]])
    found = block(x, c, emb, mask)
    q, k, v, gates = [], [], [], []
    for stream, h, q_norm, k_norm in zip((block.image, block.text), (x, c), block.q_norms,
                                         block.k_norms):
        shift, scale, *rest = stream.emb(emb)[:, None].chunk(6, dim=-1)
        qkv = stream.qkv(shift + stream.norm1(h) * (1 + scale)).view(1, -1, 3, 2, 4)
        q.append(q_norm(qkv[:, :, 0]))
        k.append(k_norm(qkv[:, :, 1]))
        v.append(qkv[:, :, 2])
        gates.append(rest)
    q, k, v = (torch.cat(parts, dim=1).transpose(1, 2) for parts in (q, k, v))
    scores = q @ k.transpose(-1, -2) / 2                    # sqrt(4)
    scores[..., -1] = -torch.inf                            # the padding
    h = (scores.softmax(-1) @ v).transpose(1, 2).reshape(1, 8, 8)
    for stream, start, rows, rest, result in zip(
        (block.image, block.text), (x, c), (slice(0, 5), slice(5, 8)), gates, found
    ):
        gate1, shift2, scale2, gate2 = rest
        wanted = start + gate1 * stream.proj(h[:, rows])
        hidden = shift2 + stream.norm2(wanted) * (1 + scale2)
        torch.testing.assert_close(result, wanted + gate2 * stream.mlp(hidden))


def test_it_begins_as_the_identity_and_predicts_zero():
    torch.manual_seed(0)
    net = MMDiT(3, 8, WORDS, patch_size=2, dim=32, depth=2, num_heads=2)
    assert (net(X, T, net.tokenizer(["a panda", "a shark"])) == 0).all()
    block = JointBlock(8, 2)
    x, c = torch.randn(1, 5, 8), torch.randn(1, 3, 8)
    for found, given in zip(block(x, c, torch.randn(1, 8), torch.ones(1, 3).bool()), (x, c)):
        assert torch.equal(found, given)


def test_words_matter_and_padding_does_not():
    net = small()
    tokens = net.tokenizer(["a panda head", "a shark"])
    y = net(X, T, tokens)
    assert y.shape == X.shape and not torch.allclose(y, net(X, T, tokens.flip(0)))
    assert not torch.allclose(y, net(X, T))
    torch.testing.assert_close(net(X, T, tokens[:, :4]), y)         # two paddings fewer
    torch.testing.assert_close(net(X[:1], T[:1], tokens[:1]), y[:1])
    torch.testing.assert_close(net(X, T, PAD), net(X, T))
    torch.testing.assert_close(net(X, T, tokens[:1])[:1], y[:1])    # one caption for all
    torch.testing.assert_close(net(X, T, **net.encode(tokens, 2)), y)
    torch.testing.assert_close(net(X, T, **net.encode(PAD, 2)), net(X, T))
    assert net.encode(tokens, 2)["context"].shape[1] == 3           # of the longer caption


def test_patches_know_their_place():
    net = small()
    tokens = net.tokenizer(["a panda", "a panda"])
    turned = net(X.flip(-1), T, tokens).flip(-1)
    assert not torch.allclose(turned, net(X, T, tokens), atol=1e-3)


def test_every_parameter_gets_a_gradient():
    net = small().train()
    net(X, T, net.tokenizer(["a panda head", "a shark"])).square().sum().backward()
    block = net.blocks[-1]                                  # its text output is not used any more
    idle = (block.text.proj, block.text.mlp, block.q_norms[1])
    unused = {id(p) for module in idle for p in module.parameters()}
    for name, p in net.named_parameters():
        assert id(p) in unused or p.grad is not None and p.grad.abs().sum() > 0, name


def test_it_trains_saves_and_loads(runs, tmp_path):
    nouns = data.nouns(40)
    net = MMDiT(3, 32, WORDS, patch_size=8, dim=32, depth=1, num_heads=2, text_dim=16)
    D = Denoiser(net, Schedule.cosine(), "v")
    tokens = torch.randint(2, 6, (40, 32), generator=torch.Generator().manual_seed(0))
    D = train.train(D, {"x0": nouns.x, "tokens": tokens}, steps=20, batch_size=8)
    train.save(D, tmp_path / "mmdit.safetensors")
    loaded = train.load(tmp_path / "mmdit.safetensors", device="cpu")
    assert isinstance(loaded.net, MMDiT) and loaded.net.config == net.config
    x, t = torch.randn(2, 3, 32, 32), torch.tensor([0.3, 0.6])
    torch.testing.assert_close(loaded(x, t, tokens=tokens[:2]), D(x, t, tokens=tokens[:2]),
                               rtol=0.02, atol=0.02)


@pytest.mark.parametrize("call, words", [
    (lambda n: n(X[..., :4], T), "takes images"),
    (lambda n: n(X, T, torch.full((2, 6), 9)), "tokens lie between"),
    (lambda n: n(X, T, torch.zeros(3, 6).long()), "tokens are whole numbers"),
    (lambda n: n(X, T, PAD, **n.encode(PAD, 2)), "not both"),
    (lambda n: MMDiT(3, 8, WORDS, patch_size=3), "must divide"),
    (lambda n: MMDiT(3, 8, "words"), "words must be a list"),
])                                                                                   # fmt: skip
def test_one_sentence(call, words):
    with pytest.raises((TypeError, ValueError), match=words):
        call(small())


def test_queries_and_keys_are_normalised():
    """Ten times larger projections change nothing but the values."""
    net = small()
    for block in net.blocks:
        for stream in (block.image, block.text):
            assert stream.qkv.out_features == 96
    before = net(X, T)
    for block in net.blocks:
        for stream in (block.image, block.text):
            with torch.no_grad():
                stream.qkv.weight[:64] *= 10
                stream.qkv.bias[:64] *= 10
    torch.testing.assert_close(net(X, T), before, rtol=1e-3, atol=1e-3)
    assert isinstance(net.blocks[0].q_norms[0], nn.RMSNorm)
