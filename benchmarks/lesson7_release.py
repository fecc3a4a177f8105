"""What is examined before a model is released: copies, skew, erasure, membership.

    python benchmarks/lesson7_release.py halves        two models on disjoint halves, same noise
    python benchmarks/lesson7_release.py duplicates    pictures that are in the data many times
    python benchmarks/lesson7_release.py membership    was this picture in the training?
    python benchmarks/lesson7_release.py bias          a skew everywhere, or only given the prompt
    python benchmarks/lesson7_release.py erasure       a digit erased, and how it comes back
    python benchmarks/lesson7_release.py all

To course_lib/assets/lesson7_NAME.csv, and a few pictures or scores to lesson7_NAME.npz. All
trainings are kept in runs/lesson7_release: a command that was stopped goes on where it was, and
`membership` and `duplicates` use the models of `halves`. On one core of an idle machine about 30
minutes together. In every table n is a count of pictures and se a standard error over them; seeds
are those of trainings.
"""
import argparse
import copy
import csv
import time
from collections.abc import Iterator
from functools import cache

import numpy as np
import torch
from torch import Tensor

from course_lib import Denoiser, Schedule, UNet, editing, last
from course_lib.lab import data, features, noun_parts, sampling, storage, train
from course_lib.lab.evaluation import release

COSINE = Schedule.cosine()
DPMPP = sampling.SAMPLERS["dpmpp"]
seeded = lambda seed: torch.Generator().manual_seed(seed)


def write(name: str, rows: list[dict]) -> None:
    """course_lib/assets/lesson7_NAME.csv"""
    file = storage.ASSETS / f"lesson7_{name}.csv"
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()})
    print(f"{file}: {len(rows)} rows", flush=True)


def write_arrays(name: str, **arrays: np.ndarray) -> None:
    """course_lib/assets/lesson7_NAME.npz"""
    np.savez_compressed(storage.ASSETS / f"lesson7_{name}.npz", **arrays)


def to_bytes(x: Tensor) -> np.ndarray:
    """Pictures in [-1, 1] as bytes."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()


def share(hits: Tensor) -> tuple[float, float]:
    """Of a bool tensor: the share that is true, and its standard error."""
    p = hits.double().mean().item()
    return p, (p * (1 - p) / len(hits)) ** 0.5


# ---- two halves

SIZES = (50, 500, 5000, 30_000)
CONTROLS = (50,)                        # sizes with a second training on the same half
STEPS, BATCH = 1500, 32
PAIRS, SAMPLING = 400, 15
HALF = 30_000


@cache
def digits() -> tuple[Tensor, Tensor]:
    """MNIST's 60,000 training digits in a fixed random order."""
    x, y = data.mnist("train")
    order = torch.randperm(len(x), generator=seeded(0))
    return x[order], y[order]


def half(which: str, n: int) -> Tensor:
    """The first n digits of half "a" or "b"."""
    start = 0 if which == "a" else HALF
    return digits()[0][start:start + n]


def held_out(n: int, start: int = 20_000) -> Tensor:
    """n digits of half "b", far from the beginning: not in the training of any "a"."""
    return digits()[0][HALF + start:HALF + start + n]


def trained(name: str, x: Tensor, seed: int = 0, steps: int = STEPS) -> Denoiser:
    """A small unconditional model of these digits; the seed is also that of its first weights."""
    torch.manual_seed(seed)
    D = Denoiser(UNet(1, (16, 32)), COSINE, "v")
    options = {"steps": steps, "batch_size": BATCH, "seed": seed, "device": "cpu"}
    D = train.train(D, x, run_name=f"lesson7_release/{name}", **options)
    if not D.done:
        raise SystemExit("stopped: the same command goes on from here")
    return D


def trained_half(which: str, n: int, seed: int = 0) -> Denoiser:
    return trained(f"{which}_{n}_{seed}", half(which, n), seed)


