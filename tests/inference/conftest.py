"""Fixtures of the tests of inference: small random networks, and a few virtual images."""

import cv2
import pandas as pd
import pytest

from cxrkit.config import profiles
from cxrkit.config.vocabulary import COLUMNS
from cxrkit.inference import trained
from cxrkit.simulation import hospital
from tests.fakes.small_models import write_weights


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Folder of random networks as `tools/ship_weights.py` writes them.

    In 16 bit, with profile and licence in the header.
    """
    return write_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="session")
def models(weights):
    return trained.load_models(profiles.mini(), weights=weights)


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Four virtual images as PNG, two of them not square -> DataFrame as a stage sees it."""
    folder, paths = tmp_path_factory.mktemp("images"), []
    for i, site in enumerate(list(hospital.SITES)[:4]):
        image = hospital.Hospital(site, n=1, size=128)[0].image
        paths.append(str(folder / f"film{i}.png"))
        cv2.imwrite(paths[-1], image[: 128 - 20 * (i % 2)])
    table = pd.DataFrame({"path": paths}).reindex(columns=list(COLUMNS))
    return table.assign(external=False, split="test")
