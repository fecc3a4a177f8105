"""The service: what it refuses, what it draws, whom it tells; without a web framework but for the
last tests, which need the extra `web`.
"""
import ast
import asyncio
import base64
import io
import json
import socket
import struct
import threading
import time
import urllib.error
import urllib.request
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from course_lib import Denoiser, Schedule, cfg, dpmpp, last, timesteps, web
from course_lib.lab import sampling
from course_lib.networks.stable_diffusion.inpainting import extra_channels, inpainting_net
from course_lib.networks.stable_diffusion.model import StableDiffusionNet
from course_lib.networks.text import ConditionalUNet
from course_lib.networks.vae import AutoencoderKL
from course_lib.watermark import marked_noise
from course_lib.web import canvas, endpoints, mark
from course_lib.web.__main__ import main, read_limits
from course_lib.web.follow import CHANGE, follow
from course_lib.web.gate import Gate
from course_lib.web.limits import Limits
from course_lib.web.painter import Painter
from course_lib.web.refusal import Refused
from course_lib.web.request import DEFAULTS, read_json, read_request
from course_lib.web.service import Service

SIZE = (16, 16)
SECRET = "xylophone"                                        # a word of a prompt that nobody may see


# ---- a model of a moment, pictures, and a painter that can be stopped

def randomised(module):
    g = torch.Generator().manual_seed(0)
    for p in module.parameters():
        p.data = 0.2 * torch.randn(p.shape, generator=g)
    return module.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def painter():
    """Captions to latents (4, 8, 8) to pictures of 16 x 16, with random weights."""
    net = ConditionalUNet(4, ["red", "blue", "a", "crab"], length=6, text_dim=8, widths=(8,))
    D = Denoiser(randomised(net), Schedule.cosine(), "v")
    D.data_shape = (4, 8, 8)
    vae = randomised(AutoencoderKL(3, 4, widths=(8,), depth=1, patch_size=2))
    return Painter(D, vae, "tiny")


