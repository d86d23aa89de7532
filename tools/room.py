"""Serve the reading room to a class: a page without code, which `make room` starts.

    python tools/room.py [--profile demo] [--out STORE] [--mirror DIR] [--port 8866] [...]

Other options are those of voila. The page consists of the cells of lesson 09 that are tagged
`room`. Every visitor has a kernel of their own (docs/teaching.md says how much memory that takes);
one that idles for half an hour ends.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from cxrkit.reproduction import runner
from cxrkit.storage import atomic, locations

IDLE = 1800  # s
TAG = "room"


def page(parameters: dict[str, Any]) -> NotebookNode:
    """The page as a notebook: a title and the cells of the lesson that are tagged `room`.

    Args:
        parameters: name -> value; they replace the parameters cell of the lesson.
    """
    lesson = runner.read_lesson(runner.lesson_sources(["09"])[0])
    cells = [cell for cell in lesson.cells if TAG in cell.metadata.get("tags", [])]
    lines = [f"{name} = {value!r}" for name, value in parameters.items()]
    cells[0].source = "\n".join(lines)
    title = nbformat.v4.new_markdown_cell(
        "# The reading room\nResearch and teaching only: nothing here is a diagnostic device."
    )
    metadata = {**runner.METADATA, "title": "The reading room"}
    return nbformat.v4.new_notebook(cells=[title, *cells], metadata=metadata)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page into the store and become its server."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--out", type=Path, default=None, help="the store")
    parser.add_argument("--mirror", default=None, help="folder of prepared real images")
    options, rest = parser.parse_known_args(arguments)
    root = (options.out or locations.default_root()).resolve()
    path = root / "room" / "reading_room.ipynb"
    parameters = {"profile": options.profile, "out": str(root), "mirror": options.mirror}
    atomic.write_atomic(path, nbformat.writes(page(parameters)))
    command = [
        sys.executable,
        "-m",
        "voila",
        str(path),
        "--no-browser",
        "--show_tracebacks=True",
        # belongs to JupyterLab, fails in Voila
        "--VoilaConfiguration.extension_denylist=jupyterlab-jupytext",
        f"--MappingKernelManager.cull_idle_timeout={IDLE}",
        "--MappingKernelManager.cull_interval=60",
        *rest,
    ]
    os.execv(sys.executable, command)


if __name__ == "__main__":
    main()
