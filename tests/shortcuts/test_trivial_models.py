"""Trivial models on made-up hospitals: what is planted is found, what is not there is not."""

from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from cxrkit.config import profiles
from cxrkit.config.vocabulary import COLUMNS, DIAGNOSES
from cxrkit.evaluation import linear_probe
from cxrkit.shortcuts import trivial_models
from cxrkit.storage.artifacts import Store
from cxrkit.tasks.diagnosis import PROBABILITIES

SIZE = 32
PROFILE = replace(profiles.demo(), image_size=SIZE)
PLANTED = 3  # levels of grey by which the lungs of a diagnosis are brighter than those before it


class Network(torch.nn.Module):
    """Features that say nothing: noise of the weights."""

    def __init__(self):
        super().__init__()
        self.features = torch.nn.Conv2d(1, 2, 3)


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory):
    """72 films of noise, half of them of two external sites.

    A site has a bright edge of its own, a diagnosis its own grey inside the lungs; every sixth film
    is AP, and some of the others train nothing.
    """
    folder, rng, rows = tmp_path_factory.mktemp("films"), np.random.default_rng(0), []
    lung = np.zeros((SIZE, SIZE), np.uint8)
    lung[8:24, 8:24] = 255
    cv2.imwrite(str(folder / "lung.png"), lung)
    for i in range(72):
        site, code = i % 4, (i // 4) % 3
        image = rng.integers(100, 110, (SIZE, SIZE)).astype(np.uint8)
        border = [image[:, -4:], image[:4], image[-4:], image[:, :4]][site]
        border += np.uint8(30)
        image[8:24, 8:24] += np.uint8(PLANTED * code)
        cv2.imwrite(str(folder / f"{i}.png"), image)
        rows.append(
            {
                "path": str(folder / f"{i}.png"),
                "site": "abcd"[site],
                "external": site >= 2,
                "group_id": f"g{i}",
                "diagnosis": DIAGNOSES[code],
                "view": "AP" if (i // 4) % 6 == 5 else "PA",
                "split": "test" if i < 8 else "train",
                "lung_mask": str(folder / "lung.png"),
            }
        )
    return pd.DataFrame(rows).reindex(columns=[*COLUMNS, "external"])


@pytest.fixture(scope="module")
def study(hospitals, tmp_path_factory):
    """The store, and the folder that the study has left in it."""
    store = Store(tmp_path_factory.mktemp("store"))
    folder = store.root / "study"
    folder.mkdir()
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trivial_models, "TRIVIAL", ("border", "mean and SD"))
        patch.setattr(trivial_models, "BASELINES", ("border",))
        patch.setattr(trivial_models, "BOOTSTRAP_DRAWS", 5)
        trivial_models.make(folder, PROFILE, hospitals, Network(), store)
    return store, folder


def test_probes_find_the_border_of_a_hospital_and_the_lungs_of_a_diagnosis(hospitals, study):
    store, folder = study
    found = store.read_table(folder / "trivial.csv")
    assert list(found.columns) == ["asked", "features", "score", "value", "low", "high", "n"]
    names = {"border", "mean and SD", trivial_models.BACKBONE}
    for asked in ("site", "diagnosis"):
        assert set(found.loc[found["asked"] == asked, "features"]) == names
    assert set(found["n"]) == {len(hospitals)}
    value = found.set_index(["asked", "score", "features"])["value"]
    assert value["site", "balanced_accuracy", "border"] == 1
    assert value["site", "balanced_accuracy", "mean and SD"] < 0.5
    assert value["diagnosis", "auc", "mean and SD"] > 0.9
    assert value["diagnosis", "auc", "border"] < 0.75


def test_baselines_are_fitted_on_training_images_of_one_view(hospitals, study):
    """Against models that are fitted here."""
    store, folder = study
    found = store.read_table(folder / "baselines.csv")
    pa = hospitals[hospitals["view"] == "PA"]
    train = pa[(pa["split"] == "train") & ~pa["external"].astype(bool)]
    outside = pa[pa["external"].astype(bool)]
    assert len(train) + len(outside) < len(pa)
    assert set(found["features"]) == {"border"}
    assert found["path"].tolist() == outside["path"].tolist()
    x, z = (linear_probe.trivial_features("border", t, PROFILE, store) for t in (train, outside))
    y = train["diagnosis"].map(DIAGNOSES.index).to_numpy()
    want = linear_probe.fit_probe(x, y, train["group_id"].to_numpy()).predict_proba(z)
    np.testing.assert_allclose(found[PROBABILITIES], want, atol=1e-6)
