"""What Stable Diffusion 3, 3.5 and Flux change, against tiny random transformers of diffusers.

Beside lesson 6's MMDiT; in brackets the test that holds it, without its `test_`.

- Joint blocks are the same in all. [the_joint_block_of_sd3, the_joint_block_of_flux]
- Norm of queries and keys: RMS in ours, SD3.5 and Flux, none in SD3.
  [the_joint_block_of_sd3, queries_and_keys_without_a_norm_grow]
- Epsilons: theirs are 1e-6; ours 1e-5 in layer norms, the dtype's in RMS norms. [the_epsilons]
- Padding is read like text in theirs, masked in ours. [padding_is_read]
- SD3's last block gives keys and values of the text and does not update it; ours does, and nobody
  reads it. Flux updates it in all. [the_last_block_of_sd3_does_not_update_the_text]
- SD3.5 has a second attention in some blocks, of the image to itself. [dual_attention_of_sd3_5]
- Positions: sines of the row, then of the column, added in ours; column first in SD3, the middle of
  a larger table that is in the file [stored_positions_are_ours_scaled_and_cropped]; in Flux queries
  and keys are turned in every attention, nothing is stored, text is at 0. [rotary_positions]
- Time: 1000 t, cosines first; pooled text: a vector of its own, by an MLP; the last modulation:
  scale, then shift (ours: t, sines first; the mean of the tokens, linear; shift, then scale).
  All else of SD3 is our MMDiT. [whole_sd3]
- Two thirds of Flux's blocks have one stream, and attention and MLP side by side.
  [single_blocks_of_flux, flux_at_full_size]
- The guidance scale is an input of Flux, like the time: one evaluation a step. [whole_flux]
- The time shift is (6.7): s = 3 in SD3, e^mu in Flux, with mu linear in the number of tokens.
  [the_shift_of_sd3_is_that_of_lesson_six, the_dynamic_shift_of_flux]
- Flux shifts our even times once. SD3's own grid lies between the ends of the shifted training
  times and is shifted again. [the_steps_of_sd3_are_shifted_twice]
"""
import math

import pytest
import torch
import torch.nn.functional as F
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
)
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers import transformer_flux
from torch import nn

from course_lib import Denoiser, Schedule, ddim, timesteps
from course_lib.networks.dit import DiTBlock, JointBlock, MMDiT, sincos_position_embedding_2d
from course_lib.networks.layers import attention
from course_lib.networks.stable_diffusion.unet import StepEmbedding
from course_lib.networks.text import pooled

DIM, HEADS, SIZE, CHANNELS, TEXT = 32, 2, 8, 4, 24
SD3 = dict(
    sample_size=SIZE, patch_size=2, in_channels=CHANNELS, out_channels=CHANNELS, num_layers=3,
    attention_head_dim=16, num_attention_heads=HEADS, joint_attention_dim=TEXT,
    caption_projection_dim=DIM, pooled_projection_dim=TEXT, pos_embed_max_size=12,
)
FLUX = dict(
    in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16,
    num_attention_heads=HEADS, joint_attention_dim=TEXT, pooled_projection_dim=TEXT,
    guidance_embeds=True, axes_dims_rope=(4, 6, 6),
)                                                                                    # fmt: skip


def randomised(model, seed=0):
    """Norms and biases, too: fresh ones hide what they do."""
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=g)
        one = 1.0 if "norm_" in name and name.endswith("weight") and p.ndim == 1 else 0.0
        p.data = one + noise * (0.3 if p.ndim == 1 else p[0].numel() ** -0.5)
    return model.double().eval().requires_grad_(False)


