"""The networks: shapes, conditioning, precision, what compiles, and what they say to bad input."""
import math

import pytest
import torch
import torch.nn.functional as F

from course_lib import Denoiser, Schedule
from course_lib.lab import profiling, train
from course_lib.networks.dit import DiT, DiTBlock, sincos_position_embedding_2d
from course_lib.networks.layers import attention
from course_lib.networks.text import (
    UNKNOWN,
    ConditionalUNet,
    TextBlock,
    TextEncoder,
    Tokenizer,
)
from course_lib.networks.unet import (
    AttentionBlock,
    CrossAttentionBlock,
    ResnetBlock,
    TimeEmbedding,
    UNet,
)


def awake(net: torch.nn.Module) -> torch.nn.Module:
    """Random weights where training starts from zero, so that every path shows."""
    torch.manual_seed(0)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return net.eval()


@pytest.mark.parametrize(
    "channels, widths, depth, patch, size",
    [
        (1, (32, 64), 1, 2, 28),
        (3, (16, 32, 48), 2, 1, 16),
        (4, (16,), 1, 1, 5),
        (3, (16, 16), 1, 4, 24),
    ],
)
def test_shapes(channels, widths, depth, patch, size):
    net = UNet(channels, widths, depth, num_classes=10, patch_size=patch)
    x = torch.randn(3, channels, size, size)
    assert net(x, torch.rand(3), torch.tensor([0, 5, 10])).shape == x.shape
    assert (net(x, torch.rand(3)) == 0).all(), "the last layer starts at zero"


def test_non_square_images():
    assert UNet(1, (16, 32))(torch.zeros(1, 1, 8, 12), torch.rand(1)).shape == (1, 1, 8, 12)


def test_everything_reaches_the_output():
    """Changing the image, the time or the label changes the answer, and only for that example."""
    net = awake(UNet(1, (16, 32), num_classes=10))
    x = torch.randn(2, 1, 8, 8)
    t = torch.tensor([0.2, 0.7])
    y = torch.tensor([3, 4])
    base = net(x, t, y)
    for other in (
        net(x * torch.tensor([1.0, 0.5]).view(2, 1, 1, 1), t, y),
        net(x, torch.tensor([0.2, 0.71]), y),
        net(x, t, torch.tensor([3, 5])),
    ):
        torch.testing.assert_close(other[0], base[0])
        assert (other[1] - base[1]).abs().max() > 1e-4


@pytest.mark.parametrize("widths", [(20, 40), (24,), (7, 9)])
def test_any_width(widths):
    x = torch.randn(2, 2, 8, 8)
    assert awake(UNet(2, widths, num_heads=1))(x, torch.rand(2)).shape == x.shape


def test_null_label():
    net = awake(UNet(1, (16,), num_classes=10))
    x, t = torch.randn(2, 1, 4, 4), torch.rand(2)
    assert (
        torch.equal(net(x, t), net(x, t, torch.tensor([10, 10])))
        and torch.equal(net(x, t), net(x, t, 10))
    )
    assert not torch.equal(net(x, t), net(x, t, 3))


def test_time_embedding():
    embedding = TimeEmbedding(64)
    t = torch.tensor([0.001, 0.9])
    e = embedding(t)
    by_hand = [
        f(1000 * 0.9 * math.exp(-math.log(10_000) * k / 31))
        for f in (math.sin, math.cos)
        for k in range(32)
    ]
    torch.testing.assert_close(e[1], torch.tensor(by_hand), atol=2e-4, rtol=0)
    assert F.cosine_similarity(e[0], e[1], dim=0) < 0.75, (
        "t = 0.001 and t = 0.9 must look different"
    )
    for dim in (63, 2):
        with pytest.raises(ValueError, match="even dim of at least 4"):
            TimeEmbedding(dim)