def png(pixels) -> str:
    stream = io.BytesIO()
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def noise(*shape) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def bomb(width: int, height: int) -> str:
    """A PNG of a few bytes whose head promises many pixels."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(
            ">I", zlib.crc32(kind + data)
        )
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    file = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return base64.b64encode(file).decode()


class ByHand:
    """A painter whose steps are made when the test says so."""

    size, name, example, watermark = SIZE, "by hand", "", None

    def __init__(self, free: bool = True):
        self.drawn = []
        self.go = threading.Event()
        self.fault = None
        if free:
            self.go.set()

    def prepare(self, request):
        pass

    def unknown_words(self, request):
        return []

    def paint(self, request, see):
        if self.fault is not None:
            raise self.fault
        for step in range(1, request.steps + 1):
            see(step, lambda: b"preview")
            while not self.go.wait(0.01):
                see(step, lambda: b"preview")
        self.drawn.append(request.prompt)
        return [b"picture of " + request.prompt.encode()]


class Clock:
    """Time that passes when the test says so."""

    now = 0.0

    def __call__(self):
        return self.now


def until(service, id, *states):
    """The report of a request that has come to one of these states."""
    for _ in range(10_000):
        report = service.look(id)
        if report["state"] in states:
            return report
        time.sleep(0.005)
    raise AssertionError(report)


def read(**fields):
    return read_request(fields, Limits(), SIZE)


# ---- what may be asked

def test_what_is_left_out_has_a_default():
    request = read()
    assert (request.prompt, request.steps, request.pictures) == ("", 10, 1)
    assert request.sampler == "dpmpp" and request.guidance == 2.0
    assert request.picture is request.mask is request.strength is None
    assert len({read().seed for _ in range(8)}) == 8        # drawn anew each time
    assert read(seed=7).seed == 7 and read(prompt=" a\n\tcrab ").prompt == "a crab"


HUGE = 10**400
BAD = [
    ({"promt": "a"}, "there is no field 'promt'; there are prompt, negative_prompt"),
    ({"prompt": None}, "prompt must be a string; got None"),
    ({"prompt": ["a"]}, "prompt must be a string"),
    ({"prompt": "a" * 501}, "prompt may have 500 characters; this has 501"),
    ({"negative_prompt": "b" * 10**6}, "negative_prompt may have 500 characters"),
    ({"prompt": "a\x00b"}, "without control characters"),
    ({"prompt": "\ud83d"}, "without control characters"),
    ({"steps": 51}, "steps must be a whole number from 1 to 50; got 51"),
    ({"steps": 0}, "from 1 to 50; got 0"),
    ({"steps": HUGE}, "steps must be a whole number from 1 to 50"),
    ({"steps": 2.5}, "got 2.5"),
    ({"steps": True}, "got True"),
    ({"steps": "10"}, "got '10'"),
    ({"guidance": float("nan")}, "guidance must be a number from 0 to 20; got nan"),
    ({"guidance": float("inf")}, "got inf"),
    ({"guidance": HUGE}, "guidance must be a number from 0 to 20"),
    ({"guidance": -1}, "got -1"),
    ({"seed": -1}, "seed must be a whole number from 0 to 4294967295, or empty (null)"),
    ({"seed": 2**32}, "got 4294967296"),
    ({"seed": "../../etc/passwd"}, "seed must be a whole number"),
    ({"pictures": 5}, "pictures must be a whole number from 1 to 4; got 5"),
    ({"sampler": "__import__('os')"}, "sampler must be one of 'ancestral', 'ancestral, sigma-hat'"),
    ({"sampler": {}}, "sampler must be one of 'ancestral', 'ancestral, sigma-hat'"),
    ({"strength": 0.5}, "send a picture, too"),
    ({"mask": "x"}, "send a picture, too"),
    ({"picture": "/etc/passwd"}, "the picture must be a PNG, JPEG or WebP file in base64"),
    ({"picture": "http://localhost/a.png"}, "must be a PNG, JPEG or WebP file in base64"),
    ({"picture": {"path": "/etc/passwd"}}, "picture must be a file in base64, a string"),
    ({"picture": base64.b64encode(b"<svg/>").decode()}, "must be a PNG, JPEG or WebP"),
    ({"picture": png(noise(8, 8, 3))[:-40]}, "must be a PNG, JPEG or WebP"),
    ({"picture": png(noise(8, 8, 3)), "strength": 0}, "strength must be a number from 0.05 to 1"),
    ({"picture": png(noise(8, 8, 3)), "mask": png(np.zeros((8, 8)))}, "the mask is dark"),
    (
        {"picture": png(noise(8, 8, 3)), "mask": png(np.zeros((8, 9)))},
        "the mask is 9 x 8, and its picture 8 x 8",
    ),
]


@pytest.mark.parametrize("fields, sentence", BAD)
def test_a_refusal_says_what_is_wrong(fields, sentence):
    with pytest.raises(Refused) as refused:
        read(**fields)
    assert sentence in refused.value.sentence and refused.value.status == 422
    assert len(refused.value.sentence) < 300


@pytest.mark.parametrize("picture", [
    bomb(50_000, 50_000), bomb(10_000, 10_000), bomb(5000, 4000), "A" * 6_000_000,
    png(np.zeros((4001, 4000))),
], ids=["2,500 million pixels", "100 million", "20 million", "bytes", "a flat one"])
def test_a_picture_too_large_is_refused_before_it_is_decoded(picture, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(Refused, match="the picture may have") as refused, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        read(picture=picture)
    assert refused.value.status == 413


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP"])
def test_other_decoders_are_not_offered(kind):
    stream = io.BytesIO()
    Image.fromarray(noise(8, 8, 3)).save(stream, kind)
    with pytest.raises(Refused, match="PNG, JPEG or WebP"):
        read(picture=base64.b64encode(stream.getvalue()).decode())


def test_a_picture_of_the_model_s_size_is_kept_bit_for_bit():
    pixels = noise(*SIZE, 3)
    assert (read(picture=png(pixels)).picture == pixels).all()
    assert (read(picture="data:image/png;base64," + png(pixels)).picture == pixels).all()


def test_other_pictures_are_cut_at_the_centre_upright_and_on_white():
    wide = np.zeros((16, 48, 3))
    wide[:, 16:32] = 255
    assert (read(picture=png(wide)).picture == 255).all()
    clear = np.dstack([noise(16, 16, 3), np.zeros((16, 16))])
    assert (read(picture=png(clear)).picture == 255).all()
    image = Image.fromarray(np.repeat(noise(16, 1, 3), 16, 1))
    exif = image.getexif()
    exif[0x0112] = 3                                        # upside down
    stream = io.BytesIO()
    image.save(stream, "PNG", exif=exif)
    turned = read(picture=base64.b64encode(stream.getvalue()).decode()).picture
    assert (turned == np.asarray(image)[::-1]).all()


def test_a_mask_is_drawn_anew_wherever_it_is_bright():
    mask = np.zeros((32, 32))
    mask[5, 7] = 255                                        # a quarter of one of our pixels
    mask[20, 20] = 127
    found = read(picture=png(noise(32, 32, 3)), mask=png(mask)).mask
    assert found.dtype == bool and found.sum() == 1 and found[2, 3]


@pytest.mark.parametrize("body", [
    b"", b"{", b"[1]", b'"a"', b"null", b"\xff\xfe", b'{"steps": NaN}', b'{"guidance": Infinity}',
    b"[" * 100_000, b'{"seed": ' + b"9" * 10_000 + b"}",
], ids=repr)
def test_what_is_no_json_object_is_refused(body):
    with pytest.raises(Refused, match="the body must be") as refused:
        read_json(body)
    assert refused.value.status == 400


def test_defaults_keep_the_limits():
    request = read_request({}, Limits(steps=3, guidance=1.5), SIZE)
    assert request.steps == 3 and request.guidance == 1.5


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"queue": 1.5}, {"patience": 0}, {"kept": "1"}])
def test_limits_are_numbers_above_0(wrong):
    with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
        Limits(**wrong)


# ---- what is drawn

def pixels_of(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)))


def as_bytes(x):
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("sampler", sampling.SAMPLERS)
def test_pictures_are_those_of_the_course_s_own_loop(painter, sampler):
    request = read(prompt="a red crab", negative_prompt="blue", seed=5, steps=3, sampler=sampler,
                   pictures=2, guidance=3.0)
    tokens = painter.D.net.tokenizer(["a red crab"] * 2)
    x = sampling.sample_batches(
        painter.D, sampling.SAMPLERS[sampler], 3, {"tokens": tokens}, scale=3.0, seed=5,
        null={"tokens": painter.D.net.tokenizer("blue")}, vae=painter.vae,
    )
    drawn = np.stack([pixels_of(file) for file in painter.paint(request)])
    assert (drawn == as_bytes(x)).all() and drawn.std() > 5


def test_a_model_of_pixels_needs_no_autoencoder(painter):
    net = ConditionalUNet(3, ["crab"], length=6, text_dim=8, widths=(8,))
    D = Denoiser(randomised(net), Schedule.cosine(), "v")
    D.data_shape = (3, *SIZE)
    x = sampling.text_to_image(D, ["crab"], seed=2, steps=4)
    mine = Painter(D)
    assert (pixels_of(mine.paint(read(prompt="crab", seed=2, steps=4))[0]) == as_bytes(x)[0]).all()


def stable_diffusion():
    """Tokens in place of words."""
    from course_lib.networks.stable_diffusion.tokenizer import BytePairTokenizer
    code = BytePairTokenizer.learn(["a crab"] * 3, 516, length=8)
    text = {"vocabulary": 516, "length": 8, "dim": 16, "depth": 1, "num_heads": 2, "hidden": 16}
    unet = {"in_channels": 4, "out_channels": 4, "widths": (16, 16), "depth": 1, "context_dim": 16,
            "num_heads": 2, "attention_levels": (True, False), "num_groups": 4}
    return StableDiffusionNet(unet, text, code)


def test_a_stable_diffusion_is_served_as_well(painter):
    D = Denoiser(randomised(stable_diffusion()), Schedule.from_betas(
        torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    ), "eps")
    D.data_shape = (4, 8, 8)
    mine = Painter(D, painter.vae, "mini")
    request = read(prompt="a crab", seed=1, steps=3)
    mine.prepare(request)
    x = sampling.text_to_image(D, ["a crab"], seed=1, steps=3, vae=painter.vae)
    assert (pixels_of(mine.paint(request)[0]) == as_bytes(x)[0]).all()
    with pytest.raises(Refused, match="this model reads 6 tokens; this prompt has 7"):
        mine.prepare(read(negative_prompt="abcdefg"))
    assert mine.unknown_words(request) == []


def test_what_is_not_brushed_is_kept_bit_for_bit(painter):
    known, mask = noise(*SIZE, 3), np.zeros(SIZE)
    mask[4:9, 5:12] = 255
    request = read(prompt="a crab", seed=1, picture=png(known), mask=png(mask), pictures=2)
    for file in painter.paint(request):
        drawn = pixels_of(file)
        assert (drawn[mask == 0] == known[mask == 0]).all()
        assert (drawn[mask > 0] != known[mask > 0]).any(1).mean() > 0.9


def test_inpainting_holds_the_latents_of_what_is_known(painter, monkeypatch):
    """A cell of the latent is drawn anew if any of its pixels is."""
    from course_lib.web import painter as module
    masks, inpaint = [], module.inpaint
    monkeypatch.setattr(module, "inpaint", lambda D, known, mask: (
        masks.append((known, mask)), inpaint(D, known, mask)
    )[1])
    mask = np.zeros(SIZE)
    mask[3, 3:5] = 255
    painter.paint(read(picture=png(noise(*SIZE, 3)), mask=png(mask), steps=1))
    known, cells = masks[0]
    assert cells.shape == (1, 1, 8, 8) and cells.sum() == 2 and cells[0, 0, 1, 1:3].all()
    x = torch.from_numpy(noise(*SIZE, 3)).permute(2, 0, 1)[None] / 127.5 - 1
    assert torch.equal(known, painter.vae.to_latents(x))


def test_image_to_image_starts_from_the_noised_picture(painter):
    """One step of a denoiser that says 0 keeps what SDEdit's start has of the picture."""
    request = read(picture=png(noise(*SIZE, 3)), strength=0.4, steps=1, seed=3)
    ts = painter._timesteps(request)
    known = painter._known(request)
    eps = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    S = painter.D.schedule
    assert ts[0] == 0.4 and torch.equal(painter._start(eps, known, ts), S.perturb(known, 0.4, eps))
    near, far = (
        np.abs(pixels_of(painter.paint(read(
            picture=png(noise(*SIZE, 3)), strength=s, seed=3))[0]).astype(float)
            - as_bytes(painter.vae.to_images(known))[0]).mean()
        for s in (0.05, 1.0)
    )
    assert near < far / 2


