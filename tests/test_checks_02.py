"""Lesson 2's checks: right answers, stubs, and a diagnosis for each plausible mistake."""
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_lib import UNet
from course_lib.checks import Checker
from course_lib.checks.lesson02 import BUDGET, QUESTIONS
from course_lib.lab import profiling
from course_lib.networks.dit import DiTBlock, sincos_position_embedding_2d
from course_lib.networks.unet import ResnetBlock, TimeEmbedding


@pytest.fixture(autouse=True)
def lenient(monkeypatch):
    monkeypatch.delenv("COURSE_STRICT", raising=False)


# ---- 2.1

def sizes_of(a, b, e):
    """The parameters of ResnetBlock(a, b, e): name -> how many numbers."""
    sizes = {"norm1.weight": a, "norm1.bias": a, "conv1.weight": 9 * a * b, "conv1.bias": b,
             "emb.weight": 2 * e * b, "emb.bias": 2 * b, "norm2.weight": b, "norm2.bias": b,
             "conv2.weight": 9 * b * b, "conv2.bias": b}
    return sizes if a == b else sizes | {"shortcut.weight": a * b, "shortcut.bias": b}


def counted(a, b, e, keep=lambda name, n: n):
    """keep: what the n numbers of this name count for."""
    return sum(keep(name, n) for name, n in sizes_of(a, b, e).items())


def square_kernel(name, n):
    return n // 3 if name in ("conv1.weight", "conv2.weight") else n


PARAMETERS = {
    "the shortcut is missing": (
        lambda a, b, e: counted(a, b, e, lambda n, p: 0 if "shortcut" in n else p)
    ),
    "there it is the identity": lambda a, b, e: counted(a, b, e) + (a * b + b if a == b else 0),
    "you count 3x3": lambda a, b, e: counted(
        a, b, e, lambda n, p: p * 9 if n == "shortcut.weight" else p
    ),
    "the biases are missing: one": lambda a, b, e: counted(
        a, b, e, lambda n, p: 0 if "bias" in n and "norm" not in n else p
    ),
    "the two norms' shifts": (
        lambda a, b, e: counted(a, b, e, lambda n, p: 0 if "bias" in n else p)
    ),
    "the two norms are missing": (
        lambda a, b, e: counted(a, b, e, lambda n, p: 0 if "norm" in n else p)
    ),
    "a weight and a bias": lambda a, b, e: counted(
        a, b, e, lambda n, p: 0 if "norm" in n and "bias" in n else p
    ),
    "the first norm stands before": (
        lambda a, b, e: counted(a, b, e, lambda n, p: b if "norm" in n else p)
    ),
    "the layer of the embedding is missing": (
        lambda a, b, e: counted(a, b, e, lambda n, p: 0 if n.startswith("emb") else p)
    ),
    "a scale and a shift": lambda a, b, e: counted(
        a, b, e, lambda n, p: p // 2 if n.startswith("emb") else p
    ),
    "from out_channels to out_channels": lambda a, b, e: counted(
        a, b, e, lambda n, p: 9 * a * b if n == "conv2.weight" else p
    ),
    "9 weights for each pair": lambda a, b, e: counted(
        a, b, e, lambda n, p: p // 9 if n in ("conv1.weight", "conv2.weight") else p
    ),
    "9 weights for each pair of channels, not 3": (
        lambda a, b, e: counted(a, b, e, square_kernel)
    ),
    "has 38,416 parameters": lambda a, b, e: counted(a, b, e) + 7,
    "does it end with `return`": lambda a, b, e: None,
    "one number is wanted": lambda a, b, e: [counted(a, b, e)],
}

# ---- 2.2


def backwards(layers):
    """The right answer, by the other recursion: from the output pixel to the input."""
    field = 1
    for kernel, stride in reversed(layers):
        field = (field - 1) * stride + kernel
    return field


def with_spacing(spacing):
    """1 + sum of (k - 1) * spacing(strides of all layers, n)."""
    return lambda layers: (
        1 + sum((k - 1) * spacing([s for _, s in layers], n) for n, (k, _) in enumerate(layers))
    )


def pops(layers):
    field = 1
    while layers:
        kernel, stride = layers.pop()
        field = (field - 1) * stride + kernel
    return field


