"""Which films a profile gives to which task: the tables of its datasets, one after another, with
what must carry a label for the task.

For a trial of the machinery a few of them: `sample` by kind of film (`Profile.films`), `few` by
split (`Variant.films`).
"""

from dataclasses import replace

import pandas as pd

from cxrkit.config import vocabulary
from cxrkit.config.vocabulary import COLUMNS, FINDINGS, HAS, known
from cxrkit.data import images, manifests
from cxrkit.pipeline.dependencies import settings
from cxrkit.simulation import cohort as drawn_cohort
from cxrkit.storage.artifacts import Store


def cohort(profile, store=None):
    """The films of the virtual hospitals that the profile asks for, drawn once -> films.Films."""
    store = store or Store()
    folder = store.load_or_make(
        "cohort",
        settings(profile, "cohort"),
        lambda part: drawn_cohort.draw(part, profile.cohort, profile.seed),
    )
    return drawn_cohort.Films(folder)


# what a film must carry to serve a task, and the wards of the virtual hospitals that train for it
TASKS = {
    "findings": ("findings", ("findings",)),
    "lungs": ("lungs", ("diagnosis", "severity")),
    "diagnosis": ("diagnosis", ("diagnosis",)),
    "severity": ("severity", ("severity",)),
}


def for_task(profile, task, store=None):
    """Films of all datasets of the profile that serve `task` (a key of TASKS): DataFrame of
    `schema.COLUMNS` and `external`.

    Frontal films and those of unknown view; where a table is silent, a DICOM file is asked.
    `external` marks the films of datasets and sites that no training may see. With profile.films a
    `sample` of them. Raises ValueError for an unknown task.
    """
    store = store or Store()
    what, wards = TASKS[known(task, TASKS, "task")]
    parts = [
        _virtual(profile, store, wards)
        if name == "virtual"
        else manifests.read(name, store.data, profile.choices)
        for name in profile.manifests
    ]
    aside = [
        part["dataset"].isin(profile.external) | part["site"].isin(profile.external)
        for part in parts
    ]
    parts = [
        part if "external" in part else part.assign(external=out) for part, out in zip(parts, aside)
    ]
    whole = pd.concat(parts, ignore_index=True)
    taught = (
        whole["dataset"].isin(profile.sources.findings)
        if task == "findings" and profile.sources.findings
        else True
    )
    whole = whole[whole[list(HAS[what])].notna().any(axis=1) & taught]
    silent = whole["view"].isna() & whole["path"].str.endswith((".dcm", ".dicom"))
    whole["view"] = whole["view"].mask(
        silent, whole["path"].where(silent).map(images.view_of, na_action="ignore")
    )
    return sample(
        manifests.select_views(whole, replace(profile.choices, views="all"))[0], profile, task
    )


KIND = ["dataset", "site", "external", "split", "view", "diagnosis"]


def sample(table, profile, task):
    """At most profile.films films of each KIND, drawn by the seed, from different patients where
    there are so many; 0 = all of them.

    The findings need more: of every split as many patients with, and without, each finding as give
    it an AUC (`findings.FEWEST`).
    """
    if not profile.films:
        return table
    drawn = table.sample(frac=1, random_state=profile.seed)
    # one film of each patient before any second one
    drawn = drawn.iloc[drawn.groupby("group_id").cumcount().argsort(kind="stable")]
    taken = drawn.groupby(KIND, dropna=False).cumcount() < profile.films
    for name in FINDINGS if task == "findings" else ():
        taken |= drawn[name].notna() & (
            drawn.groupby(["external", "split", name], dropna=False).cumcount() < vocabulary.FEWEST
        )
    return table[taken.sort_index()].reset_index(drop=True)


def _virtual(profile, store, wards):
    """Films of the drawn cohort in the form of `manifest.read`, with the columns that only virtual
    films have.
    """
    drawn = cohort(profile, store)
    rows = drawn.table[drawn.table["ward"].isin(wards)]
    placed = {
        column: [str(drawn.folder / path) for path in rows[column]]
        for column in ("path", "lung_mask", "lesion_mask")
    }
    rows = rows.assign(dataset="virtual", external=rows["external"].astype(bool), **placed)
    return rows.reindex(columns=list(dict.fromkeys([*COLUMNS, *rows])))


def few(table, profile):
    """At most `variant.films` films of each split and of the external hospitals, drawn by the seed;
    0 = all of them.
    """
    if not profile.variant.films:
        return table
    parts = table.groupby(
        [
            table["external"].astype(bool),
            table["split"].where(~table["external"].astype(bool), "external"),
        ]
    )
    drawn = [
        part.sample(min(profile.variant.films, len(part)), random_state=profile.seed)
        for _, part in parts
    ]
    return pd.concat(drawn).sort_index().reset_index(drop=True)
