"""One model, mini-SD, made fast: each change alone, then several together.

    python benchmarks/lesson7_speed.py                     everything that is still missing
    python benchmarks/lesson7_speed.py judge --n 2000      attribute accuracy, paired
    python benchmarks/lesson7_speed.py time                latencies, all rows in turns
    python benchmarks/lesson7_speed.py time --later --only ROW ...   beside the default alone
    python benchmarks/lesson7_speed.py table               the CSV from what was measured so far

To course_lib/assets/lesson7_speed.csv. What is measured is kept in runs/lesson7_speed, and the same
command goes on from there. `judge` takes about 25 minutes of one idle core, `time` 15 of both. int8
by torchao, ONNX Runtime and torch.compile are optional (`pip install torchao onnx onnxscript
onnxruntime`, a C++ compiler); where one is missing its row says so. Seven rows need
lesson7_speed_students.py first.

Every row draws the same captions (new combinations of known parts) from the same noises, from
tokens to pictures. Most change one thing of lesson 5's default, 10 steps of DPM-Solver++(2M) with
w = 2 in two passes. Heun has its grid, too, a cache guidance in one pass, and the last rows several
things.

    evaluations  of the U-Net, for each picture, guidance included; calls: of the module, a batch
    mmacs        million multiply-adds of a picture, text encoder and decoder included
    touched      the share of the default's multiply-adds that the row leaves out, or does in
                 another way
    median_B, p95_B, rounds_B   latency of a batch of B in seconds, and how often it was timed
    faster_B, faster_se_B       times faster than the default: mean of the ratio in one round, over
                 the rounds, and its standard error
    unet_ms_B    time in the U-Net, in ms for each evaluation of each picture, a median
    PART, PART_diff, PART_se    share of pictures whose part is right; minus the default's on the
                 same n captions, in points; its standard error; n is a quarter of --n, but for
                 the default and the fastest rows
    distance     root-mean-square distance, over 100 pictures, to 60 steps of DPM-Solver++(2M) from
                 the same noise; only where the guided ODE is the default's
    as           the row whose pictures are the same up to rounding; its accuracy stands for both
    megabytes    of the U-Net's weights in memory
"""
import argparse
import contextlib
import csv
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import torch
from lesson7_speed_students import start_of
from torch import Tensor, nn

from course_lib import (
    Denoiser,
    Schedule,
    cfg,
    consistency_sampling,
    ddim,
    dpmpp,
    heun,
    last,
    timesteps,
    unipc,
)
from course_lib.guidance import guidance_interval
from course_lib.lab import attributes, noun_parts, profiling, storage, train
from course_lib.lab.evaluation import inference
from course_lib.networks import int8
from course_lib.networks.stable_diffusion.caching import CachedUNet
from course_lib.networks.vae import AutoencoderKL

CSV = storage.ASSETS / "lesson7_speed.csv"
BATCHES = (1, 64)
ROUNDS = {1: 40, 64: 5}
JUDGED = 100                            # pictures drawn at once when judged
EXACT_STEPS = 60
HEAD = noun_parts.PARTS.index("head")
NAIVE, DEFAULT = "naive reference", "lesson 5's default"
TIMES, LATER = "times.json", "times_later.json"             # of all rows; of rows added later
BEST = "1 step, not guided"             # where a caption names every part
FULL = (DEFAULT, BEST, "3 steps, guided in the first", "3 steps, guided in the first, cached",
        "3 steps, not guided, cached")                      # judged on all n captions


# ---- other ways to compute the same U-Net

class Unavailable(Exception):
    """What is missing, in a sentence."""


class Autocast(nn.Module):
    """The U-Net with products of matrices in bf16; norms, sums and the time stay in float32."""

    def __init__(self, unet: nn.Module):
        super().__init__()
        self.unet = unet

    def forward(self, x, step, context, control=None):
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.unet(x, step, context, control).to(x.dtype)


def int8_dynamic(unet: nn.Module) -> nn.Module:
    """Linear layers whose weights and inputs are int8; convolutions stay in float32."""
    quantization = getattr(torch.ao, "quantization", None)
    if not hasattr(quantization, "quantize_dynamic"):
        return torchao_dynamic(unet)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                     # torch recommends torchao
        return quantization.quantize_dynamic(unet, {nn.Linear}, torch.qint8)


