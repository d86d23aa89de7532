"""Recorded results: runs too long for a lesson, measured by a make target, committed as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cxrkit.storage.atomic import read_json, write_json

FOLDER = Path(__file__).resolve().parent / "recorded_results"


def result_names() -> list[str]:
    """Names of the recorded results, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def read_result(name: str) -> dict[str, Any]:
    """A recorded result by name.

    Args:
        name: one of `result_names`.

    Returns:
        `made` (how it was measured: command, commit, date, device) and `rows` (flat dicts).

    Raises:
        FileNotFoundError: there is none of this name; the message lists the names.
    """
    path = FOLDER / f"{name}.json"
    if not path.exists():
        known = ", ".join(result_names()) or "none"
        raise FileNotFoundError(f"no result {name!r}; there are: {known}")
    return read_json(path)


def write_result(name: str, rows: list[dict[str, Any]], made: dict[str, Any]) -> None:
    """Write a result into the package.

    Args:
        name: its name, which is that of the file.
        rows: flat dicts.
        made: the command, and `environment.provenance()`.
    """
    write_json(FOLDER / f"{name}.json", {"made": made, "rows": rows})