def test_a_sampler_that_cannot_start_in_the_middle_is_refused(painter):
    request = read(picture=png(noise(*SIZE, 3)), strength=0.4, sampler="heun, even from 0.95")
    with pytest.raises(Refused, match="starts at t = 0.95"):
        painter.prepare(request)


def test_a_prompt_of_too_many_words_is_refused(painter):
    painter.prepare(read(prompt="a b c d e f"))
    with pytest.raises(Refused, match="this model reads 6 tokens; this prompt has 7"):
        painter.prepare(read(prompt="a b c d e f g"))


def test_the_settings_are_in_the_file(painter):
    request = read(prompt="a 🦀 \"crab\" <b>", seed=5, steps=2, pictures=2)
    second = Image.open(io.BytesIO(painter.paint(request)[1])).text
    assert second["prompt"] == 'a 🦀 "crab" <b>' and second["seed"] == "5"
    assert second["steps"] == "2" and second["sampler"] == "dpmpp" and second["guidance"] == "2.0"
    assert second["model"] == "tiny" and second["picture"] == "2" and second["pictures"] == "2"
    assert second["kind"] == "text to image" and second["Software"].startswith("course_lib")
    again = {k: str(second[k]) for k in ("prompt", "sampler")}
    again |= {k: int(second[k]) for k in ("seed", "steps", "pictures")}
    assert painter.paint(read(**again))[1] == painter.paint(request)[1]


def test_a_watermark_is_in_the_noise(painter):
    """The course's own: the signs come from key and nonce, the rest from the seed."""
    seen = []

    def mark(shape, nonces, generator):
        seen.append(marked_noise(shape, 7, nonces, generator=generator))
        return seen[-1]
    marked = Painter(painter.D, painter.vae, "tiny", watermark=mark)
    files = marked.paint(read(seed=1, pictures=2, steps=3))
    nonces = [int(Image.open(io.BytesIO(file)).text["nonce"]) for file in files]
    assert nonces == [2**16, 2**16 + 1] and torch.equal(seen[0], marked_noise(
        (2, 4, 8, 8), 7, torch.tensor(nonces), generator=torch.Generator().manual_seed(1)
    ))
    x = seen[0] * painter.D.schedule.sigma(1.0).float()
    guided = cfg(painter.D, 2.0, {"tokens": 0})
    tokens, ts = torch.zeros(2, 6, dtype=torch.long), timesteps(painter.D.schedule, 3)
    x = last(dpmpp(guided, painter.D.schedule, x, ts, tokens=tokens))
    drawn = np.stack([pixels_of(file) for file in files])
    assert (drawn == as_bytes(painter.vae.to_images(x))).all()
    plain = painter.paint(read(seed=1, pictures=2, steps=3))
    assert (pixels_of(plain[0]) != drawn[0]).any()
    assert "nonce" not in Image.open(io.BytesIO(plain[0])).text


def test_each_prediction_is_shown(painter):
    seen = []
    see = lambda step, preview: seen.append((step, preview()))
    files = painter.paint(read(steps=3, seed=1), see)
    assert [step for step, _ in seen] == [1, 2, 3]
    assert (pixels_of(seen[-1][1]) == pixels_of(files[0])).all()    # the last step goes to x0_hat
    assert (pixels_of(seen[0][1]) != pixels_of(files[0])).any()


