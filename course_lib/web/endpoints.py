"""The JSON endpoint, as one function from a request to an answer: any HTTP server can call it.

    POST   /api/pictures       {"prompt": "a panda", "seed": 1}   ->  202 {"id": ...}
    GET    /api/pictures/ID    {"state": "drawing", "step": 3, ...}, at last with "pictures": PNG
                               files in base64; a request that nobody looks at is given up
    DELETE /api/pictures/ID    cancels it, or forgets its pictures
    GET    /api/limits         what may be asked; GET /health: whether the service works

What is refused has {"error": a sentence}.
"""
import base64
import dataclasses
import logging
from typing import Any, NamedTuple

from .. import validate
from ..lab.evaluation.sampling import SAMPLERS
from .refusal import Refused, fault
from .request import defaults, read_json
from .service import Service, where

LOG = logging.getLogger("course_lib.web")
PICTURES = "/api/pictures"


class Answer(NamedTuple):
    """status: of HTTP; content: to be sent as JSON; headers: further ones, by name."""

    status: int
    content: dict[str, Any]
    headers: dict[str, str]


def respond(
    service: Service, method: str, path: str, content_type: str = "", body: bytes = b""
) -> Answer:
    """The answer to a request of HTTP; errors become answers, too.

    path: without the query; content_type: the header, needed where there is a body
    Raises TypeError where service is no Service.
    """
    validate.instance(service, Service, "service", "Service(painter)")
    try:
        status, content = _route(service, method, path, content_type, body)
        return Answer(status, content, {})
    except Refused as refusal:
        return refuse(refusal)
    except Exception as error:
        LOG.error("%s", where(error))
        return refuse(fault())


def refuse(refusal: Refused) -> Answer:
    """A refusal as an answer."""
    later = refusal.retry_after
    headers = {} if later is None else {"Retry-After": str(later)}
    return Answer(refusal.status, {"error": refusal.sentence}, headers)


def is_endpoint(path: str) -> bool:
    """Whether a path belongs to the endpoint, rather than to the page."""
    return path in ("/health", "/api") or path.startswith("/api/")


def _route(service, method, path, content_type, body) -> tuple[int, dict[str, Any]]:
    known = {
        "/health": {"GET": lambda: (200, {"status": "ok", **service.health()})},
        "/api/limits": {"GET": lambda: (200, _limits(service))},
        PICTURES: {"POST": lambda: _ask(service, content_type, body)},
    }
    parent, _, id = path.rpartition("/")
    if parent == PICTURES and id:
        known[path] = {
            "GET": lambda: (200, _report(service, id)),
            "DELETE": lambda: _cancel(service, id),
        }
    if path not in known:
        raise Refused(404, f"there is no such page; the endpoint is {PICTURES}")
    if method not in known[path]:
        raise Refused(405, f"this page takes {' or '.join(known[path])}, and no {method[:10]}")
    return known[path][method]()


def _limits(service: Service) -> dict[str, Any]:
    height, width = service.painter.size
    return {
        "model": service.painter.name,
        "height": height,
        "width": width,
        "samplers": list(SAMPLERS),
        "defaults": defaults(service.limits),
        "limits": dataclasses.asdict(service.limits),
    }


def _ask(service: Service, content_type: str, body: bytes) -> tuple[int, dict[str, Any]]:
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise Refused(415, "send JSON, with the header Content-Type: application/json")
    if len(body) > service.limits.body:
        raise Refused(413, f"a request may have {service.limits.body:,} bytes")
    return 202, {"id": service.ask(read_json(body))}


def _report(service: Service, id: str) -> dict[str, Any]:
    report = service.look(id)
    del report["preview"]                                   # for the page alone
    report["pictures"] = [base64.b64encode(file).decode() for file in report["pictures"]]
    return report


def _cancel(service: Service, id: str) -> tuple[int, dict[str, Any]]:
    service.cancel(id)
    return 200, {"state": "cancelled"}
