"""What each start buys: the same training on real films from other first weights, cross-validated
by patient, one seed.

    python tools/starts.py --mirror DIR          # make starts MIRROR=DIR

Findings from random weights or from the backbone of the virtual hospitals; severity from the
backbone that then learnt the findings of the NIH, or from the severity model of the virtual
hospitals. Results go to cxrkit/results/starts.json; a stage that the profile `mini` has made
already is loaded.
"""

import argparse
from dataclasses import replace

import numpy as np
import pandas as pd

from cxrkit.config import profiles, vocabulary
from cxrkit.config.vocabulary import FINDINGS
from cxrkit.evaluation import resampling
from cxrkit.pipeline import stages
from cxrkit.reproduction import environment, results
from cxrkit.storage import artifacts
from cxrkit.tasks import findings

MINI = profiles.mini()
FROM_BACKBONE = replace(
    MINI,
    quantifier=replace(MINI.quantifier, virtual=False),
    choices=replace(MINI.choices, severity_start="backbone"),
)
STARTS = {  # task -> the profile's own start, and the other one
    "findings": {
        "virtual": MINI,
        "random": replace(MINI, backbone=replace(MINI.backbone, start="random")),
    },
    "severity": {"virtual severity": MINI, "virtual + NIH findings": FROM_BACKBONE},
}


def folds_of_findings(profile, store):
    """(truth (n, K), logits (n, K), groups) of the cross-validated films, findings with enough
    patients.
    """
    table = pd.read_csv(stages.backbone(profile, store) / "predictions.csv", low_memory=False)
    table = table[table["judged"] == "folds"].sort_values("path")
    few = {
        name
        for name in FINDINGS
        if table.loc[table[name] == 1, "patient_id"].nunique() < vocabulary.FEWEST
    }
    names = [name for name in FINDINGS if name not in few]
    return (
        table[names].to_numpy(),
        table[[f"logit_{name}" for name in names]].to_numpy(),
        table["group_id"].to_numpy(),
    )


def folds_of_severity(profile, store):
    """(truth (n,), score (n,), groups) of the cross-validated films, zones involved from a Brixia
    score of 1.
    """
    table = pd.read_csv(stages.severity(profile, store) / "crossvalidated.csv", low_memory=False)
    table = table[table["threshold"] == 1].sort_values("path")
    return table["truth"].to_numpy(), table["score"].to_numpy(), table["group_id"].to_numpy()


def mse(y, p):
    return float(np.mean((y - p) ** 2))


MEASURES = {
    "findings": (folds_of_findings, "mean AUC", findings.mean_auc),
    "severity": (folds_of_severity, "MSE", mse),
}


def study(task, store):
    """A row a start: its value with interval, and the own start minus this one on the same films."""
    read, measure, statistic = MEASURES[task]
    judged = {name: read(profile, store) for name, profile in STARTS[task].items()}
    (truth, ours, groups), rows = next(iter(judged.values())), []
    for name, (_, scores, _) in judged.items():
        value, low, high = resampling.bootstrap(statistic, truth, scores, groups=groups, draws=1000)
        gain = resampling.paired_bootstrap(
            statistic, truth, ours, scores, groups=groups, draws=1000
        )
        rows.append(
            {
                "task": task,
                "measure": measure,
                "start": name,
                "films": len(truth),
                "value": value,
                "low": low,
                "high": high,
                **{
                    f"own_minus_this{'_' + key if key != 'difference' else ''}": gain[key]
                    for key in ("difference", "low", "high")
                },
            }
        )
    return rows


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mirror", default=None, help="folder with prepared films")
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"{', '.join(STARTS)} [all]")
    options = parser.parse_args(arguments)
    store = artifacts.Store(data=options.mirror)
    rows = [row for task in options.tasks or STARTS for row in study(task, store)]
    results.write(
        "starts", rows, {"command": "make starts", "profile": "mini", **environment.provenance()}
    )


if __name__ == "__main__":
    main()
