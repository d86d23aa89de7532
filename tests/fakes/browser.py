"""A headless browser for the tests of pages: any Chromium there is, else the test is skipped with a
plain word.
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
    """Path of a Chromium, None to let playwright use its own; skips the test where there is
    neither.
    """
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright: pip install -e '.[dev]'"
    )
    found = os.environ.get("CXRKIT_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
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
    """A port that nobody uses."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def served(command, port, folder, seconds=60):
    """Run a web server; yields its address once it answers. Ends it, and shows its log if it never
    did.
    """
    log = folder / "server.log"
    with open(log, "w") as out:
        server = subprocess.Popen([sys.executable, *command], stdout=out, stderr=out, cwd=folder)
    try:
        address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + seconds
        while not _answers(address):
            assert server.poll() is None and time.monotonic() < deadline, (
                f"no server at {address}:\n{log.read_text()[-2000:]}"
            )
            time.sleep(0.3)
        yield address
    finally:
        server.terminate()
        server.wait(20)


def _answers(address):
    try:
        with urllib.request.urlopen(f"{address}/api", timeout=2):
            return True
    except urllib.error.HTTPError:
        return True  # a server that refuses is a server
    except OSError:
        return False


@contextlib.contextmanager
def opened(width=1400, height=1300):
    """A page of a headless browser, with `page.errors`: what its console has complained of."""
    path = executable()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": height})
        page.errors = []
        page.on(
            "console",
            lambda said: (
                said.type == "error"
                and not any(word in said.text for word in FOREIGN)
                and page.errors.append(said.text)
            ),
        )
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        yield page
        browser.close()
