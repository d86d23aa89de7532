"""cxrkit: the reference kit for chest X-ray transformers (Park et al. 2021).

Not a diagnostic device. `Run` gives everything that a profile makes, `predict` reads one image,
`load_image` reads a file. The packages stand on each other in this order: config, storage, data,
simulation, models, training, evaluation, tasks, explain, shortcuts, pipeline, inference, viz,
teaching, reproduction, reading_room, cli.
"""

import lazy_loader as lazy

__version__ = "0.2.0.dev0"

NOTICE = (
    "Research and teaching only. Not a diagnostic device; do not use for the care of a patient."
)

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
