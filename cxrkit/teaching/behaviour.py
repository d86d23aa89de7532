"""Functions of a learner, compared with the package's own on inputs drawn anew at each call."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch

from cxrkit.teaching.exercises import BLANK, is_blank

Values = torch.Tensor | np.ndarray | float | int
TOLERANCE = 1e-4


def fresh_generator() -> torch.Generator:
    """A generator with another seed at each call: a learner cannot learn the inputs by heart."""
    return torch.Generator().manual_seed(time.time_ns() % 2**31)


def _parts(output: Any) -> list[np.ndarray]:
    """The values of an output as arrays, one for each part of a tuple or of a list of arrays.

    A list of numbers is one array.
    """
    is_array = isinstance(output, list) and all(np.ndim(part) == 0 for part in output)
    parts = output if isinstance(output, (tuple, list)) and not is_array else (output,)
    arrays = []
    for part in parts:
        values = part.detach().numpy() if isinstance(part, torch.Tensor) else part
        arrays.append(np.asarray(values, float))
    return arrays


def is_close(found: Any, expected: Any) -> bool:
    """Whether two outputs have the same parts of the same shapes, and values to TOLERANCE."""
    a, b = _parts(found), _parts(expected)
    if [part.shape for part in a] != [part.shape for part in b]:
        return False
    return all(_agree(x, y) for x, y in zip(a, b, strict=True))


def _agree(found: np.ndarray, expected: np.ndarray) -> bool:
    """Whether arrays of one shape agree to TOLERANCE, of their size where they are small."""
    size = float(np.abs(expected).max(initial=0)) or 1.0
    return np.allclose(found, expected, TOLERANCE, TOLERANCE * min(1.0, size))


def telling_inputs(
    draw: Callable[[], tuple],
    reference: Callable[..., Any],
    wrong: Mapping[str, Callable[..., Any]],
) -> tuple:
    """Arguments on which the right output and all plausible mistakes differ from one another.

    Args:
        draw: draws arguments anew.
        reference: what gives the right output.
        wrong: as in `function_fault`.

    Raises:
        RuntimeError: a hundred draws gave none.
    """
    for _ in range(100):
        arguments = draw()
        outputs = [reference(*arguments), *(mistake(*arguments) for mistake in wrong.values())]
        if not any(is_close(a, b) for a, b in itertools.combinations(outputs, 2)):
            return arguments
    raise RuntimeError("no drawn input tells the plausible mistakes from the right output")


def output_of(answer: object, *arguments: Any) -> tuple[Any, str]:
    """What a learner's function returns, and why it cannot be compared.

    Args:
        answer: of the learner.
        arguments: that it is called with.

    Returns:
        The output, and "" or what is wrong: no function, or nothing but blanks.
    """
    if not callable(answer):
        return None, f"the answer is a function, not a {type(answer).__name__}"
    found = answer(*arguments)
    return found, BLANK if is_blank(found) else ""


def function_fault(
    answer: object,
    reference: Callable[..., Any],
    inputs: Iterable[tuple],
    wrong: Mapping[str, Callable[..., Any]],
    names: tuple[str, ...] = ("the output",),
) -> str:
    """What is wrong with a function.

    Args:
        answer: of the learner, called with each of the inputs.
        reference: what gives the right output.
        inputs: tuples of arguments.
        wrong: what is wrong -> what gives the output of this plausible mistake.
        names: of the parts of the output, for messages.

    Returns:
        "" if all outputs are right.
    """
    for arguments in inputs:
        found, fault = output_of(answer, *arguments)
        if fault:
            return fault
        expected = reference(*arguments)
        if is_close(found, expected):
            continue
        for mistaken, mistake in wrong.items():
            if is_close(found, mistake(*arguments)):
                return mistaken
        return _difference(_parts(found), _parts(expected), names)
    return ""


def _difference(found: list[np.ndarray], expected: list[np.ndarray], names: tuple[str, ...]) -> str:
    """Where two outputs differ, in words."""
    if len(found) != len(expected):
        return f"it returns {len(found)} values; wanted are {len(expected)}: {', '.join(names)}"
    for name, a, b in zip(names, found, expected, strict=True):
        if a.shape != b.shape:
            return f"{name} has shape {a.shape}, wanted is {b.shape}"
        if not np.isfinite(a).all():
            return f"{name} has values that are not finite"
        if not _agree(a, b):
            gap = np.abs(a - b).max()
            return f"{name} has the right shape, but differs from the package's by up to {gap:.2g}"
    return "the outputs differ"


def drawn_fault(
    answer: object,
    draw: Callable[[], tuple],
    reference: Callable[..., Any],
    wrong: Mapping[str, Callable[..., Any]],
    names: tuple[str, ...] = ("the output",),
) -> str:
    """What is wrong with a function, on two draws that tell every plausible mistake.

    Args:
        answer: of the learner.
        draw: draws arguments anew.
        reference: what gives the right output.
        wrong: as in `function_fault`.
        names: of the parts of the output, for messages.

    Returns:
        "" if both outputs are right.
    """
    inputs = [telling_inputs(draw, reference, wrong) for _ in range(2)]
    return function_fault(answer, reference, inputs, wrong, names)
