"""Limits of the service."""
from dataclasses import dataclass, fields

from .. import validate


@dataclass(frozen=True)
class Limits:
    """What one request, and all of them together, may cost. Times are in seconds.

    prompt:         characters of the prompt, and of the negative prompt
    steps, guidance, pictures: the most of each; the pictures of a request are drawn in one batch
    picture_bytes, picture_pixels: of a picture that is sent, as a file and decoded
    queue:          requests that wait
    waiting:        until a request's turn comes; then it is refused
    drawing:        for one request; then it is stopped
    patience:       without a look at a request; then it is given up, because its client is gone
    kept:           how long a finished request is kept for its client
    upload:         until a request has arrived
    connections:    HTTP requests that are answered at the same time; an open page holds two
    Raises TypeError or ValueError for limits that are no numbers above 0.
    """

    prompt: int = 500
    steps: int = 50
    guidance: float = 20.0
    pictures: int = 4
    picture_bytes: int = 4_000_000
    picture_pixels: int = 16_000_000
    queue: int = 16
    waiting: float = 60.0
    drawing: float = 60.0
    patience: float = 10.0
    kept: float = 60.0
    upload: float = 10.0
    connections: int = 100

    def __post_init__(self):
        for limit in fields(self):
            value = getattr(self, limit.name)
            if limit.type is int:
                validate.whole(value, limit.name)
            else:
                validate.number(value, limit.name, 0, above=True)

    @property
    def body(self) -> int:
        """Bytes of an HTTP request's body: two pictures in base64, two prompts, and the rest."""
        return 2 * (4 * self.picture_bytes // 3) + 24 * self.prompt + 10_000
