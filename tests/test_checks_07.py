"""Lesson 7's checks: each solution is right, each stub is not attempted, and each plausible mistake
gets its own diagnosis.
"""
import copy
import math
import re
from collections import Counter
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
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
from course_lib.checks import Checker, lesson07, lesson07_board, lesson07_service
from course_lib.checks.common import one_thread
from course_lib.checks.lesson07 import QUESTIONS
from course_lib.lab import noun_parts, sampling, storage, train
from course_lib.lab.evaluation import faults
from course_lib.networks.stable_diffusion import layout, lora
from course_lib.networks.stable_diffusion.tokenizer import END, SIGNS, START, split_words

LESSONS = Path(__file__).parents[1] / "lessons"
NAME = "07_applications_deployment_exercises.py"
MINI_SD = storage.CHECKPOINTS / "mini_sd.safetensors"
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


# ---- 7.4

READER = "Ada"
PLANTED = lesson07_board.three_faults(READER)
WHY = {
    "text not causal": "first words",
    "another padding token": "few words",
    "no final norm of the text": "no trace",
    "v taken for eps, or eps for v": "blobs",
    "encoder padded on both sides": "round trips",
    "no convolution before the decoder": "all",
}
DIAGNOSIS = {row: (fault, WHY[fault]) for row, fault in zip("ABC", PLANTED)}
NOT_PLANTED = [fault for fault in lesson07_board.FAULTS if fault not in PLANTED]


def diagnosis():
    return DIAGNOSIS


def for_all_readers():
    """Right for another reader, as lists, in small letters, the dict itself."""
    reader = "  grace\nHOPPER "
    rows = zip("abc", lesson07_board.three_faults("Grace Hopper"))
    return reader, {row: [fault.upper(), WHY[fault]] for row, fault in rows}


def with_rows(**rows):
    """The right diagnosis with other rows."""
    return READER, lambda: DIAGNOSIS | rows


def in_place_of(reason):
    """The right fault, with another one's reason."""
    return with_rows(B=(PLANTED[1], reason))


def exchanged():
    return DIAGNOSIS | {"A": DIAGNOSIS["C"], "C": DIAGNOSIS["A"]}


def reader_of(fault, row=0):
    """A reader who does not have this fault, and a diagnosis with it in row A (B, C)."""
    readers = [f"reader {k}" for k in range(100)]
    reader = next((r for r in readers if fault not in lesson07_board.three_faults(r)), READER)
    pairs = [(name, WHY[name]) for name in lesson07_board.three_faults(reader)]
    pairs[row] = fault, WHY[fault]
    return reader, dict(zip("ABC", pairs))


