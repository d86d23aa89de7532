"""Run: one object for everything that a profile makes, as the lessons use it.

    run = cxrkit.Run("demo")
    run.diagnosis("PA").metrics["external"]["auc"]

An artifact that is missing is made when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from cxrkit import NOTICE
from cxrkit.config import profiles
from cxrkit.config.sections import Profile
from cxrkit.config.settings_file import get_profile
from cxrkit.config.vocabulary import known
from cxrkit.data import fetching, manifests
from cxrkit.data.cache import cached_images
from cxrkit.data.datasets import external_or_test
from cxrkit.pipeline import makers, stages
from cxrkit.pipeline.derived import with_masks
from cxrkit.pipeline.makers import StageInputs
from cxrkit.pipeline.task_data import images_for
from cxrkit.simulation.cohort import Cohort
from cxrkit.storage import provenance
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import read_json
from cxrkit.storage.recorded import read_result, result_names
from cxrkit.tasks.contrastive import ContrastiveTask
from cxrkit.tasks.diagnosis import DiagnosisTask
from cxrkit.tasks.findings import FindingsTask
from cxrkit.tasks.segmentation import SegmentationTask
from cxrkit.tasks.severity import SeverityTask
from cxrkit.tasks.task import Task
from cxrkit.training.devices import pick_device

VIEWS = ("PA", "AP")

_said: set[str] = set()  # caveats that this process has printed

# stages whose tables name images that lie in no artifact of a stage -> what makes these
DERIVED_IMAGES = {
    "diagnosis": makers.diagnosis_images,
    "diagnosis_pa": makers.diagnosis_images,
    "diagnosis_ap": makers.diagnosis_images,
    "severity": makers.masked_severity_images,
}


class Result:
    """What a stage left: its folder, its numbers and its model.

    Attributes:
        folder: of the artifact.
        task: knows the model and its images; None for a stage that trains none.
        complete: called with a table of the artifact, makes the images that it names.
        whole: makes the artifact where it came with the kit without its weights.
    """

    def __init__(
        self,
        folder: Path,
        store: Store,
        task: Task | None = None,
        complete: Callable[[pd.DataFrame], None] | None = None,
        whole: Callable[[], Path] | None = None,
    ) -> None:
        self.folder, self.store, self.task = folder, store, task
        self.complete, self.whole = complete, whole

    def __repr__(self) -> str:
        return f"Result({self.folder.name!r})"

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """metrics.json."""
        return read_json(self.folder / "metrics.json")

    @cached_property
    def history(self) -> Any:
        """history.json: rows of the training, or {training: rows} where there are several."""
        return read_json(self.folder / "history.json")

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """predictions.csv: a row an image of val, test and external (`part`)."""
        return self.table("predictions.csv")

    def table(self, name: str) -> pd.DataFrame:
        """A table of the artifact, such as "crossvalidated.csv", its paths absolute.

        Images of the store that it names are made where they are missing: an artifact that comes
        with the kit, or from another store, brings no pixels along.
        """
        table = self.store.read_table(self.folder / name)
        if self.complete:
            self.complete(table)
        return table

    @cached_property
    def model(self) -> nn.Module:
        """The trained model, in evaluation mode, on the device of the run."""
        if self.task is None:
            raise ValueError(f"{self.folder.name} holds no model")
        folder = self.folder
        if self.whole and provenance.lacks_weights(folder):
            folder = self.whole()
        return self.task.load(folder).to(self.task.device).eval()

    @property
    def external(self) -> pd.DataFrame:
        """The predictions for images of sites that no training saw."""
        return self._part(self.predictions["external"].astype(bool))

    @property
    def unseen_part(self) -> str:
        """Whose predictions say most: "external", or "test" where every site trains."""
        return "external" if self.predictions["external"].astype(bool).any() else "test"

    @property
    def unseen(self) -> pd.DataFrame:
        """The predictions for images of external sites, or, where every site trains, of test."""
        return external_or_test(self.predictions)

    @property
    def validation(self) -> pd.DataFrame:
        """The predictions for validation images of the internal sites."""
        internal = ~self.predictions["external"].astype(bool)
        return self._part(internal & (self.predictions["split"] == "val"))

    def _part(self, rows: pd.Series) -> pd.DataFrame:
        return self.predictions[rows].reset_index(drop=True)


def _say_caveat(profile: Profile) -> None:
    """Print what must be known before any number of a profile, once in a process."""
    if profile.caveat and profile.caveat not in _said:
        _said.add(profile.caveat)
        print(f"profile {profile.name}: {profile.caveat}")


class Run:
    """Everything that a profile makes.

    Args:
        profile: name of a profile, path of a settings file (YAML or TOML), or a `Profile`.
        out: the store, a folder; default `CXRKIT_STORE`, else `artifacts/` of the checkout, else
            the user's cache.
        data: folder with the real images; default `CXRKIT_DATA`, else `data/` of the store.
        device: where models train and run; default `training.pick_device()`.

    Raises:
        ValueError: the profile is unknown, or its settings are wrong.
    """

    def __init__(
        self,
        profile: str | Path | Profile = "demo",
        out: str | Path | None = None,
        data: str | Path | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.profile = profile if isinstance(profile, Profile) else get_profile(str(profile))
        self.store = Store(out, data)
        self.device = device or pick_device()
        _say_caveat(self.profile)

    def __repr__(self) -> str:
        return f"Run({self.profile.name!r}, out={str(self.store.root)!r})"

    notice = NOTICE  # beside every prediction

    @cached_property
    def virtual(self) -> Run:
        """The run of the virtual hospitals with the seed of this one; itself where it is that."""
        home = profiles.virtual(self.profile)
        return self if home == self.profile else self.with_profile(home)

    def with_profile(self, profile: Profile) -> Run:
        """A run of another profile in the same store, on the same device."""
        return Run(profile, self.store.root, self.store.data, self.device)

    def folder(self, stage: str) -> Path:
        """The folder of the artifact of a stage (`stages.STAGES`), made where it is missing."""
        return stages.resolve(self.profile, stage, self.store)

    def result(self, stage: str, task: Task | None = None) -> Result:
        """What a stage left, made where it is missing."""
        whole = partial(stages.resolve, self.profile, stage, self.store, whole=True)
        return Result(self.folder(stage), self.store, task, partial(self._complete, stage), whole)

    def _complete(self, stage: str, table: pd.DataFrame) -> None:
        """Make what a table of a stage refers to and is not here: cohort, masks, black images."""
        if not self.store.absent(table):
            return
        inputs = self._inputs(stage)
        if stage in DERIVED_IMAGES and self.store.absent(table):
            DERIVED_IMAGES[stage](self.profile, inputs)

    # images

    @cached_property
    def cohort(self) -> Cohort:
        """The patients of the virtual hospitals, drawn."""
        return Cohort(self.folder("cohort"))

    def images(self, task: str) -> pd.DataFrame:
        """Images that serve a task: "findings", "lungs", "diagnosis" or "severity"."""
        return images_for(self.profile, task, self.store, self._inputs().folders.get("cohort"))

    @cached_property
    def diagnosis_images(self) -> pd.DataFrame:
        """Images with a diagnosis as the models see them, internal and external."""
        return makers.diagnosis_images(self.profile, self._inputs("diagnosis"))[0]

    @cached_property
    def severity_images(self) -> pd.DataFrame:
        """Images of the severity model, internal and external, with the masks of its lungs."""
        return makers.masked_severity_images(self.profile, self._inputs("severity"))

    @cached_property
    def segmenter_images(self) -> pd.DataFrame:
        """Images with a lung mask or a diagnosis, as the segmenter trains on them."""
        return makers.segmenter_images(self.profile, self._inputs("segmenter"))

    @cached_property
    def saliency_images(self) -> pd.DataFrame:
        """Images with a diagnosis whose lesions are known, as the models see them."""
        return makers.saliency_images(self.profile, self._inputs("saliency_benchmark"))

    def pixels(self, table: pd.DataFrame, kind: str = "image", column: str = "path") -> np.ndarray:
        """Images of a table as the models see them before normalisation, uint8 (n, S, S).

        Args:
            table: images.
            kind: "image", "grey" (not equalised), "lungs" or "lesion".
            column: that holds the paths, such as "lung_mask".
        """
        profile = self.profile
        return cached_images(
            table[column], profile.image_size, profile.choices, kind, self.store
        ).gather()

    def real_images(self, name: str, mirror: str | Path, folder: str | Path) -> pd.DataFrame:
        """Real images of a dataset, for a run that trains on none.

        Args:
            name: of the dataset, such as "nih_cxr14".
            mirror: folder with prepared images.
            folder: where they go, verified.
        """
        fetching.fetch(name, folder, mirror, say=lambda text: None)
        return manifests.read_manifest(name, folder, self.profile.choices)

    def with_masks(self, table: pd.DataFrame) -> pd.DataFrame:
        """A table with the lung masks that severity is pooled in."""
        return with_masks(self.profile, table, self.store, self.folder("segmenter"))

    def _inputs(self, stage: str | None = None) -> StageInputs:
        """The folders that images are read from: those of the cohorts, and of the segmenter."""
        folders = {}
        if stage is None and "virtual" in self.profile.manifests:
            folders["cohort"] = self.folder("cohort")
        for need in stages.STAGES[stage].upstream(self.profile) if stage else ():
            if need.used and need.role in ("cohort", "virtual_cohort", "segmenter"):
                folders[need.role] = stages.resolve(need.profile, need.stage, self.store)
        return StageInputs(self.store, folders)

    # trained models

    def task(self, kind: type[Task]) -> Task:
        """A task of this run, such as `run.task(FindingsTask)`."""
        return kind(self.profile, self.store, self.device)

    @cached_property
    def backbone(self) -> Result:
        """The DenseNet that learnt the ten findings."""
        return self.result("backbone", self.task(FindingsTask))

    @cached_property
    def contrastive(self) -> Result:
        """The model of the variant after SimCLR."""
        return self.result("contrastive", self.task(ContrastiveTask))

    @cached_property
    def segmenter(self) -> Result:
        """The lung segmenter, its teacher and two plain U-Nets."""
        return self.result("segmenter", self.task(SegmentationTask))

    @cached_property
    def _diagnoses(self) -> dict[str, Result]:
        return {}

    def diagnosis(self, view: str | None = None) -> Result:
        """The corpus ViT of one view, "PA" or "AP"; None: of both views (`sources.joint_views`)."""
        stage = "diagnosis"
        if view is not None:
            stage = f"diagnosis_{known(view, VIEWS, 'view').lower()}"
        if stage not in self._diagnoses:
            self._diagnoses[stage] = self.result(stage, self.task(DiagnosisTask))
        return self._diagnoses[stage]

    @cached_property
    def severity(self) -> Result:
        """The severity model of all views."""
        return self.result("severity", self.task(SeverityTask))

    # studies

    def recorded(self, name: str) -> dict[str, Any] | None:
        """A result of a run too long for a lesson, as committed.

        Returns:
            `made` (command, commit, date) and `rows`; None where it was not measured yet, or only
            on an earlier version of the virtual hospitals (`made["hospitals"]`).
        """
        if name not in result_names():
            return None
        found = read_result(name)
        version = stages.stage_of("cohort").version
        return found if found["made"].get("hospitals", version) == version else None

    @cached_property
    def saliency_benchmark(self) -> Result:
        """The saliency methods, evaluated on the corpus ViTs of both views."""
        return self.result("saliency_benchmark")

    @cached_property
    def severity_choices(self) -> Result:
        """The severity model, evaluated with other values of choices that need no training."""
        return self.result("severity_choices")

    @cached_property
    def marker_study(self) -> Result:
        """The confounder sweep on the virtual hospitals."""
        return self.result("marker_study")
