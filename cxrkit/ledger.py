"""The paper's numbers, one row each, and ours where a stage has measured it. What we cannot read is said, never guessed."""

from dataclasses import dataclass

from cxrkit import artifacts, stages

READ, LOST = "read in the text", "not available"


@dataclass(frozen=True)
class Row:
    """One number of the paper. `key` finds ours: the stage, then the path in its metrics.json, dots between."""

    table: str
    quantity: str
    paper: str
    key: str
    why: str = ""

    @property
    def status(self):
        """Whether the paper's number is known to us: Tables 1-10 were lost from the text that we have."""
        return READ if self.paper else LOST


def severity_rows():
    """Table 6, three external hospitals; the text names their numbers twice and differently (MSE)."""
    read = {"mse": ("1.682", "1.677", "1.607"), "mae": ("1.028", "1.102", "0.930"), "cc": ("0.781", "0.777", "0.682"),
            "r2": ("0.572", "0.572", "0.432")}
    again = ("1.657", "1.696", "1.676")
    constant = ("3.93", "3.92", "2.83")
    rows = []
    for metric, values in read.items():
        for i, value in enumerate(values):
            twice = f"the same paragraph later says {again[i]}; a constant guess would score {constant[i]}"
            rows.append(Row("Table 6", f"severity, external hospital {i + 1}: {metric.upper()}", value,
                            f"severity.external{i + 1}.{metric}", twice if metric == "mse" else ""))
    return rows


def diagnosis_rows(table, view, hospitals, bound=""):
    """Tables 4 and 5: diagnosis on external hospitals."""
    return [Row(table, f"{view} films, external hospital {i + 1}: {metric}", bound if metric == "AUC" else "",
                f"diagnosis_{view.lower()}.external{i + 1}.{metric.lower()}",
                "a bound in the text, no value" if bound and metric == "AUC" else "")
            for i in range(hospitals) for metric in ("AUC", "sensitivity", "specificity", "accuracy")]


def comparison_rows():
    """Tables 7 to 10: other models and ablations, on the main metric of each task."""
    models = ("ResNet-50", "ResNet-152", "DenseNet-121", "ViT", "hybrid ViT")
    ablations = ("2 layers, 4 heads", "4 layers, 8 heads", "10 weighted maps", "3 infection maps", "pneumonia map",
                 "frozen backbone", "1024 px input", "SimCLR: ViT", "SimCLR: hybrid ViT", "SimCLR: ours")
    severity = ("ROI average pooling", "Brixia alone")
    start = "ImageNet-initialised in the paper, its own model was not"
    return [*(Row("Table 7", f"diagnosis with {m}: AUC", "", f"comparison.diagnosis.{slug(m)}.auc", start) for m in models),
            *(Row("Table 8", f"severity with {m}: MSE", "", f"comparison.severity.{slug(m)}.mse", start) for m in models),
            *(Row("Table 9", f"ablation, {a}: AUC", "", f"ablation.diagnosis.{slug(a)}.auc") for a in ablations),
            *(Row("Table 10", f"ablation, {a}: MSE", "", f"ablation.severity.{slug(a)}.mse") for a in severity)]


def slug(text):
    """Name for a key: lowercase letters and digits, one underscore between words."""
    return "_".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


def rows():
    """Every number of the paper that the kit knows of, in the order of its tables."""
    return [
        Row("Text: data", "CheXpert, films kept: PA", "29,420", "chexpert.counts.pa", "the released train.csv has 29,420"),
        Row("Text: data", "CheXpert, films kept: AP", "161,427", "chexpert.counts.ap",
            "the released train.csv has 161,590 AP and 17 films of other frontal views (LL 16, RL 1)"),
        Row("Tables 1 to 3", "datasets and severity levels", "", "cohort.counts", "institutional data, not public"),
        *diagnosis_rows("Table 4", "PA", 3), *diagnosis_rows("Table 5", "AP", 1, ">= 0.800"), *severity_rows(),
        Row("Text: readers", "severity, five readers against their majority: MSE", "1.683", "readers.mse",
            "150 Brixia images, other images than the model's; the public two-reader images give 3.17 [2.24, 4.21] at zone "
            "score >= 1 and 1.10 [0.84, 1.40] at >= 2"),
        *comparison_rows(),
    ]


def measurements(root, profile):
    """{stage: metrics} of the stages that are finished under `root` with exactly the profile's settings."""
    folders = {stage: artifacts.Store(root).folder(stage, stages.settings(profile, stage)) for stage in stages.DEPENDS}
    return {stage: artifacts.read_json(folder / "metrics.json") for stage, folder in folders.items()
            if (folder / "metrics.json").exists()}


def flat(metrics, prefix=""):
    """Nested metrics -> {dotted name: leaf}; a dict with "value" is one leaf, with its interval."""
    leaves = {}
    for name, value in metrics.items():
        if isinstance(value, dict) and "value" not in value:
            leaves |= flat(value, f"{prefix}{name}.")
        else:
            leaves[f"{prefix}{name}"] = value if isinstance(value, dict) else {"value": value}
    return leaves


def table(measured):
    """The ledger: one dict a row with `paper`, `status`, `ours`, `interval`, `why`; ours is None where nothing was measured.

    `why` begins with the name of our hospital where a row is about one.
    """
    ours = flat(measured)
    lines = []
    for row in rows():
        leaf = ours.get(row.key, {})
        interval = [leaf["low"], leaf["high"]] if "low" in leaf and "high" in leaf else None
        site = leaf and ours.get(f"{row.key.rpartition('.')[0]}.site")
        why = [f"ours: {site['value']}" if site else "", leaf.get("why", row.why)]
        lines.append({"table": row.table, "quantity": row.quantity, "paper": row.paper, "status": row.status,
                      "ours": leaf.get("value"), "interval": interval, "why": "; ".join(filter(None, why))})
    return lines
