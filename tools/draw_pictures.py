"""Draw the two sheets of virtual films that the README shows, without a drawn cohort.

    python tools/draw_pictures.py                # two minutes on one core

The films are those of the demo's cohort that lesson 00 shows. Writes docs/img/hospitals.png and
docs/img/findings.png.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from cxrkit import viz
from cxrkit.config.sections import CohortSettings
from cxrkit.config.vocabulary import DIAGNOSES, FINDINGS
from cxrkit.simulation import SITES
from cxrkit.simulation.cohort import plan_cohort, ward_of

SETTINGS = CohortSettings()
SEED = 0


def hospital_of(row):
    """The ward that a film of the plan lies in."""
    return ward_of(row.site, row.ward, row.n, SETTINGS, SEED)


def draw(row):
    """The film of a row of the plan, uint8 (S, S)."""
    return hospital_of(row)[row.index].image


def first_with(rows, diagnosis):
    """The first film of some rows whose patient has a diagnosis."""
    for row in rows.itertuples(index=False):
        if hospital_of(row).condition_of(row.index).diagnosis == diagnosis:
            return row
    raise LookupError(f"no {diagnosis} among {len(rows)} films; draw a larger cohort")


def draw_hospitals(plan):
    """Diagnosis x hospital."""
    rows = plan[plan["ward"] == "diagnosis"]
    images = []
    for diagnosis in DIAGNOSES:
        line = [first_with(rows[rows["site"] == site], diagnosis) for site in SITES]
        images.append([draw(row) for row in line])
    names = [name.replace("_", "\n") for name in DIAGNOSES]
    return viz.plot_sheet(images, names, list(SITES), "Diagnosis x hospital")


def draw_findings(plan):
    """A film of each finding with few others."""
    rows = list(plan[plan["ward"] == "findings"].itertuples(index=False))
    conditions = [hospital_of(row).condition_of(row.index) for row in rows]
    truth = pd.DataFrame([condition.findings() for condition in conditions])
    few = truth[list(FINDINGS)].sum(axis=1)
    images = []
    for name in FINDINGS:
        chosen = few[truth[name] == 1].sort_values(kind="stable").index[1]
        images.append(draw(rows[chosen]))
    pictures = np.array(images).reshape(2, 5, SETTINGS.size, SETTINGS.size)
    figure = viz.plot_sheet(pictures, ["", ""], [""] * 5, "One film for each finding")
    for axis, name in zip(figure.axes, viz.finding_names(), strict=True):
        axis.set_title(name)
    return figure


def main():
    """Draw and write both sheets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/img"))
    options = parser.parse_args()
    cv2.setNumThreads(1)
    plan = plan_cohort(SETTINGS, SEED)
    plan = plan[plan["view"] == "PA"]
    for name, sheet in (("hospitals", draw_hospitals), ("findings", draw_findings)):
        path = options.out / f"{name}.png"
        sheet(plan).savefig(path, dpi=70, bbox_inches="tight")
        print(path)


if __name__ == "__main__":
    main()
