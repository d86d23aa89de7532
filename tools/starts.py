"""What first weights buy: a training on real images from other weights, cross-validated.

    python tools/starts.py --mirror DIR          # make starts MIRROR=DIR

Findings begin with random weights or with the backbone of the virtual hospitals; severity begins
with the backbone that then learnt the findings of the NIH, or with the severity model of the
virtual hospitals. One seed. Results go to cxrkit/storage/recorded_results/starts.json; a stage that
the profile `mini` has made already is loaded.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cxrkit.config import profiles
from cxrkit.config.sections import Profile
from cxrkit.config.vocabulary import FEWEST, FINDINGS
from cxrkit.evaluation import resampling
from cxrkit.pipeline.run import Run
from cxrkit.reproduction import environment
from cxrkit.reproduction.comparisons import mean_squared_error
from cxrkit.storage import recorded
from cxrkit.tasks import findings

MINI = profiles.mini()
FROM_BACKBONE = replace(
    MINI,
    severity=replace(MINI.severity, virtual=False),
    choices=replace(MINI.choices, severity_start="backbone"),
)
FROM_RANDOM = replace(MINI, backbone=replace(MINI.backbone, initial_weights="random"))
DRAWS = 1000  # of patients, for an interval


def folds_of_findings(run: Run) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The cross-validated images, for the findings with enough patients.

    Returns:
        Truth (n, K), logits (n, K), and the patient of each image (n,).
    """
    table = run.backbone.predictions
    table = table[table["part"] == "folds"].sort_values("path")
    names = []
    for name in FINDINGS:
        if table.loc[table[name] == 1, "patient_id"].nunique() >= FEWEST:
            names.append(name)
    logits = table[[f"logit_{name}" for name in names]].to_numpy()
    return table[names].to_numpy(), logits, table["group_id"].to_numpy()


def folds_of_severity(run: Run) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The cross-validated images, zones involved from a Brixia score of 1.

    Returns:
        Truth (n,), score (n,), and the patient of each image (n,).
    """
    table = run.severity.table("crossvalidated.csv")
    table = table[table["threshold"] == 1].sort_values("path")
    return table["truth"].to_numpy(), table["score"].to_numpy(), table["group_id"].to_numpy()


@dataclass(frozen=True)
class Study:
    """One task: its starts, the profile's own first, and how they are compared."""

    starts: dict[str, Profile]
    read: Callable[[Run], tuple[np.ndarray, np.ndarray, np.ndarray]]
    measure: str
    statistic: Callable[[np.ndarray, np.ndarray], float]


STUDIES = {
    "findings": Study(
        {"virtual": MINI, "random": FROM_RANDOM}, folds_of_findings, "mean AUC", findings.mean_auc
    ),
    "severity": Study(
        {"virtual severity": MINI, "virtual + NIH findings": FROM_BACKBONE},
        folds_of_severity,
        "MSE",
        mean_squared_error,
    ),
}


def study_rows(task: str, mirror: str | None) -> list[dict[str, Any]]:
    """A row for each start: its value, and the own start minus this one on the same images.

    Args:
        task: a key of STUDIES.
        mirror: folder with prepared images.
    """
    study = STUDIES[task]
    found = {}
    for name, profile in study.starts.items():
        found[name] = study.read(Run(profile, data=mirror))
    truth, own_scores, groups = next(iter(found.values()))
    rows = []
    for name, (_, scores, _) in found.items():
        value, low, high = resampling.bootstrap(
            study.statistic, truth, scores, groups=groups, draws=DRAWS
        )
        gain = resampling.paired_bootstrap(
            study.statistic, truth, own_scores, scores, groups=groups, draws=DRAWS
        )
        rows.append(
            {
                "task": task,
                "measure": study.measure,
                "start": name,
                "films": len(truth),
                "value": value,
                "low": low,
                "high": high,
                "own_minus_this": gain["difference"],
                "own_minus_this_low": gain["low"],
                "own_minus_this_high": gain["high"],
            }
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the studies and record their rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mirror", default=None, help="folder with prepared images")
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"{', '.join(STUDIES)} [all]")
    options = parser.parse_args(arguments)
    rows = []
    for task in options.tasks or STUDIES:
        rows += study_rows(task, options.mirror)
    made = {"command": "make starts", "profile": "mini", **environment.provenance()}
    recorded.write_result("starts", rows, made)


if __name__ == "__main__":
    main()
