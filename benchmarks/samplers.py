"""Every sampler at every number of evaluations, on a shipped model: the tables of lesson 4.

    python benchmarks/samplers.py                      digits: up to 50 evaluations at n = 4,000, above that n = 1,000
                                                       (an hour and a half on two cores, a minute on a large GPU)
    python benchmarks/samplers.py --w 2                with guidance
    python benchmarks/samplers.py --n 500 --only dpmpp one sampler, quickly
    python benchmarks/samplers.py --model cifar10      photographs, seen by Inception (pip install torch-fidelity): n = 5,000, for a GPU

Rows go to course_lib/assets/samplers.csv (samplers_cifar10.csv) as they are finished; a row that is there (same sampler, w, n,
evaluations asked for) is not repeated. `seconds` are those of the machine that the row names, in
the shipped table with other work beside it; lesson 4 measures seconds on yours.
"""
import argparse
import csv

import torch

from course_lib.lab import data, machine, metrics, study, train

FEW, MANY = (4, 6, 8, 10, 15, 20, 30, 50), (100, 250, 1000)
LONG = ("ddim", "ancestral", "ancestral, sigma-hat")                    # these alone are tried with very many steps


def eyes(model: str) -> dict:
    """What looks at the pictures, and what it sees in real ones, as options of `study.analyze_sampling_quality`."""
    if model != "cifar10":
        return {}
    look = metrics.inception(on=machine.device())
    return {"look": look, "real": look(data.cifar10("test")[0])}


def main(see=eyes) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mnist", help="a shipped model, or the file of another")
    parser.add_argument("--n", type=int)
    parser.add_argument("--w", type=float, default=1.0)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--evaluations", type=int, nargs="*", default=FEW + MANY)
    parser.add_argument("--batch", type=int, default=500)
    arguments = parser.parse_args()
    D = train.load(arguments.model)
    photographs = D.net.channels == 3
    file = data.ASSETS / ("samplers_cifar10.csv" if photographs else "samplers.csv")
    few, many = arguments.n or (5000 if photographs else 4000), min(arguments.n or 1000, 1000)
    on = next(D.parameters()).device
    where = torch.cuda.get_device_name(on) if on.type == "cuda" else f"{on.type}, {torch.get_num_threads()} threads"
    print(machine.about())
    judges, known = see("cifar10" if photographs else "mnist"), set()
    if file.exists():
        known = {(r["sampler"], float(r["w"]), int(r["n"]), int(r["asked"])) for r in csv.DictReader(file.open())}
    for count in arguments.evaluations:
        n = few if count <= 50 else many
        for name, way in study.WAYS.items():
            if (name, arguments.w, n, count) in known or (count > 50 and name not in LONG) or (arguments.only and name not in arguments.only):
                continue
            row = study.analyze_sampling_quality(D, [count], {name: way}, n, arguments.w, batch=arguments.batch, **judges)[0] | {"asked": count, "on": where}
            new = not file.exists()
            with file.open("a", newline="") as table:
                writer = csv.DictWriter(table, row, lineterminator="\n")
                if new:
                    writer.writeheader()
                writer.writerow(row)
            print(f"{name:21} {row['evaluations']:5} evaluations, n = {n}: Fréchet distance {row['frechet_distance']:.3f}, "
                  f"KID {1000 * row['kid']:.2f} +- {1000 * row['kid_error']:.2f} (thousandths), {row['seconds']:.1f} s", flush=True)


if __name__ == "__main__":
    main()
