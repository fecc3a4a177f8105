"""Stable Diffusion against diffusers and transformers: saved to files by them, loaded by us.

Norms and biases are randomised (fresh ones hide swapped affines and epsilons), in float64, relative
to the output's spread, for both families and other sizes.
"""
import json
import math
import warnings

import pytest
import torch
from diffusers import AutoencoderKL as PublishedVAE
from diffusers import DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from course_lib import cfg, ddim, last, timesteps
from course_lib.lab import sampling
from course_lib.lab.training.published import load_published
from course_lib.networks.stable_diffusion import layout
from course_lib.networks.stable_diffusion.text_encoder import ClipTextEncoder
from course_lib.networks.stable_diffusion.tokenizer import END, START, BytePairTokenizer
from course_lib.networks.stable_diffusion.unet import StableDiffusionUNet
from course_lib.networks.vae import AutoencoderKL

transformers = pytest.importorskip("transformers")
CLIPTextConfig = transformers.CLIPTextConfig
CLIPTextModel = transformers.CLIPTextModel
CLIPTokenizer = transformers.CLIPTokenizer

TEXTS = ["a photo of a cat", "a red dog on a blue sofa"]
FAMILIES = ("1.x", "2.x base", "2.x at 768")
CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
UP = {CROSS: "CrossAttnUpBlock2D", PLAIN: "UpBlock2D"}


def randomised(model, seed=0):
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=g)
        scale = 0.3 if p.ndim == 1 else 1 / math.sqrt(p[0].numel())
        p.data = (1.0 if "norm" in name and name.endswith("weight") else 0.0) + scale * noise
    return model.eval()


def published_unet(**sizes):
    kinds = sizes.pop("kinds", (CROSS, CROSS, PLAIN))
    options = dict(
        sample_size=8,
        block_out_channels=(32, 64, 64),
        layers_per_block=2,
        cross_attention_dim=24,
        attention_head_dim=4,
        norm_num_groups=16,
        down_block_types=kinds,
        up_block_types=tuple(UP[kind] for kind in reversed(kinds)),
    )
    return randomised(UNet2DConditionModel(**options | sizes))


def of_family(family):
    """What distinguishes the families' U-Nets."""
    if family == "1.x":
        return {}
    options = {"attention_head_dim": (2, 4, 4), "use_linear_projection": True}
    return options | {"upcast_attention": family == "2.x at 768"}


def our_unet(config):
    attends = tuple(kind == CROSS for kind in config.down_block_types)
    return StableDiffusionUNet(
        config.in_channels,
        config.out_channels,
        config.block_out_channels,
        config.layers_per_block,
        config.cross_attention_dim,
        config.attention_head_dim,
        attends,
        config.use_linear_projection,
        bool(config.upcast_attention),
        config.norm_num_groups,
        config.mid_block_type is not None,
    )


def stored(model, folder):
    """The tensors that a model's own library writes."""
    model.save_pretrained(folder)
    files = sorted(folder.glob("*.safetensors"))
    return {name: value for file in files for name, value in load_file(file).items()}


def loaded(ours, tensors):
    ours.load_state_dict(layout.to_ours(ours, tensors), strict=False)
    return ours.double().eval()


def off(found, wanted):
    """The largest difference, in standard deviations of what is wanted."""
    return ((found - wanted).abs().max() / wanted.std()).item()


# ---- the U-Net

@pytest.mark.parametrize("sizes", [
    *[of_family(family) for family in FAMILIES],
    {"kinds": (CROSS, PLAIN), "block_out_channels": (48, 32), "norm_num_groups": 8},
    {"kinds": (PLAIN, CROSS, CROSS, CROSS), "block_out_channels": (16, 32, 32, 64)},
    {"layers_per_block": 1, "cross_attention_dim": 40, "attention_head_dim": 8},
    {"in_channels": 9},
    {"mid_block_type": None},
])
@torch.no_grad()
def test_the_unet(sizes, tmp_path):
    theirs = published_unet(**sizes)
    ours = loaded(our_unet(theirs.config), stored(theirs, tmp_path))
    theirs = theirs.double()
    g = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(shape, generator=g, dtype=torch.float64)
    x = draw(2, theirs.config.in_channels, 16, 8)
    context = draw(2, 7, theirs.config.cross_attention_dim)
    step = torch.tensor([3.0, 801.0], dtype=torch.float64)
    wanted = theirs(x, step, context).sample
    upcast = bool(theirs.config.upcast_attention)           # in float32, by both
    assert off(ours(x, step, context), wanted) < (1e-6 if upcast else 1e-12)
    emb = theirs.time_embedding(theirs.time_proj(step).double())
    assert off(ours.time(step), emb) < 1e-12