def test_no_word_of_a_prompt_is_printed(painter, capfd, recwarn):
    request = read(prompt=SECRET, negative_prompt=SECRET)
    assert painter.unknown_words(request) == [SECRET]
    painter.paint(request)
    assert SECRET not in "".join(capfd.readouterr()) and not len(recwarn)


@pytest.mark.parametrize("make, sentence", [
    (lambda D, vae: Painter(D.net, vae), "D must be a Denoiser"),
    (lambda D, vae: Painter(Denoiser(nn.Identity(), Schedule.cosine())), "D must read captions"),
    (lambda D, vae: Painter(D), "must have 3 channels, red, green, blue; got 4"),
    (lambda D, vae: Painter(D, vae, watermark=3), "watermark must be a function"),
])
def test_other_models_are_refused(painter, make, sentence):
    with pytest.raises((TypeError, ValueError), match=sentence):
        make(painter.D, painter.vae)


def test_the_shipped_figures():
    """A checkpoint brings its autoencoder; two words of a prompt change the picture."""
    shipped = Painter.load("nouns_latent", "cpu")
    assert shipped.size == (32, 32) and shipped.vae is not None and shipped.name == "nouns_latent"
    request = read_request({"prompt": "a shark head", "seed": 3}, Limits(), shipped.size)
    x = sampling.text_to_image(shipped.D, ["a shark head"], seed=3, vae=shipped.vae)
    assert (pixels_of(shipped.paint(request)[0]) == as_bytes(x)[0]).all()


def test_an_inpainter_gets_mask_and_masked_picture(painter):
    """Its channels, once for each picture; what is not brushed is kept."""
    D = Denoiser(randomised(stable_diffusion()), Schedule.cosine(), "v")
    D.data_shape = (4, 8, 8)
    inpainter = Denoiser(inpainting_net(D.net), D.schedule, "v")
    seen = []
    inpainter.net.register_forward_pre_hook(
        lambda net, inputs, options: seen.append(options["extra"]), with_kwargs=True
    )
    mask = np.zeros(SIZE)
    mask[3, 3:5] = 255
    known = noise(*SIZE, 3)
    mine = Painter(D, painter.vae, "mini", inpainter=inpainter)
    request = read(picture=png(known), mask=png(mask), steps=1, pictures=2)
    drawn = pixels_of(mine.paint(request)[1])
    x = torch.from_numpy(known).permute(2, 0, 1)[None] / 127.5 - 1
    expected = extra_channels(painter.vae, x, torch.from_numpy(mask)[None, None].float() / 255)
    assert torch.equal(seen[0], expected.expand(2, -1, -1, -1))
    assert request.strength == 1.0 and (drawn[mask == 0] == known[mask == 0]).all()
    mine.paint(read(picture=png(known), steps=1))           # without a mask it is not asked
    assert len(seen) == len([extra for extra in seen if extra is not None])


def test_the_default_model_starts_marks_and_inpaints(tmp_path, capsys):
    """As `make app` loads it; the mark of its key is found in the file, and no other. (The prompt
    is empty: one that says everything leaves inversion nothing to find.)
    """
    key = tmp_path / "key.txt"
    marked = Painter.load("mini_sd", "cpu", watermark=mark.marker(mark.read_key(key)))
    assert marked.size == (32, 32) and marked.inpainter is not None
    marked.prepare(read_request({"prompt": marked.example}, Limits(), marked.size))
    request = read_request({"seed": 3}, Limits(), marked.size)
    (tmp_path / "a.png").write_bytes(marked.paint(request)[0])
    search = ["--device", "cpu", str(tmp_path / "a.png")]
    assert mark.main([str(key), *search]) == 0
    assert "the mark is there" in capsys.readouterr().out
    other = tmp_path / "other.txt"
    assert mark.main([str(other), *search]) == 2            # there is none, and none is made
    assert not other.exists() and mark.read_key(other) != mark.read_key(key)
    assert mark.main([str(other), *search]) == 1
    assert "no mark" in capsys.readouterr().out


def test_a_key_is_its_owner_s_alone(tmp_path):
    file = tmp_path / "key.txt"
    key = mark.read_key(file)
    assert key == mark.read_key(file) and file.stat().st_mode & 0o077 == 0
    file.write_text("no key")
    with pytest.raises(ValueError, match="must hold a key, up to 64 hexadecimal digits"):
        mark.read_key(file)


@pytest.mark.parametrize("pixels", [noise(8, 8, 3), noise(*SIZE, 3) / 255, noise(*SIZE)])
def test_a_mark_is_looked_for_in_pictures_of_the_model_s_size(painter, pixels):
    with pytest.raises(ValueError, match="16 x 16 pixels in colour"):
        mark.find(painter, pixels, 1, 2)


# ---- the queue

def test_requests_are_drawn_one_after_the_other():
    by_hand = ByHand(free=False)
    with Service(by_hand) as service:
        first, *others = [service.ask({"prompt": prompt}) for prompt in "abc"]
        until(service, first, "drawing")
        assert [service.look(id)["place"] for id in (first, *others)] == [0, 1, 2]
        assert service.health() == {"model": "by hand", "waiting": 2, "drawing": 1}
        by_hand.go.set()
        for id, prompt in zip((first, *others), "abc"):
            report = until(service, id, "done")
            assert report["pictures"] == [f"picture of {prompt}".encode()]
        assert by_hand.drawn == ["a", "b", "c"]


def test_a_full_queue_refuses_at_once():
    by_hand = ByHand(free=False)
    with Service(by_hand, Limits(queue=2)) as service:
        until(service, service.ask({}), "drawing")
        service.ask({}), service.ask({})
        with pytest.raises(Refused, match="2 requests are waiting already: try again") as refused:
            service.ask({})
        assert refused.value.status == 503 and refused.value.retry_after >= 1
        with pytest.raises(Refused, match="2 requests are waiting"):
            service.ask({"picture": "nothing is decoded"})