FIELD = {
    "use each layer's own, not 3 for all": (
        lambda layers: with_spacing(lambda s, n: math.prod(s[:n]))([(3, s) for _, s in layers])
    ),
    "it is 35; yours says 7": lambda layers: 7,
    "you leave the strides out": with_spacing(lambda s, n: 1),
    "own stride acts only": with_spacing(lambda s, n: math.prod(s[:n + 1])),
    "the product of all strides for every layer": with_spacing(lambda s, n: math.prod(s)),
    "not 3": with_spacing(lambda s, n: 1 + sum(x - 1 for x in s[:n])),
    "only the stride just before": with_spacing(lambda s, n: s[n - 1] if n else 1),
    "start at 1": lambda layers: backwards(layers) - 1,
    "neighbouring windows overlap": lambda layers: sum(k for k, _ in layers),
    "the middle one was seen already": lambda layers: (
        1 + sum(k * math.prod(s for _, s in layers[:n]) for n, (k, _) in enumerate(layers))
    ),
    "for the other direction": lambda layers: backwards(layers[::-1]),
    "that is the area": lambda layers: backwards(layers) ** 2,
    "to one side": lambda layers: (backwards(layers) - 1) // 2,
    "the kernels do not multiply": lambda layers: math.prod(k for k, _ in layers),
    "spacing of the output pixels": lambda layers: math.prod(s for _, s in layers),
    "changes the list": pops,
    "find the first layer that is wrong": lambda layers: backwards(layers) + 4,
    "does it end with `return`": lambda layers: None,
}

# ---- 2.3


def refuse(dim):
    if dim < 4 or dim % 2:
        raise ValueError("dim")


def embedding(
    frequency=lambda k, half: 10_000 ** (-k / (half - 1)),
    angle=lambda t, f: 1000 * t * f,
    arrange=lambda s, c: torch.cat([s, c], 1),
    guard=refuse,
):
    def time_embedding(t, dim):
        guard(dim)
        half = dim // 2
        angles = torch.stack([angle(t, frequency(k, half)) for k in range(half)], 1)
        return arrange(angles.sin(), angles.cos())
    return time_embedding


