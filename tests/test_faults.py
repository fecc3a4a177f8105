"""The fault board: every planted fault shows, and the right model does not."""
import math

import pytest
import torch

from course_lib import Denoiser, Schedule, timesteps
from course_lib.lab.evaluation import faults
from course_lib.networks.stable_diffusion.model import StableDiffusionNet
from course_lib.networks.stable_diffusion.tokenizer import BytePairTokenizer
from course_lib.networks.vae import AutoencoderKL

TEXTS = ["a red hat", "a dog"]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    code = BytePairTokenizer.learn(TEXTS, 520, length=10)
    text = dict(vocabulary=520, length=10, dim=24, depth=2, num_heads=4, hidden=40)
    sizes = dict(in_channels=4, widths=(32, 64), depth=1, context_dim=24, num_heads=2,
                 num_groups=16)
    net = StableDiffusionNet(sizes, text, code)
    vae = AutoencoderKL(3, 4, (16, 32), 1, num_groups=8)
    for part in (net, vae):
        for name, p in part.named_parameters():             # nothing is 1 or 0
            scale = 0.3 if p.ndim == 1 else 1 / math.sqrt(p[0].numel())
            bias = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            p.data = bias + scale * torch.randn(p.shape)
    vae.scale = torch.full((4,), 0.3)
    D = Denoiser(net.double(), Schedule.scaled_linear(), "v")
    D.data_shape = (4, 8, 8)
    return D.eval().requires_grad_(False), vae.double().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def found(model):
    return faults.board(*model, TEXTS, steps=4)


@pytest.mark.parametrize("name", faults.FAULTS)
def test_every_fault_shows(found, name):
    """Far above the 1e-12 at which the right model is at parity."""
    seen = max(found[name].prediction, found[name].latent, found[name].picture)
    assert seen > 1e-7, (name, found[name])
    assert found[name].x.isfinite().all()


def test_the_right_model_is_at_rounding(model, found):
    right = found[faults.NO_FAULT]
    assert len(faults.FAULTS) >= 15
    assert list(found) == [faults.NO_FAULT, *faults.FAULTS]
    assert 0 < right.prediction < 1e-12 and 0 < right.picture < 1e-12
    assert right.latent == 0                                # the order of the U-Net's sums alone


def test_the_model_is_not_touched(model, found):
    again = faults.board(*model, TEXTS, steps=4)
    for name in found:
        assert again[name].picture == found[name].picture, name


def test_faults_of_the_sampler_leave_the_prediction(found):
    for name in ("latents not scaled back", "no convolution before the decoder", "leading grid"):
        assert found[name].prediction == 0 and found[name].picture > 0.01


def test_which_faults_reach_a_latent(found):
    reach = {name for name in found if found[name].latent}
    assert reach == {"latents not scaled back", "encoder padded on both sides"}
    padded = found["encoder padded on both sides"]
    assert padded.prediction == 0 and padded.latent > 0.01 and padded.picture > 0.01


def test_the_leading_grid_is_the_published_one():
    from diffusers import DDIMScheduler
    theirs = DDIMScheduler(timestep_spacing="leading", steps_offset=1)
    theirs.set_timesteps(50)
    ours = timesteps(Schedule.scaled_linear(), 50, faults.leading)[:-1]
    assert (ours * 1000 - 1).round().int().tolist() == theirs.timesteps.tolist()
    with pytest.raises(ValueError, match="schedules of T steps"):
        timesteps(Schedule.flow(), 5, faults.leading)


def test_what_has_no_faults(model):
    from course_lib import UNet
    D = Denoiser(UNet(1), Schedule.cosine())
    with pytest.raises(TypeError, match="must be a StableDiffusionNet"):
        faults.board(D, model[1], TEXTS)
