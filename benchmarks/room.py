"""Does the reading room answer while the hand is still on the slider?

    python benchmarks/room.py [--profile demo] [--out STORE]

Moves every control of `ReadingRoom` through its values on samples that were not looked at before.
Prints for each the median and the slowest answer in ms (a new sample includes all forward passes)
and the median of computing time, which a busy machine does not stretch as much; then the memory of
the process, which is what one visitor of the room costs a server.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from typing import Any

import psutil

from cxrkit.pipeline.run import Run
from cxrkit.reading_room import PANELS, ReadingRoom, Room
from cxrkit.reading_room.edits import EDITS

LIMIT = 300  # ms, for the median of each control


def moves(room: Room) -> Iterator[tuple[str, str, list]]:
    """What a class does to the page: panel, control, and the values that it gets."""
    names = list(room.samples)
    followed = [name for name, sample in room.samples.items() if len(room.visits(sample)) > 2]
    yield "severity", "sample", names[1:9]
    yield "severity", "panel", list(PANELS)
    yield "severity", "threshold", [0.3, 0.4, 0.6, 0.7]
    yield "severity", "truth", [True, False, True, False]
    yield "zone lines", "lines", [(0.3, 0.6), (0.35, 0.65), (0.45, 0.7), (0.2, 0.5)]
    yield "attention", "row", [1, 2, 5, 6]
    yield "attention", "layer", [2, 3, 1]
    yield "tokens", "column", [1, 2, 5, 6]
    yield "relevance", "layer", [2, 3, 1]
    yield "relevance", "sample", names[9:15]
    yield "findings", "finding", ["edema", "consolidation", "pneumothorax"]
    yield "prediction", "disease", ["normal", "other_infection", "covid19"]
    yield "prediction", "edit", list(EDITS)[1:]
    yield "follow-up", "sample", followed[:1] or names[-1:]
    yield "follow-up", "visit", [1, 2, 3]


def answer_times(page: ReadingRoom, control: str, values: list[Any]) -> tuple[list, list]:
    """Give a control its values one after the other; ms of each answer, and ms of computing."""
    times, computing = [], []
    for value in values:
        start, busy = time.perf_counter(), time.process_time()
        page.controls[control].value = value
        times.append(1000 * (time.perf_counter() - start))
        computing.append(1000 * (time.process_time() - busy))
        assert not page.message.value, page.message.value
    return times, computing


def main() -> None:
    """Move all controls and print the times."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--out", default=None)
    options = parser.parse_args()
    start = time.perf_counter()
    room = Room(Run(options.profile, options.out))
    page = ReadingRoom(room)
    print(f"opened in {time.perf_counter() - start:.1f} s")
    slowest = 0.0
    for panel, control, values in moves(room):
        page.controls["panel"].value = panel
        times, computing = answer_times(page, control, values)
        median = statistics.median(times)
        slowest = max(slowest, median)
        print(
            f"{panel:12} {control:10} median {median:4.0f} ms   slowest {max(times):4.0f} ms   "
            f"computing {statistics.median(computing):4.0f} ms"
        )
    within = "within" if slowest <= LIMIT else "OVER"
    print(f"slowest median {slowest:.0f} ms (limit {LIMIT}): {within}")
    memory = psutil.Process().memory_full_info()
    print(
        f"memory of one visitor: {memory.pss / 1e9:.2f} GB, of it {memory.uss / 1e9:.2f} GB not "
        "shared with others"
    )


if __name__ == "__main__":
    main()