def test_who_waits_too_long_is_told():
    by_hand = ByHand(free=False)
    clock = Clock()
    with Service(by_hand, Limits(waiting=60, patience=1000), clock) as service:
        until(service, service.ask({}), "drawing")
        id = service.ask({})
        clock.now = 60
        assert service.look(id)["state"] == "waiting"
        clock.now = 60.1
        with pytest.raises(Refused, match="your turn did not come within 60 s") as refused:
            service.look(id)
        assert refused.value.status == 503 and service.health()["waiting"] == 0


def test_what_takes_too_long_is_stopped_and_the_next_is_drawn():
    by_hand = ByHand(free=False)
    clock = Clock()
    with Service(by_hand, Limits(drawing=60, patience=1000), clock) as service:
        id = service.ask({"prompt": "a"})
        until(service, id, "drawing")
        clock.now = 60.1
        with pytest.raises(Refused, match="it took longer than 60 s"):
            until(service, id, "never")
        by_hand.go.set()
        until(service, service.ask({"prompt": "b"}), "done")
        assert by_hand.drawn == ["b"]


def test_cancelled_requests_are_not_drawn():
    by_hand = ByHand(free=False)
    with Service(by_hand) as service:
        drawn, waiting, last = [service.ask({"prompt": prompt}) for prompt in "abc"]
        until(service, drawn, "drawing")
        service.cancel(waiting)
        service.cancel(drawn)
        for id in (drawn, waiting):
            with pytest.raises(Refused, match="there is no such request"):
                service.look(id)
        until(service, last, "drawing")                     # at once, though nothing was let go
        by_hand.go.set()
        until(service, last, "done")
        assert by_hand.drawn == ["c"]
        service.cancel(last)                                # what is over is forgotten
        with pytest.raises(Refused, match="there is no such request"):
            service.look(last)


def test_a_client_that_is_gone_holds_nobody_up():
    clock = Clock()
    with Service(ByHand(free=False), Limits(patience=10), clock) as service:
        gone, gone_too, stays = [service.ask({"prompt": prompt}) for prompt in "abc"]
        until(service, gone, "drawing")
        clock.now = 6
        assert service.look(stays)["place"] == 2
        clock.now = 12
        until(service, stays, "drawing")
        for id in (gone, gone_too):
            with pytest.raises(Refused, match="nobody looked at this request for 10 s") as refused:
                service.look(id)
            assert refused.value.status == 410


def test_pictures_are_forgotten():
    clock = Clock()
    with Service(ByHand(), Limits(kept=60), clock) as service:
        id = service.ask({"prompt": SECRET})
        until(service, id, "done")
        clock.now = 60
        assert service.look(id)["pictures"]
        clock.now = 60.1
        with pytest.raises(Refused, match="there is no such request") as refused:
            service.look(id)
        assert refused.value.status == 404 and not service._jobs


def test_prompts_are_forgotten_when_they_are_drawn():
    with Service(ByHand()) as service:
        id = service.ask({"prompt": SECRET}, preview=True)
        until(service, id, "done")
        job = service._jobs[id]
        assert job.request is None and job.preview is None


def test_nobody_guesses_an_id():
    with Service(ByHand()) as service:
        ids = {service.ask({}) for _ in range(5)}
        assert len(ids) == 5 and all(len(id) >= 22 for id in ids)
        for id in ("", "0", "../" + min(ids), min(ids)[:-1]):
            with pytest.raises(Refused, match="there is no such request"):
                service.look(id)
            with pytest.raises(Refused, match="there is no such request"):
                service.cancel(id)


def test_an_error_is_said_to_its_client_and_logged_without_the_prompt(caplog):
    by_hand = ByHand()
    by_hand.fault = ValueError(f"cannot draw {SECRET}")
    caplog.set_level("INFO")
    with Service(by_hand) as service:
        id = service.ask({"prompt": SECRET})
        with pytest.raises(Refused, match="went wrong here, and it is not your fault") as refused:
            until(service, id, "never")
        assert refused.value.status == 500
        by_hand.fault = None
        until(service, service.ask({"prompt": SECRET}), "done")
    assert "ValueError in paint" in caplog.text and "done: 10 of 10 steps of dpmpp" in caplog.text
    assert SECRET not in caplog.text


def test_a_worker_that_hangs_is_no_healthy_one():
    by_hand = ByHand()
    stuck = threading.Event()
    by_hand.paint = lambda request, see: stuck.wait(20) and []
    clock = Clock()
    with Service(by_hand, Limits(drawing=60), clock) as service:
        until(service, service.ask({}), "drawing")
        clock.now = 120
        assert service.health()["drawing"] == 1
        clock.now = 120.1
        with pytest.raises(Refused, match="the worker does not work"):
            service.health()
        stuck.set()
    with pytest.raises(Refused, match="the worker does not work"):
        service.health()
    with pytest.raises(Refused, match="the service is being stopped"):
        service.ask({})


def test_closing_stops_what_is_drawn():
    service = Service(ByHand(free=False))
    id = service.ask({})
    until(service, id, "drawing")
    service.close()
    assert not service._worker.is_alive()


