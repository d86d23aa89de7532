"""How fast the virtual hospitals draw, and what grey statistics give away.

    python benchmarks/cohort.py            # about four minutes on two cores

Prints films a second and core once an anatomy is projected, the whole demo cohort from an empty
folder, and the macro AUC of a logistic regression on mean, deviation and 16-bin histogram of the
raw films, each site held out in turn (bars: SPEC 1.1).
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import tempfile
import time

import cv2
import numpy as np

from cxrkit.config import profiles
from cxrkit.config.vocabulary import DIAGNOSES
from cxrkit.evaluation import linear_probe, metrics
from cxrkit.simulation import anatomy, cohort
from cxrkit.simulation import hospital as hospital_module


def films_a_second(ward, n=60):
    """Films a second of one core, all of one anatomy and view, which is projected before the clock
    starts.
    """
    hospital = hospital_module.Hospital("alder", ward=ward, n=3000)
    body, view = hospital.body_of(0), hospital.view_of(0)
    same = [
        i
        for i in range(3000)
        if hospital.body_of(hospital.patient_of(i)[0]) == body and hospital.view_of(i) == view
    ][:n]
    hospital[same[0]]
    start = time.process_time()
    for i in same:
        hospital[i]
    return len(same) / (time.process_time() - start)


def grey_auc(drawn):
    """Macro AUC of the diagnosis from raw grey statistics, mean over held-out sites."""
    rows = np.where(drawn.table.ward == "diagnosis")[0]
    table = drawn.table.iloc[rows]
    y, site = table["diagnosis"].map(DIAGNOSES.index).to_numpy(), table["site"].to_numpy()
    p = linear_probe.refit(
        linear_probe.histogram(drawn.images[rows]), y, table["group_id"].to_numpy(), site
    )
    return linear_probe.by_site(metrics.macro_auc)(y, p, site)


def main():
    cv2.setNumThreads(1)
    for ward in hospital_module.WARDS:
        print(f"{ward:<12} {films_a_second(ward):6.1f} films a second and core   (bar 30)")
    start = time.process_time()
    for seed in range(3):
        anatomy.project(anatomy.make_body(np.random.default_rng(seed)), "PA")
    print(f"projection   {(time.process_time() - start) / 3 * 1000:6.0f} ms an anatomy and view")
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        cohort.draw(folder, profiles.demo().cohort, seed=0)
        seconds = time.perf_counter() - start
        print(
            f"demo cohort  {seconds:6.1f} s for {len(cohort.Films(folder))} films on "
            f"{os.cpu_count()} cores   (bar 90 on 2)"
        )
        print(
            f"grey statistics, site held out: macro AUC {grey_auc(cohort.Films(folder)):.3f}   (bar "
            "0.65)"
        )


if __name__ == "__main__":
    main()
