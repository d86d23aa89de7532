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
from cxrkit.simulation import anatomy
from cxrkit.simulation.cohort import Cohort, draw_cohort
from cxrkit.simulation.hospital import WARDS, Hospital


def images_a_second(ward: str, n: int = 60) -> float:
    """Films a second of one core, of one anatomy that is projected before the clock starts."""
    hospital = Hospital("alder", ward=ward, n=3000)
    body, view = hospital.body_of(0), hospital.view_of(0)
    same = []
    for i in range(len(hospital)):
        patient, _ = hospital.patient_of(i)
        if hospital.body_of(patient) == body and hospital.view_of(i) == view:
            same.append(i)
    same = same[:n]
    hospital[same[0]]
    start = time.process_time()
    for i in same:
        hospital[i]
    return len(same) / (time.process_time() - start)


def projection_ms(n: int = 3) -> float:
    """Milliseconds of one core for the projection of one anatomy in one view."""
    start = time.process_time()
    for seed in range(n):
        body = anatomy.make_body(np.random.default_rng(seed))
        anatomy.project(body, "PA")
    return (time.process_time() - start) / n * 1000


def grey_auc(drawn: Cohort) -> float:
    """Macro AUC of the diagnosis from raw grey statistics, mean over held-out sites."""
    rows = np.where(drawn.table["ward"] == "diagnosis")[0]
    table = drawn.table.iloc[rows]
    y = table["diagnosis"].map(DIAGNOSES.index).to_numpy()
    site = table["site"].to_numpy()
    bodies = table["group_id"].to_numpy()
    statistics = linear_probe.histogram(drawn.images[rows])
    p = linear_probe.out_of_fold_predictions(statistics, y, bodies, site)
    return linear_probe.mean_over_sites(metrics.macro_auc)(y, p, site)


def main() -> None:
    """Print all figures."""
    cv2.setNumThreads(1)
    for ward in WARDS:
        print(f"{ward:<12} {images_a_second(ward):6.1f} films a second and core   (bar 30)")
    print(f"projection   {projection_ms():6.0f} ms an anatomy and view")
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        draw_cohort(folder, profiles.demo().cohort, seed=0)
        seconds = time.perf_counter() - start
        drawn = Cohort(folder)
        images, cores = len(drawn), os.cpu_count()
        print(f"demo cohort  {seconds:6.1f} s for {images} films on {cores} cores   (bar 90 on 2)")
        auc = grey_auc(drawn)
        print(f"grey statistics, site held out: macro AUC {auc:.3f}   (bar 0.65)")


if __name__ == "__main__":
    main()
