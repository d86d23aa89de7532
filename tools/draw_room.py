"""Draw the two pictures of the reading room that the README shows, from the served page.

    python tools/draw_room.py [--out STORE] [--film "film 6"]

The page is that of `make room`. It needs the extras classroom and dev, and a Chromium: that of
playwright, or the one that CXRKIT_CHROMIUM names.
Writes docs/img/room_severity.png and docs/img/room_tokens.png.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageChops
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "img"
SECONDS = 300  # within which the server and the page must answer
WIDTHS = {"severity": 1000, "tokens": 1300}  # px of the window
HEIGHT = 1800  # px of the window: the page must not scroll
CELL = "cell in row 5, column 3"


def free_port() -> int:
    """A port that is not in use."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(address: str, server: subprocess.Popen) -> None:
    """Return once a server answers.

    Raises:
        RuntimeError: it has ended, or does not answer in time.
    """
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/static/", timeout=2):
                return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError(f"no reading room at {address}: run `make room`, which says why")


def picture(page: Page) -> str | None:
    """Address of the figure that is shown."""
    return page.locator(".cxr-room img").first.get_attribute("src")


def changed(page: Page, act: Callable[[], None]) -> None:
    """Do something, and wait until the figure is another one."""
    before = picture(page)
    act()
    page.wait_for_function(
        "before => document.querySelector('.cxr-room img').src !== before", arg=before
    )
    page.wait_for_timeout(500)


def choose(page: Page, film: str) -> None:
    """Choose the first film of the list whose name begins so."""
    films = page.locator(".cxr-room select").first
    # ipywidgets keeps words together by spaces that do not break
    names = [" ".join(name.split()) for name in films.locator("option").all_text_contents()]
    number = next((i for i, name in enumerate(names) if name.startswith(film)), None)
    if number is None:
        raise ValueError(f"no film {film!r} on the list; there are: {names}")
    if films.evaluate("list => list.selectedIndex") != number:
        changed(page, lambda: films.select_option(index=number))


def trimmed(picture: Image.Image) -> Image.Image:
    """The picture without its white borders, but for a few pixels."""
    white = Image.new("RGB", picture.size, "white")
    left, top, right, bottom = ImageChops.difference(picture, white).getbbox()
    pad = 8
    return picture.crop(
        (
            max(0, left - pad),
            max(0, top - pad),
            min(picture.width, right + pad),
            min(picture.height, bottom + pad),
        )
    )


def draw(page: Page, film: str) -> None:
    """Take both pictures of a film of the list."""
    page.wait_for_selector(".cxr-room img", timeout=1000 * SECONDS)
    choose(page, film)
    for panel in ("severity", "tokens"):
        page.set_viewport_size({"width": WIDTHS[panel], "height": HEIGHT})
        button = page.get_by_role("button", name=panel, exact=True)
        if "mod-active" not in (button.get_attribute("class") or ""):
            changed(page, button.click)
        if panel == "severity":
            changed(page, page.get_by_text("show the truth").click)
        if panel == "tokens":
            changed(page, page.get_by_title(CELL).click)
        path = IMAGES / f"room_{panel}.png"
        page.locator(".cxr-room").first.screenshot(path=path)
        trimmed(Image.open(path).convert("RGB")).save(path, optimize=True)
        print(path)


def main() -> None:
    """Serve the room, open it, take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", help="the store")
    parser.add_argument("--film", default="film 6", help="how its name begins")
    options = parser.parse_args()
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, str(ROOT / "tools" / "room.py"), f"--port={port}"]
    command += ["--out", options.out] if options.out else []
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_for(address, server)
        with sync_playwright() as play:
            path = os.environ.get("CXRKIT_CHROMIUM")
            browser = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": WIDTHS["severity"], "height": HEIGHT})
            page.set_default_timeout(60_000)
            page.goto(address, timeout=1000 * SECONDS)
            draw(page, options.film)
            browser.close()
    finally:
        server.terminate()
        server.wait(20)


if __name__ == "__main__":
    main()