def test_attention_is_scaled_dot_product_attention():
    q, k, v = torch.randn(3, 2, 4, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(attention(q, k, v), F.scaled_dot_product_attention(q, k, v))


def test_attention_block_does_not_mix_up_pixels():
    """Permuting the pixels permutes the answer; turning one image does not touch the other."""
    block = awake(AttentionBlock(32))
    x = torch.randn(2, 32, 4, 4)
    order = torch.randperm(16)
    shuffle = lambda z: z.flatten(2)[:, :, order].view_as(z)
    torch.testing.assert_close(block(shuffle(x)), shuffle(block(x)))
    torch.testing.assert_close(block(x.flip(0)), block(x).flip(0))


def test_blocks_begin_as_the_identity():
    x = torch.randn(2, 32, 4, 4)
    assert (
        torch.equal(AttentionBlock(32)(x), x)
        and torch.equal(ResnetBlock(32, 32, 8)(x, torch.randn(2, 8)), x)
    )


def test_bf16_agrees_with_fp32():
    net = awake(UNet(1, (16, 32), num_classes=10))
    x, t = torch.randn(4, 1, 8, 8), torch.rand(4)
    with torch.autocast("cpu", torch.bfloat16):
        half = net(x, t, 3)
    full = net(x, t, 3)
    assert (half.float() - full).norm() / full.norm() < 0.03


def test_every_parameter_learns():
    net = awake(UNet(1, (16, 32), num_classes=10)).train()
    net(torch.randn(2, 1, 8, 8), torch.rand(2), torch.tensor([1, 2])).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (
            (torch.zeros(2, 3, 8, 8), torch.rand(2)),
            r"takes images \(B, 1, H, W\); got \(2, 3, 8, 8\)",
        ),
        ((torch.zeros(1, 8, 8), torch.rand(1)), r"takes images \(B, 1, H, W\)"),
        (
            (torch.zeros(2, 1, 10, 8), torch.rand(2)),
            "multiples of 4 to be halved this often; got 10 x 8",
        ),
        ((torch.zeros(2, 1, 8, 8), torch.rand(1)), r"one real number per image, shape \(2,\)"),
        (
            (torch.zeros(2, 1, 8, 8), torch.rand(2), torch.tensor([0, 11])),
            "labels are integers from 0 to 9, and 10 for none; got 0 to 11",
        ),
        ((torch.zeros(2, 1, 8, 8), torch.rand(2), torch.tensor([-1, 0])), "labels are integers"),
        (
            (torch.zeros(2, 1, 8, 8), torch.rand(2), torch.tensor([0.5, 1])),
            "labels are whole numbers; got torch.float32",
        ),
        ((torch.zeros(2, 1, 8, 8).double(), torch.rand(2)), "x is torch.float64, and the network"),
        ((torch.zeros(2, 1, 8, 8).byte(), torch.rand(2)), "tensor, not empty; got torch.uint8"),
        ((torch.zeros(2, 1, 8, 8), 0.5), "one real number per image"),
    ],
)
def test_bad_input(arguments, sentence):
    with pytest.raises((TypeError, ValueError), match=sentence):
        UNet(1, (16, 32), num_classes=10)(*arguments)


@pytest.mark.parametrize("net", [lambda: UNet(1, (16,), num_classes=10), lambda: small_dit()])
def test_labels_as_lists_arrays_and_small_integers(net):
    net, y = awake(net()), torch.tensor([3, 10])
    x, t = torch.randn(2, 1, 8, 8), torch.rand(2)
    for same in (y.tolist(), y.numpy(), y.to(torch.uint8), y.int()):
        assert torch.equal(net(x, t, same), net(x, t, y))


def test_bad_construction():
    with pytest.raises(ValueError, match="one True or False per level, 2 of them; got 1"):
        UNet(1, (16, 32), attention_levels=(True,))
    with pytest.raises(ValueError, match="48 channels cannot be split among 5"):
        UNet(1, (48,), num_heads=5)
    with pytest.raises(ValueError, match="built without labels"):
        UNet(1, (16,))(torch.zeros(1, 1, 4, 4), torch.rand(1), y=3)
    with pytest.raises(ValueError, match="patches of 3 must divide the size 28"):
        DiT(1, 28, patch_size=3)
    with pytest.raises(ValueError, match="48 channels cannot be split among 5"):
        CrossAttentionBlock(48, 8, num_heads=5)


# ---- context, extra images, attention where asked


def captioned(**more):
    return awake(UNet(1, (16, 32), context_dim=12, attention_levels=(False, True), **more))


