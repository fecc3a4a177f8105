"""One request as the page shows it: a stream of pieces of HTML, without a web framework."""
import asyncio
import base64
import html
import logging
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from .. import validate
from .refusal import Refused, fault
from .request import read_json
from .service import Service, where

LOG = logging.getLogger("course_lib.web")
BETWEEN_LOOKS = 0.1                                         # seconds
TAKE = "courseCanvas.take(this.closest('figure').querySelector('img').src)"
CHANGE = f'<button type="button" onclick="{TAKE}">change this</button>'


class Shown(NamedTuple):
    """What the page shows: three pieces of HTML, and the id of the request, "" when it is over."""

    status: str
    preview: str
    result: str
    id: str


async def follow(service: Service, body: Any) -> AsyncIterator[Shown]:
    """Ask for what the page says, then say how it stands, up to its end.

    body: a string, the JSON object that the endpoint takes, too
    Closed before its end, it cancels the request. Raises TypeError where service is no Service.
    """
    validate.instance(service, Service, "service", "Service(painter)")
    id = ""
    try:
        fields = read_json(str(body).encode(errors="replace"))
        id = await asyncio.to_thread(service.ask, fields, preview=True)
        shown = None
        while shown is None or shown.id:
            now = _show(service, id, fields)
            if now != shown:
                shown = now
                yield shown
            await asyncio.sleep(BETWEEN_LOOKS)
    except Refused as refusal:
        cancelled = id and refusal.status == 404            # by the page's other button
        yield Shown("cancelled" if cancelled else html.escape(refusal.sentence), "", "", "")
    except Exception as error:
        LOG.error("%s", where(error))
        yield Shown(fault().sentence, "", "", "")
    finally:
        cancel(service, id)


def cancel(service: Service, id: str) -> None:
    """Cancel a request, or forget its pictures; of an id that is not known (any more), nothing."""
    validate.instance(service, Service, "service", "Service(painter)")
    try:
        service.cancel(id)
    except Refused:
        pass


def _show(service: Service, id: str, fields: dict[str, Any]) -> Shown:
    report = service.look(id)
    state = report["state"]
    status = {
        "waiting": f"waiting, number {report['place']} in the queue",
        "drawing": f"step {report['step']} of {report['steps']}",
        "done": f"done, seed {report['seed']}",
    }[state]
    if report["unknown_words"] and state == "done":
        status += f"; not in the vocabulary: {', '.join(report['unknown_words'])}"
    preview = "" if report["preview"] is None else _image(report["preview"], "a preview")
    files = enumerate(report["pictures"], 1)
    name = f"{service.painter.name}-{report['seed']}"
    prompt = fields.get("prompt", "")
    figures = [_figure(file, f"{name}-{k}.png", prompt) for k, file in files]
    kind = "pictures several" if len(figures) > 1 else "pictures"
    result = f'<div class="{kind}">{"".join(figures)}</div>' if figures else ""
    return Shown(html.escape(status), preview, result, "" if state == "done" else id)


def _address(file: bytes) -> str:
    """The file itself as an address: it is never stored, and nobody else can ask for it."""
    return f"data:image/png;base64,{base64.b64encode(file).decode()}"


def _image(file: bytes, alt: str) -> str:
    return f'<img src="{_address(file)}" alt="{html.escape(alt)}">'


def _figure(file: bytes, name: str, prompt: str) -> str:
    link = f'<a download="{html.escape(name)}" href="{_address(file)}">download</a>'
    below = f"<figcaption>{link} {CHANGE}</figcaption>"
    return f"<figure>{_image(file, prompt)}{below}</figure>"
