"""Train what a lesson trains once, three times over, and record the spread: `make seeds`.

It resumes: a finished stage is loaded. A seed draws new virtual patients and new random weights.
Each study gives flat rows, written to cxrkit/storage/recorded_results/seeds_<study>.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cxrkit import explain
from cxrkit.config import profiles
from cxrkit.evaluation import resampling
from cxrkit.evaluation.summaries import metrics_of, sites_of
from cxrkit.explain import methods
from cxrkit.pipeline import stages
from cxrkit.pipeline.run import Run
from cxrkit.reproduction import environment
from cxrkit.storage import recorded
from cxrkit.tasks import findings

SEEDS = (0, 1, 2)
HELD_OUT = ("", "alder", "birch", "cedar")  # "" = the three external hospitals of the profile
USUAL = "usual"  # these three, in a row

Rows = list[dict[str, Any]]


def difference_of_means(a: np.ndarray, b: np.ndarray) -> float:
    """Mean of a minus mean of b."""
    return np.mean(a) - np.mean(b)


def findings_row(run: Run) -> dict[str, Any]:
    """AUC of each finding, and their mean, on external sites."""
    external = metrics_of(run.backbone.metrics, "external")
    row = {"auc": external["auc"]["value"]}
    for name, found in external["findings"].items():
        row[f"auc_{name}"] = found["auc"]["value"]
    return row


def study_backbone(run: Run) -> Rows:
    """The findings on external sites."""
    return [findings_row(run)]


def study_pooling(run: Run) -> Rows:
    """PCAM against average pooling with one budget: AUC on external sites, pointing game."""
    rows, hits = [], {}
    for pool in ("pcam", "average"):
        backbone = replace(run.profile.backbone, pool=pool)
        variant = run.with_profile(replace(run.profile, backbone=backbone))
        result = variant.backbone
        images = variant.images("findings")
        images = images[images["external"]].reset_index(drop=True)
        played = findings.pointing(result.task, result.model, images)
        hits[pool] = played
        hit, low, high = resampling.bootstrap(np.mean, played["hit"], groups=played["group_id"])
        row = {"pool": pool, **findings_row(variant)}
        row |= {"hit": hit, "hit_low": low, "hit_high": high}
        row |= {"chance": played["chance"].mean(), "n": len(played)}
        for name, part in played.groupby("finding"):
            row[f"hit_{name}"] = part["hit"].mean()
        rows.append(row)
    gain, low, high = resampling.bootstrap(
        difference_of_means,
        hits["pcam"]["hit"],
        hits["average"]["hit"],
        groups=hits["pcam"]["group_id"],
    )
    return [{**row, "gain": gain, "gain_low": low, "gain_high": high} for row in rows]


def study_diagnosis(run: Run) -> Rows:
    """Macro AUC of the PA and AP models on external sites, all and one by one."""
    rows = []
    for view in ("PA", "AP"):
        metrics = run.diagnosis(view).metrics
        external = metrics_of(metrics, "external")
        row = {"view": view, "auc": external["auc"]["value"]}
        for site, found in sites_of(metrics).items():
            row[f"auc_{site}"] = found["auc"]["value"]
        row["ece"], row["ece_calibrated"] = external["ece"], external["ece_calibrated"]
        for name, found in external["classes"].items():
            row[f"auc_{name}"] = found["auc"]["value"]
        for name in ("sensitivity", "specificity", "accuracy"):
            row[name] = external[name]["value"]
        rows.append(row)
    return rows


def severity_row(run: Run) -> dict[str, Any]:
    """Score, map and the reading of health of one severity model, at hospitals it never saw."""
    metrics = run.severity.metrics
    external = metrics_of(metrics, "external")
    row = {"held_out": run.profile.severity.held_out or USUAL}
    for name in ("mse", "mae", "cc", "r2"):
        row[name] = external[name]["value"]
    row["n"] = external["mse"]["n"]
    row["constant"] = external["constant"]["mse"]["value"]
    row["hard"] = external["hard"]["mse"]["value"]
    row["normal images"] = metrics["healthy"]["score"]["value"]
    for name, value in external.get("map", {}).items():
        if isinstance(value, dict):
            row[name] = value["value"]
    return row


def study_severity(run: Run) -> Rows:
    """Severity at the three external hospitals."""
    return [severity_row(run)]


def study_alternation(run: Run) -> Rows:
    """The same, then with each training hospital held out in turn (alternation, section 4)."""
    rows = []
    for site in HELD_OUT:
        settings = replace(run.profile.severity, held_out=site)
        rows.append(severity_row(run.with_profile(replace(run.profile, severity=settings))))
    return rows


def study_segmenter(run: Run) -> Rows:
    """Dice of the student and of the U-Net that learnt from normal lungs, and the gain."""
    external = metrics_of(run.segmenter.metrics, "external")
    rows = []
    for group in ("normal", "zones_4_6", "opaque"):
        gain = external["gain"][group]
        row = {"group": group, "n": gain["n"]}
        for network in ("student", "unet_normal", "unet_both"):
            row[network] = external[network][group]["dice"]["value"]
        rows.append({**row, **{f"gain_{name}": gain[name] for name in ("value", "low", "high")}})
    return rows


def study_marker(run: Run) -> Rows:
    """Every probe at every marker strength: AUC inside and outside, and the flip rate."""
    return run.marker_study.table("sweep.csv").to_dict("records")


def study_saliency(run: Run) -> Rows:
    """Pointing game of the saliency maps: within one cell, at the cell itself, and the same for the
    quarter of the images with the smallest lesions.

    Beside each method stands how far the default method is ahead of it.
    """
    rows = run.saliency_benchmark.table("rows.csv").set_index(["view", "image"], drop=False)
    areas = rows.loc[(rows["criterion"] == "lesion") & (rows["method"] == "chance"), "value"]
    small = areas.index[areas <= areas.quantile(0.25)]
    parts = {
        "pointing": rows[rows["criterion"] == "pointing"],
        "touching": rows[rows["criterion"] == "touching"],
    }
    parts["touching, small lesions"] = parts["touching"].loc[small]
    out = []
    for name, part in parts.items():
        criterion = name.partition(",")[0]
        part = part.reset_index(drop=True)
        found = explain.summarise(part).set_index("method")
        ahead = explain.paired_differences(part, methods.DEFAULT_METHOD, criterion)
        for method in found.index:
            summary = found.loc[method][["value", "low", "high", "n"]]
            row = {"criterion": name, "method": method, **summary.to_dict()}
            if method in ahead.index:
                for end in ("difference", "low", "high"):
                    row[f"ahead_{end}"] = ahead.loc[method, end]
            out.append(row)
    return out


STUDIES = {
    "backbone": study_backbone,
    "pooling": study_pooling,
    "diagnosis": study_diagnosis,
    "severity": study_severity,
    "alternation": study_alternation,
    "segmenter": study_segmenter,
    "marker_study": study_marker,
    "saliency_benchmark": study_saliency,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the studies and record their rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("studies", nargs="*", metavar="STUDY", help=f"{', '.join(STUDIES)} [all]")
    options = parser.parse_args(arguments)
    for name in options.studies or STUDIES:
        rows = []
        for seed in SEEDS:
            run = Run(replace(profiles.demo(), seed=seed))
            rows += [{"seed": seed, **row} for row in STUDIES[name](run)]
            print(f"{name}, seed {seed}: done", flush=True)
        made = {
            "command": f"make seeds STUDY={name}",
            "profile": "demo",
            "hospitals": stages.stage_of("cohort").version,
        }
        recorded.write_result(f"seeds_{name}", rows, {**made, **environment.provenance()})


if __name__ == "__main__":
    main()
