"""Lesson 7's checks: each solution is right, each stub is not attempted, and each plausible mistake
gets its own diagnosis.
"""
import copy
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from catalogues import (
    ODD,
    assert_own_diagnoses,
    assert_random_numbers_are_left_alone,
    assert_refused_in_one_sentence,
    cases,
    stub,
    verdicts,
)
from diffusers import DDIMScheduler
from torch import nn
from torch.nn.utils import parametrize

from course_lib import Schedule
from course_lib.checks import Checker, lesson07
from course_lib.checks.common import one_thread
from course_lib.checks.lesson07 import QUESTIONS
from course_lib.networks.stable_diffusion import layout, lora
from course_lib.networks.stable_diffusion.tokenizer import END, SIGNS, START, split_words

LESSONS = Path(__file__).parents[1] / "lessons"
NAME = "07_applications_deployment_exercises.py"
SHEET = next(LESSONS / f for f in (NAME, f"drafts/{NAME}") if (LESSONS / f).exists())


@pytest.fixture(autouse=True)
def lenient(monkeypatch):
    monkeypatch.delenv("COURSE_STRICT", raising=False)
    with one_thread():
        yield


# ---- 7.1

def published_name(ours):
    """Right, part by part."""
    parts = ours.split(".")
    kind = parts.pop()
    if parts[0] in ("stem", "norm", "out", "time"):
        stem = {"stem": "conv_in", "norm": "conv_norm_out", "out": "conv_out"}.get(parts[0])
        return f"{stem or f'time_embedding.linear_{(int(parts[1]) + 1) // 2}'}.{kind}"
    if parts[0] == "middle":
        head = ["mid_block"]
    else:
        head = [f"{parts[0]}_blocks", parts[1]]
    way, rest = parts[0], parts[1 if parts[0] == "middle" else 2:]
    if rest[0] == "resample":
        return ".".join([*head, f"{way}samplers", "0", "conv", kind])
    if rest[0] == "blocks":
        layer = {"emb": "time_emb_proj", "shortcut": "conv_shortcut"}.get(rest[2], rest[2])
        return ".".join([*head, "resnets", rest[1], layer, kind])
    return ".".join([*head, "attentions", rest[1], *transformer_name(rest[2:]), kind])


def transformer_name(rest):
    inside = ["transformer_blocks", "0"]
    if rest[0] in ("norm", "proj_in", "proj_out"):
        return rest
    if rest[0] == "mlp":
        return [*inside, "ff", "net", *(["0", "proj"] if rest[1] == "proj" else ["2"])]
    if rest[0].startswith("norm"):
        return [*inside, rest[0]]
    attention = {"self_attention": "attn1", "cross_attention": "attn2"}[rest[0]]
    return [*inside, attention, *(["to_out", "0"] if rest[1] == "out" else ["to_" + rest[1]])]


def published_name_by_rules(ours):
    """Right, by the library's own rules."""
    return layout._renamed(ours, layout.UNET)


def renames(pattern, new, where=""):
    """published_name and then a substitution, in names with `where` in them."""
    def answer(ours):
        name = published_name(ours)
        return re.sub(pattern, new, name) if where in name else name
    return answer


def exchanges(a, b, where=""):
    def answer(ours):
        name = published_name(ours)
        swap = {a: b, b: a}
        return ".".join(swap.get(p, p) for p in name.split(".")) if where in name else name
    return answer


TABLE = lesson07.published_pairs()[lesson07.FIRST]


def one_digit(ours):
    """Right while the numbers have one digit."""
    return re.sub(r"(resnets|attentions)\.(\d)\d", r"\1.\2", published_name(ours))


