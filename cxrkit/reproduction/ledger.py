"""Ledger: the paper's numbers, tables and figures in its order, beside those that a stage measured.

Tables 1 to 10 and the figures were lost from the text that we have. What we cannot read is called
so, and never guessed.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxrkit.config.sections import Profile
from cxrkit.config.vocabulary import DIAGNOSES, FINDINGS
from cxrkit.data import manifests
from cxrkit.evaluation import trained_seeds
from cxrkit.evaluation.summaries import sites_of
from cxrkit.models import factory
from cxrkit.pipeline import stages, task_data
from cxrkit.reproduction import comparisons, grid, grid_leaves, paper_cells
from cxrkit.storage import recorded
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import read_json
from cxrkit.tasks.severity import errors, second_reader_scores, true_scores

# status of the paper's number
READ = "read in the text"
CONTRADICTORY = "contradictory in the text"
LOST = "not available"
NOT_IN_PAPER = "not in the paper"
READ_ELSEWHERE = "read in another source"  # paper_cells.json

BEYOND = "Beyond the paper"  # the table of rows that the paper lacks
HOSPITALS = ("CNUH", "YNU", "KNUH")  # the external hospitals of the paper, in its order
RATES = ("AUC", "sensitivity", "specificity", "accuracy")
TRAINS_ELSEWHERE = (
    "its test split alone: its other images trained the classifier that this model begins with"
)
BETTER = comparisons.BETTER
COMPARED = tuple(f"Table {number}" for number in range(4, 11))  # each of their rows has a word
CONFIDENCE, POWER = 1.96, 0.8416  # normal quantiles: of a 95 % interval, and of four in five
# Tables 4 to 6: metric -> what a model without any skill reaches, the sign of "better", and in
# words. The threshold was chosen for a sensitivity of 0.8, where chance has a specificity of 0.2;
# the mean accuracy of calling none of three classes is 2/3, whatever their shares.
WITHOUT_SKILL = {
    "auc": (0.5, 1, "chance (0.5)"),
    "sensitivity": (0.8, 1, "the 0.8 asked for"),
    "specificity": (0.2, 1, "chance (0.2)"),
    "accuracy": (2 / 3, 1, "calling none (2/3)"),
    "cc": (0.0, 1, "a constant guess"),
    "r2": (0.0, 1, "a constant guess"),
    "mse": (None, -1, "a constant guess"),  # measured
    "mae": (None, -1, "a constant guess"),
}
MARGINS = comparisons.MARGINS | dict.fromkeys(("sensitivity", "specificity", "accuracy"), 0.01)
WITHIN_SOURCE = "diagnosis.within_source"  # key of the AUCs within one source

# what measures a number (the first part of a row's key) -> the lesson that shows it, and the code
# of the cell there that makes it
LESSON_CALLS = {
    "cohort": ("00_start_here", "run.cohort"),
    "backbone": ("02_backbone", "run.backbone"),
    "segmenter": ("03_segmentation", "run.segmenter"),
    "diagnosis": ("04_corpus_vit", "run.diagnosis("),
    "diagnosis_pa": ("04_corpus_vit", "run.diagnosis("),
    "diagnosis_ap": ("04_corpus_vit", "run.diagnosis("),
    "saliency_benchmark": ("05_saliency", "run.saliency_benchmark"),
    "severity": ("06_severity", "run.severity"),
    "marker_study": ("08_shortcuts", "run.marker_study"),
    "comparison": ("07_ablations", 'run.recorded("grid")'),
    "ablation": ("07_ablations", 'run.recorded("grid")'),
    "conclusion": ("07_ablations", 'run.recorded("grid")'),
    # the pictures that stand in for the paper's figures
    "figure1": ("02_backbone", "gallery = outer.loc["),
    "figure2": ("02_backbone", 'features = output["features"]'),
    "figure3": ("04_corpus_vit", "inspect.getsource(models.CorpusViT)"),
    "figure4": ("06_severity", "Six zones; involved ones are filled"),
    "figure5": ("05_saliency", "typical = explain.typical_images("),
    "figure6": ("06_severity", "heat, six = task.maps("),
    "figure7": ("06_severity", "heat, six = task.maps("),
    "figure8": ("09_reading_room", 'PanelState("follow-up"'),
}


@dataclass(frozen=True)
class Row:
    """One number, table or figure of the paper.

    Attributes:
        table: of the paper, or BEYOND.
        quantity: what the number says; no two rows share it.
        paper: the paper's number as text, "" where it was lost.
        key: where ours is found: the stage, then the path in its metrics.json, dots between.
        why: what to know about the paper's number.
        lesson: shows a figure of ours in place of a number.
        contradictory: the text contradicts itself on this number.
        hospital: external hospital of the paper that the row is about, which the key names.
        fairness: a model that the paper lacks and a fair comparison needs; shown where measured.
    """

    table: str
    quantity: str
    paper: str
    key: str
    why: str = ""
    lesson: str = ""
    contradictory: bool = False
    hospital: str = ""
    fairness: bool = False

    @property
    def status(self) -> str:
        """Whether the paper's number is known to us."""
        if self.table == BEYOND or self.fairness:
            return NOT_IN_PAPER
        if self.contradictory:
            return CONTRADICTORY
        return READ if self.paper else LOST

    def key_of_site(self, site: str) -> str:
        """The key with the name of one of our sites in place of the paper's hospital."""
        return self.key.replace(f".sites.{self.hospital}.", f".sites.{site}.", 1)


