"""Training: one loop for every model, with its batches, checkpoints, losses and devices.

It also holds the processes that share one training, and the count of the memory that a step needs.
It may import `cxrkit.models` and the packages before it; today it needs `cxrkit.config` and
`cxrkit.storage` alone. The public names are loaded on first use, so that importing one module does
not import the others.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
