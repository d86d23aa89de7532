"""Within source: the AUC of a diagnosis inside one source, against models that see no disease.

Of real public images, COVID-19 comes from other hospitals than most normals: a pooled score rewards
whoever knows the hospital. Inside one source the hospital says nothing, but the view, the year and
the size of the file still do. Therefore the proposed model must exceed the best of the trivial
models (`evaluation.linear_probe`), refitted on the same images and folds, by a paired difference
(section 5.1 of Park et al. 2021 has no such comparison).

n images, K classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from cxrkit.config.vocabulary import DIAGNOSES
from cxrkit.data.masked_images import with_original_images
from cxrkit.evaluation import linear_probe, metrics
from cxrkit.evaluation.summaries import interval_dict, value_text
from cxrkit.tasks.diagnosis import log_ratio

if TYPE_CHECKING:
    from cxrkit.config.sections import Profile
    from cxrkit.storage.artifacts import Store


class TwoClasses(NamedTuple):
    """A source, and two of its classes that a model must separate."""

    source: str  # a dataset
    negative: str
    positive: str


INTERNAL = TwoClasses("nih_cxr14", "normal", "other_infection")  # evaluated by folds
EXTERNAL = TwoClasses("cohen", "other_infection", "covid19")  # where it trains nothing
# evaluated by folds where they train
TRAINING_SOURCES = (
    EXTERNAL,
    TwoClasses("kermany_224", "normal", "other_infection"),
    TwoClasses("shenzhen", "normal", "other_infection"),
)
# keys of linear_probe.FEATURES
BASELINES = ("thumbnail", "equalised thumbnail", "mean and SD", "file size")
PROBE_FEATURES = ("thumbnail", "border", "lungs removed", "lungs only", "lung shape", "file size")
SHARED_NUMBERS = (1280, 3956)  # patient numbers of the NIH that both classes have
MAX_IMAGES = 200  # of a dataset that are probed, of different patients


def source_class_table(table: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    """How well the source alone predicts the class.

    Args:
        table: images with `dataset` and `diagnosis`.

    Returns:
        Number of images by dataset and class, with `only` = classes that no other dataset has; and
        the macro AUC of guessing each image's class from the shares of its dataset.
    """
    counts = pd.crosstab(table["dataset"], table["diagnosis"])
    counts = counts.reindex(columns=list(DIAGNOSES), fill_value=0)
    shares = counts.div(counts.sum(axis=1), axis=0)
    guesses = shares.loc[table["dataset"]].to_numpy()  # (n, K)
    of_one_source = [name for name in DIAGNOSES if (counts[name] > 0).sum() == 1]
    only = []
    for source in counts.index:
        names = [name for name in of_one_source if counts[name][source] > 0]
        only.append(", ".join(names) if names else "-")
    truth = table["diagnosis"].map(DIAGNOSES.index).to_numpy()
    return counts.assign(only=only), metrics.macro_auc(truth, guesses)


def source_probes(
    table: pd.DataFrame, profile: Profile, store: Store | None = None
) -> dict[str, dict[str, Any]]:
    """How well models that see no disease predict the source of an image, and its diagnosis.

    Linear models on PROBE_FEATURES, in folds by patient, on at most MAX_IMAGES images of a dataset,
    one of each patient.

    Args:
        table: images with a lung mask.
        profile: prepares the images; folds and seed.
        store: where the image cache lies.

    Returns:
        {"source": {feature: {"auc", "balanced_accuracy"}}, "diagnosis": ...}, each with `chance`,
        the balanced accuracy of guessing.
    """
    shuffled = table.drop_duplicates("group_id").sample(frac=1, random_state=profile.seed)
    rows = shuffled.groupby("dataset").head(MAX_IMAGES).reset_index(drop=True)
    fold = linear_probe.assign_folds(rows["group_id"].to_numpy(), profile.folds, profile.seed)
    out = {}
    for name, column in (("source", "dataset"), ("diagnosis", "diagnosis")):
        y = rows[column].astype("category").cat.codes.to_numpy(int)
        scores, _ = linear_probe.run_probes(PROBE_FEATURES, y, rows, fold, profile, store)
        out[name] = {}
        for feature, part in scores.set_index("score").groupby("features"):
            out[name][feature] = part.drop(columns="features").to_dict("index")
        out[name]["chance"] = 1 / rows[column].nunique()
    return out


def compare_with_baselines(
    y: np.ndarray, p: np.ndarray, baselines: dict[str, np.ndarray], groups: np.ndarray
) -> dict[str, Any]:
    """The proposed model beside each baseline on the same images.

    Args:
        y: 0 or 1, (n,).
        p: scores of the proposed model that rise with class 1, (n,).
        baselines: name -> such scores.
        groups: patients, (n,).

    Returns:
        `n` of each class, `auc` of the proposed model and of each of the `baselines` with
        intervals by patient, and `gain` over the best of them (`linear_probe.compare_with_best`).
    """
    groups = np.asarray(groups)

    def area(scores: np.ndarray) -> dict[str, Any]:
        return interval_dict(metrics.auc_ci(y, scores, groups=groups), len(y))

    return {
        "n": [int((y == 0).sum()), int((y == 1).sum())],
        "auc": area(p),
        "baselines": {name: area(scores) for name, scores in baselines.items()},
        "gain": linear_probe.compare_with_best(metrics.auc, y, p, baselines, groups),
    }


def images_of(predictions: pd.DataFrame, classes: TwoClasses) -> pd.DataFrame:
    """The rows of the source that belong to one of the two classes."""
    in_source = predictions["dataset"] == classes.source
    in_classes = predictions["diagnosis"].isin([classes.negative, classes.positive])
    return predictions[in_source & in_classes].reset_index(drop=True)


def has_both_classes(predictions: pd.DataFrame, classes: TwoClasses) -> bool:
    """Whether there are images of both classes in the source."""
    return images_of(predictions, classes)["diagnosis"].nunique() == 2


def two_class_sources(predictions: pd.DataFrame) -> list[TwoClasses]:
    """The sources of a table that have both of their two classes."""
    problems = (INTERNAL, *TRAINING_SOURCES)
    return [classes for classes in problems if has_both_classes(predictions, classes)]


def two_class_problems(predictions: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The sources that have both of their two classes, as one table of images.

    Args:
        predictions: of `DiagnosisTask.cross_validate`.

    Returns:
        Codes (n,), 2 i and 2 i + 1 for the negative and the positive class of source i; scores of
        the proposed model (n,); patients (n,).

    Raises:
        ValueError: no source has both of its classes.
    """
    found = two_class_sources(predictions)
    if not found:
        raise ValueError("no source has two classes to tell apart: give images of another dataset")
    codes, scores, groups = [], [], []
    for i, classes in enumerate(found):
        rows = images_of(predictions, classes)
        codes.append(2 * i + (rows["diagnosis"] == classes.positive).to_numpy(int))
        scores.append(model_scores(rows, classes))
        groups.append(rows["group_id"].to_numpy())
    return np.concatenate(codes), np.concatenate(scores), np.concatenate(groups)


