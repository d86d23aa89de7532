"""The reproduction on one page: each stage loads its artifact or makes it, and makes first what it
stands on (`dependencies`).
"""

import hashlib
from dataclasses import replace

import numpy as np
import pandas as pd

from cxrkit.config import profiles
from cxrkit.config.vocabulary import HAS, known
from cxrkit.data import manifests, masked_images
from cxrkit.data.datasets import parts as split_parts
from cxrkit.explain import saliency_benchmark
from cxrkit.models import baselines
from cxrkit.models.pretrained import imagenet_state
from cxrkit.pipeline import task_data
from cxrkit.pipeline.dependencies import settings, virtual
from cxrkit.pipeline.task_data import cohort
from cxrkit.shortcuts import marker_study, within_source
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import write_json
from cxrkit.tasks import contrastive, diagnosis, findings, reader_study, segmentation
from cxrkit.tasks import severity as severity_module
from cxrkit.training import checkpoint

# DenseNet.start -> (profile, store) -> state dict of DenseNet features, or None for random weights
STARTS = {
    "random": lambda profile, store: None,
    "imagenet": lambda profile, store: imagenet_state(),
    "virtual": lambda profile, store: weights(backbone(virtual(profile), store)),
}


def weights(folder):
    """State dict of a finished stage."""
    return checkpoint.load_tensors(folder / "weights.safetensors")[0]


def backbone(profile, store=None):
    """The DenseNet that learnt the ten findings -> folder of the artifact (`findings.load`)."""
    store = store or Store()
    start = STARTS[known(profile.backbone.start, STARTS, "start of the backbone")]
    own = replace(profile, variant=profiles.Variant())
    return store.load_or_make(
        "backbone",
        settings(profile, "backbone"),
        lambda folder: findings.make(
            folder,
            own,
            task_data.for_task(profile, "findings", store),
            store,
            start(profile, store),
        ),
    )


def trunk(profile, store=None):
    """The ResNet of `profile.variant` that learnt the ten findings as the backbone does -> folder
    of the artifact (`findings.load`).
    """
    store = store or Store()
    own = replace(
        profile, backbone_training=profile.variant.pretraining or profile.backbone_training
    )
    return store.load_or_make(
        "trunk",
        settings(profile, "trunk"),
        lambda folder: findings.make(
            folder,
            own,
            task_data.few(task_data.for_task(profile, "findings", store), profile),
            store,
        ),
    )


def contrast(profile, store=None):
    """The model of `profile.variant` after SimCLR -> folder of the artifact
    (`contrastive.weights`).
    """
    store = store or Store()
    return store.load_or_make(
        "contrastive",
        settings(profile, "contrastive"),
        lambda folder: contrastive.make(
            folder,
            profile,
            task_data.few(task_data.for_task(profile, "findings", store), profile),
            store,
            features(profile, store),
        ),
    )


# variant.start -> (profile, store) -> state dicts that the features of the model begin with
FEATURES = {
    "findings": lambda profile, store: (
        weights((trunk if profile.variant.model in baselines.TRUNKS else backbone)(profile, store)),
    ),
    "imagenet": lambda profile, store: (
        baselines.imagenet(profile.variant.model, profile.variant.layers, profile.backbone.stem),
    ),
    "random": lambda profile, store: (),
}


def features(profile, store=None):
    """State dicts that a model begins with before its first diagnosis, in the order of
    `networks.adopt`.

    Raises ValueError for an unknown start, or for a ViT that would start from findings: it has no
    features to have learnt them.
    """
    variant = profile.variant
    if variant.model == "vit" and variant.start == "findings":
        raise ValueError(
            "the ViT reads pixels: it has no trunk that could have learnt the findings; start it "
            "from imagenet or random"
        )
    return FEATURES[known(variant.start, FEATURES, "start of the features")](profile, store)


def beginning(profile, store=None):
    """`features`, and after SimCLR, where the variant has it, its weights; or the model of the
    virtual hospitals (`Sources.virtual`).
    """
    if profile.sources.virtual:
        return (weights(transformer(virtual(profile), "PA", store)),)
    own = features(profile, store)
    return (
        (*own, contrastive.weights(contrast(profile, store)))
        if profile.variant.contrastive
        else own
    )


def segmenter_films(profile, store=None):
    """Films with a lung mask or a diagnosis: those without a mask can be abnormal films to learn
    from (`lungs.roles`).
    """
    both = [task_data.for_task(profile, task, store) for task in ("lungs", "diagnosis")]
    return pd.concat(both).drop_duplicates("path", ignore_index=True)


def segmenter(profile, store=None):
    """The lung segmenter, its teacher and two plain U-Nets -> folder of the artifact
    (`lungs.load`).

    Films without a mask take part as abnormal films, where profile.segmenter.abnormal asks for
    them. With profile.segmenter.virtual the training films of the virtual hospitals teach beside
    the profile's own.
    """
    store = store or Store()

    def make(folder):
        lent = (
            split_parts(task_data.for_task(virtual(profile), "lungs", store))["train"]
            if profile.segmenter.virtual
            else None
        )
        segmentation.make(folder, profile, segmenter_films(profile, store), store, lent)

    return store.load_or_make("segmenter", settings(profile, "segmenter"), make)


