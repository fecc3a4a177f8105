"""Stable Diffusion 3's transformer from published tensors: parity with diffusers."""
import pytest
import torch
from diffusers import SD3Transformer2DModel
from test_equations_07_afterwards import CONFIG, off, randn, randomised

from course_lib.networks.stable_diffusion import sd3


def pair(**options):
    theirs = randomised(SD3Transformer2DModel(**CONFIG | options))
    return theirs, sd3.from_published({**theirs.config}, theirs.state_dict()).eval()


@pytest.mark.parametrize("options", [
    {}, {"num_layers": 1}, {"num_layers": 2, "sample_size": 12, "in_channels": 3,
    "out_channels": 3, "num_attention_heads": 4, "caption_projection_dim": 64,
    "pos_embed_max_size": 7}, {"patch_size": 4, "pos_embed_max_size": 3},
])                                                                                   # fmt: skip
def test_the_transformer_of_sd3(options):
    theirs, ours = pair(**options)
    sizes = {**theirs.config}
    x = randn(2, sizes["in_channels"], *[sizes["sample_size"]] * 2)
    context, pooled, t = randn(2, 5, 24, seed=1), randn(2, 20, seed=2), randn(2).sigmoid()
    wanted = theirs(x, context, pooled, 1000 * t).sample
    assert off(ours(x, t, context, pooled), wanted) < 1e-12


def test_norms_of_queries_and_keys():
    """Their norm computes its variance in float32."""
    theirs, ours = pair(qk_norm="rms_norm")
    x, context, pooled = randn(2, 4, 8, 8), randn(2, 5, 24, seed=1), randn(2, 20, seed=2)
    wanted = theirs(x, context, pooled, torch.tensor([200.0, 900.0])).sample
    assert 1e-12 < off(ours(x, torch.tensor([0.2, 0.9]), context, pooled), wanted) < 1e-6


@pytest.mark.parametrize("fault", [
    "transformer_blocks.2.norm1_context.linear.bias", "norm_out.linear.bias",
    "proj_out.weight", "pos_embed.pos_embed", "transformer_blocks.0.attn.add_k_proj.bias",
    "time_text_embed.text_embedder.linear_2.bias",
])                                                                                   # fmt: skip
def test_each_kind_of_tensor_matters(fault):
    """Two of its rows exchanged: another output, far above the tolerance."""
    theirs, right = pair()
    tensors = {**theirs.state_dict()}
    axis = 1 if fault == "pos_embed.pos_embed" else 0
    tensors[fault] = tensors[fault].roll(tensors[fault].shape[axis] // 2, axis)
    inputs = randn(2, 4, 8, 8), torch.tensor([0.2, 1.0]), randn(2, 5, 24), randn(2, 20)
    wrong = sd3.from_published(CONFIG, tensors)
    changed = off(wrong(*inputs), right(*inputs))
    if fault.endswith("add_k_proj.bias"):                   # one shift of all keys of the text
        assert changed > 1e-6
    else:
        assert changed > 1e-3


def test_sd3_medium_at_full_size():
    """2.03 billion parameters, 24 blocks: every published name has its place, by shape."""
    sizes = dict(
        sample_size=128, num_layers=24, num_attention_heads=24, caption_projection_dim=1536,
        pos_embed_max_size=192,
    )                                                                                # fmt: skip
    with torch.device("meta"):
        theirs = SD3Transformer2DModel(**sizes)
        ours = sd3.from_published({**theirs.config}, theirs.state_dict())
    assert sum(p.numel() for p in theirs.parameters()) == 2_028_328_000
    names = [part for parts in sd3.names_of(ours).values() for part in parts]
    assert len(names) == len({*names}) and {*names, sd3.TABLE} == {*theirs.state_dict()}
    assert ours.positions.shape == (64**2, 1536)


def test_what_does_not_fit_is_named():
    theirs, net = pair()
    tensors = {**theirs.state_dict()}
    del tensors["proj_out.bias"]
    with pytest.raises(ValueError, match="does not fit .*missing proj_out.bias$"):
        sd3.from_published(CONFIG, tensors)
    tensors = {**theirs.state_dict()} | {f"lora.{k}": torch.ones(1) for k in range(12)}
    with pytest.raises(ValueError, match="not known lora.0; .*, and 2 more"):
        sd3.from_published(CONFIG, tensors)
    tensors = {**theirs.state_dict()} | {"context_embedder.weight": torch.ones(32, 23)}
    with pytest.raises(ValueError, match=r"context_embedder.weight .*\(32, 24\)"):
        sd3.from_published(CONFIG, tensors)
    with pytest.raises(TypeError, match="tensors must be"):
        sd3.from_published(CONFIG, [1])
    with pytest.raises(TypeError, match="net must be"):
        sd3.names_of(theirs)


@pytest.mark.parametrize("change, message", [
    ({"num_layers": 0}, "num_layers"),
    ({"qk_norm": "layer_norm"}, "qk_norm is None or"),
    ({"dual_attention_layers": (0,)}, "Stable Diffusion 3.5"),
    ({"out_channels": 8}, "out_channels must be 4; got 8"),
    ({"caption_projection_dim": 64}, "caption_projection_dim must be 32"),
    ({"pos_embed_max_size": 3}, "the position table is smaller"),
])
def test_other_configurations_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        sd3.SD3Transformer(CONFIG | change)
    with pytest.raises(ValueError, match="has no num_layers"):
        sd3.SD3Transformer({k: v for k, v in CONFIG.items() if k != "num_layers"})
    with pytest.raises(TypeError, match="config must be"):
        sd3.SD3Transformer("sd3")


def test_inputs_of_another_shape_are_refused():
    net = sd3.SD3Transformer(CONFIG)
    x, t, context, pooled = torch.randn(2, 4, 8, 8), 0.5, torch.randn(2, 5, 24), torch.randn(2, 20)
    assert net(x, t, context, pooled).shape == x.shape
    for inputs, message in (
        ((x[:, :, :4], t, context, pooled), "takes latents"),
        ((x, t, context[0], pooled), r"context must be \(2, L, 24\)"),
        ((x, t, context, pooled[:1]), r"pooled must be \(2, 20\)"),
        ((x, 500.0, context, pooled), r"t must lie in \[0, 1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            net(*inputs)
