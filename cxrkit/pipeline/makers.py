"""Makers: what fills the folder of each stage, from the profile and the folders that it needs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from cxrkit.config import profiles
from cxrkit.config.choices import OPEN_CHOICES
from cxrkit.config.sections import Profile, Variant
from cxrkit.config.vocabulary import HAS, known
from cxrkit.data import manifests
from cxrkit.data.datasets import external_or_test, split_parts
from cxrkit.explain import saliency_benchmark
from cxrkit.models.pretrained import (
    load_chest_densenet,
    load_imagenet_backbone,
    load_imagenet_weights,
)
from cxrkit.pipeline.derived import framed, with_masks
from cxrkit.pipeline.task_data import external_to_view, few, images_for, serving_datasets
from cxrkit.shortcuts import marker_study, trivial_models, within_source
from cxrkit.simulation import cohort as virtual_hospitals
from cxrkit.storage import provenance
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import read_json, write_json
from cxrkit.tasks import contrastive, diagnosis, reader_study, severity, severity_choices
from cxrkit.tasks.contrastive import ContrastiveTask
from cxrkit.tasks.diagnosis import DiagnosisTask
from cxrkit.tasks.findings import FindingsTask
from cxrkit.tasks.segmentation import SegmentationTask
from cxrkit.tasks.severity import SeverityTask
from cxrkit.tasks.task import WEIGHTS, Inputs, State
from cxrkit.training.checkpoint import load_tensors

BACKBONE_WEIGHTS = ("random", "imagenet", "torchxrayvision", "virtual")
FEATURE_WEIGHTS = ("findings", "imagenet", "random")
CANDIDATES = 4  # framed images for each that the saliency benchmark evaluates
MOST_HEALTHY = 300  # healthy images that the finished severity model reads


@dataclass(frozen=True)
class StageInputs:
    """The store, and the folders of the artifacts that a stage depends on, by role."""

    store: Store
    folders: dict[str, Path]

    def __getitem__(self, role: str) -> Path:
        return self.folders[role]

    def weights(self, role: str) -> State:
        """State dict of the finished artifact in a role."""
        return load_tensors(self.folders[role] / WEIGHTS)[0]

    def images(self, profile: Profile, task: str) -> pd.DataFrame:
        """Images of the profile for a task."""
        return images_for(profile, task, self.store, self.folders.get("cohort"))

    def virtual_training_images(self, profile: Profile, task: str) -> pd.DataFrame:
        """Training images of the virtual hospitals for a task, beside those of the profile."""
        home = profiles.virtual(profile)
        table = images_for(home, task, self.store, self.folders["virtual_cohort"])
        return split_parts(table)["train"]


def make_cohort(folder: Path, profile: Profile, inputs: StageInputs) -> None:
    """Draw the patients of the virtual hospitals.

    Where their table comes with the kit, a film is drawn when it is first asked for.
    """
    shipped = inputs.store.shipped_for(folder)
    if shipped is None:
        virtual_hospitals.draw_cohort(folder, profile.cohort, profile.seed)
        return
    provenance.say_shipped(shipped)
    virtual_hospitals.unpack_cohort(shipped, folder)


def make_backbone(folder: Path, profile: Profile, inputs: StageInputs) -> None:
    """Train the DenseNet on the ten findings."""
    source = known(profile.backbone.initial_weights, BACKBONE_WEIGHTS, "start of the backbone")
    initial: tuple[State, ...] = ()
    if source == "imagenet":
        initial = (load_imagenet_backbone(profile.backbone.network, profile.backbone.stride),)
    elif source == "torchxrayvision":
        initial = (load_chest_densenet(),)
    elif source == "virtual":
        initial = (inputs.weights("initial_weights"),)
    own = replace(profile, variant=Variant())
    table = inputs.images(profile, "findings")
    FindingsTask(own, inputs.store).make(folder, Inputs(table, initial))


def make_feature_extractor(folder: Path, profile: Profile, inputs: StageInputs) -> None:
    """Train the ResNet of the variant on the ten findings, as the backbone is."""
    training = profile.variant.pretraining or profile.backbone_training
    own = replace(profile, backbone_training=training)
    table = few(inputs.images(profile, "findings"), profile)
    FindingsTask(own, inputs.store).make(folder, Inputs(table))


def make_contrastive(folder: Path, profile: Profile, inputs: StageInputs) -> None:
    """Train the model of the variant by SimCLR."""
    table = few(inputs.images(profile, "findings"), profile)
    initial = feature_weights(profile, inputs)
    ContrastiveTask(profile, inputs.store).make(folder, Inputs(table, initial))


def feature_weights(profile: Profile, inputs: StageInputs) -> tuple[State, ...]:
    """State dicts that a model begins with before its first diagnosis.

    Raises:
        ValueError: the start is unknown, or a ViT would start from findings: it has no features to
            have learnt them.
    """
    variant = profile.variant
    if variant.model == "vit" and variant.initial_weights == "findings":
        raise ValueError(
            "the ViT reads pixels: it has no feature extractor that could have learnt the "
            "findings; start it from imagenet or random"
        )
    source = known(variant.initial_weights, FEATURE_WEIGHTS, "start of the features")
    if source == "findings":
        return (inputs.weights("features"),)
    if source == "imagenet":
        state = load_imagenet_weights(variant.model, variant.layers, profile.backbone.stem)
        return (state,)
    return ()


def initial_weights(profile: Profile, inputs: StageInputs) -> tuple[State, ...]:
    """State dicts that the diagnosis begins with, in the order of `models.load_matching`.

    They are those of the features, and after SimCLR, where the variant has it, its own; or those of
    the model of the virtual hospitals (`sources.virtual`).
    """
    if profile.sources.virtual:
        return (inputs.weights("virtual_model"),)
    features = feature_weights(profile, inputs)
    if profile.variant.contrastive:
        return (*features, contrastive.network_weights(inputs["contrastive"]))
    return features


def diagnosis_images(
    profile: Profile, inputs: StageInputs, view: str = ""
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Images with a diagnosis.

    Images of unknown view are left out, or kept (choice 19). With `sources.framing` only a part of
    each is shown.

    Args:
        profile: its sources and choices.
        inputs: the folders that images are read from.
        view: "AP": external are the hospitals of `sources.external_ap`, where it names some.

    Returns:
        Those of the profile, those of `sources.held_out` external too; and the auxiliary ones of
        the virtual hospitals.
    """
    table, _ = manifests.select_views(inputs.images(profile, "diagnosis"), profile.choices)
    table = external_to_view(table, profile, view)
    held_out = table["dataset"].isin(profile.sources.held_out)
    table = table.assign(external=table["external"].astype(bool) | held_out)
    # a patient in two sources trains nothing if one of them is external
    external_groups = table["group_id"][table["external"]]
    clean = table["external"] | ~table["group_id"].isin(external_groups)
    table = table[clean].reset_index(drop=True)
    auxiliary = table[:0]
    if dict(profile.sources.shares).get("virtual", 0) > 0:
        auxiliary = inputs.virtual_training_images(profile, "diagnosis")
    if profile.sources.framing == "whole":
        return table, auxiliary
    store, segmenter = inputs.store, inputs["segmenter"]
    return (
        framed(profile, table, store, segmenter),
        framed(profile, auxiliary, store, segmenter),
    )


