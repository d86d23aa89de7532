"""Configuration: profiles and their sections, the paper's open choices, and the vocabulary.

A profile is a frozen value that holds every size, budget and seed of a run. This package imports no
other of the kit.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
