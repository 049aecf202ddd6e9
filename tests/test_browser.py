"""Sliders in a real browser: JupyterLab on this machine, driven by keyboard and mouse."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright (`make extras`)")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="needs Chromium (Debian: apt-get install chromium)"),
]

SET_UP = """
import torch
from course_utils import demos, generators
torch.manual_seed(0)
x = torch.rand(4, 1, 28, 28)
linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
y = linear(x).argmax(1)
painter = generators.decoder(latent=2, hidden=8)
"""
# The demo, the slider to drag, where its handle ends (at least), and words of the line that says what is seen
DEMOS = {
    "margin_bar": (
        "demos.margin_bar(torch.randn(784), torch.tensor(0.0), x, torch.tensor([1., -1., 1., -1.]))",
        "ε",
        0.2,
        "Margin",
    ),
    "fgsm_slider": ("demos.fgsm_slider({'linear': linear}, x, y)", "ε", 0.2, "the model says"),
    "pgd_scrubber": ("demos.pgd_scrubber({'linear': linear}, x, y)", "step", 30, "the loss is"),
    "transfer_picker": ("demos.transfer_picker({'a': linear, 'b': linear}, x, y)", "ε", 0.2, "a → b"),
    "accuracy_curves": ("demos.accuracy_curves({'linear': linear}, x, y)", "steps", 10, "Accuracy under"),
    "projection_slider": ("demos.projection_slider(linear, painter, x, y)", "steps", 30, "the squared distance is"),
    "latent_walk": (
        "demos.latent_walk(linear, painter, torch.zeros(4, 2), torch.ones(4, 2))",
        "way",
        0.2,
        "of the way",
    ),
    "photo_lab": (
        "demos.photo_lab(linear, dict(zip('abcd', x)), names=[*'0123456789'], targets=['7'])",
        "ε",
        1,
        "without attack",
    ),
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab on a free port of this machine, with one notebook for each demo."""
    folder = tmp_path_factory.mktemp("lab")
    for name, (source, *_) in DEMOS.items():
        nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(SET_UP + source)])
        nb.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
        nbformat.write(nb, folder / f"{name}.ipynb")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = [
        f"--port={port}",
        "--no-browser",
        "--allow-root",
        f"--ServerApp.root_dir={folder}",
        "--IdentityProvider.token=",
        "--LabApp.news_url=",
    ]
    environment = os.environ | {"JUPYTER_CONFIG_DIR": str(folder / "config")}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options], stdout=log, stderr=subprocess.STDOUT, env=environment
        )
        try:
            _wait_for(f"http://127.0.0.1:{port}/api", server, folder / "log")
            yield f"http://127.0.0.1:{port}/lab"
        finally:
            server.terminate()
            server.wait(timeout=20)


def _wait_for(url, server, log, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=2)
            return
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as p:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        browser = p.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


def _run_first_cell(page):
    """Run it and return the demo's picture; Lab drops a request that comes while the kernel is still starting."""
    picture = page.locator(".jp-OutputArea img.widget-image").first
    for _ in range(6):
        page.locator(".jp-Notebook .jp-Cell .cm-content").first.click()
        page.keyboard.press("Shift+Enter")
        try:
            picture.wait_for(timeout=15_000)
            return picture
        except playwright.TimeoutError:
            continue
    pytest.fail("the cell with the demo showed no picture")


@pytest.mark.parametrize("name", DEMOS)
def test_slider_answers_to_keyboard_and_mouse(name, lab, browser, tmp_path):
    _, label, end, words = DEMOS[name]
    page = browser.new_context(viewport={"width": 1200, "height": 900}).new_page()
    page.set_default_timeout(60_000)
    complaints = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"{lab}/workspaces/{name}/tree/{name}.ipynb")  # a workspace of its own: no other tab is open
    picture = _run_first_cell(page)
    slider = page.locator(".widget-slider").filter(has_text=label)
    handle = slider.locator(".noUi-handle")

    def moved_by(action):
        before = picture.get_attribute("src")
        action()
        page.wait_for_function("([img, src]) => img.src !== src", arg=[picture.element_handle(), before])

    handle.focus()
    moved_by(lambda: page.keyboard.press("ArrowRight"))
    moved_by(lambda: [page.keyboard.press("ArrowRight") for _ in range(30)])
    track = slider.locator(".noUi-base").bounding_box()

    def drag():
        page.mouse.move(*(handle.bounding_box()[k] + 5 for k in ("x", "y")))
        page.mouse.down()
        page.mouse.move(track["x"] + 0.9 * track["width"], track["y"] + 2, steps=5)
        page.mouse.up()

    moved_by(drag)
    page.screenshot(path=tmp_path / f"{name}.png")
    assert float(slider.locator(".widget-readout").inner_text()) > end
    assert page.locator("[role=status]").filter(has_text=words).count() == 1
    assert [text for text in complaints if "favicon" not in text] == []
    page.context.close()
