"""Tasks: the five trainings of the kit, and the reader study.

Findings, segmentation, diagnosis, severity and SimCLR share one template (`tasks.task.Task`). Tasks
import everything below them: config, storage, data, simulation, models, training, evaluation.
"""

import lazy_loader as lazy

from cxrkit.training.losses import nonsaturating as nonsaturating

__getattr__, _, _names = lazy.attach_stub(__name__, __file__)
__all__ = sorted([*_names, "nonsaturating"])


def __dir__() -> list[str]:
    return __all__
