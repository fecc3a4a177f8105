"""The page of `python -m course_lib.web` in a real browser, and what nobody may get from it.

Needs the extra `web`.
"""
import base64
import contextlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio")
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
SECRET = "xylophone"                                        # a word that must not be logged


class Elsewhere:
    """A proxy that the server is told to use for everything: counts who asks it."""

    def __init__(self):
        self.asked = []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.socket.accept()
                self.asked.append(connection.recv(200))
                connection.close()


class Server:
    """The command in a process of its own, with the settings of a careless user."""

    def __init__(self, folder: Path):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.elsewhere = Elsewhere()
        self.folder = folder / "tmp"
        self.folder.mkdir()
        self.log = folder / "log.txt"
        proxies = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), self.elsewhere.address)
        careless = {"GRADIO_SHARE": "True", "GRADIO_ALLOWED_PATHS": "/"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "course_lib.web", "--port", str(self.port), "--device", "cpu",
             "--limit", "steps=1000", "--limit", "drawing=600"],    # long enough to be cancelled
            env=os.environ | proxies | careless | {"TMPDIR": str(self.folder)},
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
        )

    def ask(self, path: str, fields: dict | None = None, method: str | None = None) -> dict:
        body = None if fields is None else json.dumps(fields).encode()
        asked = urllib.request.Request(
            self.address + path, body, {"Content-Type": "application/json"}, method=method
        )
        with direct.open(asked, timeout=30) as answer:
            return json.load(answer)

    def drawn(self, fields: dict) -> list[bytes]:
        """Pictures by JSON."""
        path = "/api/pictures/" + self.ask("/api/pictures", fields)["id"]
        while (report := self.ask(path))["state"] != "done":
            time.sleep(0.1)
        return [base64.b64decode(file) for file in report["pictures"]]


direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("web"))
    try:
        for _ in range(240):
            with contextlib.suppress(OSError):
                server.ask("/health")
                break
            time.sleep(0.5)
        yield server
        nothing_is_left(server)
    finally:
        server.process.kill()
        server.process.wait(30)


def nothing_is_left(server: Server) -> None:
    """After all tests: no file, no word of a prompt, no question to anyone; the end deletes the
    private folder.
    """
    server.drawn({"prompt": SECRET, "negative_prompt": SECRET})
    assert not [file for file in server.folder.rglob("*") if file.is_file()]
    assert list(server.folder.glob("course-web-*")) and not server.elsewhere.asked
    server.process.terminate()
    assert server.process.wait(30) == 0 and not list(server.folder.glob("course-web-*"))
    log = server.log.read_text()
    assert "done: 10 of 10 steps" in log
    for word in (SECRET, "crab", "panda", "shark", "glasses", "onerror", "/api/pictures/"):
        assert word not in log, log


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        browser = p.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(browser, server):
    """The page of a visitor of its own; at the end, no request has left this machine, none was
    refused by the gate, and no script has failed.
    """
    context = browser.new_context(viewport={"width": 1366, "height": 1000})
    page = context.new_page()
    asked, wrong = [], []
    context.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda websocket: asked.append(websocket.url))
    page.on("response", lambda r: r.status >= 400 and wrong.append(f"{r.status} {r.url}"))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda m: m.type == "error" and wrong.append(m.text))
    page.goto(server.address, timeout=120_000)
    page.get_by_label("Prompt", exact=True).wait_for(timeout=120_000)
    page.locator("canvas").wait_for(timeout=120_000)
    yield page
    context.close()
    remote = [url for url in asked if not url.startswith((f"{server.address}/", "data:", "blob:"))]
    assert asked and not remote and not wrong, (remote, wrong)


def draw(page, prompt, **others):
    """Fill in what is asked for, and press the button."""
    page.get_by_label("Prompt", exact=True).fill(prompt)
    for label, value in others.items():
        page.get_by_label(LABELS[label]).first.fill(str(value))
        page.get_by_label(LABELS[label]).first.press("Enter")
    page.get_by_role("button", name="Draw").click()


