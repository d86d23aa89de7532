"""Settings from outside: files and assignments give the profile that they describe, or a message
that names file and field.
"""

import json
from dataclasses import fields, replace

import pytest

from cxrkit.config import profiles, settings_file
from cxrkit.config.choices import Choices, without_removed
from cxrkit.config.sections import Training
from cxrkit.config.settings_file import from_file, get_profile, resolve_profile, write_settings

YAML = """\
base: paper
name: our_hospital
external: [north, south]
transformer_training: {batch: 4, accumulate: 4}
sources: {shares: [[chexpert, 0.5], [local, 0.5]]}
choices: author
"""
TOML = """\
base = "paper"
name = "our_hospital"
external = ["north", "south"]
choices = "author"
[transformer_training]
batch = 4
accumulate = 4
[sources]
shares = [["chexpert", 0.5], ["local", 0.5]]
"""


def written(folder, text, name="ours.yaml"):
    path = folder / name
    path.write_text(text)
    return path


# files


@pytest.mark.parametrize("name, text", [("a.yaml", YAML), ("a.yml", YAML), ("a.toml", TOML)])
def test_a_file_changes_what_it_names_and_nothing_else(tmp_path, name, text):
    paper = profiles.paper()
    expected = replace(
        paper,
        name="our_hospital",
        external=("north", "south"),
        transformer_training=replace(paper.transformer_training, batch=4, accumulate=4),
        sources=replace(paper.sources, shares=(("chexpert", 0.5), ("local", 0.5))),
        choices=Choices.author(),
    )
    path = written(tmp_path, text, name)
    assert from_file(path) == get_profile(str(path)) == resolve_profile(str(path)) == expected


def test_a_file_without_base_and_name_departs_from_demo_and_is_named_as_the_file(tmp_path):
    path = written(tmp_path, "seed: 7\n", "seventh.yaml")
    assert from_file(path) == replace(profiles.demo(), name="seventh", seed=7)


def test_a_base_may_leave_datasets_out(tmp_path):
    path = written(tmp_path, "base: paper-local\n")
    assert from_file(path) == replace(profiles.get("paper-local"), name="ours")


def test_single_choices_depart_from_the_base_and_a_preset_replaces_all(tmp_path):
    one = from_file(written(tmp_path, "choices: {class_head: binary}\n"))
    assert one.choices == replace(profiles.demo().choices, class_head="binary")
    text = from_file(written(tmp_path, "choices: text\n"))
    assert text.choices == Choices.text() != profiles.demo().choices


def test_a_section_that_is_absent_by_default_takes_the_defaults_of_its_kind(tmp_path):
    found = from_file(written(tmp_path, "variant: {pretraining: {steps: 9}}\n"))
    assert found.variant.pretraining == Training(steps=9)


@pytest.mark.parametrize("name", ["demo", "mini", "paper", "paper-local", "mini+dry", "paper+dry"])
def test_a_profile_written_to_a_file_is_read_back_equal(tmp_path, name):
    profile = profiles.get(name)
    path = write_settings(profile, tmp_path / "deep" / "settings.yaml")
    found = from_file(path)
    # 1 == 1.0, and yet the two would give two keys
    assert found == profile and repr(found) == repr(profile)


