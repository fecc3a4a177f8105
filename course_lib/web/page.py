"""The web page, in Gradio, which is imported when the page is built."""
import html

from .. import validate
from ..lab.evaluation.sampling import SAMPLERS
from . import canvas
from .follow import cancel, follow
from .request import defaults
from .service import Service

ABOUT = """<p>A prompt is forgotten when its picture is drawn, a picture when this page has it.
Neither is written to a disk.</p>"""
CSS = """
h1 { font-size: 1.25rem; }
.result img, .preview img { width: 100%; max-width: 20rem; image-rendering: pixelated; }
.result figure { margin: 0 0 1rem; }
"""
# these run in the browser: the inputs and the canvas as the endpoint's JSON; a result to the canvas
READ = """
(...values) => {
  const names = ["prompt", "negative_prompt", "seed", "steps", "guidance", "sampler", "pictures",
                 "strength"];
  const fields = Object.fromEntries(names.map((name, k) => [name, values[k]]));
  const canvas = window.courseCanvas.read();
  return JSON.stringify(canvas ? {...fields, ...canvas} : {...fields, strength: null});
}
"""
TAKE = """
() => {
  const image = document.querySelector('.result img');
  if (image) window.courseCanvas.take(image.src);
}
"""


def build(service: Service):
    """The page of a service, a gradio.Blocks.

    Raises ImportError where gradio is missing, TypeError where service is no Service.
    """
    validate.instance(service, Service, "service", "Service(painter)")
    import gradio as gr
    height, width = service.painter.size
    title = f"{service.painter.name}, {width} x {height} pixels"
    with gr.Blocks(analytics_enabled=False, title=title) as page, gr.Row():
        with gr.Column():
            gr.HTML(f"<h1>{html.escape(title)}</h1>{ABOUT}")
            inputs = _inputs(gr, service)
            draw = gr.Button("Draw", variant="primary")
            stop = gr.Button("Cancel")
        with gr.Column():
            shown = [gr.HTML(elem_classes=kind) for kind in ("status", "preview", "result")]
            again = gr.Button("Put the picture on the canvas")
        with gr.Column():
            gr.HTML(
                html_template=canvas.HTML,
                css_template=canvas.CSS,
                js_on_load=canvas.JS,
                width=width,
                height=height,
            )
        body = gr.Textbox(visible=False)                    # of the request, in JSON
        id = gr.State("")                                   # of this session's request

        async def run(body):
            async for now in follow(service, body):
                yield tuple(now)
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        # one input alone, as it is: gradio would print what it cannot read, and our door says it
        asked = draw.click(None, inputs, body, js=READ, **quiet)
        asked.then(run, body, [*shown, id], preprocess=False, **quiet)
        stop.click(lambda id: cancel(service, id), id, None, **quiet)
        again.click(None, None, None, js=TAKE, **quiet)
    page.queue(max_size=2 * service.limits.queue, default_concurrency_limit=None)
    return page


def _inputs(gr, service: Service) -> list:
    """The inputs, in the order of the names in READ."""
    limits, usual = service.limits, defaults(service.limits)
    return [
        gr.Textbox(label="Prompt", lines=2, max_length=limits.prompt),
        gr.Textbox(label="Negative prompt", max_length=limits.prompt),
        gr.Number(None, label="Seed (empty: a random one)", precision=0),
        gr.Slider(1, limits.steps, usual["steps"], step=1, label="Steps"),
        gr.Slider(0, limits.guidance, usual["guidance"], step=0.1, label="Guidance"),
        gr.Dropdown(list(SAMPLERS), value=usual["sampler"], label="Sampler"),
        gr.Slider(1, limits.pictures, usual["pictures"], step=1, label="Pictures"),
        gr.Slider(0.05, 1, 0.6, step=0.05, label="Strength: how much of the canvas is changed"),
    ]
