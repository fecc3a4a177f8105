"""Low-rank adapters: what they compute, that nothing else changes, and diffusers reads them."""
import copy

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from course_lib import Denoiser, Schedule, cfg, ddim, last, timesteps
from course_lib.networks.stable_diffusion import layout, lora
from course_lib.networks.stable_diffusion.unet import StableDiffusionUNet


def unet(seed=0):
    torch.manual_seed(seed)
    net = StableDiffusionUNet(
        widths=(32, 64), depth=1, context_dim=24, num_heads=4, num_groups=16
    )
    for p in net.parameters():                              # no zeros: everything matters
        p.data = torch.randn(p.shape) / max(p[0].numel(), 1) ** 0.5 if p.ndim > 1 else p.data + 0.1
    return net.eval()


def inputs():
    g = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(shape, generator=g)
    return draw(2, 4, 8, 8), torch.tensor([3.0, 801.0]), draw(2, 7, 24)


def trained(net, name="lora", rank=3, seed=0):
    """An adapter whose factors are not zero."""
    g = torch.Generator().manual_seed(seed)
    parameters = lora.add_lora(net, rank, name=name)
    for p in parameters:
        p.data = 0.3 * torch.randn(p.shape, generator=g)
    return parameters


@torch.no_grad()
def test_a_new_adapter_changes_nothing():
    net, x = unet(), inputs()
    before = net(*x)
    parameters = lora.add_lora(net, 4)
    torch.testing.assert_close(net(*x), before, rtol=0, atol=0)
    assert len(parameters) == 2 * 4 * 2 * 4     # factors, layers, attentions, transformers
    assert all((p == 0).all() == (p.shape[1] == 4) for p in parameters)


def test_the_gradient_reaches_up_first_and_the_base_never():
    """up = 0, so down has no gradient in the first step; with both 0 nothing would ever learn."""
    net = unet().requires_grad_(False)
    lora.add_lora(net, 4)
    net(*inputs()).square().mean().backward()
    parts = lora._parts(net, "lora").values()
    assert all(part.up.grad.abs().max() > 0 for part in parts)
    assert all(part.down.grad.abs().max() == 0 for part in parts)
    assert all(p.grad is None for name, p in net.named_parameters() if "original" in name)


@torch.no_grad()
def test_the_dial_is_linear_in_the_weight():
    net = unet()
    layer = net.down[0].transformers[0].self_attention.q
    base = layer.weight.clone()
    trained(net)
    full = layer.weight.clone()
    part = lora._parts(net, "lora")["down.0.transformers.0.self_attention.q"]
    torch.testing.assert_close(full - base, part.up @ part.down)
    for value in (0.0, 0.5, 1.5, -1.0):
        lora.set_dial(net, value)
        torch.testing.assert_close(layer.weight, base + value * (full - base))


@torch.no_grad()
def test_alpha_over_rank():
    net = unet()
    layer = net.up[0].transformers if net.up[0].transformers else net.middle.transformers
    layer = layer[0].cross_attention.v
    base = layer.weight.clone()
    for p in lora.add_lora(net, 2, alpha=6.0):
        p.data.fill_(0.1)
    torch.testing.assert_close(layer.weight - base, torch.full_like(base, 3.0 * 2 * 0.01))


@torch.no_grad()
def test_two_at_once_and_merging():
    net, x = unet(), inputs()
    state = copy.deepcopy(net.state_dict())
    trained(net, "style", seed=1)
    trained(net, "part", rank=2, seed=2)
    assert lora.adapters(net) == ["style", "part"]
    lora.set_dial(net, 0.5, "style")
    layer = net.middle.transformers[0].cross_attention.k
    parts = [lora._parts(net, name)["middle.transformers.0.cross_attention.k"]
             for name in ("style", "part")]
    base = state["middle.transformers.0.cross_attention.k.weight"]
    wanted = base + 0.5 * parts[0].up @ parts[0].down + parts[1].up @ parts[1].down
    torch.testing.assert_close(layer.weight, wanted)
    before = net(*x)
    lora.merge(net)
    assert lora.adapters(net) == [] and net.state_dict().keys() == state.keys()
    torch.testing.assert_close(net(*x), before)


@torch.no_grad()
def test_the_base_is_as_it_was_byte_for_byte():
    net = unet()
    state = copy.deepcopy(net.state_dict())
    trained(net)
    originals = lora.base_state(net)
    assert originals.keys() == state.keys() == lora.base_state(unet()).keys()
    for name, value in state.items():
        assert torch.equal(originals[name], value), name
    lora.merge(net)                                         # now they have changed
    changed = [name for name, value in net.state_dict().items()
               if not torch.equal(state[name], value)]
    assert all(name.endswith(("q.weight", "k.weight", "v.weight", "out.weight"))
               for name in changed) and len(changed) == 32


