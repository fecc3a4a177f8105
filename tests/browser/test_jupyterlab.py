"""The real JupyterLab in a real browser: open notebook 01, run it up to the first widget, move the slider by keyboard, see the figure change."""
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
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: install Debian's `chromium` to run the browser test")]

RUN_ALL = """async () => {
    const app = window.jupyterapp;
    await app.restored;
    const panel = app.shell.currentWidget;
    await panel.context.ready;
    await panel.sessionContext.ready;
    await app.commands.execute('notebook:run-all-cells');
}"""


@pytest.fixture
def lab(tmp_path):
    """JupyterLab on a copy of notebook 01 that ends with the first widget; yields its address."""
    notebook = nbformat.read(ROOT / "notebooks/01_diffusion_fundamentals.ipynb", 4)
    end = next(i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code" and "widgets." in cell.source)
    notebook.cells = notebook.cells[:end + 1]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, tmp_path / "01.ipynb")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    environment = os.environ | {"JUPYTER_CONFIG_DIR": str(tmp_path / "config"), "JUPYTER_DATA_DIR": str(tmp_path / "data"), "COURSE_STATIC": "0"}
    server = subprocess.Popen([sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", "--ip=127.0.0.1", f"--notebook-dir={tmp_path}",
                               "--LabApp.expose_app_in_browser=True", "--IdentityProvider.token="], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/api", timeout=2)
                break
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait(30)


def test_a_student_moves_the_slider(lab):
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1200, "height": 1400})
        page.goto(f"{lab}/lab/tree/01.ipynb?reset", timeout=120_000)
        page.wait_for_function("window.jupyterapp !== undefined", timeout=120_000)
        page.wait_for_selector(".jp-NotebookPanel", timeout=120_000)
        page.evaluate(RUN_ALL)
        picture = page.locator(".jupyter-widgets-output-area img, .widget-output img").last
        picture.wait_for(timeout=180_000)
        before = picture.get_attribute("src")
        slider = page.locator(".noUi-handle").last
        slider.focus()
        for _ in range(5):
            slider.press("ArrowRight")
        page.wait_for_function("([selector, old]) => { const all = document.querySelectorAll(selector); return all.length && all[all.length - 1].src !== old }",
                               arg=[".jupyter-widgets-output-area img, .widget-output img", before], timeout=60_000)
        assert not page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.error']").count()
        browser.close()