LABELS = {
    "negative": "Negative prompt",
    "seed": "Seed",
    "steps": re.compile("number input for Steps"),
    "pictures": re.compile("number input for Pictures"),
    "strength": re.compile("number input for Strength"),
}


def said(page, text: str) -> str:
    """What the page says, once this is part of it."""
    line = page.locator(".status").get_by_text(text)
    line.first.wait_for(timeout=60_000)
    return page.locator(".status").first.inner_text()


def downloaded(page, k: int = 0) -> bytes:
    """The file behind a link of the page."""
    with page.expect_download() as download:
        page.locator(".result a").nth(k).click()
    assert download.value.suggested_filename.endswith(".png")
    return Path(download.value.path()).read_bytes()


def read(file: bytes) -> tuple[np.ndarray, dict[str, str]]:
    """Pixels (H, W, 3) and settings of a PNG file."""
    image = Image.open(io.BytesIO(file))
    return np.asarray(image).astype(int), image.text


def test_a_visitor_draws_and_downloads(browser, server):
    with opened(browser, server) as page:
        draw(page, "a shark head, red glasses", negative="a panda", seed=3, steps=12, pictures=2)
        said(page, "done, seed 3")
        file = downloaded(page, 1)
    text = read(file)[1]
    asked = {"prompt": "a shark head, red glasses", "negative_prompt": "a panda", "seed": 3}
    assert text["steps"] == "12" and text["picture"] == "2"
    assert {name: text[name] for name in asked} == {k: str(v) for k, v in asked.items()}
    assert server.drawn(asked | {"steps": 12, "pictures": 2})[1] == file


def test_a_visitor_sees_previews_and_cancels(browser, server):
    with opened(browser, server) as page:
        draw(page, "a crab", steps=1000, pictures=4)
        page.locator(".preview img").wait_for(timeout=60_000)
        said(page, "of 1000")
        page.get_by_role("button", name="Cancel").click()
        said(page, "cancelled")
        assert page.locator(".preview img").count() == page.locator(".result img").count() == 0
        time.sleep(1)                                       # the evaluation under way ends
        assert server.ask("/health")["drawing"] == 0


def test_a_visitor_brushes_and_inpaints(browser, server):
    with opened(browser, server) as page:
        draw(page, "a shark head, red glasses", seed=3)
        said(page, "done, seed 3")
        before, _ = read(downloaded(page))
        page.get_by_role("button", name="change this").click()
        page.wait_for_function("window.courseCanvas.read() !== null")
        box = page.locator("canvas").bounding_box()
        at = lambda x, y: (box["x"] + x * box["width"] / 32, box["y"] + y * box["height"] / 32)
        page.mouse.move(*at(8, 16))
        page.mouse.down()
        page.mouse.move(*at(24, 16), steps=5)
        page.mouse.up()
        draw(page, "a shark head, blue glasses", seed=4)
        said(page, "done, seed 4")
        after, text = read(downloaded(page))
    changed = (after != before).any(2)                      # (32, 32)
    rows, columns = np.nonzero(changed)
    assert text["kind"] == "inpainting" and text["strength"] == "1.0"
    assert changed.sum() > 30 and set(rows) <= set(range(14, 18))
    assert columns.min() >= 5 and columns.max() <= 27


def test_a_visitor_sends_a_picture(browser, server, tmp_path):
    """Of another shape: cut at its centre. Then a file that is no picture."""
    wide = np.zeros((64, 200, 3), np.uint8)
    wide[:, 68:132] = (200, 30, 30)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    (tmp_path / "text.png").write_text("no picture")
    with opened(browser, server) as page:
        page.locator("input[type=file]").set_input_files(tmp_path / "wide.png")
        page.wait_for_function("window.courseCanvas.read() !== null")
        draw(page, "", seed=1, strength=0.05)
        said(page, "done, seed 1")
        drawn, text = read(downloaded(page))
        page.locator("input[type=file]").set_input_files(tmp_path / "text.png")
        page.get_by_text("This file is no picture").wait_for(timeout=30_000)
        assert page.evaluate("window.courseCanvas.read()") is None
    assert text["kind"] == "image to image"
    assert np.abs(drawn.mean((0, 1)) - (200, 30, 30)).max() < 40


