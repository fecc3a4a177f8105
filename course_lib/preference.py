"""Learning from pairs: of two pictures for one text, which is better?

Direct preference optimisation for diffusion models: Wallace et al. 2024, eq. 14; Rafailov et al.
2023. No reward model and no sampling: the loss compares errors of denoising. The bound of log p has
weights, which are left out here, as in the simple loss; the paper draws the noise of the winner and
of the loser apart, its code shares it.
"""
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from . import validate


def dpo_loss(
    D: Callable,
    reference: Callable,
    winner: Tensor,
    loser: Tensor,
    t: Tensor,
    eps: Tensor,
    beta: float,
    **condition,
) -> Tensor:
    """-log sigmoid(-beta (change of the winner's loss - change of the loser's)) of each pair: (B,)

    A change is the loss of D less that of the reference. The result is small where D has improved
    on the reference more for the winner than for the loser, and log 2 where D is the reference.

    D, reference: with a method `loss(x0, t, eps, **condition)`, such as a Denoiser; the reference
                  is not trained
    winner, loser: (B, ...), of the same condition
    t, eps:       (B,) in [0, 1] and like winner: one time and one noise for all four losses
    beta:         how far D may go from the reference: small is far
    Raises TypeError or ValueError for pairs of unequal shape, no noise of that shape, and a beta
    that is not above 0.
    """
    winner = validate.real(winner, "winner")
    loser = validate.real(loser, "loser", like=winner)
    eps = validate.real(eps, "eps", like=winner)            # None would be another noise each time
    validate.number(beta, "beta", 0, above=True)
    for model, name in ((D, "D"), (reference, "reference")):
        if not hasattr(model, "loss"):
            got = type(model).__name__
            raise TypeError(f"{name} must have a loss, such as a Denoiser; got {got}")
    change = D.loss(winner, t, eps, **condition) - D.loss(loser, t, eps, **condition)
    with torch.no_grad():
        before = reference.loss(winner, t, eps, **condition)
        before = before - reference.loss(loser, t, eps, **condition)
    return -F.logsigmoid(-beta * (change - before))
