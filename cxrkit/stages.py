"""The reproduction on one page: each stage loads its artifact or makes it, and makes first what it stands on.

DEPENDS is the one table of what a stage depends on: fields of the profile, and earlier stages. Its hash names the artifact, so an
ablation of a late stage reuses all that comes before it.
"""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from . import checkpoint, diagnosis, films, findings, lungs, manifest, profiles, quantification, readers
from . import court as judges
from .artifacts import Store, write_json
from .backbone import imagenet_state
from .schema import COLUMNS, HAS, known


@dataclass(frozen=True)
class Depends:
    """What a stage reads: `fields` of the profile (dots reach inside), `stages` before it; `recipe` counts changes of its code."""

    fields: tuple[str, ...]
    stages: tuple[str, ...] = ()
    recipe: int = 1


FILMS = ("manifests", "external", "seed", "image_size", "choices.resize", "choices.order", "choices.normalize", "choices.augmentation")
DIAGNOSIS = Depends((*FILMS, "transformer", "transformer_training", "choices.mlp_dim", "choices.class_head", "choices.threshold_from",
                     "choices.views"), ("backbone",))
SEVERITY = tuple(f"choices.{name}" for name in (
    "brixia_threshold", "array_columns", "zone_height", "zone_origin", "lung_sides", "map_scale", "sigmoid", "severity_loss",
    "severity_score", "severity_start"))
DEPENDS = {
    "cohort": Depends(("seed", "cohort"), recipe=2),
    "backbone": Depends((*FILMS, "folds", "backbone", "backbone_training", "choices.uncertain", "choices.lr_decay"), ("cohort",)),
    "diagnosis_pa": DIAGNOSIS,
    "diagnosis_ap": DIAGNOSIS,
    "court": Depends((), ("diagnosis_pa", "diagnosis_ap")),
    "segmenter": Depends(("manifests", "external", "seed", "image_size", "segmenter", "segmenter_training", "student_training",
                          "unet_training"), ("cohort",)),
    "severity": Depends((*FILMS, "folds", "transformer", "quantifier", "severity_training", "choices.mlp_dim", *SEVERITY),
                        ("backbone", "segmenter")),
}


def settings(profile, stage):
    """The nested dict of everything that `stage` depends on. Raises ValueError for an unknown stage."""
    if stage not in DEPENDS:
        raise ValueError(f"unknown stage {stage!r}; known: {list(DEPENDS)}")
    needs, values = DEPENDS[stage], profile.to_dict()
    picked = {}
    for path in needs.fields:
        value = values
        for name in path.split("."):
            value = value[name]
        picked[path] = value
    return {"recipe": needs.recipe, **picked, **{f"after {name}": settings(profile, name) for name in needs.stages},
            **{name: settings(profile if own else virtual(profile), before) for name, (before, own) in _chosen(profile, stage).items()}}


def _chosen(profile, stage):
    """Stages that this one stands on by a choice of the profile: what for -> (stage, of this profile or of the virtual hospitals)."""
    quantifier, choices = profile.quantifier, profile.choices
    chosen = {"backbone": {"start": ("backbone", False) if profile.backbone.start == "virtual" else None},
              "severity": {"start": ("severity", False) if quantifier.virtual else
                           ("diagnosis_pa", True) if choices.severity_start == "classifier" else None}}
    return {name: before for name, before in chosen.get(stage, {}).items() if before}


def virtual(profile):
    """The demo profile with the seed of this one: what a backbone, or a severity model, that starts "virtual" begins from."""
    return replace(profiles.demo(), seed=profile.seed)


def cohort(profile, store=None):
    """The films of the virtual hospitals that the profile asks for, drawn once -> films.Films."""
    store = store or Store()
    folder = store.load_or_make("cohort", settings(profile, "cohort"), lambda part: films.draw(part, profile.cohort, profile.seed))
    return films.Films(folder)


TASKS = {  # what a film must carry to serve a task, and the wards of the virtual hospitals that train for it
    "findings": ("findings", ("findings",)),
    "lungs": ("lungs", ("diagnosis", "severity")),
    "diagnosis": ("diagnosis", ("diagnosis",)),
    "severity": ("severity", ("severity",)),
}


def table(profile, task, store=None):
    """Films of all datasets of the profile that serve `task` (a key of TASKS): DataFrame of `schema.COLUMNS` and `external`.

    `external` marks the films of sites that no training may see. Raises ValueError for an unknown task.
    """
    store = store or Store()
    what, wards = TASKS[known(task, TASKS, "task")]
    parts = [_virtual(profile, store, wards) if name == "virtual" else manifest.read(name, store.data, profile.choices)
             for name in profile.manifests]
    parts = [part.assign(external=part["dataset"].isin(profile.external)) if "external" not in part else part for part in parts]
    whole = pd.concat(parts, ignore_index=True)
    return whole[whole[list(HAS[what])].notna().any(axis=1)].reset_index(drop=True)


