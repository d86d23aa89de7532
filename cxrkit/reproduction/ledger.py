"""The paper's numbers, tables and figures in its order; ours where a stage measured it. What we
cannot read is said, never guessed.
"""

import math
from dataclasses import dataclass
from datetime import UTC, datetime

import pandas as pd

from cxrkit.config.vocabulary import DIAGNOSES, FINDINGS
from cxrkit.models import factory
from cxrkit.pipeline import dependencies, task_data
from cxrkit.reproduction import comparisons, results
from cxrkit.storage import artifacts, atomic
from cxrkit.tasks import severity as severity_module

READ, AGAINST, LOST, OURS = (
    "read in the text",
    "contradictory in the text",
    "not available",
    "not in the paper",
)
BEYOND = "Beyond the paper"
# what measures a number (the first part of a row's key) -> the lesson that shows it, and the call
# that makes it there
PLACES = {
    "cohort": ("00_start_here", "stages.cohort("),
    "backbone": ("02_backbone", "stages.backbone("),
    "segmenter": ("03_segmentation", "stages.segmenter("),
    "diagnosis": ("04_corpus_vit", "stages.transformer("),
    "diagnosis_pa": ("04_corpus_vit", "stages.transformer("),
    "diagnosis_ap": ("04_corpus_vit", "stages.transformer("),
    "court": ("05_saliency", "stages.court("),
    "severity": ("06_severity", "stages.severity("),
    "comparison": ("07_ablations", "results.read("),
    "ablation": ("07_ablations", "results.read("),
}


@dataclass(frozen=True)
class Row:
    """One number of the paper. `key` finds ours: the stage, then the path in its metrics.json, dots
    between.

    `lesson` shows a figure of ours in place of a number; `against`: the text contradicts itself on
    this number.
    """

    table: str
    quantity: str
    paper: str
    key: str
    why: str = ""
    lesson: str = ""
    against: bool = False

    @property
    def status(self):
        """Whether the paper's number is known to us: Tables 1-10 and the figures were lost from the
        text that we have.
        """
        return (
            OURS
            if self.table == BEYOND
            else AGAINST
            if self.against
            else READ
            if self.paper
            else LOST
        )


def severity_rows():
    """Table 6, three external hospitals; the text names their numbers twice and differently (MSE)."""
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
        for i, value in enumerate(values):
            twice = f"the same paragraph later says {again[i]}; a constant guess would score {constant[i]}"
            rows.append(
                Row(
                    "Table 6",
                    f"severity, external hospital {i + 1}: {metric.upper()}",
                    value,
                    f"severity.external{i + 1}.{metric}",
                    twice if metric == "mse" else "",
                    against=metric == "mse",
                )
            )
    return rows


def diagnosis_rows(table, view, hospitals, bound=""):
    """Tables 4 and 5: diagnosis on external hospitals."""
    return [
        Row(
            table,
            f"{view} films, external hospital {i + 1}: {metric}",
            bound if metric == "AUC" else "",
            f"diagnosis_{view.lower()}.external{i + 1}.{metric.lower()}",
            "a bound in the text, no value" if bound and metric == "AUC" else "",
        )
        for i in range(hospitals)
        for metric in ("AUC", "sensitivity", "specificity", "accuracy")
    ]


def comparison_rows():
    """Tables 7 to 10: other models and ablations, on the main metric of each task."""
    models = ("ResNet-50", "ResNet-152", "DenseNet-121", "ViT", "hybrid ViT")
    ablations = (
        "2 layers, 4 heads",
        "4 layers, 8 heads",
        "10 weighted maps",
        "3 infection maps",
        "pneumonia map",
        "frozen backbone",
        "1024 px input",
        "SimCLR: ViT",
        "SimCLR: hybrid ViT",
        "SimCLR: ours",
    )
    severity = ("ROI average pooling", "Brixia alone")
    start = "ImageNet-initialised in the paper, its own model was not"
    return [
        *(
            Row(
                "Table 7",
                f"diagnosis with {m}: AUC",
                "",
                f"comparison.diagnosis.{slug(m)}.auc",
                start,
            )
            for m in models
        ),
        *(
            Row(
                "Table 8",
                f"severity with {m}: MSE",
                "",
                f"comparison.severity.{slug(m)}.mse",
                start,
            )
            for m in models
        ),
        *(
            Row("Table 9", f"ablation, {a}: AUC", "", f"ablation.diagnosis.{slug(a)}.auc")
            for a in ablations
        ),
        *(
            Row("Table 10", f"ablation, {a}: MSE", "", f"ablation.severity.{slug(a)}.mse")
            for a in severity
        ),
    ]


def slug(text):
    """Name for a key: lowercase letters and digits, one underscore between words."""
    return "_".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


