"""The quiz: a class reads images before it sees what the models predict.

Every answer is kept; players, model, second radiologist and truth are scored side by side. Zones
are in the order of ZONES: the patient's right lung from the top, then the left.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cxrkit.config.vocabulary import DIAGNOSES, ZONES, known
from cxrkit.storage.atomic import write_atomic

if TYPE_CHECKING:
    from cxrkit.reading_room.state import Room

MAX_NAME = 40  # letters of a player's name
QUIZ_LENGTH = 10  # images of one quiz
INVOLVED = 0.5  # a predicted zone from this value on counts as involved


def quiz_samples(room: Room, n: int = QUIZ_LENGTH) -> list[str]:
    """Names of up to n samples of known diagnosis, one a patient, in the order of the list."""
    seen: set[str] = set()
    names = []
    for name, sample in room.samples.items():
        if len(names) == n:
            break
        if sample.patient_id in seen or room.truth(sample).diagnosis is None:
            continue
        names.append(name)
        if sample.patient_id:
            seen.add(sample.patient_id)
    return names


def _six_values(array: np.ndarray) -> np.ndarray:
    """Array (3, 2) -> six values in the order of ZONES."""
    return np.concatenate([array[:, 0], array[:, 1]])


def _share_right(zones: np.ndarray, truth: np.ndarray) -> float:
    """Share of the six zones that agree with the truth; NaN where any is unknown."""
    if np.isnan([zones, truth]).any():
        return np.nan
    return float(np.mean(zones == truth))


def grade_answer(
    room: Room, name: str, player: str, diagnosis: str, zones: Iterable[str]
) -> dict[str, Any]:
    """One answer beside what the model predicts and what is true.

    Args:
        room: holds the sample.
        name: of the sample.
        player: who answers.
        diagnosis: the answer, a name in DIAGNOSES.
        zones: the zones that the player calls involved, names in ZONES.

    Returns:
        A row of the table of answers. Unknown values are NaN.

    Raises:
        ValueError: the sample, the diagnosis or a zone is unknown, or the player has no name.
    """
    player = " ".join(str(player).split())[:MAX_NAME]
    if not player:
        raise ValueError("who answers? write a name, or that of your team")
    known(diagnosis, DIAGNOSES, "diagnosis")
    called = {known(zone, ZONES, "zone") for zone in zones}
    sample = room.samples[known(name, room.samples, "film")]
    truth, prediction = room.truth(sample), room.predict(sample)

    answered = np.array([zone in called for zone in ZONES], float)
    true = _six_values(truth.severity_array)
    model = (_six_values(prediction.severity_array) >= INVOLVED) * 1.0
    second = _six_values(truth.second_array)
    return {
        "player": player,
        "film": name,
        "diagnosis": diagnosis,
        "model": DIAGNOSES[int(prediction.diagnosis.argmax())],
        "true": truth.diagnosis,
        **{zone: int(value) for zone, value in zip(ZONES, answered, strict=True)},
        "zones": _share_right(answered, true),
        "model_zones": _share_right(model, true),
        "reader_zones": _share_right(second, true),
        "severity": answered.sum(),
        "model_severity": prediction.severity,
        "reader_severity": second.sum(),
        "true_severity": true.sum(),
    }


def save_answer(folder: str | Path, row: dict[str, Any]) -> None:
    """Add an answer to the player's own file; a second answer to the same image replaces the first.

    Args:
        folder: holds a file for each player.
        row: of `grade_answer`.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", row["player"].lower()).strip("-") or "player"
    number = sum(map(ord, row["player"])) % 10_000  # two names may have one slug
    path = Path(folder) / f"{slug}-{number:04}.csv"
    rows = []
    if path.exists():
        before = pd.read_csv(path)
        rows = before[before["film"] != row["film"]].to_dict("records")
    write_atomic(path, as_csv(pd.DataFrame([*rows, row])))


def read_answers(folder: str | Path) -> pd.DataFrame:
    """All answers of a class, a row each: the files of all players in a folder."""
    parts = [pd.read_csv(path) for path in sorted(Path(folder).glob("*.csv"))]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _score(
    answers: pd.DataFrame, diagnosis: str | None, zones: str, severity: str
) -> dict[str, float]:
    """A line of the scoreboard, from the columns that hold its diagnosis, zones and severity."""
    right = np.nan
    if diagnosis:
        right = (answers[diagnosis] == answers["true"]).mean()
    error = (answers[severity] - answers["true_severity"]).abs()
    return {
        "films": len(answers),
        "diagnosis": right,
        "zones": answers[zones].mean(),
        "severity": error.mean(),
    }


def scoreboard(answers: pd.DataFrame) -> pd.DataFrame:
    """The class at a glance, on the images that were answered.

    Args:
        answers: of `read_answers`.

    Returns:
        A row a player, then the model and, where there is one, the second radiologist. Columns:
        `films` (number of images), `diagnosis` (share right), `zones` (share of the six that agree
        with the truth), `severity` (mean error, 0-6).
    """
    lines = {}
    for player, part in answers.groupby("player"):
        lines[player] = _score(part, "diagnosis", "zones", "severity")
    once = answers.drop_duplicates("film")
    lines["the model"] = _score(once, "model", "model_zones", "model_severity")
    scored = once[once["reader_zones"].notna()]
    if len(scored):
        lines["the second reader"] = _score(scored, None, "reader_zones", "reader_severity")
    return pd.DataFrame(lines).T.astype({"films": int}).round(2)


def as_csv(answers: pd.DataFrame) -> str:
    """Answers as CSV text that is safe in a spreadsheet.

    A name that begins like a formula is quoted.
    """
    names = answers["player"].astype(str)
    safe = ["'" + name if name[:1] in "=+-@" else name for name in names]
    return answers.assign(player=safe).to_csv(index=False)