def _virtual(profile, store, wards):
    """Films of the drawn cohort in the form of `manifest.read`, with the columns that only virtual films have."""
    drawn = cohort(profile, store)
    rows = drawn.table[drawn.table["ward"].isin(wards)]
    placed = {column: [str(drawn.folder / path) for path in rows[column]] for column in ("path", "lung_mask", "lesion_mask")}
    rows = rows.assign(dataset="virtual", external=rows["external"].astype(bool), **placed)
    return rows.reindex(columns=list(dict.fromkeys([*COLUMNS, *rows])))


STARTS = {  # DenseNet.start -> (profile, store) -> state dict of DenseNet features, or None for random weights
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
    return store.load_or_make("backbone", settings(profile, "backbone"), lambda folder: findings.make(
        folder, profile, table(profile, "findings", store), store, start(profile, store)))


def segmenter(profile, store=None):
    """The lung segmenter, its teacher and two plain U-Nets -> folder of the artifact (`lungs.load`).

    Films without a mask take part as abnormal films, where profile.segmenter.abnormal asks for them.
    """
    store = store or Store()

    def make(folder):
        films_of = [table(profile, task, store) for task in ("lungs", "diagnosis")]
        lungs.make(folder, profile, pd.concat(films_of).drop_duplicates("path", ignore_index=True), store)

    return store.load_or_make("segmenter", settings(profile, "segmenter"), make)


def transformer(profile, view, store=None):
    """The corpus ViT for the films of one view, "PA" or "AP" -> folder of the artifact (`diagnosis.load`)."""
    store = store or Store()
    stage = f"diagnosis_{known(view, ('PA', 'AP'), 'view').lower()}"
    return store.load_or_make(stage, settings(profile, stage), lambda folder: diagnosis.make(
        folder, profile, diagnosis.of_view(table(profile, "diagnosis", store), view), store, weights(backbone(profile, store))))


def masks(profile, table, store=None):
    """The table with the lung masks that severity is pooled in: the segmenter's (section 3.3), or, for films that have one and where
    profile.quantifier.masks is "drawn", the reader's."""
    store = store or Store()
    missing = table["lung_mask"].isna() | (known(profile.quantifier.masks, ("segmenter", "drawn"), "origin of masks") == "segmenter")
    if not missing.any():
        return table
    rows = table[missing]
    asked = {"segmenter": settings(profile, "segmenter"), "size": profile.image_size, "resize": profile.choices.resize,
             "films": hashlib.sha256("\n".join(rows["path"]).encode()).hexdigest()}
    folder = store.load_or_make("masks", asked, lambda part: np.save(part / "masks.npy", quantification.predicted_lungs(
        lungs.load(segmenter(profile, store), profile), rows, profile, store)))
    return table.assign(lung_mask=table["lung_mask"].mask(missing, pd.Series(
        [f"{folder / 'masks.npy'}#{i}" for i in range(len(rows))], index=rows.index)))


def severity(profile, store=None):
    """The severity model of all views together -> folder of the artifact (`quantification.load`).

    It starts from the severity model of the virtual hospitals, or from the backbone and, by choice 21, the PA classifier: the paper
    trains PA and AP together, its classifiers apart, and does not say which of the two goes on. With profile.folds it is also
    cross-validated over all films (`readers.study`).
    """
    store = store or Store()

    def make(folder):
        films_of, aside = table(profile, "severity", store), profile.quantifier.aside
        films_of = masks(profile, quantification.set_aside(films_of, aside) if aside else films_of, store)
        start = severity_start(profile, store)
        result = quantification.make(folder, profile, films_of, store, start)
        if profile.folds:
            write_json(folder / "metrics.json", {**result, "folds": readers.study(folder, profile, films_of, store, start)})

    return store.load_or_make("severity", settings(profile, "severity"), make)


def severity_start(profile, store=None):
    """State dicts that the severity model begins with, in the order of `quantification.adopt`."""
    if profile.quantifier.virtual:
        return (weights(severity(virtual(profile), store)),)
    classifier = (weights(transformer(profile, "PA", store)),) if profile.choices.severity_start == "classifier" else ()
    return (weights(backbone(profile, store)), *classifier)


def court(profile, store=None):
    """Saliency methods judged on the corpus ViTs of both views -> folder with rows.csv, cascade.csv and metrics.json (`court.make`)."""
    store = store or Store()
    return store.load_or_make("court", settings(profile, "court"), lambda folder: judges.make(
        folder, profile, table(profile, "diagnosis", store),
        {view: diagnosis.load(transformer(profile, view, store), profile) for view in ("PA", "AP")}, store))
