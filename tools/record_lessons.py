"""Record how long the lessons took in a run of demo from an empty store.

    cxrkit reproduce --profile demo --out STORE     # on a machine with nothing else to do
    python tools/record_lessons.py STORE

Written to cxrkit/storage/recorded_results/demo_lessons.json; `tools/update_readme.py` puts it into
README.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cxrkit.config import profiles
from cxrkit.reproduction import report, runner
from cxrkit.storage import recorded
from cxrkit.storage.atomic import read_json


def main() -> None:
    """Read the records of the run, and write those of all lessons into one file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path, help="that the run began with empty")
    options = parser.parse_args()
    folder = report.run_folder(profiles.demo(), options.store)
    rows, made, begun, ended = [], {}, [], []
    for source in runner.lesson_sources():
        file = folder / f"{source.stem}.json"
        if not file.exists():
            sys.exit(
                f"{file} is missing: run cxrkit reproduce --profile demo --out {options.store}"
            )
        record = read_json(file)
        made = made or record["provenance"]
        ended.append(file.stat().st_mtime)
        begun.append(ended[-1] - record["seconds"])
        rows.append({"lesson": source.stem, **{key: record[key] for key in ("seconds", "peak_gb")}})
    command = "cxrkit reproduce --profile demo --out STORE"
    whole = round(max(ended) - min(begun))  # lessons may have run side by side
    recorded.write_result("demo_lessons", rows, {"command": command, "seconds": whole, **made})


if __name__ == "__main__":
    main()
