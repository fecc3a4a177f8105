"""The state of one training run: the model, its average of weights and its optimizers."""
import contextlib
import copy
import time

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, reduce
from torch import Tensor, nn

from .batches import Batch, BatchSampler
from .config import TrainConfig
from .device import autocast, precision
from .muon import Muon
from .tasks import Task, WeightedLoss

DROPOUT_SEED = 500_000_003                                  # apart from the seeds of the batches


class TrainState:
    """Model, average, optimizers, and how far the run is.

    Only parameters that require a gradient are trained, averaged and saved. Frozen ones are shared
    with the average, and modules that have none to train stay in eval mode.
    Raises ValueError for a model with nothing to train, and for a batch that cannot be divided.
    """

    def __init__(self, task: Task, batches: BatchSampler, config: TrainConfig):
        self.task = task
        self.batches = batches
        self.config = config
        self.model = task.model
        self.trained = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        _validate_parts(self.trained, batches, config)
        self.model.zero_grad(set_to_none=True)              # what an earlier backward left
        train_mode(self.model)
        self.frozen = frozen_tensors(self.model)
        self.ema = _averaged_copy(self.model, self.frozen)
        self.averages = [p for n, p in self.ema.named_parameters() if n in self.trained]
        self.device = next(iter(self.trained.values())).device
        self.dtype = precision(self.device)
        # one process or many; precision is ours
        self.accelerator = Accelerator(device_placement=False, mixed_precision="no")
        if config.compile:
            task.part_to_compile().compile()
        self.objective = self.accelerator.prepare(WeightedLoss(task))
        self.optimizers, self.rates = _optimizers(self.model, self.trained, config)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.step = 0
        self.saved = 0
        self.elapsed = 0.0
        self.history: list[tuple[int, float]] = []
        self.clock: list[float] = []
        self.losses: list[Tensor] = []                      # since the last entry of the history
        self.whole = True                                   # False within a step
        self.experiment: dict | None = None                 # its fingerprint, once it is kept

    def progress(self) -> float:
        """The fraction of the run that is done; 1 or more when it is finished."""
        if self.config.steps:
            return self.step / self.config.steps
        return self.elapsed / self.config.seconds

    def advance(self) -> None:
        """One step of the optimizers, and of the average."""
        start, done = time.perf_counter(), self.progress()
        self.whole = False
        self.losses.append(self._gradients())
        self._set_rates(done)
        self._optimize()
        self.step += 1
        self._average()
        if self.step % 50 == 0 or self.step == self.config.steps:
            self.log()                                      # waits for the GPU, inside the clock
        self.elapsed = self._agreed(self.elapsed + time.perf_counter() - start)
        if self.config.seconds and self.progress() >= 1 and self.losses:
            self.log()
        self.whole = True

    def _gradients(self) -> Tensor:
        """The gradients of one batch, in `accumulation_steps` parts of equal size; -> its loss."""
        batch = self.batches[self.step]
        size, parts = len(next(iter(batch.values()))), self.config.accumulation_steps
        total = torch.zeros((), device=self.device)
        with self._seeded():
            for k in range(parts):
                rows = slice(k * size // parts, (k + 1) * size // parts)
                part = {name: value[rows] for name, value in batch.items()}
                with self._synchronized(k == parts - 1):
                    total += self._backward(part)
        return total

    def _synchronized(self, last: bool) -> contextlib.AbstractContextManager:
        """Processes exchange gradients once a step, with the last part."""
        return contextlib.nullcontext() if last else self.accelerator.no_sync(self.objective)

    @contextlib.contextmanager
    def _seeded(self):
        """torch's global generators, seeded with the step, for dropout; as before afterwards."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            seed = self.batches.seed_of(self.step) + DROPOUT_SEED
            torch.manual_seed(seed + self.accelerator.process_index)
            yield

    def _backward(self, part: Batch) -> Tensor:
        with autocast(self.device, self.dtype):
            loss = self.objective(part) / self.config.accumulation_steps
        self.scaler.scale(loss).backward()
        return loss.detach()

    def _set_rates(self, done: float) -> None:
        """Linear warm-up over the fraction `warmup` of the run, and linear decay to 0."""
        warmup = self.config.warmup
        rise = min(1.0, done / warmup + 0.01) if warmup else 1.0
        for optimizer, rate in zip(self.optimizers, self.rates):
            for group in optimizer.param_groups:
                group["lr"] = rate * rise * (1 - done)

    def _optimize(self) -> None:
        if self.config.clip_grad_norm:
            for optimizer in self.optimizers:
                self.scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(list(self.trained.values()), self.config.clip_grad_norm)
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
            optimizer.zero_grad()
        self.scaler.update()

    @torch.no_grad()
    def _average(self) -> None:
        """Power-function EMA, of decay (1 - 1/step)^(gamma + 1). (Karras et al. 2024, eq. 2)"""
        decay = (1 - 1 / self.step) ** (self.config.ema_gamma + 1)
        torch._foreach_lerp_(self.averages, list(self.trained.values()), 1 - decay)
        for average, buffer in zip(self.ema.buffers(), self.model.buffers()):
            if average is not buffer:                       # the frozen ones are shared
                average.copy_(buffer)

    def _agreed(self, seconds: float) -> float:
        """The first process's clock, so that all processes stop at the same step."""
        if self.accelerator.num_processes == 1:
            return seconds
        clock = torch.tensor(seconds, dtype=torch.float64, device=self.device)
        return broadcast(clock).item()

    def finite(self) -> bool:
        """Whether the weights, and every loss since the last entry of the history, are finite."""
        losses = not self.losses or bool(torch.stack(self.losses).isfinite().all())
        return losses and all(bool(p.isfinite().all()) for p in self.trained.values())

    def log(self) -> None:
        """Enter the mean loss since the last entry into `history`, as (step, loss).

        Raises FloatingPointError where the loss or a weight is not finite.
        """
        if not self.finite():
            raise FloatingPointError(
                f"the loss is not finite at step {self.step}: lower lr and muon_lr (now "
                f"{self.rates}), or train in fp32 with COURSE_PRECISION=float32"
            )
        mean = torch.stack(self.losses).mean()
        mean = mean if self.accelerator.num_processes == 1 else reduce(mean, "mean")
        self.history.append((self.step, mean.item()))
        self.clock.append(self.elapsed)
        self.losses.clear()

    def result(self) -> nn.Module:
        """The averaged model in eval mode, with its `history`, whether the run is `done`, and no
        `run_folder` yet.
        """
        self.ema.history = self.history
        self.ema.done = self.progress() >= 1
        self.ema.run_folder = None
        self.ema.eval()                                     # whatever a callback did
        return self.ema


def frozen_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What training leaves alone, by name: frozen parameters, and the buffers of frozen modules."""
    parameters = model.named_parameters(remove_duplicate=False)
    frozen = {name: p for name, p in parameters if not p.requires_grad}
    for name, module in model.named_modules():
        if _is_frozen(module):
            frozen |= dict(module.named_buffers(name, remove_duplicate=False))
    return frozen


def _is_frozen(module: nn.Module) -> bool:
    """Whether a module has parameters and none of them is trained."""
    parameters = list(module.parameters())
    return bool(parameters) and not any(p.requires_grad for p in parameters)


def train_mode(model: nn.Module) -> None:
    """Train mode, except for frozen modules: their running statistics stay."""
    model.train()
    for module in model.modules():
        if _is_frozen(module):
            module.eval()


def _averaged_copy(model: nn.Module, frozen: dict[str, Tensor]) -> nn.Module:
    """A copy in eval mode that shares the frozen tensors; what is trained of a partly frozen model
    still requires a gradient, so that a further training trains the same parts."""
    ema = copy.deepcopy(model, memo={id(value): value for value in frozen.values()}).eval()
    if not frozen:
        ema.requires_grad_(False)
    return ema


def _optimizers(
    model: nn.Module, trained: dict[str, nn.Parameter], config: TrainConfig
) -> tuple[list[torch.optim.Optimizer], tuple[float, ...]]:
    """Muon for the network's `muon_parameters()`, AdamW for the rest; their peak rates."""
    net = getattr(model, "net", model)
    chosen = net.muon_parameters() if config.muon_lr and hasattr(net, "muon_parameters") else []
    matrices = [p for p in chosen if p.requires_grad]
    ids = {id(p) for p in matrices}
    others = [p for p in trained.values() if id(p) not in ids]
    optimizers = []
    rates = []
    if others:
        settings = {"betas": (0.9, 0.99), "weight_decay": config.weight_decay, "fused": True}
        optimizers.append(torch.optim.AdamW(others, lr=config.lr, **settings))
        rates.append(config.lr)
    if matrices:
        optimizers.append(Muon(matrices, lr=config.muon_lr))
        rates.append(config.muon_lr)
    return optimizers, tuple(rates)


def _validate_parts(trained: dict, batches: BatchSampler, config: TrainConfig) -> None:
    if not trained:
        raise ValueError("there is nothing to train: no parameter of the model requires a gradient")
    dtypes = {p.dtype for p in trained.values()} - {torch.float32}
    if dtypes:
        raise ValueError(
            f"the trained weights must be float32; got {', '.join(map(str, dtypes))}: call "
            "model.float() (COURSE_PRECISION says in what precision a step computes)"
        )
    if any(p.is_inference() for p in trained.values()):
        raise ValueError(
            "the weights were made under torch.inference_mode() and cannot be trained: build the "
            "model outside of it"
        )
    size = batches.rank_slice.stop - batches.rank_slice.start
    if size % config.accumulation_steps:
        raise ValueError(
            f"{size} examples cannot be taken in {config.accumulation_steps} equal parts"
        )