# the rows


def severity_rows() -> list[Row]:
    """Table 6: severity at three external hospitals. The text gives two values of each MSE."""
    read = {
        "mse": ("1.682", "1.677", "1.607"),
        "mae": ("1.028", "1.102", "0.930"),
        "cc": ("0.781", "0.777", "0.682"),
        "r2": ("0.572", "0.572", "0.432"),
    }
    again = ("1.657", "1.696", "1.676")
    constant = ("3.93", "3.92", "2.83")
    rows = []
    for metric, values in read.items():
        for hospital, value, second, guess in zip(HOSPITALS, values, again, constant):
            why = ""
            if metric == "mse":
                why = (
                    f"the same paragraph later says {second}; a constant guess would score {guess}"
                )
            rows.append(
                Row(
                    "Table 6",
                    f"severity, external hospital {hospital}: {metric.upper()}",
                    value,
                    f"severity.sites.{hospital}.{metric}",
                    why,
                    contradictory=metric == "mse",
                    hospital=hospital,
                )
            )
    return rows


def diagnosis_rows(table: str, view: str, hospitals: Sequence[str], bound: str = "") -> list[Row]:
    """Tables 4 and 5: diagnosis at external hospitals.

    Args:
        table: its name.
        view: "PA" or "AP".
        hospitals: those that the paper tests this view at.
        bound: of the AUC, where the text gives one.
    """
    rows = []
    for hospital in hospitals:
        for metric in RATES:
            bounded = bool(bound) and metric == "AUC"
            rows.append(
                Row(
                    table,
                    f"{view} films, external hospital {hospital}: {metric}",
                    bound if bounded else "",
                    f"diagnosis_{view.lower()}.sites.{hospital}.{metric.lower()}",
                    "a bound in the text, no value" if bounded else "",
                    hospital=hospital,
                )
            )
    return rows


