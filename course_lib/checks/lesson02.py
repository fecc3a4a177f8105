"""The questions of lesson 2.

Each judge computes the right answer and the well-known wrong ones, and tells them apart.
"""
import contextlib
import math
import numbers
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..denoiser import Denoiser
from ..lab.data import mnist
from ..lab.evaluation.profiling import multiply_adds
from ..networks.layers import TimeEmbedding
from ..networks.unet import UNet
from .common import (
    COSINE,
    F64,
    Case,
    Question,
    Wrong,
    as_function,
    as_scalar,
    between,
    call_twice,
    compare,
    compare_case,
    draws,
    fill,
    forbidden,
    one_thread,
    reject_cut,
    reject_first,
    reject_if,
    reject_none,
    whole,
    wrong_answers,
)

# ---- 2.1: the parameters of a ResnetBlock

def parameters_case(a: int, b: int, e: int) -> Case:
    """A ResnetBlock(a, b, e): the weights and biases of its shortcut, all biases, all together."""
    shortcut = (a + 1) * b if a != b else 0
    convolutions = (9 * a + 1) * b + (9 * b + 1) * b
    norms = 2 * a + 2 * b
    right = norms + convolutions + 2 * (e + 1) * b + shortcut
    biases = 4 * b + (b if shortcut else 0)
    return Case(a=a, b=b, e=e, shortcut=shortcut, biases=biases, right=right)


