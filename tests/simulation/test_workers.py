"""What threads leave in a process when they have ended."""

import platform
import sys
import threading

import psutil
import pytest

from cxrkit.simulation import workers

BLOCK = bytes(100_000)  # small enough to lie on the heap of its thread


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps freed memory")
def test_memory_that_an_ended_thread_has_freed_returns():
    """One block in a hundred stays and holds the heap of the thread open."""
    kept = []

    def use_and_free():
        blocks = [bytearray(BLOCK) for _ in range(2000)]  # 200 MB
        kept.extend(blocks[::100])

    thread = threading.Thread(target=use_and_free)
    thread.start()
    thread.join()
    before = psutil.Process().memory_info().rss
    workers.return_memory()
    after = psutil.Process().memory_info().rss
    assert before - after > 100e6
    assert all(block == BLOCK for block in kept)


def test_other_systems_keep_their_memory(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(workers.ctypes, "CDLL", None)  # would raise where it was called
    workers.return_memory()