def make_joint_diagnosis(folder: Path, profile: Profile, inputs: StageInputs) -> None:
    """Train the corpus ViT on PA and AP images together.

    With `profile.folds` every internal image is also evaluated by a model that never saw its
    patient, and metrics.json holds AUCs within each source too (`within_source.report`).
    """
    table, auxiliary = (few(part, profile) for part in diagnosis_images(profile, inputs))
    task = DiagnosisTask(profile, inputs.store)
    given = Inputs(table, initial_weights(profile, inputs), auxiliary)
    metrics = task.make(folder, given)
    if not profile.folds or profile.variant.max_images:  # folds of a few images would say nothing
        return
    internal = table[~table["external"].astype(bool)].reset_index(drop=True)
    fold = internal["group_id"].map(lambda group: manifests.fold_of(group, profile.folds))
    folds = task.cross_validate(folder, internal, fold.to_numpy(), given)
    inputs.store.write_table(folder / "crossvalidated.csv", folds)
    predictions = inputs.store.read_table(folder / "predictions.csv")
    trained_on = pd.concat([split_parts(table)["train"], auxiliary], ignore_index=True)
    within = within_source.report(folds, predictions, trained_on, profile, inputs.store)
    write_json(folder / "metrics.json", {**metrics, "within_source": within})


def make_diagnosis(folder: Path, profile: Profile, inputs: StageInputs, view: str) -> None:
    """Train the corpus ViT on the images of one view, "PA" or "AP"."""
    if profile.sources.joint_views:
        diagnosis.take_view(folder, inputs.store, view, inputs["joint"], profile.choices)
        return
    both = diagnosis_images(profile, inputs, view)
    table, auxiliary = (diagnosis.of_view(part, view) for part in both)
    given = Inputs(few(table, profile), initial_weights(profile, inputs), auxiliary)
    DiagnosisTask(profile, inputs.store).make(folder, given)


