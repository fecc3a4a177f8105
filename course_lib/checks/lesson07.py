"""The questions of lesson 7. Tables list the well-known mistakes: diagnosis -> what it computes.

7.4 and 7.7 are in lesson07_board.py.
"""
import re
from collections.abc import Callable
from functools import lru_cache, partial

import torch
from torch import Tensor, nn

from ..lab.data.caption_grammar import draw_captions
from ..networks.stable_diffusion.layout import names_of
from ..networks.stable_diffusion.tokenizer import END, SIGNS, START, BytePairTokenizer, split_words
from ..networks.stable_diffusion.unet import StableDiffusionUNet
from ..schedules import Schedule
from .common import (
    Case,
    Question,
    Wrong,
    as_function,
    between,
    call_pure,
    compare,
    compare_case,
    draw_case,
    fresh_generator,
    noise,
    not_finite,
    reject_first,
    reject_if,
    reject_none,
)
from .lesson06 import fresh_seed
from .lesson07_board import QUESTIONS as WITH_MINI_SD

# ---- 7.1: the names of a published file

FIRST = "Stable Diffusion 1.5"
SECOND = "a U-Net with eleven blocks in each level"


@lru_cache(maxsize=1)
def published_pairs() -> dict[str, dict[str, str]]:
    """Our names and the published ones, of two networks: {network: {ours: published}}."""
    with torch.device("meta"):                              # sizes without numbers
        nets = {
            FIRST: StableDiffusionUNet(),
            SECOND: StableDiffusionUNet(
                widths=(32, 64, 64), depth=11, context_dim=16, num_heads=(1, 2, 2),
                attention_levels=(False, True, True), linear_projection=True,
            ),
        }  # fmt: skip
    return {name: {ours: parts[0] for ours, parts in names_of(net).items()}
            for name, net in nets.items()}


def has(piece: str) -> Callable[[Case], bool]:
    """The piece is in the reader's name, and not in the right one."""
    return lambda c: piece in c.came and piece not in c.right


def lacks(piece: str) -> Callable[[Case], bool]:
    """The piece is in the right name, and not in the reader's."""
    return lambda c: piece in c.right and piece not in c.came


def with_parts(c: Case, **changes: str) -> str:
    """The right name with some of its parts replaced."""
    return ".".join(changes.get(part, part) for part in c.right.split("."))


def alike(pattern: str) -> Callable[[Case], bool]:
    """The reader's name is right but for what matches the pattern."""
    return lambda c: re.sub(pattern, "#", c.came) == re.sub(pattern, "#", c.right)


# of the first name that is wrong
NAME_SUSPECTS = {
    "the name has not changed":
        lambda c: c.came == c.ours,
    "the last part, weight or bias, stays as it is":
        lambda c: c.came == c.right.rpartition(".")[0],
    "the names of a U-Net's own file have no prefix":
        lambda c: c.came.endswith("." + c.right),
    "those are the names of the original code; the file's begin with down_blocks, mid_block and "
    "up_blocks":
        lambda c: c.came.startswith(("input_blocks", "middle_block", "output_blocks")),
    "conv_in is the stem alone":
        has("conv_in"),
    "conv_norm_out is the U-Net's last norm alone; the blocks' norms have other names":
        has("conv_norm_out"),
    "conv_out is the U-Net's last convolution alone; an attention and an MLP have an `out`, too":
        has("conv_out"),
    "time_embedding is the MLP at the start; the layer of a block is time_emb_proj":
        has("time_embedding"),
    "the block's layer for the time is called time_emb_proj":
        lacks(".time_emb_proj."),
    "the two layers of the time's MLP are linear_1 and linear_2, whatever their places in a "
    "Sequential":
        lacks("time_embedding.linear_"),
    "the first layer of the time's MLP has the number 1 in both, and the second 3 in ours, 2 in "
    "theirs":
        lambda c: "time_embedding.linear_" in c.right,
    "the stem is conv_in":
        lacks("conv_in"),
    "the last norm is conv_norm_out":
        lacks("conv_norm_out"),
    "the last convolution is conv_out":
        lacks("conv_out"),
    "there is one middle, so mid_block has no number of its own":
        lambda c: c.right.startswith("mid_block.") and re.match(r"mid_block\.\d", c.came),
    "the first part is down_blocks, mid_block or up_blocks":
        lambda c: c.came.split(".")[0] != c.right.split(".")[0],
    "a level keeps its number: the first level of the decoder is the lowest resolution in both":
        alike(r"^\w+_blocks\.\d+"),
    "a level's convolution on the way down is downsamplers.0.conv":
        lambda c: "downsamplers" in c.right,
    "a level's convolution on the way up is upsamplers.0.conv; ours has a `conv` in its name "
    "already":
        lambda c: "upsamplers" in c.right,
    "the StepBlocks are called resnets":
        lacks(".resnets."),
    "the 1x1 convolution of the shortcut is conv_shortcut":
        lacks(".conv_shortcut."),
    "the spatial transformers are called attentions":
        lacks(".attentions."),
    "proj_in and proj_out keep their names; only the MLP's `proj` changes":
        lambda c: has(".ff.")(c) or lacks(".proj_in.")(c) or lacks(".proj_out.")(c),
    "the group norm before the tokens, proj_in and proj_out stand outside of transformer_blocks.0":
        has("transformer_blocks"),
    "everything between proj_in and proj_out stands in transformer_blocks.0, the norms 1 to 3 "
    "included":
        lacks("transformer_blocks"),
    "each of these transformers has one block, transformer_blocks.0; the number that changes is "
    "that of attentions":
        lacks("transformer_blocks.0."),
    "attn1 and attn2 have changed places: attn2 reads the caption, so its keys have other sizes":
        lambda c: c.came == with_parts(c, attn1="attn2", attn2="attn1"),
    "self_attention is attn1, and cross_attention is attn2":
        lambda c: lacks(".attn1.")(c) or lacks(".attn2.")(c),
    "the four layers of an attention begin with to_":
        lacks(".to_"),
    "queries, keys and values have changed places":
        alike("to_[qkv]"),
    "to_out is a list, of which the linear layer is number 0":
        lacks("to_out.0"),
    "the MLP is called ff":
        lacks(".ff."),
    "ff.net is a list of three: 0 has the gate, 1 is a dropout without weights, 2 the way back":
        lacks("ff.net.2"),
    "the matrix of the gate lies one deeper, ff.net.0.proj":
        lacks("ff.net.0.proj"),
    "the norms of a block have changed places":
        alike(r"norm\d"),
    "the two convolutions of a block have changed places":
        alike(r"conv\d"),
    "the number of a block or a transformer has changed":
        alike(r"\d+"),
    "that is the name of another tensor":
        lambda c: c.came in c.pairs.values(),
    "no tensor of the file has this name":
        lambda c: True,
}


