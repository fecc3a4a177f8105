"""The autoencoder: Stable Diffusion's layout, its loss, its latents' scale, and saving."""
import math

import pytest
import torch
from torch import nn

from course_lib.lab import data, train
from course_lib.lab.training import config, configured
from course_lib.lab.training.__main__ import main
from course_lib.networks.vae import AutoencoderKL, kl_to_standard_normal

SMALL = dict(latent_channels=3, widths=(8, 16), depth=1, patch_size=2, kl_weight=1e-2)


def small(seed=0, **others):
    torch.manual_seed(seed)
    return AutoencoderKL(**SMALL | others)


def randomised(net):
    """All parameters random, norms and biases too: no swapped affine can hide behind 1 and 0."""
    g = torch.Generator().manual_seed(0)
    for name, p in net.named_parameters():
        noise = torch.randn(p.shape, generator=g, dtype=torch.float64)
        scale = 0.5 if p.ndim == 1 else 0.5 / math.sqrt(p[0].numel())
        p.data = (1.0 if "norm" in name and name.endswith("weight") else 0.0) + scale * noise
    return net.double()


# ---- the layout

def test_shapes():
    vae = small()
    x = torch.randn(2, 3, 16, 24)
    mean, log_variance = vae.encode(x)
    assert vae.factor == 4 and mean.shape == log_variance.shape == (2, 3, 4, 6)
    assert vae.decode(mean).shape == vae(x).shape == x.shape
    assert AutoencoderKL(widths=(8, 8, 8)).factor == 4


def test_stable_diffusions_size():
    """Rombach et al.'s autoencoder of factor 8: 83,653,863 parameters."""
    with torch.device("meta"):
        vae = AutoencoderKL(num_groups=32)
    assert sum(p.numel() for p in vae.parameters()) == 83_653_863 and vae.factor == 8


def diffusers_names(vae):
    """Each of our parameters by its name in diffusers; q, k and v apart."""
    tensors, names = vae.state_dict(), {}
    widths, depth = vae.config["widths"], vae.config["depth"]
    stacks = {"encoder.down": (widths, depth, "encoder.down_blocks", "downsamplers"),
              "decoder.up": (widths[::-1], depth + 1, "decoder.up_blocks", "upsamplers")}
    for ours, (levels, blocks, theirs, sampler) in stacks.items():
        k = 0
        for level in range(len(levels)):
            for block in range(blocks):
                names[f"{ours}.{k}"] = f"{theirs}.{level}.resnets.{block}"
                k += 1
            if level < len(levels) - 1:
                names[f"{ours}.{k}"] = f"{theirs}.{level}.{sampler}.0"
                k += 1
    for side in ("encoder", "decoder"):
        names |= {
            f"{side}.middle.0": f"{side}.mid_block.resnets.0",
            f"{side}.middle.1": f"{side}.mid_block.attentions.0",
            f"{side}.middle.2": f"{side}.mid_block.resnets.1",
            f"{side}.stem": f"{side}.conv_in",
            f"{side}.norm": f"{side}.conv_norm_out",
            f"{side}.out": f"{side}.conv_out",
        }
    names |= {"quant": "quant_conv", "post_quant": "post_quant_conv"}
    found = {}
    for name, value in tensors.items():
        if name in ("shift", "scale"):
            continue
        place = max((n for n in names if name.startswith(n + ".")), key=len)
        new = names[place] + name[len(place):]
        if "attentions" in new and ".qkv." in new:
            for part, third in zip(("to_q", "to_k", "to_v"), value.chunk(3)):
                found[new.replace("qkv", part)] = third
            continue
        if "attentions" in new:
            new = new.replace(".norm.", ".group_norm.").replace(".proj.", ".to_out.0.")
        found[new.replace(".shortcut.", ".conv_shortcut.")] = value
    return found


