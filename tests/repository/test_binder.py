"""What repo2docker, which builds Binder's image, asks of the folder binder/."""

import os
import re
import subprocess

import yaml

from tests.conftest import CHECKOUT

BINDER = CHECKOUT / "binder"


def test_postbuild_can_be_executed_and_is_sound():
    """repo2docker runs it as a program: without the bit or the first line the build ends."""
    script = BINDER / "postBuild"
    assert os.access(script, os.X_OK) and script.read_text().startswith("#!/usr/bin/env bash\n")
    subprocess.run(["bash", "-n", script], check=True)
    assert "set -euo pipefail" in script.read_text()  # a step that fails must fail the build


def test_python_is_pinned_and_no_other_file_sets_it():
    listed = yaml.safe_load((BINDER / "environment.yml").read_text())["dependencies"]
    assert "python=3.11" in listed
    # a Dockerfile would win over them all
    assert {path.name for path in BINDER.iterdir()} == {"apt.txt", "environment.yml", "postBuild"}


def test_apt_lists_what_opencv_loads():
    names = (BINDER / "apt.txt").read_text().split()
    assert {"libgl1", "libglib2.0-0"} <= set(names) and all(
        re.fullmatch(r"[a-z0-9.+-]+", name) for name in names
    )


def test_binder_gets_torch_for_the_cpu():
    """CUDA's libraries alone would fill the image."""
    assert any(
        str(line).startswith("pytorch-cpu")
        for line in yaml.safe_load((BINDER / "environment.yml").read_text())["dependencies"]
    )
