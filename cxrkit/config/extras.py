"""Extras: the optional parts of the kit, and whether what they need is installed.

Versions stand in pyproject.toml alone; they are read from the metadata of the installed kit.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.requirements import Requirement


class MissingExtra(ImportError):
    """An optional part of the kit is not installed; the message says how to get it."""


def requirements(extra: str = "") -> list[Requirement]:
    """The kit's own requirements.

    Args:
        extra: Name of an extra, whose requirements are meant; "" = those of the kit itself.

    Raises:
        importlib.metadata.PackageNotFoundError: The kit is not installed.
    """
    from packaging.requirements import Requirement

    found = []
    for text in importlib.metadata.requires("cxrkit") or []:
        requirement = Requirement(text)
        marker = requirement.marker
        always = marker is None or marker.evaluate({"extra": ""})
        with_extra = marker is None or marker.evaluate({"extra": extra})
        if always != bool(extra) and with_extra:
            found.append(requirement)
    return found


def unmet_requirements(needs: Iterable[Requirement]) -> list[str]:
    """Those of the requirements that are missing or too old, each as text.

    Args:
        needs: Such as `requirements()`.
    """
    missing = []
    for need in needs:
        try:
            version = importlib.metadata.version(need.name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(need.name)
            continue
        if not need.specifier.contains(version, prereleases=True):
            missing.append(f"{need.name} {version} (needs {need.specifier})")
    return missing


def require_extra(name: str, what: str) -> None:
    """Check that an extra is installed before a command needs it.

    Args:
        name: Of the extra, such as "lessons".
        what: That needs it, such as "cxrkit reproduce", for the message.

    Raises:
        MissingExtra: With the packages that are missing or too old, and the next step.
    """
    try:
        missing = unmet_requirements(requirements(name))
    except importlib.metadata.PackageNotFoundError:
        return  # used from a folder without being installed: imports decide
    if missing:
        raise MissingExtra(
            f"{what} needs the extra {name!r}; missing or too old: {', '.join(missing)}. "
            f'Run: pip install "cxrkit[{name}]"'
        )