def comparison_rows() -> list[Row]:
    """Tables 7 to 10: the proposed model, others and ablations, on the main metric of each task."""
    models = comparisons.BASELINES
    fair = {
        "diagnosis": (
            grid.FROM_FINDINGS,
            "hybrid ViT, from findings",
            f"{grid.PROPOSED}, from scratch",
            grid.AVERAGE_POOLED,
            *(f"{name}, from scratch" for name in models),
        ),
        "severity": (grid.FROM_FINDINGS,),
    }
    of_diagnosis = (
        *comparisons.ABLATIONS,
        "SimCLR: ViT",
        "SimCLR: hybrid ViT",
        f"SimCLR: {grid.PROPOSED}",
    )
    of_severity = ("ROI average pooling", "Brixia alone")
    why = "ImageNet-initialised in the paper, its own model was not"
    rows = []
    for table, task, metric in (("Table 7", "diagnosis", "auc"), ("Table 8", "severity", "mse")):
        ours = f"{task} with the proposed model: {metric.upper()}"
        rows.append(Row(table, ours, "", f"comparison.{task}.{slug(grid.PROPOSED)}.{metric}"))
        for name in models:
            key = f"comparison.{task}.{slug(name)}.{metric}"
            rows.append(Row(table, f"{task} with {name}: {metric.upper()}", "", key, why))
        for name in fair[task]:
            key = f"comparison.{task}.{slug(name)}.{metric}"
            quantity = f"{task} with {name}: {metric.upper()}"
            rows.append(Row(table, quantity, "", key, fairness=True))
        claim = slug(table)
        quantity = f"the proposed model against all others in {task}"
        rows.append(Row(table, quantity, BETTER, f"conclusion.claims.{claim}.holds"))
        quantity = f"the same in {task}, also against a DenseNet-121 that learnt the findings"
        key = f"conclusion.claims.{claim}_fair.holds"
        rows.append(Row(table, quantity, "", key, fairness=True))
    ours = "the model without any change, diagnosis: AUC"
    rows.append(Row("Table 9", ours, "", f"ablation.diagnosis.{slug(grid.PROPOSED)}.auc"))
    for name in of_diagnosis:
        key = f"ablation.diagnosis.{slug(name)}.auc"
        rows.append(Row("Table 9", f"ablation, {name}: AUC", "", key))
    quantity = "each part of the proposed model against what replaces it"
    rows.append(Row("Table 9", quantity, BETTER, "conclusion.claims.table_9.holds"))
    ours = "the model without any change, severity: MSE"
    rows.append(Row("Table 10", ours, "", f"ablation.severity.{slug(grid.PROPOSED)}.mse"))
    for name in of_severity:
        key = f"ablation.severity.{slug(name)}.mse"
        rows.append(Row("Table 10", f"ablation, {name}: MSE", "", key))
    quantity = "maximum pooling, and a hospital beside Brixia, against what replaces them"
    rows.append(Row("Table 10", quantity, BETTER, "conclusion.claims.table_10.holds"))
    return rows


def slug(text: str) -> str:
    """Name for a key: lowercase letters and digits, one underscore between words."""
    return "_".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


def beyond_rows() -> list[Row]:
    """What the paper does not ask and real public images demand.

    They are AUCs within one source, beside models that see no disease.
    """
    gain = (
        "above the best of the trivial models (thumbnails, grey statistics, file size), paired: AUC"
    )
    inside = "normal against other infection inside NIH"
    rows = []
    for view in ("PA", "AP"):
        of = f"{WITHIN_SOURCE}.internal.{view}"
        rows.append(Row(BEYOND, f"{inside}, {view}, five folds: AUC", "", f"{of}.auc"))
        rows.append(Row(BEYOND, f"the same, {view}, {gain}", "", f"{of}.gain"))
    held_out = (
        "COVID-19 against other infection inside Cohen, whose diagnoses train nothing (lung "
        "outlines do): AUC"
    )
    rows.append(Row(BEYOND, held_out, "", f"{WITHIN_SOURCE}.external.all.auc"))
    rows.append(Row(BEYOND, f"the same, {gain}", "", f"{WITHIN_SOURCE}.external.all.gain"))
    alone = "guessing the class from the source alone: AUC"
    rows.append(Row(BEYOND, alone, "", f"{WITHIN_SOURCE}.source_alone"))
    for view in ("PA", "AP"):
        quantity = f"{inside}, {view}, all models on lungs alone, {gain}"
        rows.append(Row(BEYOND, quantity, "", f"{WITHIN_SOURCE}.internal_lungs.{view}.gain"))
    inputs = {
        "whole films": "thumbnail",
        "the border of films": "border",
        "films without lungs": "lungs removed",
    }
    for what in ("source", "diagnosis"):
        for name, key in inputs.items():
            quantity = f"{what} from {name} (16x16 px, linear model): balanced accuracy"
            path = f"{WITHIN_SOURCE}.probes.{what}.{key}.balanced_accuracy"
            rows.append(Row(BEYOND, quantity, "", path))
    return [*rows, *_fold_rows()]