def draw(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def off(found, wanted):
    """The largest difference, in standard deviations of what is wanted."""
    return ((found - wanted).abs().max() / wanted.std()).item()


def sd3(**options):
    return randomised(SD3Transformer2DModel(**SD3 | options))


def flux(**options):
    return randomised(FluxTransformer2DModel(**FLUX | options))


def in_float64(norm):
    """Their RMS norm computes its variance in float32; torch's does not."""
    exact = nn.RMSNorm(norm.weight.shape, norm.eps).double()
    exact.load_state_dict(norm.state_dict())
    return exact


def with_exact_norms(model):
    for module in model.modules():
        for name in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
            if getattr(module, name, None) is not None:
                setattr(module, name, in_float64(getattr(module, name)))
    return model


# ---- the name map of a joint block

NAMES = {
    "image.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "image.proj": ("attn.to_out.0",),
    "image.emb": ("norm1.linear",),
    "image.mlp.0": ("ff.net.0.proj",),
    "image.mlp.2": ("ff.net.2",),
    "text.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "text.proj": ("attn.to_add_out",),
    "text.emb": ("norm1_context.linear",),
    "text.mlp.0": ("ff_context.net.0.proj",),
    "text.mlp.2": ("ff_context.net.2",),
    "q_norms.0": ("attn.norm_q",),
    "q_norms.1": ("attn.norm_added_q",),
    "k_norms.0": ("attn.norm_k",),
    "k_norms.1": ("attn.norm_added_k",),
}


def mapped(theirs):
    """Their block's tensors by our names; those that it has not are left out."""
    state = theirs.state_dict()
    found = {}
    for ours, parts in NAMES.items():
        for kind in ("weight", "bias"):
            tensors = [state.pop(f"{part}.{kind}", None) for part in parts]
            if tensors[0] is not None:
                found[f"{ours}.{kind}"] = torch.cat(tensors)
    assert not [name for name in state if not name.startswith("attn2.")], state.keys()
    return found


def joint_block(theirs, block=None, eps=1e-6):
    """Our block with their weights."""
    ours = (block or JointBlock(DIM, HEADS)).double()
    state = mapped(theirs)
    if theirs.norm1.linear.out_features == 9 * DIM:         # the last three: see DualBlock
        for kind in ("weight", "bias"):
            state[f"image.emb.{kind}"] = state[f"image.emb.{kind}"][: 6 * DIM]
    if getattr(theirs, "context_pre_only", False):
        for kind in ("weight", "bias"):                     # scale, shift: the other way round
            scale, shift = state[f"text.emb.{kind}"].chunk(2)
            zeros = torch.zeros_like(torch.cat([scale, shift, scale, shift]))
            state[f"text.emb.{kind}"] = torch.cat([shift, scale, zeros])
    if theirs.attn.norm_q is None:
        ours.q_norms = nn.ModuleList([nn.Identity(), nn.Identity()])
        ours.k_norms = nn.ModuleList([nn.Identity(), nn.Identity()])
    _, extra = ours.load_state_dict(state, strict=False)
    assert not extra
    return with_eps(ours, eps)


def lacking(theirs):
    """Layers of ours that theirs has not."""
    names = {*JointBlock(DIM, HEADS).state_dict()} - {*mapped(theirs)}
    return {name.rsplit(".", 1)[0] for name in names}


def with_eps(model, eps):
    for module in model.modules():
        if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
            module.eps = eps
    return model


X, C, EMB = draw(2, 10, DIM), draw(2, 5, DIM, seed=2), draw(2, DIM, seed=3)
ALL = torch.ones(2, 5, dtype=torch.bool)


# ---- the joint block

@pytest.mark.parametrize("qk_norm", [None, "rms_norm"])
def test_the_joint_block_of_sd3(qk_norm):
    """Theirs takes the embedding before SiLU, and gives the text first."""
    theirs = sd3(qk_norm=qk_norm).transformer_blocks[0]
    ours = joint_block(theirs)
    c, x = theirs(X, C, EMB)
    found = ours(X, C, F.silu(EMB), ALL)
    if qk_norm is None:
        assert off(found[0], x) < 1e-12 and off(found[1], c) < 1e-12
        assert lacking(theirs) == {"q_norms.0", "q_norms.1", "k_norms.0", "k_norms.1"}
    else:                                                   # their norm's variance is float32's
        assert 1e-12 < off(found[0], x) < 1e-6 and off(found[1], c) < 1e-6
        c, x = with_exact_norms(theirs)(X, C, EMB)
        assert off(found[0], x) < 1e-12 and off(found[1], c) < 1e-12 and not lacking(theirs)


def test_the_joint_block_of_flux():
    """The same block, where nothing is turned; its norms of queries and keys are torch's."""
    theirs = flux().transformer_blocks[0]
    ours = joint_block(theirs)
    c, x = theirs(X, C, EMB)
    found = ours(X, C, F.silu(EMB), ALL)
    assert off(found[0], x) < 1e-12 and off(found[1], c) < 1e-12 and not lacking(theirs)


def test_queries_and_keys_without_a_norm_grow():
    """SD3 has none: four times larger projections, another attention. With the norm nothing but
    the values would notice.
    """
    for qk_norm, changes in ((None, True), ("rms_norm", False)):
        theirs = with_exact_norms(sd3(qk_norm=qk_norm)).transformer_blocks[0]
        before = theirs(X, C, EMB)[1]
        for name in ("to_q", "add_q_proj"):
            layer = getattr(theirs.attn, name)
            layer.weight.mul_(4)
            layer.bias.mul_(4)
        assert (off(theirs(X, C, EMB)[1], before) > 0.05) == changes


def test_the_epsilons():
    """Ours are 1e-5 in layer norms, and the dtype's in RMS norms. Theirs are 1e-6, all of them."""
    ours = JointBlock(DIM, HEADS)
    assert {m.eps for m in ours.modules() if isinstance(m, nn.LayerNorm)} == {1e-5}
    assert {m.eps for m in ours.modules() if isinstance(m, nn.RMSNorm)} == {None}
    for model in (sd3(qk_norm="rms_norm", dual_attention_layers=(0,)), flux()):
        norms = [m for m in model.modules() if hasattr(m, "eps")]
        assert len(norms) >= 20 and {m.eps for m in norms} == {1e-6}
    theirs = sd3().transformer_blocks[0]
    wanted = theirs(X, C, EMB)[1]
    assert 1e-7 < off(joint_block(theirs, eps=1e-5)(X, C, F.silu(EMB), ALL)[0], wanted) < 1e-3


def test_padding_is_read():
    """No mask: the last text token changes every image token. Ours can leave it out."""
    theirs = sd3().transformer_blocks[0]
    other = C.clone()
    other[:, -1] = draw(2, DIM, seed=9)
    assert off(theirs(X, other, EMB)[1], theirs(X, C, EMB)[1]) > 1e-3
    ours, mask = joint_block(theirs), ALL.clone()
    mask[:, -1] = False
    assert torch.equal(*(ours(X, c, F.silu(EMB), mask)[0] for c in (C, other)))


def test_the_last_block_of_sd3_does_not_update_the_text():
    """It has no projection and no MLP there, and its norm's modulation is scale, then shift. Ours
    computes the same image, and a text that nobody reads: weights without a gradient.
    """
    theirs = sd3().transformer_blocks[-1]
    assert theirs.context_pre_only and theirs.ff_context is None
    assert theirs.norm1_context.linear.out_features == 2 * DIM
    c, x = theirs(X, C, EMB)
    ours = joint_block(theirs)
    assert c is None and off(ours(X, C, F.silu(EMB), ALL)[0], x) < 1e-12
    unread = {"text.proj", "text.mlp.0", "text.mlp.2"}
    assert lacking(theirs) - unread == {"q_norms.0", "q_norms.1", "k_norms.0", "k_norms.1"}
    ours.requires_grad_(True)
    ours(X, C, F.silu(EMB), ALL)[0].sum().backward()
    without = {name.rsplit(".", 1)[0] for name, p in ours.named_parameters() if p.grad is None}
    assert without == unread
    assert not flux().transformer_blocks[-1].attn.context_pre_only      # the single blocks read it


class DualBlock(JointBlock):
    """SD3.5: the image attends to itself once more, with weights and a modulation of its own."""

    def __init__(self, theirs):
        super().__init__(DIM, HEADS)
        self.second = DiTBlock(DIM, HEADS).double()         # without its MLP
        self.norms = theirs.attn2.norm_q, theirs.attn2.norm_k
        state, last = theirs.state_dict(), 6 * DIM
        for kind in ("weight", "bias"):
            qkv = torch.cat([state[f"attn2.to_{part}.{kind}"] for part in "qkv"])
            getattr(self.second.qkv, kind).data = qkv
            getattr(self.second.proj, kind).data = state[f"attn2.to_out.0.{kind}"]
            emb = state[f"norm1.linear.{kind}"][last:]
            getattr(self.second.emb, kind).data = torch.cat([emb, torch.zeros_like(emb)])

    def forward(self, x, c, emb, mask):
        q, k, v, (gate, *_) = self.second.project(x, emb)   # of the block's own input
        attended = attention(self.norms[0](q), self.norms[1](k), v)
        more = gate * self.second.proj(attended.transpose(1, 2).flatten(2))
        self.image.finish = lambda *a: DiTBlock.finish(self.image, a[0] + more, *a[1:])
        return super().forward(x, c, emb, mask)


def test_dual_attention_of_sd3_5():
    """Without it the block is another one."""
    theirs = with_exact_norms(sd3(qk_norm="rms_norm", dual_attention_layers=(0,)))
    theirs = theirs.transformer_blocks[0]
    assert theirs.norm1.linear.out_features == 9 * DIM
    c, x = theirs(X, C, EMB)
    found = joint_block(theirs, DualBlock(theirs))(X, C, F.silu(EMB), ALL)
    assert off(found[0], x) < 1e-12 and off(found[1], c) < 1e-12
    assert off(joint_block(theirs)(X, C, F.silu(EMB), ALL)[0], x) > 0.1


# ---- the whole of SD3

def test_stored_positions_are_ours_scaled_and_cropped():
    """A table of 12 x 12 for at most 24 x 24 latents, in the file; a picture takes its middle. The
    column's sines and cosines come first, in ours the row's. Positions are counted so that the
    table is as wide as the training's grid.
    """
    theirs = sd3(pos_embed_max_size=12)
    side, grid = 12, SIZE // 2
    assert "pos_embed.pos_embed" in theirs.state_dict()
    table = theirs.pos_embed.pos_embed.view(side, side, DIM)
    ours = sincos_position_embedding_2d(4, DIM).double().view(4, 4, 2, DIM // 2)
    swapped = ours.flip(2).flatten(2)
    torch.testing.assert_close(table[::3, ::3], swapped, rtol=0, atol=1e-6)     # 12 / 4 = 3
    wanted = table[4:8, 4:8].reshape(1, grid**2, DIM)
    assert torch.equal(theirs.pos_embed.cropped_pos_embed(SIZE, SIZE), wanted)
    with pytest.raises(ValueError, match="cannot be greater than `pos_embed_max_size`"):
        theirs.pos_embed.cropped_pos_embed(26, 26)


def our_mmdit(theirs):
    """Our MMDiT with their weights; the embeddings of time and pooled text are exchanged."""
    ours = MMDiT(CHANNELS, SIZE, ["none"], text_dim=TEXT, patch_size=2, dim=DIM, num_heads=HEADS,
                 depth=len(theirs.transformer_blocks)).double()
    ours.stem.weight.data = theirs.pos_embed.proj.weight.flatten(1)     # a convolution of patches
    ours.stem.bias.data = theirs.pos_embed.proj.bias
    ours.positions = theirs.pos_embed.cropped_pos_embed(SIZE, SIZE)[0]
    ours.context_proj = theirs.context_embedder
    embedders = theirs.time_text_embed
    ours.time = nn.Sequential(StepEmbedding(256), embedders.timestep_embedder)
    ours.pool_proj = embedders.text_embedder
    ours.blocks = nn.ModuleList(
        joint_block(block, DualBlock(block) if block.use_dual_attention else None)
        for block in theirs.transformer_blocks
    )
    for kind in ("weight", "bias"):
        scale, shift = theirs.norm_out.linear.state_dict()[kind].chunk(2)
        getattr(ours.final, kind).data = torch.cat([shift, scale])
        rows = theirs.proj_out.state_dict()[kind].unflatten(0, (4, CHANNELS))
        getattr(ours.out, kind).data = rows.transpose(0, 1).flatten(0, 1)       # channels first
    return with_eps(ours, 1e-6).requires_grad_(False)


@pytest.mark.parametrize("options", [
    {}, {"qk_norm": "rms_norm", "dual_attention_layers": (0, 1)}
])
def test_whole_sd3(options):
    """Our MMDiT is their transformer: time 1000 t and the embeddings apart, by names alone."""
    theirs = with_exact_norms(sd3(**options))
    ours = our_mmdit(theirs)
    x, context, t = draw(2, CHANNELS, SIZE, SIZE), draw(2, 5, TEXT, seed=2), torch.tensor([0.2, 1])
    wanted = theirs(x, context, pooled(context, ALL), 1000 * t).sample
    found = ours(x, 1000 * t.double(), context=context, context_mask=ALL)
    assert off(found, wanted) < 1e-12


# ---- Flux

def rotated(x, rotation, sequence_dim=1):
    """Neighbouring pairs of numbers turned by an angle: x (B, tokens, heads, d), as one complex
    number each.
    """
    cos, sin = (part[None, :, None, ::2] for part in rotation)          # (1, tokens, 1, d / 2)
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.complex(cos, sin).to(pairs)).flatten(-2)


def angles(ids, sizes):
    """ids (tokens, axes) -> (tokens, d / 2): frequencies 10,000^(-2 k / size), of each axis."""
    parts = [
        ids[:, a, None] * 10_000 ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
        for a, size in enumerate(sizes)
    ]
    return torch.cat(parts, dim=1)


def token_ids(side, text):
    """Three axes: none, row, column; text is at 0."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    image = torch.stack([0 * rows, rows, columns], dim=-1).flatten(0, 1)
    return torch.zeros(text, 3).double(), image.double()


def test_rotary_positions():
    """The angles, the turn, and what it is for: a product of a query and a key depends on how far
    apart they are, not on where. Text tokens are not turned at all.
    """
    theirs = flux()
    text, image = token_ids(4, 5)
    cos, sin = theirs.pos_embed(image)
    wanted = angles(image, FLUX["axes_dims_rope"]).repeat_interleave(2, 1)
    torch.testing.assert_close(cos.double(), wanted.cos(), rtol=0, atol=1e-6)
    torch.testing.assert_close(sin.double(), wanted.sin(), rtol=0, atol=1e-6)
    x = draw(2, 16, HEADS, 16)
    found = rotated(x, (cos, sin))
    torch.testing.assert_close(apply_rotary_emb(x, (cos, sin), sequence_dim=1), found, rtol=0,
                               atol=1e-6)
    assert torch.equal(rotated(x[:, :5], theirs.pos_embed(text)), x[:, :5])
    assert not [name for name in theirs.state_dict() if "pos" in name]  # nothing is stored
    q, k = x[:1, :1], x[1:, :1]
    at = lambda row, column: theirs.pos_embed(torch.tensor([[0.0, row, column]]))
    product = lambda a, b: (rotated(q, at(*a)) * rotated(k, at(*b))).sum()
    torch.testing.assert_close(product((1, 2), (3, 3)), product((11, 7), (13, 8)), atol=1e-5,
                               rtol=0)
    assert abs(product((1, 2), (3, 3)) - product((1, 2), (3, 4))) > 1e-3


class ParallelBlock(nn.Module):
    """Flux's single block: one stream; attention and MLP read the same input, and one matrix adds
    up both. (Dehghani et al. 2023, Scaling vision transformers to 22 billion parameters)
    """

    def __init__(self, theirs):
        super().__init__()
        self.emb = theirs.norm.linear                       # shift, scale, one gate
        self.norm = nn.LayerNorm(DIM, 1e-6, elementwise_affine=False)
        self.qkv = theirs.attn.to_q, theirs.attn.to_k, theirs.attn.to_v
        self.norms = theirs.attn.norm_q, theirs.attn.norm_k
        self.hidden = theirs.proj_mlp
        self.out = theirs.proj_out

    def forward(self, h, emb, rotation=None):
        shift, scale, gate = self.emb(emb)[:, None].chunk(3, dim=-1)
        x = torch.addcmul(shift, self.norm(h), 1 + scale)
        q, k, v = (layer(x).unflatten(-1, (HEADS, -1)) for layer in self.qkv)
        q, k = (norm(part) for norm, part in zip(self.norms, (q, k)))
        if rotation is not None:
            q, k = rotated(q, rotation), rotated(k, rotation)
        attended = attention(*(part.transpose(1, 2) for part in (q, k, v)))
        both = [attended.transpose(1, 2).flatten(2), F.gelu(self.hidden(x), approximate="tanh")]
        return h + gate * self.out(torch.cat(both, dim=-1))


def test_single_blocks_of_flux():
    theirs = flux().single_transformer_blocks[0]
    assert theirs.norm.linear.out_features == 3 * DIM
    assert theirs.proj_out.in_features == 5 * DIM           # attention, and four times the MLP's
    c, x = theirs(X, C, EMB)
    found = ParallelBlock(theirs)(torch.cat([C, X], dim=1), F.silu(EMB))
    assert off(found, torch.cat([c, x], dim=1)) < 1e-12


class Turned(nn.Module):
    """A norm of queries or keys (B, heads, tokens, d), then their turn."""

    def __init__(self, norm, rotation):
        super().__init__()
        self.norm = norm
        self.rotation = rotation

    def forward(self, h):
        return rotated(self.norm(h).transpose(1, 2), self.rotation).transpose(1, 2)


def our_flux(theirs, x, context, summary, t, guidance, ids):
    """Their whole transformer from our blocks."""
    of_text, of_image = (theirs.pos_embed(part) for part in ids)
    embedders, steps = theirs.time_text_embed, StepEmbedding(256)
    emb = F.silu(embedders.timestep_embedder(steps(1000 * t))
                 + embedders.guidance_embedder(steps(1000 * guidance))
                 + embedders.text_embedder(summary))
    h, c = theirs.x_embedder(x), theirs.context_embedder(context)
    mask = torch.ones(c.shape[:2], dtype=torch.bool)
    for block in theirs.transformer_blocks:
        ours = joint_block(block)
        for norms in (ours.q_norms, ours.k_norms):
            norms[0] = Turned(norms[0], of_image)
            norms[1] = Turned(norms[1], of_text)
        h, c = ours(h, c, emb, mask)
    h, rotation = torch.cat([c, h], dim=1), theirs.pos_embed(torch.cat(ids))
    for block in theirs.single_transformer_blocks:
        h = ParallelBlock(block)(h, emb, rotation)
    scale, shift = theirs.norm_out.linear(emb)[:, None].chunk(2, dim=-1)
    h = F.layer_norm(h[:, c.shape[1]:], (DIM,), eps=1e-6)
    return theirs.proj_out(torch.addcmul(shift, h, 1 + scale))


@pytest.mark.parametrize("exact", [False, True])
def test_whole_flux(exact, monkeypatch):
    """They turn in float32; with our turn in its place the two are equal to the last digits.

    The guidance scale is an input like the time: one evaluation a step.
    """
    theirs, ids = flux(), token_ids(4, 5)
    if exact:
        monkeypatch.setattr(transformer_flux, "apply_rotary_emb", rotated)
    x, context, summary = draw(2, 16, 16), draw(2, 5, TEXT, seed=2), draw(2, TEXT, seed=3)
    t, guidance = torch.tensor([0.3, 0.9]).double(), torch.tensor([3.5, 2.0]).double()
    wanted = theirs(x, context, summary, t, ids[1], ids[0], guidance).sample
    found = our_flux(theirs, x, context, summary, t, guidance, ids)
    assert off(found, wanted) < (1e-12 if exact else 1e-5)
    other = theirs(x, context, summary, t, ids[1], ids[0], 2 * guidance).sample
    assert off(other, wanted) > 1e-3


def test_flux_at_full_size():
    """Sizes without numbers: 19 joint blocks, 38 single ones, 11.9 billion parameters."""
    with torch.device("meta"):
        theirs = FluxTransformer2DModel(guidance_embeds=True)
    count = lambda part: sum(p.numel() for p in part.parameters())
    assert [len(theirs.transformer_blocks), len(theirs.single_transformer_blocks)] == [19, 38]
    assert count(theirs) == 11_901_408_320
    joint, single = count(theirs.transformer_blocks[0]), count(theirs.single_transformer_blocks[0])
    assert 2.3 < joint / single < 2.5
    # a pixel's latent has 16 channels; four of them are one token, packed before the network
    assert theirs.x_embedder.in_features == 4 * 16


# ---- the time shift

def shifted(s):
    """(6.7) as a spacing of `timesteps`."""
    def spacing(schedule, start, n):
        t = timesteps(schedule, n, "time", start)[:-1]
        return s * t / (1 + (s - 1) * t)
    return spacing


def mu_of(tokens, config):
    """A straight line: 0.5 at 256 tokens, 1.15 at 4,096."""
    slope = (config.max_shift - config.base_shift) / (
        config.max_image_seq_len - config.base_image_seq_len)
    return config.base_shift + slope * (tokens - config.base_image_seq_len)


@pytest.mark.parametrize("s", [1.0, 3.0])
def test_the_shift_of_sd3_is_that_of_lesson_six(s):
    """Given our even times they shift them as (6.7) does: -2 log s of log SNR."""
    flow = Schedule.flow()
    theirs = FlowMatchEulerDiscreteScheduler(shift=s)
    theirs.set_timesteps(sigmas=timesteps(flow, 28)[:-1].tolist())
    ours = timesteps(flow, 28, shifted(s))
    torch.testing.assert_close(theirs.sigmas.double(), ours, rtol=0, atol=1e-6)
    torch.testing.assert_close(theirs.timesteps.double(), 1000 * ours[:-1], rtol=1e-6, atol=1e-6)
    even = timesteps(flow, 28)[1:-1]
    torch.testing.assert_close(flow.log_snr(ours[1:-1]), flow.log_snr(even) - 2 * math.log(s))


def test_the_steps_of_sd3_are_shifted_twice():
    """Its pipeline passes a number of steps. The grid then lies between the ends of the 1,000
    shifted training times, and is shifted again: its last step starts from 0.0089 for s = 3, ours
    from 0.1 in 28 steps.
    """
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)
    theirs.set_timesteps(28)
    end = 3 * 0.001 / (1 + 2 * 0.001)                       # the first training time, shifted
    even = torch.linspace(1, end, 28, dtype=torch.float64)
    wanted = torch.cat([3 * even / (1 + 2 * even), torch.zeros(1)])
    torch.testing.assert_close(theirs.sigmas.double(), wanted, rtol=0, atol=1e-6)
    ours = timesteps(Schedule.flow(), 28, shifted(3.0))
    assert theirs.sigmas[-2] < 0.009 and ours[-2] == pytest.approx(0.1)


@pytest.mark.parametrize("tokens, s", [(256, 1.6487), (1024, 1.8776), (4096, 3.1582)])
def test_the_dynamic_shift_of_flux(tokens, s):
    """s = e^mu, from the number of tokens: pictures of 256, 512 and 1,024 pixels a side. Its
    pipeline passes our even times, so its grid is ours, shifted once.
    """
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    mu = mu_of(tokens, theirs.config)
    assert math.exp(mu) == pytest.approx(s, abs=1e-4)
    even = torch.linspace(1, 1 / 28, 28, dtype=torch.float64).tolist()  # as the pipeline has it
    theirs.set_timesteps(sigmas=even, mu=mu)                # its shift = 3 is not used
    ours = timesteps(Schedule.flow(), 28, shifted(math.exp(mu)))
    torch.testing.assert_close(theirs.sigmas.double(), ours, rtol=0, atol=1e-6)


def test_the_line_of_mu_is_the_pipelines():
    pytest.importorskip("transformers")
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift
    config = FlowMatchEulerDiscreteScheduler().config
    for tokens in (256, 1000, 4096):
        assert calculate_shift(tokens) == pytest.approx(mu_of(tokens, config))


def test_their_euler_step_is_our_ddim():
    """Under the flow schedule, on the shifted grid, with a network that predicts eps - x0."""
    flow = Schedule.flow()

    class Net(nn.Module):
        def forward(self, x, t):
            return torch.sin(3 * x) + t[:, None]

    theirs, x = FlowMatchEulerDiscreteScheduler(shift=3.0), draw(4, 6)
    theirs.set_timesteps(sigmas=timesteps(flow, 10)[:-1].tolist())
    *_, ours = ddim(Denoiser(Net(), flow, "flow"), flow, x, timesteps(flow, 10, shifted(3.0)))
    for t in theirs.timesteps:
        x = theirs.step(Net()(x, t.expand(4) / 1000), t, x).prev_sample
    torch.testing.assert_close(ours, x.double(), rtol=0, atol=2e-6)