def test_what_is_drawn_depends_on_nobody_else(painter):
    """Twenty clients at once: each gets its own picture, that of a client alone."""
    def fields(k):
        return {"prompt": ["red", "blue", "crab"][k % 3], "seed": k, "steps": 2,
                "pictures": 1 + k % 2, "sampler": ["dpmpp", "ancestral"][k % 2]}
    alone = [painter.paint(read(**fields(k))) for k in range(20)]
    found = {}
    with Service(painter, Limits(queue=20)) as service:
        def client(k):
            found[k] = until(service, service.ask(fields(k)), "done")["pictures"]
        threads = [threading.Thread(target=client, args=(k,)) for k in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert [found[k] for k in range(20)] == alone


# ---- the endpoint

def call(service, method, path, content=None, kind="application/json"):
    body = b"" if content is None else json.dumps(content).encode()
    return endpoints.respond(service, method, path, kind, body)


def test_a_picture_by_json(painter):
    with Service(painter) as service:
        status, content, _ = call(service, "POST", "/api/pictures", {"prompt": "crab", "seed": 4})
        assert status == 202 and list(content) == ["id"]
        path = f"/api/pictures/{content['id']}"
        while (answer := call(service, "GET", path)).content["state"] != "done":
            assert answer.status == 200 and not answer.content["pictures"]
        file = base64.b64decode(answer.content["pictures"][0])
        assert file == painter.paint(read(prompt="crab", seed=4))[0]
        assert json.loads(json.dumps(answer.content))["seed"] == 4
        assert call(service, "DELETE", path).status == 200
        assert call(service, "GET", path).status == 404
        assert call(service, "GET", "/health").content == {
            "status": "ok", "model": "tiny", "waiting": 0, "drawing": 0
        }
        limits = call(service, "GET", "/api/limits").content
        assert limits["limits"]["steps"] == 50 and limits["defaults"] == DEFAULTS
        assert limits["width"] == 16 and "heun" in json.loads(json.dumps(limits))["samplers"]


@pytest.mark.parametrize("method, path, content, kind, status, sentence", [
    ("GET", "/api", None, "", 404, "there is no such page; the endpoint is /api/pictures"),
    ("GET", "/api/pictures/../../etc/passwd", None, "", 404, "there is no such"),
    ("GET", "/api/pictures/", None, "", 404, "there is no such page"),
    ("GET", "/api/pictures/abc", None, "", 404, "there is no such request"),
    ("GET", "/api/pictures", None, "", 405, "this page takes POST, and no GET"),
    ("PUT", "/api/pictures/abc", None, "", 405, "takes GET or DELETE, and no PUT"),
    ("BREW" * 100, "/health", None, "", 405, "takes GET, and no BREWBREWBR"),
    ("POST", "/api/pictures", {}, "text/plain", 415, "Content-Type: application/json"),
    ("POST", "/api/pictures", {}, "multipart/form-data; boundary=x", 415, "send JSON"),
    ("POST", "/api/pictures", [], "application/json", 400, "must be one JSON object"),
    ("POST", "/api/pictures", {"steps": 99}, "Application/JSON; charset=utf-8", 422, "got 99"),
    ("POST", "/api/pictures", {"prompt": "x" * 12 * 10**6}, "application/json", 413, "bytes"),
])
def test_what_the_endpoint_refuses(method, path, content, kind, status, sentence):
    with Service(ByHand()) as service:
        answer = call(service, method, path, content, kind)
    assert answer.status == status and sentence in answer.content["error"]


def test_a_full_queue_says_when_to_come_back():
    with Service(ByHand(free=False), Limits(queue=1)) as service:
        until(service, service.ask({}), "drawing")
        service.ask({})
        answer = call(service, "POST", "/api/pictures", {})
    assert answer.status == 503 and int(answer.headers["Retry-After"]) >= 1


def test_our_own_errors_are_answers_too(caplog):
    by_hand = ByHand()
    by_hand.prepare = lambda request: {}[request.prompt]
    with Service(by_hand) as service:
        answer = call(service, "POST", "/api/pictures", {"prompt": SECRET})
    assert answer.status == 500 and "not your fault" in answer.content["error"]
    assert "KeyError in <lambda>" in caplog.text and SECRET not in caplog.text + str(answer)


# ---- the gate

def scope_of(method, path, headers):
    pairs = {"host": "127.0.0.1:7860"} | headers
    pairs = [(k.encode(), v.encode()) for k, v in pairs.items() if v is not None]
    return {"type": "http", "method": method, "path": path, "headers": pairs}


def through(gate, method="GET", path="/health", headers=None, messages=None):
    """The status, headers and body of what the gate sends."""
    sent = []
    queue = list(messages or [{"type": "http.request", "body": b""}])

    async def receive():
        if not queue:
            await asyncio.sleep(60)
        message = queue.pop(0)
        return await message() if callable(message) else message

    async def send(message):
        sent.append(message)
    asyncio.run(gate(scope_of(method, path, headers or {}), receive, send))
    if not sent:
        return None
    found = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], found, body


async def behind(scope, receive, send):
    """A page that says what it got."""
    message = await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    body = scope["path"].encode() + b" " + message["body"]
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def gate():
    with Service(ByHand(), Limits(upload=0.2, picture_bytes=30, prompt=1)) as service:
        yield Gate(service, behind)


def test_the_gate_answers_the_endpoint_itself(gate):
    status, headers, body = through(gate)
    assert status == 200 and json.loads(body)["status"] == "ok"
    assert headers["cache-control"] == "no-store" and int(headers["content-length"]) == len(body)
    fields = json.dumps({"prompt": "a"}).encode()
    half = [{"type": "http.request", "body": fields[:5], "more_body": True},
            {"type": "http.request", "body": fields[5:]}]
    status, _, body = through(gate, "POST", "/api/pictures", {"content-type": "application/json"},
                              half)
    assert status == 202 and "id" in json.loads(body)


@pytest.mark.parametrize("host", [
    "evil.example", "127.0.0.1.evil.example:7860", "", None, "[", "@",
])
def test_another_name_is_refused(gate, host):
    status, _, body = through(gate, headers={"host": host})
    assert status == 421 and "addressed as localhost" in json.loads(body)["error"]


@pytest.mark.parametrize("host", ["localhost", "localhost:80", "127.0.0.1:7860", "[::1]:7860"])
def test_this_machine_s_own_names_are_not(gate, host):
    assert through(gate, headers={"host": host})[0] == 200


@pytest.mark.parametrize("origin, status", [
    ("http://127.0.0.1:7860", 415), ("http://127.0.0.1:8888", 403), ("https://evil.example", 403),
    ("null", 403), ("", 403),
])
def test_pages_of_other_sites_may_not_ask(gate, origin, status):
    assert through(gate, "POST", "/api/pictures", {"origin": origin})[0] == status


