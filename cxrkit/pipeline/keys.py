"""Keys: the settings of a profile under the names, and in the form, that are hashed into keys.

A key must outlive the code. Fields that were renamed enter it under their first name, fields that
were added later only where they depart from their default (`config.sections.optional`).
"""

from __future__ import annotations

from dataclasses import Field, fields, is_dataclass
from typing import Any

# values that were renamed: (field, value) -> the value that is hashed
FIRST_VALUES = {("masks", "annotated"): "drawn"}


def key_name(field: Field) -> str:
    """The name under which a field of a section enters a key."""
    return field.metadata.get("key") or field.name


def is_left_out(field: Field, value: Any) -> bool:
    """Whether a field stays out of a key: it has its optional default, or changes no weight."""
    if field.metadata.get("costs_only"):
        return True
    return bool(field.metadata.get("optional")) and value == field.default


def hashable(value: Any) -> Any:
    """A section of a profile, or a plain value, as it is hashed: nested dicts of plain values."""
    if not is_dataclass(value):
        return value
    out = {}
    for field in fields(value):
        inner = getattr(value, field.name)
        if is_left_out(field, inner):
            continue
        if isinstance(inner, str):
            inner = FIRST_VALUES.get((field.name, inner), inner)
        out[key_name(field)] = hashable(inner)
    return out


def pick(profile: Any, paths: tuple[str, ...]) -> dict[str, Any]:
    """What a stage reads of a profile, ready to be hashed.

    Args:
        profile: a `Profile`.
        paths: fields, with dots that reach inside: "image_size", "choices.resize".

    Returns:
        The values by their names in the key; optional fields at their default are left out.
    """
    picked = {}
    for path in paths:
        section, names, left_out = profile, [], False
        for name in path.split("."):
            field = next(f for f in fields(section) if f.name == name)
            value = getattr(section, name)
            names.append(key_name(field))
            left_out = is_left_out(field, value)
            section = value
        if not left_out:
            picked[".".join(names)] = hashable(section)
    return picked
