"""Shortcuts: what a model learns where something other than the disease predicts the diagnosis.

`marker_study` ties a marker in the corner to the diagnosis and measures what models make of it.
`trivial_models` asks how far one gets on the virtual hospitals without seeing disease.
`within_source` compares a diagnosis inside one source with models that see no disease. The package
imports `config`, `storage`, `data`, `simulation`, `models`, `training`, `evaluation`, `tasks` and
`explain`. The names below are loaded on first use, so that importing one module does not import the
others.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
