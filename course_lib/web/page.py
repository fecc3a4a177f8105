"""The web page, in Gradio, which is imported when the page is built."""
import html

from .. import validate
from ..lab.evaluation.sampling import SAMPLERS
from . import canvas
from .follow import cancel, follow
from .request import defaults
from .service import Service

ABOUT = """<p class="small">A prompt is forgotten when its picture is drawn, a picture when this
page has it. Neither is written to a disk. {mark}</p>"""
MARKED = "The noise that pictures start from carries this service's secret mark."
CSS = """
h1 { font-size: 1.25rem; margin: 0; }
.small { font-size: 0.8125rem; color: gray; }
.status { font-weight: 600; }
.status, .preview, .result { padding-top: 0 !important; padding-bottom: 0 !important; }
.preview img, .result img { width: 100%; max-width: 20rem; image-rendering: pixelated; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; }
.pictures figure { margin: 0; width: 20rem; max-width: 100%; }
.pictures.several figure { width: calc(50% - 0.5rem); }
.pictures figcaption { display: flex; gap: 1rem; padding: 0.25rem 0; }
.pictures a, .pictures button { text-decoration: underline; cursor: pointer; padding: 0 !important;
    background: none !important; font: inherit !important; color: inherit !important; }
"""
# this runs in the browser: the inputs and the canvas as the endpoint's JSON
READ = """
(...values) => {
  const names = ["prompt", "negative_prompt", "seed", "steps", "guidance", "sampler", "pictures",
                 "strength"];
  const fields = Object.fromEntries(names.map((name, k) => [name, values[k]]));
  const seed = (fields.seed || "").trim();
  fields.seed = seed === "" ? null : /^-?[0-9]+$/.test(seed) ? Number(seed) : seed;
  const canvas = window.courseCanvas.read();
  if (canvas === null || canvas.mask !== null) fields.strength = null;
  return JSON.stringify({...fields, ...canvas});
}
"""


def build(service: Service):
    """The page of a service, a gradio.Blocks.

    Raises ImportError where gradio is missing, TypeError where service is no Service.
    """
    validate.instance(service, Service, "service", "Service(painter)")
    import gradio as gr
    title = "{}: {} x {} pixels".format(service.painter.name, *service.painter.size[::-1])
    with gr.Blocks(analytics_enabled=False, title=title) as page, gr.Row():
        with gr.Column():
            gr.HTML(f"<h1>{html.escape(title)}</h1>")
            prompts = _prompts(gr, service)
            with gr.Row():
                draw = gr.Button("Draw", variant="primary", min_width=100)
                stop = gr.Button("Cancel", min_width=100)
            shown = [gr.HTML(elem_classes=kind) for kind in ("status", "preview", "result")]
        with gr.Column():
            settings = _settings(gr, service)
            mark = "" if service.painter.watermark is None else MARKED
            gr.HTML(ABOUT.format(mark=mark))
        with gr.Column():
            strength = _canvas(gr, service)
        _connect(gr, service, [*prompts, *settings, strength], shown, draw, stop)
    page.queue(max_size=2 * service.limits.queue, default_concurrency_limit=None)
    return page


def _connect(gr, service: Service, inputs: list, shown: list, draw, stop) -> None:
    """What the buttons do. inputs: in the order of the names in READ."""
    body = gr.Textbox(visible=False)                        # of the request, in JSON
    id = gr.State("")                                       # of this session's request

    async def run(body):
        async for now in follow(service, body):
            yield tuple(now)
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    # one input alone, as it is: gradio would print what it cannot read, and our door says it
    asked = draw.click(None, inputs, body, js=READ, **quiet)
    asked.then(run, body, [*shown, id], preprocess=False, **quiet)
    stop.click(lambda id: cancel(service, id), id, None, **quiet)


def _prompts(gr, service: Service) -> list:
    limits, example = service.limits, service.painter.example
    hint = f"such as: {example}" if example else None
    return [
        gr.Textbox(label="Prompt", lines=3, max_length=limits.prompt, placeholder=hint),
        gr.Textbox(label="Negative prompt", max_length=limits.prompt,
                   placeholder="what the picture should not show"),
    ]


def _settings(gr, service: Service) -> list:
    limits, usual = service.limits, defaults(service.limits)
    return [
        gr.Textbox(label="Seed", max_length=12, placeholder="empty: a new one each time"),
        gr.Slider(1, limits.steps, usual["steps"], step=1, label="Steps"),
        gr.Slider(0, limits.guidance, usual["guidance"], step=0.1, label="Guidance"),
        gr.Dropdown(list(SAMPLERS), value=usual["sampler"], label="Sampler"),
        gr.Slider(1, limits.pictures, usual["pictures"], step=1, label="Pictures"),
    ]


def _canvas(gr, service: Service):
    """The canvas, and below it the slider of its strength, which is handed back."""
    height, width = service.painter.size
    gr.HTML(
        html_template=canvas.HTML,
        css_template=canvas.CSS,
        js_on_load=canvas.JS,
        width=width,
        height=height,
    )
    info = "how much of a picture without strokes is changed"
    return gr.Slider(0.05, 1, 0.6, step=0.05, label="Strength", info=info)
