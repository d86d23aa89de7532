"""What carries from one source of real films to another; writes a JSON file.

    python benchmarks/real_films.py --mirror DIR --out docs/lab/real_films.json
    python benchmarks/real_films.py --mirror DIR --out docs/lab/real_films.json --framing crop

The diagnosis of `mini`, a corpus ViT on the frozen ImageNet features of EfficientNet-Lite0, is
compared with what a user would try first: a linear model of the same features (mean and maximum
over the film), and one of 16x16 thumbnails, all trained on the same films. Inside a source a film
is predicted by models that never saw its patient (five folds); across, by models that never saw its
source. Kermany's two sets are one source. Every pair of classes is of one source, so no model can
win by knowing the source. The labels of the NIH were mined from reports; what radiologists said of
some of its films (`nih_reader`) stands beside, for the same predictions. Three linear models that
see no disease stand beside too: thumbnails of whole films as they came, the bytes of the file, and
age and sex, where `labels.csv` of the prepared films has them. One seed. `--framing`
shows all models the box around the lungs (crop) or the lungs alone; the file keeps what it holds of
other framings. It needs `pip install "cxrkit[lite]"` and the prepared films; a training that has
ended is not repeated.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from cxrkit.config import profiles
from cxrkit.config.sections import Profile
from cxrkit.config.vocabulary import FRAMINGS
from cxrkit.data import manifests
from cxrkit.data.manifests import fold_of
from cxrkit.evaluation import linear_probe, metrics, resampling
from cxrkit.evaluation.summaries import interval_dict
from cxrkit.models.pretrained import load_imagenet_backbone
from cxrkit.pipeline import stages
from cxrkit.pipeline.run import Run
from cxrkit.reproduction import environment
from cxrkit.shortcuts.within_source import TwoClasses
from cxrkit.storage.artifacts import key
from cxrkit.storage.atomic import read_json, write_json
from cxrkit.tasks.diagnosis import PROBABILITIES, DiagnosisTask, codes, log_ratio
from cxrkit.tasks.frozen_backbone import corpora_of, mean_and_maximum

DRAWS = 2000  # of patients, for an interval
SOURCE = {"kermany_224": "kermany"}  # datasets of the same hospital are one source

NIH = TwoClasses("nih_cxr14", "normal", "other_infection")  # of these films some were read again
PAIRS = (
    NIH,
    TwoClasses("kermany", "normal", "other_infection"),
    TwoClasses("shenzhen", "normal", "other_infection"),
    TwoClasses("cohen", "other_infection", "covid19"),
)
TRIVIAL = ("thumbnails of whole films", "bytes of the file", "age and sex")
MODELS = ("corpus ViT", "linear probe", "thumbnails", *TRIVIAL)


def profile_of(framing: str) -> Profile:
    """`mini` with a framing."""
    mini = profiles.mini()
    return replace(mini, sources=replace(mini.sources, framing=framing))


def read_films(run: Run) -> pd.DataFrame:
    """All films with a diagnosis, as the profile frames them, and their `source`."""
    table = run.diagnosis_images
    return table.assign(source=table["dataset"].replace(SOURCE)).reset_index(drop=True)


def imagenet_weights(profile: Profile) -> tuple[dict[str, torch.Tensor], ...]:
    """What the frozen features of a profile are."""
    return (load_imagenet_backbone(profile.backbone.network, profile.backbone.stride),)


def features_of(task: DiagnosisTask, table: pd.DataFrame) -> np.ndarray:
    """Mean and maximum of the ImageNet features of each film, (n, 2 C)."""
    model = task.initialise(imagenet_weights(task.profile))
    corpora = corpora_of(model, task.dataset(table), table, task.store, task.device)
    return mean_and_maximum(corpora)


def ages_and_sexes(table: pd.DataFrame, mirror: Path) -> np.ndarray:
    """Age, sex, and whether each is known, of each film: (n, 5); unknown ages are their mean."""
    rows = []
    for name in table["dataset"].unique():
        listed = pd.read_csv(mirror / name / "labels.csv")
        paths = [str(mirror / name / file) for file in listed["file"]]
        rows.append(listed.reindex(columns=["age", "sex"]).set_index(pd.Index(paths)))
    known = pd.concat(rows).groupby(level=0).first()
    found = known.reindex(table.get("origin", table["path"]).map(str))
    age = pd.to_numeric(found["age"], errors="coerce")
    columns = [age.fillna(age.mean()), age.isna(), *(found["sex"] == sex for sex in "FM")]
    columns.append(found["sex"].isna())
    return np.stack([column.to_numpy(float) for column in columns], 1)


def trivial_models(table: pd.DataFrame, run: Run) -> dict[str, np.ndarray]:
    """Features (n, d) that show no disease, by the names of TRIVIAL."""
    whole = table.assign(path=table.get("origin", table["path"]))
    features = {
        name: linear_probe.trivial_features(kind, whole, run.profile, run.store)
        for name, kind in zip(TRIVIAL, ("thumbnail", "file size"))
    }
    return features | {TRIVIAL[2]: ages_and_sexes(table, Path(run.store.data))}


def of_vit(task: DiagnosisTask, table: pd.DataFrame, fold: np.ndarray, work: Path) -> np.ndarray:
    """Probabilities of each film by a corpus ViT trained without its fold: (n, K).

    Args:
        task: of the profile.
        table: all films.
        fold: name of each film's fold or source, (n,).
        work: where each finished training leaves its predictions.

    Returns:
        0 where no film of the fold is of a source that is asked about.
    """
    initial = imagenet_weights(task.profile)
    out = np.zeros((len(table), len(PROBABILITIES)))
    asked = table["source"].isin([pair.source for pair in PAIRS])
    for name in np.unique(fold[asked]):
        held_out = fold == name
        train = table[~held_out & ~table["group_id"].isin(table["group_id"][held_out])]
        test = table[held_out].reset_index(drop=True)
        file = work / f"without_{name}.csv"
        if not file.exists():
            model = task.fit(work / f"{name}", train.reset_index(drop=True), None, initial)
            found = task.predict(model, test)[["path", *PROBABILITIES]]
            task.store.write_table(file, found)
        found = task.store.read_table(file).set_index("path")
        out[held_out] = found.loc[test["path"], PROBABILITIES].to_numpy()
    return out


def compare(table: pd.DataFrame, found: dict[str, np.ndarray], pair: TwoClasses) -> dict[str, Any]:
    """AUC of each model on two classes, and the corpus ViT minus each other.

    Args:
        table: all films.
        found: model -> probabilities (n, K).
        pair: a source and two classes.
    """
    classes = (pair.negative, pair.positive)
    on = (table["source"] == pair.source) & table["diagnosis"].isin(classes)
    y = (table.loc[on, "diagnosis"] == pair.positive).to_numpy(float)
    groups = table.loc[on, "group_id"].to_numpy()
    scores = {
        name: log_ratio(p[on.to_numpy()], pair.positive, pair.negative) for name, p in found.items()
    }
    row: dict[str, Any] = {
        "source": pair.source,
        "classes": list(classes),
        "films": [int((y == 0).sum()), int(y.sum())],
    }
    for name, score in scores.items():
        triple = resampling.bootstrap(metrics.auc, y, score, groups=groups, draws=DRAWS)
        row[name] = interval_dict(triple, len(y))
    for name in MODELS[1:]:
        row[f"minus {name}"] = resampling.paired_bootstrap(
            metrics.auc, y, scores[MODELS[0]], scores[name], groups=groups, draws=DRAWS
        )
    return row


def as_readers_said(table: pd.DataFrame, run: Run) -> pd.DataFrame:
    """The table with what radiologists said of the NIH's films, nothing where they are silent."""
    said = manifests.read_manifest("nih_reader", run.store.data, run.profile.choices)
    said = said.drop_duplicates("path").set_index("path")["diagnosis"]
    whole = table.get("origin", table["path"])  # of a framed film, the film as it came
    read = table["diagnosis"].where(table["source"] != NIH.source, whole.map(said))
    return table.assign(diagnosis=read)


