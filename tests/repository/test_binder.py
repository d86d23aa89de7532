"""What repo2docker, which builds Binder's image, asks of the folder binder/."""

import os
import re
import subprocess
import sys

import binder_requirements
import pytest

from tests.conftest import CHECKOUT

BINDER = CHECKOUT / "binder"


def test_postbuild_can_be_executed_and_is_sound():
    """repo2docker runs it as a program: without the bit or the first line the build ends."""
    script = BINDER / "postBuild"
    assert os.access(script, os.X_OK) and script.read_text().startswith("#!/usr/bin/env bash\n")
    subprocess.run(["bash", "-n", script], check=True)
    assert "set -euo pipefail" in script.read_text()  # a step that fails must fail the build


def test_python_is_pinned_and_no_other_file_sets_it():
    assert (BINDER / "runtime.txt").read_text() == "python-3.11\n"
    # a Dockerfile or an environment.yml would win over them all
    there = {path.name for path in BINDER.iterdir()}
    assert there == {"apt.txt", "postBuild", "requirements.txt", "runtime.txt"}


def test_apt_lists_what_opencv_loads():
    names = (BINDER / "apt.txt").read_text().split()
    assert {"libgl1", "libglib2.0-0"} <= set(names) and all(
        re.fullmatch(r"[a-z0-9.+-]+", name) for name in names
    )


def pins(path):
    """{name: version} of a file of exact versions."""
    lines = [line.split("==") for line in path.read_text().splitlines() if "==" in line[:80]]
    return {name: version for name, version in lines if not name.startswith("#")}


def test_every_version_is_that_of_the_constraints():
    pinned, tested = pins(BINDER / "requirements.txt"), pins(CHECKOUT / "constraints.txt")
    assert {name: tested.get(name) for name in pinned} == pinned
    assert {"torch", "jupyterlab", "ipywidgets", "papermill", "nbval"} <= set(pinned)


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="Binder has Python 3.11")
def test_nothing_that_is_needed_is_left_open():
    """What this environment resolves to; extras of others, such as jsonschema's, count."""
    wanted = binder_requirements.render()
    again = "python tools/binder_requirements.py"
    assert (BINDER / "requirements.txt").read_text(encoding="utf-8") == wanted, again
    assert "\nfqdn==" in wanted  # of jsonschema[format-nongpl], which jupyter_events asks for


def test_binder_gets_torch_for_the_cpu():
    """CUDA's libraries alone would fill the image."""
    text = (BINDER / "requirements.txt").read_text()
    assert "\n--extra-index-url https://download.pytorch.org/whl/cpu\n" in text
    assert not [name for name in pins(BINDER / "requirements.txt") if "nvidia" in name]