def torchao_dynamic(unet: nn.Module) -> nn.Module:
    """The same by torchao."""
    try:
        import torchao.quantization as ao
    except ImportError:
        raise Unavailable("torchao is not installed: pip install torchao") from None
    import copy
    other = copy.deepcopy(unet)
    ao.quantize_(other, ao.Int8DynamicActivationInt8WeightConfig())
    return other


class OnnxUNet(nn.Module):
    """The U-Net in ONNX Runtime, exported for each batch size when it is first asked for: its
    checks of shapes fix the batch.
    """

    def __init__(self, unet: nn.Module):
        super().__init__()
        try:
            import ml_dtypes  # noqa: F401   the exporter's
            import onnx  # noqa: F401
            import onnxruntime
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise Unavailable(
                f"{error.name} is not installed: pip install onnx onnxscript onnxruntime"
            ) from None
        self.options = onnxruntime.SessionOptions()
        self.options.intra_op_num_threads = torch.get_num_threads()
        self.options.inter_op_num_threads = 1
        self.session_of = onnxruntime.InferenceSession
        self.unet = [unet.eval()]                           # not a part: its weights are copied
        self.sessions = {}

    def forward(self, x, step, context, control=None):
        inputs = {"x": x, "step": step.to(x), "context": context}
        if len(x) not in self.sessions:
            file = folder() / f"unet_{len(x)}.onnx"
            export(self.unet[0], tuple(inputs.values()), file)
            self.sessions[len(x)] = self.session_of(
                str(file), self.options, providers=["CPUExecutionProvider"]
            )
        arrays = {name: value.contiguous().numpy() for name, value in inputs.items()}
        return torch.from_numpy(self.sessions[len(x)].run(None, arrays)[0])


def export(unet: nn.Module, inputs: tuple, file) -> None:
    """The U-Net as an ONNX file, for inputs of these shapes."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(None):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            unet, inputs, file, dynamo=True, verbose=False, external_data=False,
            input_names=["x", "step", "context"],
        )


def compiled(unet: nn.Module) -> nn.Module:
    """torch.compile, for each batch size anew."""
    import shutil
    if not any(map(shutil.which, ("c++", "g++", "clang++", "cl"))):
        raise Unavailable("torch.compile needs a C++ compiler on a CPU")
    return torch.compile(unet, dynamic=False)


# ---- the rows

FIRST = guidance_interval(2.0, 0.95, 1.0)                   # t = 1, the first step alone


def consistent(D: Denoiser, schedule: Schedule, x: Tensor, ts: Tensor, **condition) -> Iterator:
    """Consistency sampling, with the same fresh noise in every run."""
    generator = torch.Generator().manual_seed(1)
    return consistency_sampling(D, schedule, x, ts, generator=generator, **condition)


class Row(NamedTuple):
    """How pictures are drawn. Defaults: lesson 5's."""
    name: str
    sampler: Callable = dpmpp
    steps: int = 10
    spacing: str = "time"
    scale: float | Callable = 2.0
    one_pass: bool = False
    null_kept: bool = False             # the empty text is encoded once, not with each batch
    execute: Callable[[nn.Module], nn.Module] | None = None
    cached: tuple[int, int] | None = None                   # interval, fresh
    linears_only: bool = False          # of `execute`: it touches linear layers alone
    same_as: str | None = None
    student: str | None = None          # of lesson7_speed_students.py, in the U-Net's place

    @property
    def keeps_ode(self) -> bool:
        return self.scale == 2.0

    def judged(self, n: int) -> int:
        """How many pictures are judged: n of the rows that the goal is about, a quarter of others.
        """
        return n if self.name in FULL else math.ceil(n / 4)