def beyond_rows():
    """What the paper does not ask and real public films demand: contrasts inside one source, beside
    models that see no disease.
    """
    gain = (
        "above the best of the trivial models (thumbnails, grey statistics, file size), paired: AUC"
    )
    rows = [
        row
        for view in ("PA", "AP")
        for row in (
            Row(
                BEYOND,
                f"normal against other infection inside NIH, {view}, five folds: AUC",
                "",
                f"diagnosis.contrasts.inside.{view}.auc",
            ),
            Row(BEYOND, f"the same, {view}, {gain}", "", f"diagnosis.contrasts.inside.{view}.gain"),
        )
    ]
    rows += [
        Row(
            BEYOND,
            "COVID-19 against other infection inside Cohen, whose diagnoses taught nothing (lung "
            "outlines did): AUC",
            "",
            "diagnosis.contrasts.away.all.auc",
        ),
        Row(BEYOND, f"the same, {gain}", "", "diagnosis.contrasts.away.all.gain"),
        Row(
            BEYOND,
            "guessing the class from the source alone: AUC",
            "",
            "diagnosis.contrasts.source_alone",
        ),
    ]
    rows += [
        Row(
            BEYOND,
            f"normal against other infection inside NIH, {view}, all models on lungs alone, {gain}",
            "",
            f"diagnosis.contrasts.inside_lungs.{view}.gain",
        )
        for view in ("PA", "AP")
    ]
    rows += [
        Row(
            BEYOND,
            f"{what} from {name} (16x16 px, linear model): balanced accuracy",
            "",
            f"diagnosis.contrasts.probes.{what}.{key}.balanced_accuracy",
        )
        for what in ("source", "diagnosis")
        for name, key in (
            ("whole films", "thumbnail"),
            ("the border of films", "border"),
            ("films without lungs", "lungs removed"),
        )
    ]
    for threshold in (1, 2):
        of = f"severity.folds.threshold{threshold}"
        rows += [
            Row(
                BEYOND,
                f"severity by folds, zone score >= {threshold}, {name}: MSE",
                "",
                f"{of}.{key}.mse",
            )
            for name, key in (
                ("model", "model"),
                ("constant guess", "constant"),
                ("ridge on thumbnails", "ridge"),
                # that one stands above
                ("second reader", "reader"),
            )
            if (threshold, key) != (1, "reader")
        ]
    return rows


def figure_row(number, shows, lesson, why=""):
    """A figure of the paper: the picture was lost, the text says what it shows; ours stands in a
    lesson.
    """
    return Row(
        f"Figure {number}",
        shows,
        "",
        f"figure{number}",
        why or "picture lost; described in the text",
        lesson,
    )


def rows():
    """Every number, table and figure of the paper that the kit knows of, in its order."""
    return [
        figure_row(1, "why low-level findings: the idea", "02_backbone"),
        figure_row(2, "the backbone, and which of its maps may be the corpus", "02_backbone"),
        figure_row(3, "the whole model: corpus, transformer, two heads", "04_corpus_vit"),
        figure_row(4, "how six zeros and ones teach a severity map", "06_severity"),
        Row(
            "Text: data",
            "CheXpert, films in all",
            "224,316",
            "chexpert.counts.films",
            "less the 32,387 lateral ones that is 191,929, and the text keeps 190,847; the "
            "released train.csv has 223,414",
            against=True,
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
            against=True,
        ),
        Row(
            "Tables 1 to 3",
            "datasets and severity levels",
            "",
            "cohort.counts",
            "institutional data, not public; ours stand below",
        ),
        *diagnosis_rows("Table 4", "PA", 3),
        *diagnosis_rows("Table 5", "AP", 1, ">= 0.800"),
        figure_row(5, "saliency of bacterial infection, tuberculosis, COVID-19", "05_saliency"),
        *severity_rows(),
        Row(
            "Text: readers",
            "severity, five readers against their majority: MSE",
            "1.683",
            "severity.folds.threshold1.reader.mse",
            "150 Brixia images, other images than the model's; the public two-reader images give "
            "3.17 [2.24, 4.21] at zone "
            "score >= 1 and 1.10 [0.84, 1.40] at >= 2",
        ),
        figure_row(6, "severity: score, array, map and contours of one hospital", "06_severity"),
        figure_row(7, "severity maps against lesions drawn by experts (12 films)", "06_severity"),
        *comparison_rows(),
        figure_row(
            8,
            "uses in the clinic: triage, follow-up",
            "09_reading_room",
            "an outlook in the text; nothing is measured",
        ),
        *beyond_rows(),
    ]


def stage_of(key):
    """The first part of a key: what measured it."""
    return key.partition(".")[0]


def measurements(root, profile):
    """{stage: metrics} of the stages that are finished under `root` with exactly the profile's
    settings.
    """
    folders = {
        stage: artifacts.Store(root).folder(stage, dependencies.settings(profile, stage))
        for stage in dependencies.DEPENDS
    }
    found = {
        stage: atomic.read_json(folder / "metrics.json")
        for stage, folder in folders.items()
        if (folder / "metrics.json").exists()
    }
    return found | grid(root, profile)


def grid(root, profile):
    """Tables 7 to 10: what `make grid` committed for this profile, else the cells that are finished
    under `root`.
    """
    rows = results.read("grid")["rows"] if "grid" in results.names() else []
    found = comparisons.for_ledger(profile, artifacts.Store(root), rows)
    return {
        part: {
            task: {slug(name): leaf for name, leaf in cells.items()}
            for task, cells in tasks.items()
        }
        for part, tasks in found.items()
        if tasks
    }