def test_context_reaches_its_own_image_and_order_does_not_matter():
    """Tokens are a set: permuting them changes nothing; changing one changes that example alone."""
    net = captioned()
    x = torch.randn(2, 1, 8, 8)
    t = torch.rand(2)
    context = torch.randn(2, 5, 12)
    base = net(x, t, context=context)
    torch.testing.assert_close(net(x, t, context=context[:, torch.randperm(5)]), base)
    other = context.clone()
    other[1, 3] += 1
    changed = net(x, t, context=other)
    torch.testing.assert_close(changed[0], base[0])
    assert (changed[1] - base[1]).abs().max() > 1e-4


def test_cross_attention_by_hand():
    """One head, one pixel at a time, with plain sums; the outline's reshape without a transpose
    would fail here.
    """
    block = awake(CrossAttentionBlock(16, 6, num_heads=2)).double()
    x = torch.randn(1, 16, 2, 2, dtype=torch.float64)
    context = torch.randn(1, 3, 6, dtype=torch.float64)
    queries = block.q(block.norm(x).flatten(2).transpose(1, 2))[0]  # (4, 16)
    keys, values = block.kv(context)[0].chunk(2, dim=-1)            # (3, 16) each
    rows = []
    for q in queries:
        heads = []
        for h in (slice(0, 8), slice(8, 16)):
            weight = torch.softmax(torch.stack([(q[h] * k[h]).sum() / 8**0.5 for k in keys]), 0)
            heads.append(sum(w * v[h] for w, v in zip(weight, values)))
        rows.append(torch.cat(heads))
    wanted = x + block.proj(torch.stack(rows)).T.view(1, 16, 2, 2)
    torch.testing.assert_close(block(x, context), wanted)


def test_masked_tokens_do_not_exist():
    net = captioned()
    x = torch.randn(2, 1, 8, 8)
    t = torch.rand(2)
    context = torch.randn(2, 5, 12)
    mask = torch.tensor([[True, True, False, False, False], [True] * 5])
    assert torch.equal(
        net(x, t, context=context, context_mask=mask)[1], net(x, t, context=context)[1]
    )
    torch.testing.assert_close(
        net(x, t, context=context, context_mask=mask)[0],
        net(x[:1], t[:1], context=context[:1, :2])[0],
    )
    (
        torch.testing.assert_close(
            net(x, t, context=context, context_mask=torch.zeros_like(mask)), net(x, t)
        ),
        "no token left: as without a context",
    )