ROWS = [
    Row(NAIVE, ddim, 50),
    Row(DEFAULT),
    Row("guidance in one pass", one_pass=True, same_as=DEFAULT),
    Row("empty text encoded once", null_kept=True, same_as=DEFAULT),
    Row("guidance at t > 0.45 alone", scale=guidance_interval(2.0, 0.45, 1.0)),
    Row("guidance at t < 0.45 alone", scale=guidance_interval(2.0, 0.0, 0.45)),
    Row("no guidance", scale=1.0),
    Row("DDIM, 10 steps", ddim),
    Row("Heun, 5 steps", heun, 5, "karras"),
    Row("UniPC, 5 steps", unipc, 5),
    Row("7 steps", steps=7),
    Row("5 steps", steps=5),
    Row("4 steps", steps=4),
    Row("3 steps", steps=3),
    Row("3 steps, guided in the first", steps=3, scale=FIRST),
    Row("every 2nd step cached", one_pass=True, cached=(2, 2)),
    Row("every 2nd step cached, stem alone", one_pass=True, cached=(2, 1)),
    Row("2 of 3 steps cached", one_pass=True, cached=(3, 2)),
    Row("bf16", execute=Autocast),
    Row("int8, dynamic", execute=int8_dynamic, linears_only=True),
    Row("int8 weights", execute=int8.with_int8_linears, linears_only=True),
    Row("ONNX Runtime", execute=OnnxUNet, same_as=DEFAULT),
    Row("torch.compile", execute=compiled, same_as=DEFAULT),
    Row("guidance distilled", scale=1.0, student="guided"),
    Row("half as wide, guidance distilled", scale=1.0, student="half"),
    Row("consistent, 4 steps", consistent, 4, scale=1.0, student="consistency"),
    Row("consistent, 2 steps", consistent, 2, scale=1.0, student="consistency"),
    Row("consistent, 1 step", consistent, 1, scale=1.0, student="consistency"),
    Row("2 steps, not guided", steps=2, scale=1.0),
    Row("1 step, not guided", steps=1, scale=1.0),
    Row("3 steps, guided in the first, cached", steps=3, scale=FIRST, one_pass=True, null_kept=True,
        cached=(2, 2)),
    Row("3 steps, not guided, cached", steps=3, scale=1.0, cached=(2, 2)),
    Row("3 steps, guidance distilled", steps=3, scale=1.0, student="guided"),
    Row("5 steps, not guided", steps=5, scale=1.0),
    Row("5 steps, not guided, cached", steps=5, scale=1.0, cached=(2, 2)),
    Row("4 steps, not guided, cached", steps=4, scale=1.0, cached=(2, 2)),
    Row("5 steps, guidance distilled", steps=5, scale=1.0, student="guided"),
    Row("5 steps, not guided, ONNX Runtime", steps=5, scale=1.0, execute=OnnxUNet,
        same_as="5 steps, not guided"),
    Row("3 steps, guided in the first, ONNX Runtime", steps=3, scale=FIRST, one_pass=True,
        null_kept=True, execute=OnnxUNet, same_as="3 steps, guided in the first"),
]                                                                                    # fmt: skip


# ---- the model, and pictures

class Counted(nn.Module):
    """A U-Net that counts its calls and evaluations (examples), and the seconds in it."""

    def __init__(self, unet: nn.Module):
        super().__init__()
        self.unet = unet
        self.calls = self.evaluations = 0
        self.seconds = 0.0

    def forward(self, x, step, context, control=None):
        start = time.perf_counter()
        out = self.unet(x, step, context, control)
        self.seconds += time.perf_counter() - start
        self.calls += 1
        self.evaluations += len(x)
        return out


class Drawer:
    """A row's way from tokens to pictures. Raises Unavailable where a program is missing."""

    def __init__(self, row: Row, D: Denoiser, vae: AutoencoderKL):
        unet = D.net.unet if row.student is None else student(row.student)
        unet = unet if row.execute is None else row.execute(unet)
        unet = unet if row.cached is None else CachedUNet(unet, *row.cached)
        self.row = row
        self.vae = vae
        self.counted = Counted(unet)
        self.D = inference.with_unet(D, self.counted)
        self.kept_null = D.net.encode(D.net.null["tokens"], 1)

    @torch.no_grad()
    def __call__(self, tokens: Tensor, noise: Tensor) -> Tensor:
        """tokens (B, L), standard normal noise (B, 8, 8, 8) -> pictures (B, 3, 32, 32)"""
        row, D, B = self.row, self.D, len(noise)
        condition = D.net.encode(tokens, B)
        guided = D if row.scale == 1 else self._guided(B)
        ts = timesteps(D.schedule, row.steps, row.spacing)
        x = D.schedule.sigma(ts[0]).float() * noise
        z = last(row.sampler(guided, D.schedule, x, ts, **condition))
        return self.vae.to_images(z).clamp(-1, 1)

    def _guided(self, B: int) -> Callable:
        net = self.D.net
        null = self.kept_null if self.row.null_kept else net.encode(net.null["tokens"], 1)
        if self.row.one_pass:
            return inference.batched_cfg(self.D, self.row.scale, null)
        null = {name: value.expand(B, -1, -1) for name, value in null.items()}
        return cfg(self.D, self.row.scale, null)


