"""The service on a port of this machine: uvicorn, the gate, and the page behind it."""
import contextlib
import importlib.util
import os
import tempfile

from .. import validate
from .gate import LOCAL, Gate
from .service import Service


def private_environment(folder: str) -> None:
    """Settings of gradio, before it is imported: it asks nobody, and its files are in `folder`.

    Settings of the user's own, such as GRADIO_SHARE, are taken back.
    """
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": str(folder),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
    }


def page_application(service: Service):
    """The page as an ASGI application, of which only the gate should hand out anything.

    Raises ImportError where gradio is missing.
    """
    import fastapi
    import gradio as gr

    from .page import CSS, build
    theme = gr.themes.Base(font=["sans-serif"], font_mono=["monospace"])    # no remote fonts
    return gr.mount_gradio_app(
        fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        build(service),
        path="/",
        theme=theme,
        css=CSS,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        pwa=False,
        show_error=False,
        max_file_size=1,
    )


def _impatient(seconds: float) -> type:
    """uvicorn's protocol, which closes a connection when the head of a request takes longer."""
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Impatient(H11Protocol):
        late = None

        def connection_made(self, transport):
            super().connection_made(transport)
            self._expect_head()

        def data_received(self, data):
            super().data_received(data)
            self._expect_head()

        def connection_lost(self, exc):
            super().connection_lost(exc)
            self._arrived()

        def _expect_head(self):
            if self.conn.their_state is not h11.IDLE:
                self._arrived()
            elif self.late is None:
                self.late = self.loop.call_later(seconds, self.transport.close)

        def _arrived(self):
            if self.late is not None:
                self.late.cancel()
                self.late = None
    return Impatient


def configuration(application, service: Service, host: str, port: int):
    """uvicorn's configuration: no access log, for addresses hold ids; a head that does not arrive
    in time ends the connection.

    Raises ImportError where uvicorn is missing.
    """
    import uvicorn
    limits = service.limits
    return uvicorn.Config(
        application,
        host=host,
        port=port,
        http=_impatient(limits.upload),
        ws="none",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=2 * limits.connections,
        h11_max_incomplete_event_size=16_384,
        timeout_graceful_shutdown=3,
    )


def serve(
    service: Service, host: str = "127.0.0.1", port: int = 7860, hosts: tuple[str, ...] = LOCAL
) -> None:
    """Serve until Ctrl-C: the page where gradio is installed, and the JSON endpoint.

    hosts: names in the address under which clients may ask
    Raises ImportError where uvicorn is missing, TypeError or ValueError for a port that is none.
    """
    validate.instance(service, Service, "service", "Service(painter)")
    validate.whole(port, "port", 0, 65535)
    if importlib.util.find_spec("uvicorn") is None:
        raise ImportError("the service needs the extra `web`: pip install 'course_lib[web]'")
    import uvicorn
    with tempfile.TemporaryDirectory(prefix="course-web-") as folder:   # for this user alone
        private_environment(folder)
        page = page_application(service) if importlib.util.find_spec("gradio") else None
        if page is None:
            print("gradio is not installed: there is no page, only the JSON endpoint")
        print(f"{service.painter.name} at http://{host}:{port}, Ctrl-C ends it", flush=True)
        gate = Gate(service, page, hosts)
        # gradio prints errors, and quotes in them what a client has sent
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            uvicorn.Server(configuration(gate, service, host, port)).run()