def judge_names(f: Callable) -> None:
    """7.1: published_name(ours) -> the published name, for all tensors of two U-Nets."""
    for net, pairs in published_pairs().items():
        got = {ours: ask_name(f, ours, net) for ours in pairs}
        reject_if((len({*got.values()}) == 1,
                   f"every tensor becomes {got['stem.weight']!r:.60}: each has a name of its own"))
        wrong = [ours for ours in pairs if got[ours] != pairs[ours]]
        if wrong:
            explain_name(net, pairs, got, wrong)


def ask_name(f: Callable, ours: str, net: str) -> str:
    """The reader's name for one of ours. Raises Wrong for what is no string."""
    try:
        name = as_function(f)(ours)
    except (KeyError, IndexError, ValueError) as error:
        reject_if((net == SECOND, f"right for all names of {FIRST}, but {ours!r} of {SECOND} "
                   f"raises {type(error).__name__}: a table of 686 names is no rule"))
        raise
    reject_none(name)
    reject_if((not isinstance(name, str),
               f"a name is a string; for {ours!r} you return {type(name).__name__}"))
    return name


def explain_name(net: str, pairs: dict, got: dict, wrong: list[str]) -> None:
    """Raise Wrong with what is wrong with the first of the wrong names."""
    ours = wrong[0]
    c = Case(pairs=pairs, ours=ours, came=got[ours], right=pairs[ours])
    where = "" if net == FIRST else f"right for all names of {FIRST}, but not for {SECOND}: "
    try:
        reject_first(NAME_SUSPECTS, c)
    except Wrong as diagnosis:
        raise Wrong(f"{where}{ours} becomes {c.came or 'nothing'}: {diagnosis} ({len(wrong)} of "
                    f"{len(pairs)} names are wrong)") from None


# ---- 7.2: a low-rank change of a layer

INS, OUTS, RANK, ALPHA = 7, 5, 3, 7.0


def lora_case(f: Callable, bias: bool, seed: int) -> Case:
    """A linear layer, and what the reader makes of it; torch's own random numbers differ from call
    to call.
    """
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(fresh_seed())
        c = Case(base=nn.Linear(INS, OUTS, bias=bias), x=noise(4, INS).float(), seed=seed)
        c.weight = c.base.weight.detach().clone()
        c.bias = c.base.bias.detach().clone() if bias else torch.zeros(OUTS)
        generator = torch.Generator().manual_seed(seed)
        c.module = as_function(f)(c.base, RANK, ALPHA, generator)
    reject_none(c.module)
    describe_module(c)
    reject_first(MODULE_SUSPECTS, c)
    c.down = next(p for p in c.trainable if p.numel() == RANK * INS)
    c.up = next(p for p in c.trainable if p.numel() == OUTS * RANK)
    return c


def describe_module(c: Case) -> None:
    """Facts of what the reader returned."""
    c.came = type(c.module).__name__
    c.is_module = isinstance(c.module, nn.Module)
    c.trainable = [p for p in c.module.parameters() if p.requires_grad] if c.is_module else []
    c.of_base = [p for p in c.trainable if same(p, c.weight) or same(p, c.bias)]
    c.shapes = sorted((tuple(p.shape) for p in c.trainable), reverse=True)
    c.sizes = sorted(p.numel() for p in c.trainable)
    c.thin = [s for s in c.shapes if s in ((RANK, INS), (INS, RANK), (OUTS, RANK), (RANK, OUTS))]
    c.wanted = f"({RANK}, {INS}) and ({OUTS}, {RANK})"


def same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)


MODULE_SUSPECTS = {
    "a layer is wanted, an nn.Module, so that an optimizer finds its factors; got {c.came}":
        lambda c: not c.is_module,
    "that is linear itself, without any change of low rank":
        lambda c: c.module is c.base and not c.thin,
    "the base would be trained as well: linear.requires_grad_(False)":
        lambda c: c.of_base,
    "an optimizer finds nothing to train: the two factors must be nn.Parameter, and need gradients":
        lambda c: not c.trainable,
    "a factor has a bias: the change is a product of two matrices, so bias=False":
        lambda c: len(c.thin) == 2 and any(len(s) == 1 for s in c.shapes),
    "one factor of two can be trained, of shape {c.shapes[0]}":
        lambda c: len(c.thin) == 1 and len(c.shapes) == 1,
    "two factors are trained, of shapes {c.wanted} for this layer and this rank; yours are "
    "{c.shapes}":
        lambda c: len(c.thin) != 2 or c.sizes != sorted((RANK * INS, OUTS * RANK)),
}

START_SUSPECTS = {
    "down has nan or inf in it at the start":
        lambda c: not c.down.isfinite().all(),
    "both factors start at zero: by (7.12) both gradients are zero then, for ever":
        lambda c: is_zero(c.up) and is_zero(c.down),
    "down starts at zero and up at random: it begins as the base, too, but adapters are made the "
    "other way round, up = 0":
        lambda c: is_zero(c.down),
    "no factor starts at zero, so the layer begins as another one: up = 0":
        lambda c: not is_zero(c.up),
    "all rows of down are the same, and then the change has rank 1 for ever: draw them":
        lambda c: is_zero(of_down(c) - of_down(c)[:1]),
}


