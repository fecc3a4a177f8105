"""One worker draws, the others wait: a queue with limits, progress and cancelling.

Nothing of one client is ever shown to another: a request is known by a secret id alone, its prompt
is forgotten when it is drawn, its pictures when its client has had time to fetch them.
"""
import logging
import secrets
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from .. import validate
from .limits import Limits
from .painter import Painter
from .refusal import Refused, fault
from .request import Request, read_request

LOG = logging.getLogger("course_lib.web")
BETWEEN_PREVIEWS = 0.3                                      # seconds: a decoder costs time, too


class Stopped(Exception):
    """Ends the drawing of a request."""


@dataclass(eq=False)
class Job:
    """A request on its way, and what became of it.

    request: None when it is over; state: waiting, drawing, done, failed (with a refusal), cancelled
    seen:    when its client last looked; changed: when its state last changed, in seconds of the
             service's clock
    """

    request: Request | None
    wants_preview: bool
    steps: int
    unknown_words: list[str]
    seed: int
    created: float
    seen: float
    changed: float
    state: str = "waiting"
    step: int = 0
    preview: bytes | None = None
    previewed: float = 0.0
    pictures: list[bytes] = field(default_factory=list)
    refusal: Refused | None = None


class Service:
    """A painter behind a queue. `with Service(painter) as service:` stops its worker at the end.

    clock: seconds from any moment on; tests have one of their own
    Raises TypeError for limits of another kind. All methods may be called from any thread, and none
    waits for the worker.
    """

    def __init__(
        self,
        painter: Painter,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        limits = Limits() if limits is None else limits
        validate.instance(limits, Limits, "limits", "Limits(steps=20)")
        self.painter = painter
        self.limits = limits
        self.clock = validate.function(clock, "clock", "() -> seconds")
        self._jobs: dict[str, Job] = {}
        self._waiting: deque[Job] = deque()
        self._drawing: Job | None = None
        self._mean = 1.0                                    # seconds of a request, roughly
        self._closed = False
        self._change = threading.Condition()
        self._reading = threading.Lock()
        self._worker = threading.Thread(target=self._work, name="painter", daemon=True)
        self._worker.start()

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def close(self) -> None:
        """Stops the worker, within one evaluation of the network, and forgets all requests."""
        with self._change:
            self._closed = True
            self._jobs.clear()
            self._waiting.clear()
            if self._drawing is not None:
                self._end(self._drawing, "cancelled")
            self._change.notify_all()
        self._worker.join(timeout=30)

    # ---- for clients

    def ask(self, fields: dict[str, Any], preview: bool = False) -> str:
        """Puts a request into the queue and returns its id, which only its client may know.

        fields: as in `request.DEFAULTS`; preview: make pictures of the current prediction, too
        Raises Refused for a request that the limits do not allow, and while the queue is full.
        """
        self._refuse_if_full()
        with self._reading:                                 # one picture in memory at a time
            request = read_request(fields, self.limits, self.painter.size)
        self.painter.prepare(request)
        words = self.painter.unknown_words(request)
        job = Job(request, preview, request.steps, words, request.seed, *[self.clock()] * 3)
        with self._change:
            self._refuse_if_full()
            id = secrets.token_urlsafe(16)
            self._jobs[id] = job
            self._waiting.append(job)
            self._change.notify_all()
        return id

    def look(self, id: str) -> dict[str, Any]:
        """How a request stands: a dict with its state, step, steps, seed, place in the queue,
        preview and pictures (PNG files), unknown words.

        A look is also a sign of life. Raises Refused for an id that is not known (any more), and
        for a request that waited or took too long, or failed.
        """
        with self._change:
            self._tidy()
            job = self._job(id)
            job.seen = self.clock()
            if job.refusal is not None:
                raise job.refusal
            names = ("state", "step", "steps", "seed", "preview", "unknown_words")
            place = 1 + self._waiting.index(job) if job.state == "waiting" else 0
            return {name: getattr(job, name) for name in names} | {
                "place": place, "pictures": list(job.pictures),
            }

    def cancel(self, id: str) -> None:
        """Ends a request, wherever it stands, and forgets it, with its pictures.

        Raises Refused for an id that is not known (any more).
        """
        with self._change:
            self._end(self._job(id), "cancelled")
            del self._jobs[id]

    def health(self) -> dict[str, Any]:
        """Whether the worker works, and how much there is to do: nothing of any client.

        Raises Refused (503) where it does not.
        """
        with self._change:
            self._tidy()
            job, late = self._drawing, 2 * self.limits.drawing
            hangs = job is not None and self.clock() - job.changed > late
            if self._closed or hangs or not self._worker.is_alive():
                raise Refused(503, "the worker does not work: the service must be started anew")
            waiting, drawing = len(self._waiting), int(job is not None)
        return {"model": self.painter.name, "waiting": waiting, "drawing": drawing}

    def _job(self, id: str) -> Job:
        if id not in self._jobs:
            raise Refused(404, "there is no such request, or it is forgotten: ask again")
        return self._jobs[id]

    def _refuse_if_full(self) -> None:
        with self._change:
            self._tidy()
            n, later = len(self._waiting), 1 + round(self._mean)
            if self._closed:
                raise Refused(503, "the service is being stopped")
            if n >= self.limits.queue:
                raise Refused(503, f"{n} requests are waiting already: try again later", later)

    # ---- the life of a job; the lock is held

    def _tidy(self) -> None:
        """Gives up what waits too long or is not looked at, and forgets what is over."""
        now, limits = self.clock(), self.limits
        for job in list(self._waiting):
            if now - job.seen > limits.patience:
                self._end(job, "failed", self._given_up())
            elif now - job.created > limits.waiting:
                sentence = f"your turn did not come within {limits.waiting:g} s: try again later"
                self._end(job, "failed", Refused(503, sentence, 1 + round(self._mean)))
        for id, job in list(self._jobs.items()):
            if job.request is None and now - job.changed > limits.kept:
                del self._jobs[id]

    def _end(self, job: Job, state: str, refusal: Refused | None = None) -> None:
        """The last change of a job, after which nothing of its request is left."""
        if job.state in ("waiting", "drawing"):
            job.state = state
            job.refusal = refusal
            job.changed = self.clock()
            job.request = None
            job.preview = None
        if job in self._waiting:
            self._waiting.remove(job)

    def _given_up(self) -> Refused:
        seconds = f"{self.limits.patience:g}"
        return Refused(410, f"nobody looked at this request for {seconds} s: it was given up")

    # ---- the worker

    def _work(self) -> None:
        while not self._closed:
            found = self._next()
            if found is not None:
                self._draw(*found)

    def _next(self) -> tuple[Job, Request] | None:
        with self._change:
            self._tidy()
            if not self._waiting:
                self._change.wait(timeout=1)
                return None
            job = self._drawing = self._waiting.popleft()
            job.state = "drawing"
            job.changed = self.clock()
            return job, job.request

    def _draw(self, job: Job, request: Request) -> None:
        start = self.clock()
        state, pictures, refusal = "failed", [], None
        try:
            pictures = self.painter.paint(request, partial(self._see, job, start))
            state = "done"
        except Stopped:
            state = "cancelled"
        except Refused as reason:
            refusal = reason
        except Exception as error:
            refusal = fault()
            LOG.error("%s", where(error))
        seconds = self.clock() - start
        with self._change:
            self._drawing = None
            if job.state == "drawing" and state == "done":
                job.pictures = pictures
                self._mean += 0.2 * (seconds - self._mean)
            self._end(job, state, refusal)
            state = job.state
        _log(job, request, state, start - job.created, seconds)

    def _see(self, job: Job, start: float, step: int, preview) -> None:
        """Called by the painter, between evaluations of the network."""
        now, limits = self.clock(), self.limits
        with self._change:
            if job.state != "drawing":
                raise Stopped
            job.step = step
        if now - job.seen > limits.patience:
            raise self._given_up()
        if now - start > limits.drawing:
            sentence = f"it took longer than {limits.drawing:g} s: ask for less, or for fewer steps"
            raise Refused(503, sentence)
        if not job.wants_preview or now - job.previewed < BETWEEN_PREVIEWS:
            return
        picture = preview()
        with self._change:
            if job.state == "drawing":
                job.preview = picture
        job.previewed = self.clock()


def _log(job: Job, request: Request, state: str, waited: float, seconds: float) -> None:
    """One line for each request: numbers and names of ours, no word of its client's."""
    LOG.info(
        "%s: %d of %d steps of %s, pictures: %d, waited %.1f s, took %.1f s",
        state, job.step, request.steps, request.sampler, request.pictures, waited, seconds,
    )


def where(error: Exception) -> str:
    """The kind of an error and where it was raised. Its message may quote a prompt.

    Raises TypeError for what is no exception.
    """
    validate.instance(error, Exception, "error", "ValueError()")
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {last.name}, {last.filename}, line {last.lineno}"
