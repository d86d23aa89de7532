"""Virtual hospitals: chest radiographs of patients who do not exist, made from three CTs.

The package holds the atlases, the bent anatomy and its projection, diseases and support devices as
added attenuation, the arrangement of infections, the X-ray detector, six hospitals with their
patients, and cohorts drawn to disk. It imports `config`, `storage` and `data`. The names below are
loaded on first use.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
