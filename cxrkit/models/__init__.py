"""Networks: the backbone, the corpus ViT, their baselines, and the lung segmentation networks.

The package also holds the SimCLR head, the factory that builds the model of a profile, and the
loading of published weights. It imports torch and `config` only; torchvision and timm are imported
inside the functions that need them. The names below are loaded on first use, so that importing one
module does not import the others.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