NAMES = {
    "the name has not changed": lambda ours: ours,
    "weight or bias, stays": lambda ours: published_name(ours).rpartition(".")[0],
    "have no prefix": lambda ours: "unet." + published_name(ours),
    "names of the original code": renames("^down_blocks", "input_blocks"),
    "conv_in is the stem alone": renames(r"proj_in", "conv_in"),
    "conv_norm_out is the U-Net's last norm alone": renames(
        r"\bnorm(?=\d|\.)", "conv_norm_out"),
    "conv_out is the U-Net's last convolution alone": renames(r"to_out\.0|proj_out", "conv_out"),
    "the layer of a block is time_emb_proj": renames("time_emb_proj", "time_embedding"),
    "is called time_emb_proj": renames("time_emb_proj", "emb"),
    "linear_1 and linear_2, whatever": renames(r"time_embedding\.linear_", "time_embedding."),
    "and the second 3 in ours": renames("linear_2", "linear_3"),
    "the stem is conv_in": renames("^conv_in", "conv_first"),
    "the last norm is conv_norm_out": renames("^conv_norm_out", "norm_out"),
    "the last convolution is conv_out": renames("^conv_out", "conv_last"),
    "mid_block has no number": renames("^mid_block", "mid_block.0"),
    "down_blocks, mid_block or up_blocks": renames("_blocks", "", "down_blocks"),
    "a level keeps its number": lambda ours: re.sub(
        r"^up_blocks\.(\d)", lambda m: f"up_blocks.{3 - int(m[1])}", published_name(ours)),
    "is downsamplers.0.conv": renames(r"downsamplers\.0\.conv", "downsamplers.0"),
    "is upsamplers.0.conv": renames(r"upsamplers\.0", "upsamplers.0.conv"),
    "are called resnets": renames("resnets", "blocks"),
    "is conv_shortcut": renames("conv_shortcut", "shortcut"),
    "are called attentions": renames("attentions", "transformers"),
    "only the MLP's `proj` changes": renames("proj_(in|out)", r"ff.net.0.proj_\1"),
    "stand outside of transformer_blocks.0": renames(
        r"(attentions\.\d+)\.(norm\.|proj_)", r"\1.transformer_blocks.0.\2"),
    "stands in transformer_blocks.0": renames(r"transformer_blocks\.0\.(norm\d)", r"\1"),
    "has one block, transformer_blocks.0": renames(
        r"attentions\.(\d+)\.transformer_blocks\.0", r"attentions.\1.transformer_blocks.\1"),
    "attn1 and attn2 have changed places": exchanges("attn1", "attn2"),
    "self_attention is attn1": renames("attn2", "cross_attn"),
    "begin with to_": renames("to_([qkv])", r"\1"),
    "queries, keys and values have changed places": exchanges("to_q", "to_k"),
    "to_out is a list": renames(r"to_out\.0", "to_out"),
    "the MLP is called ff": renames(r"\.ff\.", ".mlp."),
    "ff.net is a list of three": renames(r"ff\.net\.2", "ff.net.1"),
    "lies one deeper, ff.net.0.proj": renames(r"ff\.net\.0\.proj", "ff.net.0"),
    "the norms of a block have changed": exchanges("norm1", "norm2"),
    "the two convolutions of a block have": exchanges("conv1", "conv2"),
    "right for all names of Stable Diffusion 1.5, but not for": one_digit,
    "the number of a block": lambda ours: re.sub(
        r"resnets\.(\d)", lambda m: f"resnets.{int(m[1]) + 1}", published_name(ours)),
    "that is the name of another tensor": renames("conv1", "norm1"),
    "no tensor of the file has this name": renames(r"resnets", "resnets.layers"),
    "a table of 686 names is no rule": lambda ours: TABLE[ours],
    "each has a name of its own": lambda ours: "conv_in.weight",
    "a name is a string": lambda ours: [published_name(ours)],
    "does it end with `return`": lambda ours: None,
}


# ---- 7.2

class LowRankLinear(nn.Module):
    """Right, and with a place for each mistake."""

    def __init__(self, linear, rank, alpha, generator):
        super().__init__()
        m, n = linear.weight.shape
        self.linear = linear.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, n, generator=generator) / n**0.5)
        self.up = nn.Parameter(torch.zeros(m, rank))
        self.rank = rank
        self.alpha = alpha
        self.scale = alpha / rank

    def change(self, x):
        return x @ self.down.T @ self.up.T

    def forward(self, x):
        return self.linear(x) + self.scale * self.change(x)


class OfLinears(nn.Module):
    """Right, with two layers, a copy of the base, and the factors transposed on paper."""

    def __init__(self, linear, rank, alpha, generator):
        super().__init__()
        self.base = copy.deepcopy(linear).requires_grad_(False)
        self.A = nn.Linear(linear.in_features, rank, bias=False)
        self.B = nn.Linear(rank, linear.out_features, bias=False)
        nn.init.uniform_(self.A.weight, -0.3, 0.3, generator=generator)
        nn.init.zeros_(self.B.weight)
        self.register_buffer("factor", torch.tensor(alpha / rank))

    def forward(self, x):
        return self.base(x) + self.B(self.A(x)) * self.factor


class OnPaper(nn.Module):
    """Right, with factors (in, rank) and (rank, out), and one merged weight."""

    def __init__(self, linear, rank, alpha, generator):
        super().__init__()
        self.register_buffer("W", linear.weight.detach())
        self.register_buffer("b", None if linear.bias is None else linear.bias.detach())
        A = torch.empty(linear.in_features, rank).normal_(0, 0.1, generator=generator)
        self.A = nn.Parameter(A)
        self.B = nn.Parameter(torch.zeros(rank, len(self.W)))
        self.c = alpha / rank

    def forward(self, x):
        return nn.functional.linear(x, self.W + self.c * (self.A @ self.B).T, self.b)


def librarys_lora(linear, rank, alpha, generator):
    """Right: the library's part, on a copy."""
    linear = copy.deepcopy(linear).requires_grad_(False)
    part = lora.LowRank(linear.weight, rank, alpha, "lora")
    part.down.data.normal_(0, 0.1, generator=generator)
    parametrize.register_parametrization(linear, "weight", part)
    return linear


def loras(forward=None, made=None, of=LowRankLinear):
    """with_lora with its forward, or what is made, changed."""
    def answer(linear, rank, alpha, generator):
        layer = of(linear, rank, alpha, generator)
        if made is not None:
            made(layer, generator)
        if forward is not None:
            layer.forward = forward.__get__(layer)
        return layer
    return answer


def scaled(scale):
    return loras(lambda self, x: self.linear(x) + scale(self) * self.change(x))