def test_a_unet_says_what_does_not_fit():
    net = StableDiffusionUNet(widths=(32, 32), num_heads=2, context_dim=8)
    x, step, context = torch.randn(1, 4, 8, 8), torch.tensor([5.0]), torch.randn(1, 3, 8)
    with pytest.raises(ValueError, match="multiples of 2"):
        net(torch.randn(1, 4, 7, 8), step, context)
    with pytest.raises(ValueError, match="context"):
        net(x, step, torch.randn(1, 3, 9))
    with pytest.raises(ValueError, match="one entry per level"):
        StableDiffusionUNet(widths=(32, 32), num_heads=(2, 2, 2))
    with pytest.raises(ValueError, match="multiple of 32 groups"):
        StableDiffusionUNet(widths=(48, 32))


# ---- the autoencoder

def published_vae(**sizes):
    widths = sizes.pop("block_out_channels", (32, 64))
    options = dict(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=8,
    )
    return randomised(PublishedVAE(**options | sizes))


def our_vae(config):
    return AutoencoderKL(
        config.in_channels,
        config.latent_channels,
        config.block_out_channels,
        config.layers_per_block,
        num_groups=config.norm_num_groups,
    )


OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def with_old_names(tensors):
    """The autoencoder's attention as older files have it."""
    for new, old in OLD.items():
        tensors = {name.replace(f".{new}.", f".{old}."): v for name, v in tensors.items()}
    return tensors


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("sizes", [
    {},
    {"block_out_channels": (16, 32, 32), "layers_per_block": 1, "latent_channels": 3},
])
@torch.no_grad()
def test_the_autoencoder(sizes, old, tmp_path):
    theirs = published_vae(**sizes)
    tensors = stored(theirs, tmp_path)
    ours = loaded(our_vae(theirs.config), with_old_names(tensors) if old else tensors)
    x = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(1)).double()
    wanted = theirs.double().encode(x).latent_dist
    mean, log_variance = ours.encode(x)
    assert off(mean, wanted.mean) < 1e-12 and off(log_variance, wanted.logvar) < 1e-12
    assert off(ours.decode(mean), theirs.decode(wanted.mean).sample) < 1e-12


# ---- the text encoder

