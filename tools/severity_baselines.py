"""What models that see no disease say of the severity of the demo's external films.

    python tools/severity_baselines.py       # three minutes on one core, most of them to draw films

A ridge regression reads thumbnails of 16x16 px, raw and equalised. It is fitted on the training
films of the severity ward, its penalty chosen by folds of patients, and says a score of every
external film. Lesson 06 shows its error beside that of the model, on the same films. Written to
cxrkit/storage/recorded_results/severity_baselines.json, a row a film.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from cxrkit.config import profiles
from cxrkit.data.datasets import split_parts
from cxrkit.evaluation import linear_probe
from cxrkit.pipeline import stages
from cxrkit.pipeline.run import Run
from cxrkit.reproduction import environment
from cxrkit.storage import recorded
from cxrkit.tasks import severity

BASELINES = ("thumbnail", "equalised thumbnail")


def main() -> None:
    """Fit, predict, record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", default=None, help="folder of artifacts")
    options = parser.parse_args()
    start = time.process_time()
    run = Run(profiles.demo(), options.store)
    parts = split_parts(run.images("severity"))
    train, external = parts["train"], parts["external"]
    truth = severity.true_scores(train, run.profile.choices)
    scores = {}
    for name in BASELINES:
        features = [
            linear_probe.trivial_features(name, table, run.profile, run.store)
            for table in (train, external)
        ]
        model = linear_probe.fit_probe(features[0], truth, train["group_id"].to_numpy(), "ridge")
        scores[name] = np.clip(model.predict(features[1]), 0, 6).round(3)
    rows = []
    for i, url in enumerate(external["url"]):
        rows.append({"url": url} | {name: float(score[i]) for name, score in scores.items()})
    made = {
        "command": "python tools/severity_baselines.py",
        **environment.provenance(),
        "hospitals": stages.stage_of("cohort").version,
        "train": len(train),
    }
    recorded.write_result("severity_baselines", rows, made)
    known = severity.true_scores(external, run.profile.choices)
    for name, score in scores.items():
        print(f"{name}: MSE {((score - known) ** 2).mean():.2f} on {len(external)} external films")
    print(f"{time.process_time() - start:.0f} CPU s")


if __name__ == "__main__":
    main()