def not_frozen(self, generator):
    self.linear.requires_grad_(True)


def no_parameters(self, generator):
    down, up = self.down.data, self.up.data
    del self.down, self.up
    self.down = down
    self.up = up


def with_bias(self, generator):
    self.more = nn.Parameter(torch.ones(self.rank))


def one_factor(self, generator):
    self.down.requires_grad_(False)


def other_way_round(self, generator):
    self.up.data = torch.randn(self.up.shape, generator=generator)
    self.down.data.zero_()


def computed_once(self, generator):
    self.kept = self.up @ self.down


def square_factors(self, generator):
    n = self.linear.in_features
    self.down = nn.Parameter(torch.randn(n, n, generator=generator))


def full_rank(self, generator):
    del self.down, self.up
    self.full = nn.Parameter(torch.zeros(self.linear.weight.shape))


def global_draw(self, generator):
    self.down.data = torch.randn(self.down.shape)


def own_generator(self, generator):
    self.down.data = torch.randn(self.down.shape, generator=torch.Generator().manual_seed(0))


def in_place(linear, rank, alpha, generator):
    linear.requires_grad_(False)
    part = lora.LowRank(linear.weight, rank, alpha, "lora")
    part.down.data.normal_(0, 0.1, generator=generator)
    parametrize.register_parametrization(linear, "weight", part)
    return linear