def one_row(t, dim):
    refuse(dim)
    angles = 1000 * t * torch.exp(-math.log(10_000) * torch.arange(dim // 2) / (dim // 2 - 1))
    return torch.cat([angles.sin(), angles.cos()])


def unguarded(t, dim):
    half = dim // 2
    angles = 1000 * t[:, None] * torch.exp(-math.log(10_000) * torch.arange(half) / (half - 1))
    return torch.cat([angles.sin(), angles.cos()], 1)


def odd_only(t, dim):
    if dim % 2:
        raise ValueError
    return unguarded(t, dim)


def asserts(t, dim):
    assert dim >= 4 and dim % 2 == 0
    return unguarded(t, dim)


TIME = {
    "without the factor of 1000": embedding(angle=lambda t, f: t * f),
    "stop short of 1/10000": embedding(lambda k, half: 10_000 ** (-k / half)),
    "cosines come first": embedding(arrange=lambda s, c: torch.cat([c, s], 1)),
    "sines and cosines alternate": (
        embedding(arrange=lambda s, c: torch.stack([s, c], -1).reshape(len(s), -1))
    ),
    "from slow to fast": embedding(lambda k, half: 10_000 ** (k / (half - 1) - 1)),
    "the exponent needs a minus": embedding(lambda k, half: 10_000 ** (k / (half - 1))),
    "without 2 pi": embedding(angle=lambda t, f: 2 * torch.pi * 1000 * t * f),
    "your exponent is k / dim": embedding(lambda k, half: 10_000 ** (-k / (2 * half))),
    "equal *steps*": embedding(lambda k, half: 1 - (1 - 1e-4) * k / (half - 1)),
    "these are the angles themselves": lambda t, dim: torch.cat(
        2 * [1000 * t[:, None] * 10_000 ** (-torch.arange(dim // 2) / (dim // 2 - 1))], 1
    ),
    "t was divided by 1000": embedding(angle=lambda t, f: t / 1000 * f),
    "a row of its own": one_row,
    "numbers are wanted": embedding(arrange=lambda s, c: s),
    "counts sines and cosines together": lambda t, dim: embedding()(t, 2 * dim),
    "rows and columns": lambda t, dim: embedding()(t, dim).T,
    "dim = 7 must be refused with a ValueError, and yours silently gives shape (5, 6)": unguarded,
    "dim = 2 must be refused with a ValueError, and yours silently gives nan": odd_only,
    "yours ends in AssertionError": asserts,
    "your lowest frequency is 1/1000": embedding(lambda k, half: 1000 ** (-k / (half - 1))),
    "every ratio of neighbours": embedding(lambda k, half: 500 ** (-k / (half - 1))),
    "t was rounded": lambda t, dim: torch.zeros(len(t), dim, dtype=torch.int64),
    "does it end with `return`": lambda t, dim: None,
}

# ---- 2.4


def right_through(x, emb, down, middle, up):
    """By recursion: level by level, with no list of skips at all."""
    if not down:
        for block in middle:
            x = block(x, emb)
        return x
    (first, shrink), (grow, last) = down[0], up[-1]
    skip = first(x, emb)
    below = right_through(shrink(skip), emb, down[1:], middle, up[:-1])
    return last(torch.cat((grow(below), skip), 1), emb)


def wiring(
    remember=lambda before, h, small: h,
    take=lambda skips: skips.pop(),
    join=lambda h, b: torch.cat([h, b], 1),
    walk=lambda middle: middle,
    shrinking=True,
    growing=True,
    first_join=False,
):
    def through(x, emb, down, middle, up):
        h, skips = x, []
        for block, shrink in down:
            out = block(h, emb)
            small = shrink(out) if shrinking else out
            skips.append(remember(h, out, small))
            h = small
        for block in walk(middle):
            h = block(h, emb)
        for grow, block in up:
            if first_join:
                h = grow(join(h, take(skips)))
            else:
                h = join(grow(h) if growing else h, take(skips))
            h = block(h, emb)
        return h
    return through


def empties_the_lists(x, emb, down, middle, up):
    h, skips = x, []
    while down:
        block, shrink = down.pop(0)
        h = block(h, emb)
        skips.append(h)
        h = shrink(h)
    for block in middle:
        h = block(h, emb)
    for grow, block in up:
        h = block(torch.cat([grow(h), skips.pop()], 1), emb)
    return h


def ends_early(x, emb, down, middle, up):
    if not down:
        return right_through(x, emb, down, middle, up[:0])
    return wiring()(x, emb, down, middle, [])


def no_sizes(x, emb, down, middle, up):
    """Right where nothing halves; elsewhere the skip connections are blurred."""
    blur = lambda b: F.interpolate(F.avg_pool2d(b, 2), scale_factor=2.0)
    halves = down[0][1](x).shape != x.shape
    through = wiring(join=lambda h, b: torch.cat([h, blur(b) if halves else b], 1))
    return through(x, emb, down, middle, up)


def without_emb(x, emb, down, middle, up):
    return down[0][0](x)


WIRING = {
    "so pop from the end": wiring(take=lambda skips: skips.pop(0)),
    "the same, last skip": wiring(take=lambda skips: skips[-1]),
    "gets the first skip": wiring(take=lambda skips: skips[0]),
    "the skip comes first": wiring(join=lambda h, b: torch.cat([b, h], 1)),
    "you add the skip": wiring(join=lambda h, b: h + b),
    "no skip connection reaches": wiring(join=lambda h, b: h),
    "concatenated with itself": wiring(join=lambda h, b: torch.cat([h, h], 1)),
    "what goes *into* the block": wiring(remember=lambda before, h, small: before),
    "you push after shrinking": wiring(remember=lambda before, h, small: small),
    "the middle is left out": wiring(walk=lambda middle: []),
    "only the first block of the middle": wiring(walk=lambda middle: middle[:1]),
    "nothing shrinks": wiring(shrinking=False),
    "nothing grows": wiring(growing=False),
    "concatenate first and grow afterwards": wiring(first_join=True),
    "before the way up": ends_early,
    "takes parts out of the lists": empties_the_lists,
    "for 2 images": wiring(join=lambda h, b: torch.cat([h, b], 0)),
    "its height or width is doubled": wiring(join=lambda h, b: torch.cat([h, b], 2)),
    "it was given (2, 9, 8, 8)": wiring(join=lambda h, b: torch.cat([h, b, b], 1)),
    "in reverse order": wiring(walk=lambda middle: middle[::-1]),
    "which block gets which skip": wiring(walk=lambda middle: middle[1:]),
    "wrong with halving": no_sizes,
    "called with two arguments, block(h, emb)": without_emb,
    "`up` begins at the deepest level already": (
        lambda x, emb, down, middle, up: wiring()(x, emb, down, middle, up[::-1])
    ),
    "does it end with `return`": lambda x, emb, down, middle, up: None,
}

# ---- 2.5


def planned(widths, depth):
    """By walking: what comes up, and the skips as a stack."""
    skips = [(level, w) for level, w in enumerate(widths) for _ in range(depth)]
    pairs, c = [], widths[-1]
    while skips:
        _, w = skips.pop()
        pairs.append((c + w, w))
        c = w
    return pairs


def doubled(widths, depth):
    return [(2 * w, w) for w in widths[::-1] for _ in range(depth)]


def tutorial_plan(widths, depth):
    pairs = []
    for level in reversed(range(len(widths))):
        pairs += [(2 * widths[level], widths[level])] * (depth - 1)
        pairs.append((2 * widths[level], widths[max(level - 1, 0)]))
    return pairs


def one_skip(widths, depth):
    return [(a if k % depth == 0 else b, b) for k, (a, b) in enumerate(planned(widths, depth))]


def without_skips(widths, depth):
    return [(a - b, b) for a, b in planned(widths, depth)]


def way_down(widths, depth):
    pairs, c = [], widths[0]
    for w in widths:
        for _ in range(depth):
            pairs.append((c, w))
            c = w
    return pairs


def deeper_always(widths, depth):
    deeper = [*widths[1:], widths[-1]]
    return [
        (deeper[level] + widths[level], widths[level])
        for level in reversed(range(len(widths)))
        for _ in range(depth)
    ]


CHANNELS = {
    "that is the tutorial's plan": tutorial_plan,
    "you double each level's width": doubled,
    "you leave out the skip connections": without_skips,
    "only the first block of each level gets a skip": one_skip,
    "the way up begins at the deepest": lambda widths, depth: planned(widths, depth)[::-1],
    "in and out have changed places": (
        lambda widths, depth: [(b, a) for a, b in planned(widths, depth)]
    ),
    "comes out of the middle is missing": (
        lambda widths, depth: [(widths[-1], widths[-1])] + planned(widths, depth)[1:]
    ),
    "after its first block a level has its own": deeper_always,
    "that is the way down": way_down,
    "you plan one": lambda widths, depth: planned(widths, 1),
    "have 6 blocks on the way up": lambda widths, depth: planned(widths, depth + 2),
    "got 7": lambda widths, depth: [(2 * widths[-1], widths[-1])] + planned(widths, depth),
    "block 2 (counted from 0) on the way up is given 64 + 40 = 104 channels": (
        lambda widths, depth: [(a + (k == 2), b) for k, (a, b) in enumerate(planned(widths, depth))]
    ),
    "block 1 (counted from 0) on the way up must give": (
        lambda widths, depth: [(a, b + (k == 1)) for k, (a, b) in enumerate(planned(widths, depth))]
    ),
    "a list of pairs": lambda widths, depth: [a for a, _ in planned(widths, depth)],
    "does it end with `return`": lambda widths, depth: None,
}

# ---- 2.6


def attention(q, k, v):
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v


def by_heads(q, k, v, heads):
    """The right answer, one head after the other."""
    d = q.shape[2] // heads
    parts = [slice(h * d, h * d + d) for h in range(heads)]
    return torch.cat([attention(q[..., p], k[..., p], v[..., p]) for p in parts], 2)


def attending(
    split="bl(hd)",
    merge="right",
    score=lambda s, d, C: s / d**0.5,
    soft=lambda s: s.softmax(-1),
    swap=False,
    only=None,
):
    def cut(x, heads):
        B, L, C = x.shape
        return {
            "bl(hd)": lambda: x.unflatten(2, (heads, -1)).permute(0, 2, 1, 3),
            "reshape hdl": lambda: x.reshape(B, heads, C // heads, L).mT,
            "reshape hld": lambda: x.reshape(B, heads, L, C // heads),
            "bl(dh)": lambda: x.unflatten(2, (-1, heads)).permute(0, 3, 1, 2),
        }

    def cross_attention(q, k, v, heads):
        B, N, C = q.shape
        if swap:
            k, v = v, k
        q = cut(q, heads)["bl(hd)" if only == "context" else split]()
        k = cut(k, heads)[split]()
        v = cut(v, heads)[split]()
        # (B, heads, N, d)
        h = soft(score(torch.einsum("bhnd,bhld->bhnl", q, k), C // heads, C)) @ v
        return {
            "right": lambda: h.permute(0, 2, 1, 3).flatten(2),
            "no transpose": lambda: h.reshape(B, N, C),
            "hdn": lambda: h.mT.reshape(B, N, C),
            "interleaved": lambda: h.permute(0, 2, 3, 1).flatten(2),
        }[merge]()
    return cross_attention


def copied_from_the_sheet(q, k, v, heads):
    B, N, C = q.shape
    q, k, v = (x.reshape(B, heads, C // heads, -1) for x in (q, k, v))
    scores = torch.einsum("bhdn,bhdl->bhnl", q, k) / math.sqrt(C // heads)
    return torch.einsum("bhnl,bhdl->bhdn", scores.softmax(-1), v).reshape(B, N, C)


def views(q, k, v, heads):
    B, N, C = q.shape
    q, k, v = (x.view(B, -1, heads, C // heads).transpose(1, 2) for x in (q, k, v))
    weights = (q @ k.mT / math.sqrt(C // heads)).softmax(-1)
    return (weights @ v).transpose(1, 2).view(B, N, C)


def two_heads(q, k, v, heads):
    return by_heads(q, k, v, 2)


ATTENTION = {
    "k and v have L = 5 words": lambda q, k, v, heads: k.view(*q.shape),
    "the tutorial's answer moves by": copied_from_the_sheet,
    "the first head the first *tokens*": attending("reshape hld", "no transpose"),
    "are interleaved: head h must take": attending("bl(dh)", "interleaved"),
    "interleaved, and put back in another order": attending("bl(dh)"),
    "but put back without a transpose": attending(merge="no transpose"),
    "put back as (heads, d, N)": attending(merge="hdn"),
    "not divided by sqrt(d)": attending(score=lambda s, d, C: s),
    "you divide by sqrt(C)": attending(score=lambda s, d, C: s / C**0.5),
    "you divide by d;": attending(score=lambda s, d, C: s / d),
    "you multiply the scores": attending(score=lambda s, d, C: s * d**0.5),
    "runs over the queries": attending(soft=lambda s: s.softmax(-2)),
    "runs over the heads": attending(soft=lambda s: s.softmax(1)),
    "the softmax is missing": attending(soft=lambda s: s),
    "that is a single head": lambda q, k, v, heads: attention(q, k, v),
    "keys and values have changed places": attending(swap=True),
    "`view` refuses": views,
    "it must not move": lambda q, k, v, heads: by_heads(
        q, k, v * torch.arange(v.shape[1])[:, None], heads
    ),
    "compare with one head first": lambda q, k, v, heads: by_heads(q, k, v, heads) + 0.1,
    "does a number of heads stand in your code": two_heads,
    "expected shape (2, 6, 8)": lambda q, k, v, heads: by_heads(k, k, v, heads),
    "does it end with `return`": lambda q, k, v, heads: None,
}
MIXED_TOO = [
    attending("reshape hdl"),
    attending("reshape hdl", "hdn", only="context"),
    attending("reshape hld"),
    attending("reshape hld", only="context"),
    attending("reshape hdl", "no transpose"),
]

# ---- 2.7


def by_loop(block, x, order):
    """The right answer, token by token."""
    moved = block(torch.stack([x[:, k] for k in order.tolist()], 1))
    still = block(x)
    return max((moved[:, n] - still[:, k]).abs().max().item() for n, k in enumerate(order.tolist()))


def error(reduce):
    return lambda block, x, order: reduce(block(x[:, order]) - block(x)[:, order])


def shuffles_in_place(block, x, order):
    before = block(x)[:, order]
    x[:] = x[:, order]
    return (block(x) - before).abs().max()


EQUIVARIANCE = {
    "*in*variance": lambda block, x, order: (block(x[:, order]) - block(x)).abs().max(),
    "in the wrong direction": (
        lambda block, x, order: (block(x[:, order]) - block(x)[:, torch.argsort(order)]).abs().max()
    ),
    "you shuffle the outputs only": (
        lambda block, x, order: (block(x) - block(x)[:, order]).abs().max()
    ),
    "a number, not whether it is small": (
        lambda block, x, order: torch.allclose(block(x[:, order]), block(x)[:, order])
    ),
    "you sum over an axis": (
        lambda block, x, order: (block(x[:, order]) - block(x)[:, order]).abs().sum(1).max()
    ),
    "with the order that was given": error(lambda g: g.abs().median()),
    "with the order that you were given": lambda block, x, order: (
        (block(x[:, order.roll(1)]) - block(x)[:, order.roll(1)]).abs().max()
    ),
    "images of the batch": lambda block, x, order: (block(x[order]) - block(x)[order]).abs().max(),
    "you shuffle the channels": (
        lambda block, x, order: (block(x[:, :, order]) - block(x)[:, :, order]).abs().max()
    ),
    "that is the mean difference": error(lambda g: g.abs().mean()),
    "a large negative difference": error(lambda g: g.max()),
    "differences cancel": error(lambda g: g.mean()),
    "mean of the squares": error(lambda g: g.square().mean()),
    "square of the largest": error(lambda g: g.square().max()),
    "that is a sum": error(lambda g: g.abs().sum()),
    "the norm of the differences": error(lambda g: g.norm()),
    "relative to the size": lambda block, x, order: by_loop(block, x, order) / block(x).abs().max(),
    "the block was never called": lambda block, x, order: (x[:, order] - x).abs().max(),
    "changes the x it was given": shuffles_in_place,
    "one number is wanted": error(lambda g: g.abs()),
    "the largest of |block": lambda block, x, order: 0.7 * by_loop(block, x, order),
    "you shuffle nothing": lambda block, x, order: 0.0 * block(x).sum(),
    "treats all tokens alike": lambda block, x, order: max(by_loop(block, x, order), 1e-3),
    "does it end with `return`": lambda block, x, order: None,
}

# ---- 2.8


class Adds(nn.Module):
    """emb + part(thickness), with everything that can be got wrong as an argument."""

    def __init__(self, part, combine=lambda emb, p: emb + p, show=lambda s: s[:, None]):
        super().__init__()
        self.part = part
        self.combine = combine
        self.show = show

    def forward(self, emb, thickness):
        return self.combine(emb, self.part(self.show(thickness)))


def zeroed(layer, weight=True, bias=True):
    if weight:
        nn.init.zeros_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def hidden(dim, last=zeroed, first=lambda layer: layer, width=64):
    return nn.Sequential(first(nn.Linear(1, width)), nn.SiLU(), last(nn.Linear(width, dim)))


def one_unit(dim):
    """A hidden layer of one unit, started at weight -1: bent, but far from the curve."""
    net = hidden(dim, width=1)
    nn.init.constant_(net[0].weight, -1)
    nn.init.zeros_(net[0].bias)
    return net


class Forgets(nn.Module):
    def forward(self, emb, thickness):
        return emb + 0 * nn.Linear(1, emb.shape[1])(thickness[:, None])


class Blind(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.net = hidden(dim)

    @torch.no_grad()
    def forward(self, emb, thickness):
        return emb + self.net(thickness[:, None])


class Buckets(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.table = nn.Embedding(10, dim)
        nn.init.zeros_(self.table.weight)

    def forward(self, emb, thickness):
        return emb + self.table(thickness.round().long())


class Gated(nn.Module):
    """Right, in another way: a gate of zero in front of sinusoids."""

    def __init__(self, dim):
        super().__init__()
        self.net = nn.Sequential(
            TimeEmbedding(32), nn.Linear(32, 64), nn.SiLU(), nn.Linear(64, dim)
        )
        self.gate = nn.Parameter(torch.zeros(dim))

    def forward(self, emb, thickness):
        return emb + self.gate * self.net(thickness / 1000)


THICKNESS = {
    "it must come from the thickness alone": (
        lambda dim: Adds(hidden(dim), lambda emb, p: emb * (1 + p))
    ),
    "after 300 steps the output is still the same": lambda dim: Adds(hidden(dim, first=zeroed)),
    "by the same amount": (
        lambda dim: Adds(hidden(dim, last=lambda layer: zeroed(layer, bias=False)))
    ),
    "the last layer must start at zero, so": (
        lambda dim: Adds(hidden(dim, last=lambda layer: layer))
    ),
    "only 5 different outputs": Buckets,
    "a straight line in the thickness": lambda dim: Adds(zeroed(nn.Linear(1, dim))),
    "the thickness's part alone": lambda dim: Adds(hidden(dim), lambda emb, p: p),
    "one number per image: s[:, None]": lambda dim: Adds(hidden(dim), show=lambda s: s),
    "depends on the other images": lambda dim: Adds(
        nn.Sequential(nn.Linear(1, 64), nn.BatchNorm1d(64), nn.SiLU(), zeroed(nn.Linear(64, dim)))
    ),
    "has no parameters": lambda dim: Forgets(),
    "no gradient reaches": Blind,
    "got the class itself": lambda dim: Adds,
    "got function": lambda dim: lambda emb, thickness: emb,
    "an embedding like emb": lambda dim: Adds(hidden(dim), lambda emb, p: torch.cat([emb, p], 1)),
    "cut off or squashed": lambda dim: Adds(hidden(dim), show=lambda s: s.clamp(max=3)[:, None]),
    "more width": lambda dim: Adds(one_unit(dim)),
    "does it end with `return`": lambda dim: None,
}

# ---- 2.9

WIDE = dict(widths=(28, 56))
DEEP = dict(widths=(22, 44), depth=2)
FINE = dict(widths=(16, 24), patch_size=1)
TRIED = [(WIDE, 0.62), (DEEP, 0.55), (FINE, 0.38)]
ARCHITECTURE = {
    "your choice needs 72.0 million multiply-adds for one image; the budget is 25 million": (
        lambda: (dict(widths=(48, 96)), TRIED)
    ),
    "use at least 85 %": lambda: (dict(widths=(16, 32)), TRIED),
    "is a single level": lambda: (dict(widths=(40,)), TRIED),
    "28 is no multiple": lambda: (dict(widths=(16, 24, 32)), TRIED),
    "no skip connections either": lambda: (dict(widths=(28, 56), depth=0), TRIED),
    "leave `channels` out": lambda: dict(channels=1, widths=(28, 56)),
    "no keyword 'width'": lambda: dict(width=(28, 56)),
    "cannot be split among 5": lambda: (dict(widths=(28, 56), num_heads=5), TRIED),
    "attention_levels needs one True or False": (
        lambda: (dict(widths=(28, 56), attention_levels=(True,)), TRIED)
    ),
    "no context_dim": lambda: (dict(widths=(28, 56), context_dim=16), TRIED),
    "widths is a tuple": lambda: (dict(widths=28), TRIED),
    "got a network": UNet(1, (8, 16)),
    "now defend your choice": lambda: FINE,
    "return two things": lambda: (28, 56),
    "got NoneType": lambda: None,
    "three different candidates": lambda: (FINE, TRIED[1:] + TRIED[2:]),
    "not among the candidates": lambda: (dict(widths=(28, 54)), TRIED),
    "better than your choice (0.380 against 0.620)": lambda: (WIDE, TRIED),
    "equal to nine digits": lambda: (FINE, [(settings, 0.3) for settings, _ in TRIED]),
    "a mean squared error is a positive number": lambda: (FINE, TRIED[1:] + [(WIDE, float("nan"))]),
    "each measurement is a pair": lambda: (FINE, [0.42, 0.45, 0.31]),
    "return what measured_loss returned": (
        lambda: (FINE, TRIED[:2] + [(FINE, 0.1)])
    ),
}

RIGHT = {
    "2.1": counted,
    "2.2": backwards,
    "2.3": embedding(),
    "2.4": right_through,
    "2.5": planned,
    "2.6": by_heads,
    "2.7": by_loop,
    "2.8": lambda dim: Adds(hidden(dim)),
    "2.9": lambda: (FINE, TRIED),
}
WRONG = {
    "2.1": PARAMETERS,
    "2.2": FIELD,
    "2.3": TIME,
    "2.4": WIRING,
    "2.5": CHANNELS,
    "2.6": ATTENTION,
    "2.7": EQUIVARIANCE,
    "2.8": THICKNESS,
    "2.9": ARCHITECTURE,
}
CASES = [
    pytest.param(name, diagnosis, answer, id=f"{name} {diagnosis}")
    for name, wrong in WRONG.items()
    for diagnosis, answer in wrong.items()
]


@pytest.mark.parametrize("name, diagnosis, answer", CASES)
def test_wrong(refused, name, diagnosis, answer):
    refused(name, diagnosis, answer)


@pytest.mark.parametrize("name", RIGHT)
def test_right(name):
    check = Checker()
    for seed in range(3):  # whatever random numbers the answer draws
        torch.manual_seed(seed)
        check(name, RIGHT[name])
        assert check.passed(name)


def stub(*arguments):
    raise NotImplementedError


def test_stubs_and_completeness():
    assert [q.name for q in QUESTIONS] == list(RIGHT) == list(WRONG)
    assert len(CASES) >= 40 and min(len(wrong) for wrong in WRONG.values()) >= 5
    check = Checker()
    for q in QUESTIONS:
        check(q.name, stub)
        assert check.verdicts[q.name] == "not attempted"
        assert q.points > 0 and q.praise and len(q.hints) >= 2
    assert sum(q.points for q in QUESTIONS) == 25


@pytest.mark.parametrize("answer", MIXED_TOO)
def test_half_mixed_attention_is_called_by_its_name(capsys, answer):
    """The wrong reshape in one place and the right one in another is still that mistake."""
    Checker()("2.6", answer)
    assert "reshape from (B, L, C)" in capsys.readouterr().out


def test_other_right_answers_pass():
    """Another layout of the same idea is not wrong."""
    check = Checker()
    check("2.3", embedding())
    check("2.4", wiring())
    check("2.5", lambda widths, depth: [list(pair) for pair in planned(widths, depth)])
    check("2.6", attending())
    check("2.7", error(lambda g: g.abs().max()))
    check("2.8", Gated)
    labelled = dict(widths=[16, 24], patch_size=1, num_classes=10)
    check("2.9", (labelled, TRIED[:2] + [(labelled, 0.38)]))
    assert all(verdict == "right" for verdict in check.verdicts.values()), check.verdicts


def test_other_right_conditioning_passes():
    def narrow(dim):
        return Adds(hidden(dim, width=16))

    def with_tanh(dim):
        return Adds(nn.Sequential(nn.Linear(1, 32), nn.Tanh(), zeroed(nn.Linear(32, dim))))

    def with_sinusoids(dim):
        layers = TimeEmbedding(64), nn.Linear(64, 64), nn.SiLU(), zeroed(nn.Linear(64, dim))
        return Adds(nn.Sequential(*layers), show=lambda s: s / 5)

    for build in (narrow, with_tanh, with_sinusoids):
        check = Checker()
        check("2.8", build)
        assert check.passed("2.8")


def test_the_sizes_of_2_1_are_the_blocks():
    for a, b, e in ((32, 48, 20), (24, 24, 10)):
        block = ResnetBlock(a, b, e)
        assert sizes_of(a, b, e) == {name: p.numel() for name, p in block.named_parameters()}


def test_judging_leaves_the_random_numbers_alone():
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    Checker()("2.8", RIGHT["2.8"])
    assert torch.equal(torch.rand(3), wanted)


def test_budget_is_measured_on_a_real_network():
    """The judge counts on a network without memory; a real one costs the same."""
    settings = RIGHT["2.9"]()[0]
    net = UNet(1, **settings)
    cost = profiling.multiply_adds(net, torch.zeros(1, 1, 28, 28), torch.zeros(1))
    assert 0.85 * BUDGET <= cost <= BUDGET


def test_what_the_sheet_says_of_attention():
    """2.7's three numbers: rounding, large, rounding."""
    torch.manual_seed(0)
    dit = DiTBlock(64, 4)
    emb = torch.randn(2, 64)
    positions = sincos_position_embedding_2d(4, 64)
    for p in dit.parameters():
        nn.init.normal_(p, std=0.1)
    x, order = torch.randn(2, 16, 64), torch.randperm(16)
    block = torch.no_grad()(lambda x: dit(x, emb))
    assert by_loop(block, x, order) < 1e-4
    assert by_loop(lambda x: block(x + positions), x, order) > 0.1
    assert by_loop(block, x + positions, order) < 1e-4