WRONG_FILES = {
    "no such field": ("sed: 3\n", "sed: unknown field"),
    "no such field of a section": ("transformer: {depht: 3}\n", "transformer.depht: unknown field"),
    "no such choice": ("choices: {resise: pad}\n", "choices.resise: unknown field"),
    "no number": ("seed: three\n", "seed: Input should be a valid integer"),
    "half a step": ("unet_training: {steps: 1.5}\n", "unet_training.steps: Input should be"),
    "nothing": ("seed:\n", "seed: Input should be a valid integer"),
    "no list": ("external: north\n", "external: Input should be a valid tuple"),
    "no numbers in a list": ("grid: {seeds: [0, b]}\n", "grid.seeds.1: Input should be"),
    "no section": ("transformer: 12\n", "transformer: Input should be a dictionary"),
    "no value of the choice": (
        "choices: {zone_origin: top}\n",
        "choices: Choices.zone_origin (the zone lines start at) = 'top'; known values: "
        "['lungs', 'row0']",
    ),
    "no preset": (
        "choices: late\n",
        "choices: unknown preset of choices 'late'; known: ['author', 'text']",
    ),
    "no profile": (
        "base: big\n",
        "base: unknown profile 'big'; known: ['demo', 'quick', 'mini', 'public', 'paper']",
    ),
    "no dataset to leave out": ("base: paper-mars\n", "base: unknown change '-mars'"),
    "a base that is no name": ("base: [paper]\n", "base: unknown profile"),
    "a name that is no folder": ("name: a/b\n", "name: 'a/b' must be letters"),
    "a name that is none": ("name: [a]\n", "name: Input should be a valid string"),
    "the name of another": ("name: mini\n", "name: 'mini' is a profile of the kit"),
    "the name of another's trial": ("name: mini+dry\n", "name: 'mini+dry' is a profile of the kit"),
    "no table": ("- seed\n", "must hold fields of a profile, such as `base: paper`"),
    "empty": ("", "must hold fields of a profile"),
    "no YAML": ("seed: [1\n", "cannot be read as yaml"),
}


@pytest.mark.parametrize("text, message", WRONG_FILES.values(), ids=WRONG_FILES)
def test_a_wrong_file_is_refused_by_file_and_field(tmp_path, text, message):
    path = written(tmp_path, text)
    with pytest.raises(ValueError) as caught:
        from_file(path)
    assert str(caught.value).startswith(str(path)) and message in str(caught.value)


def test_all_wrong_fields_are_named_at_once(tmp_path):
    path = written(tmp_path, "sed: 3\nimage_size: large\n")
    with pytest.raises(ValueError, match="image_size: .*; sed: unknown field"):
        from_file(path)