PARAMETER_MISTAKES = {
    "right where the channels grow; but `shortcut` is a 1x1 convolution also where they become "
    "fewer":
        lambda c: c.right - c.shortcut if c.a > c.b else None,
    "the shortcut is missing: where the channels change, `shortcut` is a 1x1 convolution":
        lambda c: c.right - c.shortcut,
    "you count a `shortcut` convolution where in_channels equals out_channels; there it is the "
    "identity, without parameters":
        lambda c: c.right + (c.a + 1) * c.b,
    "`shortcut` is a 1x1 convolution; you count 3x3":
        lambda c: c.right + (8 * c.a * c.b if c.shortcut else 0),
    "the biases are missing: one per output channel of each convolution and of the linear layer":
        lambda c: c.right - c.biases,
    "the biases are missing, and the two norms' shifts with them":
        lambda c: c.right - c.biases - c.a - c.b,
    "the two norms are missing: each has a weight and a bias per channel":
        lambda c: c.right - 2 * c.a - 2 * c.b,
    "a norm has two parameters per channel, a weight and a bias":
        lambda c: c.right - c.a - c.b,
    "the first norm stands before conv1, so it has in_channels channels":
        lambda c: c.right - 2 * c.a + 2 * c.b,
    "the layer of the embedding is missing":
        lambda c: c.right - 2 * (c.e + 1) * c.b,
    "the layer of the embedding gives a scale and a shift: 2 * out_channels numbers":
        lambda c: c.right - (c.e + 1) * c.b,
    "the second convolution goes from out_channels to out_channels":
        lambda c: c.right - 9 * c.b * c.b + 9 * c.a * c.b,
    "a 3x3 convolution has 9 weights for each pair of channels":
        lambda c: c.right - 8 * c.a * c.b - 8 * c.b * c.b,
    "the second norm stands after conv1, so it has out_channels channels":
        lambda c: c.right + 2 * c.a - 2 * c.b,
    "the bias of `shortcut` is missing":
        lambda c: c.right - (c.b if c.shortcut else 0),
    "2 * out_channels are missing: the biases of both convolutions, those of the linear layer, or "
    "the second norm":
        lambda c: c.right - 2 * c.b,
    "the biases of the convolutions, of `shortcut`, too, are missing":
        lambda c: c.right - c.biases + 2 * c.b,
    "the first convolution goes from in_channels to out_channels":
        lambda c: c.right - 9 * c.a * c.b + 9 * c.a * c.a,
    "a 3x3 convolution has 9 weights for each pair of channels, not 3":
        lambda c: c.right - 6 * c.a * c.b - 6 * c.b * c.b,
    "a norm has a weight and a bias per *channel*, not per group":
        lambda c: c.right - 2 * c.a - 2 * c.b + 2 * (c.a // 16) + 2 * (c.b // 16),
    "a convolution has one bias per *output* channel":
        lambda c: c.right + c.a - c.b,
    "conv2 is missing":
        lambda c: c.right - (9 * c.b + 1) * c.b,
    "conv1 is missing":
        lambda c: c.right - (9 * c.a + 1) * c.b,
    "the layer of the embedding acts on the channels after conv1: 2 * out_channels numbers, not "
    "2 * in_channels":
        lambda c: c.right + 2 * (c.e + 1) * (c.a - c.b),
}
PARAMETERS_OTHERWISE = (
    "ResnetBlock({c.a}, {c.b}, {c.e}) has {c.right:,} parameters; you count another number: print "
    "p.numel() beside its name for block.named_parameters(), and look for what makes the "
    "difference")


def judge_parameters(f: Callable) -> None:
    """2.1: resnet_parameters(in_channels, out_channels, emb_dim), those of a ResnetBlock."""
    size = lambda: 8 * int(between(2, 12))
    same = size()
    random = ((size(), size(), size()), (same, same, size()))
    for sizes in ((32, 48, 20), (24, 24, 10), (48, 32, 12), *random):
        c = parameters_case(*sizes)
        with forbidden(nn.Module, "__init__", "count without building a block or a layer: the "
                       "point is to see where the numbers sit"):
            got = as_function(f)(c.a, c.b, c.e)
        reject_if((as_scalar(got) % 1, "the number of parameters is a whole number, neither in "
                   f"thousands nor a mean; got {as_scalar(got):g}"))
        whole(got, c.right, wrong_answers(PARAMETER_MISTAKES, c), fill(PARAMETERS_OTHERWISE, c))


# ---- 2.2: the receptive field

LAYERS = (                                                  # (kernel, stride), from the input on
    [(7, 1), (3, 2), (3, 1), (6, 3), (3, 1)],
    [(7, 2), (3, 3), (3, 1)],
    [(4, 4), (1, 1)],
)
LONG = [(3, 2)] * 9                                         # sees more than the 600 of `seen`


def field_of(layers: list[tuple[int, int]], less: int = 1, early: bool = False,
             stride: Callable = lambda jump, s: jump * s) -> int:
    """The receptive field of (kernel, stride) pairs, with switches for wrong versions."""
    field, jump = 1, 1
    for kernel, s in layers:
        after = stride(jump, s)
        field += (kernel - less) * (after if early else jump)
        jump = after
    return field


def backwards_without_brackets(layers: list[tuple[int, int]]) -> int:
    """A wrong walk from the output to the input."""
    field = 1
    for kernel, s in reversed(layers):
        field = field * s + kernel - 1
    return field


FIELD_MISTAKES = {
    "600 pixels are the width of the picture in `seen`; a formula has no such limit":
        lambda c: 600 if c.right > 600 else None,
    "kernels differ: use each layer's own, not 3 for all":
        lambda c: field_of([(3, s) for _, s in c.layers]),
    "you leave the strides out: after a stride of 2 neighbours are 2 input pixels apart, and a "
    "kernel reaches twice as far":
        lambda c: field_of(c.layers, stride=lambda jump, s: 1),
    "a layer's own stride acts only on the layers after it; multiply the spacing by it *after* "
    "you have used the spacing":
        lambda c: field_of(c.layers, early=True),
    "you use the product of all strides for every layer; a layer is spread only by the strides "
    "before it":
        lambda c: 1 + sum((k - 1) * c.strides for k, _ in c.layers),
    "strides multiply: two strides of 2 put neighbours 4 input pixels apart, not 3":
        lambda c: field_of(c.layers, stride=lambda jump, s: jump + s - 1),
    "you use only the stride just before; the spacing is the product of *all* strides before":
        lambda c: field_of(c.layers, stride=lambda jump, s: s),
    "without any layer a pixel sees one pixel, itself: start at 1":
        lambda c: c.right - 1,
    "you add the kernels up; neighbouring windows overlap":
        lambda c: sum(k for k, _ in c.layers),
    "a kernel of k adds k - 1 pixels, the middle one was seen already":
        lambda c: field_of(c.layers, less=0),
    "you walk from the output to the input with the formula for the other direction":
        lambda c: field_of(c.layers[::-1]),
    "that is the area; the width of the field in pixels is wanted":
        lambda c: c.right**2,
    "that is how far it sees to one side; both sides and the middle are wanted":
        lambda c: c.right // 2,
    "the kernels do not multiply: each adds (k - 1) times the spacing":
        lambda c: math.prod(k for k, _ in c.layers),
    "kernels of even size are taken for odd ones: a kernel of k adds k - 1, be k even or odd":
        lambda c: field_of([(2 * (k // 2) + 1, s) for k, s in c.layers]),
    "the last layer is left out":
        lambda c: field_of(c.layers[:-1]),
    "the first layer is left out":
        lambda c: field_of(c.layers[1:]),
    "from the output to the input it is (r - 1) * s + k, with brackets: r pixels have r - 1 gaps":
        lambda c: backwards_without_brackets(c.layers),
    "that is the spacing of the output pixels, the product of the strides":
        lambda c: c.strides,
}
FIELD_OTHERWISE = (
    "for {c.layers}, pairs of (kernel, stride), it is {c.right}{c.said}; measure with "
    "seen(layers[:n]) for n = 1, 2, ... and find the first layer that is wrong")


MEASURED = "that measures; your function must compute the field from the pairs, by a formula"


class Refuses(TorchFunctionMode):
    """Refuses torch's functions with one of these parts in their names, wherever they stand."""

    def __init__(self, parts: tuple[str, ...], words: str):
        super().__init__()
        self.parts = parts
        self.words = words

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        reject_if((any(part in name for part in self.parts), self.words))
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def no_convolution() -> Iterator[None]:
    """An answer that convolves in this context, with torch or numpy, is wrong."""
    with forbidden(np, "convolve", MEASURED), forbidden(np, "correlate", MEASURED):
        with Refuses(("conv", "pool", "unfold"), MEASURED):
            yield


def random_layers() -> list[tuple[int, int]]:
    """Five (kernel, stride) pairs; no kernel is smaller than its stride."""
    strides = [int(s) for s in between(1, 4, 5)]
    return [(s + int(more), s) for s, more in zip(strides, between(0, 4, 5))]


def judge_field(f: Callable) -> None:
    """2.2: receptive_field(layers), how many input pixels one output pixel can see."""
    for layers in (*LAYERS, random_layers(), LONG):
        strides = math.prod(s for _, s in layers)
        given = list(layers)
        with no_convolution():
            got = as_function(f)(given)
        reject_if((given != layers,
                   "your function changes the list it was given (`pop`, `reverse`, ...): work on a "
                   "copy"))
        said = f"; yours says {as_scalar(got):g}"
        c = Case(layers=layers, strides=strides, right=field_of(layers), said=said)
        whole(got, c.right, wrong_answers(FIELD_MISTAKES, c), fill(FIELD_OTHERWISE, c))


# ---- 2.3: the time embedding

TIMES = torch.tensor([0.0, 0.0012, 0.25, 0.613, 0.9])


def angles_of(t: Tensor, dim: int, scale: float = 1000.0, last: int = 1,
              power: float = 1.0) -> Tensor:
    """Angles (B, dim / 2) of a time embedding.

    The frequencies fall from 1 to 10000^-power in dim / 2 - last equal ratios.
    """
    half = dim // 2
    exponents = -power * torch.arange(half, dtype=F64) / (half - last)
    return scale * t.double()[:, None] * 10_000.0**exponents


def sinusoids(angles: Tensor) -> Tensor:
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def linear_angles(c: Case) -> Tensor:
    """Angles whose frequencies fall in equal steps."""
    return 1000 * TIMES.double()[:, None] * torch.linspace(1, 1e-4, c.half, dtype=F64)


def half_precision(c: Case) -> Tensor:
    """The right frequencies (dim / 2,), rounded to float16."""
    return angles_of(torch.ones(1), c.dim, scale=1.0)[0].half().double()


def right_time(c: Case) -> Tensor:
    return sinusoids(c.angles)


def time_of(t: Tensor, c: Case, scale: float = 1000.0) -> Tensor:
    return sinusoids(angles_of(t, c.dim, scale=scale))


TIME_MISTAKES = {
    "t runs from 0 to 1; without the factor of 1000 even the highest frequency turns by only one "
    "radian":
        lambda c: sinusoids(angles_of(TIMES, c.dim, scale=1.0)),
    "your frequencies stop short of 1/10000: with k = 0 ... half - 1, the last k / (half - 1) is 1":
        lambda c: sinusoids(angles_of(TIMES, c.dim, last=0)),
    "cosines come first; the library has the sines first":
        lambda c: torch.cat([c.angles.cos(), c.angles.sin()], dim=1),
    "sines and cosines alternate; the library has all sines, then all cosines":
        lambda c: torch.stack([c.angles.sin(), c.angles.cos()], dim=2).flatten(1),
    "your frequencies run from slow to fast; the first is 1, the last 1/10000":
        lambda c: sinusoids(c.angles.flip(1)),
    "you turn by 2 pi for each unit; the library's angle is 1000 * t * frequency, without 2 pi":
        lambda c: sinusoids(2 * math.pi * c.angles),
    "half - 1 needs brackets: -k / half - 1 is another exponent":
        lambda c: sinusoids(1e-4 * angles_of(TIMES, c.dim, last=0)),
    "your frequencies are in half precision: compute them in float32":
        lambda c: sinusoids(1000 * TIMES.double()[:, None] * half_precision(c)),
    "your exponent is k / dim, so the lowest frequency is about 1/100: divide by half - 1":
        lambda c: sinusoids(angles_of(TIMES, c.dim, last=-c.half)),
    "your frequencies fall by equal *steps*; they must fall by equal *ratios*, so that there are "
    "low ones, too":
        lambda c: sinusoids(linear_angles(c)),
    "these are the angles themselves; their sines and cosines are wanted":
        lambda c: torch.cat([c.angles, c.angles], dim=1),
    "the factor is 1000, not 999":
        lambda c: time_of(TIMES, c, 999.0),
    "your lowest frequency is 1/1000; it must be 1/10000":
        lambda c: sinusoids(angles_of(TIMES, c.dim, power=0.75)),
    "math.log10 where the natural logarithm is wanted: exp needs math.log":
        lambda c: sinusoids(angles_of(TIMES, c.dim, power=1 / math.log(10))),
    "t is rounded to whole steps of 1/1000; it is a real number":
        lambda c: time_of((1000 * TIMES).floor() / 1000, c),
    "t is rounded to the nearest step of 1/1000; it is a real number":
        lambda c: time_of((1000 * TIMES).round() / 1000, c),
    "you divide by the largest t of the batch; an example must not depend on the others":
        lambda c: time_of(TIMES / TIMES.max(), c),
    "a factor of sqrt(2) has slipped in: sines and cosines lie between -1 and 1":
        lambda c: math.sqrt(2) * sinusoids(c.angles),
    "half precision is too coarse for 1000 t: compute in float32":
        lambda c: time_of(TIMES.half().double(), c),
    "t was divided by 1000; multiply":
        lambda c: sinusoids(angles_of(TIMES, c.dim, scale=1e-3)),
}
TIME_OTHERWISE = ("print your frequencies: the first must be 1, the last 1/10000, and every ratio "
                  "of neighbours the same")
TIME_SUSPECTS = {
    "dim = {c.dim} numbers are wanted, {c.half} sines and {c.half} cosines; got {c.half} in all":
        lambda c: c.got.shape == (5, c.half),
    "dim = {c.dim} counts sines and cosines together: dim / 2 frequencies; got {c.double} numbers":
        lambda c: c.got.shape == (5, c.double),
    "rows and columns have changed places: one row for each time":
        lambda c: c.got.shape == (c.dim, 5),
    "dim = {c.dim} gives 64 numbers: is 64 hard-coded?":
        lambda c: c.dim != 64 and c.got.shape == (5, 64),
    "your numbers are whole numbers: t was rounded somewhere":
        lambda c: c.got.dtype in (torch.int32, torch.int64),
    "every time gets the same row: t differs from example to example":
        lambda c: c.got.shape == (5, c.dim) and torch.equal(c.got, c.got[:1].expand(5, -1)),
    "your frequencies grow from 1 to 10000: the exponent needs a minus":
        lambda c: c.got.shape == (5, c.dim) and grows(c.f, c.dim),
}


def grows(f: Callable, dim: int) -> bool:
    """Whether the frequencies grow from 1 to 10000.

    At t = 1e-6 even a frequency of 10000 turns only once, so that float32 can be compared.
    """
    tiny = torch.tensor([1e-6])
    growing = sinusoids(angles_of(tiny, dim, power=-1.0))
    return torch.allclose(f(tiny, dim).double(), growing, atol=1e-3)


def ask_time(f: Callable, dim: int) -> object:
    """The reader's embedding of TIMES. Raises Wrong if t[:, None] is missing, or t is changed."""
    try:
        return call_twice(f, TIMES, dim)
    except RuntimeError as error:
        if "size" in str(error):
            raise Wrong(f"t has shape (5,) and there are {dim // 2} frequencies: t[:, None] gives "
                        "every time a row of its own") from None
        raise


def check_refusal(f: Callable, dim: int) -> None:
    """Raise Wrong unless f raises ValueError for this dim."""
    try:
        got = f(TIMES.clone(), dim)
    except ValueError:
        return
    except (ArithmeticError, RuntimeError, AssertionError, TypeError) as error:
        raise Wrong(f"right for even dims; dim = {dim} must be refused with a ValueError, yours "
                    f"ends in {type(error).__name__}") from None
    came = repr(got)
    if torch.is_tensor(got):
        came = f"shape {tuple(got.shape)}"
        if not got.isfinite().all():
            came = f"nan, from 0 / 0 at half - 1 = {dim // 2 - 1}"
    raise Wrong(f"right for even dims; but dim = {dim} must be refused with a ValueError, and "
                f"yours silently gives {came}")


def check_small(f: Callable, dim: int) -> None:
    """Raise Wrong unless this small dim works."""
    try:
        got = ask_time(f, dim)
    except ValueError:
        raise Wrong(f"right for 12 and 64; but dim = {dim} must work, too: only an odd dim, and "
                    "one below 4, is refused") from None
    compare(got, sinusoids(angles_of(TIMES, dim)), rtol=0, atol=2e-3,
            otherwise=f"right for 12 and 64, but wrong for dim = {dim}: {dim // 2} sines, then "
            f"{dim // 2} cosines")


def check_ends(f: Callable) -> None:
    """Raise Wrong if a single time, or one of the ends 0 and 1, is refused."""
    for t in (0.0, 0.5, 1.0):
        try:
            f(torch.tensor([t]), 12)
        except ValueError as error:
            raise Wrong(f"t = {t:g} must work, too, for t is in [0, 1], both ends included; yours "
                        f"raises ValueError: {error}") from None


def check_single(f: Callable) -> None:
    """Raise Wrong unless a single time gives one row."""
    one = torch.tensor([0.613])
    got = f(one.clone(), 12)
    shape = tuple(np.shape(got))
    reject_if((shape != (1, 12), "right for five times; but a single one, t of shape (1,), must "
               f"give (1, 12), and yours gives {shape}: no squeeze()"))
    compare(got, sinusoids(angles_of(one, 12)), rtol=0, atol=2e-3,
            otherwise="right for five times, but wrong for a single one")


def judge_time(f: Callable) -> None:
    """2.3: time_embedding(t, dim), sines and cosines of 1000 t."""
    own = "write the sines and cosines yourself: the library's TimeEmbedding is good for comparing"
    with forbidden(TimeEmbedding, "__init__", own), forbidden(TimeEmbedding, "forward", own):
        judge_own_time(f)


def judge_own_time(f: Callable) -> None:
    check_ends(as_function(f))
    for dim in (12, 64):
        got = ask_time(f, dim)
        c = Case(f=f, got=got, dim=dim, half=dim // 2, double=2 * dim, angles=angles_of(TIMES, dim))
        if torch.is_tensor(got):
            reject_first(TIME_SUSPECTS, c)
        compare_case(got, c, right_time, TIME_MISTAKES, rtol=0, atol=2e-3, otherwise=TIME_OTHERWISE)
    check_single(f)
    for dim in (4, 6):
        check_small(f, dim)
    for dim in (7, 2, 3, 0):
        check_refusal(f, dim)


# ---- 2.4: the skip connections of a U-Net

def concat_skip(h: Tensor, skip: Tensor) -> Tensor:
    return torch.cat([h, skip], dim=1)


def wire(c: Case, *, middle: list | None = None, up: list | None = None, push: str = "output",
         pop: Callable = lambda skips, k: skips[-1 - k], combine: Callable = concat_skip,
         shrinks: bool = True, grows: bool = True, late_growth: bool = False,
         early_shrink: bool = False, last_growth: bool = False) -> Tensor:
    """The forward pass of a small U-Net, with switches for its well-known wrong versions."""
    h, skips = c.x, []
    for block, shrink in c.down:
        output = block(shrink(h) if early_shrink else h, c.emb)
        smaller = shrink(output) if shrinks and not early_shrink else output
        skips.append({"input": h, "output": output, "shrunk": smaller}[push])
        h = smaller
    for block in c.middle if middle is None else middle:
        h = block(h, c.emb)
    for k, (grow, block) in enumerate(c.up if up is None else up):
        h = grow(h) if grows and not (late_growth or last_growth) else h
        h = combine(h, pop(skips, k))
        h = block(grow(h) if late_growth else h, c.emb)
        h = grow(h) if last_growth else h
    return h


class ToyBlock(nn.Module):
    """A block of a U-Net that checks its input: (2, in_channels, side, side) -> (2, 3, side, side)

    It lets 3 channels through where 6 are due (no skip connection was concatenated): the
    comparison names that mistake. same_sizes: no level halves, any shape of side^2 pixels is fine.
    """

    def __init__(self, in_channels: int, side: int, name: str, seed: int, same_sizes: bool):
        super().__init__()
        self.in_channels = in_channels
        self.side = side
        self.name = name
        self.same_sizes = same_sizes
        self.weight = nn.Parameter(draws(3, in_channels, seed=seed).float())

    def is_untouched(self) -> bool:
        return self.training and self.weight.requires_grad and self.weight._version == 0

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        self.check(h)
        mixed = torch.einsum("oc,bchw->bohw", self.weight[:, :h.shape[1]], h)
        return torch.tanh(mixed + emb[:, :, None, None])

    def check(self, h: Tensor) -> None:
        given = f"{self.name} was given {tuple(h.shape)}"
        if h.ndim == 4 and h.shape[0] == 1:
            raise Wrong(f"{given}: one image, of a batch of 2")
        if h.ndim != 4 or h.shape[0] != 2:
            raise Wrong(f"{given} for 2 images: concatenate along axis 1, the channels")
        if h.shape[1] not in (3, self.in_channels):
            raise Wrong(f"{self.name} takes {self.in_channels} channels; it was given "
                        f"{tuple(h.shape)}")
        pixels = h.shape[2:].numel()
        due = self.side**2
        if h.shape[2:] == (self.side, self.side) or self.same_sizes and pixels == due:
            return
        if h.shape[1] == 3 and self.in_channels == 6 and pixels == 2 * due:
            raise Wrong(f"{given}, its height or width is doubled: concatenate along axis 1, the "
                        "channels")
        raise Wrong(f"{given}, and its level is {self.side} x {self.side}")


def wiring_case(levels: int, halve: bool, size: int = 8) -> Case:
    """The parts of a U-Net in lists, and its inputs."""
    sides = [size // 2**k if halve else size for k in range(levels + 1)]

    def shrink(h: Tensor) -> Tensor:
        return F.avg_pool2d(h, 2) if halve else 0.8 * h.roll(1, 2)

    def grow(h: Tensor) -> Tensor:
        return F.interpolate(h, scale_factor=2.0) if halve else 1.2 * h.roll(1, 3)

    def block(in_channels: int, k: int, name: str, seed: int) -> ToyBlock:
        return ToyBlock(in_channels, sides[k], name, seed, not halve)

    down = [(block(3, k, f"the block of level {k} on the way down", 20 + k), shrink)
            for k in range(levels)]
    middle = [block(3, levels, f"block {k} of the middle", 30 + k) for k in range(3)]
    up = [(grow, block(6, k, f"the block of level {k} on the way up", 40 + k))
          for k in reversed(range(levels))]
    x = draws(2, 3, size, size).float()
    emb = draws(2, 3, seed=12).float()
    return Case(x=x, emb=emb, down=down, middle=middle, up=up)


def without_deepest_step(c: Case) -> Tensor:
    """The deepest level is not shrunk, and the first block on the way up not grown."""
    keep = lambda h: h
    down = [*c.down[:-1], (c.down[-1][0], keep)]
    up = [(keep, c.up[0][1]), *c.up[1:]]
    return wire(case_with(c, down=down, up=up))


def halved_power(h: Tensor, skip: Tensor) -> Tensor:
    """A wrong concatenation: the skip is divided by sqrt(2)."""
    return concat_skip(h, skip / math.sqrt(2))


def residual_middle(c: Case) -> Tensor:
    """Each block of the middle is wrapped in a shortcut."""
    wrapped = lambda block: lambda h, emb: h + block(h, emb)
    return wire(c, middle=[wrapped(block) for block in c.middle])


WIRING_MISTAKES = {
    "the skips come in the order in which they were pushed; the last one pushed belongs to the "
    "smallest image, so pop from the end":
        lambda c: wire(c, pop=lambda skips, k: skips[k]),
    "every block on the way up gets the same, last skip: pop takes it off the list, skips[-1] "
    "does not":
        lambda c: wire(c, pop=lambda skips, k: skips[-1]),
    "every block on the way up gets the first skip":
        lambda c: wire(c, pop=lambda skips, k: skips[0]),
    "the skip comes first and h second; the blocks expect h in front: "
    "torch.cat([h, skip], dim=1)":
        lambda c: wire(c, combine=lambda h, skip: concat_skip(skip, h)),
    "you add the skip to h; it must be concatenated: torch.cat along axis 1":
        lambda c: wire(c, combine=lambda h, skip: h + skip),
    "no skip connection reaches the way up: torch.cat([h, skips.pop()], dim=1) before each block":
        lambda c: wire(c, combine=lambda h, skip: h),
    "h is concatenated with itself; the other half is the skip":
        lambda c: wire(c, combine=lambda h, skip: concat_skip(h, h)),
    "you push what goes *into* the block; push its output":
        lambda c: wire(c, push="input"),
    "you push after shrinking; push the block's output while it still has the level's size":
        lambda c: wire(c, push="shrunk"),
    "`up` begins at the deepest level already: go through it as it is, not reversed":
        lambda c: wire(c, up=c.up[::-1]),
    "you reverse `up`, which begins at the deepest level already, and take the skips from the "
    "first level on":
        lambda c: wire(c, up=c.up[::-1], pop=lambda skips, k: skips[k]),
    "you push after shrinking, and grow the skip, too; push the block's output while it still has "
    "the level's size":
        lambda c: wire(c, push="shrunk", late_growth=True),
    "the skip is divided by sqrt(2); it must be concatenated as it is":
        lambda c: wire(c, combine=halved_power),
    "all blocks of the middle are given the same input; each takes what the one before it gives":
        lambda c: wire(c, middle=c.middle[-1:]),
    "a block's input is added to its output in the middle; no such shortcut was asked for":
        residual_middle,
    "the middle is left out":
        lambda c: wire(c, middle=[]),
    "only the first block of the middle is used":
        lambda c: wire(c, middle=c.middle[:1]),
    "only the first two blocks of the middle are used":
        lambda c: wire(c, middle=c.middle[:2]),
    "the blocks of the middle are used twice":
        lambda c: wire(c, middle=c.middle * 2),
    "the blocks of the middle are used in reverse order":
        lambda c: wire(c, middle=c.middle[::-1]),
    "emb is given to the blocks as it is, without SiLU (the library's U-Net does that outside)":
        lambda c: wire(case_with(c, emb=F.silu(c.emb))),
    "emb is left out: the blocks are given zeros":
        lambda c: wire(case_with(c, emb=torch.zeros_like(c.emb))),
    "all images are given the first image's emb":
        lambda c: wire(case_with(c, emb=c.emb[:1].expand_as(c.emb))),
    "all images are given the mean of the batch's emb":
        lambda c: wire(case_with(c, emb=c.emb.mean(0).expand_as(c.emb))),
    "x is added to the output; no such shortcut was asked for":
        lambda c: wire(c) + c.x,
    "the last block on the way up is left out":
        lambda c: wire(c, up=c.up[:-1]),
    "two levels are hard-coded; there are len(down)":
        lambda c: wire(case_with(c, down=c.down[:2], up=c.up[:2])) if len(c.down) > 2 else None,
    "every level shrinks and grows here, the deepest, too":
        without_deepest_step,
    "nothing shrinks on the way down":
        lambda c: wire(c, shrinks=False),
    "nothing grows on the way up":
        lambda c: wire(c, grows=False),
    "you concatenate first and grow afterwards: the skip has the larger size already":
        lambda c: wire(c, late_growth=True),
    "you shrink before the block on the way down; the block comes first":
        lambda c: wire(c, early_shrink=True),
    "you grow after the block on the way up; grow first, then concatenate":
        lambda c: wire(c, last_growth=True),
    "skips[-k] begins at skips[0], since -0 is 0: the last one is skips[-1], or skips.pop()":
        lambda c: wire(c, pop=lambda skips, k: skips[-k]),
    "the skip connections are shifted by one level":
        lambda c: wire(c, pop=lambda skips, k: skips[-2 - k] if k + 2 <= len(skips) else skips[0]),
    "you return before the way up":
        lambda c: wire(c, up=[]),
}
WIRING_OTHERWISE = ("the values differ: write down, for three levels, which block gets which skip, "
                    "and compare with your loop")


def blocks_of(c: Case) -> list[ToyBlock]:
    return [block for block, _ in c.down] + c.middle + [block for _, block in c.up]


def reject_unpacking(error: ValueError) -> None:
    """Raise Wrong if the answer unpacked another number of levels than there are."""
    reject_if(("to unpack" in str(error), "does a number of levels stand in your code? There may "
               f"be two, three or more ({error})"))


def ask_wiring(f: Callable, c: Case) -> object:
    """The reader's forward pass. Raises Wrong if its inputs were changed or sizes do not fit."""
    lists = c.down, c.middle, c.up
    parts = [list(given) for given in lists]
    x, emb = c.x.clone(), c.emb.clone()
    try:
        got = as_function(f)(x, emb, *parts)
    except TypeError as error:
        if "'emb'" in str(error):
            raise Wrong("every block is called with two arguments, block(h, emb), on the way "
                        "down, in the middle and on the way up") from None
        raise
    except ValueError as error:
        reject_unpacking(error)
        raise
    except RuntimeError as error:
        if "Sizes of tensors must match" in str(error):
            raise Wrong("a skip does not have the size of what it is concatenated with: grow "
                        "first, then concatenate with the skip of the same level, the last one "
                        "pushed") from None
        raise
    taken = any(len(part) != len(given) for part, given in zip(parts, lists))
    reject_if((taken,
               "your function takes parts out of the lists it was given: a second image would find "
               "nothing left; pop only from your own list of skips"))
    other = any(a is not b for part, given in zip(parts, lists) for a, b in zip(part, given))
    reject_if((other, "your function changes the lists it was given (`reverse`, or something put "
               "in): leave them as they are"),
              (not (torch.equal(x, c.x) and torch.equal(emb, c.emb)),
               "your function changes x or emb itself: compute new tensors"),
              (not all(block.is_untouched() for block in blocks_of(c)),
               "your function changes the blocks themselves (eval, requires_grad_, their weights): "
               "call them, and leave them as they are"))
    return got


def check_gradients(f: Callable, c: Case) -> None:
    """Raise Wrong unless the same gradient as in the right wiring reaches x and emb."""
    given = [c.x.clone().requires_grad_(), c.emb.clone().requires_grad_()]
    got = f(*given, list(c.down), list(c.middle), list(c.up))
    reject_cut(got, given, "right, but a gradient does not reach x and emb: no torch.no_grad() and "
               "no .detach() in a network")
    again = f(*given, list(c.down), list(c.middle), list(c.up))
    right = wire(case_with(c, x=given[0], emb=given[1]))
    pairs = zip(*(torch.autograd.grad(out.sum(), given) for out in (again, right)))
    reject_if((any(not torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in pairs),
               "right, but only part of the gradient reaches x and emb: no .detach() and no .data "
               "on the skips or anywhere else"))


def judge_wiring(f: Callable) -> None:
    """2.4: through(x, emb, down, middle, up), the skip connections of a U-Net.

    First without a change of size, so that any wiring runs.
    """
    c = wiring_case(3, halve=False)
    compare_case(ask_wiring(f, c), c, wire, WIRING_MISTAKES, otherwise=WIRING_OTHERWISE)
    for levels in (2, 3):
        c = wiring_case(levels, halve=True)
        compare(ask_wiring(f, c), wire(c), otherwise="right where no size changes, but wrong with "
                "halving: use the shrink and the grow of each level, once")
    check_gradients(f, c)


# ---- 2.5: the channels of the way up

def plan(widths: tuple[int, ...], depth: int, coming: Callable = lambda c, w: c,
         skip: Callable = lambda w, first: w) -> list[tuple[int, int]]:
    """(in, out) of the blocks on the way up, with switches for well-known wrong versions.

    coming(c, w): channels from the block before; skip(w, first): channels of the skip connection.
    """
    pairs, c = [], widths[-1]
    for w in reversed(widths):
        for k in range(depth):
            pairs.append((coming(c, w) + skip(w, k == 0), w))
            c = w
    return pairs


def tutorial_plan(c: Case) -> list[tuple[int, int]]:
    narrower = lambda w: c.widths[max(c.widths.index(w) - 1, 0)]
    return [(2 * w, narrower(w) if k == c.depth - 1 else w)
            for w in reversed(c.widths) for k in range(c.depth)]


def without_middle(c: Case) -> list[tuple[int, int]]:
    """The right plan, but nothing comes from the middle into the first block."""
    (first_in, first_out), *others = c.right
    return [(first_in - c.widths[-1], first_out), *others]


def deeper_inputs(c: Case) -> list[tuple[int, int]]:
    """Every block of a level is given the deeper level's width."""
    deeper = (c.widths[-1], *c.widths[:0:-1])
    return [(d + w, w) for w, d in zip(reversed(c.widths), deeper) for _ in range(c.depth)]


def down_plan(c: Case) -> list[tuple[int, int]]:
    """(in, out) of the blocks on the way down."""
    before = (c.widths[0], *c.widths)
    return [(b if k == 0 else w, w) for w, b in zip(c.widths, before) for k in range(c.depth)]


def plan_by_index(c: Case) -> list[tuple[int, int]]:
    """A level is looked up by its width, so that of two levels of one width the first is found."""
    pairs = []
    for w in reversed(c.widths):
        level = c.widths.index(w)
        deeper = c.widths[level + 1] if level + 1 < len(c.widths) else w
        pairs += [(deeper + w, w)] + [(2 * w, w)] * (c.depth - 1)
    return pairs


def narrowing_plan(c: Case) -> list[tuple[int, int]]:
    """As in the tutorial, in every block."""
    narrower = (*c.widths[-2::-1], c.widths[0])
    return [(2 * w, n) for w, n in zip(reversed(c.widths), narrower) for _ in range(c.depth)]


def doubling_plan(c: Case) -> list[tuple[int, int]]:
    """Each level is thought to be twice as wide as the one above."""
    deepest = len(c.widths) - 1
    return [(3 * w if k == 0 and level < deepest else 2 * w, w)
            for level, w in reversed(list(enumerate(c.widths))) for k in range(c.depth)]


def bottom_plan(c: Case) -> list[tuple[int, int]]:
    """The first block of every level is thought to take what the bottleneck gives."""
    return [(c.widths[-1] + w if k == 0 else 2 * w, w)
            for w in reversed(c.widths) for k in range(c.depth)]


CHANNEL_MISTAKES = {
    "two levels may have the same width, and widths.index finds the first of them: go by the "
    "level's number":
        lambda c: plan_by_index(c) if len(set(c.widths)) < len(c.widths) else None,
    "do not sort the widths: a deeper level may be narrower":
        lambda c: plan(sorted(c.widths), c.depth) if list(c.widths) != sorted(c.widths) else None,
    "that is the tutorial's plan: a block narrows to the next level's width, and so does the "
    "layer after it, which expects the wide one":
        tutorial_plan,
    "you double each level's width; but what comes up into the first block of a level still has "
    "the *deeper* level's width":
        lambda c: plan(c.widths, c.depth, coming=lambda before, w: w),
    "you leave out the skip connections: each block takes what comes up *and* a skip":
        lambda c: plan(c.widths, c.depth, skip=lambda w, first: 0),
    "only the first block of each level gets a skip; the way down pushed one per block, so each "
    "block on the way up has its own":
        lambda c: plan(c.widths, c.depth, skip=lambda w, first: w if first else 0),
    "your list begins at the first level; the way up begins at the deepest":
        lambda c: c.right[::-1],
    "in and out have changed places":
        lambda c: [(b, a) for a, b in c.right],
    "what comes out of the middle is missing for the very first block":
        without_middle,
    "you count both blocks' inputs with the deeper level's width; after its first block a level "
    "has its own":
        deeper_inputs,
    "that is the way down: (in, out) of the blocks whose outputs are the skips":
        down_plan,
    "you go through the widths as they stand; the way up begins at the deepest level, widths[-1]":
        lambda c: plan(c.widths[::-1], c.depth),
    "that is the tutorial's plan: its blocks narrow to the next level's width; a block's output "
    "has its own level's":
        narrowing_plan,
    "you take it that each level is twice as wide as the one above; use the widths that are given":
        doubling_plan,
    "what comes up into a level is the output of the level just below, not of the bottleneck":
        bottom_plan,
    "a depth of 2 is hard-coded":
        lambda c: plan(c.widths, 2) if c.depth != 2 else None,
    "each level has `depth` blocks; you plan one":
        lambda c: plan(c.widths, 1),
    "each level has `depth` blocks; you plan one more":
        lambda c: plan(c.widths, c.depth + 1),
    "two blocks may have the same channels: each needs its own entry":
        lambda c: list(dict.fromkeys(c.right)),
    "the deepest level has blocks on the way up, too":
        lambda c: c.right[c.depth:],
}


def pairs_of_integers(got: object) -> list[tuple[int, int]]:
    reject_none(got)
    try:
        return [(int(a), int(b)) for a, b in got]
    except (TypeError, ValueError):
        raise Wrong("a list of pairs (in, out) is wanted, such as [(32, 16), (16, 8)]; "
                    f"got {got!r}") from None


def first_difference(got: list[tuple[int, int]], c: Case) -> str:
    """The first block whose channels do not fit, in words."""
    if len(got) != len(c.right):
        return (f"widths {c.widths} with depth {c.depth} have {len(c.right)} blocks on the way up, "
                f"one for each skip; got {len(got)}")
    k = next(k for k, pair in enumerate(got) if pair != c.right[k])
    (a, b), (due, w) = got[k], c.right[k]
    block = f"widths {c.widths}, depth {c.depth}: block {k} (counted from 0) on the way up"
    if a != due:
        return f"{block} is given {due - w} + {w} = {due} channels, and yours expects {a}"
    return f"{block} must give its level's {w} channels; yours gives {b}"


def ask_channels(f: Callable, widths: tuple[int, ...], depth: int) -> object:
    try:
        return as_function(f)(widths, depth)
    except ValueError as error:
        reject_unpacking(error)
        raise


def check_widths_kept(f: Callable) -> None:
    """Raise Wrong if a list of widths is changed. An answer for tuples alone is fine."""
    given = [8, 24]
    with contextlib.suppress(TypeError, AttributeError):
        f(given, 1)
    reject_if((given != [8, 24], "right; but your function changes a list of widths that it is "
               "given (`pop`, `reverse`, ...): work on a copy"))


def judge_channels(f: Callable) -> None:
    """2.5: up_channels(widths, depth), a list of (in, out) that fits."""
    for widths, depth in (((16, 40, 64), 2), ((8, 24), 1), ((10, 10, 20, 20), 3),
                          ((8, 24, 8, 12), 2)):
        c = Case(widths=widths, depth=depth, right=plan(widths, depth))
        got = pairs_of_integers(ask_channels(f, widths, depth))
        if got == c.right:
            continue
        for diagnosis, wrong in CHANNEL_MISTAKES.items():
            reject_if((got == wrong(c), diagnosis))
        raise Wrong(first_difference(got, c))
    check_widths_kept(f)


# ---- 2.6: multi-head cross-attention

def split_channels(x: Tensor, heads: int) -> Tensor:
    """(B, L, C) -> (B, heads, L, d): head h takes d neighbouring channels"""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def split_mixed(x: Tensor, heads: int) -> Tensor:
    """The tutorial's wrong split, by a reshape to (B, heads, d, L)"""
    B, L, C = x.shape
    return x.reshape(B, heads, C // heads, L).transpose(2, 3)


def split_tokens(x: Tensor, heads: int) -> Tensor:
    """A wrong split, by a reshape to (B, heads, L, d)"""
    B, L, C = x.shape
    return x.reshape(B, heads, L, C // heads)


def split_interleaved(x: Tensor, heads: int) -> Tensor:
    """A wrong split: head h takes the channels h, h + heads, h + 2 heads, ..."""
    return x.unflatten(2, (-1, heads)).permute(0, 3, 1, 2)


SPLITS = {
    "right": split_channels,
    "channels": split_mixed,
    "tokens": split_tokens,
    "interleaved": split_interleaved,
}
MERGES = {                                                  # (B, heads, N, d) -> (B, N, C)
    "right": lambda h, shape: h.transpose(1, 2).reshape(shape),
    "channels": lambda h, shape: h.transpose(2, 3).reshape(shape),
    "tokens": lambda h, shape: h.reshape(shape),
    "interleaved": lambda h, shape: h.permute(0, 2, 3, 1).reshape(shape),
    "reversed": lambda h, shape: h.flip(1).transpose(1, 2).reshape(shape),
}


def attend(c: Case, *, split: str = "right", merge: str = "right", mix_queries: bool = True,
           scale: Callable = lambda d, C: d**-0.5, axis: int | tuple[int, ...] | None = -1,
           causal: bool = False, averaged: bool = False) -> Tensor:
    """Multi-head attention, with switches for its well-known wrong versions."""
    C = c.q.shape[2]
    q = SPLITS[split if mix_queries else "right"](c.q, c.heads)
    k = SPLITS[split](c.k, c.heads)
    v = SPLITS[split](c.v, c.heads)
    scores = q @ k.transpose(2, 3) * scale(C // c.heads, C)
    if causal:
        scores = scores.masked_fill(torch.ones_like(scores).triu(1) > 0, -math.inf)
    powers = scores.exp()
    weights = scores if axis is None else powers / powers.sum(axis, keepdim=True)
    weights = weights.mean(1, keepdim=True) if averaged else weights
    return MERGES[merge](weights @ v, c.q.shape)


def case_with(c: Case, **changes: object) -> Case:
    return Case(**{**vars(c), **changes})


def swapped_heads(c: Case) -> Case:
    """As many heads as a head has channels."""
    return case_with(c, heads=c.q.shape[2] // c.heads)


ATTENTION_MISTAKES = {
    "the heads are interleaved: head h must take the d *neighbouring* channels h * d ... "
    "h * d + d - 1, as the library's does":
        lambda c: attend(c, split="interleaved", merge="interleaved"),
    "the heads are interleaved, and put back in another order":
        lambda c: attend(c, split="interleaved"),
    "the heads are split well, but put back without a transpose: (B, heads, N, d) must become "
    "(B, N, heads, d) before the reshape to (B, N, C)":
        lambda c: attend(c, merge="tokens"),
    "the heads are split well, but put back as (heads, d, N), which is another order than (N, C)":
        lambda c: attend(c, merge="channels"),
    "the scores are not divided by sqrt(d)":
        lambda c: attend(c, scale=lambda d, C: 1.0),
    "you divide by sqrt(C); each head's vectors have only d = C / num_heads channels":
        lambda c: attend(c, scale=lambda d, C: C**-0.5),
    "you divide by d; its square root is right":
        lambda c: attend(c, scale=lambda d, C: 1 / d),
    "you multiply the scores by sqrt(d); divide":
        lambda c: attend(c, scale=lambda d, C: d**0.5),
    "the softmax runs over the queries: for each query the weights of the *tokens* must add up "
    "to 1":
        lambda c: attend(c, axis=-2),
    "the softmax runs over the heads: for each query the weights of the *tokens* must add up to 1":
        lambda c: attend(c, axis=1),
    "the softmax runs over heads and tokens together: for each query of each head the weights of "
    "the *tokens* must add up to 1":
        lambda c: attend(c, axis=(1, -1)),
    "the softmax is missing":
        lambda c: attend(c, axis=None),
    "that is a single head: split the channels into `num_heads` parts first":
        lambda c: attend(case_with(c, heads=1)),
    "that is a single head, with the sqrt(d) of several: split the channels into `num_heads` parts "
    "first":
        lambda c: attend(case_with(c, heads=1), scale=lambda d, C: (C / c.heads) ** -0.5),
    "num_heads and d have changed places: there are num_heads heads of d channels":
        lambda c: attend(swapped_heads(c)),
    "num_heads and d have changed places, but for the sqrt(d): there are num_heads heads of d "
    "channels":
        lambda c: attend(swapped_heads(c), scale=lambda d, C: (C / c.heads) ** -0.5),
    "the heads come out in reverse order":
        lambda c: attend(c, merge="reversed"),
    "the weights are averaged over the heads; each head has its own":
        lambda c: attend(c, averaged=True),
    "the heads are split well, but put back as (d, heads): head 0 must come first, with all its "
    "d channels":
        lambda c: attend(c, merge="interleaved"),
    "you divide by sqrt(num_heads); d is the number of channels of a head":
        lambda c: attend(c, scale=lambda d, C: (C / d) ** -0.5),
    "you divide by the root of the number of tokens; d is the number of channels of a head":
        lambda c: attend(c, scale=lambda d, C: c.k.shape[1] ** -0.5),
    "the softmax runs over the batch: for each query the weights of the *tokens* must add up to 1":
        lambda c: attend(c, axis=0),
    "a causal mask: here every query may attend to all tokens":
        lambda c: attend(c, causal=True),
    "you add q to the result; only the attention is wanted":
        lambda c: c.q + attend(c),
    "the keys are taken for the values, too":
        lambda c: attend(case_with(c, v=c.k)),
    "the values are taken for the keys, too":
        lambda c: attend(case_with(c, k=c.v)),
    "all images are given the first image's words":
        lambda c: attend(case_with(
            c, k=c.k[:1].expand_as(c.k), v=c.v[:1].expand_as(c.v))),
    "q and k are brought to length 1; only the division by sqrt(d) is wanted":
        lambda c: attend(case_with(
            c, q=F.normalize(c.q, dim=-1), k=F.normalize(c.k, dim=-1))),
    "keys and values have changed places":
        lambda c: attend(case_with(c, k=c.v, v=c.k)),
}
MIXED = (
    "reshape from (B, L, C) to (B, heads, d, L) cuts the memory in another order, so tokens and "
    "channels are mixed: with the tokens in another order the tutorial's answer moves by "
    "{c.moved:.2f}. Split the last axis first, then transpose")
TOKENS_SPLIT = (
    "reshape from (B, L, C) to (B, heads, L, d) gives the first head the first *tokens*, not the "
    "first channels: go by (B, L, heads, d), then transpose(1, 2)")
NOT_ONE = ("for each query of each head the weights of the tokens must add up to 1: where all "
           "values are 1 the output is 1, and yours is off by up to {c.off:.2g}")
TOO_COARSE = ("right to about two digits only: compute in float32, not in half precision, and with "
              "no eps in the softmax")
ORDER_MATTERS = ("with the tokens in another order your answer moves by {c.moved:.2g}; it must not "
                 "move: look at every reshape")
ORDER_IS_FINE = (
    "the order of the tokens leaves your answer alone, as it must; but the values are not "
    "softmax(q k^T / sqrt(d)) v for each head: compare with one head first")


def ask_attention(f: Callable, c: Case) -> object:
    """The reader's answer. Raises Wrong if a view or a reshape fails."""
    fused = ("write the softmax yourself: torch's fused function, its nn.MultiheadAttention, and "
             "the library's, are forbidden")
    names = ("scaled_dot_product", "multi_head_attention", "multihead_attention")
    whole_layer = forbidden(F, "multi_head_attention_forward", fused)
    try:
        with forbidden(F, "scaled_dot_product_attention", fused), whole_layer, \
                Refuses(names, fused):
            return call_twice(f, c.q.float(), c.k.float(), c.v.float(), c.heads)
    except RuntimeError as error:
        if "view" in str(error) and "stride" in str(error):
            raise Wrong("`view` refuses a tensor that was transposed: use reshape there, after the "
                        "transpose") from None
        if "is invalid for input of size" in str(error):
            raise Wrong(f"a reshape does not fit ({error}): q has N = 6 tokens here, k and v have "
                        "L = 5 words") from None
        raise


def reordered(c: Case) -> Case:
    """The same context, with its tokens in another order."""
    order = [3, 0, 4, 1, 2]
    return case_with(c, k=c.k[:, order], v=c.v[:, order])


def mixed_answers(c: Case, split: str) -> Iterator[Tensor]:
    """What a wrong split gives with every way of putting the heads back."""
    for merge in ("right", "channels", "tokens"):
        yield attend(c, split=split, merge=merge)
        yield attend(c, split=split, merge=merge, mix_queries=False)


def reject_mixing(got: Tensor, c: Case) -> None:
    """Raise Wrong if the heads were split by a reshape alone."""
    tutorial = lambda c: attend(c, split="channels", merge="channels")
    moved = (tutorial(reordered(c)) - tutorial(c)).abs().max()
    for split, words in (("channels", fill(MIXED, Case(moved=moved))), ("tokens", TOKENS_SPLIT)):
        for answer in mixed_answers(c, split):
            reject_if((torch.allclose(got.double(), answer, rtol=1e-4, atol=1e-5), words))


def attention_otherwise(f: Callable, c: Case, got: Tensor, moved: float) -> str:
    """The diagnosis of an answer whose mistake is in no table."""
    if (got - attend(c)).abs().max() < 0.03:
        return TOO_COARSE
    if moved > 1e-4:
        return fill(ORDER_MATTERS, Case(moved=moved))
    ones, zeros = (ask_attention(f, case_with(c, v=torch.full_like(c.v, x))) for x in (1, 0))
    off = (ones - zeros - 1).abs().max().item()
    return fill(NOT_ONE, Case(off=off)) if off > 1e-3 else ORDER_IS_FINE


def judge_attention(f: Callable) -> None:
    """2.6: cross_attention(q, k, v, heads), without mixing tokens and channels."""
    c = Case(q=draws(2, 6, 8), k=draws(2, 5, 8, seed=12), v=draws(2, 5, 8, seed=13), heads=2)
    got = ask_attention(f, c)
    otherwise = ORDER_IS_FINE
    if torch.is_tensor(got) and got.shape == c.q.shape:
        reject_mixing(got, c)
        other = reordered(c)
        moved = (ask_attention(f, other) - got).abs().max().item()
        otherwise = attention_otherwise(f, c, got, moved)
    compare_case(got, c, attend, ATTENTION_MISTAKES, otherwise=otherwise)
    one = Case(q=c.q[:1], k=c.k[:1], v=c.v[:1], heads=4)
    compare(ask_attention(f, one), attend(one), otherwise="right for 2 heads, wrong for 4: "
            "does a number of heads stand in your code?")
    given = [x.float().requires_grad_() for x in (c.q, c.k, c.v)]
    reject_cut(f(*given, 2), given, "right, but a gradient does not reach q, k and v: no "
               "torch.no_grad() and no .detach() in a layer")


# ---- 2.7: permutation equivariance

WEIGHT_OF_2_7 = draws(6, 6, seed=12)
POSITIONS_OF_2_7 = draws(6, 6, seed=13)


def equivariant_block(x: Tensor) -> Tensor:
    """A block that treats all tokens alike."""
    return torch.tanh(x @ WEIGHT_OF_2_7.to(x)) + x.mean(1, keepdim=True)


def positioned_block(x: Tensor) -> Tensor:
    """A block that adds positions, before and after. Its largest difference is negative."""
    positions = POSITIONS_OF_2_7.to(x)
    return -equivariant_block(x + positions) - 0.5 * positions


def equivariance_case() -> Case:
    """Batch, tokens and channels are 6 each, so that any axis can be shuffled.

    The largest difference is in neither the first image nor the first token, and negative.
    """
    x = draws(6, 6, 6, seed=26).float()
    order = torch.tensor([2, 0, 3, 1, 5, 4])
    moved = positioned_block(x[:, order])
    still = positioned_block(x)
    return Case(x=x, order=order, moved=moved, still=still, gap=moved - still[:, order])


def right_equivariance(c: Case) -> Tensor:
    return c.gap.abs().max()


NEVER_SHUFFLED_MISTAKES = {
    "you shuffle the outputs only; the block must be given the shuffled tokens, x[:, order]":
        lambda c: (c.still - c.still[:, c.order]).abs().max(),
    "that is 0, although the block has positions: you shuffle nothing, or the images of the batch. "
    "Tokens are axis 1, x[:, order]":
        lambda c: 0.0,
    "you shuffle the channels: tokens are axis 1, x[:, order]":
        lambda c: (positioned_block(c.x[..., c.order]) - c.still[..., c.order]).abs().max(),
    "the tokens are shuffled twice before the block, and once after it":
        lambda c: (positioned_block(c.x[:, c.order][:, c.order])
                   - c.still[:, c.order]).abs().max(),
}
EQUIVARIANCE_MISTAKES = {
    "you compare with block(x) as it was; that would be *in*variance. The outputs must move "
    "along: block(x)[:, order]":
        lambda c: (c.moved - c.still).abs().max(),
    "the outputs move along in the wrong direction: if the input is x[:, order], the outputs to "
    "compare with are block(x)[:, order], the same order":
        lambda c: (c.moved - c.still[:, c.order.argsort()]).abs().max(),
    "that is the mean difference; the largest is wanted":
        lambda c: c.gap.abs().mean(),
    "without the absolute value a large negative difference does not count":
        lambda c: c.gap.max(),
    "without the absolute value positive and negative differences cancel":
        lambda c: c.gap.mean(),
    "that is the mean of the squares; the largest absolute value is wanted":
        lambda c: c.gap.square().mean(),
    "that is the square of the largest difference":
        lambda c: c.gap.square().max(),
    "that is a sum; the largest single difference is wanted":
        lambda c: c.gap.abs().sum(),
    "that is the norm of the differences; the largest single one is wanted":
        lambda c: c.gap.norm(),
    "that is the root of the mean square; the largest single difference is wanted":
        lambda c: c.gap.square().mean().sqrt(),
    "that is the smallest difference; the largest is wanted":
        lambda c: c.gap.abs().min(),
    "the differences are added up before the absolute value is taken":
        lambda c: c.gap.sum().abs(),
    "that is a mean over the images; the largest of all numbers is wanted":
        lambda c: c.gap.abs().amax((1, 2)).mean(),
    "only the first image is looked at":
        lambda c: c.gap[0].abs().max(),
    "only the first token is looked at":
        lambda c: c.gap[:, 0].abs().max(),
    "you compare the output with the input x; compare it with block(x)[:, order]":
        lambda c: (c.moved - c.x[:, c.order]).abs().max(),
    "that is a difference of two maxima; take the differences first, then the largest":
        lambda c: (c.moved.abs().max() - c.still.abs().max()).abs(),
    "you sum over an axis before taking the largest; each number counts by itself":
        lambda c: c.gap.abs().sum(1).max(),
    "you sum over the channels before taking the largest; each number counts by itself":
        lambda c: c.gap.abs().sum(2).max(),
    "the channels' differences are added up, and cancel, before the absolute value is taken":
        lambda c: c.gap.sum(2).abs().max(),
    "the differences of all images are added up before the absolute value is taken":
        lambda c: c.gap.sum(0).abs().max(),
    "that is relative to the size of the outputs; the plain difference is wanted":
        lambda c: c.gap.abs().max() / c.still.abs().max(),
}


def is_bool(got: object) -> bool:
    return isinstance(got, (bool, np.bool_)) or torch.is_tensor(got) and got.dtype == torch.bool


NEVER_GIVEN = ("the block was never given x[:, order], with the order that you were given: draw "
               "none of your own")
LARGEST = ("the largest of |block(x[:, order]) - block(x)[:, order]| is wanted, with the order "
           "that was given")


def ask_equivariance(f: Callable, c: Case, calls: list[Tensor]) -> object:
    """The reader's number; `calls` collects what the block is given."""
    def block(x: Tensor) -> Tensor:
        calls.append(x.detach().clone())
        return positioned_block(x)

    given = c.x.clone()
    try:
        got = as_function(f)(block, given, c.order)
    except NotImplementedError:
        raise
    except (IndexError, RuntimeError) as error:
        reject_if((not calls, "your answer stops before it calls the block that it was given: use "
                   "the arguments block, x and order, not the sheet's dit, tokens and order "
                   f"({type(error).__name__}: {error})"))
        reject_if((calls[-1].shape[1:] != c.x.shape[1:],
                   f"the block was given {tuple(calls[-1].shape)}, and x is {tuple(c.x.shape)}: "
                   "use the argument x, not the sheet's tokens"))
        raise
    got = got if is_bool(got) else as_scalar(got)
    reject_if(
        (not torch.equal(given, c.x),
         "your function changes the x it was given: x[:, order] makes a new tensor"),
        (not calls,
         "the block was never called: compare block(x[:, order]) with block(x)[:, order]"),
        (is_bool(got), "return how large the difference is, a number, not whether it is small"))
    return got


def was_shuffled(calls: list[Tensor], c: Case) -> bool:
    """Whether the block was given each image of x[:, order]."""
    seen = [call for call in calls if call.shape[1:] == c.x.shape[1:]]
    if not seen:
        return False
    seen = torch.cat([call.to(c.x) for call in seen])       # (n, 6, 6)
    return all((row == seen).flatten(1).all(1).any() for row in c.x[:, c.order])


def judge_equivariance(f: Callable) -> None:
    """2.7: equivariance_error(block, x, order), one number."""
    c = equivariance_case()
    calls = []
    got = ask_equivariance(f, c, calls)
    shuffled = was_shuffled(calls, c)
    mistakes = EQUIVARIANCE_MISTAKES if shuffled else NEVER_SHUFFLED_MISTAKES
    compare_case(got, c, right_equivariance, mistakes,
                 otherwise=LARGEST if shuffled else NEVER_GIVEN)
    reject_if((not shuffled, NEVER_GIVEN))
    small = f(lambda x: 0.01 * positioned_block(x), c.x.clone(), c.order)
    compare(as_scalar(small), 0.01 * right_equivariance(c), rtol=1e-3, atol=1e-7,
            otherwise="right for a large difference, but a small one counts as well: no rounding "
            "and no threshold")
    if as_scalar(f(equivariant_block, c.x.clone(), c.order)) > 1e-5:
        raise Wrong("for a block that treats all tokens alike the error must be zero (up to "
                    "rounding); yours is not")


# ---- 2.8: a new input for a trained network

def build_module(f: Callable) -> nn.Module:
    net = as_function(f)(16)
    reject_none(net)
    if not isinstance(net, nn.Module):
        came = type(net).__name__
        came = "the class itself: add brackets" if isinstance(net, type) else came
        raise Wrong("return a module, an object of a class that inherits from nn.Module; "
                    f"got {came}")
    reject_if((type(net).forward is nn.Module.forward,
               "your module has no forward(self, emb, thickness)"))
    return net


def embed_thickness(net: nn.Module, emb: Tensor, thickness: Tensor) -> Tensor:
    """The module's first output. Raises Wrong if it is not an embedding like emb."""
    given, numbers_given = emb.clone(), thickness.clone()
    try:
        got = net(given, numbers_given)
    except RuntimeError as error:
        if "size of tensor" in str(error) and "(200)" not in str(error):
            raise Wrong(f"thickness_input(16) must make a part of 16 numbers: use emb_dim, not a "
                        f"number of your own ({error})") from None
        if "shapes cannot be multiplied" in str(error) or "size of tensor" in str(error):
            raise Wrong("the thickness has shape (B,), one number per image: s[:, None] makes it a "
                        "batch (B, 1) that a linear layer can take") from None
        raise
    if not torch.is_tensor(got) or got.shape != emb.shape:
        came = tuple(got.shape) if torch.is_tensor(got) else type(got).__name__
        raise Wrong(f"the module must return an embedding like emb, (200, 16); got {came}")
    reject_if((given.requires_grad or not torch.equal(given, emb),
               "your module changes emb itself (an operation such as `emb += ...`): return a new "
               "tensor"),
              (not torch.equal(numbers_given, thickness),
               "your module changes thickness itself (an operation such as `thickness -= ...`): "
               "compute a new tensor"))
    return got


def leaves(out: Tensor) -> list[Tensor]:
    """The tensors that a gradient from `out` arrives at."""
    found, seen, todo = [], set(), [out.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        todo += [before for before, _ in node.next_functions]
        found += [node.variable] if hasattr(node, "variable") else []
    return found


def is_stray(got: Tensor, parameters: list[Tensor]) -> bool:
    """Whether a gradient reaches weights that are not among the parameters."""
    known = {id(p) for p in parameters}
    return any(id(leaf) not in known for leaf in leaves(got))


def check_fresh(f: Callable, net: nn.Module) -> None:
    """Raise Wrong if a second call gives a module with the weights of the first."""
    first = {id(p) for p in net.parameters()}
    reject_if((any(id(p) in first for p in f(16).parameters()),
               "a second call of thickness_input gives the weights of the first, which are trained "
               "by now: make new layers in each call"))


START_SUSPECTS = {
    "all parameters are frozen (requires_grad is False): the module could not learn":
        lambda c: c.parameters and not c.weights,
    "the module has no parameters to train: its layers must be made once, in __init__, and kept "
    "as attributes (self.net = ...)":
        lambda c: not c.weights,
    "no gradient reaches the layers: use them in forward, in training mode, too, with no "
    "torch.no_grad() and no .detach() between them and the output":
        lambda c: not c.got.requires_grad,
    "a layer that forward uses is not among the module's parameters, so it is neither trained nor "
    "saved: keep layers as attributes or in nn.ModuleList, not in a plain list":
        lambda c: is_stray(c.got, c.parameters),
    "that is the thickness's part alone, zero at the start; the module must return emb plus it":
        lambda c: not c.got.detach().any(),
    "at the start every embedding is moved by the same amount: the last layer's bias must start "
    "at zero, too (the library's `zero_init` does both)":
        lambda c: c.largest > 1e-6 and torch.allclose(
            c.change, c.change[:1].expand_as(c.change), atol=1e-6),
    "at the start the embedding already moves by up to {c.largest:.2g}: the last layer must start "
    "at zero, so that a trained network is not disturbed":
        lambda c: c.largest > 1e-6,
    "only the first call returns emb unchanged; the next one moves it, before any training":
        lambda c: c.later > 1e-6,
}
LEARNED_SUSPECTS = {
    "what is added to one image depends on the other images of the batch: no mean over the "
    "batch, no BatchNorm":
        lambda c: not torch.allclose(c.added[:50], c.in_small_batch, atol=1e-3),
    "what is added depends on emb itself; it must come from the thickness alone: "
    "emb + part(thickness), not a product":
        lambda c: not torch.allclose(c.added, c.to_other_emb, atol=1e-3),
    "after 300 steps the output is still the same for every thickness: only the *last* layer may "
    "start at zero. Behind an inner layer of zeros nothing ever gets a gradient":
        lambda c: c.different == 1 and c.stuck,
    "after 300 steps the output is the same for every thickness, although the layers learn: does "
    "each image's own thickness reach them, neither cut off nor squashed to one value?":
        lambda c: c.different == 1,
    "all channels of an embedding get the same added: the last layer needs emb_dim outputs":
        lambda c: c.added.std(1).max() < 1e-6,
    "200 thicknesses between 1 and 5 get only {c.different} different outputs: thickness is a "
    "real number, do not round it":
        lambda c: c.different <= 50,
    "after 300 steps your output is a straight line in the thickness: put a layer with a "
    "nonlinearity (nn.SiLU) in front of the last one":
        lambda c: second_difference(c.added).abs().max() < 1e-4,
    "the thinnest tenth of all thicknesses between 1 and 5, or the thickest, gets one and the same "
    "output: is the thickness cut off or squashed first?":
        lambda c: is_flat(c.added[:20]) or is_flat(c.added[-20:]),
    "300 steps of Adam leave {c.left:.0%} of the error in learning a curve over thicknesses from 1 "
    "to 5: give the hidden layer more width (64), and multiply its output by no small factor":
        lambda c: c.left > 0.3,
    "no gradient reaches `{c.idle[0]}`, one of the module's own layers: no .detach() and no "
    "torch.no_grad() behind it, and no layer that forward leaves out":
        lambda c: c.idle,
    "after net.eval() your module adds the same for every thickness: the part must be there in "
    "eval mode, too":
        lambda c: is_flat(c.in_eval),
    "a batch of one, emb (1, 16) and thickness (1,), must give (1, 16), too; yours gives "
    "{c.single}: no squeeze()":
        lambda c: c.single != (1, 16),
}


def is_flat(added: Tensor) -> bool:
    """Whether all these images (n, emb_dim) have the same added to their embedding."""
    return bool((added - added[:1]).abs().max() < 1e-4)


def second_difference(values: Tensor) -> Tensor:
    return values[2:] - 2 * values[1:-1] + values[:-2]


def train_thickness(net: nn.Module, weights: list, emb: Tensor, thickness: Tensor) -> float:
    """Train the module for 300 steps; -> last loss / first loss"""
    s = thickness - 3
    # a curve that no straight line follows
    curve = (s**2 / 2 + 0.3 * s - 2 / 3)[:, None]
    target = curve * torch.tensor([1.0, -0.5]).repeat(8)
    optimizer = torch.optim.Adam(weights, lr=0.01)
    losses = []
    for _ in range(300):
        loss = (net(emb, thickness) - emb - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses[-1] / losses[0]


@torch.no_grad()
def learned_case(net: nn.Module, emb: Tensor, thickness: Tensor, left: float) -> Case:
    """What the trained module adds, to 200 images, to 50 of them, and to other embeddings."""
    added = net(emb, thickness) - emb
    widest = added[:, added.std(0).argmax()]
    in_small_batch = net(emb[:50], thickness[:50]) - emb[:50]
    to_other_emb = net(-emb, thickness) + emb
    net.eval()
    in_eval = net(emb, thickness) - emb
    single = tuple(net(emb[:1], thickness[:1]).shape)
    net.train()
    return Case(
        added=added,
        to_other_emb=to_other_emb,
        in_small_batch=in_small_batch,
        in_eval=in_eval,
        single=single,
        idle=[name for name, p in net.named_parameters() if p.requires_grad and p.grad is None],
        different=len((widest * 1e5).round().unique()),
        stuck=any(not p.any() for p in net.parameters()),
        left=left,
    )


def judge_thickness(f: Callable) -> None:
    """2.8: thickness_input(emb_dim) -> a module (emb, thickness) -> emb + part(thickness).

    It is trained here for 300 small steps.
    """
    with one_thread(), torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        net = build_module(f)
        emb = torch.randn(200, 16)
        thickness = torch.linspace(1, 5, 200)
        got = embed_thickness(net, emb, thickness)
        weights = [p for p in net.parameters() if p.requires_grad]
        change = (got - emb).detach()
        reject_first(START_SUSPECTS, Case(
            weights=weights, parameters=list(net.parameters()), got=got, change=change,
            largest=change.abs().max(), later=(net(emb, thickness) - emb).abs().max()))
        leaf = emb.clone().requires_grad_()
        reject_cut(net(leaf, thickness), [leaf], "no gradient reaches emb: the layers before would "
                   "not be trained any more; add to emb itself, without .detach()")
        left = train_thickness(net, weights, emb, thickness)
        reject_first(LEARNED_SUSPECTS, learned_case(net, emb, thickness, left))
        check_fresh(f, net)


# ---- 2.9: a network within a budget

BUDGET = 25_000_000                         # multiply-adds for one image of 28 x 28
SETTINGS = ("widths", "depth", "num_classes", "attention_levels", "patch_size", "num_heads",
            "emb_dim", "dropout")


def settings_and_measurements(answer: object) -> tuple:
    """The two parts of the answer. Raises Wrong if one is missing."""
    if isinstance(answer, dict):
        within_budget(answer, "your choice")
        raise Wrong("the budget is kept and used; now defend your choice: return it together with "
                    "what you measured, (settings, [(settings, loss), ...])")
    pair = isinstance(answer, (tuple, list)) and len(answer) == 2
    if not pair or not isinstance(answer[0], dict) or not isinstance(answer[1], (tuple, list)):
        raise Wrong("return two things, a dict of keyword arguments and a list of measurements "
                    f"[(settings, loss), ...]; got {kind_of(answer)}")
    return tuple(answer)


def kind_of(answer: object) -> str:
    """The answer's type, and the types of its parts if it is a pair."""
    if not isinstance(answer, (tuple, list)) or len(answer) != 2:
        return type(answer).__name__
    return f"({type(answer[0]).__name__}, {type(answer[1]).__name__})"


def checked_measurement(pair: object) -> tuple[dict, float]:
    """One measurement. Raises Wrong if it is no pair, or its loss is no loss."""
    if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not isinstance(pair[0], dict):
        raise Wrong(f"each measurement is a pair (settings, loss); got {pair!r}")
    settings = with_tuples(pair[0])
    reject_if((pair[1] is None or isinstance(pair[1], str),
               f"the loss of {settings} is {pair[1]!r}: measure it, and give it as a number"))
    loss = float(as_scalar(pair[1]))
    if not 0 < loss < 10:
        raise Wrong(f"the loss of {settings} is {pair[1]}: a mean squared error is a positive "
                    "number, and below 1 after a short training")
    return settings, loss


def with_tuples(settings: dict) -> dict:
    """The same settings, with tuples in place of lists, so that they can be compared."""
    return {key: tuple(v) if isinstance(v, list) else v for key, v in settings.items()}


def fits_budget(settings: dict) -> bool:
    try:
        within_budget(settings, "")
    except Wrong:
        return False
    return True


def compare_candidates(chosen: dict, measured: list[tuple[dict, float]]) -> float:
    """The loss of the chosen one. Raises Wrong unless it is the best of three or more."""
    losses = [loss for settings, loss in measured if settings == chosen]
    different = {str(sorted(settings.items())) for settings, _ in measured}
    reject_if(
        (len(different) < 3, "compare three different candidates within the budget, or more: your "
         "choice and two others of the same cost"),
        (not losses, "your choice is not among the candidates that you measured"),
        (len({round(loss, 9) for _, loss in measured}) < len(different),
         "two of your losses are equal to nine digits: was each candidate really trained?"))
    settings, lowest = min(measured, key=lambda pair: pair[1])
    if min(losses) > lowest:
        raise Wrong(f"by your own measurement {settings} is better than your choice "
                    f"({lowest:.3f} against {min(losses):.3f})")
    return min(losses)


def measured_loss(settings: dict, steps: int = 30, batch_size: int = 16) -> float:
    """The sheet's function of this name, with its first seed."""
    digits = mnist("test")[0]
    with one_thread():
        torch.manual_seed(0)
        D = Denoiser(UNet(1, **settings), COSINE, target="v")
        optimizer = torch.optim.Adam(D.parameters(), lr=3e-3)
        for _ in range(steps):
            x0 = digits[torch.randint(8000, (batch_size,))]
            loss = D.loss(x0, torch.rand(batch_size)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        torch.manual_seed(99)
        with torch.no_grad():
            return D.loss(digits[-300:], torch.linspace(0, 1, 300)).mean().item()


def measure_again(chosen: dict, loss: float) -> None:
    """Raise Wrong if the loss is not what a training of the chosen one gives, whatever its seed."""
    again = measured_loss(chosen)
    reject_if((not 1 / 1.4 < loss / again < 1.4,
               f"trained again for 30 steps, your choice has a loss of {again:.2f}, and you say "
               f"{loss:.2f}: return what measured_loss returned"))


def within_budget(settings: dict, name: str) -> None:
    """Raise Wrong unless UNet(1, **settings) can be built and uses 85 to 100 % of the budget."""
    check_keywords(settings)
    check_levels(settings)
    try:
        with torch.device("meta"):
            net = UNet(1, **settings)
            cost = multiply_adds(net, torch.zeros(1, 1, 28, 28), torch.zeros(1))
    except ValueError as error:
        raise Wrong(str(error)) from None
    needs = f"{name} needs {cost / 1e6:.1f} million multiply-adds"
    if cost > BUDGET:
        raise Wrong(f"{needs} for one image; the budget is {BUDGET / 1e6:.0f} million")
    if cost < 0.85 * BUDGET:
        raise Wrong(f"{needs}, {cost / BUDGET:.0%} of the budget; use at least 85 %: wider, "
                    "deeper, or finer patches")


def check_keywords(settings: dict) -> None:
    unknown = [key for key in settings if key not in SETTINGS + ("context_dim", "extra_channels")]
    if "channels" in settings:
        raise Wrong("leave `channels` out: the digits have 1, and the check sets it")
    if settings.get("context_dim") or settings.get("extra_channels"):
        raise Wrong("no context_dim and no extra_channels: the network is given the image and the "
                    "time (and a label, if you like)")
    if unknown:
        raise Wrong(f"UNet has no keyword {unknown[0]!r}; it has {', '.join(SETTINGS)}")


def check_levels(settings: dict) -> None:
    widths = settings.get("widths", (48, 96))
    patch_size = settings.get("patch_size", 2)
    tuple_of_integers = isinstance(widths, (tuple, list)) and all(
        isinstance(w, numbers.Integral) and w > 0 for w in widths)
    if not tuple_of_integers:
        raise Wrong(f"widths is a tuple of whole numbers, one for each level; got {widths!r}")
    if len(widths) < 2:
        raise Wrong(f"widths={tuple(widths)} is a single level: nothing is halved, and no pixel "
                    "sees far; take two levels or more")
    if settings.get("depth", 1) < 1:
        raise Wrong("depth=0 leaves no blocks on the way down and up, so no skip connections "
                    "either")
    multiple = patch_size * 2 ** (len(widths) - 1)
    if 28 % multiple:
        raise Wrong(f"patch_size={patch_size} and {len(widths)} levels divide height and width by "
                    f"{multiple}, and 28 is no multiple of it")


def judge_architecture(f: Callable) -> None:
    """2.9: architecture() -> (settings, measured). The chosen network is trained again.

    Multiply-adds are counted on networks without memory, so that any size can be judged.
    Measurements of candidates outside the budget do not count.
    """
    if isinstance(f, nn.Module):
        raise Wrong("return the keyword arguments as a dict, dict(widths=..., ...), and your "
                    "measurements; got a network")
    chosen, measured = settings_and_measurements(f() if callable(f) else f)
    within_budget(chosen, "your choice")
    measured = [checked_measurement(pair) for pair in measured]
    inside = [pair for pair in measured if fits_budget(pair[0])]
    measure_again(chosen, compare_candidates(with_tuples(chosen), inside))


QUESTIONS = [
    Question(
        "2.1", 2, judge_parameters,
        "nearly all of them sit in the two 3x3 convolutions, 9 weights for every pair of "
        "channels: twice the width is four times the weights",
        ("Go through __init__: norm1, conv1, emb, norm2, conv2, shortcut. Dropout has none.",
         "A convolution has k * k * in * out weights and out biases; a linear layer in * out and "
         "out; a norm 2 per channel.",
         "2 a + (9 a + 1) b + 2 (e + 1) b + 2 b + (9 b + 1) b, and (a + 1) b more where a != b")),
    Question(
        "2.2", 3, judge_field,
        "each layer adds (kernel - 1) times the product of the strides before it: halving early "
        "is what lets a U-Net see far",
        ("How many input pixels apart are two neighbouring pixels of layer n's input?",
         "That spacing begins at 1 and is multiplied by each stride once its layer is done. A "
         "kernel of k spans k - 1 spacings.",
         "field, jump = 1, 1; for kernel, stride in layers: field += (kernel - 1) * jump; "
         "jump *= stride")),
    Question(
        "2.3", 3, judge_time,
        "low frequencies say roughly when, high frequencies say it exactly",
        ("The frequencies are 10000 ** (-k / (half - 1)) for k = 0 ... half - 1.",
         "angles = 1000 * t[:, None] * frequencies has shape (B, half). An odd dim, or a dim below "
         "4, is refused first.",
         "torch.cat([angles.sin(), angles.cos()], dim=1), with if dim < 4 or dim % 2: raise "
         "ValueError(...) at the top")),
    Question(
        "2.4", 3, judge_wiring,
        "last in, first out: a list is all that a U-Net's skip connections need",
        ("Keep a list. What is pushed last, and who needs it first?",
         "Down: block, push, shrink. Up: grow, concatenate with the popped skip, block.",
         "for grow, block in up: h = block(torch.cat([grow(h), skips.pop()], dim=1), emb)")),
    Question(
        "2.5", 3, judge_channels,
        "one running number, c, is all it takes: what comes up now",
        ("Walk from the deepest level up, and write down after each block how many channels h "
         "has.",
         "The skips of a level have widths[level] channels; h has those of the block before, and "
         "the middle's at the start.",
         "c = widths[-1]; for w in reversed(widths): for _ in range(depth): "
         "pairs.append((c + w, w)); c = w")),
    Question(
        "2.6", 3, judge_attention,
        "the context is a set of tokens: their order changes nothing. A shape that fits proves "
        "nothing, a permutation does",
        ("reshape only cuts the list of numbers anew; it never changes their order in memory. "
         "Which numbers lie side by side in (B, L, C)?",
         "Only the last axis may be cut: (B, L, C) -> (B, L, heads, d). Then transpose(1, 2). On "
         "the way back the same, reversed.",
         "split = lambda x: x.reshape(B, -1, num_heads, d).transpose(1, 2); "
         "softmax(q @ k.transpose(2, 3) / sqrt(d)) @ v; .transpose(1, 2).reshape(B, N, C)")),
    Question(
        "2.7", 2, judge_equivariance,
        "shuffle, then call the block, or call it, then shuffle: for attention it is the same, "
        "until positions are added",
        ("There are two ways: shuffle the tokens and call the block, or call the block and "
         "shuffle its outputs.",
         "(block(x[:, order]) - block(x)[:, order]).abs().max()")),
    Question(
        "2.8", 3, judge_thickness,
        "it starts without effect and learns a curve: a trained network can be given a new input "
        "without forgetting",
        ("One number per image becomes emb_dim numbers, as for the time: sinusoids or a hidden "
         "layer, nn.SiLU, then a linear layer.",
         "The last layer starts at zero (weight and bias), the layers before it must not: or no "
         "gradient would ever arrive.",
         "self.net = nn.Sequential(nn.Linear(1, 64), nn.SiLU(), "
         "zero_init(nn.Linear(64, emb_dim))); return emb + self.net(thickness[:, None])")),
    Question(
        "2.9", 3, judge_architecture,
        "within the budget, using it, and the best of those that you measured",
        ("Start from UNet's defaults and print profiling.multiply_adds: what does half the width "
         "do to it?",
         "Width enters squared, pixels enter once: patch_size=1 costs four times as much as "
         "patch_size=2 at the same widths.",
         "Near 25 million: dict(widths=(28, 56)), dict(widths=(22, 44), depth=2), and a narrow "
         "one on all pixels, dict(widths=(16, 24), patch_size=1). Which of them is good? Try "
         "them.")),
]
