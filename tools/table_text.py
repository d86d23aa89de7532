"""How numbers stand in the tables of documents."""

from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
ENDS = ("value", "low", "high")  # of a recorded number with its interval
NOT_RUN = "not run"

# a measure of severity maps -> in words
MAP = {
    "dice": "map: Dice at the threshold of validation",
    "auprc": "map: average precision of lung pixels",
    "chance": "the same by chance",
    "pointing": "map: hottest point of an involved zone on the lesion",
    "pointing_chance": "the same by chance",
}


def line(*cells: str) -> str:
    """A line of a table: "| a | b |"."""
    return f"| {' | '.join(cells)} |"


def head(*names: str) -> list[str]:
    """The two lines that open a table: the names of its columns, "" for none, and the rule."""
    return [line(*names).replace("  |", " |"), "|---" * len(names) + "|"]


def spread(values: pd.Series) -> str:
    """Mean of the seeds, with the lowest and the highest: "0.89 (0.88 to 0.91)"."""
    return f"{values.mean():.2f} ({values.min():.2f} to {values.max():.2f})"


def met_text(met: bool) -> str:
    """A word on a bar."""
    return "met" if met else "**missed**"


def difference_text(found: dict[str, float]) -> str:
    """Difference, low, high: "+0.02 [-0.01, +0.05]"."""
    value, low, high = (f"{found[name]:+.2f}" for name in ("difference", "low", "high"))
    return f"{value} [{low}, {high}]"


def triple_text(values: list[float], digits: int) -> str:
    """Value, low, high: "0.840 [0.817, 0.863]"."""
    value, low, high = (f"{one:.{digits}f}" for one in values)
    return f"{value} [{low}, {high}]"
