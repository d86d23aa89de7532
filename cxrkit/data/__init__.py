"""Data: image and DICOM readers, manifests, preprocessing, image cache, datasets, lung zones.

The package also fetches public datasets, splits them by patient, finds leakage and augments. Every
dataset becomes one table (`read_manifest`), every image one grey array (`load_image`), every table
a `CXRDataset`. It imports `config` and `storage`; virtual patients are opened through a registry of
address schemes. The names below are loaded on first use.
"""

import lazy_loader as lazy

from cxrkit.config.choices import OPEN_CHOICES as OPEN_CHOICES
from cxrkit.config.choices import Choices as Choices
from cxrkit.config.vocabulary import BRIXIA as BRIXIA
from cxrkit.config.vocabulary import DIAGNOSES as DIAGNOSES
from cxrkit.config.vocabulary import FINDINGS as FINDINGS
from cxrkit.config.vocabulary import ZONES as ZONES

__getattr__, _, _names = lazy.attach_stub(__name__, __file__)
__all__ = sorted([*_names, "BRIXIA", "DIAGNOSES", "FINDINGS", "OPEN_CHOICES", "ZONES", "Choices"])


def __dir__() -> list[str]:
    return __all__