def drawn(D: Denoiser, n: int = PAIRS, seed: int = 7) -> Tensor:
    """n digits; the same noises for every model."""
    return sampling.sample_batches(D, DPMPP, SAMPLING, n=n, seed=seed)


def halves() -> None:
    rows, pictures = [], {}
    for n in SIZES:
        others = [("two halves", "b", 0)] + [("one half, two seeds", "a", 1)] * (n in CONTROLS)
        x = drawn(trained_half("a", n))
        near = release.nearest(x[:8], half("a", n))[1]
        pictures |= {f"a_{n}": to_bytes(x[:8]), f"nearest_{n}": to_bytes(half("a", n)[near])}
        for kind, which, seed in others:
            z = drawn(trained_half(which, n, seed))
            rows.append({"kind": kind, "n": n, "steps": STEPS} | compared(x, z) | copied(x, n))
            print(rows[-1], flush=True)
            if kind == "two halves":
                pictures[f"b_{n}"] = to_bytes(z[:8])
    write("halves", rows)
    write_arrays("halves", **pictures)


def compared(a: Tensor, b: Tensor) -> dict:
    """Correlation of pairs from the same noise, from different noises, and of the same label."""
    mates = same_label(features.predict_digits(a), features.predict_digits(b))
    kinds = {
        "same_noise": release.pair_correlation(a, b),
        "other_noise": release.pair_correlation(a, b.roll(1, 0)),
        "same_label": release.pair_correlation(a[mates[:, 0]], b[mates[:, 1]]),
    }
    row = {"pairs": len(a)}
    for name, values in kinds.items():
        row |= {name: values.mean().item(), f"{name}_se": (values.std() / len(values)**0.5).item()}
    return row


def same_label(y_a: Tensor, y_b: Tensor, seed: int = 0) -> Tensor:
    """For each of a, another index of b with the same predicted label: pairs (N, 2). Those without
    any are left out.
    """
    g, pairs = seeded(seed), []
    for k, label in enumerate(y_a.tolist()):
        mates = (y_b == label).nonzero()[:, 0]
        mates = mates[mates != k]
        if len(mates):
            pairs.append((k, mates[torch.randint(len(mates), (1,), generator=g)].item()))
    return torch.tensor(pairs)


def copied(x: Tensor, n: int) -> dict:
    """Shares of samples nearer to a half than 99 % of held-out digits: to a's own half, to the
    other one, and real digits that did not fix the threshold (the floor).
    """
    real, row = unseen(2000, n), {}
    for name, which in (("other", "b"), ("own", "a")):
        known, fresh = release.nearest(real, half(which, n))[0].chunk(2)
        limit = release.copy_threshold(known)
        found = release.nearest(x, half(which, n))[0]
        row[f"near_{name}"], row[f"near_{name}_se"] = share(found < limit)
    row["floor"], row["floor_se"] = share(fresh < limit)    # of the own half
    return row


def unseen(n: int, size: int) -> Tensor:
    """n digits in neither half of that size. Where both are whole, only MNIST's test digits are
    left: other writers.
    """
    return held_out(n) if size < HALF else data.mnist("test")[0][:n]


# ---- duplicates

COPIES = {10: 10, 100: 4, 1000: 1}      # how often: so many pictures
BASE, SAMPLES = 5000, 2000


def duplicated() -> tuple[Tensor, dict[int, Tensor]]:
    """The training set with copies, and the copied pictures by how often; none is in half("a",
    5000).
    """
    spare, found, start = digits()[0], {}, BASE
    for count, pictures in COPIES.items():
        found[count] = spare[start:start + pictures]
        start += pictures
    many = [x.repeat(count, 1, 1, 1) for count, x in found.items()]
    return torch.cat([half("a", BASE), *many]), found