BOARD = {
    **{f"A is not {fault!r}": reader_of(fault) for fault in lesson07_board.FAULTS},
    "(1 of 3 faults are right)": with_rows(
        A=(NOT_PLANTED[0], "all"), C=(NOT_PLANTED[1], "all")),
    "A, C have changed places": (READER, exchanged),
    **{f"{reason!r} is not the reason": in_place_of(reason)
       for reason in lesson07_board.REASONS if reason != DIAGNOSIS["B"][1]},
    "'step one too high' is none of the six": with_rows(B=("step one too high", "all")),
    "'because' is none of the reasons": with_rows(B=(PLANTED[1], "because")),
    "the fault comes first": with_rows(B=DIAGNOSIS["B"][::-1]),
    "comes twice; the three rows": with_rows(B=DIAGNOSIS["A"]),
    "row C has no diagnosis": (READER, {row: DIAGNOSIS[row] for row in "AB"}),
    "row B: two texts are wanted": with_rows(B=PLANTED[1]),
    "a dict is wanted": (READER, lambda: [*DIAGNOSIS.values()]),
    "whose rows these are": diagnosis,
    "does it end with `return`": (READER, lambda: None),
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

# ---- 7.7

SNOWMAN, HEAD = noun_parts.index_of("head", "snowman"), noun_parts.PARTS.index("head")


def figures(n, seed, snowman=True):
    """n combinations of parts and their captions; pictures."""
    parts = noun_parts.draw_parts(n, seed)
    parts[:, HEAD] = SNOWMAN if snowman else parts[:, HEAD].clamp(max=SNOWMAN - 1)
    return noun_parts.plain_captions(parts), noun_parts.render(parts)


def scores_of(n, share, seed):
    """n of right and wrong, of which a share is right."""
    return (torch.rand(n, generator=torch.Generator().manual_seed(seed)) < share).double()


@cache
def measured_record():
    """What a good adapter would give: 12 training pictures, 60 and 80 captions, one copy."""
    training, x = figures(12, 1)
    asked, drawn = figures(60, 2)
    g = torch.Generator().manual_seed(0)
    drawn = (drawn + 0.05 * torch.randn(drawn.shape, generator=g)).clamp(-1, 1)
    drawn[7] = x[3]
    drawn[8] = (x[4] + 0.01).clamp(-1, 1)
    record = {
        "thing": "a snowman's head", "word": "snowman", "better": "higher",
        "training": {"captions": training, "pictures": x},
        "asked": {"captions": asked, "pictures": drawn, "before": scores_of(60, 0.05, 3),
                  "after": scores_of(60, 0.8, 4)},
        "others": {"captions": figures(80, 5, False)[0], "before": scores_of(80, 0.95, 6),
                   "after": scores_of(80, 0.85, 7)},
    }
    return record | numbers_of(record)


def numbers_of(record):
    """The seven numbers, by loops."""
    sign = 1 if record["better"] == "higher" else -1
    found = {}
    for key, name, turn in (("asked", "gain", sign), ("others", "cost", -sign)):
        pairs = zip(record[key]["after"], record[key]["before"])
        x = [turn * (float(a) - float(b)) for a, b in pairs]
        mean = sum(x) / len(x)
        found[name] = mean
        found[f"{name} error"] = (sum((v - mean) ** 2 for v in x) / (len(x) - 1) / len(x)) ** 0.5
    real, drawn = record["training"]["pictures"], record["asked"]["pictures"]
    far = [min(rms(a, b) for b in real) for a in drawn]
    among = [min(rms(a, b) for k, b in enumerate(real) if k != j) for j, a in enumerate(real)]
    return found | {"nearest": middle(far), "nearest in training": middle(among),
                    "copies": sum(d < min(among) for d in far) / len(far)}


def rms(a, b):
    return (a.double() - b.double()).square().mean().sqrt().item()


def middle(values):
    values = sorted(values)
    return (values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2
def record_with(**changes):
    """The good record with other entries, `asked__before` for record["asked"]["before"]; a function
    gets the record. Its seven numbers stay, unless they are changed as well.
    """
    def answer():
        good = measured_record()
        record = {k: dict(v) if isinstance(v, dict) else v for k, v in good.items()}
        for name, value in changes.items():
            value = value(good) if callable(value) else value
            *outer, key = name.split("__")
            (record[outer[0]] if outer else record)[key.replace("_", " ")] = value
        return record
    return answer


def fitting(**changes):
    """The same, with the seven numbers that belong to it."""
    def answer():
        record = record_with(**changes)()
        return record | numbers_of(record)
    return answer


def in_percent(key):
    return record_with(**{key.replace(" ", "_"): lambda r: 100 * r[key]})


def other_number(key, value):
    """The good record with another number; value: a function of the record."""
    return record_with(**{key.replace(" ", "_"): value})


def turned(record, key):
    """after - before, float64."""
    return record[key]["after"] - record[key]["before"]


def error_of(x):
    return (x.std() / len(x) ** 0.5).item()


def unpaired_error(part):
    return math.hypot(error_of(part["before"]), error_of(part["after"]))


def to_training(record):
    return table(record["asked"]["pictures"], record["training"]["pictures"])


def within(record, key="training"):
    d = table(record[key]["pictures"], record[key]["pictures"])
    return d.fill_diagonal_(torch.inf)


def table(a, b):
    return torch.tensor([[rms(x, y) for y in b] for x in a])


def without(key, part=None):
    def answer():
        record = {k: dict(v) if isinstance(v, dict) else v for k, v in measured_record().items()}
        del (record[key] if part else record)[part or key]
        return record
    return answer


SCALE = 3072 ** 0.5
RECORD = {
    "a dict is wanted": lambda: list(measured_record().values()),
    "the record has no 'cost error'": without("cost error"),
    "the record has no 'others'": without("others"),
    "'asked' has no 'before'": without("asked", "before"),
    "'thing' must be a text": record_with(thing=" "),
    "'training' must be a dict of its own": record_with(
        training=lambda r: r["training"]["pictures"]),
    "'better' is 'higher' or 'lower'": record_with(better="more"),
    "'gain' must be one number": record_with(gain=lambda r: turned(r, "asked")),
    "'copies' must be one number": record_with(copies=False),
    "the captions of 'asked' must be a list": record_with(asked__captions="a snowman head"),
    "30 captions that ask for it are too few": record_with(
        asked__captions=lambda r: r["asked"]["captions"][:30]),
    "49 captions that do not are too few": record_with(
        others__captions=lambda r: r["others"]["captions"][:49]),
    "3 captions of the training are too few": record_with(
        training__captions=lambda r: r["training"]["captions"][:3]),
    "a caption comes twice in 'asked'": record_with(
        asked__captions=lambda r: [
            *r["asked"]["captions"][:-1], r["asked"]["captions"][0].upper()]),
    "is a caption of the training": record_with(
        asked__captions=lambda r: [*r["asked"]["captions"][:-1], r["training"]["captions"][2]]),
    "stands in both lists": record_with(
        others__captions=lambda r: [*r["others"]["captions"][:-1], r["asked"]["captions"][2]]),
    "then nothing asks for it": record_with(word="snow"),
    "one of the others": record_with(
        others__captions=lambda r: [*r["others"]["captions"], "a Snowman-headed noun"]),
    "must be a tensor (12, 3, 32, 32)": record_with(
        training__pictures=lambda r: r["training"]["pictures"][:3]),
    "must be a tensor (60, 3, 32, 32) of real": record_with(
        asked__pictures=lambda r: (127.5 * r["asked"]["pictures"] + 127.5).byte()),
    "of 'asked' have nan": record_with(asked__pictures=lambda r: r["asked"]["pictures"] / 0),
    "of 'training' lie outside": record_with(
        training__pictures=lambda r: 127.5 * r["training"]["pictures"] + 127.5),
    "two training pictures are the same": record_with(
        training__pictures=lambda r: r["training"]["pictures"][[0, *range(11)]]),
    "of the pictures drawn differ": record_with(
        asked__pictures=lambda r: r["asked"]["pictures"][[0] * 60]),
    "'after' of 'asked' must be 60 numbers": record_with(asked__after=lambda r: r["gain"]),
    "got 12 of them": record_with(others__before=lambda r: r["others"]["before"][:12]),
    "'before of asked' has nan": record_with(
        asked__before=lambda r: math.nan * r["asked"]["before"]),
    "'after of others' are the same number": record_with(others__after=[0.85] * 80),
    "was the adapter there": record_with(asked__after=lambda r: r["asked"]["before"]),
    "every other caption, to the last digit": record_with(
        others__before=torch.linspace(0, 1, 80), others__after=torch.linspace(0, 1, 80)),
    "'gain': that is a percentage": in_percent("gain"),
    "'gain': the sign": other_number("gain", lambda r: -r["gain"]),
    "'gain': that is the mean after": other_number("gain", lambda r: r["asked"]["after"].mean()),
    "'gain': that is the sum": other_number("gain", lambda r: 60 * r["gain"]),
    "'gain': the record says": other_number("gain", 0.9),
    "'gain error': that is the standard deviation": other_number(
        "gain error", lambda r: turned(r, "asked").std()),
    "'gain error': that takes both rows for independent": other_number(
        "gain error", lambda r: unpaired_error(r["asked"])),
    "'gain error': that is the error of the mean after": other_number(
        "gain error", lambda r: error_of(r["asked"]["after"])),
    "'gain error': the standard deviation is divided": other_number(
        "gain error", lambda r: r["gain error"] / 60 ** 0.5),
    "'gain error': that is the half width": other_number(
        "gain error", lambda r: 2 * r["gain error"]),
    "'gain error': that is a variance": other_number("gain error", lambda r: r["gain error"] ** 2),
    "'gain error': that is a percentage": in_percent("gain error"),
    "'gain error': the record says": other_number("gain error", 0.9),
    "'cost': that is a percentage": in_percent("cost"),
    "'cost': the sign": other_number("cost", lambda r: -r["cost"]),
    "'cost': that is the mean after": other_number("cost", lambda r: r["others"]["after"].mean()),
    "'cost': that is the sum": other_number("cost", lambda r: 80 * r["cost"]),
    "'cost': that is what the captions gained": other_number("cost", lambda r: r["gain"]),
    "'cost': that is what the captions that ask for it would": other_number(
        "cost", lambda r: -r["gain"]),
    "'cost': the record says": other_number("cost", 0.0),
    "'cost error': that is the standard deviation": other_number(
        "cost error", lambda r: turned(r, "others").std()),
    "'cost error': that takes both rows for independent": other_number(
        "cost error", lambda r: unpaired_error(r["others"])),
    "'cost error': that is the half width": other_number(
        "cost error", lambda r: 1.96 * r["cost error"]),
    "'cost error' is inf": other_number("cost error", math.inf),
    "'nearest': that is the mean over": other_number(
        "nearest", lambda r: to_training(r).amin(1).mean()),
    "'nearest': that is the least of all": other_number("nearest", 0.0),
    "'nearest': those are mean squares": other_number("nearest", lambda r: r["nearest"] ** 2),
    "'nearest': that is the length": other_number("nearest", lambda r: SCALE * r["nearest"]),
    "'nearest': that is the distance to all": other_number(
        "nearest", lambda r: to_training(r).median()),
    "'nearest': that is the distance to the nearest of the other": other_number(
        "nearest", lambda r: within(r, "asked").amin(1).median()),
    "'nearest': those are mean absolute": other_number("nearest", lambda r: torch.stack([
        (r["training"]["pictures"] - x).abs().mean((1, 2, 3)).min()
        for x in r["asked"]["pictures"]]).median()),
    "'nearest': the record says": other_number("nearest", 0.6),
    "'nearest in training': each picture finds itself": other_number("nearest in training", 0.0),
    "'nearest in training': that is the mean over": other_number(
        "nearest in training", lambda r: within(r).amin(1).mean()),
    "'nearest in training': that is the least": other_number(
        "nearest in training", lambda r: within(r).min()),
    "'nearest in training': those are mean squares": other_number(
        "nearest in training", lambda r: r["nearest in training"] ** 2),
    "'nearest in training': that is the length": other_number(
        "nearest in training", lambda r: SCALE * r["nearest in training"]),
    "'nearest in training': that is the distance to all": other_number(
        "nearest in training", lambda r: within(r)[~torch.eye(12).bool()].median()),
    "'nearest in training': the record says": other_number("nearest in training", 0.9),
    "'copies': that is a percentage": in_percent("copies"),
    "'copies': that is their number": other_number("copies", lambda r: 60 * r["copies"]),
    "'copies': that is the share of those that are none": other_number(
        "copies", lambda r: 1 - r["copies"]),
    "'copies': only pictures are counted": other_number("copies", 1 / 60),
    "'copies': those are nearer than training pictures are on average": other_number(
        "copies", lambda r: (to_training(r).amin(1) < r["nearest in training"]).double().mean()),
    "'copies': the record says": other_number("copies", 0.5),
    "by them it got worse": fitting(better="lower"),
    "less than two standard errors": fitting(asked__after=scores_of(60, 0.08, 9)),
    "does it end with `return`": lambda: None,
}


def record_of_distances():
    """Right: a style, whose scores are distances, as lists, better when lower; odd numbers."""
    g = torch.Generator().manual_seed(1)
    noise = lambda n: torch.randn(n, generator=g).tolist()
    names = [f"a figure in crayon, number {k}" for k in range(76)]
    pictures = torch.rand(76, 3, 32, 32, generator=g).double() * 2 - 1
    record = {
        "thing": "a style", "word": "In  Crayon", "better": "lower",
        "training": {"captions": tuple(names[:5]), "pictures": pictures[:5]},
        "asked": {"captions": names[5:], "pictures": pictures[5:],
                  "before": [2 + 0.1 * x for x in noise(71)],
                  "after": [1 + 0.1 * x for x in noise(71)]},
        "others": {"captions": ["within crayon", "in crayons", *map(str, range(49))],
                   "before": torch.tensor(noise(51)).half(), "after": torch.tensor(noise(51))},
    }
    return record | numbers_of(record)


def without_an_error():
    """Right: no picture before, all pictures after; nothing lost; yes and no; n in place of n - 1.
    """
    record = record_with(asked__before=[False] * 60, asked__after=[True] * 60,
                         others__before=torch.ones(80).bool(),
                         others__after=torch.ones(80, dtype=torch.int64))()
    return record | numbers_of(record)


def rounded():
    """Right: four digits, the lower of both middle values, the deviation by n; tensors, arrays."""
    record = dict(measured_record())
    record["asked"] = record["asked"] | {k: record["asked"][k].numpy() for k in ("before", "after")}
    record["cost"] = np.float32(record["cost"])
    for key, n in (("gain error", 60), ("cost error", 80)):
        record[key] *= (1 - 1 / n) ** 0.5
    record["nearest"] = to_training(record).amin(1).median()
    record["copies"] = torch.tensor([record["copies"]])
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in record.items()}


RIGHT = {
    "7.1": published_name,
    "7.2": LowRankLinear,
    "7.3": encoder(),
    "7.4": (READER, diagnosis),
    "7.5": levels,
    "7.6": two_steps,
    "7.7": measured_record,
}
OTHER_STYLE = {
    "7.1": published_name_by_rules,
    "7.2": OfLinears,
    "7.3": by_transformers if find_spec("transformers") else encoder(),
    "7.4": for_all_readers(),
    "7.5": levels_of_diffusers,
    "7.6": two_steps_in_columns,
    "7.7": record_of_distances,
}
THIRD_STYLE = {
    "7.2": OnPaper,
    "7.3": encoder(merge=one_at_a_time(lambda known, rank_at: min(known, key=rank_at))),
    "7.4": [READER, DIAGNOSIS],
    "7.5": levels_in_single_precision,
    "7.6": two_steps_by_autograd,
    "7.7": rounded,
}
FOURTH_STYLE = {
    "7.2": librarys_lora,
    "7.3": lambda tokenizer, text: tokenizer(text),
    "7.7": without_an_error(),
}
STUBS = {"7.4": (READER, stub)}
WRONG = {
    "7.1": NAMES,
    "7.2": LORA,
    "7.3": ENCODER,
    "7.4": BOARD,
    "7.5": LEVELS,
    "7.6": GRADIENTS,
    "7.7": RECORD,
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
        for answer in (stub, STUBS.get(q.name, stub)):
            check(q.name, answer)
            assert check.verdicts[q.name] == "not attempted"
        assert q.points > 0 and q.praise and len(q.hints) == 3
    assert sum(q.points for q in QUESTIONS) == 22


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


def test_each_reader_of_7_4_has_three_faults_of_six():
    """The same for the same name, and every fault about equally often in every row."""
    drawn = [lesson07_board.three_faults(f"reader {k}") for k in range(1200)]
    assert all(len({*three}) == 3 for three in drawn)
    for row in zip(*drawn):
        counts = Counter(row)
        assert {*counts} == {*lesson07_board.FAULTS}
        assert all(abs(n - 200) < 5 * 200**0.5 for n in counts.values())
    assert lesson07_board.three_faults(" ADA") == lesson07_board.three_faults(READER)
    plants = lesson07_board.planted(READER)
    assert plants == {row: faults.FAULTS[fault] for row, (fault, _) in DIAGNOSIS.items()}
    with pytest.raises(ValueError, match="must be a name"):
        lesson07_board.planted("")


@pytest.mark.skipif(not MINI_SD.exists(), reason="python tools/recipes/train_mini_sd.py")
def test_the_faults_of_7_4_can_be_told_apart():
    """By correlations with the right pictures: of long captions, of short ones, of round trips."""
    with torch.no_grad():
        found = {name: column_correlations(name) for name in lesson07_board.FAULTS}
    long, short, trips = found["text not causal"]
    assert long < 0.9 and short > 0.95 and trips > 0.999
    long, short, trips = found["another padding token"]
    assert long > 0.93 and short < 0.9 and trips > 0.999
    long, short, trips = found["no final norm of the text"]
    assert long < 0.45 and short < 0.65 and trips > 0.999
    long, short, trips = found["v taken for eps, or eps for v"]
    assert 0.6 < long < 0.8 and 0.5 < short < 0.8 and trips > 0.999
    long, short, trips = found["encoder padded on both sides"]
    assert min(long, short) > 0.999 and trips < 0.8
    assert max(found["no convolution before the decoder"]) < 0.4


@cache
def mini_sd():
    return train.load(MINI_SD, "cpu"), train.load("nouns_vae", "cpu")


@cache
def row_of(fault):
    """Six pictures of captions, three of short or no text, and two round trips: (11, P)"""
    model = faults.Parts(*mini_sd())
    faults.FAULTS.get(fault, lambda model: None)(model)
    captions = noun_parts.plain_captions(noun_parts.draw_parts(6, seed=31, split="test"))
    x = sampling.text_to_image(model.D, [*captions, "a figure", "a noun", ""], steps=6,
                               vae=model.vae)
    two = noun_parts.render(noun_parts.draw_parts(2, seed=32))
    return torch.cat([x, model.vae.to_images(model.vae.to_latents(two))]).flatten(1)


def column_correlations(fault):
    """Means of three groups of columns."""
    pairs = zip(row_of(fault), row_of(None))
    found = torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in pairs])
    return [group.mean().item() for group in (found[:6], found[6:9], found[9:])]


