"""Evaluation: metrics with intervals by patient, tests of model against model, summaries of them.

It holds AUC, operating points, severity and agreement metrics, calibration, the grouped bootstrap,
overlap of masks, localisation of severity maps, follow-up of patients, and linear probes on trivial
image features. It may import `cxrkit.training` and the packages before it. The public names are
loaded on first use, so that importing one module does not import the others.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
