"""The questions of lesson 2. Each judge computes the right answer and the well-known wrong ones, and tells them apart."""
import contextlib
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..lab.cost import multiply_adds
from ..networks.unet import UNet
from . import Question, Wrong, compare, function, number
from .lesson01 import F64, draws

BUDGET = 25_000_000                     # multiply-adds for one image of 28 x 28 in question 2.9


def whole(got: object, right: int, mistakes: dict[str, int], otherwise: str = "") -> None:
    """Compare whole numbers, exactly."""
    as_number = lambda n: torch.tensor(float(n), dtype=F64)
    compare(number(got), as_number(right), {words: as_number(n) for words, n in mistakes.items()}, rtol=0, atol=0.01, otherwise=otherwise)


def judge_parameters(f: Callable) -> None:
    """2.1: resnet_parameters(in_channels, out_channels, emb_dim), the number of weights of a ResnetBlock."""
    for a, b, e in ((32, 48, 20), (24, 24, 10)):
        skip = (a + 1) * b if a != b else 0
        right = 2 * a + (9 * a + 1) * b + 2 * (e + 1) * b + 2 * b + (9 * b + 1) * b + skip
        biases = b + 2 * b + b + (b if skip else 0)
        case = f"ResnetBlock({a}, {b}, {e}) has {right:,} parameters; you count "
        whole(function(f)(a, b, e), right, {
            "the way past the convolutions is missing: where the channels change, `skip` is a 1x1 convolution": right - skip,
            "you count a `skip` convolution where in_channels equals out_channels; there it is the identity, without parameters": right + (a + 1) * b,
            "`skip` is a 1x1 convolution; you count 3x3": right + (8 * a * b if skip else 0),
            "the biases are missing: one per output channel of each convolution and of the linear layer": right - biases,
            "the biases are missing, and the two norms' shifts with them": right - biases - a - b,
            "the two norms are missing: each has a weight and a bias per channel": right - 2 * a - 2 * b,
            "a norm has two parameters per channel, a weight and a bias": right - a - b,
            "the first norm stands before conv1, so it has in_channels channels": right - 2 * a + 2 * b,
            "the layer of the embedding is missing": right - 2 * (e + 1) * b,
            "the layer of the embedding gives a scale and a shift: 2 * out_channels numbers": right - (e + 1) * b,
            "the second convolution goes from out_channels to out_channels": right - 9 * b * b + 9 * a * b,
            "a 3x3 convolution has 9 weights for each pair of channels": right - 8 * a * b - 8 * b * b,
        }, otherwise=f"{case}another number: print p.numel() beside its name for block.named_parameters(), and look for what makes the difference")


def field_of(layers: list[tuple[int, int]], start: int = 1, less: int = 1, early: bool = False, stride: Callable = lambda jump, s: jump * s) -> int:
    """The receptive field of (kernel, stride) pairs, with the switches that turn it into its well-known wrong versions."""
    field, jump = start, 1
    for kernel, s in layers:
        after = stride(jump, s)
        field += (kernel - less) * (after if early else jump)
        jump = after
    return field


def judge_field(f: Callable) -> None:
    """2.2: receptive_field(layers), how many input pixels one output pixel can see."""
    for layers in ([(7, 1), (3, 2), (3, 1), (4, 3), (3, 1)], [(7, 2), (3, 3), (3, 1)], [(4, 4), (1, 1)]):
        strides = math.prod(s for _, s in layers)
        right = field_of(layers)
        given = list(layers)
        got = function(f)(given)
        said = f"; yours says {got:g}" if isinstance(got, (int, float)) else ""
        if given != layers:
            raise Wrong("your function changes the list it was given (`pop`, `reverse`, ...): work on a copy")
        whole(got, right, {
            "kernels differ: use each layer's own, not 3 for all": field_of([(3, s) for _, s in layers]),
            "you leave the strides out: after a stride of 2 neighbours are 2 input pixels apart, and a kernel reaches twice as far": field_of(layers, stride=lambda jump, s: 1),
            "a layer's own stride acts only on the layers after it; multiply the spacing by it *after* you have used the spacing": field_of(layers, early=True),
            "you use the product of all strides for every layer; a layer is spread only by the strides before it": 1 + sum((k - 1) * strides for k, _ in layers),
            "strides multiply: two strides of 2 put neighbours 4 input pixels apart, not 3": field_of(layers, stride=lambda jump, s: jump + s - 1),
            "you use only the stride just before; the spacing is the product of *all* strides before": field_of(layers, stride=lambda jump, s: s),
            "without any layer a pixel sees one pixel, itself: start at 1": right - 1,
            "you add the kernels up; neighbouring windows overlap": sum(k for k, _ in layers),
            "a kernel of k adds k - 1 pixels, the middle one was seen already": field_of(layers, less=0),
            "you walk from the output to the input with the formula for the other direction": field_of(layers[::-1]),
            "that is the area; the width of the field in pixels is wanted": right**2,
            "that is how far it sees to one side; both sides and the middle are wanted": right // 2,
            "the kernels do not multiply: each adds (k - 1) times the spacing": math.prod(k for k, _ in layers),
            "that is the spacing of the output pixels, the product of the strides": strides,
        }, otherwise=f"for {layers}, pairs of (kernel, stride), it is {right}{said}; measure with seen(layers[:n]) for n = 1, 2, ... and find the first layer that is wrong")