def sizes(profile):
    """What the profile's model is, without any training: {"model": ...} for the ledger."""
    return {"model": {"corpus": {"channels": factory.network(profile).out_channels}}}


def flat(metrics, prefix=""):
    """Nested metrics -> {dotted name: leaf}; a dict with "value", or a paired "difference", is one
    leaf, with its interval.
    """
    leaves = {}
    for name, value in metrics.items():
        if isinstance(value, dict) and isinstance(value.get("difference"), float):
            against = f"against {value['rival']}" if "rival" in value else ""
            leaves[f"{prefix}{name}"] = {
                "value": value["difference"],
                "low": value["low"],
                "high": value["high"],
                "why": against,
            }
        elif isinstance(value, dict) and "value" not in value:
            leaves |= flat(value, f"{prefix}{name}.")
        else:
            leaves[f"{prefix}{name}"] = value if isinstance(value, dict) else {"value": value}
    return leaves


def table(measured):
    """The ledger: one dict a row with `paper`, `status`, `ours`, `interval`, `why`, `stage`,
    `lesson`; ours is None where nothing was measured, NaN where it is undefined.

    `why` begins with the name of our hospital where a row is about one.
    """
    ours = flat(measured)
    lines = []
    for row in rows():
        leaf = ours.get(row.key, {})
        undefined = bool(leaf) and leaf["value"] is None
        interval = (
            [leaf["low"], leaf["high"]]
            if leaf.get("low") is not None and leaf.get("high") is not None
            else None
        )
        site = leaf and ours.get(f"{row.key.rpartition('.')[0]}.site")
        why = [f"ours: {site['value']}" if site else "", leaf.get("why", row.why)]
        why += ["asks for real films: profile mini"] if row.table == BEYOND and not leaf else []
        why += ["undefined: not every class has films there"] if undefined else []
        stage = stage_of(row.key)
        lines.append(
            {
                "table": row.table,
                "quantity": row.quantity,
                "paper": row.paper,
                "status": row.status,
                "stage": stage,
                "lesson": row.lesson or PLACES.get(stage, ("",))[0],
                "picture": bool(row.lesson),
                "ours": math.nan if undefined else leaf.get("value"),
                "interval": interval,
                "why": "; ".join(filter(None, why)),
            }
        )
    return lines


# what a stage is, and Tables 1 to 3 for our data


def made(root, profile):
    """The finished stages of the profile: list of dict stage, folder (its key), date, lesson."""
    found = []
    for stage in dependencies.DEPENDS:
        folder = artifacts.Store(root).folder(stage, dependencies.settings(profile, stage))
        if folder.exists():
            date = datetime.fromtimestamp((folder / "settings.json").stat().st_mtime, UTC)
            found.append(
                {
                    "stage": stage,
                    "folder": folder.name,
                    "date": date.strftime("%Y-%m-%d %H:%M UTC"),
                    "lesson": PLACES.get(stage, ("",))[0],
                }
            )
    return found


def datasets(profile, store):
    """Tables 1 to 3 of the paper for our data: {title: DataFrame}; {} where films have not been
    drawn or listed yet.

    Films, and patients in brackets; by dataset (virtual hospitals: by site), view and what the task
    is about.
    """
    if (
        "virtual" in profile.manifests
        and not store.folder("cohort", dependencies.settings(profile, "cohort")).exists()
    ):
        return {}
    tables = {
        task: task_data.for_task(profile, task, store)
        for task in ("findings", "diagnosis", "severity")
    }
    for table in tables.values():
        table["source"] = table["dataset"].where(
            table["dataset"] != "virtual", "virtual, " + table["site"].astype(str)
        )
        table["source"] += table["external"].astype(bool).map({True: " (external)", False: ""})
        table["view"] = table["view"].fillna("unknown")
    named = tables["findings"].melt(["source", "view", "group_id"], list(FINDINGS), "finding")
    scored = tables["severity"].assign(
        severity=severity_module.score_of(tables["severity"], profile.choices)
    )
    scored["severity"] = scored["severity"].map(
        lambda score: "unknown" if pd.isna(score) else f"score {score:.0f}"
    )
    wanted = {
        "Table 1: findings of the films that teach the backbone": (
            named[named["value"] == 1],
            "finding",
            list(FINDINGS),
        ),
        "Table 2: diagnosis by source and view": (
            tables["diagnosis"],
            "diagnosis",
            list(DIAGNOSES),
        ),
        "Table 3: severity by source and view": (scored, "severity", None),
    }
    return {title: counts(*what) for title, what in wanted.items() if len(what[0])}


def counts(table, column, order=None):
    """Films (patients) by source and view, a column for each value: DataFrame of text."""
    groups = table.groupby(["source", "view", column])["group_id"].agg(["size", "nunique"])
    text = (groups["size"].map("{:,}".format) + groups["nunique"].map(" ({:,})".format)).unstack(
        fill_value="-"
    )
    return (
        text.reindex(columns=order, fill_value="-").reset_index() if order else text.reset_index()
    )
