"""How far two radiologists lie apart on the severity of public films.

    python tools/second_reader.py --mirror DIR       # seconds

The films of the COVID-19 image data collection that two radiologists scored (Brixia, 0 to 3 a
zone): the squared error of the second against the first on the 0-6 score, for both readings of a
zone, beside that of a constant guess. Lesson 06 shows it. Written to
cxrkit/storage/recorded_results/second_reader.json.
"""

from __future__ import annotations

import argparse

from cxrkit import data
from cxrkit.config.vocabulary import BRIXIA, SECOND
from cxrkit.reproduction import environment
from cxrkit.storage import recorded
from cxrkit.tasks import reader_study


def main() -> None:
    """Measure, record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mirror", required=True, help="folder of prepared real films")
    options = parser.parse_args()
    films = data.read_manifest("cohen", options.mirror).dropna(subset=[*BRIXIA, *SECOND])
    rows = reader_study.second_reader_errors(films)
    made = {
        "command": "python tools/second_reader.py --mirror DIR",
        **environment.provenance(),
        "films": len(films),
        "patients": int(films["group_id"].nunique()),
    }
    recorded.write_result("second_reader", rows, made)
    for row in rows:
        print(f">= {row['threshold']}, {row['guess']}: MSE {row['value']:.2f} on {row['n']} films")


if __name__ == "__main__":
    main()
