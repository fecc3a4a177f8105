"""The gate: an ASGI application through which every HTTP request comes, before any framework.

It answers the endpoint itself, and hands on to the page only what the page needs. Everything else
that a web framework offers (files, uploads, proxies, dashboards) does not exist behind it.
"""
import asyncio
import json
import logging
from collections.abc import Callable
from urllib.parse import urlsplit

from .. import validate
from .endpoints import Answer, is_endpoint, refuse, respond
from .limits import Limits
from .refusal import Refused, fault
from .service import Service, where

LOG = logging.getLogger("course_lib.web")
LOCAL = ("localhost", "127.0.0.1", "::1")
# what the page of gradio 6 asks for; a name with / at its end stands for all below it
PAGE = {
    "GET": ("/", "/theme.css", "/manifest.json", "/favicon.ico", "/assets/", "/static/",
            "/gradio_api/heartbeat/", "/gradio_api/queue/data"),
    "POST": ("/gradio_api/queue/join",),
}                                                                                    # fmt: skip
# the browser itself asks nobody else, whatever the page says
SAFE = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline' "
    "'unsafe-eval'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; frame-ancestors 'self'; base-uri 'self'; form-action 'self'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Gate:
    """An ASGI application in front of a service, and of a page (another ASGI application, or None).

    hosts: the names under which the service may be addressed. Another name in the Host header means
           that a foreign web page has made a browser ask here (DNS rebinding).
    Raises TypeError for a service of another kind.
    """

    def __init__(
        self, service: Service, page: Callable | None = None, hosts: tuple[str, ...] = LOCAL
    ):
        validate.instance(service, Service, "service", "Service(painter)")
        self.service = service
        self.page = page
        self.hosts = hosts
        self.open = 0                                       # requests under way

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] == "lifespan":
            await (self.page(scope, receive, send) if self.page else _lifespan(receive, send))
        elif scope["type"] == "http":
            self.open += 1
            try:
                await self._http(scope, receive, _safe(send))
            finally:
                self.open -= 1
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: dict, receive: Callable, send: Callable) -> None:
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        try:
            self._admit(scope, headers)
            body = await _body(receive, headers, self.service.limits)
        except Refused as refusal:
            await _send(send, refuse(refusal))
            return
        if body is None:                                    # the client is gone
            return
        if is_endpoint(scope["path"]):
            what = (scope["method"], scope["path"], headers.get("content-type", ""), body)
            await _send(send, await asyncio.to_thread(respond, self.service, *what))
        else:
            await self._hand_on(scope, _replay(body, receive), send)

    async def _hand_on(self, scope: dict, receive: Callable, send: Callable) -> None:
        """To the page. What it raises may quote its client, and is not for the server's log."""
        started = False

        async def sent(message: dict) -> None:
            nonlocal started
            started = True
            await send(message)
        try:
            await self.page(scope, receive, sent)
        except Exception as error:
            LOG.error("%s", where(error))
            if started:
                raise ConnectionAbortedError("the page has failed") from None
            await _send(send, refuse(fault()))

    def _admit(self, scope: dict, headers: dict[str, str]) -> None:
        """Raises Refused for what is no request of a client of ours."""
        if self.open > self.service.limits.connections:
            raise Refused(503, "too many requests at the same time: try again later", 1)
        host = headers.get("host", "")
        if _name(host) not in self.hosts:
            raise Refused(421, "this service is addressed as localhost, and under no other name")
        origin = headers.get("origin")
        reads = scope["method"] in ("GET", "HEAD")
        if not reads and origin is not None and origin.partition("://")[2] != host:
            raise Refused(403, "pages of other sites may not use this service")
        if not is_endpoint(scope["path"]) and not self._is_page(scope):
            raise Refused(404, "there is no such page")

    def _is_page(self, scope: dict) -> bool:
        path, known = scope["path"], PAGE.get(scope["method"].replace("HEAD", "GET"), ())
        if self.page is None or ".." in path or "\\" in path or "\0" in path:
            return False
        below = any(path.startswith(name) for name in known if len(name) > 1 and name[-1] == "/")
        return path in known or below


def _name(host: str) -> str | None:
    """The name in a Host header, without the port."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


async def _body(receive: Callable, headers: dict[str, str], limits: Limits) -> bytes | None:
    """The request's body; None where the client is gone before its end.

    One that is too large is read on, up to the same time, and thrown away: a client that still
    sends would not see the refusal. Raises Refused for one that is too large or too slow.
    """
    too_large = Refused(413, f"a request may have {limits.body:,} bytes")
    announced = headers.get("content-length", "0")
    if "expect" in headers and (len(announced) > 15 or int(announced) > limits.body):
        raise too_large                                     # it asks before it sends
    found = bytearray()
    size = 0
    try:
        async with asyncio.timeout(limits.upload):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                size += len(message.get("body", b""))
                if size <= limits.body:
                    found += message.get("body", b"")
                if not message.get("more_body", False):
                    break
    except TimeoutError:
        if size <= limits.body:
            raise Refused(408, f"a request must arrive within {limits.upload:g} s") from None
    if size > limits.body:
        raise too_large
    return bytes(found)


def _replay(body: bytes, receive: Callable) -> Callable:
    """`receive` for the application behind, which gets the body that was read here."""
    first = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> dict:
        return first.pop() if first else await receive()
    return replayed


def _safe(send: Callable) -> Callable:
    """`send` with headers that keep the browser from asking anyone else."""
    added = [(name.lower().encode(), value.encode()) for name, value in SAFE.items()]

    async def sent(message: dict) -> None:
        if message["type"] == "http.response.start":
            message = message | {"headers": [*message.get("headers", ()), *added]}
        await send(message)
    return sent


async def _send(send: Callable, answer: Answer) -> None:
    body = json.dumps(answer.content).encode()
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "cache-control": "no-store",
        **answer.headers,
    }
    if answer.status in (408, 413):                         # what is left of the body is not read
        headers["connection"] = "close"
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": int(answer.status), "headers": pairs})
    await send({"type": "http.response.body", "body": body})


async def _lifespan(receive: Callable, send: Callable) -> None:
    """Start and end of a server without a page."""
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return
