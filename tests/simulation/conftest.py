"""Chests that several tests look at."""

import pytest

from cxrkit.simulation import anatomy
from cxrkit.simulation.hospital import VIEWS
from tests.fakes.chests import UNBENT


@pytest.fixture(scope="module")
def chests():
    """The unbent body in both views."""
    return {view: anatomy.project(UNBENT, view) for view in VIEWS}
