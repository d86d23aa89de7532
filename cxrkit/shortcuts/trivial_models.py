"""Trivial models: how far does one get on the virtual hospitals without seeing disease?

Linear models read what has little to do with a disease: thumbnails, the border of an image, the
size of its file, the image without its lungs. They name the hospital of an image, or its diagnosis
at hospitals that they were not fitted on; the features of a trained backbone answer beside them.
What they say of the external PA images is kept, so that a diagnosis can be compared with the best
of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cxrkit.config.vocabulary import DIAGNOSES
from cxrkit.evaluation import linear_probe
from cxrkit.tasks import diagnosis

if TYPE_CHECKING:
    from cxrkit.config.sections import Profile
    from cxrkit.models.densenet import Backbone
    from cxrkit.storage.artifacts import Store

TRIVIAL = (
    "thumbnail",
    "mean and SD",
    "file size",
    "border",
    "lungs removed",
    "lungs only",
    "lung shape",
)
BASELINES = ("thumbnail", "equalised thumbnail", "border", "lungs removed")
BACKBONE = "trained backbone"  # its row in the table of `trivial_probes`
MAX_IMAGES = 600  # of both questions
FOLDS = 3  # of patients, for the hospital
BOOTSTRAP_DRAWS = 100  # of patients, for an interval
VIEW = "PA"  # of the images that a diagnosis is compared on


def trivial_probes(
    table: pd.DataFrame, backbone: Backbone, profile: Profile, store: Store | None = None
) -> pd.DataFrame:
    """Which hospital is an image from, and which diagnosis does it show?

    The hospital is asked in folds of patients. The diagnosis at the external hospitals is asked of
    models fitted on the others, and the other way round.

    Args:
        table: images with a diagnosis, of several hospitals, some of them external; at most
            MAX_IMAGES of them are taken.
        backbone: trained on findings, used frozen.
        profile: prepares the images; its seed draws them.
        store: where the image cache lies.

    Returns:
        Rows `asked` ("site" or "diagnosis"), `features`, `score` ("auc" or "balanced_accuracy"),
        `value`, `low`, `high`, `n`.
    """
    count = min(len(table), MAX_IMAGES)
    some = table.sample(count, random_state=profile.seed).reset_index(drop=True)
    site = some["site"].astype("category").cat.codes.to_numpy(int)
    patients = linear_probe.assign_folds(some["group_id"].to_numpy(), FOLDS)
    hospitals = some["external"].to_numpy().astype(int)
    questions = {"site": (site, patients), "diagnosis": (diagnosis.codes(some), hospitals)}
    seen = {BACKBONE: linear_probe.pooled_features(backbone, some, profile, store)}
    found = {}
    for asked, (y, fold) in questions.items():
        found[asked], _ = linear_probe.run_probes(
            TRIVIAL, y, some, fold, profile, store, more=seen, draws=BOOTSTRAP_DRAWS
        )
    return pd.concat(found, names=["asked"]).reset_index("asked").reset_index(drop=True)


def trivial_predictions(
    table: pd.DataFrame, profile: Profile, store: Store | None = None
) -> pd.DataFrame:
    """What the baselines say of the external images of VIEW.

    They are fitted on the training images of that view, which the diagnosis is trained on.

    Args:
        table: images with a diagnosis.
        profile: prepares the images.
        store: where the image cache lies.

    Returns:
        For each of BASELINES and each external image `path`, `features`, and a probability for each
        diagnosis.
    """
    images = diagnosis.of_view(table, VIEW)
    external = images["external"].astype(bool)
    images = images[external | (images["split"] == "train")].reset_index(drop=True)
    outside = images["external"].to_numpy().astype(bool)
    truth, groups = diagnosis.codes(images), images["group_id"].to_numpy()
    parts = []
    for name in BASELINES:
        x = linear_probe.trivial_features(name, images, profile, store)  # (n, d)
        model = linear_probe.fit_probe(x[~outside], truth[~outside], groups[~outside])
        p = np.zeros((outside.sum(), len(DIAGNOSES)))
        p[:, model.classes_.astype(int)] = model.predict_proba(x[outside])
        part = pd.DataFrame(p, columns=list(diagnosis.PROBABILITIES))
        part.insert(0, "features", name)
        part.insert(0, "path", images["path"][outside].to_numpy())
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def make(
    folder: Path,
    profile: Profile,
    table: pd.DataFrame,
    backbone: Backbone,
    store: Store,
) -> None:
    """Leave trivial.csv (`trivial_probes`) and baselines.csv (`trivial_predictions`) in a folder.

    Args:
        folder: where the files go.
        profile: of the virtual hospitals.
        table: their images with a diagnosis.
        backbone: trained on findings, used frozen.
        store: where the image cache lies; paths are written relative to it.
    """
    store.write_table(folder / "trivial.csv", trivial_probes(table, backbone, profile, store))
    store.write_table(folder / "baselines.csv", trivial_predictions(table, profile, store))
