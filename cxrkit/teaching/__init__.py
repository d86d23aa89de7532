"""Teaching: exercises that say right, wrong and why, and the schematics of the lessons.

`check` compares an answer with a sealed value or a function with the package's own; `hint` helps a
little more each time. The exercises of a lesson stand in a module of its number, without their
solutions. `train_yourself` is a button behind which a reader trains for a minute. The package may
import `viz` and the packages before it. The names below are loaded on first use.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
