"""Arrays in files, read by many threads at once."""

import gc
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cxrkit.storage import mapped


class Slow:
    """In a cycle, so that the collector ends it in the middle of whatever a thread is at."""

    def __init__(self):
        self.itself = self

    def __del__(self):
        time.sleep(0)  # another thread goes on


@pytest.fixture
def hasty():
    """Threads take turns, and the collector runs, as often as Python allows."""
    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-6)
    gc.set_threshold(5)
    yield
    sys.setswitchinterval(interval)
    gc.set_threshold(*thresholds)


def test_threads_may_open_one_file_at_once(tmp_path, hasty):
    """Python 3.11 fails in one of a hundred where two threads parse a header at once."""
    values = np.arange(57, dtype=np.uint8)
    np.save(tmp_path / "images.npy", values)

    def open_often(_):
        for _ in range(400):
            Slow()
            found = mapped.view(tmp_path / "images.npy")
        return found

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(open_often, range(4)):
            np.testing.assert_array_equal(found, values)
