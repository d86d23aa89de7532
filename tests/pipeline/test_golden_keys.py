"""Artifact keys of every stage and grid cell, as they were before the package was divided into
rooms: nobody's store may lose an artifact.
"""

import json

import pytest

from cxrkit.config import profiles
from cxrkit.pipeline.stages import STAGES, settings
from cxrkit.reproduction import grid
from cxrkit.storage.artifacts import key
from tests.conftest import CHECKOUT

GOLDEN = json.loads((CHECKOUT / "tests" / "pipeline" / "golden_keys.json").read_text())
# first name of a stage -> its name now; the names of folders changed, their keys did not
RENAMED = {"trunk": "feature_extractor", "court": "saliency_benchmark", "dial": "marker_study"}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_key_of_every_stage_is_the_old_one(name):
    profile = profiles.get(name)
    expected = {RENAMED.get(old, old): kept for old, kept in GOLDEN[name]["stages"].items()}
    assert {stage: key(settings(profile, stage)) for stage in STAGES} == expected


@pytest.mark.parametrize("name", GOLDEN)
def test_the_key_of_every_grid_cell_is_the_old_one(name):
    profile = profiles.get(name)
    listed = [("", cell) for cell in (*grid.grid_cells(profile), *grid.open_choice_cells(profile))]
    listed += [("rehearsal ", cell) for cell in grid.rehearsal_cells(profile)]
    found = {}
    for kind, cell in listed:
        row = cell.name.replace(grid.PROPOSED, "ours")  # the first name of the proposed model
        found[f"{kind}{cell.table}: {row}"] = f"{cell.stage}-{cell.key}"
    assert found == GOLDEN[name]["cells"]
