"""Artifact keys of every stage and grid cell, as they were before the package was divided into
rooms: nobody's store may lose an artifact.
"""

import json

import pytest

from cxrkit.config import profiles
from cxrkit.pipeline.dependencies import DEPENDS, settings
from cxrkit.reproduction import grid
from cxrkit.storage.artifacts import key
from tests.conftest import CHECKOUT

GOLDEN = json.loads((CHECKOUT / "tests" / "pipeline" / "golden_keys.json").read_text())


@pytest.mark.parametrize("name", GOLDEN)
def test_the_key_of_every_stage_is_the_old_one(name):
    profile = profiles.get(name)
    assert {stage: key(settings(profile, stage)) for stage in DEPENDS} == GOLDEN[name]["stages"]


@pytest.mark.parametrize("name", GOLDEN)
def test_the_key_of_every_grid_cell_is_the_old_one(name):
    profile = profiles.get(name)
    listed = [("", cell) for cell in (*grid.cells(profile), *grid.open_choices(profile))]
    listed += [("rehearsal ", cell) for cell in grid.rehearsal(profile)]
    assert {
        f"{kind}{cell.table}: {cell.name}": f"{cell.stage}-{cell.key}" for kind, cell in listed
    } == GOLDEN[name]["cells"]
