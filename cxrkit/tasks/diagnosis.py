"""Diagnosis: the corpus ViT's task. Normal, other infection or COVID-19 from one image.

PA and AP images have models of their own, and each external hospital is reported by itself (Park et
al. 2021, sections 3.2, 4 and 5.1). B batch, K classes, S image size.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy import optimize
from torch import nn

from cxrkit.config.choices import Choices
from cxrkit.config.sections import Training
from cxrkit.config.vocabulary import DIAGNOSES, known
from cxrkit.data.datasets import CXRDataset, image_dataset, split_parts
from cxrkit.evaluation import metrics, resampling
from cxrkit.evaluation.summaries import by_split, interval_dict, json_number
from cxrkit.models.factory import build_classifier
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import read_json, write_json
from cxrkit.tasks.task import Inputs, State, Tables, Task
from cxrkit.training import loop
from cxrkit.training.devices import device_of

PROBABILITIES = [f"p_{name}" for name in DIAGNOSES]  # columns of predictions
SENSITIVITY = 0.8  # that the operating point must reach (section 5)
RATES = ("sensitivity", "specificity", "accuracy")
DRAWS = 400  # of patients, for an interval
EXCLUDED = -1e4  # logit of a class that takes no part
SMALLEST_PROBABILITY = 1e-6  # in a ratio of two
NEAREST = 1e-12  # to 0 and 1, of a probability that is turned into a logit
TEMPERATURES = (0.05, 20.0)  # that are tried


def softmax_loss(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Choice 10, the text's: softmax cross-entropy. logits (B, K), truth (B,) -> scalar."""
    return F.cross_entropy(logits, truth)


def softmax_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Probabilities of one linear layer: (B, K) -> (B, K), summing to 1."""
    return logits.softmax(-1)


def binary_loss(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Choice 10, the author's: a binary cross-entropy for each class. (B, K), (B,) -> scalar."""
    one_hot = F.one_hot(truth, logits.shape[-1]).to(logits)  # (B, K)
    return F.binary_cross_entropy_with_logits(logits, one_hot)


# choice 10 -> loss of logits and classes, probabilities of logits
HEADS = {
    "softmax": (softmax_loss, softmax_probabilities),
    "binary": (binary_loss, torch.sigmoid),
}
# choice 10 -> logits that have these probabilities (of a softmax they are known up to a constant)
LOGITS = {"softmax": torch.log, "binary": torch.logit}


def of_view(table: pd.DataFrame, view: str) -> pd.DataFrame:
    """The images of one view, "PA" or "AP"."""
    return table[table["view"] == view].reset_index(drop=True)


def codes(table: pd.DataFrame) -> np.ndarray:
    """Number of each image's class, (n,).

    Raises:
        ValueError: a diagnosis is missing or not one of DIAGNOSES.
    """
    unknown = sorted({str(name) for name in table["diagnosis"] if name not in DIAGNOSES})
    if unknown:
        raise ValueError(
            f"unknown diagnosis {', '.join(unknown)}; known: {list(DIAGNOSES)}; leave out images "
            "without one"
        )
    return table["diagnosis"].map(DIAGNOSES.index).to_numpy(int)


def class_weights(table: pd.DataFrame) -> np.ndarray:
    """Chance of each image to be drawn so that the classes come equally often: (n,), mean 1."""
    counts = table["diagnosis"].map(table["diagnosis"].value_counts())
    return (len(table) / counts / table["diagnosis"].nunique()).to_numpy()


def draw_weights(
    table: pd.DataFrame, shares: Sequence[tuple[str, float]] = (), balance: str = "equal"
) -> np.ndarray:
    """Chance of each image to be drawn, (n,), mean 1.

    Args:
        table: training images.
        shares: share of the draws of each dataset (`sources.shares`); () = all images together.
        balance: `choices.class_balance`: there the classes come equally often, or the images.

    Raises:
        ValueError: a dataset of the table has no share.
    """
    equal = balance == "equal"
    if not shares:
        return class_weights(table) if equal else np.ones(len(table))
    share_of = dict(shares)
    missing = sorted(set(table["dataset"]) - set(share_of))
    if missing:
        raise ValueError(
            f"no share of the draws for {', '.join(missing)}: name them in profile.sources.shares, "
            "with 0 to leave them out"
        )
    weights = table["dataset"].map(share_of)
    if equal:
        classes = table.groupby("dataset")["diagnosis"].transform("nunique")
        images = table.groupby(["dataset", "diagnosis"])["path"].transform("size")
        weights = weights / classes / images
    else:
        weights = weights / table.groupby("dataset")["path"].transform("size")
    return (weights / weights.mean()).to_numpy()


def all_classes(table: pd.DataFrame) -> np.ndarray:
    """Every image's loss weighs all classes against each other: bool (n, K)."""
    return np.ones((len(table), len(DIAGNOSES)), bool)