def transformer(profile, view, store=None):
    """The corpus ViT for the films of one view, "PA" or "AP" -> folder of the artifact
    (`diagnosis.load`).
    """
    store = store or Store()
    stage = f"diagnosis_{known(view, ('PA', 'AP'), 'view').lower()}"
    if profile.sources.together:
        return store.load_or_make(
            stage,
            settings(profile, stage),
            lambda folder: diagnosis.take(folder, profile, view, both_views(profile, store)),
        )

    def make(folder):
        own, lent = (diagnosis.of_view(part, view) for part in diagnosis_films(profile, store))
        diagnosis.make(
            folder, profile, task_data.few(own, profile), store, beginning(profile, store), lent
        )

    return store.load_or_make(stage, settings(profile, stage), make)


def both_views(profile, store=None):
    """The corpus ViT taught by PA and AP films together -> folder of the artifact.

    With profile.folds every internal film is also judged by a model that never saw its patient, and
    metrics.json holds the contrasts too (`contrasts.report`).
    """
    store = store or Store()

    def make(folder):
        films_of, lent = (task_data.few(part, profile) for part in diagnosis_films(profile, store))
        result = diagnosis.make(folder, profile, films_of, store, beginning(profile, store), lent)
        if not profile.folds or profile.variant.films:  # folds of a few films would say nothing
            return
        inner = films_of[~films_of["external"].astype(bool)].reset_index(drop=True)
        folds = diagnosis.cross_validate(
            folder, profile, inner, store, beginning(profile, store), lent
        )
        judged = pd.read_csv(folder / "predictions.csv", low_memory=False)
        taught = pd.concat([split_parts(films_of)["train"], lent], ignore_index=True)
        write_json(
            folder / "metrics.json",
            {**result, "contrasts": within_source.report(folds, judged, taught, profile, store)},
        )

    return store.load_or_make("diagnosis", settings(profile, "diagnosis"), make)


def diagnosis_films(profile, store=None):
    """(films of the profile that have a diagnosis, those of profile.sources.aside external too;
    films that the virtual hospitals lend).

    Films of unknown view are left out, or kept (choice 19). With profile.sources.lungs_only all are
    black outside of the lungs.
    """
    known_views, _ = manifests.select_views(
        task_data.for_task(profile, "diagnosis", store), profile.choices
    )
    own = known_views.assign(
        external=known_views["external"].astype(bool)
        | known_views["dataset"].isin(profile.sources.aside)
    )
    # a patient in two sources
    own = own[
        own["external"] | ~own["group_id"].isin(own["group_id"][own["external"]])
    ].reset_index(drop=True)
    lends = dict(profile.sources.shares).get("virtual", 0) > 0
    lent = (
        split_parts(task_data.for_task(virtual(profile), "diagnosis", store))["train"]
        if lends
        else own[:0]
    )
    return (
        (lungs_only(profile, own, store), lungs_only(profile, lent, store))
        if profile.sources.lungs_only
        else (own, lent)
    )


def lungs_only(profile, table, store=None):
    """The table with films that are black outside of the lungs, made once (`audit.blacken`);
    `origin` = the films as they came.

    Lungs are the segmenter's, and those of virtual films the true ones. Raises ValueError where the
    masks are padded.
    """
    if profile.choices.resize != "plain":
        raise ValueError(
            "lungs_only needs masks of the whole film: choices.resize must be 'plain', not "
            f"{profile.choices.resize!r}"
        )
    store, real = store or Store(), table["dataset"] != "virtual"
    drawn = table.assign(
        lung_mask=table["lung_mask"].mask(real, masks(profile, table[real], store)["lung_mask"])
    )
    digest = hashlib.sha256("\n".join([*drawn["path"], *drawn["lung_mask"]]).encode()).hexdigest()
    folder = store.load_or_make(
        "blackened", {"films": digest}, lambda part: masked_images.blacken(part, drawn)
    )
    return drawn.assign(
        origin=table["path"], path=[str(folder / f"{i}.png") for i in range(len(table))]
    )


def masks(profile, table, store=None):
    """The table with the lung masks that severity is pooled in: the segmenter's (section 3.3), or,
    for films that have one and where profile.quantifier.masks is "drawn", the reader's.
    """
    store = store or Store()
    missing = table["lung_mask"].isna() | (
        known(profile.quantifier.masks, ("segmenter", "drawn"), "origin of masks") == "segmenter"
    )
    if not missing.any():
        return table
    rows = table[missing]
    asked = {
        "segmenter": settings(profile, "segmenter"),
        "size": profile.image_size,
        "resize": profile.choices.resize,
        "films": hashlib.sha256("\n".join(rows["path"]).encode()).hexdigest(),
    }
    folder = store.load_or_make(
        "masks",
        asked,
        lambda part: np.save(
            part / "masks.npy",
            severity_module.predicted_lungs(
                segmentation.load(segmenter(profile, store), profile), rows, profile, store
            ),
        ),
    )
    return table.assign(
        lung_mask=table["lung_mask"].mask(
            missing,
            pd.Series([f"{folder / 'masks.npy'}#{i}" for i in range(len(rows))], index=rows.index),
        )
    )


