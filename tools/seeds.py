"""Train what a lesson trains once, three times over, and commit the spread: `make seeds`. Resumes;
a finished stage is loaded.

A seed draws new virtual patients and new random weights. Each study gives flat rows, written to
cxrkit/results/seeds_<study>.json.
"""

import argparse
from dataclasses import replace

import numpy as np
import pandas as pd

from cxrkit.config import profiles
from cxrkit.evaluation import resampling
from cxrkit.explain import saliency_benchmark
from cxrkit.pipeline import stages, task_data
from cxrkit.reproduction import environment, results
from cxrkit.storage import artifacts, atomic
from cxrkit.tasks import findings

SEEDS = (0, 1, 2)


def external(folder):
    """The metrics of a stage on the hospitals never seen, and its metrics as a whole."""
    found = atomic.read_json(folder / "metrics.json")
    return found["external"], found


def study_backbone(profile, store):
    """PCAM against average pooling with one budget: AUC on unseen hospitals, and the pointing game."""
    rows, scores = [], {}
    for pool in ("pcam", "average"):
        variant = replace(profile, backbone=replace(profile.backbone, pool=pool))
        folder = stages.backbone(variant, store)
        outside = external(folder)[0]
        films = task_data.for_task(variant, "findings", store)
        played = findings.pointing(
            findings.load(folder, variant),
            films[films["external"]].reset_index(drop=True),
            variant,
            store,
        )
        scores[pool] = played
        areas = {name: found["auc"]["value"] for name, found in outside["findings"].items()}
        hit = resampling.bootstrap(np.mean, played["hit"], groups=played["group_id"])
        rows.append(
            {
                "pool": pool,
                "auc": outside["auc"]["value"],
                **{f"auc_{name}": area for name, area in areas.items()},
                "hit": hit[0],
                "hit_low": hit[1],
                "hit_high": hit[2],
                "chance": played["chance"].mean(),
                "n": len(played),
                **{f"hit_{name}": part["hit"].mean() for name, part in played.groupby("finding")},
            }
        )
    both = scores["pcam"].assign(other=scores["average"]["hit"])
    gain = resampling.bootstrap(
        lambda a, b: np.mean(a) - np.mean(b), both["hit"], both["other"], groups=both["group_id"]
    )
    return [{**row, "gain": gain[0], "gain_low": gain[1], "gain_high": gain[2]} for row in rows]


def study_diagnosis(profile, store):
    """Macro AUC of the PA and AP models on hospitals never seen, one by one."""
    rows = []
    for view in ("PA", "AP"):
        outside, whole = external(stages.transformer(profile, view, store))
        sites = {
            f"auc_{whole[f'external{i}']['site']}": whole[f"external{i}"]["auc"]["value"]
            for i in (1, 2, 3)
        }
        rows.append(
            {
                "view": view,
                "auc": outside["auc"]["value"],
                **sites,
                "ece": outside["ece"],
                **{
                    f"auc_{name}": found["auc"]["value"]
                    for name, found in outside["classes"].items()
                },
                **{
                    what: outside[what]["value"]
                    for what in ("sensitivity", "specificity", "accuracy")
                },
            }
        )
    return rows


def study_severity(profile, store):
    """Error of the 0-6 score on hospitals never seen: the usual three, then each training hospital
    in turn (alternation, section 4).
    """
    rows = []
    for aside in ("", "alder", "birch", "cedar"):
        chosen = replace(profile, quantifier=replace(profile.quantifier, aside=aside))
        outside = external(stages.severity(chosen, store))[0]
        rows.append(
            {
                "aside": aside or "usual",
                **{name: outside[name]["value"] for name in ("mse", "mae", "cc", "r2")},
                "n": outside["mse"]["n"],
                "constant": outside["constant"]["mse"]["value"],
                "hard": outside["hard"]["mse"]["value"],
                **{
                    name: value["value"]
                    for name, value in outside.get("map", {}).items()
                    if isinstance(value, dict)
                },
            }
        )
    return rows


def study_dial(profile, store):
    """Every reader at every marker strength: AUC inside and outside, and how many answers the
    marker changes.
    """
    return pd.read_csv(stages.dial(profile, store) / "dial.csv").to_dict("records")


def study_court(profile, store):
    """Pointing game of the saliency maps, within one cell and at the cell itself, and how far
    relevance is ahead of each rival there.
    """
    rows = pd.read_csv(stages.court(profile, store) / "rows.csv")
    found = saliency_benchmark.verdict(rows).set_index(["criterion", "method"])
    out = []
    for criterion in ("pointing", "touching"):
        ahead = saliency_benchmark.against(rows, "relevance", criterion)
        out += [
            {
                "criterion": criterion,
                "method": method,
                **found.loc[criterion, method][["value", "low", "high", "n"]].to_dict(),
                **{
                    f"ahead_{name}": ahead.loc[method, name]
                    for name in ("difference", "low", "high")
                    if method in ahead.index
                },
            }
            for method in found.loc[criterion].index
        ]
    return out


STUDIES = {
    "backbone": study_backbone,
    "diagnosis": study_diagnosis,
    "severity": study_severity,
    "dial": study_dial,
    "court": study_court,
}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("studies", nargs="*", metavar="STUDY", help=f"{', '.join(STUDIES)} [all]")
    options = parser.parse_args(arguments)
    store = artifacts.Store()
    for name in options.studies or STUDIES:
        rows = []
        for seed in SEEDS:
            rows += [
                {"seed": seed, **row}
                for row in STUDIES[name](replace(profiles.demo(), seed=seed), store)
            ]
            print(f"{name}, seed {seed}: done", flush=True)
        results.write(
            f"seeds_{name}",
            rows,
            {"command": f"make seeds STUDY={name}", "profile": "demo", **environment.provenance()},
        )


if __name__ == "__main__":
    main()