def _fold_rows() -> list[Row]:
    """Severity by cross-validation, of the model and of what it is compared with."""
    models = {
        "model": "model",
        "constant guess": "constant",
        "ridge on thumbnails": "ridge",
        "second reader": "second_reader",
    }
    rows = []
    for threshold in (1, 2):
        for name, key in models.items():
            quantity = f"severity by folds, zone score >= {threshold}, {name}: MSE"
            path = f"severity.folds.threshold{threshold}.{key}.mse"
            rows.append(Row(BEYOND, quantity, "", path))
    return rows


def reader_rows() -> list[Row]:
    """How far readers are from their own majority, on 150 images of Brixia."""
    return [
        Row(
            "Text: readers",
            "severity, five readers against their majority: MSE",
            "1.683",
            "readers.five.mse",
            "other images than the model's; not to be computed again: the release has majority and "
            "mean of the five, not their scores",
        ),
        Row(
            "Text: readers",
            "severity, the radiologist on duty against that majority: MSE",
            "",
            "readers.on_duty.mse",
            fairness=True,
        ),
    ]


def figure_row(number: int, shows: str, lesson: str, why: str = "") -> Row:
    """A figure of the paper.

    The picture was lost and the text says what it shows; ours stands in a lesson.

    Args:
        number: of the figure.
        shows: what it shows.
        lesson: where ours stands.
        why: what to know.
    """
    why = why or "picture lost; described in the text"
    return Row(f"Figure {number}", shows, "", f"figure{number}", why, lesson)


def data_rows() -> list[Row]:
    """Numbers of the text on data and model."""
    return [
        Row(
            "Text: data",
            "CheXpert, films in all",
            "224,316",
            "chexpert.counts.images",
            "less the 32,387 lateral ones that is 191,929, and the text keeps 190,847; the "
            "released train.csv has 223,414",
            contradictory=True,
        ),
        Row(
            "Text: data",
            "CheXpert, films kept: PA",
            "29,420",
            "chexpert.counts.pa",
            "the released train.csv has 29,420",
        ),
        Row(
            "Text: data",
            "CheXpert, films kept: AP",
            "161,427",
            "chexpert.counts.ap",
            "the released train.csv has 161,590 AP and 17 films of other frontal views (LL 16, RL "
            "1)",
        ),
        Row(
            "Text: model",
            "channels of the corpus, at 16 x 16",
            "1024",
            "model.corpus.channels",
            "768 in the section on input size: that is D, after the projection",
            contradictory=True,
        ),
        Row(
            "Tables 1 to 3",
            "datasets and severity levels",
            "",
            "cohort.counts",
            "institutional data, not public; ours stand below",
        ),
    ]


def paper_rows() -> list[Row]:
    """Every number, table and figure of the paper that the kit knows of, in its order."""
    return [
        figure_row(1, "why low-level findings: the idea", "02_backbone"),
        figure_row(2, "the backbone, and which of its maps may be the corpus", "02_backbone"),
        figure_row(
            3,
            "the whole model: corpus, transformer, two heads",
            "04_corpus_vit",
            "no drawing of ours: the lesson prints the model's code",
        ),
        figure_row(4, "how six zeros and ones train a severity map", "06_severity"),
        *data_rows(),
        *diagnosis_rows("Table 4", "PA", HOSPITALS),
        # CNUH alone has AP images of all three classes (section 4)
        *diagnosis_rows("Table 5", "AP", HOSPITALS[:1], ">= 0.800"),
        figure_row(5, "saliency of bacterial infection, tuberculosis, COVID-19", "05_saliency"),
        *severity_rows(),
        *reader_rows(),
        figure_row(6, "severity: score, array, map and contours of one hospital", "06_severity"),
        figure_row(
            7, "severity maps against lesions annotated by experts (12 films)", "06_severity"
        ),
        *comparison_rows(),
        figure_row(
            8,
            "uses in the clinic: triage, follow-up",
            "09_reading_room",
            "an outlook in the text; nothing is measured",
        ),
        *beyond_rows(),
    ]