def test_the_same_function_as_diffusers():
    """Fresh weights hide an epsilon or swapped affines: all are random, in float64."""
    diffusers = pytest.importorskip("diffusers")
    widths = (32, 48, 64)
    ours = randomised(AutoencoderKL(3, 4, widths, depth=2, num_groups=16))
    theirs = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=widths, layers_per_block=2, norm_num_groups=16,
    ).double()
    theirs.load_state_dict(diffusers_names(ours))           # strict: every name, every shape
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    posterior = theirs.encode(x).latent_dist
    mean, log_variance = ours.encode(x)
    torch.testing.assert_close(mean, posterior.mean, rtol=0, atol=1e-10 * mean.std().item())
    torch.testing.assert_close(log_variance, posterior.logvar, rtol=0, atol=1e-10)
    images = ours.decode(mean)
    torch.testing.assert_close(images, theirs.decode(posterior.mean).sample, rtol=0,
                               atol=1e-10 * images.std().item())
    for module in ours.modules():
        if isinstance(module, nn.GroupNorm):
            module.eps = 1e-5                               # the fault that fresh weights hide
    assert (ours.decode(mean) - images).abs().max() > 1e-8


# ---- the loss

def test_the_loss_is_error_and_divergence_per_pixel_value():
    vae = small().double()
    g = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, 8, 8, generator=g, dtype=torch.float64)
    eps = vae.draw({"x0": x}, torch.Generator().manual_seed(1))["eps"].double()
    assert eps.shape == (4, 3, 2, 2)
    mean, log_variance = vae.encode(x)
    error = (vae.decode(mean + (log_variance / 2).exp() * eps) - x).square().sum((1, 2, 3))
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (log_variance / 2).exp()),
        torch.distributions.Normal(0.0, 1.0),
    ).sum((1, 2, 3))
    torch.testing.assert_close(kl_to_standard_normal(mean, log_variance), kl)
    torch.testing.assert_close(vae.loss(x, eps), (error + 1e-2 * kl) / (3 * 8 * 8))


def test_it_trains_and_a_run_resumes(runs):
    x = data.nouns(64).x
    whole = train.train(small(), {"x0": x}, steps=30, batch_size=16)
    assert whole.history[-1][1] < 0.8 * whole.history[0][1] or len(whole.history) == 1
    torch.manual_seed(0)
    part = train.train(small(), {"x0": x}, steps=30, batch_size=16, run_name="vae",
                       max_seconds=1e-9)
    assert not part.done
    torch.manual_seed(0)
    again = train.train(small(), {"x0": x}, steps=30, batch_size=16, run_name="vae")
    assert again.done
    for a, b in zip(whole.parameters(), again.parameters()):
        assert torch.equal(a, b)


# ---- the scale of the latents

def test_latents_have_mean_0_and_deviation_1():
    vae = randomised(small()).float()
    x = data.nouns(200).x
    vae.fit_scale(x)
    drawn = vae.to_latents(x, torch.Generator().manual_seed(0))
    assert drawn.mean((0, 2, 3)).abs().max() < 0.05
    assert (drawn.std((0, 2, 3)) - 1).abs().max() < 0.03
    z, raw = vae.to_latents(x), vae.encode(x)[0]
    assert (raw.std((0, 2, 3)) - 1).abs().max() > 0.1
    torch.testing.assert_close(z, (raw - vae.shift[:, None, None]) * vae.scale[:, None, None])
    torch.testing.assert_close(vae.to_images(z), vae.decode(raw), rtol=1e-4, atol=1e-4)


def test_an_unused_channel_is_not_blown_up():
    """Posterior collapse: mean nearly 0, deviation nearly 1, whatever the image."""
    vae = randomised(small()).float()
    with torch.no_grad():
        vae.quant.weight[0] *= 1e-3
        vae.quant.weight[3] = 0.0
        vae.quant.bias[[0, 3]] = 0.0
    vae.fit_scale(data.nouns(100).x)
    assert abs(vae.scale[0] - 1) < 0.01


def test_latents_are_drawn_with_a_generator():
    vae = small()
    x = data.nouns(400).x[:, :, :8, :8]
    vae.shift.fill_(0.5)
    vae.scale.fill_(2.0)
    drawn = vae.to_latents(x, torch.Generator().manual_seed(0))
    mean, log_variance = vae.encode(x)
    noise = (drawn / 2 + 0.5 - mean) / (log_variance / 2).exp()
    assert abs(noise.mean()) < 0.05 and abs(noise.std() - 1) < 0.05
    assert torch.equal(drawn, vae.to_latents(x, torch.Generator().manual_seed(0)))


