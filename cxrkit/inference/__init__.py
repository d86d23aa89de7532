"""Inference: the trained models on one image or on many, and warnings about unsuitable images.

`load_models` finds the models, `predict` gives diagnosis, severity, maps and warnings of one image,
and `predict_files` does it for files and folders. `quality` looks at the image itself. The package
imports the pipeline and all packages before it. The names below are loaded on first use.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
