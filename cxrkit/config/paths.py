"""Where the package lies, the checkout around it where there is one, and the data of its models."""

import importlib.util
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
MODELS = "cxrkit_models"  # a package of its own, packages/cxrkit-models in the repository


def checkout() -> Path | None:
    """The folder of the git checkout that the package is used from; None for an installed wheel."""
    root = PACKAGE.parent
    return root if (root / "pyproject.toml").is_file() else None


def models_package() -> Path | None:
    """The folder of the installed package `cxrkit-models`; None where it is not installed."""
    found = importlib.util.find_spec(MODELS)
    return Path(found.origin).parent if found and found.origin else None


def bundled(folder: str) -> Path:
    """Where a folder of trained models lies: beside our code, else in `cxrkit-models`.

    Args:
        folder: below the package, such as "inference/weights".

    Returns:
        A path inside `cxrkit` where that exists or no other does.
    """
    own, other = PACKAGE / folder, models_package()
    if own.is_dir() or other is None:
        return own
    return other / folder


def lab_result(name: str) -> Path:
    """File of a result of `benchmarks/`, such as "real_films": docs/lab of a checkout.

    Args:
        name: of the file, without its suffix.

    Returns:
        Where it lies, or would lie; an installed kit has a copy beside its modules.
    """
    root = checkout()
    folder = root / "docs" / "lab" if root else PACKAGE / "lab"
    return folder / f"{name}.json"
