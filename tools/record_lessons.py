"""Record how long the stages and the lessons took in a run from an empty store.

    cxrkit reproduce --profile demo --out STORE     # on a machine with nothing else to do
    python tools/record_lessons.py STORE

    make mini MIRROR=DIR                            # with CXRKIT_STORE=STORE
    python tools/record_lessons.py STORE --profile mini

Written to cxrkit/storage/recorded_results/<profile>_lessons.json; `tools/update_readme.py` puts it
into README.md and docs/mini.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from cxrkit.config.settings_file import get_profile
from cxrkit.reproduction import report, runner
from cxrkit.storage import provenance, recorded
from cxrkit.storage.atomic import read_json


def stages_made(store: Path) -> dict[str, tuple[float, float]]:
    """Stages that were made in a store: name -> when that began, seconds since 1970, and ended."""
    found = {}
    for file in sorted((store / provenance.NOTES).glob("*.json")):
        note = provenance.read_note(store, file.stem)
        if note:
            ended = file.stat().st_mtime
            found[file.stem.partition("-")[0]] = (ended - note["seconds"], ended)
    return found


def main() -> None:
    """Read the records of the run, and write those of all lessons into one file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path, help="that the run began with empty")
    parser.add_argument("--profile", default="demo", help="of the run")
    options = parser.parse_args()
    profile = get_profile(options.profile)
    folder = report.run_folder(profile, options.store)
    command = f"cxrkit reproduce --profile {profile.name} --out STORE"
    stages = stages_made(options.store)
    spans, rows, made = list(stages.values()), [], {}
    for source in runner.lesson_sources():
        file = folder / f"{source.stem}.json"
        if not file.exists():
            sys.exit(f"{file} is missing: run {command.replace('STORE', str(options.store))}")
        record: dict[str, Any] = read_json(file)
        made = made or record["provenance"]
        ended = file.stat().st_mtime
        spans.append((ended - record["seconds"], ended))
        rows.append({"lesson": source.stem, **{key: record[key] for key in ("seconds", "peak_gb")}})
    # stages and lessons may have run side by side
    whole = round(max(ended for _, ended in spans) - min(begun for begun, _ in spans))
    facts = {"command": command, "seconds": whole}
    if stages:
        facts["stages"] = {name: round(ended - begun) for name, (begun, ended) in stages.items()}
    recorded.write_result(f"{profile.name}_lessons", rows, facts | made)


if __name__ == "__main__":
    main()
