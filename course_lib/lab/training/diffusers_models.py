"""A network of the diffusers library as our denoiser: its weights, our samplers."""
from torch import Tensor, nn

from ... import validate
from ...denoiser import Denoiser
from ...schedules import Schedule

TARGETS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}


class DiffusersNet(nn.Module):
    """A diffusers UNet behind our signature: (x, t, y=..., context=...) -> like x."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(
        self, x: Tensor, t: Tensor, y: Tensor | None = None, context: Tensor | None = None
    ) -> Tensor:
        inputs = {"class_labels": y, "encoder_hidden_states": context}
        given = {name: value for name, value in inputs.items() if value is not None}
        return self.model(x, t, **given).sample


def from_diffusers(model: nn.Module, scheduler) -> Denoiser:
    """A denoiser from a diffusers UNet and its scheduler (its `betas` and `prediction_type`).

    Its networks count steps 0 ... T-1; ours are told t, so the denoiser tells them t * T - 1.
    Raises ValueError for an unknown prediction_type.
    """
    validate.instance(model, nn.Module, "model", "UNet2DModel.from_pretrained(...)")
    kind = scheduler.config.prediction_type
    if kind not in TARGETS:
        raise ValueError(f"prediction_type must be one of {', '.join(TARGETS)}; got {kind!r}")
    schedule = Schedule.from_betas(scheduler.betas)

    def to_step(t: Tensor) -> Tensor:
        return (t * schedule.T - 1).clamp(min=0)
    return Denoiser(DiffusersNet(model), schedule, TARGETS[kind], time_transform=to_step).eval()