def published(net):
    """The same U-Net in diffusers."""
    kinds = ("CrossAttnDownBlock2D", "DownBlock2D")
    theirs = UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=24,
        attention_head_dim=4, norm_num_groups=16, down_block_types=kinds,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    theirs.load_state_dict(layout.to_published(net))
    return theirs.eval()


@torch.no_grad()
def test_diffusers_loads_the_file_and_computes_the_same(tmp_path):
    pytest.importorskip("peft")
    net, x = unet(), inputs()
    theirs = published(net)
    before = net(*x)
    trained(net)
    file = tmp_path / "pytorch_lora_weights.safetensors"
    lora.save_lora(net, file)
    theirs.load_lora_adapter(load_file(file), prefix="unet")
    wanted = theirs(*x).sample
    ours = unet()
    lora.load_lora(ours, file)
    torch.testing.assert_close(ours(*x), wanted, rtol=1e-4, atol=1e-4)
    assert (wanted - before).abs().max() > 0.05             # it does something


@torch.no_grad()
def test_the_same_picture_in_diffusers(tmp_path):
    """Ten steps with guidance, the file loaded by both; without it the picture is another."""
    pytest.importorskip("peft")
    net, theirs = unet(), published(unet())
    trained(net)
    lora.save_lora(net, tmp_path / "a.safetensors")
    ours = unet()
    pictures = {"base": drawn(ours)}
    lora.load_lora(ours, tmp_path / "a.safetensors")
    theirs.load_lora_adapter(load_file(tmp_path / "a.safetensors"), prefix="unet")
    pictures |= {"ours": drawn(ours), "theirs": drawn(lambda *x: theirs(*x).sample)}
    size = pictures["theirs"].std()
    assert (pictures["ours"] - pictures["theirs"]).abs().max() < 1e-4 * size
    assert (pictures["base"] - pictures["theirs"]).abs().max() > 0.01 * size


def drawn(net):
    """A latent (1, 4, 8, 8) of a caption's vectors, by DDIM."""
    schedule, (x, _, context) = Schedule.scaled_linear(), inputs()
    D = Denoiser(lambda x, t, context: net(x, (1000 * t - 1), context), schedule, "v")
    guided = cfg(D, 2.0, {"context": context[1:]})
    return last(ddim(guided, schedule, x[:1], timesteps(schedule, 10), context=context[:1]))


@torch.no_grad()
def test_a_file_and_back(tmp_path):
    net, x = unet(), inputs()
    for p in lora.add_lora(net, 3, alpha=1.5, layers=("k", "v")):
        p.data = 0.1 * torch.randn(p.shape)
    lora.save_lora(net, tmp_path / "a.safetensors")
    again = unet()
    lora.load_lora(again, tmp_path / "a.safetensors", name="other")
    assert lora.adapters(again) == ["other"]
    torch.testing.assert_close(again(*x), net(*x), rtol=1e-2, atol=1e-3)  # half precision


def test_what_cannot_be_an_adapter(tmp_path):
    net = unet()
    with pytest.raises(TypeError, match="net must be a StableDiffusionUNet"):
        lora.add_lora(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="layers are some of q, k, v, out"):
        lora.add_lora(net, layers=("query",))
    with pytest.raises(ValueError, match="rank"):
        lora.add_lora(net, 25)
    with pytest.raises(ValueError, match="no adapter 'style'; it has none"):
        lora.set_dial(net, 1.0, "style")
    file = tmp_path / "a.safetensors"
    save_file({"unet.conv_in.lora_A.weight": torch.ones(1, 2)}, file)
    with pytest.raises(ValueError, match="belongs to no attention of this network"):
        lora.load_lora(net, file)
    stem = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    save_file({f"{stem}.lora_A.weight": torch.ones(2, 32)}, file)
    with pytest.raises(ValueError, match="the factors of down.0.*need"):
        lora.load_lora(net, file)
    file.write_bytes(b"no adapter")
    with pytest.raises(OSError, match="is not a whole adapter"):
        lora.load_lora(net, file)
    lora.add_lora(net, 2)
    with pytest.raises(ValueError, match="has an adapter 'lora' already"):
        lora.add_lora(net, 2)
    lora.save_lora(net, file)
    with pytest.raises(ValueError, match="has an adapter 'lora' already"):
        lora.load_lora(net, file)
    with pytest.raises(TypeError, match="name must be a str"):
        lora.add_lora(net, 2, name=1)
    with pytest.raises(OSError, match="cannot be written"):
        lora.save_lora(net, tmp_path)
