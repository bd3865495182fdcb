"""A real JupyterLab, started by the README's command, and a real Chromium to look at it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser.notebook_page import SCREENSHOTS, TOKEN, NotebookPage, write_notebook
from tests.support import ROOT

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# What a reader would set by hand: nothing is saved behind the test's back, and every cell is in
# the page, not only those that can be seen.
_SETTINGS = {
    "docmanager-extension/plugin": {"autosave": False},
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}


# Not for the whole session: while Playwright is open, its event loop runs in this thread, and no
# other test could start one.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no Chromium is installed (looked for {', '.join(_NAMES)})")
    with sync_playwright() as playwright:
        instance = playwright.chromium.launch(
            executable_path=path,
            args=[
                "--no-sandbox",  # Chromium refuses root with its sandbox, and CI is root
                "--disable-gpu",
                "--disable-quic",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--no-first-run",
            ],
        )
        yield instance
        instance.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a JupyterLab that `python -m helpers lab` has started."""
    folder = tmp_path_factory.mktemp("jupyter")
    for name, values in _SETTINGS.items():
        target = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(values))
    port = _free_port()
    environment = os.environ | {
        "JUPYTER_TOKEN": TOKEN,
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
    }
    log = (folder / "log").open("wb")
    server = subprocess.Popen(
        [sys.executable, "-m", "helpers", "lab", "--no-browser", "--port", str(port)],
        cwd=ROOT,
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_until_up(f"{address}/api/status?token={TOKEN}", server, folder / "log")
        yield address
    finally:
        server.send_signal(signal.SIGINT)
        try:
            status = server.wait(timeout=30)
        except subprocess.TimeoutExpired:
            server.kill()
            status = server.wait()
        log.close()
    assert status == 0, "Ctrl-C did not end the lab cleanly"


def _wait_until_up(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text("utf-8", "replace")
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.3)
    raise AssertionError("JupyterLab did not come up:\n" + log.read_text("utf-8", "replace"))


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    tab = browser.new_page(viewport={"width": 1280, "height": 1000})
    tab.set_default_timeout(60_000)
    yield tab
    tab.close()


@pytest.fixture
def open_cell(
    page: Page, lab: str, request: pytest.FixtureRequest
) -> Iterator[Callable[[str], NotebookPage]]:
    """Opens a notebook of one cell in JupyterLab, from a folder that git does not look at."""
    SCREENSHOTS.mkdir(exist_ok=True)
    file = SCREENSHOTS / f"{request.node.name}.ipynb"

    def opened(cell: str) -> NotebookPage:
        write_notebook(file, cell)
        return NotebookPage(page, lab, file.name, SCREENSHOTS.relative_to(ROOT).as_posix())

    yield opened
    file.unlink(missing_ok=True)


@pytest.fixture
def voila(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Starts a Voilà that serves one cell, with options, and gives its address."""
    servers: list[subprocess.Popen[bytes]] = []

    def served(cell: str, *options: str) -> str:
        file, port = tmp_path / "cell.ipynb", _free_port()
        write_notebook(file, cell)
        with (tmp_path / "log").open("wb") as log:
            server = subprocess.Popen(
                [sys.executable, "-m", "voila", file, "--no-browser", f"--port={port}", *options],
                cwd=ROOT,
                env=os.environ | {"LLAMA_NOTEBOOKS_CACHE": str(tmp_path / "cache")},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        servers.append(server)
        deadline = time.monotonic() + 60
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=1):
                    return f"http://127.0.0.1:{port}/"
            except OSError:
                assert server.poll() is None, (tmp_path / "log").read_text("utf-8", "replace")
                assert time.monotonic() < deadline, "Voilà did not come up"
                time.sleep(0.2)

    yield served
    for server in servers:
        server.terminate()
        server.wait(timeout=20)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