def is_zero(x: Tensor) -> bool:
    return not x.detach().any()


def of_down(c: Case) -> Tensor:
    """The factor A (rank, in), which the reader may keep transposed."""
    return c.down if c.down.shape == (RANK, INS) else c.down.T


def of_up(c: Case) -> Tensor:
    """The factor B (out, rank)."""
    return c.up if c.up.shape == (OUTS, RANK) else c.up.T


def base_output(c: Case) -> Tensor:
    return c.x @ c.weight.T + c.bias


def change(c: Case) -> Tensor:
    """x A^T B^T, without a factor."""
    return c.x @ of_down(c).T @ of_up(c).T


def right_output(c: Case, scale: float = ALPHA / RANK) -> Tensor:
    return base_output(c) + scale * change(c)


AT_START = {
    "at the start it gives 0: that is the change alone, add linear(x)":
        lambda c: 0 * base_output(c),
    "at the start the base counts twice: it is in the changed weight already":
        lambda c: 2 * base_output(c),
    "at the start linear(x) is multiplied by alpha / rank, too":
        lambda c: ALPHA / RANK * base_output(c),
    "at the start linear's bias is missing":
        lambda c: base_output(c) - c.bias,
    "at the start linear's bias is added twice":
        lambda c: base_output(c) + c.bias,
}
OUTPUT_MISTAKES = {
    "the factors have changed, and the output has not: compute the change in forward, not when the "
    "layer is made":
        base_output,
    "the change has no factor; alpha / rank belongs to it":
        lambda c: right_output(c, 1.0),
    "the change is multiplied by alpha; alpha / rank keeps its size the same for all ranks":
        lambda c: right_output(c, ALPHA),
    "the change is divided by rank; the factor is alpha / rank":
        lambda c: right_output(c, 1 / RANK),
    "the factor is upside down: alpha / rank":
        lambda c: right_output(c, RANK / ALPHA),
    "the factor is alpha times rank; divide":
        lambda c: right_output(c, ALPHA * RANK),
    "the factor is alpha / sqrt(rank), as in rsLoRA (Kalajdzievski 2023); here it is alpha / rank":
        lambda c: right_output(c, ALPHA / RANK**0.5),
    "the factor alpha / rank comes twice: once for the product of both matrices":
        lambda c: right_output(c, (ALPHA / RANK) ** 2),
    "the factor alpha / rank is rounded down: / and not //":
        lambda c: right_output(c, ALPHA // RANK),
    "the change is subtracted":
        lambda c: right_output(c, -ALPHA / RANK),
}


def judge_lora(f: Callable) -> None:
    """7.2: with_lora(linear, rank, alpha, generator) -> nn.Module."""
    c = lora_case(f, True, fresh_seed())
    reject_first(START_SUSPECTS, c)
    judge_lora_at_start(c)
    set_factors(c)
    compare_case(lora_output(c, c.x), c, right_output, OUTPUT_MISTAKES, rtol=1e-4, atol=1e-4,
                 otherwise="not linear(x) + alpha / rank (x A^T) B^T, with A = down and B = up")
    compare(c.base(c.x).detach(), base_output(c), otherwise="linear itself computes something else "
            "now: leave it as it is, and give back a layer that uses it")
    judge_lora_gradients(c)
    judge_lora_training(c)
    judge_lora_shapes(c)
    judge_lora_generator(f, c)
    judge_lora_without_bias(f)


def lora_output(c: Case, x: Tensor) -> Tensor:
    """The output of the reader's layer. Raises Wrong where it has none."""
    try:
        got = c.module(x)
    except NotImplementedError:
        raise Wrong("your layer has no forward(self, x)") from None
    reject_none(got)
    return got


def set_factors(c: Case) -> None:
    """New numbers for both factors; with them the output is another one."""
    with torch.no_grad():
        for p in (c.down, c.up):
            p.copy_(noise(*p.shape))


def judge_lora_at_start(c: Case) -> None:
    """The new layer is the base, and up has a gradient."""
    got = lora_output(c, c.x)
    compare_case(got, c, base_output, AT_START,
                 otherwise="at the start, with up = 0, it is not linear(x)")
    reject_if((not got.requires_grad, "at the start the output depends on no factor: with "
               ".detach(), .data or no_grad, or without the change, nothing is ever trained"))
    gradients = torch.autograd.grad(got.sum(), [c.up, c.down], allow_unused=True)
    reject_if((gradients[0] is None or is_zero(gradients[0]),
               "at the start up has no gradient: then it stays 0"))


def judge_lora_gradients(c: Case) -> None:
    """Those of both factors and of the input, by (7.12)."""
    G, x = noise(len(c.x), OUTS).float(), c.x.clone().requires_grad_()
    found = torch.autograd.grad((lora_output(c, x) * G).sum(), [c.up, c.down, x],
                                allow_unused=True)
    wanted = torch.autograd.grad((right_output(Case(**vars(c) | {"x": x})) * G).sum(),
                                 [c.up, c.down, x])
    for name, mine, right in zip(("up", "down", "the input"), found, wanted):
        reject_if((mine is None, f"{name} has no gradient: no .detach(), .data or no_grad"))
        compare(mine, right, rtol=1e-3, atol=1e-3, otherwise=f"the output is right, but not the "
                f"gradient of {name}: is a part of the layer cut off from autograd?")


def judge_lora_training(c: Case) -> None:
    """After two steps the layer is the old base and the new change."""
    optimizer = torch.optim.SGD(c.trainable, lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        lora_output(c, c.x).square().mean().backward()
        optimizer.step()
    reject_if((c.base.weight.grad is not None, "the base's weight gets a gradient, though nobody "
               "trains it: linear.requires_grad_(False)"))
    compare(lora_output(c, c.x), right_output(c), atol=1e-4, otherwise="right, until it "
            "is trained: after two steps it is not the old base and the new change")


def judge_lora_shapes(c: Case) -> None:
    """Tokens (B, L, in), and one dimension more."""
    for shape in ((2, 3, INS), (2, 2, 3, INS)):
        c.x = noise(*shape).float()
        words = (f"right for x of shape (B, in), but not for {shape}: an attention has tokens "
                 "(B, L, in), so act on the last dimension, x @ down.T")
        try:
            got = lora_output(c, c.x)
        except (RuntimeError, ValueError, IndexError) as error:
            raise Wrong(f"{words} ({str(error).splitlines()[0]})") from None
        compare(got, right_output(c), rtol=1e-3, atol=1e-3, otherwise=words)


def judge_lora_generator(f: Callable, c: Case) -> None:
    """down comes from the generator: equal seeds, equal numbers."""
    downs = [lora_case(f, True, seed).down.detach() for seed in (c.seed, c.seed, c.seed + 1)]
    reject_if((not torch.equal(downs[0], downs[1]), "the same generator gave two different "
               "layers: draw down with generator=generator"),
              (torch.equal(downs[0], downs[2]), "two generators with two seeds gave the same down: "
               "draw it with generator=generator, and make no generator of your own"))


def judge_lora_without_bias(f: Callable) -> None:
    """The queries, keys and values of Stable Diffusion's attention have no bias."""
    words = "right, but a linear layer without a bias, as the attention's queries have it, fails"
    try:
        c = lora_case(f, False, fresh_seed())
        set_factors(c)
        got = lora_output(c, c.x)
    except (TypeError, AttributeError, RuntimeError) as error:
        raise Wrong(f"{words}: {type(error).__name__}") from None
    compare(got, right_output(c), rtol=1e-3, atol=1e-3, otherwise=words)


# ---- 7.3: byte pairs

Parts = list[str]


@lru_cache(maxsize=1)
def learned_code() -> BytePairTokenizer:
    return BytePairTokenizer.learn(draw_captions(200, seed=7), 760, length=20)


@lru_cache(maxsize=1)
def caption_words() -> list[str]:
    return sorted({word for text in draw_captions(400, seed=8) for word in split_words(text)
                   if len(word) > 3})


def signs_of(word: str) -> Parts:
    """One sign for each byte, the last one marked."""
    signs = [SIGNS[byte] for byte in word.encode()]
    return [*signs[:-1], signs[-1] + "</w>"]


def join_at(parts: Parts, k: int) -> Parts:
    return [*parts[:k], parts[k] + parts[k + 1], *parts[k + 2:]]


def merge_while(rank: dict, parts: Parts, choose: Callable) -> Parts:
    """Join the pair that `choose` takes of the places of known pairs, again and again."""
    while True:
        places = [k for k, pair in enumerate(zip(parts, parts[1:])) if pair in rank]
        if not places:
            return parts
        parts = join_at(parts, choose(places, lambda k: rank[parts[k], parts[k + 1]]))


def by_rank(rank: dict, parts: Parts) -> Parts:
    return merge_while(rank, parts, lambda places, rank_at: min(places, key=rank_at))


def latest_first(rank: dict, parts: Parts) -> Parts:
    return merge_while(rank, parts, lambda places, rank_at: max(places, key=rank_at))


def in_text_order(rank: dict, parts: Parts) -> Parts:
    """From left to right, the first pair that can be merged."""
    k = 0
    while k < len(parts) - 1:
        if (parts[k], parts[k + 1]) in rank:
            parts = join_at(parts, k)
        else:
            k += 1
    return parts


def one_merge(rank: dict, parts: Parts) -> Parts:
    """Only the earliest of all pairs."""
    places = [k for k, pair in enumerate(zip(parts, parts[1:])) if pair in rank]
    earliest = min(places, key=lambda k: rank[parts[k], parts[k + 1]], default=None)
    return parts if earliest is None else join_at(parts, earliest)


def longest(rank: dict, parts: Parts) -> Parts:
    """From left to right the longest token that is in the code: WordPiece."""
    known = {a + b for a, b in rank}
    found = []
    while parts:
        ends = [n for n in range(len(parts), 1, -1) if "".join(parts[:n]) in known]
        n = ends[0] if ends else 1
        found.append("".join(parts[:n]))
        parts = parts[n:]
    return found


def no_merge(rank: dict, parts: Parts) -> Parts:
    return parts


MERGES = (by_rank, latest_first, in_text_order, one_merge, longest, no_merge)


def framed(parts: Parts, length: int) -> Parts:
    return [START, *parts[: length - 2], END]


def encode_text(c: Case, *, words: Callable = split_words, signs: Callable = signs_of,
                merge: Callable = by_rank, frame: Callable = framed,
                pad: str | None = None) -> Tensor | None:
    """The ids of the case's text, with parts of the encoder replaced; None where there are no
    `length` of them.
    """
    code = c.tokenizer
    parts = [part for word in words(c.text) for part in merge(code.rank, signs(word))]
    parts = frame(parts, code.length)
    parts += [pad or code.pad] * (code.length - len(parts))
    ids = [code.vocabulary.get(part, code.vocabulary[END]) for part in parts]
    return torch.tensor(ids, dtype=torch.float64) if len(ids) == code.length else None


ENCODE_MISTAKES = {
    "the padding is always <|endoftext|>; tokenizer.pad says which token it is":
        lambda c: encode_text(c, pad=END),
    "the padding is id 0, whatever tokenizer.pad says":
        lambda c: encode_text(c, pad=c.tokenizer.tokens[0]),
    "<|startoftext|> is missing":
        lambda c: encode_text(c, frame=lambda parts, n: [*parts[: n - 1], END]),
    "the row is cut behind <|endoftext|>, so a long text loses it; cut the text first":
        lambda c: encode_text(c, frame=lambda parts, n: [START, *parts, END][:n]),
    "<|endoftext|> is missing":
        lambda c: encode_text(c, frame=lambda parts, n: [START, *parts][:n]),
    "a long text keeps its last tokens; the first ones are read, and the end is left out":
        lambda c: encode_text(c, frame=lambda parts, n: [START, *parts[-(n - 2):], END]),
    "a long text is cut one token too early: start and end take two places":
        lambda c: encode_text(c, frame=lambda parts, n: [START, *parts[: n - 3], END]),
    "the pairs are merged in the order of the text: of all pairs that can be merged, take the one "
    "that was learned first":
        lambda c: encode_text(c, merge=in_text_order),
    "you take the pair that was learned last; the first one is wanted, with the lowest rank":
        lambda c: encode_text(c, merge=latest_first),
    "you take the longest token that fits, from left to right: that is WordPiece, not byte pairs":
        lambda c: encode_text(c, merge=longest),
    "only one pair of a word is merged: go on until there is none left":
        lambda c: encode_text(c, merge=one_merge),
    "nothing is merged":
        lambda c: encode_text(c, merge=no_merge),
    "</w> is forgotten: the last byte of a word is another token than the same byte inside":
        lambda c: encode_text(c, signs=lambda word: [SIGNS[byte] for byte in word.encode()]),
    "</w> is a sign of its own in yours, which no vocabulary has: it belongs to the last byte":
        lambda c: encode_text(c, signs=lambda word: [*(SIGNS[b] for b in word.encode()), "</w>"]),
    "the letters are looked up, and not their bytes, of which é has two (the sign é stands for "
    "another byte): SIGNS[byte] for byte in word.encode()":
        lambda c: encode_text(c, signs=lambda word: [*word[:-1], word[-1] + "</w>"]),
    "the bytes are looked up by chr(byte), and some of them have other signs: SIGNS[byte]":
        lambda c: encode_text(c, signs=lambda word: [
            *map(chr, word.encode()[:-1]), chr(word.encode()[-1]) + "</w>"]),
    "the text is taken for one word: </w> belongs to each word":
        lambda c: encode_text(c, words=lambda text: ["".join(split_words(text))]),
    "the text is split at white space; split_words parts punctuation from words, and makes "
    "capital letters small":
        lambda c: encode_text(c, words=str.split),
}


def draw_word() -> str:
    """A word of captions in which every order of merging gives other tokens."""
    code, words, g = learned_code(), caption_words(), fresh_generator()
    for _ in range(500):
        first, second = torch.randint(0, len(words), (2,), generator=g).tolist()
        word = words[first] + words[second]
        if len({tuple(merge(code.rank, signs_of(word))) for merge in MERGES}) == len(MERGES):
            break
    return word


def texts_to_encode() -> list[Case]:
    """From the simple to the long."""
    code = learned_code()
    other = BytePairTokenizer(code.vocabulary, code.merges, 23, pad="!")
    word = draw_word()
    long = " ".join(draw_word() for _ in range(8))
    return [
        Case(tokenizer=code, text="a hat"),
        Case(tokenizer=code, text=word),
        Case(tokenizer=code, text="a naïve é ß"),
        Case(tokenizer=other, text="A Hat, don't"),
        Case(tokenizer=code, text=long),
        Case(tokenizer=other, text=long),
    ]


def judge_encoder(f: Callable) -> None:
    """7.3: encode(tokenizer, text) -> ids, tokenizer.length of them."""
    for c in texts_to_encode():
        ids = row_of_ids(call_encoder(f, c), c)
        compare_case(ids, c, encode_text, ENCODE_MISTAKES, rtol=0, atol=0,
                     otherwise=first_difference(ids, c))


def call_encoder(f: Callable, c: Case) -> object:
    """Raises Wrong for a token that is none."""
    try:
        return as_function(f)(c.tokenizer, c.text)
    except KeyError as error:
        raise Wrong(f"{c.text!r}: the vocabulary has no token {error}. It has a sign for each "
                    "byte, SIGNS[byte], and one for each that ends a word, with </w>") from None


def row_of_ids(got: object, c: Case) -> Tensor:
    """The reader's ids (length,), as float64. Raises Wrong for what is no row of ids."""
    reject_none(got)
    ids = got.flatten().tolist() if torch.is_tensor(got) else got
    reject_if((not isinstance(ids, (list, tuple)),
               f"a list of ids is wanted; got {type(got).__name__}"),
              (any(isinstance(k, str) for k in ids),
               "those are tokens; their ids are wanted, tokenizer.vocabulary[token]"),
              (any(isinstance(k, bool) or not isinstance(k, int) for k in ids),
               "ids are whole numbers"))
    n = c.tokenizer.length
    reject_if((len(ids) > n, f"a text of many tokens gives {len(ids)} ids, and a row has {n}: cut "
               "it"),
              (len(ids) < n, f"{c.text!r} gives {len(ids)} ids, and a row has {n}: fill it with "
               "tokenizer.pad"))
    return torch.tensor(ids, dtype=torch.float64)


def first_difference(ids: Tensor, c: Case) -> str:
    right, tokens = encode_text(c), c.tokenizer.tokens
    k = int((ids != right).double().argmax())
    mine = tokens.get(int(ids[k]), f"no token, {int(ids[k])}")
    return f"{c.text!r}: number {k} of the row is {mine!r}; it should be {tokens[int(right[k])]!r}"


# ---- 7.5: steps, and the levels they stand for

def draw_grid(T: int, n: int, spacing: str) -> Case:
    c = Case(schedule=Schedule.scaled_linear(T), T=T, n=n, spacing=spacing,
             trailing=spacing == "trailing", uneven=T % n > 0)
    c.k = torch.arange(n, dtype=torch.float64)
    c.steps = right_steps(c)
    return c


def right_steps(c: Case, trailing: bool | None = None) -> Tensor:
    if c.trailing if trailing is None else trailing:
        return ((c.n - c.k) * c.T / c.n).round() - 1
    return (c.n - 1 - c.k) * (c.T // c.n) + 1


def if_trailing(steps: Callable[[Case], Tensor]) -> Callable[[Case], Tensor | None]:
    return lambda c: steps(c) if c.trailing else None


def if_leading(steps: Callable[[Case], Tensor]) -> Callable[[Case], Tensor | None]:
    return lambda c: None if c.trailing else steps(c)


STEPS_MISTAKES = {
    "trailing: 1 is not subtracted, so the first step is {c.T}, and the network was trained on 0 "
    "to T - 1":
        if_trailing(lambda c: c.steps + 1),
    "trailing: one is subtracted twice, so the first step is T - 2":
        if_trailing(lambda c: c.steps - 1),
    "trailing: T // n is rounded down, so with n = {c.n} the first step lies below T - 1; round "
    "the multiples of T / n":
        if_trailing(lambda c: (c.n - c.k) * (c.T // c.n) - 1),
    "trailing: the multiples of T / n are rounded down; round them to the nearest":
        if_trailing(lambda c: ((c.n - c.k) * c.T / c.n).floor() - 1),
    "trailing: those are the leading steps":
        if_trailing(lambda c: right_steps(c, False)),
    "trailing: the steps begin each part; it is the last step of each that is wanted":
        if_trailing(lambda c: ((c.n - 1 - c.k) * c.T / c.n).round()),
    "leading: the offset of 1 is missing: the published pipeline ends at step 1, not at 0":
        if_leading(lambda c: c.steps - 1),
    "leading: the offset is 2; it is 1":
        if_leading(lambda c: c.steps + 1),
    "leading: the offset is subtracted":
        if_leading(lambda c: c.steps - 2),
    "leading: T / n is rounded down before it is multiplied":
        if_leading(lambda c: ((c.n - 1 - c.k) * c.T / c.n).round() + 1),
    "leading: those are the trailing steps":
        if_leading(lambda c: right_steps(c, True)),
    "{c.spacing}: the steps rise; sampling begins with the noisiest":
        lambda c: c.steps.flip(0),
    "{c.spacing}: that is `linspace`, a third convention, with both ends, T - 1 and 0":
        lambda c: torch.linspace(c.T - 1, 0, c.n, dtype=torch.float64).round(),
    "{c.spacing}: those number the parts; the network is told a step of 0 to T - 1":
        lambda c: c.n - 1 - c.k,
    "{c.spacing}: those are times in [0, 1]; the network is told a step":
        lambda c: (c.steps + 1) / c.T,
}


def level_at(name: str, shift: int = 0) -> Callable[[Case], Tensor]:
    """alpha or sigma of the steps, as if they were `shift` higher."""
    return lambda c: getattr(c.schedule, name)(((c.steps + 1 + shift) / c.T).clamp(max=1))


def beta(c: Case) -> Tensor:
    return c.schedule.betas[c.steps.long()]


def ratio(c: Case) -> Tensor:
    return right_sigma(c) / right_alpha(c)


right_alpha, right_sigma = level_at("alpha"), level_at("sigma")
ALPHA_MISTAKES = {
    "{c.spacing}: alpha is one step off: step i is at t = (i + 1) / T, and yours is at i / T, so "
    "the network is told of more noise than there is":
        level_at("alpha", -1),
    "{c.spacing}: alpha is one step off: step i is at t = (i + 1) / T, and yours is at (i + 2) / T":
        level_at("alpha", 1),
    "leading: those are the levels of even times, (n - k) / n; take the steps' own":
        if_leading(lambda c: c.schedule.alpha((c.n - c.k) / c.n)),
    "{c.spacing}: that is alpha^2, alphas_cumprod in published code; take its root":
        lambda c: right_alpha(c) ** 2,
    "{c.spacing}: alpha and sigma have changed places":
        right_sigma,
    "{c.spacing}: that is sqrt(1 - beta), what one step keeps; alpha is the product of all steps":
        lambda c: (1 - beta(c)).sqrt(),
    "{c.spacing}: that is t; alpha(t) is wanted":
        lambda c: (c.steps + 1) / c.T,
}
SIGMA_MISTAKES = {
    "{c.spacing}: alpha is right, but sigma is that of i / T":
        level_at("sigma", -1),
    "{c.spacing}: alpha is right, but sigma is that of (i + 2) / T":
        level_at("sigma", 1),
    "{c.spacing}: that is sigma^2, a variance":
        lambda c: right_sigma(c) ** 2,
    "{c.spacing}: that is 1 - alpha; sigma^2 is 1 - alpha^2":
        lambda c: 1 - right_alpha(c),
    "{c.spacing}: that is sigma / alpha, the `sigma` of k-diffusion":
        ratio,
    "{c.spacing}: that is sqrt(beta), what one step adds":
        lambda c: beta(c).sqrt(),
    "{c.spacing}: alpha comes twice":
        right_alpha,
}
GRIDS = ((1000, 50), (1000, 7), (400, 30))                  # T, n: no multiple ends in 1/2


def judge_levels(f: Callable) -> None:
    """7.5: levels(schedule, n, spacing) -> steps, alpha, sigma, each (n,)."""
    for T, n in GRIDS:
        for spacing in ("trailing", "leading"):
            c = draw_grid(T, n, spacing)
            steps, alpha, sigma = three_of(call_pure(f, c.schedule, n, spacing))
            compare_case(as_steps(steps, c), c, right_steps, STEPS_MISTAKES, rtol=0, atol=1e-6,
                         otherwise=f"{spacing}: with {n} of {T} steps, not those of (7.9)")
            for name, got, right, table in (("alpha", alpha, right_alpha, ALPHA_MISTAKES),
                                            ("sigma", sigma, right_sigma, SIGMA_MISTAKES)):
                not_finite(got, f"{spacing}: some of your {name} are nan or inf")
                compare_case(got, c, right, table, rtol=2e-5, atol=2e-5, otherwise=(
                    f"{spacing}: the steps are right, {name} is not: step i is at t = (i + 1) / T"))


def three_of(got: object) -> tuple:
    reject_none(got)
    came = f"{len(got)} things" if isinstance(got, (tuple, list)) else type(got).__name__
    reject_if((not isinstance(got, (tuple, list)) or len(got) != 3,
               f"three tensors are wanted, steps, alpha and sigma; got {came}"))
    return tuple(got)


def as_steps(steps: object, c: Case) -> Tensor:
    """The reader's steps (n,), as float64. Raises Wrong for what are no steps."""
    if isinstance(steps, (list, tuple)) and all(type(step) in (int, float) for step in steps):
        steps = torch.tensor(steps, dtype=torch.float64)
    shape = tuple(getattr(steps, "shape", ()))
    reject_if((not torch.is_tensor(steps),
               f"{c.spacing}: the steps must be a tensor; got {type(steps).__name__}"),
              (shape != (c.n,), f"{c.spacing}: {c.n} steps are wanted; got shape {shape}"))
    steps = steps.double()
    broken = steps[(steps != steps.round()) & (steps > 1)].tolist()
    reject_if((broken, f"{c.spacing}: a step is a whole number; got {[*broken, 0][0]:.2f}"))
    return steps


# ---- 7.6: what stands behind a layer that is zero

def layers_case(zero_Z: bool = False, zero_W: bool = False) -> Case:
    """s = Z W x, the gradient g arriving at s, and both layers after a step."""
    m, n, k = 3, 4, 6
    c = Case(Z=noise(m, n) * (not zero_Z), W=noise(n, k) * (not zero_W), x=noise(k), g=noise(m),
             lr=between(0.2, 0.5).item())
    c.inputs = c.Z, c.W, c.x, c.g, c.lr
    c.dZ = of_Z(c, c.W)
    c.dW = of_W(c, c.Z)
    c.new_Z = c.Z - c.lr * c.dZ
    c.new_W = c.W - c.lr * c.dW
    return c


def draw_layers() -> Case:
    """Layers for which no answer can be taken for another."""
    draw = layers_case
    for right, mistakes in PARTS_OF_TWO_STEPS.values():
        draw = partial(draw_case, draw, right, mistakes)
    return draw()


def of_Z(c: Case, W: Tensor) -> Tensor:
    """The gradient of Z where W stands behind it: g (W x)^T."""
    return torch.outer(c.g, W @ c.x)


def of_W(c: Case, Z: Tensor) -> Tensor:
    """The gradient of W where Z stands before it: Z^T g x^T."""
    return torch.outer(Z.T @ c.g, c.x)


PARTS_OF_TWO_STEPS = {
    "dZ at first": (lambda c: c.dZ, {
        "dZ at first: the wrong sign: s = Z u, so dL/dZ = g u^T":
            lambda c: -c.dZ,
        "dZ at first: a layer that is zero has a gradient all the same, g u^T: it asks what its "
        "input is":
            lambda c: torch.zeros_like(c.dZ),
        "dZ at first: that is the step, lr times the gradient":
            lambda c: c.lr * c.dZ,
        "dZ at first: that is the change, -lr times the gradient":
            lambda c: -c.lr * c.dZ,
        "dZ at first: divided by the number of outputs; L is a sum":
            lambda c: c.dZ / len(c.g),
        "dZ at first: the arriving gradient g is left out":
            lambda c: torch.outer(torch.ones_like(c.g), c.W @ c.x),
        "dZ at first: that is the gradient after the step":
            lambda c: of_Z(c, c.new_W),
    }),
    "dW at first": (lambda c: c.dW, {
        "dW at first: zero is right for Z = 0 only; in general it is Z^T g x^T":
            lambda c: torch.zeros_like(c.dW),
        "dW at first: the wrong sign":
            lambda c: -c.dW,
        "dW at first: that is Z^T g at every input; u = W x, so multiply by x^T":
            lambda c: torch.outer(c.Z.T @ c.g, torch.ones_like(c.x)),
        "dW at first: that is the step, lr times the gradient":
            lambda c: c.lr * c.dW,
        "dW at first: Z has taken its step already: both gradients belong to the old layers":
            lambda c: of_W(c, c.new_Z),
    }),
    "dZ after the step": (lambda c: of_Z(c, c.new_W), {
        "dZ after the step: that is the first one again: W has taken its step, too, and u = W x is "
        "another":
            lambda c: c.dZ,
        "dZ after the step: the old gradient is still in it: zero_grad() is forgotten":
            lambda c: c.dZ + of_Z(c, c.new_W),
        "dZ after the step: W goes up the gradient; descent subtracts":
            lambda c: of_Z(c, c.W + c.lr * c.dW),
        "dZ after the step: W's step has no lr":
            lambda c: of_Z(c, c.W - c.dW),
        "dZ after the step: W's step was taken with the new Z; both layers step at once":
            lambda c: of_Z(c, c.W - c.lr * of_W(c, c.new_Z)),
        "dZ after the step: two steps of W are in it":
            lambda c: of_Z(c, c.W - 2 * c.lr * c.dW),
    }),
    "dW after the step": (lambda c: of_W(c, c.new_Z), {
        "dW after the step: that is the first one again: Z has taken a step":
            lambda c: c.dW,
        "dW after the step: zero still: but Z is zero no longer":
            lambda c: torch.zeros_like(c.dW),
        "dW after the step: the old gradient is still in it: zero_grad() is forgotten":
            lambda c: c.dW + of_W(c, c.new_Z),
        "dW after the step: Z goes up the gradient; descent subtracts":
            lambda c: of_W(c, c.Z + c.lr * c.dZ),
        "dW after the step: Z's step has no lr":
            lambda c: of_W(c, c.Z - c.dZ),
        "dW after the step: right for Z = 0 only; in general the old Z is still in it":
            lambda c: of_W(c, -c.lr * c.dZ),
        "dW after the step: Z's step was taken with the new W; both layers step at once":
            lambda c: of_W(c, c.Z - c.lr * of_Z(c, c.new_W)),
    }),
}


def judge_two_steps(f: Callable) -> None:
    """7.6: two_steps(Z, W, x, g, lr) -> dZ, dW at first, and dZ, dW after a step."""
    for zero_Z, zero_W, where in ((False, False, ""), (True, False, "right, but not for Z = 0: "),
                                  (True, True, "right, but not where both are zero: ")):
        c = layers_case(zero_Z, zero_W) if where else draw_layers()
        parts = four_of(call_two_steps(f, c))
        for (name, (right, mistakes)), got in zip(PARTS_OF_TWO_STEPS.items(), parts):
            judge_gradient(got, c, name, right, mistakes, where)


def call_two_steps(f: Callable, c: Case) -> object:
    try:
        with torch.no_grad():
            return call_pure(f, *c.inputs)
    except RuntimeError as error:
        reject_if(("does not require grad" in str(error), "autograd is switched off here: derive "
                   "the four formulas, and compute them"))
        raise


def four_of(got: object) -> list:
    """The reader's four tensors, also from two pairs."""
    reject_none(got)
    flat = []
    for part in got if isinstance(got, (tuple, list)) else [got]:
        flat += part if isinstance(part, (tuple, list)) else [part]
    reject_if((len(flat) != 4, "four gradients are wanted: dZ and dW at first, dZ and dW after the "
               f"step; got {len(flat)}"))
    return flat


def judge_gradient(got: object, c: Case, name: str, right: Callable, mistakes: dict,
                   where: str) -> None:
    wanted = right(c)
    shape = tuple(getattr(got, "shape", ()))
    reject_if((shape == tuple(wanted.T.shape), f"{name}: a gradient has the shape of its layer, "
               f"{tuple(wanted.shape)}; yours is transposed"))
    not_finite(got, f"{where}{name}: nan or inf")
    compare_case(got, c, right, mistakes if not where else {}, otherwise=(
        f"{where}{name}: not the gradient of L = g . (Z W x)"))


QUESTIONS = [
    Question(
        "7.1", 3, judge_names,
        "rules, not a list: they hold for every size of this network",
        ("Sort by shape first: which matrices read the caption, which layer has eight times as "
         "many outputs as inputs? What is left has telling names.",
         "A spatial transformer is attentions.N: its group norm, proj_in and proj_out lie directly "
         "in it, all else in its transformer_blocks.0. Lists count what has no weights, too: "
         "to_out.0, ff.net.0.proj, ff.net.2.",
         "Treat stem, time.1, time.3, norm and out by themselves. Else re.sub(r\"\\.transformers"
         "\\.(\\d+)\\.(norm\\d|self|cross|mlp)\", r\".attentions.\\1.transformer_blocks.0.\\2\", "
         "name), then str.replace: .transformers. -> .attentions., self_attention. -> attn1.to_, "
         ".to_out -> .to_out.0, mlp.proj -> ff.net.0.proj, mlp.out -> ff.net.2, .blocks. -> "
         ".resnets., ...")),
    Question(
        "7.2", 4, judge_lora,
        "the base is frozen, and the first step moves up alone",
        ("Two matrices, B of shape (out, rank) and A of shape (rank, in). Which one must be zero, "
         "so that the layer starts as the base, and why not both?",
         "class LowRankLinear(nn.Module): keep linear.requires_grad_(False), down = nn.Parameter("
         "torch.randn(rank, n, generator=generator) / n**0.5), up = nn.Parameter(torch.zeros(m, "
         "rank)).",
         "forward: return self.linear(x) + self.alpha / self.rank * (x @ self.down.T) @ "
         "self.up.T")),
    Question(
        "7.3", 2, judge_encoder,
        "bytes, rank by rank, and the end is never cut",
        ("Compare the tokens of one short word, of one word with an accent, and of one long text. "
         "Each shows one bug.",
         "Of all pairs of neighbours that are in tokenizer.rank, the one with the lowest rank is "
         "merged. The smallest signs are bytes: SIGNS[byte] for byte in word.encode(). The text is "
         "cut before the end is added.",
         "while pairs := [p for p in zip(signs, signs[1:]) if p in tokenizer.rank]: k = min(pairs, "
         "key=tokenizer.rank.get), join it where it stands; at last [START, "
         "*parts[:tokenizer.length - 2], END]")),
    WITH_MINI_SD[0],
    Question(
        "7.5", 3, judge_levels,
        "the network, alpha and sigma mean the same step",
        ("What is the largest step that the network was trained on? At which t is it, by our t = "
         "(i + 1) / T?",
         "(7.9) has both grids. Then one time for both alpha and sigma, t = (i + 1) / T.",
         "trailing: torch.arange(T, 0, -T / n).round().long() - 1; leading: torch.arange(n - 1, "
         "-1, -1) * (T // n) + 1; t = (steps + 1) / T; return steps, schedule.alpha(t), "
         "schedule.sigma(t)")),
    Question(
        "7.6", 3, judge_two_steps,
        "one zero is a start, two zeros are an end",
        ("L depends on Z by s = Z u alone. What is dL/dZ_ij? And what reaches u?",
         "dZ = g u^T with u = W x; du = Z^T g, so dW = Z^T g x^T. Then Z - lr dZ and W - lr dW, "
         "with both old gradients, and the same two formulas.",
         "u = W @ x; dZ, dW = torch.outer(g, u), torch.outer(Z.T @ g, x); Z, W = Z - lr * dZ, W - "
         "lr * dW; return dZ, dW, torch.outer(g, W @ x), torch.outer(Z.T @ g, x)")),
    WITH_MINI_SD[1],
]