def make_diagnosis_pa(folder: Path, profile: Profile, inputs: StageInputs) -> None:
    """Train the corpus ViT on PA images."""
    make_diagnosis(folder, profile, inputs, "PA")


def make_diagnosis_ap(folder: Path, profile: Profile, inputs: StageInputs) -> None:
    """Train the corpus ViT on AP images."""
    make_diagnosis(folder, profile, inputs, "AP")


def segmenter_images(profile: Profile, inputs: StageInputs) -> pd.DataFrame:
    """Images with a lung mask or a diagnosis.

    Those without a mask can be abnormal images to train on (`segmentation.assign_roles`).
    """
    both = [inputs.images(profile, task) for task in ("lungs", "diagnosis")]
    return pd.concat(both).drop_duplicates("path", ignore_index=True)


def make_segmenter(folder: Path, profile: Profile, inputs: StageInputs) -> None:
    """Train the lung segmenter, its teacher and two plain U-Nets.

    With `segmenter.virtual` images of the virtual hospitals train beside the profile's own.
    """
    auxiliary = None
    if profile.segmenter.virtual:
        auxiliary = inputs.virtual_training_images(profile, "lungs")
    table = segmenter_images(profile, inputs)
    SegmentationTask(profile, inputs.store).make(folder, Inputs(table, auxiliary=auxiliary))


def severity_images(profile: Profile, inputs: StageInputs) -> pd.DataFrame:
    """Images with known zones or Brixia scores.

    Training images of the diagnosis train beside them, marked `auxiliary`, and test nothing: with
    `severity.auxiliary_diagnosis` those that show COVID-19 and have a score, and by the choice
    `severity.healthy` those that are normal, as arrays of zeros.
    """
    own = inputs.images(profile, "severity")
    if not uses_diagnosis(profile):
        return own
    other = split_parts(inputs.images(profile, "diagnosis"))["train"]
    other = other[~other["path"].isin(own["path"])]
    other = other[other["site"] != profile.severity.held_out].assign(auxiliary=True)
    parts = [own.assign(auxiliary=False)]
    if profile.severity.auxiliary_diagnosis:
        scored = other[list(HAS["severity"])].notna().any(axis=1)
        parts.append(other[scored & (other["diagnosis"] == "covid19")])
    if profile.severity.healthy == "zeros":
        normal = other[other["diagnosis"] == "normal"]
        parts.append(severity.as_zeros(normal[_gives_zeros(normal, profile)]))
    return pd.concat(parts, ignore_index=True)


def _gives_zeros(table: pd.DataFrame, profile: Profile) -> pd.Series:
    """Whether the normal images of each image's dataset train as zeros: bool (n,)."""
    chosen = profile.severity.healthy_datasets
    return table["dataset"].isin(chosen) if chosen else pd.Series(True, table.index)


def uses_diagnosis(profile: Profile) -> bool:
    """Whether images of the diagnosis train the severity model too."""
    _, uses = OPEN_CHOICES["severity.healthy"]
    healthy = known(profile.severity.healthy, uses, "use of healthy images")
    return profile.severity.auxiliary_diagnosis or healthy == "zeros"


def healthy_images(profile: Profile, inputs: StageInputs, table: pd.DataFrame) -> pd.DataFrame:
    """Normal images that no stage trained with, at most MOST_HEALTHY, with lung masks.

    Args:
        profile: its severity model uses images of the diagnosis, else there are none.
        inputs: the folders that images are read from.
        table: images that train the severity model.

    Returns:
        Images of datasets that give no zeros (`severity.healthy_datasets`); else of external
        hospitals, or, where there are none, of the test split.
    """
    if not uses_diagnosis(profile):
        return table[:0]
    normal = inputs.images(profile, "diagnosis").query("diagnosis == 'normal'")
    trained = split_parts(table)["train"]
    normal = normal[~normal["group_id"].isin(trained["group_id"])]
    elsewhere = normal[~_gives_zeros(normal, profile)]
    drawn = _some_healthy(elsewhere if len(elsewhere) else external_or_test(normal), profile)
    return with_masks(profile, drawn, inputs.store, inputs["segmenter"]) if len(drawn) else drawn