def fillable_cells() -> dict[str, str]:
    """Key -> words of the rows whose number was lost; a bound in the text is no number."""
    found = {}
    for row in paper_rows():
        lost = row.status == LOST and not row.lesson and row.table != "Tables 1 to 3"
        if lost or row.paper.startswith(">="):
            found[row.key] = row.quantity
    return found


# what was measured


def stage_of(key: str) -> str:
    """The first part of a key: what measured it."""
    return key.partition(".")[0]


def measurements(
    root: Path, profile: Profile, data: Path | None = None
) -> dict[str, dict[str, Any]]:
    """The metrics of the finished stages of a profile.

    Args:
        root: of the store.
        profile: stages of other settings are left out.
        data: folder of the real images, as in `Store`.

    Returns:
        Stage -> its metrics.json; "comparison" and "ablation" -> cells of the grid.
    """
    found, store = {}, Store(root, data)
    for stage in stages.STAGES:
        folder = stages.finished(profile, stage, store)
        if folder and (folder / "metrics.json").exists():
            found[stage] = read_json(folder / "metrics.json")
    if "alternation" in found:  # each hospital by the model that never saw it
        own = found.get("severity", {})
        turns = _with_notes(found.pop("alternation")["sites"], profile)
        found["severity"] = {**own, "sites": {**sites_of(own), **turns}}
    return found | grid_measurements(root, profile)


def _with_notes(sites: dict[str, Any], profile: Profile) -> dict[str, Any]:
    """Metrics of the sites that take turns; a site that trains another stage says so.

    `severity.hold_out` tests such a site on its test split alone.
    """
    noted = {}
    for site, metrics in sites.items():
        dataset = site if site in profile.manifests else "local"
        trains = not {site, dataset} & set(profile.external)
        noted[site] = metrics
        if trains:
            noted[site] = {name: _with_note(leaf) for name, leaf in metrics.items()}
    return noted


def _with_note(leaf: Any) -> Any:
    """A leaf with the note on a site that trains another stage; anything else as it is."""
    if isinstance(leaf, dict) and "value" in leaf:
        return {**leaf, "note": TRAINS_ELSEWHERE}
    return leaf


def grid_measurements(root: Path, profile: Profile) -> dict[str, dict[str, Any]]:
    """Tables 7 to 10: the recorded rows of `make grid`, otherwise the finished cells.

    Args:
        root: of the store.
        profile: cells of other settings are left out.

    Returns:
        {"comparison": {task: {cell: {metric: leaf}}}, "ablation": the same, "conclusion":
        {"claims": {claim: {"holds": leaf}}}}.
    """
    rows = recorded.read_result("grid")["rows"] if "grid" in recorded.result_names() else []
    out = {}
    for part, tasks in grid_leaves.grid_metrics(profile, Store(root), rows).items():
        for task, cells in tasks.items():
            of_task = {slug(name): leaf for name, leaf in cells.items()}
            out.setdefault(part, {})[task] = of_task
    return out


def dataset_counts(profile: Profile, store: Store) -> dict[str, dict[str, Any]]:
    """What the tables of CheXpert count, as `cxrkit data verify chexpert` does, for the ledger.

    Args:
        profile: its `manifests` name the datasets.
        store: knows where they lie.

    Returns:
        {"chexpert": {"counts": {"images", "pa", "ap"}}}, {} where CheXpert is not there.
    """
    table = _table_beside("chexpert", "chexpert", profile, store)
    if table is None:
        return {}
    views = table["view"].value_counts()
    found = {"images": len(table)} | {
        view.lower(): int(views.get(view, 0)) for view in ("PA", "AP")
    }
    return {"chexpert": {"counts": found}}


