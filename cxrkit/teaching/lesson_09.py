"""Exercises of lesson 09, the reading room."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from cxrkit.teaching.behaviour import drawn_fault
from cxrkit.teaching.exercises import Exercise

CELLS = 4  # of a side, in exercise 09.1
Predict = Callable[[np.ndarray], float]


def package_occlusion(predict: Predict, image: np.ndarray) -> np.ndarray:
    """How far a prediction falls when one cell after the other is erased.

    Args:
        predict: film -> probability.
        image: (S, S); S is a multiple of CELLS.

    Returns:
        (CELLS, CELLS).
    """
    side = image.shape[0] // CELLS
    number = np.arange(image.shape[0]) // side
    falls = []
    for cell in np.ndindex(CELLS, CELLS):
        here = np.equal.outer(number, cell[0])[:, None] & (number == cell[1])
        falls.append(predict(image) - predict(np.where(here, image.mean(), image)))
    return np.reshape(falls, (CELLS, CELLS))


def _rises(predict: Predict, image: np.ndarray) -> np.ndarray:
    return -package_occlusion(predict, image)


def _after(predict: Predict, image: np.ndarray) -> np.ndarray:
    return predict(image) - package_occlusion(predict, image)


def _transposed(predict: Predict, image: np.ndarray) -> np.ndarray:
    return package_occlusion(predict, image).T


def _falls(predict: Predict, image: np.ndarray, grey: float, one_by_one: bool) -> np.ndarray:
    side, edited = image.shape[0] // CELLS, image.astype(float)
    falls = np.empty((CELLS, CELLS))
    for i, j in np.ndindex(CELLS, CELLS):
        if one_by_one:
            edited = image.astype(float)
        edited[side * i : side * (i + 1), side * j : side * (j + 1)] = grey
        falls[i, j] = predict(image) - predict(edited)
    return falls


def _to_zero(predict: Predict, image: np.ndarray) -> np.ndarray:
    return _falls(predict, image, 0.0, one_by_one=True)


def _all_stay_erased(predict: Predict, image: np.ndarray) -> np.ndarray:
    return _falls(predict, image, float(image.mean()), one_by_one=False)


def _draw_predictor() -> tuple[Predict, np.ndarray]:
    rng = np.random.default_rng()
    weight, image = rng.normal(size=(16, 16)), rng.uniform(1, 255, (16, 16))

    def predict(edited: np.ndarray) -> float:
        return float(1 / (1 + np.exp(-(weight * (edited - 128)).mean() / 20)))

    return predict, image


def occlusion_fault(answer: object) -> str:
    """What is wrong with `occlusion(predict, image)`."""
    wrong = {
        "the sign: before minus after, so that a cell that mattered is above 0": _rises,
        "that is the prediction after the erasure; wanted is the fall": _after,
        "rows and columns have changed places": _transposed,
        "erase with the mean of the film, not with 0": _to_zero,
        "erase one cell at a time: start each time from the whole film": _all_stay_erased,
    }
    return drawn_fault(answer, _draw_predictor, package_occlusion, wrong, ("the map",))


def package_most_moved(before: np.ndarray, after: np.ndarray) -> int:
    """The film with the largest change of a single probability.

    Args:
        before: probabilities (n, K).
        after: after the edit (n, K).
    """
    row, _ = np.unravel_index(np.abs(after - before).argmax(), before.shape)
    return int(row)


def _signed(before: np.ndarray, after: np.ndarray) -> int:
    return int((after - before).max(axis=1).argmax())


def _last_class(before: np.ndarray, after: np.ndarray) -> int:
    return int(np.abs(after - before)[:, -1].argmax())


def _flat(before: np.ndarray, after: np.ndarray) -> int:
    return int(np.abs(after - before).argmax())


def _draw_probabilities() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng()
    return rng.dirichlet(np.ones(3), 12), rng.dirichlet(np.ones(3), 12)


def moved_fault(answer: object) -> str:
    """What is wrong with `most_moved(before, after)`."""
    wrong = {
        "a probability may also fall: take the absolute change": _signed,
        "any probability counts, not that of the last class alone": _last_class,
        "that counts through all values; wanted is the number of the film": _flat,
    }
    return drawn_fault(answer, _draw_probabilities, package_most_moved, wrong, ("the film",))


Score = Callable[[float, float], float]


def package_lines(
    score: Score, uppers: Sequence[float], lowers: Sequence[float]
) -> tuple[float, float]:
    """The pair of lines, the upper above the lower, at which a score is smallest.

    Args:
        score: upper and lower line -> score.
        uppers: shares of the height to try.
        lowers: shares of the height to try.
    """
    a, b = np.meshgrid(uppers, lowers, indexing="ij")
    values = np.vectorize(score)(a, b).astype(float)
    values[a >= b] = np.inf
    best = np.unravel_index(values.argmin(), values.shape)
    return float(a[best]), float(b[best])


def _largest(score: Score, uppers: Sequence[float], lowers: Sequence[float]) -> object:
    return package_lines(lambda a, b: -score(a, b), uppers, lowers)


def _crossed(score: Score, uppers: Sequence[float], lowers: Sequence[float]) -> object:
    a, b = np.meshgrid(uppers, lowers, indexing="ij")
    best = np.vectorize(score)(a, b).argmin()
    return float(a.flat[best]), float(b.flat[best])


def _draw_score() -> tuple[Score, list[float], list[float]]:
    rng = np.random.default_rng()
    table = rng.uniform(0, 6, (9, 9))

    def score(upper: float, lower: float) -> float:
        return float(table[round(10 * upper) - 1, round(10 * lower) - 1])

    return score, [0.2, 0.3, 0.4, 0.5, 0.6], [0.3, 0.4, 0.5, 0.6, 0.7, 0.8]


def lines_fault(answer: object) -> str:
    """What is wrong with `smallest_lines(score, uppers, lowers)`."""
    wrong = {
        "those are the lines of the largest score": _largest,
        "the upper line must lie above the lower one: its share is smaller": _crossed,
    }
    return drawn_fault(answer, _draw_score, package_lines, wrong, ("the upper", "the lower"))


EXERCISES = (
    Exercise(
        "09.1",
        "core",
        (
            "Predict the whole film once, then once for each erased cell.",
            "`edited = image.copy()` before each erasure; a cell has `image.shape[0] // 4` rows "
            "and as many columns.",
            "Two loops i, j: set the cell of the copy to `image.mean()`, and store "
            "predict(image) - predict(copy) at [i, j].",
        ),
        occlusion_fault,
        "An occlusion map asks the model itself. It costs one prediction for each cell.",
    ),
    Exercise(
        "09.2",
        "warm-up",
        (
            "First the change of each probability, then the largest of each film.",
            "`np.abs(after - before)` is (n, K).",
            "Maximum over dimension 1, then `argmax`.",
        ),
        moved_fault,
        "Look at that film in the room: what was outside its lungs?",
    ),
    Exercise(
        "09.3",
        "project",
        (
            "Try all pairs, and keep the best.",
            "A pair counts only if the upper line is above the lower one: upper < lower.",
            "A dictionary pair -> score over two loops, then `min(tries, key=tries.get)`.",
        ),
        lines_fault,
        "Scores can be compared only where all cut at the same lines, of lungs found the same way.",
    ),
)
