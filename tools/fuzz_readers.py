"""Thousands of damaged files over every reader: each refused, equal, warned, or silently misread?

    python tools/fuzz_readers.py [--count 10000] [--seed 0] [--keep DIR] [--resume]

Prints a table of outcomes; the exit status is 1 if a file was misread in silence although its
format or a library reports the damage (column quiet). Writes, after each block,
cxrkit/storage/recorded_results/fuzz_readers.json, but with --dry; --resume goes on from there, with
the mutations of a run in one piece. `tests/data/test_fuzz.py` runs a few hundred of the same
mutations.
"""

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cxrkit.reproduction import environment
from cxrkit.storage import recorded
from tests.fakes import mutations

BLOCK = 480  # mutations between two writings of the result
KINDS = ("refused", "equal", "warned", "misread", "quiet")


def recorded_counts(seed):
    """Counts of the recorded run by file, and how many mutations it had."""
    result = recorded.read_result("fuzz_readers")
    done = result["made"]["mutations"]
    if seed or done % BLOCK:
        raise SystemExit("--resume goes on from whole blocks of seed 0 alone; leave it out")
    rows = result["rows"]
    return {row["file"]: Counter({kind: row[kind] for kind in KINDS}) for row in rows}, done


def record(found, done, dry):
    """A row for each file, written after each block."""
    rows = []
    for name, counts in found.items():
        rows.append({"file": name, **{kind: counts[kind] for kind in KINDS}})
    if not dry:
        made = {"command": f"python tools/fuzz_readers.py --count {done}", "mutations": done}
        recorded.write_result("fuzz_readers", rows, {**made, **environment.provenance()})
    return rows


def main():
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="where quiet misreads stay")
    parser.add_argument("--dry", action="store_true", help="print the table and write nothing")
    parser.add_argument("--resume", action="store_true", help="go on from the recorded result")
    options = parser.parse_args()
    found, done = recorded_counts(options.seed) if options.resume else ({}, 0)
    rows = record(found, done, dry=True)
    with tempfile.TemporaryDirectory() as name:
        folder = options.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        while done < options.count:
            block = min(BLOCK, options.count - done)
            counts = mutations.run(folder, mutations.picture(), block, options.seed + done)
            done += block
            for file, some in counts.items():
                found.setdefault(file, Counter()).update(some)
            rows = record(found, done, options.dry)
            quiet = sum(row["quiet"] for row in rows)
            print(f"{done} mutations, {quiet} quiet", flush=True)
    table = pd.DataFrame(rows)
    print(table.to_string(index=False))
    print(table[list(KINDS)].sum().to_string())
    return int(table["quiet"].sum() > 0)


if __name__ == "__main__":
    sys.exit(main())
