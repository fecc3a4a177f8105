"""Consistency models: a denoiser that maps any point of a probability-flow path to its endpoint."""
import torch
from torch import Tensor, nn

from . import validate
from .denoiser import Denoiser
from .samplers import Denoise, predictions, step, validate_model
from .schedules import Schedule, append_dims, randn_like


class Consistency(Denoiser):
    """Maps any point of a probability-flow trajectory to its endpoint.

    (Song et al. 2023, algorithm 2)

    net:     starts best as a copy of the teacher's network
    teacher: whose ODE is solved: any denoiser (x, t, **condition) -> x0_hat, a guided or clipped
             one, too; it is not trained, saved or averaged. None: consistency training
             (algorithm 3), where two points that share x0 and eps stand for a step of the ODE,
             which they are on average
    target:  of the network: one for which D(x, 0) = x for any output ("v", "eps", "flow" or "edm")
    levels:  the path is cut at t = 1 / levels, 2 / levels, ..., 1; sample on grids of these levels
    c:       where the pseudo-Huber loss turns from squares to absolute values

    Raises ValueError for target "x0", and for fewer than one level.
    """

    def __init__(
        self,
        net: nn.Module,
        schedule: Schedule,
        teacher: Denoise | None,
        target: str = "v",
        levels: int = 4,
        c: float = 0.01,
    ):
        if teacher is not None:
            validate_model(teacher, schedule)
        levels = validate.whole(levels, "levels", what="of the path")
        self_consistent = not callable(target) and target != "x0"
        c = validate.number(c, "c", 0)
        if not self_consistent:
            raise ValueError(
                "a consistency model needs D(x, 0) = x, so any named target but x0, "
                f"and at least one level; got {target!r}, levels = {levels}"
            )
        super().__init__(net, schedule, target)
        self.teacher = None if teacher is None else predictions(teacher)
        self.levels = levels
        self.c = c

    def time_sampler(self, u: Tensor) -> Tensor:
        """From uniform numbers (B,) in (0, 1] to the levels, all equally often: (B,)."""
        u = validate.tensor(u, "u")
        if u.device.type == "cpu" and not ((u >= 0) & (u <= 1)).all():
            raise ValueError(f"u must be uniform numbers in (0, 1]; got {u.flatten()[:4].tolist()}")
        return (u * self.levels).ceil().clamp(min=1) / self.levels

    def loss(self, x0: Tensor, t: Tensor, eps: Tensor | None = None, **condition) -> Tensor:
        """Distance from the prediction at x_t to the one a level cleaner on the path: (B,).

        x0: (B, ...), t: (B,) on the levels. Squared errors of x0_hat in units of v (divided by
        sigma_t^2), averaged over each example, then pseudo-Huber.
        """
        x0 = validate.real(x0, "x0")
        t = validate.time(t, x0).expand(len(x0))
        self._validate_levels(t)
        s = (t - 1 / self.levels).clamp(min=0)
        eps = randn_like(x0) if eps is None else eps
        x = self.schedule.perturb(x0, t, eps)
        # before the pass without gradients: autocast keeps the weights that it has cast
        x0_hat = self(x, t, **condition)
        with torch.no_grad():
            cleaner = self._cleaner(x0, x, eps, t, s, condition)
            wanted = self(cleaner, s, **condition)
        error = (x0_hat - wanted) / append_dims(self.schedule.sigma(t), x)
        return (error.square().flatten(1).mean(1) + self.c**2).sqrt() - self.c

    def _validate_levels(self, t: Tensor) -> None:
        level = t * self.levels
        off = t.device.type == "cpu" and ((level - level.round()).abs() > 1e-3) | (level < 0.5)
        if torch.is_tensor(off) and off.any():
            raise ValueError(
                f"t must be one of the levels 1 / {self.levels}, ..., 1; got {t[off][0]:.4g}"
            )

    def _cleaner(self, x0, x, eps, t, s, condition) -> Tensor:
        """The point at level s on the path through x at level t."""
        if self.teacher is None:
            return self.schedule.perturb(x0, s, eps)
        return step(self.schedule, x, self.teacher(x, t, **condition), t, s)

    def fingerprint(self) -> dict:
        mine = {"levels": self.levels, "c": self.c, "distilled": self.teacher is not None}
        return super().fingerprint() | mine
