"""What of a profile is hashed into keys, and under which names: a key outlives the code."""

import copy
from dataclasses import dataclass, field, fields, make_dataclass, replace

import pytest

from cxrkit.config import profiles, sections
from cxrkit.config.sections import optional, renamed
from cxrkit.pipeline import keys, stages
from cxrkit.storage.artifacts import key
from tests.fakes.real_profiles import begins_as_virtual


@dataclass(frozen=True)
class Inner:
    size: int = 3
    masks: str = "segmenter"
    later: int = optional(0)
    known_as: int = optional(1, "first_name")


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    moved: Inner = renamed(Inner(size=5), "first_place")
    seeds: tuple = (0, 1)
    most: int = optional(0, "films")
    maybe: Inner | None = None


def test_a_section_is_hashed_as_plain_values_under_first_names():
    assert keys.hashable(Outer()) == {
        "inner": {"size": 3, "masks": "segmenter"},
        "first_place": {"size": 5, "masks": "segmenter"},
        "seeds": (0, 1),
        "maybe": None,
    }


def test_optional_fields_enter_where_they_depart_from_their_default():
    changed = Outer(inner=Inner(later=7, known_as=2), most=3, maybe=Inner(later=1))
    found = keys.hashable(changed)
    assert found["inner"] == {"size": 3, "masks": "segmenter", "later": 7, "first_name": 2}
    assert found["films"] == 3 and "most" not in found
    assert found["maybe"] == {"size": 3, "masks": "segmenter", "later": 1}


def test_paths_reach_inside_and_name_every_section_as_it_was():
    profile = Outer(moved=Inner(size=9, known_as=2))
    picked = keys.pick(profile, ("inner.size", "moved.size", "moved.known_as", "inner.later"))
    assert picked == {"inner.size": 3, "first_place.size": 9, "first_place.first_name": 2}
    assert keys.pick(profile, ("most", "moved")) == {
        "first_place": {"size": 9, "masks": "segmenter", "first_name": 2}
    }


def test_a_field_that_does_not_exist_is_an_error_in_the_table_of_stages():
    with pytest.raises((AttributeError, StopIteration)):
        keys.pick(Outer(), ("inner.sise",))


def test_a_value_that_was_renamed_enters_as_its_first_one():
    assert keys.hashable(Inner(masks="annotated"))["masks"] == "drawn"
    profile = profiles.demo()
    annotated = replace(profile, severity=replace(profile.severity, masks="annotated"))
    assert stages.settings(annotated, "severity")["quantifier"]["masks"] == "drawn"


@pytest.mark.parametrize(
    "stage, old, new",
    [
        ("backbone", "start", "initial_weights"),
        ("segmenter", "judge_widths", "discriminator_widths"),
        ("segmenter", "deliver", "output_network"),
        ("segmenter", "judged", "max_eval_images"),
        ("severity", "aside", "held_out"),
        ("severity", "diagnosed", "auxiliary_diagnosis"),
    ],
)
def test_renamed_fields_of_the_profile_enter_under_their_first_name(stage, old, new):
    section = {"backbone": "backbone", "segmenter": "segmenter", "severity": "quantifier"}[stage]
    found = stages.settings(profiles.demo(), stage)[section]
    assert old in found and new not in found


def test_renamed_fields_that_are_optional_enter_under_their_first_name():
    mini = begins_as_virtual()
    found = stages.settings(mini, "diagnosis_pa")
    assert found["sources.together"] and found["sources.aside"] == ("cohen", "cxnet")
    own = replace(mini, sources=replace(mini.sources, class_mask="own"))
    assert stages.settings(own, "diagnosis")["sources.contrast"] == "own"
    resnet = replace(mini.variant, model="resnet", initial_weights="imagenet", max_images=5)
    found = stages.settings(replace(mini, variant=resnet), "diagnosis")
    assert (found["variant.start"], found["variant.films"]) == ("imagenet", 5)
    few = stages.settings(replace(mini, saliency_images=2, saliency_blocks=3), "saliency_benchmark")
    assert (few["court_films"], few["court_parts"]) == (2, 3)
    assert "court_films" not in stages.settings(mini, "saliency_benchmark")
    brixia = replace(profiles.paper().sources, findings_datasets=("brixia",))
    found = stages.settings(replace(profiles.paper(), sources=brixia), "backbone")
    assert found["sources.findings"] == ("brixia",)


SECTIONS = [kind for kind in vars(sections).values() if hasattr(kind, "__pydantic_config__")]


@pytest.mark.parametrize("kind", SECTIONS, ids=lambda kind: kind.__name__)
def test_no_two_fields_of_a_section_share_a_name_in_the_key(kind):
    names = [keys.key_name(field) for field in fields(kind)]
    assert len(set(names)) == len(names)


def test_a_field_that_is_added_as_optional_changes_no_key():
    """The next release adds a field to the training, as `optional` wants it."""
    training = profiles.demo().transformer_training
    longer = make_dataclass(
        "Longer", [("lookahead", int, optional(0))], bases=(sections.Training,), frozen=True
    )
    same = longer(**vars(training))
    other = longer(**vars(training), lookahead=5)
    assert keys.hashable(same) == keys.hashable(training)
    assert keys.hashable(other) == {**keys.hashable(training), "lookahead": 5}
    profile = replace(profiles.demo(), transformer_training=same)
    for stage in stages.STAGES:
        before = key(stages.settings(profiles.demo(), stage))
        assert key(stages.settings(profile, stage)) == before


@pytest.mark.parametrize("stage", stages.STAGES.values(), ids=lambda stage: stage.name)
def test_every_field_that_a_stage_reads_is_in_its_key_where_it_departs_from_its_default(stage):
    """No path of the table is misspelt, and none is left out by mistake."""
    for path in stage.fields:
        changed = with_value(profiles.paper(), path, "a value that no profile has")
        assert list(keys.pick(changed, (path,)).values()) == ["a value that no profile has"], path


def with_value(section, path, value):
    """The section with any value in a field, by a path with dots."""
    name, _, rest = path.partition(".")
    if rest:
        value = with_value(getattr(section, name), rest, value)
    changed = copy.copy(section)
    object.__setattr__(changed, name, value)
    return changed