def severity(profile, store=None):
    """The severity model of all views together -> folder of the artifact (`quantification.load`).

    It starts from the severity model of the virtual hospitals, or from the backbone and, by choice
    21, the PA classifier: the paper trains PA and AP together, its classifiers apart, and does not
    say which of the two goes on. With profile.folds it is also cross-validated over all films
    (`readers.study`).
    """
    store = store or Store()

    def make(folder):
        films_of = task_data.few(
            severity_module.trained_at(severity_films(profile, store), profile.variant.sites),
            profile,
        )
        aside = profile.quantifier.aside
        films_of = masks(
            profile, severity_module.set_aside(films_of, aside) if aside else films_of, store
        )
        start = severity_start(profile, store)
        result = severity_module.make(folder, profile, films_of, store, start)
        if profile.folds and not profile.variant.films:
            write_json(
                folder / "metrics.json",
                {**result, "folds": reader_study.study(folder, profile, films_of, store, start)},
            )

    return store.load_or_make("severity", settings(profile, "severity"), make)


def severity_films(profile, store=None):
    """Films with known zones or Brixia scores; with profile.quantifier.diagnosed the training films
    of the diagnosis that show COVID-19 teach beside them, marked `lent`, and test nothing.
    """
    own = task_data.for_task(profile, "severity", store)
    if not profile.quantifier.diagnosed:
        return own
    lent = split_parts(task_data.for_task(profile, "diagnosis", store))["train"]
    scored = lent[list(HAS["severity"])].notna().any(axis=1) & (lent["diagnosis"] == "covid19")
    new = ~lent["path"].isin(own["path"]) & (lent["site"] != profile.quantifier.aside)
    return pd.concat(
        [own.assign(lent=False), lent[scored & new].assign(lent=True)], ignore_index=True
    )


def severity_start(profile, store=None):
    """State dicts that the severity model begins with, in the order of `quantification.adopt`."""
    if profile.quantifier.virtual:
        return (weights(severity(virtual(profile), store)),)
    classifier = (
        (weights(transformer(profile, "PA", store)),)
        if profile.choices.severity_start == "classifier"
        else ()
    )
    return (*beginning(profile, store), *classifier)


def exhibits(profile, store=None):
    """Films with a diagnosis for the court: the profile's own, or, where nobody has drawn their
    lesions, those of the virtual hospitals.

    As the profile's diagnosis sees them (`lungs_only`; then those of test and external hospitals
    alone), with their true lungs.
    """
    films_of = task_data.for_task(
        profile if "virtual" in profile.manifests else virtual(profile), "diagnosis", store
    )
    if not profile.sources.lungs_only:
        return films_of
    judged = films_of[
        films_of["external"].astype(bool) | (films_of["split"] == "test")
    ].reset_index(drop=True)
    return lungs_only(profile, judged, store).assign(lung_mask=judged["lung_mask"])


def court(profile, store=None):
    """Saliency methods judged on the corpus ViTs of both views -> folder with rows.csv, cascade.csv
    and metrics.json (`court.make`).
    """
    store = store or Store()
    return store.load_or_make(
        "court",
        settings(profile, "court"),
        lambda folder: saliency_benchmark.make(
            folder,
            profile,
            exhibits(profile, store),
            {
                view: diagnosis.load(transformer(profile, view, store), profile)
                for view in ("PA", "AP")
            },
            store,
        ),
    )


def dial(profile, store=None):
    """The confound dial, on the virtual hospitals whatever the profile -> folder with dial.csv,
    fixes.csv, metrics.json (`dial.make`).
    """
    store, home = store or Store(), virtual(profile)
    return store.load_or_make(
        "dial",
        settings(profile, "dial"),
        lambda folder: marker_study.make(
            folder, home, cohort(home, store), findings.load(backbone(home, store), home), home.seed
        ),
    )


MAKE = {  # stage -> (profile, store) -> folder of its artifact, made if it is missing
    "cohort": lambda profile, store: cohort(profile, store).folder,
    "backbone": backbone,
    "trunk": trunk,
    "contrastive": contrast,
    "diagnosis": both_views,
    "diagnosis_pa": lambda profile, store: transformer(profile, "PA", store),
    "diagnosis_ap": lambda profile, store: transformer(profile, "AP", store),
    "court": court,
    "segmenter": segmenter,
    "severity": severity,
    "dial": dial,
}