def mean_auc(codes: np.ndarray, scores: np.ndarray) -> float:
    """Mean over sources of the AUC inside each, from `two_class_problems`; NaN without one."""
    sources = codes // 2
    inside = [sources == source for source in np.unique(sources)]
    return float(np.mean([metrics.auc(codes[at] % 2, scores[at]) for at in inside]))


def model_scores(rows: pd.DataFrame, classes: TwoClasses) -> np.ndarray:
    """Scores of the proposed model, from the columns p_<class> of its predictions: (n,)."""
    p = rows[[f"p_{name}" for name in DIAGNOSES]]
    return log_ratio(p, classes.positive, classes.negative)


def _in_shared_band(groups: pd.Series) -> pd.Series:
    """Whether the number of each patient of the NIH is one that both classes have."""
    number = groups.str.extract(r"(\d+)", expand=False).astype(int)
    return number.between(*SHARED_NUMBERS)


def within_internal_source(
    predictions: pd.DataFrame,
    profile: Profile,
    store: Store | None = None,
    classes: TwoClasses = INTERNAL,
) -> dict[str, dict[str, Any]]:
    """Two classes in one source, each image predicted by a model of another fold.

    The baselines are refitted on the same folds: on all images, in each view, and, at the NIH, in
    the band of patient numbers that both classes have.

    Args:
        predictions: of `DiagnosisTask.cross_validate`, with `fold`.
        profile: prepares the images for the baselines.
        store: where the image cache lies.
        classes: the source and the two classes.

    Returns:
        {"all": `compare_with_baselines`, "PA": , "PA, shared band": , "AP": , ...}; views without
        both classes are left out.
    """
    rows = images_of(predictions, classes)
    features = {}
    for name in BASELINES:
        features[name] = linear_probe.trivial_features(name, rows, profile, store)
    p = model_scores(rows, classes)
    y = (rows["diagnosis"] == classes.positive).to_numpy(int)
    groups, fold = rows["group_id"].to_numpy(), rows["fold"].to_numpy()
    parts = {"all": pd.Series(True, rows.index)}
    for view in sorted(rows["view"].dropna().unique(), reverse=True):
        parts[view] = rows["view"] == view
        if classes == INTERNAL:
            parts[f"{view}, shared band"] = parts[view] & _in_shared_band(rows["group_id"])
    out = {}
    for label, chosen in parts.items():
        at = np.flatnonzero(chosen)
        if len(np.unique(y[at])) < 2:
            continue
        baselines = {}
        for name, x in features.items():
            predicted = linear_probe.out_of_fold_predictions(x[at], y[at], groups[at], fold[at])
            baselines[name] = predicted[:, 1]
        out[label] = compare_with_baselines(y[at], p[at], baselines, groups[at])
    return out