def published_text(tokenizer=None, **sizes):
    vocabulary = 99 if tokenizer is None else len(tokenizer.vocabulary)
    ids = {} if tokenizer is None else {
        "bos_token_id": tokenizer.vocabulary[START], "eos_token_id": tokenizer.vocabulary[END]
    }
    options = dict(
        vocab_size=vocabulary,
        hidden_size=24,
        intermediate_size=56,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=20,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return randomised(CLIPTextModel(CLIPTextConfig(**options | ids | sizes)))


def our_text(config):
    return ClipTextEncoder(
        config.vocab_size,
        config.max_position_embeddings,
        config.hidden_size,
        config.num_hidden_layers,
        config.num_attention_heads,
        config.intermediate_size,
        config.hidden_act,
    )


@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@torch.no_grad()
def test_the_text_encoder(activation, prefix, tmp_path):
    """transformers 5.6 and later writes names without text_model., published files have it, and
    older ones position_ids, too.
    """
    theirs = published_text(hidden_act=activation)
    tensors = {name.removeprefix("text_model."): v for name, v in stored(theirs, tmp_path).items()}
    if prefix:
        tensors = {f"text_model.{name}": v for name, v in tensors.items()}
        tensors["text_model.embeddings.position_ids"] = torch.arange(20)[None]
    ours = loaded(our_text(theirs.config), tensors)
    tokens = torch.randint(0, 99, (3, 20), generator=torch.Generator().manual_seed(0))
    assert off(ours(tokens), theirs.double()(tokens).last_hidden_state) < 1e-12
    assert off(ours(tokens[:, :5]), ours(tokens)[:, :5]) < 1e-12        # causal


# ---- the layout

@pytest.mark.parametrize("make, theirs", [
    (our_unet, published_unet), (our_vae, published_vae), (our_text, published_text)
])
def test_the_name_map_goes_both_ways(make, theirs, tmp_path):
    """Our state in the published layout is what their library wrote, name by name, bit for bit."""
    theirs = theirs()
    tensors = stored(theirs, tmp_path)
    ours = make(theirs.config)
    ours.load_state_dict(layout.to_ours(ours, tensors), strict=False)
    back = layout.to_published(ours)
    short = {name.removeprefix("text_model."): value for name, value in back.items()}
    assert short.keys() == {name.removeprefix("text_model.") for name in tensors}
    for name, value in tensors.items():
        assert torch.equal(short[name.removeprefix("text_model.")], value), name


def test_tensors_that_do_not_fit_are_named(tmp_path):
    theirs = published_vae()
    tensors = stored(theirs, tmp_path)
    ours = our_vae(theirs.config)
    few = {k: v for k, v in tensors.items() if not k.startswith("quant_conv")}
    with pytest.raises(ValueError, match=r"missing quant_conv.bias; missing quant_conv.weight$"):
        layout.to_ours(ours, few)
    with pytest.raises(ValueError, match="not known colour$"):
        layout.to_ours(ours, tensors | {"colour": torch.ones(1)})
    wide = tensors | {"encoder.conv_in.weight": torch.ones(32, 4, 3, 3)}
    with pytest.raises(ValueError, match=r"conv_in.weight is \(32, 4, 3, 3\), and the conf.*3, 3,"):
        layout.to_ours(ours, wide)
    with pytest.raises(ValueError, match=r"and \d+ more$"):
        layout.to_ours(ours, {})
    with pytest.raises(TypeError, match="no published layout is known for a Linear"):
        layout.names_of(torch.nn.Linear(1, 1))


# ---- the whole folder

def save_pipeline(folder, family="1.x", **scheduler):
    """A tiny pipeline of a family, as diffusers writes it."""
    from diffusers import StableDiffusionPipeline
    learned = BytePairTokenizer.learn(TEXTS, 530)
    pad = END if family == "1.x" else "!"
    tokenizer = CLIPTokenizer(
        vocab=learned.vocabulary, merges=learned.merges, pad_token=pad, model_max_length=77
    )
    text = published_text(
        learned,
        max_position_embeddings=77,
        hidden_act="quick_gelu" if family == "1.x" else "gelu",
    )
    options = dict(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction" if family == "2.x at 768" else "epsilon",
    )
    pipe = StableDiffusionPipeline(
        vae=published_vae(scaling_factor=0.3),
        text_encoder=text,
        tokenizer=tokenizer,
        unet=published_unet(**of_family(family)),
        scheduler=DDIMScheduler(**options | scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module", params=FAMILIES)
def pipeline(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    return save_pipeline(folder, request.param), folder


@torch.no_grad()
def test_ten_guided_steps_of_the_pipeline(pipeline):
    """The same picture as diffusers' own pipeline, on its trailing grid, text to pixels."""
    pipe, folder = pipeline
    pipe.scheduler = DDIMScheduler.from_config(
        pipe.scheduler.config, timestep_spacing="trailing", set_alpha_to_one=True
    )
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    wanted = pipe(
        TEXTS, num_inference_steps=10, guidance_scale=7.5, latents=noise, output_type="latent",
        height=16, width=16,
    ).images
    D, vae = load_published(folder, "cpu")
    context = D.net.encode(D.net.tokenizer(TEXTS), 2)
    guided = cfg(D, 7.5, D.net.encode(D.net.null["tokens"], 2))
    x = last(ddim(guided, D.schedule, noise, timesteps(D.schedule, 10), **context))
    assert off(x, wanted) < 1e-3
    pictures = pipe.vae.decode(wanted / 0.3).sample
    assert off(vae.to_images(x), pictures) < 1e-3


def test_text_to_image_is_that_of_lesson_five(pipeline):
    D, vae = load_published(pipeline[1], "cpu")
    x = sampling.text_to_image(D, TEXTS, scale=3.0, steps=2, vae=vae)
    assert x.shape == (2, 3, 16, 16) and x.isfinite().all()
    assert D.data_shape == (4, 8, 8) and D.target in ("eps", "v")
    assert not any(p.requires_grad for p in D.parameters())


def test_padding_and_prediction_are_read_from_the_files(pipeline):
    pipe, folder = pipeline
    D, vae = load_published(folder, "cpu")
    v = pipe.scheduler.config.prediction_type == "v_prediction"
    assert D.target == ("v" if v else "eps")
    first = pipe.tokenizer(TEXTS, padding="max_length", return_tensors="pt").input_ids
    assert torch.equal(D.net.tokenizer(TEXTS), first)
    torch.testing.assert_close(vae.scale, torch.full((4,), 0.3))


def test_half_precision_and_shards(pipeline, tmp_path):
    """fp16 variants and split files load like the one file, up to the rounding of half."""
    pipe, folder = pipeline
    pipe.save_pretrained(tmp_path / "half", variant="fp16")
    pipe.save_pretrained(tmp_path / "shards", max_shard_size="200KB")
    assert list((tmp_path / "shards/unet").glob("*.index.json"))
    wanted, _ = load_published(folder, "cpu")
    for name in ("half", "shards"):
        D, _ = load_published(tmp_path / name, "cpu")
        for key, value in wanted.state_dict().items():
            assert torch.equal(D.state_dict()[key], value), (name, key)


# ---- what people have instead

@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("whole")
    save_pipeline(made)
    return made


def copied(folder, tmp_path):
    import shutil
    return shutil.copytree(folder, tmp_path / "copy")


def test_a_folder_without_a_part_or_weights(folder, tmp_path):
    copy = copied(folder, tmp_path)
    (copy / "unet/diffusion_pytorch_model.safetensors").rename(tmp_path / "weights")
    with pytest.raises(FileNotFoundError, match="unet has no weights .*without its large files"):
        load_published(copy, "cpu")
    (copy / "unet/diffusion_pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match="is a pickle, which can run any code .* refused"):
        load_published(copy, "cpu")
    (copy / "scheduler/scheduler_config.json").unlink()
    with pytest.raises(FileNotFoundError, match="scheduler_config.json is missing"):
        load_published(copy, "cpu")


def test_a_truncated_file_and_a_placeholder(folder, tmp_path):
    copy = copied(folder, tmp_path)
    file = copy / "unet/diffusion_pytorch_model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(OSError, match="is not whole .*fetch it again"):
        load_published(copy, "cpu")
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(OSError, match="placeholder of git-lfs"):
        load_published(copy, "cpu")


@pytest.mark.parametrize("part, key, value", [
    ("unet", "addition_embed_type", "text_time"),
    ("unet", "transformer_layers_per_block", [1, 2, 10]),
    ("vae", "shift_factor", 0.1),
    ("scheduler", "beta_schedule", "linear"),
])
def test_another_kind_of_model_is_refused(folder, tmp_path, part, key, value):
    copy = copied(folder, tmp_path)
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    file = copy / part / name
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(ValueError, match=f"{key} = .*only these are loaded"):
        load_published(copy, "cpu")


def test_what_is_no_folder_of_this_layout(folder, tmp_path):
    needed = "a folder in the diffusers layout is needed"
    with pytest.raises(FileNotFoundError, match=f"there is no .*{needed}"):
        load_published(tmp_path / "nothing")
    with pytest.raises(ValueError, match=f"is one part, UNet2DConditionModel: {needed}"):
        load_published(folder / "unet")
    one = tmp_path / "model.safetensors"
    for names, kind in (
        (["model.diffusion_model.out.0.bias"], "layout of the original code; convert it"),
        (["unet.lora_A.weight"], "an adapter"),
        (["down_blocks.0.resnets.0.norm1.bias"], "one part, the U-Net"),
        (["encoder.conv_in.bias"], "one part, the autoencoder"),
        (["text_model.final_layer_norm.bias"], "one part, the text encoder"),
        (["colour"], "a safetensors file of another model"),
    ):
        save_file({name: torch.ones(1) for name in names}, one)
        with pytest.raises(ValueError, match=f"{kind}.*{needed}"):
            load_published(one)
        with pytest.raises(ValueError, match=f"model.safetensors, which is .*{kind}.*{needed}"):
            load_published(tmp_path)
    one.unlink()
    pickle = tmp_path / "sd-v1-4.ckpt"
    pickle.write_bytes(b"x")
    with pytest.raises(ValueError, match="is a pickle, .*refused.*diffusers layout"):
        load_published(pickle)
    pickle.unlink()
    with pytest.raises(ValueError, match=f"has no model_index.json: {needed}"):
        load_published(tmp_path)