def unscored_images(profile: Profile, inputs: StageInputs, table: pd.DataFrame) -> pd.DataFrame:
    """Images with a diagnosis whose patients did not train the severity model, with lung masks.

    Args:
        profile: its `severity.healthy_datasets` say which sources gave zeros.
        inputs: the folders that images are read from.
        table: images that train the severity model.

    Returns:
        At most MOST_HEALTHY of each dataset and diagnosis, drawn by the seed.
    """
    found = inputs.images(profile, "diagnosis")
    found = found[~found["group_id"].isin(table["group_id"])]
    drawn = found.sample(frac=1, random_state=profile.seed)
    drawn = drawn.groupby(["dataset", "diagnosis"]).head(MOST_HEALTHY).sort_index()
    drawn = drawn.reset_index(drop=True)
    return with_masks(profile, drawn, inputs.store, inputs["segmenter"]) if len(drawn) else drawn


def _some_healthy(normal: pd.DataFrame, profile: Profile) -> pd.DataFrame:
    """At most MOST_HEALTHY normal images, drawn by the seed, as arrays of zeros."""
    drawn = normal.sample(min(MOST_HEALTHY, len(normal)), random_state=profile.seed)
    return severity.as_zeros(drawn.sort_index()).reset_index(drop=True)


def calibration_images(profile: Profile, inputs: StageInputs) -> pd.DataFrame | None:
    """Normal validation images, at most MOST_HEALTHY, with lung masks.

    They calibrate the zones beside the scored images, which are all ill.

    Returns:
        Arrays of zeros; None where the model is not calibrated or no normal image trains.
    """
    settings = profile.severity
    if settings.calibration == "none" or settings.healthy != "zeros":
        return None
    normal = inputs.images(profile, "diagnosis").query("diagnosis == 'normal'")
    val = split_parts(normal)["val"]
    val = val[(val["site"] != settings.held_out) & severity.is_at(val, profile.variant.sites)]
    val = val[_gives_zeros(val, profile)]
    if val.empty:
        return None
    drawn = few(_some_healthy(val, profile), profile)
    return with_masks(profile, drawn, inputs.store, inputs["segmenter"])


def scored_validation_images(profile: Profile, inputs: StageInputs) -> pd.DataFrame:
    """Validation images of the training hospitals with known zones or Brixia scores, with masks.

    Those of the diagnosis that show COVID-19 stand beside those of severity, of which there are
    too few to choose between two trainings.
    """
    own, other = (
        split_parts(inputs.images(profile, task))["val"] for task in ("severity", "diagnosis")
    )
    other = other[(other["diagnosis"] == "covid19") & ~other["path"].isin(own["path"])]
    table = pd.concat([own, other], ignore_index=True)
    table = table[np.isfinite(severity.true_scores(table, profile.choices))]
    return with_masks(profile, table, inputs.store, inputs["segmenter"])


def severity_weights(profile: Profile, inputs: StageInputs) -> tuple[State, ...]:
    """State dicts that the severity model begins with, in the order of `models.load_matching`.

    The severity model of the virtual hospitals; or the first weights of the diagnosis and, by
    choice 21, the PA classifier: the paper trains PA and AP together, its classifiers apart, and
    does not say which of the two goes on.
    """
    if profile.severity.virtual:
        return (inputs.weights("virtual_severity"),)
    own = initial_weights(profile, inputs)
    if profile.choices.severity_start == "classifier":
        return (*own, inputs.weights("classifier"))
    return own


def masked_severity_images(profile: Profile, inputs: StageInputs) -> pd.DataFrame:
    """The images of the severity model, with the lung masks that severity is pooled in."""
    table = severity_images(profile, inputs)
    if profile.severity.held_out:
        table = severity.hold_out(table, profile.severity.held_out, profile.severity.alternation)
    table = few(severity.trained_at(table, profile.variant.sites), profile)
    return with_masks(profile, table, inputs.store, inputs["segmenter"])


def make_severity(folder: Path, profile: Profile, inputs: StageInputs) -> None:
    """Train the severity model of all views together.

    With `profile.folds` it is also cross-validated over all images (`reader_study.run`).
    """
    table = masked_severity_images(profile, inputs)
    task = SeverityTask(profile, inputs.store)
    given = Inputs(
        table,
        severity_weights(profile, inputs),
        calibration=calibration_images(profile, inputs),
    )
    metrics = task.make(folder, given)
    more = {}
    if profile.folds and not profile.variant.max_images:
        more["folds"] = reader_study.run(task, folder, given)
    healthy = healthy_images(profile, inputs, table)
    if len(healthy):
        more["healthy"] = task.read_healthy(task.load(folder), healthy)
    if profile.severity.healthy_datasets:
        unscored = unscored_images(profile, inputs, table)
        more["unscored"] = task.read_unscored(task.load(folder), unscored)
    outlined = outlined_images(profile, inputs, table)
    if len(outlined):
        more["outlined"] = task.compare_lesions(task.load(folder), outlined)
    if more:
        write_json(folder / "metrics.json", {**metrics, **more})


