"""The real JupyterLab in a real browser: run cells up to a widget, move its slider by keyboard or
write into its box, see the figure change.
"""
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None,
        reason="no Chromium on this machine: install Debian's `chromium` to run the browser test",
    ),
]

RUN_ALL = """async () => {
    const app = window.jupyterapp;
    await app.restored;
    const panel = app.shell.currentWidget;
    await panel.context.ready;
    await panel.sessionContext.ready;
    await app.commands.execute('notebook:run-all-cells');
}"""
PICTURES = ".jupyter-widgets-output-area img, .widget-output img"
CHANGED = (
    f"old => {{ const all = document.querySelectorAll('{PICTURES}'); return all.length && "
    f"all[all.length - 1].src !== old }}"
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab on an empty folder: the folder and the address."""
    folder = tmp_path_factory.mktemp("lab")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    environment = os.environ | {
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "COURSE_STATIC": "0",
    }
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "jupyterlab",
            "--no-browser",
            "--allow-root",
            f"--port={port}",
            "--ip=127.0.0.1",
            f"--notebook-dir={folder}",
            "--LabApp.expose_app_in_browser=True",
            "--IdentityProvider.token=",
        ],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/api", timeout=2)
                break
            except OSError:
                time.sleep(0.5)
        yield folder, address
    finally:
        server.terminate()
        server.wait(30)


@contextlib.contextmanager
def opened(lab, notebook: nbformat.NotebookNode):
    """The notebook in JupyterLab in Chromium, every cell run: yields the page; at the end no cell
    may have failed.
    """
    from playwright.sync_api import sync_playwright
    folder, address = lab
    name = f"lesson{len(list(folder.glob('*.ipynb')))}.ipynb"
    nbformat.write(notebook, folder / name)
    with sync_playwright() as p:
        browser = p.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1200, "height": 1400})
        page.goto(f"{address}/lab/tree/{name}?reset", timeout=120_000)
        page.wait_for_function("window.jupyterapp !== undefined", timeout=120_000)
        page.wait_for_selector(".jp-NotebookPanel", timeout=120_000)
        page.evaluate(RUN_ALL)
        yield page
        assert not page.locator(
            ".jp-RenderedText[data-mime-type='application/vnd.jupyter.error']"
        ).count()
        page.evaluate(
            "async () => { await window.jupyterapp.commands.execute('kernelmenu:shutdown'); }"
        )
        browser.close()


def shown(page) -> str:
    """The newest picture of a widget, once there is one."""
    picture = page.locator(PICTURES).last
    picture.wait_for(timeout=180_000)
    return picture.get_attribute("src")


def test_a_student_moves_the_slider(lab):
    """Notebook 01 up to its first widget."""
    notebook = nbformat.read(ROOT / "notebooks/01_diffusion_fundamentals.ipynb", 4)
    end = next(
        i
        for i, cell in enumerate(notebook.cells)
        if cell.cell_type == "code" and "widgets." in cell.source
    )
    notebook.cells = notebook.cells[:end + 1]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
            cell.execution_count = None
    with opened(lab, notebook) as page:
        before = shown(page)
        slider = page.locator(".noUi-handle").last
        slider.focus()
        for _ in range(5):
            slider.press("ArrowRight")
        page.wait_for_function(CHANGED, arg=before, timeout=60_000)


def lesson(*cells: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in cells],
        metadata={
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
        },
    )


def test_a_student_guides_a_mixture(lab):
    """Lesson 5's guidance explorer: another w, another cloud."""
    cells = (
        "from course_lib import Schedule\nfrom course_lib.lab import data, widgets",
        (
            "widgets.guidance_explorer(data.GaussianMixture([[-1., 0.], [1., 0.]], 0.3), "
            "data.GaussianMixture([[-1., 0.]], 0.3), Schedule.cosine())"
        ),
    )
    with opened(lab, lesson(*cells)) as page:
        before = shown(page)
        slider = page.locator(".noUi-handle").last
        slider.focus()
        slider.press("ArrowRight")
        page.wait_for_function(CHANGED, arg=before, timeout=60_000)


def test_a_student_writes_a_caption(lab):
    """Lesson 5's prompt box: another caption, another picture, a word that it does not know, and a
    caption that is too long.
    """
    with opened(
        lab,
        lesson(
            "from course_lib.lab import train, widgets\nwidgets.prompt_box(train.load('nouns'), "
            "['a panda'])"
        ),
    ) as page:
        before, box = shown(page), page.locator(".widget-text input")
        for caption, answer in (
            ("a shark head, red glasses", None),
            ("a kitten head", "read as an unknown word: kitten"),
            ("a " * 40, "a caption has at most 32 words"),
        ):
            box.fill(caption)
            box.press("Enter")
            if answer:
                page.get_by_text(answer).wait_for(timeout=60_000)
            else:
                page.wait_for_function(CHANGED, arg=before, timeout=60_000)
        # too long: a sentence in place of pictures
        page.wait_for_function(f"() => !document.querySelector('{PICTURES}')", timeout=60_000)
        box.fill("a panda")
        box.press("Enter")
        page.wait_for_function(CHANGED, arg="", timeout=60_000)
