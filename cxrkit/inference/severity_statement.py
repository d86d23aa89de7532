"""What a severity score means: how the model read films whose score is known.

A score without this misleads. Models read the ends of the scale towards its middle, and how far
depends on the images that they were trained on. The statement is made from the metrics that the
training wrote (`tasks.severity.report`, `tasks.reader_study.run`), so that it changes with the
model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cxrkit.evaluation.summaries import value_text

DEFINITION = (
    "Severity is the sum over six zones of the lungs of how likely each shows disease (0 to 6); it "
    "is no measure of how ill a person is."
)
NEVER_MEASURED = "How this model reads films of known severity was not recorded."
# splits that say most about other hospitals first, and what their images are
SPLITS = {
    "external": "at hospitals that no training saw",
    "folds": "of patients that the model was not trained on",
    "test": "of test patients at the hospitals of training",
}


def severity_statement(metrics: Mapping[str, Any], threshold: int = 1) -> str:
    """What the severity score of a model means, in sentences.

    Args:
        metrics: of the trained severity model, as its metrics.json holds them; {} = unknown.
        threshold: `choices.brixia_threshold` of the model: a cross-validation was done at each.

    Returns:
        The definition of the score; its error; the mean score that is read at each range of true
        scores and on normal images, each with its interval. What was not measured is left out.
    """
    known = {**metrics, "folds": _of_folds(metrics, threshold)}
    split = next((name for name in SPLITS if known.get(name)), None)
    if split is None:
        return f"{DEFINITION} {NEVER_MEASURED}"
    found = known[split]
    error = value_text(found["mse"])
    guess = found.get("constant", {}).get("mse", {}).get("value")
    beside = "" if guess is None else f" (a constant guess: {guess:.2f})"
    sentences = [
        DEFINITION,
        f"On {found['mse']['n']} images {SPLITS[split]} its mean squared error is {error}{beside}.",
    ]
    reads = [_read(row) for row in found.get("by_truth", ())]
    healthy = metrics.get("healthy", {}).get("score")
    if healthy:
        reads.append(f"{healthy['n']} normal images as {value_text(healthy)}")
    if reads:
        sentences.append(f"It reads on average {'; '.join(reads)}.")
    return " ".join(sentences)


def _of_folds(metrics: Mapping[str, Any], threshold: int) -> dict[str, Any]:
    """The cross-validation at a threshold, in the form of a split; {} where there is none."""
    compared = metrics.get("folds", {}).get(f"threshold{threshold}")
    if not compared:
        return {}
    by_truth = compared.get("by_truth", ())
    return {**compared["model"], "constant": compared["constant"], "by_truth": by_truth}


def _read(row: Mapping[str, Any]) -> str:
    """One range of true scores: "true 1 to 2 as 1.64 [1.12, 2.25]"."""
    ends = f"{row['low']}" if row["low"] == row["high"] else f"{row['low']} to {row['high']}"
    return f"true {ends} as {value_text(row['read'])}"
