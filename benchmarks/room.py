"""Does the reading room answer while the hand is still on the slider? python benchmarks/room.py
[--profile demo] [--out STORE]

Moves every control of `pages.ReadingRoom` through its values on films that were not looked at
before, and prints for each the median and the slowest answer in ms (bar: 300 for the median; a new
film includes all forward passes) and the median of computing time, which a busy machine does not
stretch as much; then the memory of the process: what one visitor of the room costs a server.
"""

import argparse
import statistics
import time

import psutil

from cxrkit.config import profiles
from cxrkit.reading_room import figures, pages
from cxrkit.reading_room.edits import EDITS
from cxrkit.reading_room.state import Room
from cxrkit.storage.artifacts import Store

BAR = 300  # ms


def moves(room):
    """(panel, control, values): what a class does to the page."""
    names = list(room.cases)
    series = [name for name, case in room.cases.items() if len(room.visits(case)) > 2]
    yield "severity", "film", names[1:9]
    yield "severity", "panel", list(figures.PANELS)
    yield "severity", "threshold", [0.3, 0.4, 0.6, 0.7]
    yield "severity", "truth", [True, False, True, False]
    yield "zone lines", "lines", [(0.3, 0.6), (0.35, 0.65), (0.45, 0.7), (0.2, 0.5)]
    yield "attention", "row", [1, 2, 5, 6]
    yield "attention", "layer", [2, 3, 1]
    yield "tokens", "column", [1, 2, 5, 6]
    yield "relevance", "layer", [2, 3, 1]
    yield "relevance", "film", names[9:15]
    yield "findings", "finding", ["edema", "consolidation", "pneumothorax"]
    yield "prediction", "disease", ["normal", "other_infection", "covid19"]
    yield "prediction", "edit", [*EDITS][1:]
    yield "follow-up", "film", series[:1] or names[-1:]
    yield "follow-up", "visit", [1, 2, 3]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--out", default=None)
    options = parser.parse_args()
    start = time.perf_counter()
    room = Room(profiles.get(options.profile), Store(options.out))
    page = pages.ReadingRoom(room)
    print(f"opened in {time.perf_counter() - start:.1f} s")
    worst = 0.0
    for panel, control, values in moves(room):
        page.knobs["panel"].value = panel
        times, work = [], []
        for value in values:
            start, busy = time.perf_counter(), time.process_time()
            page.knobs[control].value = value
            times.append(1000 * (time.perf_counter() - start))
            work.append(1000 * (time.process_time() - busy))
            assert not page.message.value, page.message.value
        worst = max(worst, statistics.median(times))
        print(
            f"{panel:12} {control:10} median {statistics.median(times):4.0f} ms   slowest "
            f"{max(times):4.0f} ms   "
            f"computing {statistics.median(work):4.0f} ms"
        )
    print(f"slowest median {worst:.0f} ms (bar {BAR}): {'within' if worst <= BAR else 'OVER'}")
    memory = psutil.Process().memory_full_info()
    print(
        f"memory of one visitor: {memory.pss / 1e9:.2f} GB, of it {memory.uss / 1e9:.2f} GB not "
        "shared with others"
    )


if __name__ == "__main__":
    main()
