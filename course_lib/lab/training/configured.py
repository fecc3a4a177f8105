"""From a configuration file to what is trained: the model, its data, the options."""
from dataclasses import replace

import torch
from torch import Tensor, nn

from ... import validate
from ...denoiser import Denoiser
from ...networks.text import Tokenizer, word_dropout
from ...networks.vae import AutoencoderKL
from ...schedules import Schedule
from .batches import ImageBytes, floats, normal_log_snr
from .config import TrainConfig, _is_number, _is_whole, _refuse_other, _refuse_unknown
from .loaders import DRAWN, OPTIONS, TOKENS, Loaded, load_data
from .registry import MODULES, RECIPES, network_class, token_model

NETWORKS = tuple(name for name in MODULES if name not in RECIPES)
SCHEDULES = ("linear", "scaled_linear", "cosine", "sigmoid", "zero_terminal_snr", "edm", "flow")
DATA = ("mnist", "cifar10", "nouns", "pictures", *(name for name in DRAWN if name != "nouns"))
READERS = ("ConditionalUNet", "MMDiT")                      # of captions
OTHERS = ("AutoencoderKL", "TokenTransformer")              # networks that are not in a Denoiser
DENOISER_KEYS = ("target", "sigma_data", "schedule", "latents")
# top-level keys of a configuration file
KEYS = ("data", "examples", "network", "train", *DENOISER_KEYS, *sum(OPTIONS.values(), ()))
TABLES = ("network", "schedule", "train")


def from_config(config: dict) -> tuple[nn.Module, dict, TrainConfig]:
    """The untrained model, the data and the options that a configuration describes: a denoiser, an
    autoencoder, or a model of tokens.

    In [train], time_sampler = {mean = ..., std = ...} asks for `normal_log_snr`, and data_range =
    "none" for None. With data that are drawn ("nouns", "captions", "sudoku"), `examples` says how
    many; with "pictures", `folder` and `size` say which and how large, and the network gets as many
    classes as there are sub-folders, unless num_classes says otherwise. A network that reads
    captions gets their words. `latents` names a shipped autoencoder, or the file of one: the
    denoiser is trained on its latents. A TokenTransformer gets its vocabulary and length from the
    data; with causal = true it is trained to predict the next token, else to fill in masks.
    Raises ValueError for an unknown key, name or value, and what `data` raises.
    """
    _validate_keys(config)
    schedule = _schedule(config)
    options = _options(config["train"], schedule)
    loaded = load_data(config)
    x, conditions = loaded.x, loaded.conditions
    if loaded.vocabulary is not None or "latents" in config:
        options = replace(options, data_range=None)
    if "latents" in config:
        x = to_latents(x, config["latents"])
    torch.manual_seed(options.seed)
    net = _network(config, loaded)
    if loaded.vocabulary is not None:                                   # its last id: the mask
        name = "Autoregressive" if net.config["causal"] else "MaskedDiffusion"
        return token_model(name, net, loaded.vocabulary), {"x0": x}, options
    if isinstance(net, AutoencoderKL):
        return net, ImageBytes({"x0": x}), options
    D = Denoiser(
        net, schedule, config.get("target", "v"), sigma_data=config.get("sigma_data", 0.5)
    )
    if loaded.captions is not None and hasattr(net, "tokenizer"):
        conditions = {"tokens": word_dropout(net.tokenizer(loaded.captions))}
    if not getattr(net, "num_classes", None):
        conditions.pop("y", None)
    return D, ImageBytes({"x0": x} | conditions), options


