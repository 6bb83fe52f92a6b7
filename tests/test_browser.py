"""The explorer of notebook 02 in a real JupyterLab, worked with the keyboard in headless Chromium."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "02_association_discrepancy.ipynb"
TOKEN = "only-for-this-test"
PICTURE = ".jp-OutputArea-output .widget-vbox img.widget-image"
RUN_ALL = """async () => {
  const {sessionContext} = window.jupyterapp.shell.currentWidget;
  await sessionContext.ready;
  await sessionContext.session.kernel.info;
  void window.jupyterapp.commands.execute('notebook:run-all-cells');
}"""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the path")]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Address of a JupyterLab on a copy of the notebook, with settings and folders of its own; stopped afterwards."""
    pytest.importorskip("jupyterlab", reason="needs JupyterLab: pip install 'advit[notebooks]'")
    if not NOTEBOOK.exists():
        pytest.skip(f"needs {NOTEBOOK.name}")
    work = tmp_path / "work"
    work.mkdir()
    shutil.copy(NOTEBOOK, work / "explorer.ipynb")
    folders = {f"JUPYTER_{name}_DIR": str(tmp_path / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    settings = tmp_path / "config" / "lab" / "user-settings" / "@jupyterlab"
    write(settings / "apputils-extension" / "notification.jupyterlab-settings", {"fetchNews": "false"})
    # Without this, cells out of sight have no output in the page.
    write(settings / "notebook-extension" / "tracker.jupyterlab-settings", {"windowingMode": "none"})
    options = {
        "ServerApp.ip": "127.0.0.1", "ServerApp.port": "0", "ServerApp.open_browser": "False",
        "ServerApp.root_dir": str(work), "IdentityProvider.token": TOKEN, "ServerApp.allow_root": "True",
        "LabApp.expose_app_in_browser": "True", "LabApp.news_url": "None",
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
    }  # fmt: skip
    command = [sys.executable, "-m", "jupyterlab", *(f"--{k}={v}" for k, v in options.items())]
    environment = {**os.environ, **folders, "OMP_NUM_THREADS": "1", "ADVIT_RESULTS": "", "ADVIT_FIGURES": ""}
    log = tmp_path / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, cwd=work, stdout=out, stderr=out, start_new_session=True)
    try:
        yield wait_for(lambda: address(tmp_path / "runtime", process, log), 40, "the server")
    finally:
        stop(process)


def write(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def address(runtime: Path, process: subprocess.Popen, log: Path) -> str | None:
    """Where the server answers, once it does."""
    assert process.poll() is None, f"the server ended:\n{log.read_text(errors='replace')[-2000:]}"
    for path in runtime.glob("jpserver-*.json"):
        try:
            url = json.loads(path.read_text(encoding="utf-8"))["url"]
            urllib.request.urlopen(f"{url}api/status?token={TOKEN}", timeout=2).close()
            return url
        except (OSError, ValueError, urllib.error.URLError):
            continue
    return None


def wait_for(found: Callable[[], object], seconds: float, what: str):
    """The first true answer."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := found():
            return answer
        time.sleep(0.1)
    pytest.fail(f"{what}: nothing within {seconds:g} s")


def stop(process: subprocess.Popen) -> None:
    """End the server, which ends its kernels; by force if it does not answer."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sent)
            process.wait(timeout=10)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue


def pixels(image) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image.screenshot())).convert("RGB"), dtype=int)


def test_the_arrow_keys_move_a_slider_and_the_picture_follows(server, tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'advit[dev]'")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            page = browser.new_page(viewport={"width": 1400, "height": 1000})
            page.goto(f"{server}lab/tree/explorer.ipynb?token={TOKEN}")
            page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=30_000)
            page.evaluate(RUN_ALL)
            image = page.wait_for_selector(PICTURE, timeout=60_000)
            image.scroll_into_view_if_needed()
            source, before = image.get_attribute("src"), pixels(image)

            slider = page.locator(".jp-OutputArea-output .widget-hslider", has_text="Patch column")
            handle, readout = slider.locator("[role=slider]"), slider.locator(".widget-readout")
            start = int(readout.inner_text())
            key = "ArrowLeft" if start else "ArrowRight"
            handle.focus()
            page.keyboard.press(key)
            wait_for(lambda: page.query_selector(PICTURE).get_attribute("src") != source, 10, "a new picture")
            assert int(readout.inner_text()) == start + (1 if key == "ArrowRight" else -1)
            assert f"column {readout.inner_text()} " in page.locator(".jp-OutputArea-output .widget-html").inner_text()
            time.sleep(0.2)  # the new source has to be decoded
            after = pixels(page.query_selector(PICTURE))
            assert after.shape == before.shape
            assert (np.abs(after - before).max(axis=-1) > 30).mean() > 0.002
            if folder := os.environ.get("ADVIT_SCREENSHOTS"):
                page.screenshot(path=Path(folder) / "explorer.png")
        finally:
            browser.close()
