"""Measures of models of tokens: nats against the grammar's entropy, captions, grids."""
import torch
from torch import Tensor, nn

from ... import validate, validate_tokens
from ...discrete import Autoregressive, MaskedDiffusion, mask_tokens, masked_nll, unmask
from ...samplers import last
from ..data.caption_grammar import caption_tokenizer, parse_caption
from ..data.noun_parts import PARTS, load_art

Model = Autoregressive | MaskedDiffusion


@torch.no_grad()
def nats(model: Model, x0: Tensor, draws: int = 32, seed: int = 0, batch_size: int = 250) -> Tensor:
    """-log p of each sequence x0 (n, L), or its bound, in nats: (n,) float64, on the CPU.

    draws: of t and the masks for each sequence, of masked diffusion alone; their times are one in
    each of `draws` equal parts of (0, 1]
    Raises TypeError or ValueError for another model, no token ids, and draws below 1.
    """
    _validate_model(model)
    x0 = validate_tokens.token_ids(x0, "x0")
    draws = validate.whole(draws, "draws")
    g = torch.Generator().manual_seed(validate.seed(seed))
    parts = []
    for part in x0.split(validate.whole(batch_size, "batch_size")):
        part = part.to(_device(model))
        causal = isinstance(model, Autoregressive)
        parts.append((model.nll(part) if causal else _bound(model, part, draws, g)).double().cpu())
    return torch.cat(parts)


def _bound(model: MaskedDiffusion, x0: Tensor, draws: int, g: torch.Generator) -> Tensor:
    total = torch.zeros(len(x0), dtype=torch.float64)
    for k in range(draws):
        t = (k + 1 - torch.rand(len(x0), generator=g, dtype=torch.float64)) / draws
        x = mask_tokens(x0, t, model.mask_id, g)
        total += masked_nll(model(x, t), x0, x, t, model.mask_id).cpu()
    return total / draws


@torch.no_grad()
def sample_tokens(
    model: Model,
    n: int,
    steps: int | None = None,
    order: str = "random",
    seed: int = 0,
    batch_size: int = 500,
) -> Tensor:
    """n sequences (n, L) on the CPU, of the length that the network was built for.

    steps, order: of masked diffusion, on an even grid; None: as many steps as tokens. An
    autoregressive model always takes one step a token.
    Raises TypeError or ValueError for another model, a network whose `config` says no length, n or
    steps below 1, and another order.
    """
    _validate_model(model)
    n, L = validate.whole(n, "n"), _length(model.net)
    g = torch.Generator().manual_seed(validate.seed(seed))
    steps = L if steps is None else validate.whole(steps, "steps")
    ts = torch.linspace(1, 0, steps + 1, dtype=torch.float64).tolist()
    device, parts = _device(model), []
    for rows in torch.arange(n).split(validate.whole(batch_size, "batch_size")):
        if isinstance(model, Autoregressive):
            x = model.sample(len(rows), L, generator=g)
        else:
            blank = torch.full((len(rows), L), model.mask_id, device=device)
            x = last(unmask(model, blank, ts, model.mask_id, order=order, generator=g))
        parts.append(x.cpu())
    return torch.cat(parts)


def caption_scores(x: Tensor) -> dict[str, float]:
    """Of captions as tokens (n, L): the share that the grammar can say with all five parts, as
    "valid", and for each part the total variation distance of its names from equally likely ones.

    A distance is half the sum of absolute differences, over the valid captions; 0 is equal. With n
    captions and K names it is about sqrt(K / (2 pi n)) even for captions of the grammar itself.
    Raises ValueError for no captions, and ids outside the vocabulary.
    """
    x = validate_tokens.token_ids(x, "captions")
    if len(x) == 0:
        raise ValueError("captions must be token ids (n, L), at least one row; got none")
    found = [parse_caption(caption) for caption in caption_tokenizer().decode(x)]
    found = [parts for parts in found if parts is not None and len(parts) == len(PARTS)]
    scores = {"valid": len(found) / len(x)}
    for part in PARTS:
        names = load_art().names[part]
        counts = torch.tensor([sum(parts[part] == name for parts in found) for name in names])
        shares = counts.double() / max(len(found), 1)
        scores[part] = (shares - 1 / len(names)).abs().sum().item() / 2
    return scores


@torch.no_grad()
def solve(
    model: MaskedDiffusion, grids: Tensor, hidden: Tensor, steps: int, order: str, seed: int = 0
) -> Tensor:
    """Grids (n, N * N) with the hidden places filled in: like `grids`, on the CPU.

    Raises TypeError or ValueError for grids that are no token ids, and a `hidden` that is not bool
    and like them, and as `unmask` does.
    """
    validate.instance(model, MaskedDiffusion, "model", "train.load('sudoku')")
    grids, hidden = validate_tokens.token_ids(grids, "grids"), validate.tensor(hidden, "hidden")
    if hidden.dtype != torch.bool or hidden.shape != grids.shape:
        raise ValueError(
            f"hidden must say of each place whether it is hidden: bool {tuple(grids.shape)}; got "
            f"{hidden.dtype} {tuple(hidden.shape)}"
        )
    x = torch.where(hidden, model.mask_id, grids).to(_device(model))
    ts = torch.linspace(1, 0, validate.whole(steps, "steps") + 1, dtype=torch.float64).tolist()
    g = torch.Generator().manual_seed(validate.seed(seed))
    return last(unmask(model, x, ts, model.mask_id, order=order, generator=g)).cpu()


def _validate_model(model: Model) -> None:
    if not isinstance(model, (Autoregressive, MaskedDiffusion)):
        raise TypeError(
            "model must be a MaskedDiffusion or an Autoregressive, such as "
            f"train.load('captions_masked'); got {validate.show(model)}"
        )


def _device(model: Model) -> torch.device:
    """Where the model's weights are; the CPU for a function without weights."""
    return next(model.parameters(), torch.empty(0)).device


def _length(net: nn.Module) -> int:
    config = getattr(net, "config", None)
    if not isinstance(config, dict) or "length" not in config:
        raise ValueError("model.net must say its length in its config, as a TokenTransformer does")
    return config["length"]
