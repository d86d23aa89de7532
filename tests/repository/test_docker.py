"""The image for a JupyterHub: linted, pinned, and with what the lessons load."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT

DOCKERFILE = CHECKOUT / "docker" / "Dockerfile"


def test_the_linter_finds_nothing():
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    linter = linter or shutil.which("hadolint")
    if not linter:
        pytest.skip("no hadolint: pip install -e '.[release]'")
    found = subprocess.run([linter, str(DOCKERFILE)], capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stdout + found.stderr


def test_versions_are_pinned():
    text = DOCKERFILE.read_text(encoding="utf-8")
    assert re.search(r"^FROM python:3\.11-slim-\w+$", text, re.M)
    assert "-c /opt/cxrkit/constraints.txt" in text and re.search(r'"jupyterhub==[\d.]+"', text)


def test_opencv_finds_its_libraries():
    """As on Binder; X11 comes with them."""
    installed = set(re.search(r"recommends (.*) \\", DOCKERFILE.read_text())[1].split())
    needed = set((CHECKOUT / "binder" / "apt.txt").read_text().split())
    assert installed <= needed and {"libgl1", "libglib2.0-0"} <= installed


def test_solutions_stay_with_the_teacher_and_the_image_is_no_root():
    text = DOCKERFILE.read_text(encoding="utf-8")
    assert "rm -rf /opt/cxrkit/notebooks/solutions" in text
    assert text.index("USER ${NB_USER}") < text.index('CMD ["jupyterhub-singleuser"]')