@pytest.mark.parametrize("path", ["/", "/assets/index.js", "/theme.css", "/gradio_api/queue/data"])
def test_the_page_gets_what_it_needs(gate, path):
    status, headers, body = through(gate, path=path)
    assert status == 200 and body == path.encode() + b" "
    assert "default-src 'self'" in headers["content-security-policy"]
    assert "http" not in headers["content-security-policy"]


def test_the_page_gets_the_body(gate):
    messages = [{"type": "http.request", "body": b"ab", "more_body": True},
                {"type": "http.request", "body": b"c"}]
    assert through(gate, "POST", "/gradio_api/queue/join", {}, messages)[2].endswith(b" abc")


@pytest.mark.parametrize("method, path", [
    ("GET", "/gradio_api/file=/etc/passwd"), ("GET", "/file=/etc/passwd"),
    ("GET", "/gradio_api/file=http://169.254.169.254/"), ("GET", "/gradio_api/proxy=http://a/"),
    ("POST", "/gradio_api/upload"), ("POST", "/gradio_api/run/predict"), ("GET", "/config"),
    ("POST", "/gradio_api/component_server"), ("GET", "/gradio_api/info"), ("GET", "/monitoring"),
    ("POST", "/gradio_api/process_recording"), ("POST", "/gradio_api/vibe-edit"), ("GET", "/docs"),
    ("GET", "/assets/../../etc/passwd"), ("GET", "/assets/..\\..\\x"), ("GET", "/assets/a\0"),
    ("POST", "/"), ("DELETE", "/assets/index.js"), ("GET", "/assets"), ("GET", "//evil.example"),
])
def test_the_rest_of_the_framework_does_not_exist(gate, method, path):
    status, _, body = through(gate, method, path)
    assert status == 404 and json.loads(body) == {"error": "there is no such page"}


def test_without_a_page_only_the_endpoint_is_there(gate):
    assert through(Gate(gate.service), path="/")[0] == 404
    assert through(Gate(gate.service), path="/health")[0] == 200


def test_a_huge_body_is_thrown_away(gate):
    parts = [{"type": "http.request", "body": bytes(5000), "more_body": k < 99} for k in range(100)]
    for path in ("/api/pictures", "/gradio_api/queue/join"):
        status, headers, body = through(gate, "POST", path, {"content-length": "500000"}, parts)
        assert status == 413 and headers["connection"] == "close"
        assert json.loads(body)["error"] == "a request may have 10,104 bytes"
    never = through(gate, "POST", "/api/pictures", {"content-length": "1" * 5000, "expect": "100"})
    assert never[0] == 413


def test_a_slow_body_is_not_waited_for(gate):
    slow = [{"type": "http.request", "body": b"{", "more_body": True}]
    status, _, body = through(gate, "POST", "/api/pictures", {}, slow)
    assert status == 408 and "within 0.2 s" in json.loads(body)["error"]


def test_a_client_that_hangs_up_gets_no_answer(gate):
    gone = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
    assert through(gate, "POST", "/api/pictures", {}, gone) is None
    assert gate.open == 0


def test_too_many_connections_are_refused_in_a_sentence(gate):
    gate.open = gate.service.limits.connections
    status, headers, body = through(gate)
    assert status == 503 and "too many requests" in json.loads(body)["error"]
    assert headers["retry-after"] == "1"


def test_websockets_are_closed_and_a_server_may_start(gate):
    async def run(scope, *messages):
        queue, sent = list(messages), []

        async def receive():
            return {"type": queue.pop(0)}

        async def send(message):
            sent.append(message["type"])
        await Gate(gate.service)(scope, receive, send)
        return sent
    assert asyncio.run(run({"type": "websocket"})) == ["websocket.close"]
    parts = ("lifespan.startup", "lifespan.shutdown")
    assert asyncio.run(run({"type": "lifespan"}, *parts)) == [f"{part}.complete" for part in parts]


# ---- the page, without gradio

def body(**fields):
    return json.dumps(fields)


def followed(service, text):
    async def run():
        return [shown async for shown in follow(service, text)]
    return asyncio.run(run())


def test_the_page_shows_how_a_request_stands():
    with Service(ByHand()) as service:
        *_, last = followed(service, body(prompt='"><script>x</script>', seed=3))
        assert last.status == "done, seed 3" and last.id == "" and last.preview == ""
        address = base64.b64encode(b'picture of "><script>x</script>').decode()
        assert address in last.result and "<script" not in last.result
        assert 'download="by hand-3-1.png"' in last.result
        assert not service._jobs                            # fetched, and forgotten


def test_the_page_shows_previews_and_its_place():
    by_hand = ByHand(free=False)
    with Service(by_hand) as service:
        first = service.ask({})
        until(service, first, "drawing")

        async def run():
            shown = []
            async for now in follow(service, body()):
                shown.append(now)
                if now.status.startswith("waiting"):
                    service.cancel(first)
                if now.preview:
                    by_hand.go.set()
            return shown
        shown = asyncio.run(run())
    assert shown[0].status == "waiting, number 1 in the queue" and shown[0].id
    drawn = [now for now in shown if now.preview]
    assert drawn[0].status == "step 1 of 10" and base64.b64encode(b"preview").decode() in str(drawn)


@pytest.mark.parametrize("wrong, sentence", [
    (body(steps=99), "steps must be a whole number from 1 to 50; got 99"),
    (body(sampler="<img src=x onerror=alert(1)>"), "got &#x27;&lt;img src=x"),
    (body(picture="x"), "the picture must be a PNG"),
    ("[" * 100_000, "the body must be JSON"),
    ("\ud800", "the body must be JSON"),
    (None, "the body must be JSON"),
    (7, "the body must be one JSON object"),
    ({"path": "/etc/passwd"}, "the body must be JSON"),
])
def test_the_page_shows_refusals_as_text(wrong, sentence):
    with Service(ByHand()) as service:
        [shown] = followed(service, wrong)
    assert sentence in shown.status and "<" not in shown.status and shown.result == shown.id == ""