def duplicates() -> None:
    x, copies = duplicated()
    models = {"with copies": trained("copies", x), "without": trained_half("a", BASE)}
    rows, pictures = [], {}
    for name, D in models.items():
        z = drawn(D, SAMPLES, seed=8)
        for count, originals in copies.items():
            hits, limits = hits_of(z, originals)
            p, error = share(hits)
            real = hits_of(held_out(10_000, 10_000), originals, limits)[0]
            rows.append({
                "model": name, "copies": count, "pictures": len(originals), "training": len(x),
                "in_training": count * len(originals) / len(x) if name == "with copies" else 0.0,
                "n": SAMPLES, "in_samples": p, "se": error, "floor": share(real)[0],
            })
            print(rows[-1], flush=True)
        nearest = release.nearest(copies[1000], z)[1]
        pictures[name.replace(" ", "_")] = to_bytes(z[nearest])
    write("duplicates", rows)
    write_arrays("duplicates", original=to_bytes(copies[1000]), **pictures)


def hits_of(
    x: Tensor, originals: Tensor, limits: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Whether each of x is nearer to one of the originals than every one of 10,000 held-out digits,
    (N,) bool, and these limits.
    """
    far = lambda z: torch.cdist(z.flatten(1), originals.flatten(1))     # (N, pictures)
    limits = far(held_out(10_000, 0)).amin(0) if limits is None else limits
    return (far(x) < limits).any(1), limits


# ---- membership

TIMES, DRAWS = (0.15, 0.25, 0.35), 2
MEMBERSHIP_SIZES = (500, 5000)
POOL = 1000                             # non-members for the test; as many fix the threshold


def membership() -> None:
    rows, kept = [], {}
    test = data.mnist("test")[0][:POOL]
    for n in MEMBERSHIP_SIZES:
        A, B = trained_half("a", n), trained_half("b", n)
        members, pool = half("a", n)[:POOL], held_out(2 * POOL)
        losses = {
            name: [release.mean_loss(D, x, TIMES, DRAWS) for D in (A, B)]
            for name, x in (("members", members), ("pool", pool), ("test", test))
        }
        for score in ("loss", "calibrated"):
            rows += attacked(n, score, losses)
        kept |= {f"{name}_{n}": torch.stack(pair).numpy().astype(np.float32)
                 for name, pair in losses.items() if name != "test"}
    write("membership", rows)
    write_arrays("membership", **kept)


def attacked(n: int, score: str, losses: dict) -> Iterator[dict]:
    """One score against two kinds of non-members: of the same pool, and MNIST's test set, which has
    other writers. The threshold is fixed on the pool's second half.
    """
    scores = {name: release.membership_scores(own, other if score == "calibrated" else None)
              for name, (own, other) in losses.items()}
    pool, calibration = scores["pool"].chunk(2)
    for name, others in (("same pool", pool), ("test writers", scores["test"])):
        A = release.auc(scores["members"], others)
        found = release.membership_test(scores["members"], others, calibration)
        row = {"n": n, "score": score, "others": name, "members": len(scores["members"])}
        row |= {"non_members": len(others), "auc": A}
        row |= {"se": release.auc_error(A, len(scores["members"]), len(others))}
        row |= {"tpr": found.true_positives, "fpr": found.false_positives}
        print(row, flush=True)
        yield row


# ---- bias

HEADS = 10                              # the first five are skewed one way, the others the other
NAMED = {"blue": 0, "red": 1, "not named": 2}              # what a label says of the glasses
NOTHING = 3 * HEADS
SKEW = 0.8
ARMS = ("everywhere", "given the prompt")
SCALES = (0.0, 1.0, 2.0, 4.0)
FIGURES, BIAS_STEPS, BALANCED_STEPS, FIGURE_BATCH, ASKED = 3000, 500, 100, 64, 300


def skewed_parts(arm: str, seed: int, n: int = FIGURES, skew: float = SKEW) -> Tensor:
    """Figures (n, 5) with ten heads, one background, and skewed glasses: `skew` of all are blue,
    or of the first five heads, and as many of the others are red.
    """
    g = seeded(seed)
    parts = noun_parts.draw_parts(n, seed, "train")
    head = torch.randint(HEADS, (n,), generator=g)
    blue = torch.rand(n, generator=g) < chance_of_blue(arm, head, skew)
    parts[:, 3] = 20 * head                                 # ten heads from all over the list
    parts[:, 0] = 0
    parts[:, 4] = torch.where(blue, *kinds())
    return parts


def chance_of_blue(arm: str, head: Tensor, skew: float = SKEW) -> Tensor:
    second = (head >= HEADS // 2) & (arm == "given the prompt")
    return torch.where(second, 1 - skew, skew)


def kinds() -> tuple[Tensor, Tensor]:
    """The indices of the blue and of the red glasses."""
    return tuple(torch.tensor(noun_parts.index_of("glasses", name)) for name in ("blue", "red"))


def labels_of(parts: Tensor, seed: int) -> Tensor:
    """3 head + what is said of the glasses, which half of the labels name."""
    head, blue = parts[:, 3] // 20, parts[:, 4] == kinds()[0]
    said = torch.where(blue, NAMED["blue"], NAMED["red"])
    silent = torch.rand(len(parts), generator=seeded(seed + 100)) < 0.5
    return 3 * head + torch.where(silent, NAMED["not named"], said)


def figure_model(arm: str, seed: int) -> Denoiser:
    """A latent model of skewed figures, by label."""
    torch.manual_seed(seed)
    D = Denoiser(UNet(8, (32, 48), num_classes=NOTHING, patch_size=1), COSINE, "v")
    return fitted(D, skewed_parts(arm, seed), seed, BIAS_STEPS, f"{arm.split()[0]}_{seed}")


def balanced_model(D: Denoiser, arm: str, seed: int) -> Denoiser:
    """The model trained on, for a sixth of the steps, with as many blue as red figures."""
    parts = skewed_parts(arm, seed + 50, 1000, 0.5)
    D = copy.deepcopy(D)
    return fitted(D, parts, seed, BALANCED_STEPS, f"{arm.split()[0]}_{seed}_balanced", lr=1e-3)


def fitted(D, parts: Tensor, seed: int, steps: int, name: str, **options) -> Denoiser:
    x = noun_parts.render(parts)
    z = torch.cat([autoencoder().to_latents(part) for part in x.split(250)])
    D = train.train(
        D, (z, labels_of(parts, seed)), steps=steps, batch_size=FIGURE_BATCH, seed=seed,
        data_range=None, device="cpu", run_name=f"lesson7_release/bias_{name}", **options,
    )
    if not D.done:
        raise SystemExit("stopped: the same command goes on from here")
    return D


@cache
def autoencoder():
    return train.load("nouns_vae", "cpu")


@cache
def judged_region() -> Tensor:
    """Pixels that no body and no accessory ever covers: (1024,) bool."""
    layers = noun_parts.load_art().layers
    covered = torch.cat([layers["body"], layers["accessory"]]).ne(0).any(0)
    return ~covered.flatten()


@cache
def candidates() -> Tensor:
    """The region of the 20 figures that can be asked for, blue first: (20, 3, pixels)."""
    heads = 20 * torch.arange(HEADS)
    rows = [torch.tensor([0, 0, 0, h.item(), k.item()]) for k in kinds() for h in heads]
    return noun_parts.render(torch.stack(rows)).flatten(2)[..., judged_region()]


def judged(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Whether each figure has blue glasses, its head, and whether it lies between blue and red:
    (N,) bool, (N,) 0 ... 9, (N,) bool. The nearest of the 20 candidates where neither body nor
    accessory can be; between is the middle half of the way from one to the other.
    """
    seen = x.flatten(2)[..., judged_region()].flatten(1)
    of = candidates().flatten(1)                                        # (20, 3 pixels)
    found = torch.cdist(seen, of).argmin(1)
    blue, head = found < HEADS, found % HEADS
    way = of[HEADS:] - of[:HEADS]                                       # from blue to red
    along = ((seen - of[head]) * way[head]).sum(1) / way[head].square().sum(1)
    return blue, head, (along - 0.5).abs() < 0.25


def asked(D: Denoiser, scale: float, said: str, seed: int) -> dict:
    """ASKED figures, heads in turn; `said` of the glasses, or "half and half"."""
    head = torch.arange(ASKED) % HEADS
    names = torch.full((ASKED,), NAMED.get(said, 0))
    if said == "half and half":
        names = torch.arange(ASKED) // HEADS % 2
    x = sampling.sample_batches(
        D, DPMPP, 10, {"y": 3 * head + names}, scale=scale, null={"y": NOTHING}, vae=autoencoder(),
        seed=seed + 1,
    )
    blue, found, between = judged(x)
    row = {"scale": scale, "n": ASKED, "between": share(between)[0]}
    for group, mask in (("first", head < HEADS // 2), ("second", head >= HEADS // 2)):
        row[f"blue_{group}"], row[f"blue_{group}_se"] = share(blue[mask])
    return row | {"head_right": share(found == head)[0] if scale > 0 else ""}


def bias() -> None:
    rows = []
    for arm in ARMS:
        for seed in (0, 1):
            D = figure_model(arm, seed)
            about = {"arm": arm, "seed": seed}
            for scale in SCALES:
                rows.append(about | {"mitigation": "none"} | asked(D, scale, "not named", seed))
                print(rows[-1], flush=True)
            half_named = asked(D, 2.0, "half and half", seed)
            rows.append(about | {"mitigation": "named, half and half"} | half_named)
            balanced = balanced_model(D, arm, seed)
            for scale in (1.0, 4.0):
                row = asked(balanced, scale, "not named", seed)
                rows.append(about | {"mitigation": "balanced training"} | row)
            print(*rows[-3:], sep="\n", flush=True)
    write("bias", rows)


# ---- erasure

ERASED = 7
ERASE_STEPS, NEVER_STEPS, ERASURE_BATCH = 250, 800, 64
RELEARN = (0, 5, 10, 20, 40)            # steps
SHOWN = 20                              # real pictures for relearning
JUDGE = 100


def erased_model(teacher: Denoiser) -> Denoiser:
    """The shipped digits with "7" turned away from 7; the other labels keep their predictions. Its
    data are the teacher's own samples.
    """
    y = torch.arange(1000) % 10
    x = sampling.sample_batches(teacher, DPMPP, 10, {"y": y}, seed=3)
    target = release.erasure_target(teacher, {"y": 10})

    def wanted(x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        gone = (y == ERASED)[:, None, None, None]
        return torch.where(gone, target(x_t, t, y=y), teacher(x_t, t, y=y))
    D = copy.deepcopy(teacher)
    D = train.train(
        D, (x, y), loss=release.matching_loss(wanted, teacher.schedule), steps=ERASE_STEPS,
        batch_size=ERASURE_BATCH, lr=1e-3, muon_lr=5e-3, p_drop=0.0, seed=0, device="cpu",
        run_name="lesson7_release/erased",
    )
    if not D.done:
        raise SystemExit("stopped: the same command goes on from here")
    return D


def never_model() -> Denoiser:
    """The same network, trained on digits without any 7."""
    x, y = digits()
    keep = y != ERASED
    torch.manual_seed(0)
    D = Denoiser(UNet(1, (16, 32), num_classes=10), COSINE, "v")
    D = train.train(
        D, (x[keep], y[keep]), steps=NEVER_STEPS, batch_size=ERASURE_BATCH, seed=0, device="cpu",
        run_name="lesson7_release/never",
    )
    if not D.done:
        raise SystemExit("stopped: the same command goes on from here")
    return D


def sevens(D: Denoiser, n: int = JUDGE, seed: int = 4) -> Tensor:
    """n digits under the label 7, w = 2."""
    y = torch.full((n,), ERASED)
    return sampling.sample_batches(D, DPMPP, 10, {"y": y}, scale=2.0, null={"y": 10}, seed=seed)


def is_seven(x: Tensor) -> Tensor:
    return features.predict_digits(x) == ERASED


def doors(D: Denoiser) -> dict:
    """Where 7 can still be had: asked for, without a label, from a real 7; and the other labels."""
    y = torch.arange(JUDGE) % 9
    y = y + (y >= ERASED)
    others = sampling.sample_batches(D, DPMPP, 10, {"y": y}, scale=2.0, null={"y": 10}, seed=5)
    free = sampling.sample_batches(D, DPMPP, 20, {"y": torch.full((500,), 10)}, seed=6)
    x = data.mnist("test")[0][data.mnist("test")[1] == ERASED][:JUDGE]
    states = editing.sdedit(D, D.schedule, x, 0.6, 10, generator=seeded(0), y=torch.tensor(10))
    hits = {
        "asked": is_seven(sevens(D)),
        "no_label": is_seven(free),
        "from_a_seven": is_seven(last(states).clamp(-1, 1)),
        "others_right": features.predict_digits(others) == y,
    }
    row = {}
    for name, found in hits.items():
        row[name], row[f"{name}_se"] = share(found)
    return row


def fine_tuned(D: Denoiser, x: Tensor, y: Tensor, seed: int) -> Iterator[tuple[int, Denoiser]]:
    """(steps, model) at each of RELEARN, by AdamW at 1e-3."""
    D, g = copy.deepcopy(D).requires_grad_(True), seeded(seed)
    optimizer = torch.optim.AdamW(D.parameters(), 1e-3)
    for step in range(RELEARN[-1] + 1):
        if step in RELEARN:
            yield step, D
        rows = torch.randint(len(x), (ERASURE_BATCH,), generator=g)
        t, eps = D.draw_noise(x[rows], g)
        loss = D.loss(x[rows], t, eps, y=y[rows]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def erasure() -> None:
    teacher = train.load("mnist_small", "cpu")
    models = {"before": teacher, "erased": erased_model(teacher), "never seen": never_model()}
    rows = []
    for name, D in models.items():
        rows.append({"model": name, "shown": "", "seed": "", "steps": 0, "n": JUDGE} | doors(D))
        print(rows[-1], flush=True)
    pictures = {name.replace(" ", "_"): to_bytes(sevens(D, 10)) for name, D in models.items()}
    for name, shown in (("erased", ERASED), ("never seen", ERASED), ("erased", None)):
        for seed in range(3):
            x, y = to_show(shown, seed)
            for steps, D in fine_tuned(models[name], x, y, seed):
                p, error = share(is_seven(sevens(D)))
                row = {"model": name, "shown": "sevens" if shown else "others", "seed": seed}
                rows.append(row | {"steps": steps, "n": JUDGE, "asked": p, "asked_se": error})
                print(rows[-1], flush=True)
            if seed == 0:
                pictures[f"{name.split()[0]}_{rows[-1]['shown']}"] = to_bytes(sevens(D, 10))
    write("erasure", rows)
    write_arrays("erasure", **pictures)


def to_show(shown: int | None, seed: int) -> tuple[Tensor, Tensor]:
    """SHOWN real digits with their labels: sevens, or any others."""
    x, y = digits()
    rows = (y == shown if shown is not None else y != ERASED).nonzero()[:, 0]
    rows = rows[torch.randperm(len(rows), generator=seeded(seed))[:SHOWN]]
    return x[rows], y[rows]


# ---- the command

PARTS = {
    "halves": halves,
    "duplicates": duplicates,
    "membership": membership,
    "bias": bias,
    "erasure": erasure,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=[*PARTS, "all"])
    asked_for = parser.parse_args().part
    for name in PARTS if asked_for == "all" else [asked_for]:
        start = time.perf_counter()
        PARTS[name]()
        print(f"{name}: {(time.perf_counter() - start) / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    main()
