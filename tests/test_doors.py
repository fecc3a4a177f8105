"""What realistic users type by mistake, and what happens: tests/doors/*.toml, written by readers of
signatures and docstrings alone.

Each case is a piece of code and what is expected of it:

    works    its last line is an assert
    refuse   one sentence, of ours, with these words (a regular expression): an error, a warning, or
             what a check prints
    either   one of both
"""
import copy
import os
import re
import tomllib
import traceback
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import course_lib
from course_lib import (
    checks,
    consistency,
    ddpm,
    denoiser,
    editing,
    guidance,
    masks,
    samplers,
    schedules,
)
from course_lib.lab import (
    attributes,
    data,
    features,
    metrics,
    noun_parts,
    plots,
    profiling,
    sampler_study,
    sampling,
    styles,
    tables,
    train,
    widgets,
    word_vectors,
)
from course_lib.lab.training.__main__ import main

ROOT = Path(__file__).parents[1]
TABLES = sorted(Path(__file__).parent.glob("doors/*.toml"))
CASES = [
    pytest.param(case, id=f"{table.stem}: {case['name']}")
    for table in TABLES
    for case in tomllib.loads(table.read_text(encoding="utf-8"))["case"]
]
MODULES = (
    attributes, data, features, metrics, noun_parts, plots, profiling, sampler_study, sampling,
    styles, tables, train, widgets, word_vectors, schedules, samplers, guidance, editing, masks,
)                                                                                    # fmt: skip


class Points(nn.Module):
    """A small network of points (B, 2)."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 16)
        self.b = nn.Linear(16, 2)

    def forward(self, x, t):
        return self.b(nn.functional.silu(self.a(torch.cat([x, t[:, None]], 1))))


def tiny():
    torch.manual_seed(0)
    net = course_lib.UNet(1, (8,), num_classes=10)
    return course_lib.Denoiser(net, course_lib.Schedule.cosine(), "v")


def toy():
    torch.manual_seed(0)
    return course_lib.Denoiser(Points(), course_lib.Schedule.cosine(), "v")


@pytest.fixture(scope="module")
def shipped():
    x, y = data.mnist("test")
    return {
        "x": x[:16].clone(),
        "y": y[:16].clone(),
        "D": train.load("mnist_small", device="cpu"),
        "N": train.load("nouns", device="cpu"),
        "classifier": features.digit_classifier(),
        "pics": data.nouns(4, seed=3).x,
    }


def names(shipped, tmp_path):
    """What a case finds defined."""
    S, g = course_lib.Schedule.cosine(), torch.Generator().manual_seed(1)
    G = data.GaussianMixture([[-1.0, 0.0], [1.0, 0.0]], 0.3)
    found = {name: getattr(course_lib, name) for name in course_lib.__all__}
    found |= {module.__name__.split(".")[-1]: module for module in MODULES}
    found |= {"train": train, "data": data, "denoiser_module": denoiser, "ddpm_module": ddpm}
    found |= {"consistency_module": consistency, "check": checks.check, "hint": checks.hint}
    found |= {"Checker": checks.Checker, "main": main, "course_lib": course_lib}
    found |= {"torch": torch, "np": np, "math": __import__("math"), "os": os, "Path": Path}
    found |= {"Image": Image, "copy": copy, "ROOT": ROOT, "tiny": tiny, "toy": toy}
    found |= {k: v.clone() if torch.is_tensor(v) else v for k, v in shipped.items()}
    return found | {
        "D": copy.deepcopy(shipped["D"]),
        "S": S,
        "F": course_lib.Schedule.flow(),
        "L": course_lib.Schedule.linear(),
        "z": torch.randn(16, 1, 28, 28, generator=g),
        "ts": course_lib.timesteps(S, 3),
        "G": G,
        "E": G.denoiser(S),
        "z2": torch.randn(16, 2, generator=g),
        "points": torch.randn(64, 2, generator=g),
        "captions": ["a shark head", "a panda"],
        "tmp": tmp_path,
        "__name__": "case",
    }


PYTHONS = "missing .* required|unexpected keyword|positional argument|has no attribute"


def is_a_sentence_of_ours(error: BaseException) -> bool:
    """Raised by the course (or Python's own about a missing argument), in one or two lines."""
    if isinstance(error, TypeError) and re.search(PYTHONS, str(error)):
        return True
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    return "course_lib" in Path(last).parts and 0 < len(str(error).splitlines()) <= 2


@pytest.fixture
def untouched(monkeypatch, tmp_path):
    """A folder of its own, and torch's global settings as they were afterwards."""
    monkeypatch.chdir(tmp_path)
    for name, value in (("DEVICE", "cpu"), ("PRECISION", "float32"), ("STATIC", "0")):
        monkeypatch.setenv(f"COURSE_{name}", value)
    monkeypatch.setenv("COURSE_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("COURSE_STRICT", raising=False)
    environment, dtype, grad = dict(os.environ), torch.get_default_dtype(), torch.is_grad_enabled()
    torch.manual_seed(0)
    np.random.seed(0)
    yield tmp_path
    torch.set_default_dtype(dtype)
    torch.set_grad_enabled(grad)
    os.environ.clear()
    os.environ.update(environment)


@pytest.mark.parametrize("case", CASES)
def test_door(case, shipped, untouched, capsys):
    code = compile(case["code"], "case", "exec")
    error = None
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            exec(code, names(shipped, untouched))
        except (Exception, SystemExit) as raised:
            error = raised
    out, err = capsys.readouterr()
    if case["expected"] == "works" or case["expected"] == "either" and error is None:
        assert error is None, error
        return
    if isinstance(error, SystemExit):
        assert error.code and re.search(case["words"], err, re.I) and "Traceback" not in err, err
    elif error is not None:
        assert is_a_sentence_of_ours(error), repr(error)
        if case["expected"] == "either":
            return
        assert re.search(case["words"], f"{type(error).__name__}: {error}", re.I), error
    else:
        said = " ".join([out, *(str(w.message) for w in warned)])
        assert re.search(case["words"], said, re.I), "nothing was said"


def test_the_table_is_large():
    assert len(CASES) >= 1000 and len({case.id for case in CASES}) == len(CASES)