def studies(table: pd.DataFrame, folds: int) -> Iterator[tuple[str, np.ndarray]]:
    """The two questions: "inside", folds of patients, and "across", folds of sources."""
    inside = table["group_id"].map(lambda group: f"fold{fold_of(group, folds)}")
    yield "inside", inside.to_numpy(str)
    yield "across", table["source"].to_numpy(str)


def measure(run: Run) -> dict[str, Any]:
    """Both questions for all pairs, ready for JSON."""
    profile, store = run.profile, run.store
    task = run.task(DiagnosisTask)
    table = read_films(run)
    y, groups, said = codes(table), table["group_id"].to_numpy(), as_readers_said(table, run)
    linear = {
        "linear probe": features_of(task, table),
        "thumbnails": linear_probe.trivial_features("equalised thumbnail", table, profile, store),
        **trivial_models(table, run),
    }
    work = store.root / f"real_films-{key(stages.settings(profile, 'diagnosis'))}"
    out: dict[str, Any] = {"films": table["source"].value_counts().to_dict()}
    for question, fold in studies(table, profile.folds):
        found = {"corpus ViT": of_vit(task, table, fold, work)}
        for name, x in linear.items():
            print(question, name, flush=True)
            found[name] = linear_probe.out_of_fold_predictions(x, y, groups, fold)
        rows = [compare(table, found, pair) for pair in PAIRS]
        mean = {name: float(np.mean([row[name]["value"] for row in rows])) for name in MODELS}
        out[question] = {"pairs": rows, "mean": mean}
        out[question]["read by radiologists"] = compare(said, found, NIH)
    return out


def main() -> None:
    """Parse the arguments and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mirror", required=True, help="folder with prepared real films")
    parser.add_argument("--store", help="folder of the artifacts (default: that of the kit)")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--framing", choices=FRAMINGS, default="whole")
    options = parser.parse_args()
    start = time.process_time()
    result = measure(Run(profile_of(options.framing), options.store, options.mirror))
    result |= {
        "CPU seconds": round(time.process_time() - start),
        "provenance": environment.provenance(),
    }
    known = read_json(options.out) if options.out.exists() else {}
    write_json(options.out, {**known, options.framing: result})


if __name__ == "__main__":
    main()