def readers(profile: Profile, store: Store) -> dict[str, dict[str, Any]]:
    """How far Brixia's radiologist on duty is from the majority of five, for the ledger.

    Args:
        profile: its `manifests` name the datasets, its choices the reading of a zone score.
        store: knows where they lie.

    Returns:
        {"readers": {"on_duty": errors on the score 0-6}}, {} where the two tables are not there.
    """
    table = _table_beside("brixia_consensus", "brixia", profile, store)
    if table is None:
        return {}
    majority = true_scores(table, profile.choices)
    on_duty = second_reader_scores(table, profile.choices)
    groups = table["group_id"].to_numpy()
    both = ~np.isnan(majority) & ~np.isnan(on_duty)
    return {"readers": {"on_duty": errors(majority[both], on_duty[both], groups[both])}}


def _table_beside(name: str, dataset: str, profile: Profile, store: Store) -> pd.DataFrame | None:
    """Table of a manifest that lies with a dataset; None where the profile or the disk has none."""
    if dataset not in profile.manifests:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that labels or views are missing changes no number
        try:
            return manifests.read_manifest(name, store.data, profile.choices)
        except FileNotFoundError:
            return None


def model_sizes(profile: Profile) -> dict[str, dict[str, Any]]:
    """What the profile's model is, without any training: {"model": ...} for the ledger."""
    channels = factory.build_backbone(profile).out_channels
    return {"model": {"corpus": {"channels": channels}}}


def flatten(metrics: dict[str, Any], prefix: str = "") -> dict[str, dict[str, Any]]:
    """Nested metrics as leaves.

    Args:
        metrics: as in metrics.json.
        prefix: of every name.

    Returns:
        Dotted name -> leaf with `value` and, where it has one, its interval. A dict with "value",
        or with a paired "difference", is one leaf.
    """
    leaves = {}
    for name, value in metrics.items():
        if not isinstance(value, dict):
            leaves[f"{prefix}{name}"] = {"value": value}
        elif isinstance(value.get("difference"), float):
            leaves[f"{prefix}{name}"] = {
                "value": value["difference"],
                "low": value["low"],
                "high": value["high"],
                "why": f"against {value['baseline']}" if "baseline" in value else "",
            }
        elif "value" in value:
            leaves[f"{prefix}{name}"] = value
        else:
            leaves |= flatten(value, f"{prefix}{name}.")
    return leaves


def sites_beside_paper(metrics: dict[str, Any]) -> dict[str, str]:
    """Which of our sites stands beside which external hospital of the paper.

    A site of the same name stands beside its hospital, whatever the order of the names. Where a run
    has no hospital of the paper, as on virtual hospitals, its own external sites stand in, in
    alphabetical order.

    Args:
        metrics: of a stage.

    Returns:
        The paper's name -> ours; hospitals without numbers of ours are left out.
    """
    sites = sites_of(metrics)
    same = {name: name for name in HOSPITALS if name in sites}
    return same or dict(zip(HOSPITALS, sorted(sites)))