def test_the_page_says_that_a_request_was_cancelled():
    with Service(ByHand(free=False)) as service:
        async def run():
            shown = []
            async for now in follow(service, body()):
                if now.status.startswith("step"):
                    service.cancel(now.id)
                shown.append(now)
            return shown
        assert asyncio.run(run())[-1] == ("cancelled", "", "", "")


def test_a_page_that_is_closed_cancels_its_request():
    by_hand = ByHand(free=False)
    with Service(by_hand, Limits(patience=1000, drawing=1000)) as service:
        async def run():
            stream = follow(service, body())
            await anext(stream)
            await stream.aclose()
        asyncio.run(run())
        other = service.ask({"prompt": "b"})
        until(service, other, "drawing")                    # the first is not waited for


def test_the_page_s_own_code_names_no_address():
    from course_lib.web import page
    own = (canvas.HTML, canvas.CSS, canvas.JS, page.ABOUT, page.MARKED, page.CSS, page.READ)
    texts = (*own, CHANGE)
    for text in texts:
        text = text.replace("// ", "").replace("!important", "")
        assert "//" not in text and "import" not in text


def test_what_a_page_quotes_in_an_error_is_not_logged(gate, caplog):
    async def broken(scope, receive, send):
        raise ValueError(f"cannot read {SECRET}")

    async def broken_later(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ValueError(f"cannot read {SECRET}")
    status, _, text = through(Gate(gate.service, broken), path="/")
    assert status == 500 and "not your fault" in json.loads(text)["error"]
    with pytest.raises(ConnectionAbortedError) as failed:
        through(Gate(gate.service, broken_later), path="/")
    assert "ValueError in broken" in caplog.text and SECRET not in caplog.text
    assert failed.value.__suppress_context__ and SECRET not in str(failed.value)


def test_errors_of_ours_are_said_on_the_page(caplog):
    by_hand = ByHand()
    by_hand.prepare = lambda request: {}[request.prompt]
    with Service(by_hand) as service:
        [shown] = followed(service, body(prompt=SECRET))
    assert "not your fault" in shown.status and "KeyError" in caplog.text
    assert SECRET not in caplog.text + str(shown)


# ---- the command

def test_limits_by_the_command_line():
    limits = read_limits(["queue=4", "drawing=2.5"])
    assert (limits.queue, limits.drawing, limits.steps) == (4, 2.5, Limits().steps)
    for pair in ("queue", "queue=many", "steps=1.5", "__class__=3", "queue=0"):
        with pytest.raises(ValueError, match="queue"):
            read_limits([pair])


def test_the_command_says_what_is_missing(capsys):
    assert main(["--model", "no such model", "--device", "cpu"]) == 1
    assert "no such model" in capsys.readouterr().err
    assert main(["--model", "mnist_small", "--device", "cpu"]) == 1
    assert "D must read captions" in capsys.readouterr().err


def test_the_package_needs_no_web_framework():
    """Where one is imported, it is within a function."""
    files = list(Path(web.__file__).parent.glob("*.py"))
    names = {
        name.split(".")[0]
        for file in files
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Import | ast.ImportFrom) and not getattr(node, "level", 0)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else
                     [alias.name for alias in node.names])
    }
    assert len(files) > 10 and "torch" in names
    assert not names & {"gradio", "fastapi", "starlette", "uvicorn", "h11", "httpx"}


# ---- a real server, with the extra `web`

class Served:
    """A service on a free port of this machine, for a `with` block."""

    def __init__(self, service, page=None):
        uvicorn = pytest.importorskip("uvicorn")
        from course_lib.web.server import configuration
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.address = self.socket.getsockname()
        config = configuration(Gate(service, page), service, *self.address)
        self.server = uvicorn.Server(config)
        run = {"sockets": [self.socket]}
        self.thread = threading.Thread(target=self.server.run, kwargs=run, daemon=True)

    def __enter__(self):
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        return self

    def __exit__(self, *error):
        self.server.should_exit = True
        self.thread.join(10)
        assert not self.thread.is_alive()

    def connect(self):
        connection = socket.create_connection(self.address)
        connection.settimeout(20)
        return connection

    def send(self, text: bytes) -> bytes:
        """What comes back, up to the end of the connection."""
        with self.connect() as connection:
            connection.sendall(text)
            return b"".join(iter(lambda: connection.recv(65536), b""))


def test_a_slow_head_is_not_waited_for():
    """Byte by byte, in a first request and in a second one on the same connection."""
    with Service(ByHand(), Limits(upload=0.5)) as service, Served(service) as served:
        whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
        for first in (b"", whole):
            with served.connect() as connection:
                connection.sendall(first)
                with pytest.raises(OSError):                # cut off within the 30 seconds
                    for _ in range(600):
                        connection.sendall(b"G")
                        time.sleep(0.05)
        last = whole.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        assert b'"status": "ok"' in served.send(last)


def test_nonsense_on_the_line_is_answered_or_cut():
    with Service(ByHand(), Limits(upload=0.5)) as service, Served(service) as served:
        for text in (b"\x16\x03\x01", b"GET / HTTP/9\r\n\r\n", b"\0" * 100, b"A" * 70_000):
            assert served.send(text)[:12] in (b"", b"HTTP/1.1 400")
        get = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        assert served.send(get).startswith(b"HTTP/1.1 200")


def test_the_whole_way_over_a_socket():
    with Service(ByHand()) as service, Served(service) as served:
        address = "http://{}:{}".format(*served.address)
        body = json.dumps({"prompt": "a"}).encode()
        asked = urllib.request.Request(
            f"{address}/api/pictures", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(asked, timeout=10) as answer:
            id = json.load(answer)["id"]
        until(service, id, "done")
        with urllib.request.urlopen(f"{address}/api/pictures/{id}", timeout=10) as answer:
            assert base64.b64decode(json.load(answer)["pictures"][0]) == b"picture of a"
        with pytest.raises(urllib.error.HTTPError, match="413"):
            urllib.request.urlopen(urllib.request.Request(
                f"{address}/api/pictures", bytes(12_000_000), {"Content-Type": "application/json"}
            ), timeout=10)