class Work(NamedTuple):
    """What is asked for: parts (n, 5), tokens (n, L), noise (n, 8, 8, 8)."""
    parts: Tensor
    tokens: Tensor
    noise: Tensor


@cache
def models() -> tuple[Denoiser, AutoencoderKL]:
    return train.load("mini_sd", "cpu"), train.load("nouns_vae", "cpu")


@cache
def student(name: str) -> nn.Module:
    """A student's U-Net. Raises Unavailable where it was not trained."""
    file = train.runs_folder() / f"lesson7_student_{name}/unet.pt"
    if not file.exists():
        raise Unavailable(f"missing: python benchmarks/lesson7_speed_students.py {name}")
    unet = start_of(name, models()[0].net.unet)
    unet.load_state_dict(torch.load(file, weights_only=True))
    return unet.eval().requires_grad_(False)


def work(n: int) -> Work:
    """n captions of new combinations, without the heads that mini-SD never saw; the first are the
    same for any n.
    """
    D = models()[0]
    withheld = [noun_parts.index_of("head", name) for name in D.about["metrics"]["withheld"]]
    parts = noun_parts.draw_parts(2 * n, seed=5, split="test")
    parts = parts[~torch.isin(parts[:, HEAD], torch.tensor(withheld))][:n]
    tokens = D.net.tokenizer(noun_parts.plain_captions(parts))
    noise = torch.randn((n, *D.data_shape), generator=torch.Generator().manual_seed(0))
    return Work(parts, tokens, noise)


def rms(a: Tensor, b: Tensor) -> float:
    """Root-mean-square difference over all pixels of all pictures."""
    return (a - b).square().mean().sqrt().item()


# ---- what is measured is kept

def folder():
    path = train.runs_folder() / "lesson7_speed"
    path.mkdir(parents=True, exist_ok=True)
    return path


def load_json(name: str) -> dict:
    file = folder() / name
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def save_json(name: str, value: dict) -> None:
    storage.write_text(folder() / name, json.dumps(value, indent=1))


def judged_file(row: Row):
    return folder() / f"{row.name.replace(' ', '_').replace(',', '')}.npz"


# ---- accuracy

def judge(rows: list[Row], n: int) -> None:
    """Draws and judges pictures of each row that has too few, 100 at a time."""
    for row in rows:
        if row.same_as is None:
            judge_row(row, row.judged(n))


def judge_row(row: Row, n: int) -> None:
    """Keeps right (n, 5) bool and the first 100 pictures as bytes."""
    kept = dict(np.load(judged_file(row))) if judged_file(row).exists() else {}
    right = list(kept["right"]) if kept else []
    if len(right) >= n:
        return
    try:
        draw = Drawer(row, *models())
    except Unavailable as error:
        print(f"{row.name}: {error}", flush=True)
        return
    asked, start = work(n), time.perf_counter()
    for part in torch.arange(len(right), n).split(JUDGED):
        x = draw(asked.tokens[part], asked.noise[part])
        right += list(attributes.attributes_correct(x, asked.parts[part]).numpy())
        kept.setdefault("pictures", x.numpy().astype(np.float16))
        np.savez_compressed(judged_file(row), right=np.array(right), pictures=kept["pictures"])
    shares = np.array(right).mean(0).round(3).tolist()
    print(f"{row.name}: {len(right)}, {shares}, {time.perf_counter() - start:.0f} s", flush=True)


def exact_pictures() -> Tensor:
    """60 steps of DPM-Solver++(2M) for the first 100 captions."""
    row = Row("exact", steps=EXACT_STEPS, one_pass=True)
    judge_row(row, JUDGED)
    return torch.from_numpy(np.load(judged_file(row))["pictures"]).float()


def paired(right: np.ndarray, default: np.ndarray) -> dict[str, float]:
    """Each part's accuracy, minus the default's in points, and the standard error."""
    n = min(len(right), len(default))
    change = 100 * (right[:n].astype(float) - default[:n])
    columns = {}
    for k, part in enumerate(noun_parts.PARTS):
        columns[part] = round(right[:n, k].mean(), 4)
        columns[f"{part}_diff"] = round(change[:, k].mean(), 3)
        columns[f"{part}_se"] = round(change[:, k].std(ddof=1) / n**0.5, 3)
    return columns


