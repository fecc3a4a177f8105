"""How the service says no."""
from http import HTTPStatus

from .. import validate


class Refused(Exception):
    """A request that is not served: one sentence for its client, and the HTTP status it gets.

    retry_after: seconds after which it may be worth another try, or None
    """

    def __init__(self, status: int, sentence: str, retry_after: int | None = None):
        super().__init__(sentence)
        self.status = HTTPStatus(validate.whole(status, "status", 400, 599))
        self.sentence = sentence
        self.retry_after = retry_after


def fault() -> Refused:
    """What a client is told of an error of ours."""
    return Refused(500, "something went wrong here, and it is not your fault")
