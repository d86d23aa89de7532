"""Chests that several tests look at."""

import pytest

from cxrkit.simulation import anatomy
from cxrkit.simulation.hospital import VIEWS
from tests.fakes.chests import UNBENT


@pytest.fixture(scope="session")
def chests():
    """The unbent body of the first CT in both views, at 256 px."""
    return {view: anatomy.project(UNBENT, view, size=256) for view in VIEWS}