def make_severity_choices(folder: Path, profile: Profile, inputs: StageInputs) -> None:
    """Evaluate the severity model with other values of the choices that need no training."""
    table = external_or_test(inputs.images(profile, "severity"))
    table = with_masks(profile, table, inputs.store, inputs["segmenter"])
    task = SeverityTask(profile, inputs.store)
    severity_choices.make(folder, task, task.load(inputs["severity"]), table)


def outlined_images(profile: Profile, inputs: StageInputs, table: pd.DataFrame) -> pd.DataFrame:
    """Images whose lesions experts have outlined and whose severity nobody knows (Figure 7).

    Args:
        profile: its `manifests` name the datasets.
        inputs: the folders that images are read from.
        table: images with known severity; they are left out.

    Returns:
        Images with lung masks; those of the train split are left out, for the classifier that the
        severity model begins with may have seen them. The virtual hospitals have none.
    """
    if not set(serving_datasets(profile, "lesion")) - {"virtual"}:
        return table[:0]
    real = replace(profile, manifests=tuple(n for n in profile.manifests if n != "virtual"))
    found = images_for(real, "lesion", inputs.store)
    unseen = found["external"].astype(bool) | (found["split"] != "train")
    # the table's paths may lie in the store (masks, black borders); groups are the same everywhere
    found = found[unseen & ~found["group_id"].isin(table["group_id"])].reset_index(drop=True)
    return with_masks(profile, found, inputs.store, inputs["segmenter"]) if len(found) else found


def make_alternation(folder: Path, profile: Profile, inputs: StageInputs) -> None:
    """Severity at each hospital by the model that never saw it (Table 6).

    Raises:
        ValueError: no hospitals take turns.
    """
    if not profile.severity.alternation:
        raise ValueError(
            "no hospitals take turns: name them in `severity.alternation` of the profile, such as "
            "--set severity.alternation=[north,south]"
        )
    sites = {}
    for site in profile.severity.alternation:
        sites[site] = read_json(inputs[site] / "metrics.json")["external"]
    write_json(folder / "metrics.json", {"sites": sites})


def saliency_images(profile: Profile, inputs: StageInputs) -> pd.DataFrame:
    """Images with a diagnosis for the saliency benchmark.

    They are the profile's own, or, where nobody has annotated their lesions, those of the virtual
    hospitals, as the profile's diagnosis sees them (`framing`), with their true lungs. An image
    that is framed is drawn first, so of these only CANDIDATES for each that is evaluated are there:
    COVID-19 of the test split and of external hospitals.
    """
    own = profile
    if "virtual" not in profile.manifests:
        own = profiles.virtual(profile)
    table = inputs.images(own, "diagnosis")
    if profile.sources.framing == "whole":
        return table
    most = CANDIDATES * profile.saliency_images
    shown = saliency_benchmark.candidates(table)
    views = [part for _, part in shown.groupby("view", sort=False)]
    chosen = [part.iloc[saliency_benchmark.spread(len(part), most)] for part in views]
    table = pd.concat([table[:0], *chosen], ignore_index=True)
    return framed(profile, table, inputs.store, inputs["segmenter"])


def make_saliency_benchmark(folder: Path, profile: Profile, inputs: StageInputs) -> None:
    """Evaluate the saliency methods on the corpus ViTs of both views."""
    task = DiagnosisTask(profile, inputs.store)
    models = {
        "PA": task.load(inputs["diagnosis_pa"]),
        "AP": task.load(inputs["diagnosis_ap"]),
    }
    table = saliency_images(profile, inputs)
    saliency_benchmark.make(folder, profile, table, models, inputs.store)


def make_marker_study(folder: Path, profile: Profile, inputs: StageInputs) -> None:
    """Sweep the confounder, a marker that is tied to the diagnosis more and more.

    Beside it, trivial models: how far one gets without seeing disease.
    """
    home = profiles.virtual(profile)
    backbone = FindingsTask(home, inputs.store).load(inputs["backbone"])
    cohort = virtual_hospitals.Cohort(inputs["cohort"])
    marker_study.make(folder, home, cohort, backbone, home.seed)
    table = inputs.images(home, "diagnosis")
    trivial_models.make(folder, home, table, backbone, inputs.store)
