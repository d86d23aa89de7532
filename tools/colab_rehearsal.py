"""Run the lessons with the versions that Colab has, on its Python, without Colab.

    python tools/colab_rehearsal.py --python python3.12 --venv DIR [--only 00 ...]    # ten minutes

An environment gets the packages of the kit's requirements and of Colab's kernel in the versions of
tests/repository/colab_packages.txt (PyTorch without CUDA's suffix). Then the first cell of
docs/teaching.md is followed: the kit and its models are installed from this checkout, and what pip
changed beside them is listed. At last each committed lesson runs in a kernel of that environment.
Writes docs/lab/colab_rehearsal.json after each lesson. With --only these lessons are run again in
the environment as it is, and the rest of the record stays.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

from cxrkit.storage.atomic import write_json

ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / "tests" / "repository" / "colab_packages.txt"
RECORD = ROOT / "docs" / "lab" / "colab_rehearsal.json"
KERNEL = ("ipykernel", "ipython", "ipywidgets", "jupyter_client", "notebook", "matplotlib")
RUN = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
"""


def pip(python: Path, *arguments: str) -> str:
    """What pip of an environment prints."""
    command = [str(python), "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def versions(python: Path) -> dict[str, str]:
    """Packages of an environment but the kit's own: {name: version}."""
    found = json.loads(pip(python, "list", "--format=json"))
    return {one["name"]: one["version"] for one in found if not one["name"].startswith("cxrkit")}


def make_environment(base: str, folder: Path) -> Path:
    """An environment with Colab's versions; its Python."""
    python = folder / "bin" / "python"
    if python.exists():
        return python
    subprocess.run([base, "-m", "venv", str(folder)], check=True)
    pins = folder / "colab.txt"
    pins.write_text(re.sub(r"\+cu\d+", "", LIST.read_text("utf-8")), "utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    names = [re.split(r"[<>=\[]", line)[0] for line in project["dependencies"]]
    pip(python, "install", "--no-compile", "-c", str(pins), *names, *KERNEL)
    return python


def install_kit(python: Path) -> list[str]:
    """Install the kit and its models as the cell of docs/teaching.md does; what changed beside."""
    pip(python, "uninstall", "--yes", "cxrkit", "cxrkit-models")
    before = versions(python)
    for path in (ROOT, ROOT / "packages" / "cxrkit-models"):
        pip(python, "install", "--no-compile", str(path))
    after = versions(python)
    names = sorted(before.keys() | after.keys())
    return [
        f"{name}: {before.get(name)} -> {after.get(name)}"
        for name in names
        if before.get(name) != after.get(name)
    ]


def run_lesson(python: Path, notebook: Path, store: Path) -> dict[str, Any]:
    """Run a lesson from an own store; whether it passed, and the last line if not."""
    own = {"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}", "CXRKIT_STORE": str(store)}
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    began = time.monotonic()
    done = subprocess.run(
        [str(python), "-c", RUN, str(notebook)],
        capture_output=True,
        text=True,
        cwd=store,
        env=outside | own,
    )
    error = done.stderr.strip().splitlines()[-1] if done.returncode else ""
    seconds = round(time.monotonic() - began)
    return {
        "lesson": notebook.stem,
        "passed": not done.returncode,
        "seconds": seconds,
        "error": error,
    }


def main() -> int:
    """Exit status 0 if nothing was replaced and every lesson passed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default="python3.12", help="of the version that Colab runs")
    parser.add_argument("--venv", type=Path, required=True, help="made where it is missing")
    parser.add_argument("--only", nargs="+", default=[], metavar="NN", help="numbers of lessons")
    options = parser.parse_args()
    python = make_environment(options.python, options.venv.resolve())
    found = json.loads(RECORD.read_text("utf-8")) if RECORD.exists() else {"rows": []}
    if options.only and "changed_by_the_kit" in found:
        changed = found["changed_by_the_kit"]
    else:
        changed = install_kit(python)
    there = versions(python)
    store = options.venv.resolve() / "store"
    store.mkdir(exist_ok=True)
    made = {
        "command": "python tools/colab_rehearsal.py --venv DIR",
        "date": time.strftime("%Y-%m-%d"),
        "python": subprocess.check_output([str(python), "-V"], text=True).split()[1],
        **{name: there[name] for name in ("torch", "numpy", "pandas", "ipython", "ipywidgets")},
    }
    rows = found["rows"]
    for notebook in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        if options.only and notebook.stem.split("_")[0] not in options.only:
            continue
        rows = [row for row in rows if row["lesson"] != notebook.stem]
        rows.append(run_lesson(python, notebook, store))
        print(rows[-1], flush=True)
        rows.sort(key=lambda row: row["lesson"])
        write_json(RECORD, {"made": made, "changed_by_the_kit": changed, "rows": rows})
    return int(bool(changed) or not all(row["passed"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