def test_save_and_load_keep_the_scale(tmp_path):
    vae = randomised(small()).float()
    vae.fit_scale(data.nouns(50).x)
    train.save(vae, tmp_path / "vae.safetensors")
    loaded = train.load(tmp_path / "vae.safetensors", device="cpu")
    x = data.nouns(5, seed=1).x
    torch.testing.assert_close(loaded.to_latents(x), vae.to_latents(x), rtol=1e-2, atol=1e-2)
    assert loaded.config == vae.config and not loaded.training


# ---- by configuration files

VAE = """
data = "nouns"
examples = 40
[network]
type = "AutoencoderKL"
latent_channels = 3
widths = [8, 16]
depth = 1
patch_size = 2
[train]
steps = 4
batch_size = 8
"""
LATENT = """
data = "nouns"
examples = 40
latents = "{vae}"
[network]
type = "ConditionalUNet"
channels = 3
patch_size = 1
widths = [8]
text_dim = 8
text_depth = 1
[train]
steps = 4
batch_size = 8
"""


def test_both_are_trained_by_configuration_files(runs, tmp_path, capsys):
    (tmp_path / "small_vae.toml").write_text(VAE)
    main([str(tmp_path / "small_vae.toml")])
    file = runs / "small_vae/small_vae.safetensors"
    vae = train.load(file, device="cpu")
    x = data.nouns(40).x
    drawn = vae.to_latents(x, torch.Generator().manual_seed(0))
    assert (drawn.std((0, 2, 3)) - 1).abs().max() < 0.05
    assert (runs / "small_vae/small_vae.png").stat().st_size > 1000
    (tmp_path / "small_latent.toml").write_text(LATENT.format(vae=file.as_posix()))
    main([str(tmp_path / "small_latent.toml")])
    D = train.load(runs / "small_latent/small_latent.safetensors", device="cpu")
    assert D.data_shape == (3, 8, 8) and D.about["config"]["latents"] == file.as_posix()
    from course_lib.lab import sampling
    pictures = sampling.text_to_image(D, ["a panda", "a shark head"], steps=2, vae=vae)
    assert pictures.shape == (2, 3, 32, 32) and pictures.abs().max() <= 1
    assert (runs / "small_latent/small_latent.png").stat().st_size > 1000


@pytest.mark.parametrize("more, words", [
    ('target = "v"\n', "target is for denoisers"),
    ('latents = "nouns"\n', "latents is for denoisers"),
])
def test_what_an_autoencoder_has_no_use_for(tmp_path, more, words):
    file = tmp_path / "x.toml"
    file.write_text(more + VAE)
    with pytest.raises(ValueError, match=words):
        configured.from_config(config.read_config(file))


def test_latents_of_what_is_no_autoencoder(tmp_path):
    file = tmp_path / "x.toml"
    file.write_text(LATENT.format(vae="mnist_small"))
    with pytest.raises(TypeError, match="latents must be a AutoencoderKL"):
        configured.from_config(config.read_config(file))


# ---- bad input

@pytest.mark.parametrize("call, words", [
    (lambda v, x: v.encode(x[:, :1]), "takes images"),
    (lambda v, x: v.encode(x[..., :6]), "multiples of 4"),
    (lambda v, x: v.encode((x * 127).byte()), "takes images"),
    (lambda v, x: v.decode(x[:, :2]), "takes latents"),
    (lambda v, x: AutoencoderKL(latent_channels=0), "latent_channels"),
    (lambda v, x: AutoencoderKL(widths=(8, 0)), "widths"),
    (lambda v, x: AutoencoderKL(kl_weight=-1.0), "kl_weight"),
])                                                                                   # fmt: skip
def test_one_sentence(call, words):
    with pytest.raises((TypeError, ValueError), match=words):
        call(small(), torch.zeros(2, 3, 8, 8))
