"""The reproduction on one page: each stage loads its artifact or makes it, and makes first what it stands on.

DEPENDS is the one table of what a stage depends on: fields of the profile, and earlier stages. Its hash names the artifact, so an
ablation of a late stage reuses all that comes before it.
"""

from dataclasses import dataclass

from . import films
from .artifacts import Store


@dataclass(frozen=True)
class Depends:
    """What a stage reads: `fields` of the profile (dots reach inside), `stages` before it; `recipe` counts changes of its code."""

    fields: tuple[str, ...]
    stages: tuple[str, ...] = ()
    recipe: int = 1


DEPENDS = {
    "cohort": Depends(("seed", "cohort")),
}


def settings(profile, stage):
    """The nested dict of everything that `stage` depends on. Raises ValueError for an unknown stage."""
    if stage not in DEPENDS:
        raise ValueError(f"unknown stage {stage!r}; known: {list(DEPENDS)}")
    needs, values = DEPENDS[stage], profile.to_dict()
    picked = {}
    for path in needs.fields:
        value = values
        for name in path.split("."):
            value = value[name]
        picked[path] = value
    return {"recipe": needs.recipe, **picked, **{f"after {name}": settings(profile, name) for name in needs.stages}}


def cohort(profile, store=None):
    """The films of the virtual hospitals that the profile asks for, drawn once -> films.Films."""
    store = store or Store()
    folder = store.load_or_make("cohort", settings(profile, "cohort"), lambda part: films.draw(part, profile.cohort, profile.seed))
    return films.Films(folder)
