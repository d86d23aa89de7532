"""Results of runs too long for a lesson: measured by a make target, committed as JSON with commit
and date, read by the lessons.
"""

from pathlib import Path

from cxrkit.storage.atomic import read_json, write_json

FOLDER = Path(__file__).resolve().parent / "recorded"


def names():
    """Names of the committed results, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def read(name):
    """Result by name -> dict with `made` (how and when it was measured: command, commit, date,
    device) and `rows`.

    Raises FileNotFoundError naming the known results.
    """
    path = FOLDER / f"{name}.json"
    if not path.exists():
        raise FileNotFoundError(f"no result {name!r}; there are: {', '.join(names()) or 'none'}")
    return read_json(path)


def write(name, rows, made):
    """Write a result into the package: rows (list of flat dicts), made (`doctor.provenance` and the
    command).
    """
    write_json(FOLDER / f"{name}.json", {"made": made, "rows": rows})
