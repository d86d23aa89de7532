"""Exercises: `check` tells right from wrong and why, `hint` helps a little more each time.

No module of this package holds the solution of an exercise. What has one short answer is compared
with a salted hash (`cxrkit.teaching.sealed`); a function is compared with the package's own
implementation, or by what must hold of its values, on inputs drawn anew at each call
(`cxrkit.teaching.behaviour`).
"""

from __future__ import annotations

import csv
import importlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LEVELS = ("warm-up", "core", "project")
# numbers of the lessons whose exercises answer; each has a module `lesson_<number>`
LESSONS = ("00", "01", "02", "03", "03b", "04", "05", "06", "07", "08", "09")
BLANK = "no answer yet: put it in the place of `...`"
PROGRESS = "CXRKIT_PROGRESS"  # names a CSV file to which every check adds a row

_hints_given: dict[str, int] = {}


@dataclass(frozen=True)
class Exercise:
    """One exercise.

    Attributes:
        name: number of the lesson, a point, number of the exercise: "04.2".
        level: one of LEVELS.
        hints: three, of rising strength.
        fault_of: what is wrong with an answer, in words; "" if it is right.
        meaning: what a right answer shows.
    """

    name: str
    level: str
    hints: tuple[str, str, str]
    fault_of: Callable[[Any], str]
    meaning: str


@dataclass(frozen=True)
class Outcome:
    """What `check` found. It is true where the answer is right; a notebook shows its sentence."""

    name: str
    passed: bool
    text: str

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        return f"{self.name}: {'RIGHT' if self.passed else 'NOT YET'}. {self.text}"


def list_exercises() -> dict[str, Exercise]:
    """All exercises by name."""
    found = {}
    for number in LESSONS:
        module = importlib.import_module(f"cxrkit.teaching.lesson_{number}")
        for exercise in module.EXERCISES:
            found[exercise.name] = exercise
    return found


def exercise_named(name: str) -> Exercise:
    """The exercise of a name.

    Raises:
        ValueError: there is none of this name; the message lists those of the lesson.
    """
    number = name.split(".")[0]
    if number in LESSONS:
        for exercise in importlib.import_module(f"cxrkit.teaching.lesson_{number}").EXERCISES:
            if exercise.name == name:
                return exercise
    known = (
        ", ".join(found for found in list_exercises() if found.split(".")[0] == number) or "none"
    )
    raise ValueError(f"no exercise {name!r}; lesson {number} has: {known}")


def is_blank(answer: object) -> bool:
    """Whether an answer, or a part of it, is still the `...` of the blank cell."""
    if isinstance(answer, dict):
        return any(is_blank(value) for value in answer.values())
    if isinstance(answer, (list, tuple)):
        return any(is_blank(value) for value in answer)
    return answer is ...


def check(name: str, answer: object) -> Outcome:
    """Say whether an answer is right, and if not, what is wrong with it.

    With CXRKIT_PROGRESS set to a file, a row (time, exercise, level, passed) is added to it.

    Args:
        name: of the exercise, such as "04.2".
        answer: a value, or the function that the exercise asks for.

    Raises:
        ValueError: there is no exercise of this name.
    """
    exercise = exercise_named(name)
    if is_blank(answer):
        fault = BLANK
    else:
        try:
            fault = exercise.fault_of(answer)
        except Exception as error:
            # whatever a learner's function raises is part of the answer
            fault = _raised(error)
    text = exercise.meaning if not fault else f"{fault} (hint({name!r}) helps)"
    outcome = Outcome(name, not fault, f"[{exercise.level}] {text}")
    _note_progress(exercise, outcome)
    return outcome


def _raised(error: Exception) -> str:
    """What a learner reads of an exception."""
    if "ellipsis" in str(error).lower():
        return BLANK
    return f"it raised {type(error).__name__}: {error}"


def _note_progress(exercise: Exercise, outcome: Outcome) -> None:
    """Add a row to the file of CXRKIT_PROGRESS, if it is set."""
    file = os.environ.get(PROGRESS)
    if not file:
        return
    path = Path(file)
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as rows:
        writer = csv.writer(rows)
        if is_new:
            writer.writerow(["time", "exercise", "level", "passed"])
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        writer.writerow([now, exercise.name, exercise.level, int(outcome.passed)])


def hint(name: str) -> None:
    """Print the next hint of an exercise: the first is a nudge, the third names the steps.

    After the third it begins anew.

    Raises:
        ValueError: there is no exercise of this name.
    """
    exercise = exercise_named(name)
    number = _hints_given.get(name, 0)
    _hints_given[name] = (number + 1) % len(exercise.hints)
    print(f"{name}, hint {number + 1} of {len(exercise.hints)}: {exercise.hints[number]}")