def fitted_thumbnails(
    rows: pd.DataFrame,
    trained_on: pd.DataFrame,
    profile: Profile,
    store: Store | None,
    classes: TwoClasses,
) -> dict[str, np.ndarray]:
    """Scores of images by linear models on thumbnails: "<feature>, <training images>" -> (n,).

    They are fitted on all of `trained_on`, and on its real images alone.
    """
    real = trained_on["dataset"] != "virtual"
    training = {"real films": trained_on[real], "all films": trained_on}
    scores = {}
    for name in ("thumbnail", "equalised thumbnail"):
        x = linear_probe.trivial_features(name, rows, profile, store)
        for what, images in training.items():
            images = images.reset_index(drop=True)
            model = linear_probe.fit_probe(
                linear_probe.trivial_features(name, images, profile, store),
                images["diagnosis"].map(DIAGNOSES.index).to_numpy(),
                images["group_id"].to_numpy(),
            )
            p = np.zeros((len(rows), len(DIAGNOSES)))  # 0 for a class that it was not fitted on
            p[:, model.classes_.astype(int)] = model.predict_proba(x)
            scores[f"{name}, {what}"] = log_ratio(p, classes.positive, classes.negative)
    return scores


def within_external_source(
    predictions: pd.DataFrame,
    trained_on: pd.DataFrame,
    profile: Profile,
    store: Store | None = None,
    classes: TwoClasses = EXTERNAL,
) -> dict[str, dict[str, Any]]:
    """Two classes in a source that trained nothing.

    Args:
        predictions: of the proposed model for external images.
        trained_on: the images that trained it. The baselines are trained on the same ones, once
            with and once without those of the virtual hospitals.
        profile: prepares the images for the baselines.
        store: where the image cache lies.
        classes: the source and the two classes.

    Returns:
        {"all": `compare_with_baselines`, "PA": , "AP": }.
    """
    rows = images_of(predictions, classes)
    p = model_scores(rows, classes)
    y = (rows["diagnosis"] == classes.positive).to_numpy(int)
    groups = rows["group_id"].to_numpy()
    scores = fitted_thumbnails(rows, trained_on, profile, store, classes)
    parts = {"all": np.full(len(rows), True)}
    for view in ("PA", "AP"):
        parts[view] = (rows["view"] == view).to_numpy()
    out = {}
    for label, at in parts.items():
        baselines = {name: values[at] for name, values in scores.items()}
        out[label] = compare_with_baselines(y[at], p[at], baselines, groups[at])
    return out


def report(
    folds: pd.DataFrame,
    predictions: pd.DataFrame,
    trained_on: pd.DataFrame,
    profile: Profile,
    store: Store | None = None,
) -> dict[str, Any]:
    """All comparisons inside a source, as metrics.json of the diagnosis holds them.

    Args:
        folds: cross-validated images, with probabilities and `fold`.
        predictions: images of the held-out splits, with probabilities; the external ones count.
        trained_on: the images that trained the model.
        profile: prepares the images for the baselines.
        store: where the image cache lies.

    Returns:
        `internal` (`within_internal_source`), `external` (`within_external_source`), `by_source`,
        for each of TRAINING_SOURCES what `internal` is for the NIH, and `source_alone`, the macro
        AUC of guessing by the source, over all images of the profile.
        Where the model sees nothing but lungs, these trivial models see whole images, those of
        `internal_lungs` see what the model sees, and `probes` holds `source_probes` (all images
        have a lung mask). Without images of both classes of INTERNAL, or of EXTERNAL, those entries
        are left out: other profiles have other sources.
    """
    external = predictions[predictions["external"].astype(bool)]
    every_image = pd.concat([folds, external], ignore_index=True)
    inside = has_both_classes(folds, INTERNAL)
    found: dict[str, Any] = {}
    if inside:
        found["internal"] = within_internal_source(with_original_images(folds), profile, store)
    found["source_alone"] = source_class_table(every_image)[1]
    sources = [classes for classes in TRAINING_SOURCES if has_both_classes(folds, classes)]
    if sources:
        whole = with_original_images(folds)
        found["by_source"] = {
            classes.source: within_internal_source(whole, profile, store, classes)
            for classes in sources
        }
    if has_both_classes(external, EXTERNAL):
        found["external"] = within_external_source(
            with_original_images(external), with_original_images(trained_on), profile, store
        )
    if "origin" in folds:
        if inside:
            found["internal_lungs"] = within_internal_source(folds, profile, store)
        found["probes"] = source_probes(with_original_images(every_image), profile, store)
    return found


def comparison_table(found: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Comparisons for print.

    Args:
        found: `internal` or `external` of a `report`.

    Returns:
        A row for each comparison: images of the two classes, AUC of the model and of the best
        trivial model, and the gain, with intervals.
    """
    rows = {}
    for label, one in found.items():
        gain = one["gain"]
        best = gain["baseline"]
        baseline = one["baselines"][best]
        rows[label] = {
            "images": " + ".join(str(n) for n in one["n"]),
            "model, AUC": value_text(one["auc"]),
            "best trivial model": best,
            "its AUC": value_text(baseline),
            "gain": value_text(gain),
        }
    return pd.DataFrame(rows).T