def test_markup_stays_text(browser, server):
    hostile = "\"><img src=x onerror=broken=1>"              # few enough tokens to be drawn
    with opened(browser, server) as page:
        draw(page, hostile, seed=2)
        said(page, "done, seed 2")
        assert page.locator(".result img").get_attribute("alt") == " ".join(hostile.split())
        assert page.evaluate("window.broken") is None
        draw(page, "a crab", seed=-5)
        assert "seed must be a whole number from 0 to 4294967295" in said(page, "got -5")


def test_two_visitors_see_their_own(browser, server):
    with opened(browser, server) as one, opened(browser, server) as other:
        draw(one, "a crab", seed=11, steps=40)
        draw(other, "a panda", seed=22)
        said(other, "done, seed 22")
        said(one, "done, seed 11")
        assert read(downloaded(one))[1]["prompt"] == "a crab"
        assert read(downloaded(other))[1]["prompt"] == "a panda"


def test_a_page_that_is_closed_frees_the_worker(browser, server):
    with opened(browser, server) as page:
        draw(page, "a crab", steps=1000, pictures=4)
        said(page, "of 1000")
    for _ in range(300):
        if server.ask("/health")["drawing"] == 0:
            break
        time.sleep(0.1)
    assert "cancelled: " in server.log.read_text().splitlines()[-1]


OUTSIDE = [
    "/gradio_api/file=/etc/passwd", "/gradio_api/file=../../../../etc/passwd", "/file=/etc/passwd",
    "/gradio_api/file/etc/passwd", "/gradio_api/proxy=http://127.0.0.1/", "/config", "/monitoring",
    "/gradio_api/info", "/gradio_api/openapi.json", "/docs", "/openapi.json",
    "/gradio_api/deep_link", "/gradio_api/mcp/sse", "/gradio_api/runs",
    "/static/../../../../../../etc/passwd", "/assets/%2e%2e/%2e%2e/%2e%2e/__init__.py",
    "/assets//etc/passwd", "/gradio_api/app_id",
]                                                                                    # fmt: skip


@pytest.mark.parametrize("path", OUTSIDE)
def test_nothing_else_is_served(server, path):
    with pytest.raises(urllib.error.HTTPError) as refused:
        direct.open(server.address + path, timeout=20)
    assert refused.value.code in (403, 404)
    assert b"root:" not in refused.value.read()


@pytest.mark.parametrize("path", ["/gradio_api/upload", "/gradio_api/component_server",
                                  "/gradio_api/run/run", "/gradio_api/call/run", "/run/run"])
def test_nothing_else_is_taken(server, path):
    with pytest.raises(urllib.error.HTTPError, match="404"):
        server.ask(path, {"data": []})


def test_hostile_events_of_the_page(server):
    """What the page's own route does with what no page sends."""
    hostile = (
        {}, {"data": []}, {"data": [SECRET]}, {"data": [SECRET], "session_hash": SECRET},
        *({"data": data, "fn_index": k, "session_hash": "x", "event_data": SECRET} for k in range(6)
          for data in ([], [SECRET], [SECRET] * 9, [{"path": f"/etc/{SECRET}"}], [1e308], [None])),
    )
    for fields in hostile:
        with contextlib.suppress(urllib.error.HTTPError):
            server.ask("/gradio_api/queue/join", fields)
    assert server.ask("/health")["status"] == "ok"
    assert server.drawn({"prompt": "a crab", "steps": 1})
