"""Pipeline: which images serve which task, and the stages of the reproduction, stated once.

`stages.STAGES` is the table, `stages.resolve` loads or makes an artifact, and `Run` is the facade
that lessons use. The pipeline imports the tasks, the explanations and the studies of shortcuts, and
all below them.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