# ---- time

def time_rows(rows: list[Row], rounds: dict[int, int], file: str) -> None:
    """Every row once a round, in turns. Other rows than last time, or another machine, begin anew.
    """
    drawers, missing = {}, {}
    for row in rows:
        try:
            drawers[row.name] = Drawer(row, *models())
        except Unavailable as error:
            missing[row.name] = str(error)
    kept = load_json(file)
    about = {"rows": sorted(drawers), "machine": train.about_machine()}
    if kept.get("about") != about:
        kept = {"about": about}
    kept["missing"] = missing
    for B in BATCHES:
        rows_of = kept.setdefault(str(B), {name: {"seconds": [], "unet": []} for name in drawers})
        time_batch(drawers, B, rounds[B], rows_of, lambda: save_json(file, kept))


def time_batch(drawers: dict, B: int, rounds: int, rows_of: dict, save: Callable) -> None:
    """`rounds` times of a batch of B for each drawer, into rows_of; saved after each round."""
    asked = work(B)
    done = min(len(row["seconds"]) for row in rows_of.values())
    for name, draw in drawers.items() if done < rounds else ():
        draw(asked.tokens, asked.noise)                     # not timed
        print(f"warm: {name}, batch {B}", flush=True)
    for k in range(done, rounds):
        runs = {name: partial(timed, draw, asked, rows_of[name]) for name, draw in drawers.items()}
        order = torch.randperm(len(runs), generator=torch.Generator().manual_seed(k)).tolist()
        for name in [list(runs)[j] for j in order]:
            runs[name]()
        save()
        print(f"batch {B}: round {k + 1} of {rounds}", flush=True)


def timed(draw: Drawer, asked: Work, row: dict) -> None:
    """One batch: its seconds, and the U-Net's for each evaluation of each picture."""
    counted = draw.counted
    counted.seconds = 0.0
    counted.evaluations = 0
    start = time.perf_counter()
    draw(asked.tokens, asked.noise)
    row["seconds"].append(time.perf_counter() - start)
    row["unet"].append(counted.seconds / counted.evaluations)


# ---- work

def counts(row: Row) -> dict[str, float]:
    """Evaluations, calls and multiply-adds of one picture, counted on the plain U-Net, or on the
    student's. Raises Unavailable where it was not trained.
    """
    draw, asked = Drawer(row._replace(execute=None), *models()), work(1)
    work_done = profiling.multiply_adds(lambda: draw(asked.tokens, asked.noise))
    counted = draw.counted
    return {"evaluations": counted.evaluations, "calls": counted.calls, "mmacs": work_done / 1e6}


def linear_share() -> float:
    """The share of the U-Net's multiply-adds in its linear layers (products of attention apart)."""
    unet, found = models()[0].net.unet, []

    def count(module: nn.Linear, inputs: tuple, out: Tensor) -> None:
        found.append(inputs[0].numel() * module.out_features)
    handles = [m.register_forward_hook(count) for m in unet.modules() if isinstance(m, nn.Linear)]
    inputs = torch.zeros(1, 8, 8, 8), torch.zeros(1), torch.zeros(1, 48, 128)
    total = profiling.multiply_adds(unet, *inputs)
    for handle in handles:
        handle.remove()
    return sum(found) / total


def unet_mmacs() -> float:
    """Of one evaluation."""
    inputs = torch.zeros(1, 8, 8, 8), torch.zeros(1), torch.zeros(1, 48, 128)
    return profiling.multiply_adds(models()[0].net.unet, *inputs) / 1e6


def touched(row: Row, found: dict, default: dict) -> float | str:
    """The share of the default's multiply-adds that the row leaves out or does in another way;
    empty where it does more.
    """
    if found["mmacs"] > default["mmacs"]:
        return ""
    if found["mmacs"] < default["mmacs"]:
        return round(1 - found["mmacs"] / default["mmacs"], 3)
    if row.execute is None and not row.one_pass and row.student is None:
        return 0.0
    share = default["evaluations"] * unet_mmacs() / default["mmacs"]
    return round(share * linear_share() if row.linears_only else share, 3)