def test_extra_image():
    net = awake(UNet(1, (16,), extra_channels=2))
    x = torch.randn(2, 1, 4, 4)
    t = torch.rand(2)
    extra = torch.randn(2, 2, 4, 4)
    base = net(x, t, extra=extra)
    assert base.shape == x.shape and not torch.allclose(net(x, t, extra=extra + 1), base)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (dict(context=torch.zeros(2, 3, 11)), r"takes a context \(2, L, 12\); got \(2, 3, 11\)"),
        (dict(context=torch.zeros(1, 3, 12)), "takes a context"),
        (
            dict(context=torch.zeros(2, 3, 12), context_mask=torch.ones(2, 3)),
            "context_mask must be bool",
        ),
        (dict(context_mask=torch.ones(2, 3, dtype=torch.bool)), "like the context"),
        (dict(extra=torch.zeros(2, 1, 8, 8)), "takes 0 extra channels"),
    ],
)
def test_bad_context(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        captioned()(torch.zeros(2, 1, 8, 8), torch.rand(2), **arguments)
    with pytest.raises(ValueError, match="no context: pass context_dim to UNet"):
        UNet(1, (16,))(torch.zeros(2, 1, 8, 8), torch.rand(2), context=torch.zeros(2, 3, 12))


# ---- the transformer


def small_dit():
    return DiT(1, 8, patch_size=2, dim=32, depth=2, num_heads=2, num_classes=10)


def test_dit_shapes_and_start():
    x, t = torch.randn(3, 1, 8, 8), torch.rand(3)
    out = small_dit()(x, t, torch.tensor([0, 5, 10]))
    assert out.shape == x.shape and (out == 0).all(), "the last layer starts at zero"
    h, emb = torch.randn(2, 5, 32), torch.randn(2, 32)
    assert torch.equal(DiTBlock(32, 2)(h, emb), h), "a block begins as the identity"
    net = awake(small_dit())
    assert torch.equal(net(x, t), net(x, t, 10)) and not torch.equal(net(x, t), net(x, t, 3))


def test_dit_everything_reaches_the_output():
    net = awake(small_dit())
    x = torch.randn(2, 1, 8, 8)
    t = torch.tensor([0.2, 0.7])
    y = torch.tensor([3, 4])
    base = net(x, t, y)
    for other in (
        net(x * torch.tensor([1.0, 0.5]).view(2, 1, 1, 1), t, y),
        net(x, torch.tensor([0.2, 0.71]), y),
        net(x, t, torch.tensor([3, 5])),
    ):
        torch.testing.assert_close(other[0], base[0])
        assert (other[1] - base[1]).abs().max() > 1e-4


def test_dit_knows_places_only_by_its_positions():
    """Without positions, exchanging patches exchanges the answer; with them it does not."""
    net = awake(small_dit())
    x, t = torch.randn(1, 1, 8, 8), torch.rand(1)
    swap = lambda z: torch.cat([z[..., 4:], z[..., :4]], dim=-1)
    assert not torch.allclose(net(swap(x), t), swap(net(x, t)), atol=1e-4)
    net.positions.zero_()
    torch.testing.assert_close(net(swap(x), t), swap(net(x, t)))


def test_a_new_text_encoder_reads_the_words_before_their_order():
    """Its position embedding is small beside the embedding of the words, as in CLIP."""
    torch.manual_seed(0)
    encoder = TextEncoder(50, length=16, dim=64)
    words, places = encoder.token_embedding.weight, encoder.position_embedding
    assert words.std().item() == pytest.approx(1, rel=0.1)
    assert places.std().item() == pytest.approx(0.02, rel=0.1)
    encoder.blocks = torch.nn.ModuleList()
    tokens = torch.tensor([[3, 7, 9]])
    wanted = encoder.norm(words[tokens] + places[:3])
    torch.testing.assert_close(encoder(tokens)[0], wanted)


def test_positions_are_those_of_vaswani_for_rows_and_columns():
    """sin and cos of place / 10000^(2k / d), d = half of dim for each axis, number by number."""
    side, dim = 5, 16
    table = sincos_position_embedding_2d(side, dim)
    for row in range(side):
        for column in range(side):
            found = table[row * side + column]
            for axis, place in enumerate((row, column)):
                for k in range(dim // 4):
                    angle = place / 10_000 ** (2 * k / (dim // 2))
                    at = axis * dim // 2 + k
                    assert abs(found[at] - math.sin(angle)) < 1e-6
                    assert abs(found[at + dim // 4] - math.cos(angle)) < 1e-6


def test_positions_tell_all_places_apart():
    table = sincos_position_embedding_2d(7, 32)
    similarity = F.cosine_similarity(table[:, None], table[None], dim=-1) - torch.eye(49)
    assert table.shape == (49, 32) and similarity.max() < 0.99
    by_hand = [math.sin(3 * math.exp(-math.log(10_000) * k / 8)) for k in range(8)]
    (
        torch.testing.assert_close(table[3 * 7 + 5, :8], torch.tensor(by_hand)),
        "row 3's sines come first",
    )


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ((torch.zeros(2, 1, 8, 6), torch.rand(2)), r"images \(B, 1, 8, 8\)"),
        ((torch.zeros(2, 1, 8, 8), torch.rand(1)), "one real number per image"),
        ((torch.zeros(2, 1, 8, 8), torch.rand(2), 11), "labels are integers from 0 to 9"),
    ],
)
def test_dit_bad_input(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        small_dit()(*arguments)


# ---- precision, compilers, files, costs

NETS = {
    "UNet": lambda: UNet(1, (16, 32), num_classes=10),
    "UNet with context": lambda: UNet(
        1, (16, 32), num_classes=10, context_dim=12, attention_levels=(True, True)
    ),
    "DiT": small_dit,
}


def inputs(name):
    torch.manual_seed(1)
    context = {"context": torch.randn(4, 3, 12)} if "context" in name else {}
    return (torch.randn(4, 1, 8, 8), torch.rand(4), torch.tensor([1, 2, 3, 10])), context


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 0.04), (torch.float16, 0.006)])
def test_half_precision_forward_and_backward(name, dtype, tolerance):
    """Outputs and gradients of autocast agree with fp32, in relative norm."""
    net = awake(NETS[name]())
    arguments, context = inputs(name)

    def both(enabled):
        net.zero_grad()
        with torch.autocast("cpu", dtype, enabled=enabled):
            out = net(*arguments, **context)
        out.float().square().mean().backward()
        return (
            out.detach().float(),
            torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]),
        )
    for half, full in zip(both(True), both(False)):
        assert (half - full).norm() / full.norm() < tolerance


