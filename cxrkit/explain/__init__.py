"""Explanations: relevance, the methods it is compared with, and the saliency benchmark.

`relevance` and every entry of `METHODS` say which cells of the corpus an output of the corpus ViT
comes from. `measures` holds what can be measured on such a map, and `benchmark` measures all
methods on images whose lesion is known. The package imports `config`, `storage`, `data`, `models`,
`training`, `evaluation` and `tasks`. The names below are loaded on first use, so that importing one
module does not import the others.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
