"""What Binder installs, as exact versions: binder/requirements.txt from constraints.txt.

    python tools/binder_requirements.py

All that the kit and its lessons require, and what those require, as they are installed here. The
versions are those of constraints.txt; what that leaves open (CUDA) is left out, because Binder gets
the build of PyTorch for the CPU.
"""

import importlib.metadata
import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "binder" / "requirements.txt"
HEAD = """\
# Made by tools/binder_requirements.py: what the kit and its lessons require, as in constraints.txt.
# repo2docker installs this first, and postBuild the kit itself.
--extra-index-url https://download.pytorch.org/whl/cpu
"""


def canonical(name):
    """A name as registries compare it."""
    return re.sub("[-_.]+", "-", name).lower()


def closure(lines):
    """Names of requirements, and of theirs, as they are installed here."""
    found, waiting = set(), [Requirement(line) for line in lines]
    while waiting:
        need = waiting.pop()
        for extra in need.extras or {""}:
            one = (canonical(need.name), extra)
            if one not in found:
                found.add(one)
                waiting += [each for each in required(need.name) if applies(each, extra)]
        found.add((canonical(need.name), ""))
    return {name for name, _ in found}


def required(name):
    """What an installed distribution requires; nothing for one of another platform."""
    try:
        return [Requirement(line) for line in importlib.metadata.requires(name) or []]
    except importlib.metadata.PackageNotFoundError:
        return []


def applies(need, extra):
    """Whether a requirement counts here, for a distribution that is asked with an extra."""
    return need.marker is None or need.marker.evaluate({"extra": extra})


def render():
    """The text of binder/requirements.txt."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = closure([*project["dependencies"], *project["optional-dependencies"]["lessons"]])
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if canonical(line.split("==")[0]) in needed]
    return HEAD + "\n".join(pins) + "\n"


if __name__ == "__main__":
    FILE.write_text(render(), encoding="utf-8")
    print(FILE)
