"""Settings from outside: a profile from a file, and single fields from the command line.

A settings file is YAML or TOML. `base` names a profile of the kit, `choices` may name a preset of
the paper's open choices ("author" or "text"), and every other entry is a field of the profile:

    base: paper
    name: our_hospital
    external: [north, south]
    transformer_training: {batch: 4, accumulate: 4}
    choices: author

Everything is checked against the sections of a profile (`config.sections`); a misspelt name is an
error that names the field.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from cxrkit.config import profiles
from cxrkit.config.choices import Choices, without_removed
from cxrkit.config.sections import Profile

PRESETS = {"author": Choices.author, "text": Choices.text}  # of the open choices
SUFFIXES = (".yaml", ".yml", ".toml")
NAME = re.compile(r"[\w.+~-]+")  # of a profile: it names folders of the store


def preset(name: str) -> Choices:
    """The preset "author" or "text" of the open choices. Raises ValueError for another name."""
    if name not in PRESETS:
        raise ValueError(f"unknown preset of choices {name!r}; known: {list(PRESETS)}")
    return PRESETS[name]()


def read_settings(path: Path) -> dict[str, Any]:
    """The entries of a settings file.

    Raises:
        ValueError: the file is missing, is no YAML or TOML, or holds no table; it is named.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such settings file")
    try:
        if path.suffix == ".toml":
            values = tomllib.loads(path.read_text("utf-8"))
        else:
            values = yaml.safe_load(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as {path.suffix[1:]}: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold fields of a profile, such as `base: paper`")
    return values


def parse_assignment(text: str) -> dict[str, Any]:
    """An assignment of the command line as nested settings.

    "transformer_training.batch=4" -> {"transformer_training": {"batch": 4}}. The value is YAML, so
    `external=[north, south]` is a list.

    Raises:
        ValueError: there is no "=" in the text, or its value is no YAML.
    """
    name, separator, value = text.partition("=")
    if not separator or not name.strip():
        raise ValueError(f"{text!r} is no assignment; write field=value, such as seed=3")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError(f"the value of {text!r} cannot be read: {error}") from None
    for part in reversed(name.strip().split(".")):
        parsed = {part: parsed}
    return parsed


def merge(old: Any, new: Any) -> Any:
    """Nested settings with those of `new` in place of those of `old`; lists are replaced whole."""
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return new
    merged = dict(old)
    for name, value in new.items():
        merged[name] = merge(old[name], value) if name in old else value
    return merged


def _validated(values: dict[str, Any], source: str) -> Profile:
    try:
        profile = TypeAdapter(Profile).validate_python(without_removed(values))
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            where = ".".join(str(part) for part in problem["loc"])
            message = problem["msg"].removeprefix("Value error, ")
            if problem["type"] == "unexpected_keyword_argument":
                message = "unknown field"
            lines.append(f"{where}: {message}" if where else message)
        raise ValueError(f"{source}: " + "; ".join(lines)) from None
    if not NAME.fullmatch(profile.name):
        raise ValueError(f"{source}: name: {profile.name!r} must be letters, digits and . + ~ - _")
    return profile


def apply_settings(profile: Profile, changes: Mapping[str, Any], source: str) -> Profile:
    """A profile with other settings.

    Args:
        profile: the base.
        changes: nested fields; `choices` may be the name of a preset.
        source: where they come from, for messages.

    Raises:
        ValueError: a field is unknown, or a value is of the wrong kind.
    """
    return _validated(merge(asdict(profile), _with_preset(changes, source)), source)


def _with_preset(changes: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The changes with the values of a preset in place of its name."""
    if not isinstance(changes.get("choices"), str):
        return dict(changes)
    try:
        return {**changes, "choices": asdict(preset(changes["choices"]))}
    except ValueError as error:
        raise ValueError(f"{source}: choices: {error}") from None


def kit_profile(name: str) -> Profile | None:
    """The kit's own profile of a name, such as "paper-local"; None where there is none."""
    try:
        return profiles.get(name)
    except ValueError:
        return None


def _refuse_taken_name(profile: Profile, source: str) -> None:
    """Raise ValueError where the lessons and the report of another profile would be overwritten."""
    if kit_profile(profile.name) not in (None, profile):
        raise ValueError(
            f"{source}: name: {profile.name!r} is a profile of the kit; give this one another name"
        )


def from_file(path: Path) -> Profile:
    """The profile that a settings file describes.

    It is named by its `name`, or else as the file.

    Raises:
        ValueError: as `read_settings` and `apply_settings`; or its name is that of another profile
            of the kit, whose lessons and report it would overwrite. The file is named.
    """
    values = {"name": path.stem, **read_settings(path)}
    try:
        base = profiles.get(str(values.pop("base", "demo")))
    except ValueError as error:
        raise ValueError(f"{path}: base: {error}") from None
    profile = apply_settings(base, values, str(path))
    _refuse_taken_name(profile, str(path))
    return profile


def get_profile(name: str) -> Profile:
    """A profile by name, or from a settings file by its path."""
    if name.endswith(SUFFIXES):
        return from_file(Path(name))
    return profiles.get(name)


def resolve_profile(
    name: str, assignments: Sequence[str] = (), choices: str | None = None
) -> Profile:
    """A profile by name or file, with a preset of choices and single fields in place of its own.

    A changed profile gets a name of its own, `<name>~<digest of the changes>`, so that its lessons
    and its report lie apart.

    Args:
        name: of a profile, or path of a settings file.
        assignments: "field=value", with dots that reach inside.
        choices: "author" or "text".

    Raises:
        ValueError: as `apply_settings`.
    """
    profile = get_profile(name)
    changes: dict[str, Any] = {}
    if choices:
        changes = {"choices": asdict(preset(choices))}
    for text in assignments:
        changes = merge(changes, _with_preset(parse_assignment(text), "--set"))
    changed = apply_settings(profile, changes, "--set")
    if changed == profile:
        return profile
    if "name" in changes:
        _refuse_taken_name(changed, "--set")
        return changed
    digest = hashlib.sha256(json.dumps(changes, sort_keys=True, default=list).encode()).hexdigest()
    return replace(changed, name=f"{profile.name}~{digest[:6]}")


def write_settings(profile: Profile, path: Path) -> Path:
    """Write a profile as a settings file that `from_file` reads back equal."""
    values = {"base": "demo", **_plain(asdict(profile))}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), "utf-8")
    return path


def _plain(value: Any) -> Any:
    """Tuples as lists: YAML has no tuples."""
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(inner) for inner in value]
    return value
