"""Every sampler at every number of evaluations, on a shipped model: the tables of lesson 4.

    python benchmarks/samplers.py
        digits: up to 50 evaluations at n = 4,000, above that n = 1,000
        (an hour and a half on two cores, a minute on
        a large GPU)
    python benchmarks/samplers.py --scale 2
        with guidance
    python benchmarks/samplers.py --n 500 --only dpmpp one sampler, quickly
    python benchmarks/samplers.py --model cifar10
        photographs, with Inception features (pip install torch-fidelity): n = 5,000, for a GPU

Rows go to course_lib/assets/samplers.csv (samplers_cifar10.csv) as they are finished; a row that is
there (same sampler, scale, n, evaluations asked for) is not repeated. `seconds` are those of the
machine that the row names, in the shipped table with other work beside it; lesson 4 measures
seconds on yours.
"""
import argparse
import csv
from pathlib import Path

import torch

from course_lib.lab import data, features, sampler_study, sampling, storage, train

FEW, MANY = (4, 6, 8, 10, 15, 20, 30, 50), (100, 250, 1000)
# these alone are tried with very many steps
LONG = ("ddim", "ancestral", "ancestral, sigma-hat")


def feature_options(model: str) -> dict:
    """The feature extractor, and features of real images: options of
    `sampler_study.analyze_sampling_quality` (none for digits).
    """
    if model != "cifar10":
        return {}
    feature_fn = features.inception(device=train.default_device())
    return {"feature_fn": feature_fn, "real": feature_fn(data.cifar10("test")[0])}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="mnist", help="a shipped model, or the file of another")
    parser.add_argument("--n", type=int)
    parser.add_argument("--scale", type=float, default=1.0, help="of guidance")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--evaluations", type=int, nargs="*", default=FEW + MANY)
    parser.add_argument("--batch-size", type=int, default=500)
    return parser.parse_args()


def finished_rows(file: Path) -> set[tuple[str, float, int, int]]:
    """Sampler, scale, n and evaluations asked for, of each row in the file."""
    if not file.exists():
        return set()
    with file.open() as table:
        return {
            (r["sampler"], float(r["scale"]), int(r["n"]), int(r["asked"]))
            for r in csv.DictReader(table)
        }


def write_row(file: Path, row: dict) -> None:
    new = not file.exists()
    with file.open("a", newline="") as table:
        writer = csv.DictWriter(table, row, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)
    print(
        f"{row['sampler']:21} {row['evaluations']:5} evaluations, n = {row['n']}: Fréchet distance "
        f"{row['frechet_distance']:.3f}, KID {1000 * row['kid']:.2f} "
        f"+- {1000 * row['kid_error']:.2f} (thousandths), {row['seconds']:.1f} s",
        flush=True,
    )


def name_of(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


def main(options=feature_options) -> None:
    arguments = parse_arguments()
    D = train.load(arguments.model)
    photographs = D.net.channels == 3
    file = storage.ASSETS / ("samplers_cifar10.csv" if photographs else "samplers.csv")
    few = arguments.n or (5000 if photographs else 4000)
    many = min(arguments.n or 1000, 1000)
    where = name_of(next(D.parameters()).device)
    print(train.about_machine())
    features_of = options("cifar10" if photographs else "mnist")
    done = finished_rows(file)
    for count in arguments.evaluations:
        n = few if count <= 50 else many
        for name, config in sampling.SAMPLERS.items():
            if (
                (name, arguments.scale, n, count) in done
                or (count > 50 and name not in LONG)
                or (arguments.only and name not in arguments.only)
            ):
                continue
            row = sampler_study.analyze_sampling_quality(
                D,
                [count],
                {name: config},
                n,
                arguments.scale,
                batch_size=arguments.batch_size,
                **features_of,
            )[0]
            write_row(file, row | {"asked": count, "on": where})


if __name__ == "__main__":
    main()
