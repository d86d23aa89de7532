"""A disk that is full, for tests: no file may grow."""

import contextlib
import resource


@contextlib.contextmanager
def largest_file(size):
    """No file may grow beyond `size` bytes: the kernel refuses, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