def megabytes(row: Row) -> float | str:
    """Of the U-Net's weights, where they are tensors of a module."""
    if row.student is not None:
        unet = student(row.student)
    elif row.execute is None or row.execute is Autocast:
        unet = models()[0].net.unet
    elif row.execute is int8.with_int8_linears:
        unet = row.execute(models()[0].net.unet)
    else:
        return ""
    tensors = [*unet.parameters(), *unet.buffers()]
    return round(sum(value.numel() * value.element_size() for value in tensors) / 1e6, 3)


# ---- the table

def table(rows: list[Row]) -> list[dict]:
    times, later = load_json(TIMES), load_json(LATER)
    plain = counts(Row(DEFAULT))
    exact = exact_pictures()
    default = right_of(Row(DEFAULT))
    found = []
    for row in rows:
        try:
            one = counts(row)
        except Unavailable as error:
            found.append({"row": row.name, "note": str(error)})
            continue
        line = {"row": row.name, "note": times.get("missing", {}).get(row.name, "")}
        line |= {"evaluations": one["evaluations"], "calls": one["calls"]}
        line |= {"mmacs": round(one["mmacs"], 1), "touched": touched(row, one, plain)}
        line |= latencies(row, times if row.name in times.get("1", {}) else later)
        line |= {"megabytes": megabytes(row), "as": row.same_as or "", "n": ""}
        line |= quality(row, default, exact)
        found.append(line)
    return found


def right_of(row: Row) -> np.ndarray | None:
    file = judged_file(row)
    return np.load(file)["right"] if file.exists() else None


def latencies(row: Row, times: dict) -> dict:
    line = {}
    for B in BATCHES:
        kept = times.get(str(B), {}).get(row.name)
        names = [f"{name}_{B}" for name in
                 ("median", "p95", "rounds", "unet_ms", "faster", "faster_se")]
        if not kept or not kept["seconds"]:
            line |= dict.fromkeys(names, "")
            continue
        one, unet = inference.latency(kept["seconds"]), inference.latency(kept["unet"])
        faster = np.array(times[str(B)][DEFAULT]["seconds"]) / kept["seconds"]      # by rounds
        values = (round(one.median, 5), round(one.p95, 5), one.rounds, round(1e3 * unet.median, 4),
                  round(faster.mean(), 3), round(faster.std(ddof=1) / one.rounds**0.5, 3))
        line |= dict(zip(names, values))
    return line


def quality(row: Row, default: np.ndarray | None, exact: Tensor) -> dict:
    """The columns of accuracy, and the distance to the exact pictures where it means anything."""
    names = [f"{part}{end}" for part in noun_parts.PARTS for end in ("", "_diff", "_se")]
    line = dict.fromkeys([*names, "distance"], "")
    right = right_of(row._replace(name=row.same_as or row.name))
    if right is None or default is None:
        return line
    line |= {"n": min(len(right), len(default))} | paired(right, default)
    if row.keeps_ode:
        file = judged_file(row._replace(name=row.same_as or row.name))
        pictures = torch.from_numpy(np.load(file)["pictures"]).float()
        line["distance"] = round(rms(pictures, exact), 4)
    return line


def write(lines: list[dict]) -> None:
    with CSV.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, lines[0], restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    print(f"{CSV}: {len(lines)} rows", flush=True)


def chosen(names: list[str] | None) -> list[Row]:
    rows = [row for row in ROWS if not names or row.name in names]
    if names and len(rows) != len(set(names)):
        raise SystemExit(f"rows are {', '.join(row.name for row in ROWS)}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    stages = ("all", "judge", "time", "table")
    parser.add_argument("stage", nargs="?", default="all", choices=stages)
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--only", nargs="+", metavar="ROW", help="of judge and time")
    parser.add_argument("--later", action="store_true",
                        help="time --only these and the default, in a run of their own")
    parser.add_argument("--rounds", type=int, nargs=2, default=[ROUNDS[B] for B in BATCHES],
                        help="of a batch of 1, of 64")
    a = parser.parse_args()
    rows = chosen(a.only)
    if a.stage in ("all", "judge"):
        judge(rows, a.n)
    if a.stage in ("all", "time"):
        timed_rows = [Row(DEFAULT), *rows] if a.later else rows
        time_rows(timed_rows, dict(zip(BATCHES, a.rounds)), LATER if a.later else TIMES)
    write(table(ROWS))


if __name__ == "__main__":
    main()
