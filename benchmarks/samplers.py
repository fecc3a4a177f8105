"""Every sampler at every number of evaluations, on the shipped `mnist` model: the table of lesson 4.

    python benchmarks/samplers.py                      up to 50 evaluations at n = 4,000, above that n = 1,000: hours on two cores
    python benchmarks/samplers.py --n 500 --only dpmpp one sampler, quickly
    python benchmarks/samplers.py --w 2                with guidance

Rows go to course_lib/assets/samplers.csv as they are finished; a row that is there (same sampler, w, n, evaluations) is not repeated.
"""
import argparse
import csv

from course_lib.lab import data, machine, metrics, study, train

CSV = data.ASSETS / "samplers.csv"
FEW, MANY = (4, 6, 8, 10, 15, 20, 30, 50), (100, 250, 1000)
LONG = ("ddim", "ancestral", "ancestral, sigma-hat")                    # these alone are tried with very many steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=4000)
    parser.add_argument("--w", type=float, default=1.0)
    parser.add_argument("--only", nargs="*", default=[])
    arguments = parser.parse_args()
    D = train.load("mnist")
    print(machine.about())
    for n in (arguments.n, min(1000, arguments.n)):
        print(f"real digits, n = {n}: Fréchet distance {metrics.frechet_floor(n):.3f}")
    known = set()
    if CSV.exists():
        known = {(r["sampler"], float(r["w"]), int(r["n"]), int(r["asked"])) for r in csv.DictReader(CSV.open())}
    for count in FEW + MANY:
        n = arguments.n if count <= 50 else min(1000, arguments.n)
        for name, way in study.WAYS.items():
            if (name, arguments.w, n, count) in known or (count > 50 and name not in LONG) or (arguments.only and name not in arguments.only):
                continue
            row = study.analyze_sampling_quality(D, [count], {name: way}, n, arguments.w)[0] | {"asked": count}
            new = not CSV.exists()
            with CSV.open("a", newline="") as file:
                writer = csv.DictWriter(file, row, lineterminator="\n")
                if new:
                    writer.writeheader()
                writer.writerow(row)
            print(f"{name:21} {row['evaluations']:5} evaluations, n = {n}: Fréchet distance {row['frechet_distance']:.3f}, KID {1000 * row['kid']:.2f} +- {1000 * row['kid_error']:.2f} (thousandths), "
                  f"agreement {row['agreement']:.2%}, {row['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
