"""Task: what the trainings of the kit share, from the network to the finished artifact.

A task knows its network, its images and its loss; `make` trains it on the internal sites of a table
and evaluates it on the images that no training saw.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from cxrkit.config.sections import Profile, Training
from cxrkit.data.datasets import split_parts
from cxrkit.evaluation.summaries import cross_predict
from cxrkit.models.classifier import load_matching
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import write_json
from cxrkit.tasks.frozen_backbone import corpus_dataset
from cxrkit.training import checkpoint, loop

WEIGHTS = "weights.safetensors"
EVALUATED = ("val", "test", "external")  # parts of a table that a model is evaluated on

State = dict[str, torch.Tensor]
Tables = dict[str, pd.DataFrame]


@dataclass(frozen=True)
class Inputs:
    """What a task is made from.

    Attributes:
        table: images of `vocabulary.COLUMNS` with `split` and `external`.
        initial_weights: state dicts that the model begins with; later ones win.
        auxiliary: training images of another profile that train beside those of the table.
        calibration: validation images that calibrate the model beside those of the table.
    """

    table: pd.DataFrame
    initial_weights: tuple[State, ...] = ()
    auxiliary: pd.DataFrame | None = None
    calibration: pd.DataFrame | None = None


class Task(ABC):
    """One training of the kit and its evaluation.

    Args:
        profile: sizes, budgets and choices.
        store: where artifacts and the image cache lie; default `Store()`.
        device: where the model trains and runs; default `training.pick_device()`.
    """

    name: str

    def __init__(
        self,
        profile: Profile,
        store: Store | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.profile = profile
        self.store = store or Store()
        self.device = device

    @abstractmethod
    def network(self) -> nn.Module:
        """The model with random weights."""

    @abstractmethod
    def dataset(self, table: pd.DataFrame, train: bool = False) -> Any:
        """Images of a table as the model sees them; `train`: with augmentation."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> Any:
        """The loss of a batch: a scalar, or a dict with `loss` and other scalars."""

    @abstractmethod
    def training(self, images: int) -> Training:
        """Budget and optimiser for a number of training images."""

    def load(self, folder: Path) -> nn.Module:
        """The trained model of a finished artifact, in evaluation mode."""
        return checkpoint.load_weights(self.network(), folder / WEIGHTS)

    def initialise(self, initial_weights: Sequence[State] = ()) -> nn.Module:
        """The model before its training: random weights by the seed, then those of state dicts."""
        torch.manual_seed(self.profile.seed)
        model = self.network()
        load_matching(model, *initial_weights)
        return model

    def sample_weights(self, table: pd.DataFrame) -> np.ndarray | None:
        """Chance of each training image to be drawn, (n,); None = every image equally often."""
        return None

    def training_data(
        self, model: nn.Module, folder: Path, table: pd.DataFrame, train: bool
    ) -> Any:
        """What `fit` draws batches from."""
        return self.data(model, table, train)

    def data(self, model: nn.Module, table: pd.DataFrame, train: bool = False) -> Any:
        """Images of a table, or, where `reads_corpora` says so, what the backbone makes of them."""
        if not self.reads_corpora(model):
            return self.dataset(table, train=train)
        flip = self.corpus_flip() if train else 0.0
        return corpus_dataset(model, self.dataset(table), table, self.store, self.device, flip)

    def reads_corpora(self, model: nn.Module) -> bool:
        """Whether the backbone is frozen and its corpus says all: no step then runs it again."""
        return False

    def corpus_flip(self) -> float:
        """Chance that a corpus is mirrored in training."""
        return 0.0

    def score(self, model: nn.Module, table: pd.DataFrame, data: Any) -> float:
        """Score on validation images, higher is better: it picks the step whose weights count."""
        raise NotImplementedError(f"{self.name} has no validation score")

    def fit(
        self,
        folder: Path,
        train: pd.DataFrame,
        val: pd.DataFrame | None = None,
        initial_weights: Sequence[State] = (),
    ) -> nn.Module:
        """Train on one table, go on where a killed training stopped.

        Args:
            folder: where checkpoints, history and weights go.
            train: training images.
            val: validation images; they pick the step where the training says `eval_every`.
            initial_weights: state dicts that the model begins with.

        Returns:
            The model in evaluation mode.
        """
        model = self.initialise(initial_weights)
        training = self.training(len(train))
        loop.fit(
            model,
            self.loss,
            self.training_data(model, folder, train, train=True),
            training,
            folder=folder,
            seed=self.profile.seed,
            device=self.device,
            validate=self._validation(model, folder, val, training),
            sample_weights=self.sample_weights(train),
        )
        return model

    def _validation(
        self, model: nn.Module, folder: Path, val: pd.DataFrame | None, training: Training
    ) -> Callable[[nn.Module], dict[str, float]] | None:
        if not training.eval_every or val is None or not len(val):
            return None
        data = self.training_data(model, folder, val, train=False)

        def validate(current: nn.Module) -> dict[str, float]:
            return {"score": self.score(current, val, data)}

        return validate

    @abstractmethod
    def predict(self, model: nn.Module, table: pd.DataFrame) -> pd.DataFrame:
        """The table with columns for what the model predicts."""

    @abstractmethod
    def evaluate(self, predictions: Tables, train: pd.DataFrame) -> dict[str, Any]:
        """Metrics of tables of `predict`, by part and site, ready for JSON.

        Args:
            predictions: {"val": table, "test": table, "external": table}, those that exist.
            train: the training images, for a constant guess and the like.
        """

    def cross_validate(
        self, folder: Path, table: pd.DataFrame, fold: np.ndarray, inputs: Inputs
    ) -> pd.DataFrame:
        """The table with predictions, each from a model that never saw the patient, and `fold`.

        Args:
            folder: each fold trains in a folder of its own in it, and goes on there after a kill.
            table: internal images.
            fold: number of each image's fold, (n,); all images of a patient share one.
            inputs: the initial weights, which must not know these images either, and the auxiliary
                images.
        """

        def fit(k: int, rows: pd.DataFrame) -> nn.Module:
            train = pd.concat([rows, inputs.auxiliary], ignore_index=True)
            return self.fit(folder / f"fold{k}", train, None, inputs.initial_weights)

        return cross_predict(table, fold, fit, self.predict)

    def split(self, inputs: Inputs) -> Tables:
        """The parts of the table, the auxiliary images among those that train."""
        parts = split_parts(inputs.table)
        parts["train"] = pd.concat([parts["train"], inputs.auxiliary], ignore_index=True)
        return parts

    def calibrate(self, model: nn.Module, folder: Path, table: pd.DataFrame) -> dict[str, Any]:
        """Adjust what a trained model says to validation images, and keep it in its weights.

        Returns:
            Entries of metrics.json.
        """
        return {}

    def more_predictions(self, folder: Path, inputs: Inputs) -> Tables:
        """Further tables to evaluate, such as those of a cross-validation."""
        return {}

    def more_metrics(
        self, model: nn.Module, predictions: Tables, metrics: dict[str, Any]
    ) -> dict[str, Any]:
        """Further entries of metrics.json; `metrics` holds those that there are."""
        return {}

    def make(self, folder: Path, inputs: Inputs) -> dict[str, Any]:
        """Train on the internal sites of a table and evaluate on the other images.

        Leaves weights.safetensors, history.json, metrics.json and predictions.csv (a row an image
        of val, test and external; `part` says which) in `folder`.

        Args:
            folder: of the artifact.
            inputs: images and initial weights.

        Returns:
            The metrics.

        Raises:
            ValueError: the table cannot train this task; the message says what is missing.
        """
        parts = self.split(inputs)
        model = self.fit(folder, parts["train"], parts["val"], inputs.initial_weights)
        calibrating = pd.concat([parts["val"], inputs.calibration], ignore_index=True)
        calibration = self.calibrate(model, folder, calibrating)
        predictions = {
            name: self.predict(model, parts[name]) for name in EVALUATED if len(parts[name])
        }
        predictions |= self.more_predictions(folder, inputs)
        images = {name: len(part) for name, part in split_parts(inputs.table).items()}
        metrics = {"images": images, **self.evaluate(predictions, parts["train"])}
        metrics |= calibration | self.more_metrics(model, predictions, metrics)
        labelled = [table.assign(part=name) for name, table in predictions.items()]
        if labelled:
            whole = pd.concat(labelled, ignore_index=True)
            self.store.write_table(folder / "predictions.csv", whole)
        write_json(folder / "metrics.json", metrics)
        return metrics