def _validate_keys(config: dict) -> None:
    for needed in ("data", "network", "train"):
        if needed not in config:
            raise ValueError(f"it must say `data`, [network] and [train]; there is no {needed}")
    _refuse_unknown(config, KEYS, "a configuration")
    _refuse_other(config["data"], DATA, "data")
    if not isinstance(config["network"], dict):
        raise ValueError(f"[network] must be a table; got network = {config['network']!r}")
    kind = config["network"].get("type", "UNet")
    unused = [key for key in DENOISER_KEYS if key in config]
    if kind in OTHERS and unused:
        raise ValueError(f"{unused[0]} is for denoisers; this is a configuration of {kind}")
    if (kind == "TokenTransformer") != (config["data"] in TOKENS):
        raise ValueError(
            f"a TokenTransformer is for data = {' or '.join(TOKENS)}, and they for it; got {kind} "
            f"for {config['data']}"
        )
    for data, keys in OPTIONS.items():
        others = [key for key in keys if key in config and config["data"] != data]
        if others:
            raise ValueError(f'{others[0]} is for data = "{data}"; got data = {config["data"]!r}')
    for name in TABLES:
        if not isinstance(config.get(name, {}), dict):
            raise ValueError(f"[{name}] must be a table; got {name} = {config[name]!r}")
    if not _is_number(config.get("sigma_data", 0.5)):
        raise ValueError(f"sigma_data must be a number; got {config['sigma_data']!r}")
    if not _is_whole(config.get("examples", 1)):
        raise ValueError(f"examples must be a whole number; got {config['examples']!r}")


@torch.no_grad()
def to_latents(x: Tensor, name: str, batch_size: int = 500) -> Tensor:
    """Images (N, C, H, W), bytes or in [-1, 1], as latents of the autoencoder of that name, whose
    mean is 0 and deviation 1 per channel.
    """
    from .checkpoint import load
    vae = load(name)
    validate.instance(vae, AutoencoderKL, "latents", "'nouns_vae'")
    device = vae.shift.device
    parts = [vae.to_latents(floats(part).to(device)).cpu() for part in x.split(batch_size)]
    return torch.cat(parts)


def _schedule(config: dict) -> Schedule:
    arguments = dict(config.get("schedule", {"name": "cosine"}))
    name = arguments.pop("name", None)
    _refuse_other(name, SCHEDULES, "a schedule")
    try:
        return getattr(Schedule, name)(**arguments)
    except TypeError as error:
        raise ValueError(f"[schedule] has a wrong entry: {error}") from None


def _network(config: dict, loaded: Loaded) -> nn.Module:
    arguments = dict(config["network"])
    kind = arguments.pop("type", "UNet")
    _refuse_other(kind, NETWORKS, "a network")
    if config["data"] == "pictures" and "y" in loaded.conditions:   # as many as sub-folders
        arguments.setdefault("num_classes", int(loaded.conditions["y"].max()) + 1)
    if kind in READERS and "words" not in arguments:
        arguments["words"] = _vocabulary(config, loaded.captions)
    if kind == "TokenTransformer":                                  # one more id: the mask
        arguments |= {"vocabulary": loaded.vocabulary + 1, "length": loaded.x.shape[1]}
    try:
        return network_class(kind)(**arguments)
    except TypeError as error:
        raise ValueError(f"[network] has a wrong entry: {error}") from None


def _options(entries: dict, schedule: Schedule) -> TrainConfig:
    entries = dict(entries)
    if "time_sampler" in entries:
        values = entries["time_sampler"]
        named = isinstance(values, dict) and values.keys() == {"mean", "std"}
        if not named or not all(map(_is_number, values.values())):
            raise ValueError(
                "time_sampler in [train] is {mean = ..., std = ...}, those of a normally "
                f"distributed log-SNR; got {values}"
            )
        entries["time_sampler"] = normal_log_snr(schedule, **values)
    if entries.get("data_range") == "none":
        entries["data_range"] = None
    if isinstance(entries.get("data_range"), list):
        entries["data_range"] = tuple(entries["data_range"])
    return TrainConfig.of(entries)


def _vocabulary(config: dict, captions: list[str] | None) -> list[str]:
    if config["data"] == "nouns":
        from ..data.noun_parts import vocabulary
        return vocabulary()
    if captions is None:
        raise ValueError("this network needs captions, and these data have none")
    split = Tokenizer([]).split
    return sorted({word for caption in captions for word in split(caption)})
