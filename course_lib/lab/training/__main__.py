"""Train what a configuration file describes.

    python -m course_lib.lab.training configs/mnist.toml                  on the CPU or on one GPU
    accelerate launch -m course_lib.lab.training configs/mnist.toml       several GPUs or hosts

Every option of TrainConfig can be given: --steps 2000 --lr 1e-3 --max_seconds 600. The run is kept
in runs/NAME; it can be stopped at any moment, and the same command resumes it. At the end the
checkpoint NAME.safetensors and a sheet of samples, NAME.png, lie there.
"""
import argparse
import os
import shlex
import sys
from pathlib import Path

import torch

from ...denoiser import Denoiser
from .checkpoint import save
from .config import FIELDS, SWITCHES, WHOLE, from_config, override, read_config
from .loop import train

PROGRAM = "python -m course_lib.lab.training"
MISTAKES = (OSError, TypeError, ValueError, FloatingPointError, torch.OutOfMemoryError)
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
            _write(trained, file, config, given)
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


def _write(D: Denoiser, file: Path, config: dict, given: dict) -> None:
    """The checkpoint and a sheet of samples, in the run's folder."""
    from ..evaluation.sampling import sheet
    checkpoint = D.run_folder / f"{file.stem}.safetensors"
    lasting = {name: value for name, value in given.items() if name not in OF_ONE_CALL}
    options = {k: v for k, v in config["train"].items() if k not in OF_ONE_CALL or k not in given}
    save(
        D,
        checkpoint,
        data=config["data"],
        config=config | {"train": options},
        steps=D.history[-1][0],
        command=_command(file, lasting),
    )
    picture = checkpoint.with_suffix(".png")
    sheet(D, picture, seed=config["train"].get("seed", 0))
    print(f"{checkpoint}: {checkpoint.stat().st_size / 1e6:.2f} MB; samples: {picture}")


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