def waves(t: Tensor, dim: int, scale: float = 1000.0, last: int = 1, power: float = 1.0) -> Tensor:
    """Angles (B, dim / 2) of a time embedding whose frequencies fall to 10000^-power in dim / 2 - last equal ratios."""
    half = dim // 2
    return scale * t.double()[:, None] * 10_000.0 ** (-power * torch.arange(half, dtype=F64) / (half - last))


def judge_time(f: Callable) -> None:
    """2.3: time_embedding(t, dim), sines and cosines of 1000 t."""
    t = torch.tensor([0.0, 0.0012, 0.25, 0.613, 0.9])
    both = lambda angles: torch.cat([angles.sin(), angles.cos()], dim=1)
    for dim in (12, 64):
        half, angles = dim // 2, waves(t, dim)
        try:
            got = function(f)(t.clone(), dim)
        except RuntimeError as error:
            if "size" in str(error):
                raise Wrong(f"t has shape (5,) and there are {half} frequencies: t[:, None] gives every time a row of its own") from None
            raise
        if torch.is_tensor(got) and got.shape == (5, half):
            raise Wrong(f"dim = {dim} numbers are wanted, {half} sines and {half} cosines; got {half} in all")
        if torch.is_tensor(got) and got.shape == (5, 2 * dim):
            raise Wrong(f"dim = {dim} counts sines and cosines together: dim / 2 frequencies; got {2 * dim} numbers")
        if torch.is_tensor(got) and got.shape == (dim, 5):
            raise Wrong("rows and columns have changed places: one row for each time")
        if torch.is_tensor(got) and got.dtype in (torch.int32, torch.int64):
            raise Wrong("your numbers are whole numbers: t was rounded somewhere")
        tiny = torch.tensor([1e-6])                             # here even a frequency of 10000 turns only once: float32 can be compared
        if torch.is_tensor(got) and got.shape == (5, dim) and torch.allclose(f(tiny, dim).double(), both(waves(tiny, dim, power=-1.0)), atol=1e-3):
            raise Wrong("your frequencies grow from 1 to 10000: the exponent needs a minus")
        linear = 1000 * t.double()[:, None] * torch.linspace(1, 1e-4, half, dtype=F64)
        compare(got, both(angles), {
            "t runs from 0 to 1; without the factor of 1000 even the fastest wave turns by only one radian": both(waves(t, dim, scale=1.0)),
            "your frequencies stop short of 1/10000: with k = 0 ... half - 1, the last k / (half - 1) is 1": both(waves(t, dim, last=0)),
            "cosines come first; the library has the sines first": torch.cat([angles.cos(), angles.sin()], dim=1),
            "sines and cosines alternate; the library has all sines, then all cosines": torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1),
            "your waves run from slow to fast; the first frequency is 1, the last 1/10000": both(angles.flip(1)),
            "you turn by 2 pi for each unit; the library's angle is 1000 * t * frequency, without 2 pi": both(2 * math.pi * angles),
            "your exponent is k / dim, so the slowest frequency is about 1/100: divide by half - 1": both(1000 * t.double()[:, None] * 10_000.0 ** (-torch.arange(half, dtype=F64) / dim)),
            "your frequencies fall by equal *steps*; they must fall by equal *ratios*, so that slow waves are there, too": both(linear),
            "these are the angles themselves; their sines and cosines are wanted": torch.cat([angles, angles], dim=1),
            "t was divided by 1000; multiply": both(waves(t, dim, scale=1e-3)),
        }, rtol=0, atol=2e-3, otherwise="print your frequencies: the first must be 1, the last 1/10000, and every ratio of neighbours the same")
    for dim in (7, 2):
        try:
            got = f(t.clone(), dim)
        except ValueError:
            continue
        except (ArithmeticError, RuntimeError, AssertionError, TypeError) as error:
            raise Wrong(f"right for even dims; dim = {dim} must be refused with a ValueError, yours ends in {type(error).__name__}") from None
        came = f"nan, from 0 / 0 at half - 1 = {dim // 2 - 1}" if torch.is_tensor(got) and not got.isfinite().all() else f"shape {tuple(got.shape)}" if torch.is_tensor(got) else repr(got)
        raise Wrong(f"right for even dims; but dim = {dim} must be refused with a ValueError, and yours silently gives {came}")


def join(h: Tensor, bridge: Tensor) -> Tensor:
    return torch.cat([h, bridge], dim=1)


