"""How often `cxrkit predict` calls a picture unusable: sound films, and what is no film.

    python tools/evaluate_usable.py --mirror DIR --keep FILE

The rule is that of `quality.QualityControl.check`; headers of DICOM files are left out, whose words
decide by themselves (`dicom_tags.unusable_by_header`). Films of a sample of each dataset, virtual
ones, films that are turned or inverted, and pictures of something else. Each part is kept in
--store, so an interrupted run goes on. Writes cxrkit/storage/recorded_results/usable.json.
"""

import argparse
from collections import Counter
from pathlib import Path

import evaluate_lungs
import numpy as np
import pandas as pd
import torch

from cxrkit.data.images import load_image
from cxrkit.inference import load_models, predictor
from cxrkit.reproduction import environment
from cxrkit.simulation import hospital
from cxrkit.storage import recorded
from cxrkit.storage.atomic import read_json, write_json

DATASETS = (
    *("cohen", "cxnet", "hannover", "kermany", "kermany_224", "nih_cxr14", "nih_cxr14_multi"),
    "shenzhen",
)
SAMPLE = 25  # films of a dataset, pictures of a kind
VIRTUAL = 5  # films of each virtual hospital
SEED = 11  # of the sample
CHANGES = {
    "turned by a quarter": np.rot90,
    "upside down": np.flipud,
    "inverted": lambda grey: grey.max() - grey,
    "flipped left to right": np.fliplr,  # a warning, and usable
}


def checked(grey, models):
    """(unusable, its reasons) of a picture; reasons without their figures."""
    grey = np.ascontiguousarray(grey)
    mask, probs = predictor.segment_lungs(grey, models.parts["segmenter"])
    found = models.quality.check(grey, mask, models.image_size, probs)
    return [text.split(":")[0] for text in found.unusable]


def row_of(pictures, kind, reasons):
    """A row of the result."""
    count = Counter(reason for one in reasons for reason in one)
    unusable = float(np.mean([bool(one) for one in reasons]))
    base = {"pictures": pictures, "kind": kind, "n": len(reasons), "unusable": unusable}
    return {**base, "reasons": dict(sorted(count.items()))}


def sample_of(mirror, name):
    """Grey images of a sample of a dataset's frontal films."""
    table = pd.read_csv(mirror / name / "labels.csv", low_memory=False)
    table = table[table["view"].isin(predictor.FRONTAL)]
    chosen = table.sample(min(SAMPLE, len(table)), random_state=SEED)["file"]
    return [load_image(mirror / name / file).pixels for file in chosen]


def virtual_sample():
    """Virtual films of all hospitals."""
    return [
        hospital.Hospital(site, n=VIRTUAL, seed=1000 + SEED)[i].image
        for site in hospital.SITES
        for i in range(VIRTUAL)
    ]


def parts(mirror):
    """Name and kind of each part -> a function that gives its pictures."""
    found = {(f"films of {name}", "film"): lambda n=name: sample_of(mirror, n) for name in DATASETS}
    found["virtual films", "film"] = virtual_sample
    for name, change in CHANGES.items():
        found[name, "changed film"] = lambda c=change: [c(g) for g in sample_of(mirror, "cohen")]
    for number, (name, draw) in enumerate(evaluate_lungs.KINDS.items()):
        rng = np.random.default_rng((SEED, number))
        found[name, "other picture"] = lambda d=draw, r=rng: [d(r) for _ in range(SAMPLE)]
    return found


def main():
    """Evaluate the shipped models."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mirror", type=Path, required=True, help="folder with prepared films")
    parser.add_argument("--weights", type=Path, default=None, help="[default: those of the kit]")
    parser.add_argument("--keep", type=Path, required=True, help="file for parts of the result")
    options = parser.parse_args()
    torch.set_num_threads(1)
    models = load_models(weights=options.weights)
    kept = read_json(options.keep) if options.keep.exists() else {}
    rows = kept.get(models.digest(), [])
    for (name, kind), pictures in parts(options.mirror).items():
        if not any(row["pictures"] == name for row in rows):
            rows.append(row_of(name, kind, [checked(grey, models) for grey in pictures()]))
            write_json(options.keep, {models.digest(): rows})
            print(rows[-1], flush=True)
    real = [row for row in rows if row["kind"] == "film" and row["pictures"] != "virtual films"]
    total = sum(row["n"] for row in real)
    wrong = sum(row["unusable"] * row["n"] for row in real) / total
    rows.append({"pictures": "all real films", "kind": "total", "n": total, "unusable": wrong})
    made = {
        "command": "python tools/evaluate_usable.py --mirror DIR --keep FILE",
        "models": models.digest(),
    }
    recorded.write_result("usable", rows, {**made, **environment.provenance()})
    print(pd.DataFrame(rows).drop(columns="reasons").to_string())


if __name__ == "__main__":
    main()
