"""A new pathogen learnt from few films: 8 to 128, the corpus frozen (the paper's Figure 8).

    python tools/few_films.py                # five minutes on one core, most of them to draw films

COVID-19 plays the new pathogen: the backbone has learnt ten findings and never heard of it. Linear
heads learn to tell it from other infections on PA films of the training hospitals, half of them
of each class, no anatomy twice in a class. They read the corpus, in four quarters of the film so
that places count; the ten findings; or a thumbnail of 16x16 px. Each number of films is drawn three
times. All heads answer the same external films; intervals count anatomies. Written to
cxrkit/storage/recorded_results/few_films.json.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from cxrkit.config import profiles
from cxrkit.data.datasets import image_dataset, split_parts
from cxrkit.evaluation import linear_probe, metrics, resampling
from cxrkit.pipeline import stages
from cxrkit.pipeline.run import Run
from cxrkit.reproduction import environment
from cxrkit.storage import recorded
from cxrkit.tasks import diagnosis
from cxrkit.training import loop

COUNTS = (8, 16, 32, 64, 128)  # films, half of each class
DRAWS = 3
TEST = 120  # external films of each class
CLASSES = ("other_infection", "covid19")
FEATURES = ("corpus", "findings", "thumbnail")


def draw_films(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The largest number of films, in an order of which each half count is a beginning."""
    parts = []
    for name in CLASSES:
        mixed = table[table["diagnosis"] == name].sample(frac=1, random_state=seed)
        parts.append(mixed.drop_duplicates("group_id").head(max(COUNTS) // 2))
    return pd.concat(parts, ignore_index=True)


def test_films(table: pd.DataFrame) -> pd.DataFrame:
    """External films, as many of each class."""
    parts = [table[table["diagnosis"] == name].sample(TEST, random_state=0) for name in CLASSES]
    return pd.concat(parts, ignore_index=True)


def features_of(run: Run, table: pd.DataFrame) -> dict[str, np.ndarray]:
    """What the heads read of each film: corpus (n, 4 C), findings (n, 10), thumbnail (n, 256)."""

    def pool(network: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        output = network(batch["image"])
        quarters = nn.functional.adaptive_avg_pool2d(output["features"], 2)  # (B, C, 2, 2)
        return {"corpus": quarters.flatten(1), "findings": output["logits"]}

    images = image_dataset(table, run.profile, run.store)
    read = ("corpus", "findings")
    found = loop.evaluate(run.backbone.model, images, read, device=run.device, forward=pool)
    thumbnail = linear_probe.trivial_features("thumbnail", table, run.profile, run.store)
    return {name: found[name].numpy() for name in read} | {"thumbnail": thumbnail}


def mean_auc(y: np.ndarray, *scores: np.ndarray) -> float:
    """Mean AUC of several heads."""
    return float(np.mean([metrics.auc(y, p) for p in scores]))


def rows_of(
    answers: dict[str, list[np.ndarray]], truth: np.ndarray, groups: np.ndarray, count: int
) -> list[dict[str, Any]]:
    """Rows of one number of films: each kind of feature, and the corpus minus the others."""
    rows = []
    for name, scores in answers.items():
        triple = resampling.bootstrap(mean_auc, truth, *scores, groups=groups)
        each = [metrics.auc(truth, p) for p in scores]
        spread = {"lowest": min(each), "highest": max(each)}
        rows.append(row_of(count, name, triple) | spread)

    def ahead(y: np.ndarray, *scores: np.ndarray) -> float:
        return mean_auc(y, *scores[:DRAWS]) - mean_auc(y, *scores[DRAWS:])

    for name in FEATURES[1:]:
        both = [*answers["corpus"], *answers[name]]
        triple = resampling.bootstrap(ahead, truth, *both, groups=groups)
        rows.append(row_of(count, f"corpus - {name}", triple))
    return rows


def row_of(count: int, name: str, triple: tuple[float, float, float]) -> dict[str, Any]:
    """A flat row."""
    return {"films": count, "features": name} | dict(zip(("value", "low", "high"), triple))


def main() -> None:
    """Draw, fit, evaluate, record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", default=None, help="folder of artifacts")
    options = parser.parse_args()
    start = time.process_time()
    run = Run(profiles.demo(), options.store)
    images = diagnosis.of_view(run.images("diagnosis"), "PA")
    parts = split_parts(images[images["diagnosis"].isin(CLASSES)])
    tested = test_films(parts["external"])
    truth = (tested["diagnosis"] == CLASSES[1]).to_numpy()
    groups = tested["group_id"].to_numpy()
    drawn = [draw_films(parts["train"], seed) for seed in range(DRAWS)]
    seen = features_of(run, tested)
    learnt = [features_of(run, films) for films in drawn]
    rows = []
    for count in COUNTS:
        answers: dict[str, list[np.ndarray]] = {name: [] for name in FEATURES}
        for films, x in zip(drawn, learnt, strict=True):
            number = films.groupby("diagnosis").cumcount()
            few = (number < count // 2).to_numpy()
            y = (films["diagnosis"] == CLASSES[1]).to_numpy()[few]
            for name in FEATURES:
                head = linear_probe.fit_probe(x[name][few], y, films["group_id"].to_numpy()[few])
                answers[name].append(head.predict_proba(seen[name])[:, 1])
        rows += rows_of(answers, truth, groups, count)
    whole = run.diagnosis("PA").external.set_index("url").loc[tested["url"]]
    ill = whole["p_covid19"] / (whole["p_covid19"] + whole["p_other_infection"])
    triple = resampling.bootstrap(metrics.auc, truth, ill.to_numpy(), groups=groups)
    total = int(parts["train"]["diagnosis"].isin(CLASSES).sum())
    rows.append(row_of(total, "corpus ViT", triple))
    made = {
        "command": "python tools/few_films.py",
        **environment.provenance(),
        "hospitals": stages.stage_of("cohort").version,
        "draws": DRAWS,
        "test": len(tested),
    }
    recorded.write_result("few_films", rows, made)
    print(pd.DataFrame(rows).round(3).to_string(index=False))
    print(f"{time.process_time() - start:.0f} CPU s")


if __name__ == "__main__":
    main()
