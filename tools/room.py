"""Serve the reading room to a class: a page without code, made of the cells of lesson 09 that are
tagged `room`. `make room` runs it.

    python tools/room.py [--profile demo] [--out STORE] [--mirror DIR] [--port 8866] [more options
    of voila]

Every visitor has a kernel of their own (docs/teaching.md says how much memory that takes); one that
idles for half an hour ends.
"""

import argparse
import os
import sys
from pathlib import Path

import nbformat

from cxrkit.reproduction import runner
from cxrkit.storage import artifacts, atomic

IDLE = 1800  # s
TAG = "room"


def page(parameters):
    """The lesson's title and its cells tagged `room`, with these values in its parameters cell."""
    lesson = runner.read_lesson(runner.sources(["09"])[0])
    cells = [cell for cell in lesson.cells if TAG in cell.metadata.get("tags", [])]
    cells[0].source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    title = nbformat.v4.new_markdown_cell(
        "# The reading room\nResearch and teaching only: nothing here is a diagnostic device."
    )
    return nbformat.v4.new_notebook(
        cells=[title, *cells], metadata={**runner.METADATA, "title": "The reading room"}
    )


def main(arguments=None):
    """Write the page into the store and become its server."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--mirror", default=None)
    options, rest = parser.parse_known_args(arguments)
    root = (options.out or artifacts.default_root()).resolve()
    path = root / "room" / "reading_room.ipynb"
    atomic.write_atomic(
        path,
        nbformat.writes(
            page({"profile": options.profile, "out": str(root), "mirror": options.mirror})
        ),
    )
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
    sys.exit(main())
