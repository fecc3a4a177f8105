"""Train what a configuration file describes.

    python -m course_lib.lab.training configs/mnist.toml                  on the CPU or on one GPU
    accelerate launch -m course_lib.lab.training configs/mnist.toml       several GPUs or hosts

Every option of TrainConfig can be given: --steps 2000 --lr 1e-3 --max_seconds 600. The run is kept
in runs/NAME; it can be stopped at any moment, and the same command resumes it. At the end the
checkpoint NAME.safetensors and samples lie there: NAME.png, or what suits other data.
"""
import argparse
import os
import shlex
import sys
from pathlib import Path

import torch
from torch import nn

from ...networks.vae import AutoencoderKL
from .batches import floats
from .checkpoint import save
from .config import FIELDS, SWITCHES, WHOLE, override, read_config
from .configured import from_config
from .loop import train
from .results import write_samples

PROGRAM = "python -m course_lib.lab.training"
MISTAKES = (OSError, TypeError, ValueError, FloatingPointError, torch.OutOfMemoryError)
SCALED_BY = 5000                                            # images: the scale of their latents
OF_ONE_CALL = ("max_seconds", "save_every")                 # not settings of the model


def main(arguments: list[str] | None = None) -> None:
    parser = _parser()
    given = vars(parser.parse_args(arguments))
    file: Path = given.pop("config")
    given = {name: value for name, value in given.items() if value is not None}
    try:
        config = _overridden(read_config(file), given)
        D, data, options = from_config(config)
    except MISTAKES as error:
        parser.exit(2, f"{file} cannot be trained: {error}\n")
    try:
        trained = train(D, data, config=options, run_name=file.stem)
        if int(os.environ.get("RANK", 0)) == 0 and trained.done:
            _write(trained, data, file, config, given)
    except MISTAKES as error:
        parser.exit(1, f"{file}: {error}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        usage=f"{PROGRAM} FILE [--steps N | --seconds S] [--option value ...]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=Path, help="a TOML file: what is trained, on what, how long")
    parser.add_argument("--folder", help='where data = "pictures" finds its pictures')
    for name in FIELDS:
        if name in SWITCHES:
            parser.add_argument(f"--{name}", action=argparse.BooleanOptionalAction)
        elif name == "time_sampler":
            help = "mean and standard deviation of a normal log-SNR"
            parser.add_argument("--time_sampler", nargs=2, type=float, help=help)
        elif name == "data_range":
            help = "of images: two numbers, or none"
            parser.add_argument("--data_range", nargs="+", help=help)
        elif name != "loss_weight":                         # a function: for Python alone
            parser.add_argument(f"--{name}", type=int if name in WHOLE else float)
    return parser


def _overridden(config: dict, given: dict) -> dict:
    """The configuration, with what the command line says in place of the file's."""
    options = {name: value for name, value in given.items() if name != "folder"}
    if "time_sampler" in options:
        options["time_sampler"] = dict(zip(("mean", "std"), options["time_sampler"]))
    if "data_range" in options:
        options["data_range"] = _range(options["data_range"])
    config = config | {name: given[name] for name in ("folder",) if name in given}
    if isinstance(config.get("train", {}), dict):
        config["train"] = override(config.get("train", {}), options)
    return config


def _range(words: list[str]) -> str | list[float]:
    return "none" if words == ["none"] else [float(word) for word in words]


def _write(model: nn.Module, data: dict, file: Path, config: dict, given: dict) -> None:
    """The checkpoint and samples (or reconstructions), in the run's folder."""
    checkpoint = model.run_folder / f"{file.stem}.safetensors"
    if isinstance(model, AutoencoderKL):
        model.fit_scale(floats(data["x0"][:SCALED_BY]).to(model.shift.device))
    lasting = {name: value for name, value in given.items() if name not in OF_ONE_CALL}
    options = {k: v for k, v in config["train"].items() if k not in OF_ONE_CALL or k not in given}
    save(
        model,
        checkpoint,
        data=config["data"],
        config=config | {"train": options},
        steps=model.history[-1][0],
        command=_command(file, lasting),
    )
    samples = write_samples(model, data, checkpoint.with_suffix(""), config)
    print(f"{checkpoint}: {checkpoint.stat().st_size / 1e6:.2f} MB; samples: {samples}")


def _command(file: Path, options: dict) -> str:
    words = [PROGRAM, shlex.quote(file.as_posix())]
    for name, value in options.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        else:
            values = value if isinstance(value, list) else [value]
            words += [f"--{name}", *(shlex.quote(str(v)) for v in values)]
    return " ".join(words)


if __name__ == "__main__":
    sys.exit(main())
