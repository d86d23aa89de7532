"""Sealed answers: salted hashes that tell a right answer without holding it.

A word is compared in lower case without spaces around it. A number is divided by its tolerance and
rounded to a whole one; the neighbours count too, so that an answer within the tolerance is right.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

ROUNDS = 20_000  # of the hash: one try is quick, many tries are not


def seal(name: str, answer: str | int) -> str:
    """The seal of an answer.

    Args:
        name: of the exercise, which salts the hash.
        answer: a word or a whole number.

    Returns:
        24 hex digits.
    """
    text = str(answer).strip().lower()
    digest = hashlib.pbkdf2_hmac("sha256", text.encode(), f"cxrkit {name}".encode(), ROUNDS)
    return digest.hex()[:24]


def word_fault(name: str, answer: object, right: str, wrong: Mapping[str, str]) -> str:
    """What is wrong with a word or a whole number.

    Args:
        name: of the exercise.
        answer: of the learner.
        right: seal of the right answer.
        wrong: seals of plausible wrong answers -> what is wrong with them.

    Returns:
        "" if it is right.
    """
    if isinstance(answer, np.integer):
        answer = int(answer)
    if not isinstance(answer, (str, int)):
        kind = type(answer).__name__
        return f"the answer is a word or a whole number, not a {kind}"
    found = seal(name, answer)
    if found == right:
        return ""
    return wrong.get(found, f"{answer!r} is not it")


def number_fault(
    name: str, answer: object, right: str, tolerance: float, wrong: Mapping[str, str]
) -> str:
    """What is wrong with a number.

    Args:
        name: of the exercise.
        answer: of the learner.
        right: seal of the right number over the tolerance, rounded.
        tolerance: by which an answer may differ.
        wrong: seals of plausible wrong numbers, rounded alike -> what is wrong with them.

    Returns:
        "" if it is right.
    """
    try:
        steps = round(float(answer) / tolerance)
    except (TypeError, ValueError):
        return f"the answer is a number, not a {type(answer).__name__}"
    seals = [seal(name, steps + step) for step in (0, -1, 1)]
    if right in seals:
        return ""
    for found in seals:
        if found in wrong:
            return wrong[found]
    return f"{float(answer):.4g} is not it (a difference of {tolerance:g} is allowed)"