def ledger_table(
    measured: dict[str, dict[str, Any]], cells: Path | None = None
) -> list[dict[str, Any]]:
    """The ledger.

    Args:
        measured: of `measurements`.
        cells: file of numbers that a person read in the journal (`paper_cells`); None = the usual.

    Returns:
        One dict a row: `table`, `quantity`, `paper`, `status`, `stage`, `lesson`, `picture`,
        `measured` (None where nothing was measured, NaN where it is undefined), `interval`, and
        `why`, which begins with the name of our site where another one than the paper's stands in.
        `conclusion` is, for COMPARED, a word of `trained_seeds.CONCLUSIONS` on ours against what
        `than` says, or "not run"; `gap`, the difference that the word is about with both ends of
        its interval; and `detectable`, the smallest difference that could have been seen. These two
        are None where they are not known.

    Raises:
        ValueError: the file of cells is wrong.
    """
    leaves = flatten(measured)
    sites = {stage: sites_beside_paper(metrics) for stage, metrics in measured.items()}
    read = paper_cells.read_cells(fillable_cells(), HOSPITALS, cells)
    lines = []
    for row in paper_rows():
        stage, key, why = stage_of(row.key), row.key, []
        site = sites.get(stage, {}).get(row.hospital)
        if site:
            key = row.key_of_site(site)
        leaf = leaves.get(key, {})
        if leaf and row.hospital and site != row.hospital:
            why.append(f"ours: {site}")
        if row.fairness and not leaf:
            continue
        why += [leaf.get("note", ""), leaf.get("why", row.why)]
        if row.table == BEYOND and not leaf:
            why.append("asks for real films: profile mini")
        undefined = bool(leaf) and leaf["value"] is None
        if undefined:
            why.append("undefined: not every class has films there")
        paper, status = row.paper, row.status
        if row.key in read:
            cell = read[row.key]
            paper, status = cell.text, READ_ELSEWHERE
            why.append(f"the paper's number: {cell.source}, read by {cell.reader}")
        line = {
            "table": row.table,
            "quantity": row.quantity,
            "paper": paper,
            "status": status,
            "stage": stage,
            "lesson": row.lesson or lesson_of(stage),
            "picture": bool(row.lesson),
            "measured": math.nan if undefined else leaf.get("value"),
            "interval": _interval(leaf),
            "why": "; ".join(filter(None, why)),
        }
        same_hospital = bool(site) and site == row.hospital
        lines.append(line | _word(row, leaf, leaves, key, paper if same_hospital else ""))
    return lines


def _word(
    row: Row, leaf: dict[str, Any], leaves: dict[str, Any], key: str, paper: str
) -> dict[str, Any]:
    """`conclusion`, `than`, `gap` and `detectable` of a row; nothing for one that has no word.

    Args:
        row: of the ledger.
        leaf: what was measured, {} for nothing.
        leaves: of all that was measured.
        key: of the leaf.
        paper: the paper's number on the same hospital as ours, "" where it is of another or lost.
    """
    found = {"conclusion": comparisons.NOT_RUN, "than": "", "gap": None, "detectable": None}
    if row.table not in COMPARED:
        return found | {"conclusion": ""}
    if not leaf:
        return found
    if stage_of(key) not in ("comparison", "ablation", "conclusion"):
        return found | _word_on_site(leaf, leaves, key, paper)
    word = leaf["value"] if stage_of(key) == "conclusion" else comparisons.OPEN
    known = {name: leaf[name] for name in found if leaf.get(name) is not None}
    return found | {"conclusion": word} | known


def _word_on_site(
    leaf: dict[str, Any], leaves: dict[str, Any], key: str, paper: str
) -> dict[str, Any]:
    """Tables 4 to 6: one training at one hospital, against a number without an interval.

    That is the paper's, where it is of the same hospital, otherwise that of a model without skill.
    """
    site, _, metric = key.rpartition(".")
    reference, sign, than = WITHOUT_SKILL[metric]
    if reference is None:
        reference = leaves.get(f"{site}.constant.{metric}", {}).get("value")
    if _is_number(paper):
        reference, than = float(paper), "the paper's number"
    interval = _interval(leaf)
    if reference is None or interval is None or leaf["value"] is None:
        return {"conclusion": comparisons.OPEN, "than": than}
    gap = [one - reference for one in (leaf["value"], *interval)]
    low, high = sorted(sign * end for end in gap[1:])
    p_value = 0.0 if low > 0 or high < 0 else 1.0
    margin = MARGINS.get(metric, 0.0)
    return {
        "conclusion": trained_seeds.conclude(sign * gap[0], low, high, p_value, margin),
        "than": than,
        "gap": gap,
        "detectable": (CONFIDENCE + POWER) * (high - low) / (2 * CONFIDENCE),
    }


