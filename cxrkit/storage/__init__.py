"""Storage: atomic files, arrays larger than the memory, and the store of finished stages.

A stage leaves one folder, named by the stage and a hash of its settings. The store knows where it
and the real images lie, so tables are kept with paths that survive a move; a remote store also
keeps its folders at an fsspec address. This package imports `config` only. The names below are
loaded on first use.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
