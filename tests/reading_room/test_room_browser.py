"""The pages in a real browser: JupyterLab and Voila, with models of random weights.

Where there is no Chromium, the tests are skipped.
"""

import json
import os
from pathlib import Path

import cv2
import nbformat
import numpy as np
import pytest

from tests.conftest import CHECKOUT
from tests.fakes import browser, rooms

pytestmark = pytest.mark.slow  # a browser, a server and a kernel each
CELLS = f"""import sys
sys.path[:0] = [{str(CHECKOUT)!r}]
from cxrkit.reading_room import QuizPage, ReadingRoom
from tests.fakes import rooms
room = rooms.room({{store!r}})
display(ReadingRoom(room).page, QuizPage(room, {{store!r}} + "/quiz").page)"""


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """A notebook that shows the room and the quiz."""
    browser.executable()
    folder = tmp_path_factory.mktemp("pages")
    rooms.fill(folder / "store")
    cell = nbformat.v4.new_code_cell(CELLS.format(store=str(folder / "store")))
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=[cell], metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}
        ),
        folder / "page.ipynb",
    )
    (folder / "broken.png").write_bytes(b"no image")
    sound = np.random.default_rng(0).integers(0, 256, (120, 100), dtype=np.uint8)
    (folder / "sound.png").write_bytes(cv2.imencode(".png", sound)[1].tobytes())
    return folder / "page.ipynb"


def shot(page, name):
    """A screenshot in the folder `CXRKIT_SHOTS`, for whoever looks into a failure."""
    if os.environ.get("CXRKIT_SHOTS"):
        page.screenshot(path=Path(os.environ["CXRKIT_SHOTS"]) / f"{name}.png")  # makes the folder


def picture(page):
    """Address of the figure that is shown."""
    return page.locator(".cxr-room img").first.get_attribute("src")


def changes(page, act):
    """Do something, and wait until the picture is another one."""
    before = picture(page)
    act()
    page.wait_for_function(
        "before => document.querySelector('.cxr-room img').src !== before",
        arg=before,
        timeout=20_000,
    )


def press(page, element, key):
    """Press a key on an element."""
    element.focus()
    page.keyboard.press(key)


def upload(page, path):
    """Choose a file as a user does: the widget keeps its <input> outside the page."""
    with page.expect_file_chooser(timeout=20_000) as chooser:
        page.get_by_role("button", name="your film").click()
    chooser.value.set_files(path)


def use(page, folder, name):
    """What a user does, in the same way in JupyterLab and in Voila."""
    page.wait_for_selector(".cxr-room img", timeout=90_000)
    for panel in ("severity", "zone lines", "attention"):
        button = page.get_by_role("button", name=panel, exact=True)
        if "mod-active" not in button.get_attribute("class"):
            changes(page, button.click)
    changes(page, page.get_by_title("cell in row 2, column 4").click)
    changes(page, lambda: press(page, page.get_by_title("cell in row 1, column 1"), "Enter"))
    slider = page.locator(".cxr-room .noUi-handle:visible").nth(2)  # row, column, block
    changes(page, lambda: press(page, slider, "ArrowRight"))
    changes(page, lambda: press(page, page.get_by_title("next film"), "Enter"))
    shot(page, f"{name}-attention")
    unchanged = picture(page)
    upload(page, folder / "broken.png")
    page.get_by_text("broken.png: not an image").wait_for(timeout=20_000)
    assert picture(page) == unchanged
    changes(page, lambda: upload(page, folder / "sound.png"))
    page.get_by_role("button", name="save the picture").click()
    with page.expect_download() as download:
        page.get_by_role("link", name=".png").click(timeout=20_000)
    assert download.value.suggested_filename.endswith(".png")
    page.get_by_placeholder("your name or team").fill("Ada")
    page.keyboard.press("Tab")
    page.get_by_role("button", name="answer", exact=True).click()
    page.get_by_text("the second reader").or_(page.get_by_text("the model says")).first.wait_for(
        timeout=20_000
    )
    shot(page, f"{name}-quiz")
    assert page.errors == []


def test_voila_serves_the_room_without_code(notebook):
    pytest.importorskip("voila", reason="needs voila: pip install -e '.[classroom]'")
    port = browser.free_port()
    command = [
        "-m",
        "voila",
        str(notebook),
        "--no-browser",
        f"--port={port}",
        "--VoilaConfiguration.extension_denylist=jupyterlab-jupytext",
    ]
    with browser.served(command, port, notebook.parent) as address, browser.opened() as page:
        page.goto(address, timeout=90_000)
        use(page, notebook.parent, "voila")
        assert not page.get_by_text("import sys").count()


def test_jupyterlab_shows_the_room(notebook, monkeypatch, tmp_path):
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path))  # nobody's own settings
    (tmp_path / "labconfig").mkdir()
    (tmp_path / "labconfig" / "page_config.json").write_text(
        json.dumps({"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}})
    )
    port = browser.free_port()
    command = [
        "-m",
        "jupyterlab",
        "--no-browser",
        f"--port={port}",
        "--ServerApp.token=",
        "--ServerApp.password=",
        "--allow-root",
        f"--notebook-dir={notebook.parent}",
    ]
    with browser.served(command, port, notebook.parent) as address, browser.opened() as page:
        page.goto(f"{address}/lab/tree/{notebook.name}")
        page.locator(".jp-NotebookPanel .jp-Cell").first.wait_for(timeout=60_000)
        page.wait_for_function(
            "document.querySelector('#jp-main-statusbar')?.innerText.includes('Idle')",
            timeout=60_000,
        )
        page.wait_for_timeout(1000)
        page.locator(".jp-Cell .cm-content").first.click()
        page.keyboard.press("Control+Enter")
        use(page, notebook.parent, "jupyterlab")