class Drifts(LowRankLinear):
    """Right until training begins: each training step moves the base a little."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.linear = copy.deepcopy(self.linear)
        self.up.register_post_accumulate_grad_hook(self.drift)

    def drift(self, p):
        self.linear.weight.data += 0.1


class Unfrozen(nn.Module):
    """The base is no parameter of the layer, and gets gradients."""

    def __init__(self, linear, rank, alpha, generator):
        super().__init__()
        self.base = [linear]
        self.part = LowRankLinear(copy.deepcopy(linear), rank, alpha, generator)

    def forward(self, x):
        return self.base[0](x) + self.part.scale * self.part.change(x)


def needs_bias(linear, rank, alpha, generator):
    layer = LowRankLinear(linear, rank, alpha, generator)
    layer.m = len(linear.bias)
    return layer


def no_forward(linear, rank, alpha, generator):
    class Empty(nn.Module):
        pass

    layer, empty = LowRankLinear(linear, rank, alpha, generator), Empty()
    empty.down = layer.down
    empty.up = layer.up
    return empty


LORA = {
    "so that an optimizer finds its factors; got function": lambda linear, *a: (
        lambda x: linear(x)),
    "that is linear itself": lambda linear, *a: linear,
    "the base would be trained as well": loras(made=not_frozen),
    "an optimizer finds nothing to train": loras(made=no_parameters),
    "a factor has a bias": loras(made=with_bias),
    "one factor of two can be trained": loras(made=one_factor),
    "yours are [(7, 7), (5, 3)]": loras(made=square_factors),
    "yours are [(5, 7)]": loras(made=full_rank),
    "down has nan": loras(made=lambda self, g: self.down.data.div_(0)),
    "both factors start at zero": loras(made=lambda self, g: self.down.data.zero_()),
    "down starts at zero and up at random": loras(made=other_way_round),
    "no factor starts at zero": loras(made=lambda self, g: self.up.data.fill_(0.1)),
    "all rows of down are the same": loras(made=lambda self, g: self.down.data.fill_(0.1)),
    "at the start it gives 0": loras(lambda self, x: self.scale * self.change(x)),
    "at the start linear's bias is missing": loras(
        lambda self, x: x @ self.linear.weight.T + self.scale * self.change(x)),
    "at the start linear's bias is added twice": loras(
        lambda self, x: self.linear(x) + self.linear.bias + self.scale * self.change(x)),
    "at the start the base counts twice": loras(
        lambda self, x: 2 * self.linear(x) + self.scale * self.change(x)),
    "at the start linear(x) is multiplied": loras(
        lambda self, x: self.scale * (self.linear(x) + self.change(x))),
    "at the start, with up = 0, it is not linear(x)": loras(
        lambda self, x: (1 - self.scale) * self.linear(x) + self.scale * self.change(x)),
    "at the start the output depends on no factor": loras(
        lambda self, x: self.linear(x) + self.scale * self.change(x).detach()),
    "at the start up has no gradient": loras(
        lambda self, x: self.linear(x) + self.scale * x @ self.down.T @ self.up.detach().T),
    "the factors have changed, and the output has not": loras(
        lambda self, x: self.linear(x) + self.scale * x @ self.kept.T, computed_once),
    "the change has no factor": scaled(lambda self: 1.0),
    "multiplied by alpha; alpha / rank keeps": scaled(lambda self: self.alpha),
    "divided by rank; the factor": scaled(lambda self: 1 / self.rank),
    "upside down": scaled(lambda self: self.rank / self.alpha),
    "alpha times rank": scaled(lambda self: self.rank * self.alpha),
    "as in rsLoRA": scaled(lambda self: self.alpha / self.rank**0.5),
    "comes twice": scaled(lambda self: self.scale**2),
    "is rounded down": scaled(lambda self: self.alpha // self.rank),
    "the change is subtracted": scaled(lambda self: -self.scale),
    "with A = down and B = up": scaled(lambda self: 0.5),
    "linear itself computes something else": in_place,
    "is a part of the layer cut off": loras(lambda self, x: (
        self.linear(x) + self.scale / 2 * (self.change(x) + self.change(x).detach()))),
    "down has no gradient": loras(lambda self, x: (
        self.linear(x) + self.scale * x @ self.down.detach().T @ self.up.T)),
    "the input has no gradient": loras(lambda self, x: (
        self.linear(x.detach()) + self.scale * self.change(x.detach()))),
    "though nobody trains it": loras(of=Unfrozen),
    "after two steps it is not": loras(of=Drifts),
    "act on the last dimension": loras(lambda self, x: (
        self.linear(x) + self.scale * torch.mm(torch.mm(x, self.down.T), self.up.T))),
    "the same generator gave two different": loras(made=global_draw),
    "two generators with two seeds": loras(made=own_generator),
    "a linear layer without a bias": needs_bias,
    "has no forward": no_forward,
    "does it end with `return`": lambda *a: None,
}


# ---- 7.3

def signs_of(word):
    signs = [SIGNS[byte] for byte in word.encode()]
    return [*signs[:-1], signs[-1] + "</w>"]


def merged(signs, rank):
    while True:
        pairs = [pair for pair in zip(signs, signs[1:]) if pair in rank]
        if not pairs:
            return signs
        best, found = min(pairs, key=rank.get), []
        for sign in signs:                                  # every place of the pair at once
            join = found and (found[-1], sign) == best
            found = [*found[:-1], found[-1] + sign] if join else [*found, sign]
        signs = found


def encoder(words=split_words, signs=signs_of, merge=merged,
            cut=lambda parts, n: [START, *parts[: n - 2], END], pad=None, strict=False):
    """Right, with a place for each mistake."""
    def answer(tokenizer, text):
        parts = [part for word in words(text) for part in merge(signs(word), tokenizer.rank)]
        parts = cut(parts, tokenizer.length)
        fill = tokenizer.pad if pad is None else pad(tokenizer)
        parts += [fill] * (tokenizer.length - len(parts))
        ids = tokenizer.vocabulary
        return [ids[p] if strict else ids.get(p, ids[END]) for p in parts]
    return answer


def by_transformers(tokenizer, text):
    """Right, by another library."""
    from transformers import CLIPTokenizer
    theirs = CLIPTokenizer(vocab=tokenizer.vocabulary, merges=tokenizer.merges,
                           pad_token=tokenizer.pad)
    ids = theirs(text, padding="max_length", max_length=tokenizer.length, truncation=True)
    return torch.tensor(ids["input_ids"])


def one_at_a_time(choose):
    """Merge the pair that `choose` takes of all, at one place, again and again."""
    def merge(signs, rank):
        signs = list(signs)
        while True:
            known = [k for k in range(len(signs) - 1) if (signs[k], signs[k + 1]) in rank]
            if not known:
                return signs
            k = choose(known, lambda k: rank[signs[k], signs[k + 1]])
            signs[k:k + 2] = [signs[k] + signs[k + 1]]
    return merge


def first_in_text(signs, rank):
    signs, k = list(signs), 0
    while k < len(signs) - 1:
        if (signs[k], signs[k + 1]) in rank:
            signs[k:k + 2] = [signs[k] + signs[k + 1]]
        else:
            k += 1
    return signs


def only_one(signs, rank):
    pairs = [pair for pair in zip(signs, signs[1:]) if pair in rank]
    if not pairs:
        return signs
    k = list(zip(signs, signs[1:])).index(min(pairs, key=rank.get))
    return [*signs[:k], signs[k] + signs[k + 1], *signs[k + 2:]]


def word_piece(signs, rank):
    tokens, found = {"".join(pair) for pair in rank}, []
    while signs:
        n = max((n for n in range(1, len(signs) + 1) if "".join(signs[:n]) in tokens), default=1)
        found.append("".join(signs[:n]))
        signs = signs[n:]
    return found


letters = lambda word: [*word[:-1], word[-1] + "</w>"]
ENCODER = {
    "the padding is always <|endoftext|>": encoder(pad=lambda tokenizer: END),
    "the padding is id 0": encoder(pad=lambda tokenizer: tokenizer.tokens[0]),
    "<|startoftext|> is missing": encoder(cut=lambda parts, n: [*parts[: n - 1], END]),
    "<|endoftext|> is missing": encoder(cut=lambda parts, n: [START, *parts][:n]),
    "so a long text loses it": encoder(cut=lambda parts, n: [START, *parts, END][:n]),
    "keeps its last tokens": encoder(cut=lambda parts, n: [START, *parts[-(n - 2):], END]),
    "one token too early": encoder(cut=lambda parts, n: [START, *parts[: n - 3], END]),
    "merged in the order of the text": encoder(merge=first_in_text),
    "that was learned last": encoder(
        merge=one_at_a_time(lambda known, rank_at: max(known, key=rank_at))),
    "that is WordPiece": encoder(merge=word_piece),
    "only one pair of a word is merged": encoder(merge=only_one),
    "nothing is merged": encoder(merge=lambda signs, rank: signs),
    "</w> is forgotten": encoder(signs=lambda word: [SIGNS[byte] for byte in word.encode()]),
    "</w> is a sign of its own": encoder(
        signs=lambda word: [*(SIGNS[byte] for byte in word.encode()), "</w>"]),
    "of which é has two": encoder(signs=letters),
    "looked up by chr(byte)": encoder(signs=lambda word: [
        *map(chr, word.encode()[:-1]), chr(word.encode()[-1]) + "</w>"]),
    "taken for one word": encoder(words=lambda text: ["".join(split_words(text))]),
    "split at white space": encoder(words=str.split),
    "the vocabulary has no token '</w>'": encoder(
        signs=lambda word: [*(SIGNS[byte] for byte in word.encode()), "</w>"], strict=True),
    "number 2 of the row": encoder(
        signs=lambda word: signs_of(word[::-1]), merge=lambda signs, rank: signs),
    "those are tokens": lambda tokenizer, text: tokenizer.split(text),
    "ids are whole numbers": lambda tokenizer, text: tokenizer(text)[0].double(),
    "gives 4 ids, and a row has 20": lambda tokenizer, text: [1, 2, 3, 4],
    "and a row has 20: cut it": encoder(cut=lambda parts, n: [START, *parts, END]),
    "a list of ids is wanted; got str": lambda tokenizer, text: text,
    "does it end with `return`": lambda *a: None,
}


# ---- 7.5

def levels(schedule, n, spacing):
    T = schedule.T
    steps = {"trailing": torch.tensor([round((n - k) * T / n) - 1 for k in range(n)]),
             "leading": torch.tensor([(n - 1 - k) * (T // n) + 1 for k in range(n)])}[spacing]
    t = (steps.double() + 1) / T
    return steps, schedule.alpha(t), schedule.sigma(t)


def levels_of_diffusers(schedule, n, spacing):
    """Right, by the published scheduler."""
    theirs = DDIMScheduler(schedule.T, trained_betas=schedule.betas.numpy(),
                           timestep_spacing=spacing, steps_offset=1)
    theirs.set_timesteps(n)
    alpha_bar = theirs.alphas_cumprod.double()[theirs.timesteps]
    return [theirs.timesteps, alpha_bar.sqrt(), (1 - alpha_bar).sqrt()]


def levels_in_single_precision(schedule, n, spacing):
    """Right, with a list of steps and times in float32."""
    steps = levels(schedule, n, spacing)[0]
    t = (steps + 1) / schedule.T
    return steps.tolist(), schedule.alpha(t).float(), schedule.sigma(t).float()


def grids(trailing=None, leading=None, alpha=None, sigma=None):
    """levels with its steps, functions of (n, T), or alpha and sigma, of (schedule, steps)."""
    def answer(schedule, n, spacing):
        T, steps = schedule.T, levels(schedule, n, spacing)[0]
        change = {"trailing": trailing, "leading": leading}[spacing]
        steps = steps if change is None else torch.as_tensor(change(n, T))
        t = ((steps.double() + 1) / T).clamp(0, 1)
        return (steps, schedule.alpha(t) if alpha is None else alpha(schedule, steps),
                schedule.sigma(t) if sigma is None else sigma(schedule, steps))
    return answer


def both(steps):
    return grids(steps, steps)


def shifted(by):
    return lambda schedule, steps: ((steps + by) / schedule.T).clamp(0, 1)


def one_time(by):
    """Both alpha and sigma at (i + by) / T."""
    t = shifted(by)
    return grids(alpha=lambda s, i: s.alpha(t(s, i)), sigma=lambda s, i: s.sigma(t(s, i)))


trail = lambda n, T: torch.tensor([round((n - k) * T / n) - 1 for k in range(n)])
lead = lambda n, T: torch.tensor([(n - 1 - k) * (T // n) + 1 for k in range(n)])
now = lambda schedule, steps: (steps.double() + 1) / schedule.T


def copied_levels(schedule, n, spacing):
    """As in the sheet."""
    T = schedule.T
    if spacing == "trailing":
        steps = torch.arange(T, 0, -T / n).round().long()
    else:
        steps = torch.arange(n - 1, -1, -1) * (T // n)
    return steps, schedule.alpha(steps / T), schedule.sigma(steps / T)


LEVELS = {
    "so the first step is 1000": copied_levels,
    "one is subtracted twice": grids(lambda n, T: trail(n, T) - 1),
    "T // n is rounded down, so": grids(lambda n, T: [(n - k) * (T // n) - 1 for k in range(n)]),
    "the multiples of T / n are rounded down": grids(
        lambda n, T: [(n - k) * T // n - 1 for k in range(n)]),
    "those are the leading steps": both(lead),
    "the steps begin each part": grids(
        lambda n, T: [round((n - 1 - k) * T / n) for k in range(n)]),
    "the offset of 1 is missing": grids(leading=lambda n, T: lead(n, T) - 1),
    "the offset is 2": grids(leading=lambda n, T: lead(n, T) + 1),
    "the offset is subtracted": grids(leading=lambda n, T: lead(n, T) - 2),
    "leading: T / n is rounded down before": grids(
        leading=lambda n, T: [round((n - 1 - k) * T / n) + 1 for k in range(n)]),
    "those are the trailing steps": both(trail),
    "trailing: the steps rise": grids(lambda n, T: trail(n, T).flip(0)),
    "leading: that is `linspace`": grids(
        leading=lambda n, T: torch.linspace(T - 1, 0, n).round().long()),
    "those number the parts": both(lambda n, T: range(n - 1, -1, -1)),
    "those are times in [0, 1]": lambda schedule, n, spacing: (
        now(schedule, levels(schedule, n, spacing)[0]), *levels(schedule, n, spacing)[1:]),
    "trailing: alpha is one step off": one_time(0),
    "yours is at (i + 2) / T": one_time(2),
    "the levels of even times": grids(
        alpha=lambda s, i: s.alpha(torch.arange(len(i), 0, -1) / len(i))),
    "alphas_cumprod": grids(alpha=lambda s, i: s.alpha(now(s, i)) ** 2),
    "alpha and sigma have changed places": grids(alpha=lambda s, i: s.sigma(now(s, i)),
                                                 sigma=lambda s, i: s.alpha(now(s, i))),
    "what one step keeps": grids(alpha=lambda s, i: (1 - s.betas[i]).sqrt()),
    "that is t; alpha(t)": grids(alpha=now),
    "sigma is that of i / T": grids(sigma=lambda s, i: s.sigma(shifted(0)(s, i))),
    "sigma is that of (i + 2) / T": grids(sigma=lambda s, i: s.sigma(shifted(2)(s, i))),
    "sigma^2, a variance": grids(sigma=lambda s, i: s.sigma(now(s, i)) ** 2),
    "that is 1 - alpha": grids(sigma=lambda s, i: 1 - s.alpha(now(s, i))),
    "of k-diffusion": grids(sigma=lambda s, i: s.sigma(now(s, i)) / s.alpha(now(s, i))),
    "what one step adds": grids(sigma=lambda s, i: s.betas[i].sqrt()),
    "alpha comes twice": grids(sigma=lambda s, i: s.alpha(now(s, i))),
    "not those of (7.9)": grids(lambda n, T: trail(n, T) // 2),
    "trailing: the steps are right, alpha is not": grids(alpha=lambda s, i: 0.5 * now(s, i)),
    "trailing: the steps are right, sigma is not": grids(sigma=lambda s, i: 0.5 * now(s, i)),
    "a step is a whole number; got 856.14": grids(
        lambda n, T: [(n - k) * T / n - 1 for k in range(n)]),
    "50 steps are wanted; got shape (51,)": grids(lambda n, T: [*trail(n, T), 0]),
    "the steps must be a tensor": lambda *a: ("steps", *levels(*a)[1:]),
    "some of your sigma are nan": grids(sigma=lambda s, i: now(s, i) / 0),
    "three tensors are wanted": lambda *a: levels(*a)[:2],
    "does it end with `return`": lambda *a: None,
}


# ---- 7.6

def two_steps(Z, W, x, g, lr):
    dZ, dW = torch.outer(g, W @ x), torch.outer(Z.T @ g, x)
    Z, W = Z - lr * dZ, W - lr * dW
    return dZ, dW, torch.outer(g, W @ x), torch.outer(Z.T @ g, x)


def two_steps_in_columns(Z, W, x, g, lr):
    """Right, with column vectors, in two pairs, and by the expanded product."""
    x, g = x[:, None], g[:, None]
    u, du = W @ x, Z.mT @ g
    second_Z = g @ u.mT - lr * (x.mT @ x) * g @ du.mT
    second_W = du @ x.mT - lr * (g.mT @ g) * u @ x.mT
    return [(g @ u.mT, du @ x.mT), (second_Z, second_W)]


def two_steps_by_autograd(Z, W, x, g, lr):
    """Right: autograd, where it was switched on again."""
    found = []
    with torch.enable_grad():
        for _ in range(2):
            Z, W = Z.detach().requires_grad_(), W.detach().requires_grad_()
            found += torch.autograd.grad(g @ (Z @ (W @ x)), (Z, W))
            Z, W = Z - lr * found[-2], W - lr * found[-1]
    return tuple(part.detach() for part in found)


def without_switching_on(Z, W, x, g, lr):
    Z, W = Z.clone().requires_grad_(), W.clone().requires_grad_()
    dZ, dW = torch.autograd.grad(g @ (Z @ (W @ x)), (Z, W))
    return dZ, dW, dZ, dW


def gradients(place, change):
    """two_steps with one of its four replaced: a function of (right four, Z, W, x, g, lr)."""
    def answer(*a):
        right = list(two_steps(*a))
        right[place] = change(right, *a)
        return tuple(right)
    return answer


def after(place, step_Z=lambda dZ, lr: lr * dZ, step_W=lambda dW, lr: lr * dW):
    """The gradient after another step."""
    def change(right, Z, W, x, g, lr):
        Z, W = Z - step_Z(right[0], lr), W - step_W(right[1], lr)
        return (torch.outer(g, W @ x), torch.outer(Z.T @ g, x))[place - 2]
    return gradients(place, change)


def one_after_the_other(place):
    def change(right, Z, W, x, g, lr):
        new_Z = Z - lr * right[0]
        new_W = W - lr * right[1]
        if place == 2:
            return torch.outer(g, (W - lr * torch.outer(new_Z.T @ g, x)) @ x)
        return torch.outer((Z - lr * torch.outer(g, new_W @ x)).T @ g, x)
    return gradients(place, change)


def zero_case(Z, W, x, g, lr):
    """Right where Z = 0."""
    u = W @ x
    dZ = torch.outer(g, u)
    return dZ, torch.zeros_like(W), dZ, -lr * (g @ g) * torch.outer(u, x)


def only_for(where, wrong):
    """Right, but for layers where the condition holds."""
    def answer(Z, W, *a):
        right = two_steps(Z, W, *a)
        return wrong(right) if where(Z, W) else right
    return answer


GRADIENTS = {
    "dZ at first: the wrong sign": gradients(0, lambda r, *a: -r[0]),
    "a layer that is zero has a gradient all the same": gradients(0, lambda r, *a: 0 * r[0]),
    "dZ at first: that is the step": gradients(0, lambda r, Z, W, x, g, lr: lr * r[0]),
    "dZ at first: that is the change": gradients(0, lambda r, Z, W, x, g, lr: -lr * r[0]),
    "divided by the number of outputs": gradients(0, lambda r, *a: r[0] / 3),
    "g is left out": gradients(
        0, lambda r, Z, W, x, g, lr: torch.outer(torch.ones_like(g), W @ x)),
    "dZ at first: that is the gradient after": gradients(0, lambda r, *a: r[2]),
    "dW at first: zero is right for Z = 0 only": zero_case,
    "dW at first: the wrong sign": gradients(1, lambda r, *a: -r[1]),
    "that is Z^T g at every input": gradients(
        1, lambda r, Z, W, x, g, lr: torch.outer(Z.T @ g, torch.ones_like(x))),
    "dW at first: that is the step": gradients(1, lambda r, Z, W, x, g, lr: lr * r[1]),
    "Z has taken its step already": gradients(1, lambda r, *a: r[3]),
    "dZ after the step: that is the first one again": gradients(2, lambda r, *a: r[0]),
    "dZ after the step: the old gradient": gradients(2, lambda r, *a: r[0] + r[2]),
    "W goes up the gradient": after(2, step_W=lambda dW, lr: -lr * dW),
    "W's step has no lr": after(2, step_W=lambda dW, lr: dW),
    "W's step was taken with the new Z": one_after_the_other(2),
    "two steps of W are in it": after(2, step_W=lambda dW, lr: 2 * lr * dW),
    "dW after the step: that is the first one again": gradients(3, lambda r, *a: r[1]),
    "dW after the step: zero still": gradients(3, lambda r, *a: 0 * r[1]),
    "dW after the step: the old gradient": gradients(3, lambda r, *a: r[1] + r[3]),
    "Z goes up the gradient": after(3, step_Z=lambda dZ, lr: -lr * dZ),
    "Z's step has no lr": after(3, step_Z=lambda dZ, lr: dZ),
    "dW after the step: right for Z = 0 only": gradients(
        3, lambda r, Z, W, x, g, lr: -lr * (g @ g) * torch.outer(W @ x, x)),
    "Z's step was taken with the new W": one_after_the_other(3),
    "not the gradient of L": gradients(0, lambda r, *a: torch.ones_like(r[0])),
    "yours is transposed": gradients(0, lambda r, *a: r[0].T),
    "expected shape (4, 6); got (4,)": gradients(1, lambda r, Z, W, x, g, lr: Z.T @ g),
    "dZ at first: nan or inf": gradients(0, lambda r, *a: r[0] / 0),
    "right, but not for Z = 0: dW after": only_for(
        lambda Z, W: not Z.any(), lambda right: (*right[:3], 0 * right[3])),
    "right, but not where both are zero: dW at first: nan": only_for(
        lambda Z, W: not W.any(), lambda right: (right[0], right[1] / 0, *right[2:])),
    "autograd is switched off here": without_switching_on,
    "changes the tensors it was given": lambda Z, W, x, g, lr: two_steps(
        Z.sub_(lr), W, x, g, lr),
    "four gradients are wanted": lambda *a: two_steps(*a)[:2],
    "does it end with `return`": lambda *a: None,
}

RIGHT = {
    "7.1": published_name,
    "7.2": LowRankLinear,
    "7.3": encoder(),
    "7.5": levels,
    "7.6": two_steps,
}
OTHER_STYLE = {
    "7.1": published_name_by_rules,
    "7.2": OfLinears,
    "7.3": by_transformers if find_spec("transformers") else encoder(),
    "7.5": levels_of_diffusers,
    "7.6": two_steps_in_columns,
}
THIRD_STYLE = {
    "7.2": OnPaper,
    "7.3": encoder(merge=one_at_a_time(lambda known, rank_at: min(known, key=rank_at))),
    "7.5": levels_in_single_precision,
    "7.6": two_steps_by_autograd,
}
FOURTH_STYLE = {
    "7.2": librarys_lora,
    "7.3": lambda tokenizer, text: tokenizer(text),
}
WRONG = {
    "7.1": NAMES,
    "7.2": LORA,
    "7.3": ENCODER,
    "7.5": LEVELS,
    "7.6": GRADIENTS,
}
CASES = cases(WRONG)
verdict = verdicts(WRONG)


@pytest.mark.parametrize("name, diagnosis", CASES)
def test_wrong(name, diagnosis):
    passed, said = verdict(name, diagnosis)
    assert not passed and said.startswith(f"{name} not yet") and diagnosis in said, said


@pytest.mark.filterwarnings("ignore:a text has at most")
@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("style", [RIGHT, OTHER_STYLE, THIRD_STYLE, FOURTH_STYLE],
                         ids=["right", "other style", "third style", "fourth style"])
def test_right(capsys, name, style):
    check = Checker()
    for _ in range(5 if name in style else 0):  # the checks draw new numbers each time
        check(name, style[name])
        assert check.passed(name), capsys.readouterr().out


def test_stubs_and_completeness():
    assert [q.name for q in QUESTIONS] == list(RIGHT) == list(WRONG) == list(OTHER_STYLE)
    assert len(CASES) >= 60 and min(len(wrong) for wrong in WRONG.values()) >= 5
    check = Checker()
    for q in QUESTIONS:
        check(q.name, stub)
        assert check.verdicts[q.name] == "not attempted"
        assert q.points > 0 and q.praise and len(q.hints) == 3
    assert sum(q.points for q in QUESTIONS) == 15


def test_each_mistake_has_its_own_diagnosis():
    assert_own_diagnoses(WRONG, verdict)


@pytest.mark.parametrize("name", RIGHT)
def test_odd_answers_get_one_sentence(name):
    assert_refused_in_one_sentence(name, [*ODD, *((odd, odd) for odd in ODD)])


@pytest.mark.filterwarnings("ignore:a text has at most")
def test_judging_leaves_the_random_numbers_alone():
    assert_random_numbers_are_left_alone(RIGHT, OTHER_STYLE)


def test_the_names_of_7_1_are_two_networks():
    """All 686 of Stable Diffusion 1.5; the other has numbers of two digits, and linear layers."""
    first, second = lesson07.published_pairs().values()
    assert len(first) == 686 and len({*first.values()}) == 686
    assert not {*first} >= {*second} and any("resnets.10." in name for name in second.values())
    assert "down.0.transformers.0.norm.weight" in first
    assert "down.0.transformers.0.norm.weight" not in second


def test_the_word_of_7_3_shows_every_order():
    """Each way to merge gives other tokens; the right one is the library's."""
    code = lesson07.learned_code()
    for _ in range(5):
        word = lesson07.draw_word()
        found = {merge: merge(code.rank, lesson07.signs_of(word)) for merge in lesson07.MERGES}
        assert len({tuple(parts) for parts in found.values()}) == len(lesson07.MERGES)
        assert found[lesson07.by_rank] == code.split(word)


