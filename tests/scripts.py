"""Scripts outside of the package as modules, for their tests."""

import importlib.util
import sys
from types import ModuleType

from tests.conftest import CHECKOUT


def load_script(path: str) -> ModuleType:
    """The module of a script, such as "tools/grid.py", by its path in the checkout."""
    file = CHECKOUT / path
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for their module
    spec.loader.exec_module(module)
    return module