def wire(x: Tensor, emb: Tensor, down: list, middle: list, up: list, push: str = "block", pop: Callable = lambda bridges, k: bridges[-1 - k],
         join: Callable = join, shrinks: bool = True, grows: bool = True, late_growth: bool = False) -> Tensor:
    """The way through a small U-Net, with the switches that turn it into its well-known wrong versions."""
    h, bridges = x, []
    for block, shrink in down:
        before, h = h, block(h, emb)
        smaller = shrink(h) if shrinks else h
        bridges.append({"input": before, "block": h, "shrunk": smaller}[push])
        h = smaller
    for block in middle:
        h = block(h, emb)
    for k, (grow, block) in enumerate(up):
        h = grow(h) if grows and not late_growth else h
        h = join(h, pop(bridges, k))
        h = block(grow(h) if late_growth else h, emb)
    return h


def toy_unet(levels: int, size: int, halve: bool) -> tuple[list, list, list]:
    """Parts of a U-Net that complain about what they are fed. A bridge that was not laid beside h (3 channels, not 6) is let through: its own diagnosis follows."""
    def block(takes: int, side: int, name: str, seed: int) -> Callable:
        weight = draws(3, takes, seed=seed)

        def run(h: Tensor, emb: Tensor) -> Tensor:
            if h.ndim != 4 or h.shape[0] != 2:
                raise Wrong(f"{name} was given {tuple(h.shape)} for 2 images: join along axis 1, the channels")
            if h.shape[1] not in (3, takes):
                raise Wrong(f"{name} takes {takes} channels; it was given {tuple(h.shape)}")
            if h.shape[2:] != (side, side) and (halve or h.shape[2:].numel() != side * side):
                twice = h.shape[1] == 3 and takes == 6 and h.shape[2:].numel() == 2 * side * side
                raise Wrong(f"{name} was given {tuple(h.shape)}, {'its height or width is doubled: join along axis 1, the channels' if twice else f'and its level is {side} x {side}'}")
            return torch.tanh(torch.einsum("oc,bchw->bohw", weight[:, :h.shape[1]], h) + emb[:, :, None, None])
        return run

    sides = [size // 2**k if halve else size for k in range(levels + 1)]
    shrink = (lambda h: F.avg_pool2d(h, 2)) if halve else lambda h: 0.8 * h.roll(1, 2)
    grow = (lambda h: F.interpolate(h, scale_factor=2.0)) if halve else lambda h: 1.2 * h.roll(1, 3)
    down = [(block(3, sides[k], f"the block of level {k} on the way down", 20 + k), shrink) for k in range(levels)]
    middle = [block(3, sides[-1], f"block {k} of the middle", 30 + k) for k in range(2)]
    up = [(grow, block(6, sides[k], f"the block of level {k} on the way up", 40 + k)) for k in reversed(range(levels))]
    return down, middle, up


def judge_wiring(f: Callable) -> None:
    """2.4: through(x, emb, down, middle, up), the skip connections of a U-Net. First without a change of size, so that any wiring runs."""
    for levels, halve in ((3, False), (2, True), (3, True)):
        x, emb = draws(2, 3, 8, 8), draws(2, 3, seed=12)
        down, middle, up = toy_unet(levels, 8, halve)
        parts = list(down), list(middle), list(up)
        try:
            got = function(f)(x.clone(), emb, *parts)
        except TypeError as error:
            if "'emb'" in str(error):
                raise Wrong("every block is called with two arguments, block(h, emb), on the way down, in the middle and on the way up") from None
            raise
        except RuntimeError as error:
            if "Sizes of tensors must match" in str(error):
                raise Wrong("a bridge does not have the size of what it is joined with: grow first, then join with the bridge of the same level, the last one pushed") from None
            raise
        if [len(part) for part in parts] != [levels, 2, levels]:
            raise Wrong("your function takes parts out of the lists it was given: a second image would find nothing left; pop only from your own list of bridges")
        right = wire(x, emb, down, middle, up)
        if halve:
            compare(got, right, {}, otherwise="right where no size changes, but wrong with halving: use the shrink and the grow of each level, once")
            continue
        plain_sum, alone, swapped = (lambda h, b: h + b), (lambda h, b: h), (lambda h, b: join(b, h))
        compare(got, right, {
            "the bridges come in the order in which they were pushed; the last one pushed belongs to the smallest image, so pop from the end": wire(x, emb, down, middle, up, pop=lambda bridges, k: bridges[k]),
            "every block on the way up gets the same, last bridge: pop takes it off the list, bridges[-1] does not": wire(x, emb, down, middle, up, pop=lambda bridges, k: bridges[-1]),
            "every block on the way up gets the first bridge": wire(x, emb, down, middle, up, pop=lambda bridges, k: bridges[0]),
            "the bridge comes first and h second; the blocks expect h in front: torch.cat([h, bridge], dim=1)": wire(x, emb, down, middle, up, join=swapped),
            "you add the bridge to h; it must be laid beside it: torch.cat along axis 1": wire(x, emb, down, middle, up, join=plain_sum),
            "the way up never sees a bridge: torch.cat([h, bridges.pop()], dim=1) before each block": wire(x, emb, down, middle, up, join=alone),
            "h is laid beside itself; the other half is the bridge": wire(x, emb, down, middle, up, join=lambda h, b: join(h, h)),
            "you push what goes *into* the block; push its answer": wire(x, emb, down, middle, up, push="input"),
            "you push after shrinking; push the block's answer while it still has the level's size": wire(x, emb, down, middle, up, push="shrunk"),
            "`up` begins at the deepest level already: go through it as it is, not reversed": wire(x, emb, down, middle, up[::-1]),
            "the middle is left out": wire(x, emb, down, [], up),
            "only the first block of the middle is used": wire(x, emb, down, middle[:1], up),
            "nothing shrinks on the way down": wire(x, emb, down, middle, up, shrinks=False),
            "nothing grows on the way up": wire(x, emb, down, middle, up, grows=False),
            "you join first and grow afterwards: the bridge has the larger size already": wire(x, emb, down, middle, up, late_growth=True),
            "you return before the way up": wire(x, emb, down, middle, []),
        }, otherwise="the values differ: write down, for three levels, which block sees which bridge, and compare with your loop")


def plan(widths: tuple[int, ...], depth: int, coming: Callable = lambda c, w: c, bridge: Callable = lambda w, first: w) -> list[tuple[int, int]]:
    """(in, out) of the blocks on the way up; `coming` and `bridge` turn it into its well-known wrong versions."""
    pairs, c = [], widths[-1]
    for w in reversed(widths):
        for k in range(depth):
            pairs.append((coming(c, w) + bridge(w, k == 0), w))
            c = w
    return pairs


def judge_channels(f: Callable) -> None:
    """2.5: up_channels(widths, depth), a list of (in, out) that fits."""
    for widths, depth in (((16, 40, 64), 2), ((8, 24), 1), ((10, 10, 20, 20), 3)):
        got = function(f)(widths, depth)
        if got is None:
            raise Wrong("your function returned None: does it end with `return`?")
        try:
            got = [(int(a), int(b)) for a, b in got]
        except (TypeError, ValueError):
            raise Wrong(f"a list of pairs (in, out) is wanted, such as [(32, 16), (16, 8)]; got {got!r}") from None
        right = plan(widths, depth)
        narrower = lambda w: widths[max(widths.index(w) - 1, 0)]
        mistakes = {
            "that is the tutorial's plan: a block narrows to the next level's width, and so does the layer after it, which expects the wide one":
                [(2 * w, narrower(w) if k == depth - 1 else w) for w in reversed(widths) for k in range(depth)],
            "you double each level's width; but what comes up into the first block of a level still has the *deeper* level's width": plan(widths, depth, coming=lambda c, w: w),
            "you leave out the bridges: each block takes what comes up *and* a bridge": plan(widths, depth, bridge=lambda w, first: 0),
            "only the first block of each level gets a bridge; the way down pushed one per block, so each block on the way up has its own": plan(widths, depth, bridge=lambda w, first: w if first else 0),
            "your list begins at the first level; the way up begins at the deepest": right[::-1],
            "in and out have changed places": [(b, a) for a, b in right],
            "what comes out of the middle is missing for the very first block": [(right[0][0] - widths[-1], right[0][1])] + right[1:],
            "you count both blocks' inputs with the deeper level's width; after its first block a level has its own":
                [(deeper + w, w) for w, deeper in zip(reversed(widths), (widths[-1],) + widths[:0:-1]) for _ in range(depth)],
            "that is the way down: (in, out) of the blocks that make the bridges":
                [(c if k == 0 else w, w) for w, c in zip(widths, (widths[0],) + widths) for k in range(depth)],
        }
        if got == right:
            continue
        for diagnosis, wrong in mistakes.items():
            if got == wrong:
                raise Wrong(diagnosis)
        if len(got) != len(right):
            raise Wrong(f"widths {widths} with depth {depth} have {len(right)} blocks on the way up, one for each bridge; got {len(got)}")
        c = widths[-1]
        for k, (a, b) in enumerate(got):
            w = widths[::-1][k // depth]
            if a != c + w:
                raise Wrong(f"widths {widths}, depth {depth}: block {k} (counted from 0) on the way up is given {c} + {w} = {c + w} channels, and yours expects {a}")
            if b != w:
                raise Wrong(f"widths {widths}, depth {depth}: block {k} (counted from 0) on the way up must answer with its level's {w} channels; yours gives {b}")
            c = b


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, split: str = "right", merge: str = "right", scale: Callable = lambda d, C: d**-0.5,
           axis: int = -1, mix_queries: bool = True) -> Tensor:
    """Attention with several heads, with the switches that turn it into its well-known wrong versions."""
    B, N, C = q.shape
    d = C // heads
    ways = {"right": lambda x: x.reshape(B, -1, heads, d).transpose(1, 2), "channels": lambda x: x.reshape(B, heads, d, -1).transpose(2, 3),
            "tokens": lambda x: x.reshape(B, heads, -1, d), "combed": lambda x: x.reshape(B, -1, d, heads).permute(0, 3, 1, 2)}
    back = {"right": lambda h: h.transpose(1, 2).reshape(B, N, C), "channels": lambda h: h.transpose(2, 3).reshape(B, N, C),
            "tokens": lambda h: h.reshape(B, N, C), "combed": lambda h: h.permute(0, 2, 3, 1).reshape(B, N, C)}
    q, k, v = ways[split if mix_queries else "right"](q), ways[split](k), ways[split](v)
    scores = q @ k.transpose(2, 3) * scale(d, C)
    return back[merge]((scores if axis is None else scores.softmax(axis)) @ v)


def judge_attention(f: Callable) -> None:
    """2.6: cross_attention(q, k, v, heads), without mixing tokens and channels."""
    q, k, v, heads, order = draws(2, 6, 8), draws(2, 5, 8, seed=12), draws(2, 5, 8, seed=13), 2, [3, 0, 4, 1, 2]
    try:
        got = function(f)(q, k, v, heads)
    except RuntimeError as error:
        if "view" in str(error) and "stride" in str(error):
            raise Wrong("`view` refuses a tensor that was transposed: use reshape there, after the transpose") from None
        if "is invalid for input of size" in str(error):
            raise Wrong(f"a reshape does not fit ({error}): q has N = 6 tokens here, k and v have L = 5 words") from None
        raise
    mixed = {f"{s} {m} {mq}": attend(q, k, v, heads, s, m, mix_queries=mq) for s in ("channels", "tokens") for m in ("right", "channels", "tokens") for mq in (True, False)}
    moved = (attend(q, k[:, order], v[:, order], heads, "channels", "channels") - attend(q, k, v, heads, "channels", "channels")).abs().max()
    mistakes = {
        "the heads are combed out of the channels: head h must take the d *neighbouring* channels h * d ... h * d + d - 1, as the library's does": attend(q, k, v, heads, "combed", "combed"),
        "the heads are combed out of the channels, and put back in another order": attend(q, k, v, heads, "combed"),
        "the heads are split well, but put back without a transpose: (B, heads, N, d) must become (B, N, heads, d) before the reshape to (B, N, C)": attend(q, k, v, heads, merge="tokens"),
        "the heads are split well, but put back as (heads, d, N), which is another order than (N, C)": attend(q, k, v, heads, merge="channels"),
        "the scores are not divided by sqrt(d)": attend(q, k, v, heads, scale=lambda d, C: 1.0),
        "you divide by sqrt(C); each head's vectors have only d = C / heads channels": attend(q, k, v, heads, scale=lambda d, C: C**-0.5),
        "you divide by d; its square root is right": attend(q, k, v, heads, scale=lambda d, C: 1 / d),
        "you multiply the scores by sqrt(d); divide": attend(q, k, v, heads, scale=lambda d, C: d**0.5),
        "the softmax runs over the queries: for each query the weights of the *tokens* must add up to 1": attend(q, k, v, heads, axis=-2),
        "the softmax runs over the heads: for each query the weights of the *tokens* must add up to 1": attend(q, k, v, heads, axis=1),
        "the softmax is missing": attend(q, k, v, heads, axis=None),
        "that is a single head: split the channels into `heads` parts first": attend(q, k, v, 1),
        "keys and values have changed places": attend(q, v, k, heads),
    }
    if torch.is_tensor(got) and got.shape == q.shape:
        for name, result in mixed.items():
            if torch.allclose(got.double(), result, rtol=1e-4, atol=1e-5):
                split, merge, _ = name.split()
                if split == "channels":
                    raise Wrong(f"reshape from (B, L, C) to (B, heads, d, L) cuts the memory in another order, so tokens and channels are mixed: with the tokens in another order the tutorial's answer moves by {moved:.2f}. "
                                "Split the last axis first, then transpose")
                raise Wrong("reshape from (B, L, C) to (B, heads, L, d) gives the first head the first *tokens*, not the first channels: go by (B, L, heads, d), then transpose(1, 2)")
    change = 0.0
    if torch.is_tensor(got) and got.shape == q.shape:
        change = (f(q, k[:, order], v[:, order], heads) - got).abs().max().item()
    compare(got, attend(q, k, v, heads), mistakes, otherwise=f"with the tokens in another order your answer moves by {change:.2g}; it must not move: look at every reshape" if change > 1e-4
            else "the order of the tokens leaves your answer alone, as it must; but the values are not softmax(q k^T / sqrt(d)) v for each head: compare with one head first")
    compare(function(f)(q[:1], k[:1], v[:1], 4), attend(q[:1], k[:1], v[:1], 4), {}, otherwise="right for 2 heads, wrong for 4: does a number of heads stand in your code?")


def judge_equivariance(f: Callable) -> None:
    """2.7: equivariance_error(block, x, order), one number. Batch, tokens and channels are 6 each, so that any axis can be shuffled."""
    x, order, weight, positions = draws(6, 6, 6), torch.tensor([2, 0, 3, 1, 5, 4]), draws(6, 6, seed=12), draws(6, 6, 6, seed=13)
    mixes = lambda x: torch.tanh(x @ weight) + x.mean(1, keepdim=True)
    placed = lambda x: mixes(x + positions) + 0.5 * positions
    asked = []

    def block(x: Tensor) -> Tensor:
        asked.append(x)
        return placed(x)

    kept = x.clone()
    got = function(f)(block, x, order)
    got = got if isinstance(got, bool) or torch.is_tensor(got) and got.dtype == torch.bool else number(got)
    if not torch.equal(x, kept):
        raise Wrong("your function changes the x it was given: x[:, order] makes a new tensor")
    if not asked:
        raise Wrong("the block was never asked: compare block(x[:, order]) with block(x)[:, order]")
    if isinstance(got, Tensor) and got.dtype == torch.bool or isinstance(got, bool):
        raise Wrong("return how large the difference is, a number, not whether it is small")
    back = order.argsort()
    moved, still = placed(x[:, order]), placed(x)
    gap = moved - still[:, order]
    compare(got, gap.abs().max(), {
        "you compare with block(x) as it was; that would be *in*variance. The answers must move along: block(x)[:, order]": (moved - still).abs().max(),
        "the answers move along in the wrong direction: if the input is x[:, order], the answers to compare with are block(x)[:, order], the same order": (moved - still[:, back]).abs().max(),
        "you shuffle the answers only; the block must see the shuffled tokens, x[:, order]": (still - still[:, order]).abs().max(),
        "you shuffle the images of the batch: tokens are axis 1, x[:, order]": (placed(x[order]) - still[order]).abs().max(),
        "you shuffle the channels: tokens are axis 1, x[:, order]": (placed(x[..., order]) - still[..., order]).abs().max(),
        "that is the mean difference; the largest is wanted": gap.abs().mean(),
        "without the absolute value a large negative difference does not count": gap.max(),
        "without the absolute value positive and negative differences cancel": gap.mean(),
        "that is the mean of the squares; the largest absolute value is wanted": gap.square().mean(),
        "that is the square of the largest difference": gap.square().max(),
        "that is a sum; the largest single difference is wanted": gap.abs().sum(),
        "that is the norm of the differences; the largest single one is wanted": gap.norm(),
        "you sum over an axis before taking the largest; each number counts by itself": gap.abs().sum(1).max(),
        "that is relative to the size of the answers; the plain difference is wanted": gap.abs().max() / still.abs().max(),
    }, otherwise="the largest of |block(x[:, order]) - block(x)[:, order]| is wanted, with the order that was given")
    if number(f(mixes, x, order)) > 1e-6:
        raise Wrong("for a block that treats all tokens alike the error must be zero (up to rounding); yours is not")


@contextlib.contextmanager
def one_thread():
    """On a busy machine two threads take turns waiting for each other, a hundred times longer than such small layers need."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def judge_thickness(f: Callable) -> None:
    """2.8: thickness_input(emb_dim) -> a module (emb, thickness) -> emb + what the thickness adds; trained here for 300 small steps."""
    with one_thread(), torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        net = function(f)(16)
        if net is None:
            raise Wrong("your function returned None: does it end with `return`?")
        if not isinstance(net, nn.Module):
            raise Wrong(f"return a module, an object of a class that inherits from nn.Module; got {'the class itself: add brackets' if isinstance(net, type) else type(net).__name__}")
        emb, s = torch.randn(200, 16), torch.linspace(1, 5, 200)
        try:
            got = net(emb, s)
        except RuntimeError as error:
            if "shapes cannot be multiplied" in str(error) or "size of tensor" in str(error):
                raise Wrong("the thickness has shape (B,), one number per image: s[:, None] makes it a batch (B, 1) that a linear layer can take") from None
            raise
        if not torch.is_tensor(got) or got.shape != emb.shape:
            raise Wrong(f"the module must return an embedding like emb, (200, 16); got {tuple(got.shape) if torch.is_tensor(got) else type(got).__name__}")
        weights = [p for p in net.parameters() if p.requires_grad]
        if not weights:
            raise Wrong("the module has no parameters to train: its layers must be made once, in __init__, and kept as attributes (self.net = ...)")
        if not got.requires_grad:
            raise Wrong("no gradient reaches the layers: no torch.no_grad() and no .detach() between them and the answer")
        change = (got - emb).detach()
        if not got.detach().any():
            raise Wrong("that is the thickness's part alone, zero at the start; the module must return emb plus it")
        if change.abs().max() > 1e-6:
            if torch.allclose(change, change[:1].expand_as(change), atol=1e-6):
                raise Wrong("at the start every embedding is moved by the same amount: the last layer's bias must start at zero, too (the library's `zero` does both)")
            raise Wrong(f"at the start the embedding already moves by up to {change.abs().max():.2f}: the last layer must start at zero, so that a trained network is not disturbed")
        target = ((s - 3) ** 2 / 2 + 0.3 * (s - 3) - 2 / 3)[:, None].expand(-1, 16)  # a curve that no straight line follows
        optimizer, losses = torch.optim.Adam(weights, lr=0.01), []
        for _ in range(300):
            loss = (net(emb, s) - emb - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        with torch.no_grad():
            added, other, half = net(emb, s) - emb, net(-emb, s) + emb, net(emb[:50], s[:50]) - emb[:50]
        if not torch.allclose(added[:50], half, atol=1e-3):
            raise Wrong("what is added to one image depends on the other images of the batch: no mean over the batch, no BatchNorm")
        if not torch.allclose(added, other, atol=1e-3):
            raise Wrong("what is added depends on emb itself; it must come from the thickness alone: emb + part(thickness), not a product")
        different = len((added[:, added.std(0).argmax()] * 1e5).round().unique())
        if different == 1:
            raise Wrong("after 300 steps the answer is still the same for every thickness: only the *last* layer may start at zero. Behind an inner layer of zeros nothing ever gets a gradient")
        if different <= 50:
            raise Wrong(f"200 thicknesses between 1 and 5 get only {different} different answers: thickness is a real number, do not round it")
        bend = added[2:] - 2 * added[1:-1] + added[:-2]
        if bend.abs().max() < 1e-4:
            raise Wrong("after 300 steps your answer is a straight line in the thickness: put a layer with a nonlinearity (nn.SiLU) in front of the last one")
        if losses[-1] > 0.3 * losses[0]:
            raise Wrong(f"300 steps of Adam leave {losses[-1] / losses[0]:.0%} of the error in learning a curve over thicknesses from 1 to 5: give the hidden layer more width (64); or is the thickness cut off or squashed first?")


SETTINGS = ("widths", "depth", "num_classes", "attend", "patch", "heads", "emb_dim", "dropout")


def judge_architecture(f: Callable) -> None:
    """2.9: architecture() -> (settings, measured). Costs are counted on networks without memory, so that any size can be judged."""
    if isinstance(f, nn.Module):
        raise Wrong("return the keyword arguments as a dict, dict(widths=..., ...), and your measurements; got a network")
    answer = f() if callable(f) else f
    if isinstance(answer, dict):
        within_budget(answer, "your choice")
        raise Wrong("the budget is kept and used; now defend your choice: return it together with what you measured, (settings, [(settings, loss), ...])")
    if not isinstance(answer, (tuple, list)) or len(answer) != 2 or not isinstance(answer[0], dict) or not isinstance(answer[1], (tuple, list)):
        raise Wrong(f"return two things, a dict of keyword arguments and a list of measurements [(settings, loss), ...]; got {type(answer).__name__}")
    chosen, measured = answer
    within_budget(chosen, "your choice")
    for pair in measured:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not isinstance(pair[0], dict):
            raise Wrong(f"each measurement is a pair (settings, loss); got {pair!r}")
        within_budget(pair[0], f"the candidate {pair[0]}")
        if not 0 < float(number(pair[1])) < 100:
            raise Wrong(f"the loss of {pair[0]} is {pair[1]}: a mean squared error is a positive number, and below 1 after a short training")
    if len({str(sorted(settings.items())) for settings, _ in measured}) < 3:
        raise Wrong("compare three different candidates, or more: your choice and two others of the same cost")
    losses = [float(number(loss)) for settings, loss in measured if settings == chosen]
    if not losses:
        raise Wrong("your choice is not among the candidates that you measured")
    if len({round(float(number(loss)), 9) for _, loss in measured}) < len(measured):
        raise Wrong("two of your losses are equal to nine digits: was each candidate really trained?")
    best = min(measured, key=lambda pair: float(number(pair[1])))
    if min(losses) > float(number(best[1])):
        raise Wrong(f"by your own measurement {best[0]} is better than your choice ({float(number(best[1])):.3f} against {min(losses):.3f})")


def within_budget(settings: dict, name: str) -> None:
    """Whether a UNet with these keyword arguments can be built, and uses 85 to 100 % of the budget."""
    if "channels" in settings:
        raise Wrong("leave `channels` out: the digits have 1, and the check sets it")
    if settings.get("context_dim") or settings.get("extra_channels"):
        raise Wrong("no context_dim and no extra_channels: the network is given the image and the time (and a label, if you like)")
    unknown = [name for name in settings if name not in SETTINGS + ("context_dim", "extra_channels")]
    if unknown:
        raise Wrong(f"UNet has no keyword {unknown[0]!r}; it has {', '.join(SETTINGS)}")
    widths, depth, patch = settings.get("widths", (48, 96)), settings.get("depth", 1), settings.get("patch", 2)
    if not isinstance(widths, (tuple, list)) or not all(isinstance(w, int) and w > 0 for w in widths):
        raise Wrong(f"widths is a tuple of whole numbers, one for each level; got {widths!r}")
    if len(widths) < 2:
        raise Wrong(f"widths={tuple(widths)} is a single level: nothing is halved, and no pixel sees far; take two levels or more")
    if depth < 1:
        raise Wrong("depth=0 leaves no blocks on the way down and up, so no bridges either")
    multiple = patch * 2 ** (len(widths) - 1)
    if 28 % multiple:
        raise Wrong(f"patch={patch} and {len(widths)} levels divide height and width by {multiple}, and 28 is no multiple of it")
    try:
        with torch.device("meta"):
            cost = multiply_adds(UNet(1, **settings), torch.zeros(1, 1, 28, 28), torch.zeros(1))
    except ValueError as error:
        raise Wrong(str(error)) from None
    if cost > BUDGET:
        raise Wrong(f"{name} needs {cost / 1e6:.1f} million multiply-adds for one image; the budget is {BUDGET / 1e6:.0f} million")
    if cost < 0.85 * BUDGET:
        raise Wrong(f"{name} needs {cost / 1e6:.1f} million multiply-adds, {cost / BUDGET:.0%} of the budget; use at least 85 %: wider, deeper, or finer patches")


QUESTIONS = [
    Question("2.1", 2, judge_parameters, "nearly all of them sit in the two 3x3 convolutions, 9 weights for every pair of channels: twice the width is four times the weights",
             ("Go through __init__: norm1, conv1, emb, norm2, conv2, skip. Dropout has none.", "A convolution has k * k * in * out weights and out biases; a linear layer in * out and out; a norm 2 per channel.",
              "2 a + (9 a + 1) b + 2 (e + 1) b + 2 b + (9 b + 1) b, and (a + 1) b more where a != b")),
    Question("2.2", 3, judge_field, "each layer adds (kernel - 1) times the product of the strides before it: halving early is what lets a U-Net see far",
             ("How many input pixels apart are two neighbouring pixels of layer n's input?", "That spacing begins at 1 and is multiplied by each stride once its layer is done. A kernel of k spans k - 1 spacings.",
              "field, jump = 1, 1; for kernel, stride in layers: field += (kernel - 1) * jump; jump *= stride")),
    Question("2.3", 3, judge_time, "slow waves say roughly when, fast waves say it exactly",
             ("The frequencies are 10000 ** (-k / (half - 1)) for k = 0 ... half - 1.", "angles = 1000 * t[:, None] * frequencies has shape (B, half). An odd dim, or a dim below 4, is refused first.",
              "torch.cat([angles.sin(), angles.cos()], dim=1), with if dim < 4 or dim % 2: raise ValueError(...) at the top")),
    Question("2.4", 3, judge_wiring, "last in, first out: a list is all that a U-Net's bridges need",
             ("Keep a list. What is pushed last, and who needs it first?", "Down: block, push, shrink. Up: grow, join with the popped bridge, block.",
              "for grow, block in up: h = block(torch.cat([grow(h), bridges.pop()], dim=1), emb)")),
    Question("2.5", 3, judge_channels, "one running number, c, is all it takes: what comes up now",
             ("Walk from the deepest level up, and write down after each block how many channels h has.", "The bridges of a level have widths[level] channels; h has those of the block before, and the middle's at the start.",
              "c = widths[-1]; for w in reversed(widths): for _ in range(depth): pairs.append((c + w, w)); c = w")),
    Question("2.6", 3, judge_attention, "the context is a set of tokens: their order changes nothing. A shape that fits proves nothing, a permutation does",
             ("reshape only cuts the list of numbers anew; it never changes their order in memory. Which numbers lie side by side in (B, L, C)?",
              "Only the last axis may be cut: (B, L, C) -> (B, L, heads, d). Then transpose(1, 2). On the way back the same, reversed.",
              "split = lambda x: x.reshape(B, -1, heads, d).transpose(1, 2); softmax(q @ k.transpose(2, 3) / sqrt(d)) @ v; .transpose(1, 2).reshape(B, N, C)")),
    Question("2.7", 2, judge_equivariance, "shuffle, then ask, or ask, then shuffle: for attention it is the same, until positions are added",
             ("There are two ways: shuffle the tokens and ask the block, or ask the block and shuffle its answers.", "(block(x[:, order]) - block(x)[:, order]).abs().max()")),
    Question("2.8", 3, judge_thickness, "it starts without effect and learns a curve: a trained network can be given a new input without forgetting",
             ("One number per image becomes emb_dim numbers: the way of the time is a good model, waves or a hidden layer, nn.SiLU, then a linear layer.",
              "The last layer starts at zero (weight and bias), the layers before it must not: or no gradient would ever arrive.",
              "self.net = nn.Sequential(nn.Linear(1, 64), nn.SiLU(), zero(nn.Linear(64, emb_dim))); return emb + self.net(thickness[:, None])")),
    Question("2.9", 4, judge_architecture, "within the budget, using it, and the best of those that you measured",
             ("Start from UNet's defaults and print cost.multiply_adds: what does half the width do to it?", "Width enters squared, pixels enter once: patch=1 costs four times as much as patch=2 at the same widths.",
              "Near 25 million: dict(widths=(28, 56)), dict(widths=(22, 44), depth=2), and a narrow one on all pixels, dict(widths=(16, 24), patch=1). Which of them is good? Try them.")),
]