@pytest.mark.parametrize("name", NETS)
def test_export(name):
    """torch.export sees the whole network, without a break, and computes the same."""
    net = awake(NETS[name]())
    arguments, context = inputs(name)
    exported = torch.export.export(net, arguments, context).module()
    torch.testing.assert_close(
        exported(*arguments, **context), net(*arguments, **context), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", ["UNet", "DiT"])
def test_compile(name):
    """One whole graph. (What a C++ compiler makes of one is tried in test_training_runs.py.)"""
    net = awake(NETS[name]())
    arguments, context = inputs(name)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        compiled(*arguments, **context),
        net(*arguments, **context),
        rtol=1e-3,
        atol=1e-4,
    )


@pytest.mark.parametrize("name", NETS)
def test_round_trip_through_safetensors(name, tmp_path):
    D = Denoiser(awake(NETS[name]()), Schedule.cosine(), "v")
    train.save(D, tmp_path / "net.safetensors")
    again = train.load(tmp_path / "net.safetensors", device="cpu")
    arguments, context = inputs(name)
    assert again.net.config == D.net.config
    (
        torch.testing.assert_close(
            again.net(*arguments, **context), D.net(*arguments, **context), rtol=0.02, atol=0.02
        ),
        "fp16 weights",
    )


def test_costs_by_hand():
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 5, 3, padding=1),
        torch.nn.Flatten(),
        torch.nn.Linear(5 * 16, 7, bias=False),
    )
    assert profiling.count_parameters(net) == 3 * 5 * 9 + 5 + 80 * 7
    assert profiling.multiply_adds(net, torch.zeros(2, 3, 4, 4)) == 2 * (3 * 5 * 9 * 16 + 80 * 7)
    fast, slow = profiling.median_seconds(lambda: None, lambda: sum(range(200_000)), rounds=3)
    assert 0 <= fast < slow


# ---- the network that reads

def test_words_of_other_alphabets_and_numbers_are_unknown_not_absent():
    """A caption that vanished would be drawn as no caption at all, without a word."""
    tokenizer = Tokenizer(["a", "shark", "head"], length=6)
    for caption, known in (
        ("a красная shark", ["a", "shark"]),
        ("a 42 head", ["a", "head"]),
        ("éléphant head", ["head"]),
    ):
        with pytest.warns(
            UserWarning, match=next(word for word in caption.split() if word not in known)
        ):
            tokens = tokenizer(caption)[0]
        assert (tokens == UNKNOWN).sum() == 1 and tokenizer.decode(tokens[None])[0].split() == [
            word if word in known else "<unknown>" for word in caption.split()
        ]


def test_bad_text_networks_and_tokens():
    with pytest.raises(ValueError, match="18 channels cannot be split among 4"):
        ConditionalUNet(1, ["a"], text_dim=18, widths=(8,))
    with pytest.raises(ValueError, match="cannot be split"):
        TextBlock(10, num_heads=4)
    net = ConditionalUNet(1, ["a"], length=4, text_dim=8, widths=(8,))
    x = torch.zeros(2, 1, 8, 8)
    t = torch.rand(2)
    for tokens in (
        torch.zeros(2, 0, dtype=torch.long),
        torch.zeros(2, 4, dtype=torch.bool),
        torch.zeros(2, 4),
        torch.zeros(2, 5, dtype=torch.long),
    ):
        with pytest.raises(ValueError, match="tokens are whole numbers"):
            net(x, t, tokens)


@pytest.mark.parametrize("masked", [False, True])
def test_the_fused_kernel_is_the_same_attention(masked):
    """On a CPU, training computes the products itself and everything else takes torch's kernel."""
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 8, generator=g) for n in (5, 7, 7))
    mask = torch.rand(2, 1, 1, 7, generator=g) < 0.6 if masked else None
    if masked:
        mask[..., 0] = True
    trained = attention(q.requires_grad_(), k, v, mask)
    assert trained.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(attention(q, k, v, mask), trained.detach(), rtol=1e-5, atol=1e-6)