def own_classes(table: pd.DataFrame) -> np.ndarray:
    """An image's loss weighs only the classes that its own dataset has: bool (n, K)."""
    columns = []
    for name in DIAGNOSES:
        having = set(table.loc[table["diagnosis"] == name, "dataset"])
        columns.append(table["dataset"].isin(having))
    return np.stack(columns, axis=1)


CLASS_MASKS = {"all": all_classes, "own": own_classes}  # sources.class_mask


class WithClassMask:
    """A dataset whose batches also hold `class_mask` (B, K), the rows of a mask of all images."""

    def __init__(self, dataset: Any, class_mask: torch.Tensor) -> None:
        self.dataset, self.class_mask = dataset, class_mask

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """The batch of the dataset, with `class_mask`."""
        batch = self.dataset.batch(indices)
        return {**batch, "class_mask": self.class_mask[batch["index"]]}


class DiagnosisTask(Task):
    """The corpus ViT, or the model of the profile's variant, learns the three classes."""

    name = "diagnosis"

    def network(self) -> nn.Module:
        """The model with random weights. `transformer.fused = False` opens attention to hooks."""
        return build_classifier(self.profile)

    def dataset(self, table: pd.DataFrame, train: bool = False) -> CXRDataset:
        """Images as the model sees them, `variant.zoom` times as large as its backbone's."""
        size = self.profile.variant.zoom * self.profile.image_size
        larger = replace(self.profile, image_size=size)
        return image_dataset(table, larger, self.store, train)

    def training(self, images: int) -> Training:
        """The profile's training of the transformer."""
        return self.profile.transformer_training

    def initialise(self, initial_weights: Sequence[State] = ()) -> nn.Module:
        """The model before its training; with `transformer.frozen` its backbone stays as it is."""
        model = super().initialise(initial_weights)
        model.features.requires_grad_(not self.profile.transformer.frozen)
        return model

    def sample_weights(self, table: pd.DataFrame) -> np.ndarray:
        """Chance of each training image to be drawn (`draw_weights`)."""
        profile = self.profile
        return draw_weights(table, profile.sources.shares, profile.choices.class_balance)

    def reads_corpora(self, model: nn.Module) -> bool:
        """Whether the backbone is frozen."""
        return self.profile.transformer.frozen

    def corpus_flip(self) -> float:
        """`transformer.flip`."""
        return self.profile.transformer.flip

    def training_data(
        self, model: nn.Module, folder: Path, table: pd.DataFrame, train: bool
    ) -> Any:
        """`data` with the classes that each image's loss weighs."""
        masks = CLASS_MASKS[known(self.profile.sources.class_mask, CLASS_MASKS, "class mask")]
        return WithClassMask(self.data(model, table, train), torch.tensor(masks(table)))

    def forward(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Outputs of the model for images, or for their corpus where the batch holds it."""
        if "features" in batch:
            return model(features=model.corpus_of(batch["features"]))
        return model(batch["image"])

    def loss(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Loss of choice 10 over the classes that `class_mask` leaves to each image."""
        loss_of, _ = HEADS[self.profile.choices.class_head]
        logits = self.forward(model, batch)["logits"]  # (B, K)
        return loss_of(logits.masked_fill(~batch["class_mask"], EXCLUDED), batch["diagnosis"])

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Choice 10: logits (B, K) -> probabilities (B, K)."""
        return HEADS[self.profile.choices.class_head][1](logits)

    def score(self, model: nn.Module, table: pd.DataFrame, data: Any) -> float:
        """Macro AUC."""
        logits = loop.evaluate(model, data, device=device_of(model), forward=self.forward)["logits"]
        return metrics.macro_auc(codes(table), self.probabilities(logits).numpy())

    def predict(self, model: nn.Module, table: pd.DataFrame) -> pd.DataFrame:
        """The table with a probability for each class (`PROBABILITIES`)."""
        data = self.data(model, table)
        logits = loop.evaluate(model, data, device=self.device, forward=self.forward)["logits"]
        columns = self.probabilities(logits).numpy().T  # (K, n)
        return table.assign(**dict(zip(PROBABILITIES, columns, strict=True)))

    def evaluate(self, predictions: Tables, train: pd.DataFrame) -> dict[str, Any]:
        """`report` of the predictions."""
        return report(predictions, self.profile.choices)

    def split(self, inputs: Inputs) -> Tables:
        """The parts of the table, the auxiliary images among those that train.

        Raises:
            ValueError: a class has no training image, or is unknown.
        """
        parts = super().split(inputs)
        codes(parts["train"])
        missing = set(DIAGNOSES) - set(parts["train"]["diagnosis"])
        if missing:
            raise ValueError(
                f"no training image is {', '.join(sorted(missing))}: check the manifests, views "
                "and splits of the profile"
            )
        return parts


def take_view(folder: Path, store: Store, view: str, joint: Path, choices: Choices) -> None:
    """One view's part of a model trained on both views, evaluated on its own images.

    Args:
        folder: of the artifact of the view.
        store: that both lie in.
        view: "PA" or "AP".
        joint: folder of the joint model (`sources.joint_views`).
        choices: readings of the paper.
    """
    for name in ("weights.safetensors", "history.json"):
        shutil.copy(joint / name, folder / name)
    table = of_view(store.read_table(joint / "predictions.csv"), view)
    store.write_table(folder / "predictions.csv", table)
    predictions = {name: part for name, part in split_parts(table).items() if len(part)}
    images = {name: len(part) for name, part in predictions.items()}
    temperature = read_json(joint / "metrics.json").get("temperature")
    found = report(predictions, choices, temperature)
    write_json(folder / "metrics.json", {"images": images, **found})


def report(
    predictions: Tables, choices: Choices, temperature: float | None = None
) -> dict[str, Any]:
    """Metrics of tables of predictions, by part and external site.

    The operating points are chosen on validation, or, where choice 18 says so, on the images that
    they are evaluated on.

    Args:
        predictions: tables of `DiagnosisTask.predict` by part.
        choices: readings of the paper.
        temperature: that more validation images gave; None: it is fitted on "val".

    Returns:
        Metrics of the model as it was trained (`scores`). Where there is validation, also the
        `temperature` that `predict` divides its logits by, and `ece_calibrated`, the error that
        remains then.
    """
    if "val" not in predictions:
        return by_split(predictions, lambda table: scores(table, None, choices))
    carried = thresholds(predictions["val"])
    temperature = temperature or fit_temperature(predictions["val"], choices.class_head)

    def calibrated_too(table: pd.DataFrame) -> dict[str, Any]:
        after = calibrated(table, temperature, choices.class_head)
        return {**scores(table, carried, choices), "ece_calibrated": calibration_error(after)}

    return {**by_split(predictions, calibrated_too), "temperature": temperature}


def fit_temperature(table: pd.DataFrame, class_head: str) -> float:
    """The temperature of the smallest loss (Guo et al. 2017, On calibration of modern networks).

    Args:
        table: of `DiagnosisTask.predict`, images that trained nothing.
        class_head: choice 10, whose loss it is.

    Returns:
        Within TEMPERATURES; above 1 where the model is surer than it is right.
    """
    loss_of, _ = HEADS[class_head]
    logits, truth = _logits(table, class_head), torch.tensor(codes(table))

    def loss(log_temperature: float) -> float:
        return float(loss_of(logits / np.exp(log_temperature), truth))

    found = optimize.minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded")
    return float(np.exp(found.x))


def temperature_of(measured: Mapping[str, Any]) -> float:
    """What the logits of a model are divided by where a person reads them.

    Args:
        measured: metrics of the model, as `report` gives them; 1 where they hold no temperature.
    """
    return measured.get("temperature", 1.0)


def calibrated(table: pd.DataFrame, temperature: float, class_head: str) -> pd.DataFrame:
    """The table with the probabilities of logits divided by a temperature."""
    _, to_probabilities = HEADS[class_head]
    columns = to_probabilities(_logits(table, class_head) / temperature).numpy().T  # (K, n)
    return table.assign(**dict(zip(PROBABILITIES, columns, strict=True)))


def _logits(table: pd.DataFrame, class_head: str) -> torch.Tensor:
    """Logits that have the probabilities of a table: (n, K)."""
    p = table[PROBABILITIES].to_numpy(float).clip(NEAREST, 1 - NEAREST)
    return LOGITS[class_head](torch.from_numpy(p))


def calibration_error(table: pd.DataFrame) -> float | None:
    """Expected calibration error of the most probable class; None without images."""
    p = table[PROBABILITIES].to_numpy()
    right = (p.argmax(1) == codes(table)).astype(float)
    return json_number(metrics.ece(right, p.max(1)))


def thresholds(table: pd.DataFrame) -> dict[str, float]:
    """The highest threshold of each class, against the rest, that reaches SENSITIVITY here."""
    out = {}
    for name in DIAGNOSES:
        point = metrics.operating_point(table["diagnosis"] == name, table[f"p_{name}"], SENSITIVITY)
        out[name] = point["threshold"]
    return out


def scores(
    table: pd.DataFrame, carried: dict[str, float] | None, choices: Choices
) -> dict[str, Any]:
    """How well one table is diagnosed.

    Args:
        table: of `DiagnosisTask.predict`.
        carried: thresholds chosen elsewhere; None: there is no validation.
        choices: choice 18 says which thresholds count.

    Returns:
        Per class AUC and operating point (`one_class`), their means over the classes, calibration
        (ECE of the answer). Thresholds chosen on these very images stand beside as `optimistic`. A
        mean over the classes is null where one of them has no image.
    """
    own, truth, p = thresholds(table), codes(table), table[PROBABILITIES].to_numpy()
    at = own if carried is None or choices.threshold_from == "test" else carried
    area = resampling.bootstrap(metrics.macro_auc, truth, p, groups=table["group_id"], draws=DRAWS)
    return {
        "n": {name: int((table["diagnosis"] == name).sum()) for name in DIAGNOSES},
        "auc": interval_dict(area, len(table)),
        **mean_rates(table, at),
        "optimistic": mean_rates(table, own),
        "classes": {name: one_class(table, name, at[name]) for name in DIAGNOSES},
        "ece": calibration_error(table),
    }


def mean_rates(table: pd.DataFrame, at: dict[str, float]) -> dict[str, Any]:
    """Means over the classes, each against the rest, with intervals by patient.

    Args:
        table: of `DiagnosisTask.predict`.
        at: {class: threshold}, held fixed: the intervals say nothing of how sure the choice of the
            thresholds is.

    Returns:
        {"sensitivity": interval, "specificity": interval, "accuracy": interval}.
    """
    cuts = np.array([at[name] for name in DIAGNOSES])  # (K,)
    positive = codes(table)[:, None] == np.arange(len(DIAGNOSES))  # (n, K)
    right = (table[PROBABILITIES].to_numpy() >= cuts) == positive  # (n, K)
    counted = np.stack([positive, ~positive, np.ones_like(positive)])  # (RATES, n, K)
    counted &= ~np.isnan(cuts)

    def mean(right: np.ndarray, counted: np.ndarray) -> float:
        # 0/0 is NaN: a class without images, or without a threshold
        with np.errstate(invalid="ignore"):
            return np.mean((right & counted).sum(0) / counted.sum(0))

    out = {}
    for rate, images in zip(RATES, counted, strict=True):
        triple = resampling.bootstrap(mean, right, images, groups=table["group_id"], draws=DRAWS)
        out[rate] = interval_dict(triple, len(table))
    return out


def one_class(table: pd.DataFrame, name: str, threshold: float) -> dict[str, Any]:
    """One class against the rest.

    Returns:
        `auc` (DeLong by patient; its n counts images of the class), `threshold` and RATES there.
    """
    y, p = (table["diagnosis"] == name).to_numpy(float), table[f"p_{name}"].to_numpy()
    area = metrics.auc_ci(y, p, groups=table["group_id"].to_numpy())
    rates = metrics.at_threshold(y, p, threshold)
    return {
        "auc": interval_dict(area, int(y.sum())),
        **{rate: json_number(value) for rate, value in rates.items()},
    }


def log_ratio(p: np.ndarray | pd.DataFrame, positive: str, negative: str) -> np.ndarray:
    """Log of the ratio of two classes' probabilities: a score that rises with the first.

    Args:
        p: probabilities, (n, K).
        positive: one of DIAGNOSES.
        negative: another.

    Returns:
        (n,).
    """
    clipped = np.clip(np.asarray(p), SMALLEST_PROBABILITY, None)
    of_positive = np.log(clipped[:, DIAGNOSES.index(positive)])
    of_negative = np.log(clipped[:, DIAGNOSES.index(negative)])
    return of_positive - of_negative


def covid_against_other(truth: np.ndarray, p: np.ndarray) -> float:
    """AUC of COVID-19 against other infections, by the ratio of their probabilities.

    Args:
        truth: number of each image's class, (n,); normal images are left out.
        p: probabilities, (n, K).

    Returns:
        The AUC; NaN without images of both classes.
    """
    covid, other = DIAGNOSES.index("covid19"), DIAGNOSES.index("other_infection")
    ill = (truth == covid) | (truth == other)
    return metrics.auc(truth[ill] == covid, log_ratio(p[ill], "covid19", "other_infection"))


def transfer(table: pd.DataFrame, name: str = "covid19") -> pd.DataFrame:
    """Thresholds carried between hospitals.

    Returns:
        Sensitivities; rows = where the class's threshold was chosen, columns = where it was used.
        NaN where a hospital has no image of the class. The diagonal reaches SENSITIVITY by
        construction.
    """
    sites = dict(iter(table.groupby("site")))
    chosen = {}
    for site, part in sites.items():
        y, p = part["diagnosis"] == name, part[f"p_{name}"]
        chosen[site] = metrics.operating_point(y, p, SENSITIVITY)["threshold"]
    out = {}
    for used, part in sites.items():
        y, p = part["diagnosis"] == name, part[f"p_{name}"]
        out[used] = {
            site: metrics.at_threshold(y, p, threshold)["sensitivity"]
            for site, threshold in chosen.items()
        }
    return pd.DataFrame(out)