def _is_number(text: str) -> bool:
    """Whether a text is one plain number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def lesson_of(stage: str) -> str:
    """The lesson that shows what a stage measured, "" where none does."""
    lesson, _ = LESSON_CALLS.get(stage, ("", ""))
    return lesson


def _interval(leaf: dict[str, Any]) -> list[float] | None:
    """[low, high] of a leaf, None where it has none."""
    if leaf.get("low") is None or leaf.get("high") is None:
        return None
    return [leaf["low"], leaf["high"]]


# what a stage is, and Tables 1 to 3 for our data


def finished_stages(root: Path, profile: Profile, data: Path | None = None) -> list[dict[str, str]]:
    """The finished stages of the profile.

    Args:
        root: of the store.
        profile: stages of other settings are left out.
        data: folder of the real images, as in `Store`.

    Returns:
        stage, folder (its key), date and lesson of each.
    """
    found, store = [], Store(root, data)
    for stage in stages.STAGES:
        folder = stages.finished(profile, stage, store)
        if not folder:
            continue
        date = datetime.fromtimestamp((folder / "settings.json").stat().st_mtime, UTC)
        found.append(
            {
                "stage": stage,
                "folder": folder.name,
                "date": date.strftime("%Y-%m-%d %H:%M UTC"),
                "lesson": lesson_of(stage),
            }
        )
    return found


def dataset_tables(profile: Profile, store: Store) -> dict[str, pd.DataFrame]:
    """Tables 1 to 3 of the paper for our data.

    Args:
        profile: its `manifests` name the datasets.
        store: knows where images lie.

    Returns:
        Title -> images, and patients in brackets, by dataset (virtual hospitals: by site), view and
        what the task is about. {} where the virtual hospitals have not been rendered yet.

    Raises:
        FileNotFoundError: a dataset is not there.
    """
    cohort = None
    if "virtual" in profile.manifests:
        cohort = stages.folder_of(profile, "cohort", store)
        if not cohort.exists():
            return {}
    tables = {}
    for task in ("findings", "diagnosis", "severity"):
        tables[task] = _with_source(task_data.images_for(profile, task, store, cohort))
    named = tables["findings"].melt(["source", "view", "group_id"], list(FINDINGS), "finding")
    counted = {
        "Table 1: findings of the films that train the backbone": (
            named[named["value"] == 1],
            "finding",
            list(FINDINGS),
        ),
        "Table 2: diagnosis by source and view": (
            tables["diagnosis"],
            "diagnosis",
            list(DIAGNOSES),
        ),
        "Table 3: severity by source and view": (
            _with_severity(tables["severity"], profile),
            "severity",
            None,
        ),
    }
    found = {}
    for title, (table, column, order) in counted.items():
        if len(table):
            found[title] = count_images(table, column, order)
    return found


def _with_source(table: pd.DataFrame) -> pd.DataFrame:
    """The table with `source`, as the report names it, and no view missing."""
    virtual = "virtual, " + table["site"].astype(str)
    source = table["dataset"].where(table["dataset"] != "virtual", virtual)
    external = table["external"].astype(bool).map({True: " (external)", False: ""})
    return table.assign(source=source + external, view=table["view"].fillna("unknown"))


def _with_severity(table: pd.DataFrame, profile: Profile) -> pd.DataFrame:
    """The table with its true severity as text."""
    scores = []
    for score in true_scores(table, profile.choices):
        scores.append("unknown" if pd.isna(score) else f"score {score:.0f}")
    return table.assign(severity=scores)


def count_images(
    table: pd.DataFrame, column: str, order: Sequence[str] | None = None
) -> pd.DataFrame:
    """Images (patients) by source and view.

    Args:
        table: images with source, view, group_id and the column.
        column: what is counted, a column of the result for each value.
        order: the values in order; None = those that occur.

    Returns:
        Table of text.
    """
    groups = table.groupby(["source", "view", column])["group_id"].agg(["size", "nunique"])
    images, patients = groups["size"].map("{:,}".format), groups["nunique"].map(" ({:,})".format)
    text = (images + patients).unstack(fill_value="-")
    if order:
        text = text.reindex(columns=order, fill_value="-")
    return text.reset_index()
