"""What places and attention are worth to the corpus ViT on a learnt corpus; writes a JSON file.

    python benchmarks/corpus.py --out docs/lab/corpus.json
    python benchmarks/corpus.py --seeds 0 --steps 4000 --out docs/lab/corpus_long.json

The PA model of a profile is compared, at hospitals that no training saw, with models that were
trained without positions, with even attention, and with mean pooling in place of the transformer.
All begin at the same backbone and take the same steps. The finished model is also tested with its
tokens shuffled, its positions zeroed and its attention made even (`models.interventions`).
The receptive field of a token and the cell-wise AUC of the lesions are measured beside. A seed
draws the patients and trains the backbone anew; finished parts are loaded from the store.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cxrkit import Run
from cxrkit.config.sections import Profile
from cxrkit.config.settings_file import get_profile
from cxrkit.config.vocabulary import DIAGNOSES
from cxrkit.evaluation import metrics, resampling
from cxrkit.models.densenet import receptive_field
from cxrkit.models.interventions import INTERVENTIONS
from cxrkit.reproduction import environment
from cxrkit.tasks.diagnosis import PROBABILITIES, covid_against_other, of_view

IMAGES = 600  # training and external images each of the cell-wise AUC
SHARE = 0.1  # of a cell that a lesion must cover to count


def variants(profile: Profile) -> dict[str, Profile]:
    """The model and what it is compared with."""
    transformer = profile.transformer
    return {
        "transformer": profile,
        "trained without positions": replace(
            profile, transformer=replace(transformer, positions=False)
        ),
        "trained with even attention": replace(
            profile, transformer=replace(transformer, even=True)
        ),
        "mean pooling": replace(profile, variant=replace(profile.variant, model="densenet")),
    }


def macro(y: np.ndarray, p: np.ndarray) -> float:
    """Macro AUC of the three classes."""
    return metrics.macro_auc(y, p)


STATISTICS = {"macro AUC": macro, "COVID-19 against other": covid_against_other}


def interval(y: np.ndarray, p: np.ndarray, groups: np.ndarray) -> dict[str, list[float]]:
    """Each statistic with its 95 % interval by anatomy."""
    out = {}
    for name, statistic in STATISTICS.items():
        triple = resampling.bootstrap(statistic, y, p, groups=groups, draws=1000)
        out[name] = [round(v, 4) for v in triple]
    return out


def difference(
    y: np.ndarray, p: np.ndarray, other: np.ndarray, groups: np.ndarray
) -> dict[str, list[float]]:
    """Paired difference of each statistic, p minus other, with its interval."""
    out = {}
    for name, statistic in STATISTICS.items():
        found = resampling.paired_bootstrap(statistic, y, p, other, groups, draws=1000)
        out[name] = [round(found[key], 4) for key in ("difference", "low", "high")]
    return out


def batches_of(n: int) -> Iterator[range]:
    """Ranges of 64 rows."""
    for start in range(0, n, 64):
        yield range(start, min(start + 64, n))


@torch.no_grad()
def cell_auc(run: Run) -> float:
    """How well a linear head on the frozen backbone finds the cells that a lesion covers."""
    images = of_view(run.diagnosis_images, "PA")
    outside = images["external"].astype(bool)
    train = images[~outside & (images["split"] == "train")].head(IMAGES)
    external = images[outside].head(IMAGES)
    result = run.diagnosis("PA")
    backbone = run.backbone.model
    columns = []
    for part in (train, external):
        part = part.reset_index(drop=True)
        data = result.task.dataset(part)
        corpora = [
            backbone.features(data.batch(rows)["image"].to(run.device)).cpu()
            for rows in batches_of(len(part))
        ]
        corpus = torch.cat(corpora)  # (n, C, h, w)
        cells = corpus.permute(0, 2, 3, 1).flatten(0, 2).numpy()  # (n*h*w, C)
        lesions = torch.tensor(run.pixels(part, "lesion", "lesion_mask") > 0).float()
        share = torch.nn.functional.adaptive_avg_pool2d(lesions[:, None], corpus.shape[2:])
        columns += [cells, (share > SHARE).flatten().numpy()]
    head = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    head.fit(columns[0], columns[1])
    return metrics.auc(columns[3], head.decision_function(columns[2]))


def measure(profile: Profile, out: str | None) -> dict:
    """All that one seed says."""
    run = Run(profile, out)
    results = {}
    for name, variant in variants(profile).items():
        start = time.time()
        results[name] = run.with_profile(variant).diagnosis("PA")
        print(f"seed {profile.seed}: {name} ({time.time() - start:.0f} s)", flush=True)
    full = results["transformer"]
    table = full.external
    y = table["diagnosis"].map(DIAGNOSES.index).to_numpy()
    groups = table["group_id"].to_numpy()
    p = {name: result.external[PROBABILITIES].to_numpy() for name, result in results.items()}
    model = full.model
    for name, intervention in INTERVENTIONS.items():
        with intervention(model.transformer):
            changed = full.task.predict(model, table)
        p[name.replace("_", " ")] = changed[PROBABILITIES].to_numpy()
    whole = p["transformer"]
    size = profile.image_size
    field = receptive_field(run.backbone.model.features.cpu(), 4 * size) > 0
    return {
        "seed": profile.seed,
        "images": len(table),
        "receptive field, px": int(field.any(0).sum()),
        "px per cell": profile.backbone.stride,
        "cell-wise AUC of lesions": round(cell_auc(run), 4),
        "positions over tokens, ratio of deviations": positions_ratio(model, full, table),
        "external": {name: interval(y, one, groups) for name, one in p.items()},
        "transformer minus": {
            name: difference(y, whole, one, groups)
            for name, one in p.items()
            if name != "transformer"
        },
    }


@torch.no_grad()
def positions_ratio(model: torch.nn.Module, result: object, table: pd.DataFrame) -> float:
    """Deviation of the learned positions over that of the embedded cells."""
    images = result.task.dataset(table).batch(range(min(64, len(table))))["image"]
    transformer = model.transformer
    corpus = model.corpus(images.to(next(model.parameters()).device))
    cells = transformer.patch_embed(corpus)
    return round(float(transformer.pos_embed[:, 1:].std() / cells.std()), 4)


def main() -> None:
    """Measure the seeds and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=0, help="of each model; 0 = the profile's")
    parser.add_argument("--store", default=None)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rows = []
    for seed in options.seeds:
        profile = replace(get_profile(options.profile), seed=seed)
        if options.steps:
            longer = replace(profile.transformer_training, steps=options.steps)
            profile = replace(profile, transformer_training=longer)
        rows.append(measure(profile, options.store))
        result = {"command": "python benchmarks/corpus.py", **environment.provenance()}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({**result, "seeds": rows}, indent=1) + "\n")
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