def test_a_network_told_another_step_is_told_another_level():
    """7.5: on the trailing grid the copied function's levels are right, and its steps are not; on
    the leading grid it tells the network one level too high, twice over.
    """
    sd = Schedule.scaled_linear()
    for spacing, told in (("trailing", 1), ("leading", -1)):
        found, wanted = (f(sd, 50, spacing) for f in (copied_levels, levels))
        assert (found[0] - wanted[0]).unique().tolist() == [told]
    torch.testing.assert_close(copied_levels(sd, 50, "trailing")[1].double(),
                               levels(sd, 50, "trailing")[1], rtol=1e-6, atol=0)
    assert copied_levels(sd, 50, "leading")[2][-1] == 0     # the last level has no noise at all


def test_the_gradients_of_7_6_are_those_of_the_lesson():
    """(7.12) and (7.14): Z = 0, and both."""
    Z, W = torch.zeros(3, 4).double(), torch.randn(4, 6).double()
    x, g = torch.randn(6).double(), torch.randn(3).double()
    dZ, dW, _, later = two_steps(Z, W, x, g, 0.1)
    torch.testing.assert_close(dZ, g[:, None] * (W @ x))
    assert not dW.any() and later.any()
    assert not any(part.any() for part in two_steps(Z, 0 * W, x, g, 0.1))


def test_the_sheet_answers_its_own_questions(monkeypatch):
    """The answer cells of the solved sheet, without its figures; and its five examples."""
    import jupytext
    monkeypatch.setenv("COURSE_STRICT", "1")
    names = {"check": Checker(), "torch": torch, "nn": nn, "re": re, "SIGNS": SIGNS, "START": START,
             "END": END, "split_words": split_words}
    cells = jupytext.read(SHEET).cells
    for cell in cells:
        if any(tag.startswith(("answer:", "check:")) for tag in cell.metadata.get("tags", [])):
            exec(compile(cell.source, "sheet", "exec"), names)
    assert all(names["check"].passed(q.name) for q in QUESTIONS)
    listed = next(cell.source for cell in cells if "examples = {" in cell.source)
    pairs = re.findall(r'^    "(\S+)": "(\S+?)"', listed, re.M)
    assert len(pairs) == 5 and all(published_name(a) == b for a, b in pairs)
