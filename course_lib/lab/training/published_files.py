"""Fetching published weights, when the reader asks: a pinned source, and its digests.

The first owner of Stable Diffusion 1.5's page (runwayml) took it down in August 2024, Stability AI
those of 2.x in November 2025. What is left are copies by others; a digest says that a copy is one.
"""
import hashlib
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from ... import validate


class Source(NamedTuple):
    """Where a model is: a repository of the Hugging Face hub, a commit, its large files' SHA-256,
    and how much is fetched in all.
    """
    repository: str
    revision: str
    sha256: dict[str, str]
    gigabytes: float


SOURCES = {
    "stable-diffusion-1.5": Source(
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
        {
            "unet/diffusion_pytorch_model.fp16.safetensors":
                "c83908253f9a64d08c25fc90874c9c8aef9a329ce1ca5fb909d73b0c83d1ea21",
            "vae/diffusion_pytorch_model.fp16.safetensors":
                "4fbcf0ebe55a0984f5a5e00d8c4521d52359af7229bb4d81890039d2aa16dd7c",
            "text_encoder/model.fp16.safetensors":
                "77795e2023adcf39bc29a884661950380bd093cf0750a966d473d1718dc9ef4e",
        },
        2.13,
    ),
    # what the test suite of diffusers loads: random weights, stored as pickles, which
    # load_published refuses until diffusers has converted them; commit and digests are from one
    # public file (those above from several that agree), and nobody has fetched it for this course
    "tiny-stable-diffusion": Source(
        "hf-internal-testing/tiny-stable-diffusion-torch",
        "a88cdfbd91f96ec7f61eb7484b652ff0f4ee701d",
        {
            "unet/diffusion_pytorch_model.bin":
                "228772f10e985dbe23aa818dc665754ad635d043e2d18c1a5cf1b1b8d34961a4",
            "vae/diffusion_pytorch_model.bin":
                "56861600bf1a29357ccb828f66ed2a1747b9026c894ab47aaacb082b20673f41",
            "text_encoder/pytorch_model.bin":
                "9d56720d7eb5270ea803289848671ddcc3de5c80a56641e88148136d2de28ed8",
        },
        0.04,
    ),
}
SMALL = ("model_index.json", "*/config.json", "scheduler/*", "tokenizer/*")


def fetch_published(
    name: str = "stable-diffusion-1.5", folder: str | Path | None = None
) -> Path:
    """The folder of a published model; what is there is not fetched again. Nothing is opened here:
    `load_published` does that, and refuses pickles.

    folder: where the files go; None: the hub's own cache
    An interrupted download goes on when it is called again. Raises ValueError for another name,
    ConnectionError without a network, OSError where a file's digest differs.
    """
    validate.choice(name, "name", tuple(SOURCES))
    source = SOURCES[name]
    try:
        found = snapshot_download(
            source.repository,
            revision=source.revision,
            allow_patterns=[*SMALL, *source.sha256],
            local_dir=folder,
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ConnectionError(
            f"{source.repository} could not be reached ({type(error).__name__}): fetch it where "
            f"there is a network, {source.gigabytes} GB, and copy the folder here"
        ) from error
    for path, digest in source.sha256.items():
        file = Path(found) / path
        with file.open("rb") as stream:
            found_digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if found_digest != digest:
            raise OSError(
                f"{file} is not the published file (its SHA-256 differs): delete it, and fetch it "
                "again"
            )
    return Path(found)