def test_the_numbers_of_7_7_are_recomputed_well():
    """The check's own beside the record's, which loops computed; and the means of lists."""
    for record in (measured_record(), record_of_distances()):
        c = lesson07_board.Case(record=record, better=record["better"])
        lesson07_board.describe_captions(c)
        lesson07_board.describe_pictures(c)
        lesson07_board.describe_scores(c)
        lesson07_board.measure_record(c)
        close = lambda key, value: math.isclose(record[key], value.item(), rel_tol=1e-6)
        for key, name in (("asked", "gain"), ("others", "cost")):
            assert close(name, c.change[key].mean())
            assert close(f"{name} error", lesson07_board.standard_error(c.change[key]))
        assert close("nearest", sum(lesson07_board.medians(c.to_training)) / 2)
        assert close("nearest in training", sum(lesson07_board.medians(c.among)) / 2)
        assert record["copies"] == c.copied.double().mean().item()
    assert 0 < measured_record()["copies"] < 1


def test_the_sheet_answers_its_own_questions(monkeypatch):
    """The answer cells of the solved sheet, without its figures; 7.7 would have to train. And its
    five examples, and its tables of faults and reasons.
    """
    import jupytext
    monkeypatch.setenv("COURSE_STRICT", "1")
    names = {"check": Checker(), "torch": torch, "nn": nn, "re": re, "SIGNS": SIGNS, "START": START,
             "END": END, "split_words": split_words}
    cells = jupytext.read(SHEET).cells
    names["READER"] = next(re.fullmatch('READER = "(.+)"', cell.source)[1] for cell in cells
                           if cell.source.startswith("READER = "))
    wanted = {f"{kind}:{q.name}" for q in QUESTIONS[:6] for kind in ("answer", "check")}
    for cell in cells:
        if wanted & {*cell.metadata.get("tags", [])}:
            exec(compile(cell.source, "sheet", "exec"), names)
    assert all(names["check"].passed(q.name) for q in QUESTIONS[:6])
    listed = next(cell.source for cell in cells if "examples = {" in cell.source)
    pairs = re.findall(r'^    "(\S+)": "(\S+?)"', listed, re.M)
    assert len(pairs) == 5 and all(published_name(a) == b for a, b in pairs)
    listed = re.findall(r'^\| `"(.+)"` \|', "\n".join(cell.source for cell in cells), re.M)
    leaks = lesson07_service.LEAKY_SERVICES
    assert listed == [*lesson07_board.FAULTS, *lesson07_board.REASONS, *leaks]
