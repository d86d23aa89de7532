"""A headless browser for the tests of pages: any Chromium that there is.

Without one a test is skipped, and says what to install.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# what a page may log on a machine without a network or from another program's part of it
FOREIGN = (
    "ERR_NAME_NOT_RESOLVED",
    "ERR_INTERNET_DISCONNECTED",
    "ERR_FAILED",
    "shared module",
    "404 (Not Found)",
)


def executable():
    """Path of a Chromium; None: playwright uses its own. Skips the test where there is neither."""
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright: pip install -e '.[dev]'"
    )
    installed = [shutil.which(name) for name in NAMES]
    for found in (os.environ.get("CXRKIT_CHROMIUM"), *installed):
        if found:
            return found
    with sync_api.sync_playwright() as play:
        if not Path(play.chromium.executable_path).exists():
            pytest.skip(
                "needs a Chromium: install one, set CXRKIT_CHROMIUM, or run: playwright install "
                "chromium"
            )
    return None


def free_port():
    """A port that is not in use."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def served(command, port, folder, seconds=60):
    """Run a web server inside the `with`.

    Args:
        command: arguments of python.
        port: that the server listens on.
        folder: where it runs and writes its log.
        seconds: within which it must answer; else the test fails with its log.

    Yields:
        Its address, once it answers.
    """
    log = folder / "server.log"
    with open(log, "w") as out:
        server = subprocess.Popen([sys.executable, *command], stdout=out, stderr=out, cwd=folder)
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + seconds
        while not _answers(address):
            waiting = server.poll() is None and time.monotonic() < deadline
            assert waiting, f"no server at {address}:\n{log.read_text()[-2000:]}"
            time.sleep(0.3)
        yield address
    finally:
        server.terminate()
        server.wait(20)


def _answers(address):
    """Whether a server answers, even with a refusal."""
    try:
        with urllib.request.urlopen(f"{address}/api", timeout=2):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


@contextlib.contextmanager
def opened(width=1400, height=1300):
    """A page of a headless browser, with `page.errors`: the errors of its console."""
    path = executable()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": height})
        page.errors = []

        def on_console(message):
            foreign = any(word in message.text for word in FOREIGN)
            if message.type == "error" and not foreign:
                page.errors.append(message.text)

        page.on("console", on_console)
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        yield page
        browser.close()