def test_a_file_that_is_missing_or_no_toml_or_no_text_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="gone.yaml: no such settings file"):
        get_profile(str(tmp_path / "gone.yaml"))
    with pytest.raises(ValueError, match="a.toml cannot be read as toml"):
        from_file(written(tmp_path, "seed: 3\n", "a.toml"))
    (tmp_path / "b.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(ValueError, match="b.yaml cannot be read as yaml"):
        from_file(tmp_path / "b.yaml")


def test_a_file_may_bear_the_name_of_a_profile_that_it_equals(tmp_path):
    assert from_file(written(tmp_path, "base: mini\nname: mini\n")) == profiles.mini()


# assignments and presets


@pytest.mark.parametrize(
    "text, changes",
    [
        ("seed=3", {"seed": 3}),
        (" seed = 3", {"seed": 3}),
        ("transformer_training.batch=4", {"transformer_training": {"batch": 4}}),
        ("external=[north, south]", {"external": ["north", "south"]}),
        ("segmenter.normal=diagnosis == 'x'", {"segmenter": {"normal": "diagnosis == 'x'"}}),
        ("variant.pretraining=null", {"variant": {"pretraining": None}}),
        ("a.b.c=", {"a": {"b": {"c": None}}}),
    ],
)
def test_an_assignment_is_nested_settings(text, changes):
    assert settings_file.parse_assignment(text) == changes


def test_lists_are_replaced_and_sections_are_merged():
    old = {"a": {"b": 1, "c": [1, 2]}, "d": 1}
    assert settings_file.merge(old, {"a": {"c": [3]}, "e": 2}) == {
        "a": {"b": 1, "c": [3]},
        "d": 1,
        "e": 2,
    }
    assert old == {"a": {"b": 1, "c": [1, 2]}, "d": 1}


def test_assignments_change_the_profile_and_give_it_a_name_of_its_own():
    demo = profiles.demo()
    found = resolve_profile("demo", ("seed=3", "transformer_training.batch=4"))
    assert found.name.startswith("demo~") and found.name != "demo~"
    training = replace(demo.transformer_training, batch=4)
    assert replace(found, name="demo") == replace(demo, seed=3, transformer_training=training)
    again = resolve_profile("demo", ("transformer_training.batch=4", "seed=3"))
    assert again.name == found.name, "whatever the order"
    assert resolve_profile("demo", ("seed=4",)).name != found.name
    assert resolve_profile("demo", ("seed=3", "seed=4")).seed == 4, "the last one counts"


def test_a_profile_that_nothing_changes_keeps_its_name():
    assert resolve_profile("mini") == resolve_profile("mini", ("seed=0",)) == profiles.mini()


def test_a_name_may_be_assigned_unless_it_is_that_of_another():
    assert resolve_profile("demo", ("seed=3", "name=third")).name == "third"
    with pytest.raises(ValueError, match="--set: name: 'mini' is a profile of the kit"):
        resolve_profile("demo", ("seed=3", "name=mini"))


def test_presets_come_first_and_assignments_depart_from_them():
    assert resolve_profile("paper", choices="author").choices == Choices.author()
    expected = replace(Choices.author(), class_head="softmax")
    chosen = ("choices=author", "choices.class_head=softmax")
    assert resolve_profile("paper", chosen).choices == expected
    assert resolve_profile("paper", chosen[1:], "author").choices == expected
    assert resolve_profile("paper", choices="text").name != "paper"


def test_assignments_depart_from_a_file(tmp_path):
    path = written(tmp_path, YAML)
    found = resolve_profile(str(path), ("transformer_training.batch=2",), "text")
    assert found.name.startswith("our_hospital~") and found.choices == Choices.text()
    assert found.transformer_training.batch == 2 and found.transformer_training.accumulate == 4


@pytest.mark.parametrize(
    "assignment, message",
    [
        ("seed", "'seed' is no assignment; write field=value, such as seed=3"),
        ("=3", "'=3' is no assignment"),
        ("seed=[1", "the value of 'seed=[1' cannot be read"),
        ("sed=3", "--set: sed: unknown field"),
        ("transformer.depht=3", "--set: transformer.depht: unknown field"),
        ("seed.x=3", "--set: seed: Input should be a valid integer"),
        ("seed=three", "--set: seed: Input should be a valid integer"),
        ("choices=late", "--set: choices: unknown preset of choices 'late'"),
        ("choices.zone_origin=top", "known values: ['lungs', 'row0']"),
        ("name=a/b", "--set: name: 'a/b' must be letters"),
    ],
)
def test_a_wrong_assignment_is_refused_by_field(assignment, message):
    with pytest.raises(ValueError) as caught:
        resolve_profile("demo", (assignment,))
    assert message in str(caught.value)


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"preset of choices 'late'; known: \['author', 'text'\]"):
        resolve_profile("demo", choices="late")


def test_every_field_of_a_profile_can_be_set():
    """A section that pydantic cannot build would be found here."""
    for field in fields(profiles.demo()):
        value = getattr(profiles.demo(), field.name)
        if not isinstance(value, (int, str, tuple)):
            inner = fields(value)[0].name
            text = f"{field.name}.{inner}={json.dumps(getattr(value, inner))}"
            assert resolve_profile("demo", (text,)) == profiles.demo()


def test_settings_of_an_older_kit_are_read_without_the_question_that_went(tmp_path):
    path = tmp_path / "older.yaml"
    path.write_text("base: demo\nchoices: {weighted_maps: channels, resize: pad}\n")
    assert resolve_profile(str(path)).choices == replace(profiles.demo().choices, resize="pad")
    path.write_text("base: demo\nchoices: {weighted_maps: rows}\n")
    with pytest.raises(ValueError, match="weighted_maps: unknown field"):
        resolve_profile(str(path))


def test_a_search_is_read_where_an_older_kit_wrote_it(tmp_path):
    path = tmp_path / "older.yaml"
    path.write_text("base: demo\ngrid: {chosen_rates: [[ViT, 0.01]], most_steps: 77, steps: 3}\n")
    demo = profiles.demo()
    search = replace(demo.grid.diagnosis_search, chosen_rates=(("ViT", 0.01),), most_steps=77)
    asked = resolve_profile(str(path))
    assert asked.grid == replace(demo.grid, diagnosis_search=search, steps=3)
    whole = {"name": "of weights", "grid": {"trial_rates": [0.1], "trial_steps": 2}}
    assert without_removed(whole)["grid"] == {"diagnosis_search": {"rates": [0.1], "steps": 2}}
