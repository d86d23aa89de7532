"""Task data: which images a profile gives to which task.

The tables of its datasets one after another, with what must carry a label for the task. For a trial
of the machinery a few of them: `subsample` by kind of image (`Profile.max_images`), `few` by split
(`Variant.max_images`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from cxrkit.config.sections import Profile
from cxrkit.config.vocabulary import COLUMNS, FEWEST, FINDINGS, HAS, known
from cxrkit.data import images, manifests, schema
from cxrkit.simulation.cohort import Cohort
from cxrkit.storage.artifacts import Store

# task -> what an image must carry, and the wards of the virtual hospitals that serve it
TASKS = {
    "findings": ("findings", ("findings",)),
    "lungs": ("lungs", ("diagnosis", "severity")),
    "diagnosis": ("diagnosis", ("diagnosis",)),
    "severity": ("severity", ("severity",)),
}
# what an image must carry for what is no task of its own: severity maps against lesions (Figure 7)
SERVED = {**TASKS, "lesion": ("lesion", ())}
KIND = ["dataset", "site", "external", "split", "view", "diagnosis"]


def images_for(
    profile: Profile, task: str, store: Store, cohort: Path | None = None
) -> pd.DataFrame:
    """Images of all datasets of the profile that serve a task.

    Frontal images and those of unknown view; where a table is silent, a DICOM file is asked. With
    `profile.max_images` a `subsample` of them.

    Args:
        profile: its `manifests` name the datasets.
        task: a key of SERVED.
        store: knows where real images lie.
        cohort: folder of the cohort, for a profile with virtual images.

    Returns:
        Table of `vocabulary.COLUMNS` and `external`, which marks the images of datasets and sites
        that no training may see; empty where no dataset serves the task.

    Raises:
        ValueError: the task is unknown.
    """
    _, wards = SERVED[known(task, SERVED, "task")]
    parts = []
    for name in serving_datasets(profile, task):
        if name == "virtual":
            parts.append(_virtual_images(cohort, wards))
        else:
            part = manifests.read_manifest(name, store.data, profile.choices)
            parts.append(_mark_external(part, profile))
    if not parts:
        return pd.DataFrame(columns=[*COLUMNS, "external"])
    whole = pd.concat(parts, ignore_index=True)
    whole = whole[serves(whole, profile, task)]
    if task == "findings":
        whole = _with_findings_tests(whole, profile)
    silent = whole["view"].isna() & whole["path"].str.endswith((".dcm", ".dicom"))
    asked = whole["path"].where(silent).map(images.view_of, na_action="ignore")
    whole["view"] = whole["view"].mask(silent, asked)
    frontal, _ = manifests.select_views(whole, replace(profile.choices, views="all"))
    return subsample(frontal, profile, task)


def serves(table: pd.DataFrame, profile: Profile, task: str) -> pd.Series:
    """Which images serve a task, as far as their table says: bool (n,).

    Args:
        table: of `vocabulary.COLUMNS`.
        profile: its `sources` name the datasets of findings and diagnosis.
        task: a key of SERVED.
    """
    what, _ = SERVED[known(task, SERVED, "task")]
    serving = table[list(HAS[what])].notna().any(axis=1)
    chosen = _chosen_datasets(profile, task)
    if chosen:
        serving &= table["dataset"].isin(chosen)
    if task == "findings":
        tests = table["dataset"].isin(profile.sources.findings_tests)
        serving &= ~tests | (table["split"] == "test")
    frontal_or_unknown = table["view"].isna() | table["view"].isin(["PA", "AP"])
    return serving & frontal_or_unknown


def serving_datasets(profile: Profile, task: str) -> tuple[str, ...]:
    """Datasets of a profile that can serve a task: the others need not be there for it.

    Args:
        profile: its `manifests` name the datasets, its `sources` those of findings and diagnosis.
        task: a key of SERVED.
    """
    what, _ = SERVED[known(task, SERVED, "task")]
    chosen = _chosen_datasets(profile, task)
    serving = []
    for name in profile.manifests:
        asked = not chosen or name in chosen
        if asked and (name == "virtual" or schema.load(name).has(what)):
            serving.append(name)
    return tuple(serving)


def _chosen_datasets(profile: Profile, task: str) -> tuple[str, ...]:
    """Datasets that the profile names for a task; () = all."""
    sources = profile.sources
    if task == "findings" and sources.findings_datasets:
        return (*sources.findings_datasets, *sources.findings_tests)
    return sources.diagnosis_datasets if task == "diagnosis" else ()


def _with_findings_tests(table: pd.DataFrame, profile: Profile) -> pd.DataFrame:
    """Images of the findings, some of datasets that test and train nothing.

    Those of a site that trains nothing become external. By choice, all other images train; without
    images that test, the split stays.
    """
    tests = table["dataset"].isin(profile.sources.findings_tests)
    if not tests.any():
        return table
    external = table["external"].astype(bool)
    trains = ~tests & ~external
    elsewhere = tests & ~table["site"].isin(table["site"][trains])
    split = table["split"]
    if profile.choices.pretraining_images == "all":
        split = split.mask(trains, "train")
    return table.assign(external=external | elsewhere, split=split)


def _mark_external(part: pd.DataFrame, profile: Profile) -> pd.DataFrame:
    """The table with `external`: datasets and sites that the profile holds out."""
    if "external" in part:
        return part
    return with_external(part, profile.external)


def with_external(table: pd.DataFrame, names: tuple[str, ...]) -> pd.DataFrame:
    """The table with `external`: True for the images of datasets and sites of these names."""
    return table.assign(external=table["dataset"].isin(names) | table["site"].isin(names))


def external_to_view(table: pd.DataFrame, profile: Profile, view: str) -> pd.DataFrame:
    """The table with `external` as the model of one view has it (`sources.external_ap`)."""
    if view != "AP" or profile.sources.external_ap is None:
        return table
    return with_external(table, profile.sources.external_ap)


def _virtual_images(folder: Path | None, wards: tuple[str, ...]) -> pd.DataFrame:
    """Images of a cohort in the form of `read_manifest`, with the columns that they alone have."""
    if folder is None:
        raise ValueError("a profile with virtual images needs the folder of its cohort")
    cohort = Cohort(folder)
    rows = cohort.table[cohort.table["ward"].isin(wards)]
    paths = {
        column: [str(cohort.folder / path) for path in rows[column]]
        for column in ("path", "lung_mask", "lesion_mask")
    }
    rows = rows.assign(dataset="virtual", external=rows["external"].astype(bool), **paths)
    return rows.reindex(columns=list(dict.fromkeys([*COLUMNS, *rows])))


def subsample(table: pd.DataFrame, profile: Profile, task: str) -> pd.DataFrame:
    """At most `profile.max_images` images of each KIND; 0 = all of them.

    Drawn by the seed, from different patients where there are so many. The findings need more: of
    every split as many patients with, and without, each finding as give it an AUC (FEWEST).
    """
    most = profile.max_images
    if not most:
        return table
    drawn = table.sample(frac=1, random_state=profile.seed)
    # one image of each patient before any second one
    drawn = drawn.iloc[drawn.groupby("group_id").cumcount().argsort(kind="stable")]
    taken = drawn.groupby(KIND, dropna=False).cumcount() < most
    if task == "findings":
        for name in FINDINGS:
            of_kind = drawn.groupby(["external", "split", name], dropna=False).cumcount()
            taken |= drawn[name].notna() & (of_kind < FEWEST)
    return table[taken.sort_index()].reset_index(drop=True)


def few(table: pd.DataFrame, profile: Profile) -> pd.DataFrame:
    """At most `variant.max_images` images of each split and of the external hospitals; 0 = all.

    Drawn by the seed, with every diagnosis that the part has where they are enough.
    """
    most = profile.variant.max_images
    if not most or table.empty:
        return table
    external = table["external"].astype(bool)
    groups = table.groupby([external, table["split"].where(~external, "external")])
    drawn = [_few_of(part, most, profile.seed) for _, part in groups]
    return pd.concat(drawn).sort_index().reset_index(drop=True)


def _few_of(part: pd.DataFrame, most: int, seed: int) -> pd.DataFrame:
    """At most so many images of a part; in turn one of each diagnosis if a draw would miss one."""
    drawn = part.sample(min(most, len(part)), random_state=seed)
    kinds = part["diagnosis"].fillna("")
    if set(kinds) == set(kinds[drawn.index]):
        return drawn
    shuffled = part.sample(frac=1, random_state=seed)
    turn = shuffled.groupby(kinds[shuffled.index]).cumcount()
    return shuffled.loc[turn.sort_values(kind="stable").index[:most]]
