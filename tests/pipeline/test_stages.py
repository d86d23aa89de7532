"""The table of stages: keys and what is resolved say the same, each stage is given the folders that
it depends on, and nothing is made twice.
"""

import copy
from dataclasses import fields, is_dataclass, replace

import pytest

from cxrkit.config import profiles
from cxrkit.config.choices import Choices
from cxrkit.config.sections import Training
from cxrkit.pipeline import makers, stages
from cxrkit.pipeline.stages import STAGES, Need, Stage
from cxrkit.reproduction import grid
from cxrkit.storage.artifacts import Store, key
from cxrkit.storage.atomic import read_json, write_json
from cxrkit.storage.integrity import DamagedArtifact

DEMO, MINI = profiles.demo(), profiles.mini()
SIMCLR = {"contrastive": True, "pretraining": Training(steps=3)}


def mini_from_backbone(virtual):
    """Severity of mini that starts from the first weights of the diagnosis."""
    return replace(
        MINI,
        severity=replace(MINI.severity, virtual=False),
        choices=replace(MINI.choices, severity_start="backbone"),
        sources=replace(MINI.sources, virtual=virtual),
    )


PROFILES = {
    "demo": DEMO,
    "mini": MINI,
    "paper": profiles.paper(),
    "mini, severity from the backbone": mini_from_backbone(False),
    "mini, severity from the virtual diagnosis": mini_from_backbone(True),
    "demo, auxiliary virtual images": replace(
        DEMO,
        segmenter=replace(DEMO.segmenter, virtual=0.5),
        sources=replace(DEMO.sources, shares=(("virtual", 1.0),), framing="lungs"),
    ),
    "demo, SimCLR": grid.vary(DEMO, **SIMCLR),
    "demo, ResNet": grid.vary(DEMO, model="resnet", widths=(8,) * 4, layers=(1,) * 4),
    "demo, ResNet, SimCLR, severity from the backbone": grid.vary(
        replace(DEMO, choices=Choices(severity_start="backbone")),
        model="resnet",
        widths=(8,) * 4,
        layers=(1,) * 4,
        **SIMCLR,
    ),
}
DIFFERENT = (  # of them, for a test that takes seconds for each
    "mini, severity from the virtual diagnosis",
    "demo, auxiliary virtual images",
    "demo, ResNet, SimCLR, severity from the backbone",
)
every_profile = pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)


# what the table says


def test_stages_depend_on_stages_that_come_to_an_end():
    def depth(profile, name, before=()):
        assert (name, profile) not in before, f"{name} depends on itself"
        earlier = stages.upstream(profile, name)
        path = (*before, (name, profile))
        return 1 + max((depth(p, n, path) for n, p in earlier), default=0)

    for profile in PROFILES.values():
        assert [name for name in STAGES if depth(profile, name) == 1][0] == "cohort"


@every_profile
def test_what_enters_a_key_is_what_is_resolved(profile):
    for name, stage in STAGES.items():
        needs, found = stage.upstream(profile), stages.settings(profile, name)
        keyed = [need for need in needs if need.key]
        assert len({need.key for need in keyed}) == len(keyed), "one would hide another"
        for need in keyed:
            assert found[need.key] == stages.settings(need.profile, need.stage), (name, need.key)
        own = set(found) - {need.key for need in keyed} - {"recipe"}
        assert len(own) <= len(stage.fields)
        assert found["recipe"] == stage.version
        earlier = stages.upstream(profile, name)
        steps = {(need.stage, need.profile) for need in needs if need.used}
        assert set(earlier) == steps and len(earlier) == len(steps), name
        for need in needs:
            if need.stage == "cohort":
                assert need.used == ("virtual" in need.profile.manifests), (name, need.role)


class Asked:
    """Folders of earlier artifacts for a maker; it remembers which ones it was asked for."""

    def __init__(self):
        self.roles = set()

    def __getitem__(self, role):
        self.roles.add(role)
        return role

    weights = __getitem__


STARTS = {  # of the models whose first weights come from elsewhere
    "demo, from scratch": grid.vary(DEMO, initial_weights="random"),
    "demo, ResNet of ImageNet": grid.vary(DEMO, model="resnet", initial_weights="imagenet"),
    "demo, SimCLR from scratch": grid.vary(DEMO, initial_weights="random", **SIMCLR),
    "mini, SimCLR": replace(MINI, variant=replace(MINI.variant, **SIMCLR)),
}


@pytest.mark.parametrize("profile", [*PROFILES.values(), *STARTS.values()])
def test_the_weights_that_a_model_begins_with_are_made_before_it_and_no_others(
    profile, monkeypatch
):
    """What the makers ask for, against the table; images are read with the help of the others."""
    monkeypatch.setattr(makers, "load_imagenet_weights", lambda *_: {})
    monkeypatch.setattr(makers.contrastive, "network_weights", lambda folder: {})
    of_images = {"cohort", "virtual_cohort", "segmenter"}
    first_weights = {"diagnosis_pa": makers.initial_weights, "severity": makers.severity_weights}
    for name, begin in first_weights.items():
        asked = Asked()
        begin(profile, asked)
        needs = [need for need in STAGES[name].upstream(profile) if need.used]
        used = {need.role for need in needs} - of_images - {"joint"}
        # a model of one view takes its part of the joint model, which has begun with them
        assert used == asked.roles, name
        if not asked.roles & {"features", "classifier"}:
            assert ("backbone", profile) not in stages.upstream(profile, name)


def other(name, value):
    """Another value of the same kind for a field."""
    if name == "home":  # the name of a profile
        return "quick"
    if name == "shares":
        return (("virtual", 0.5),) if not value else ()
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, str):
        return "virtual" if value != "virtual" else "random"
    return Training() if value is None else (*value, "virtual")


def changes(section):
    """(path, the section with another value there) for the values in it, also of its sections.

    No stage reads the grid, and trainings are read as a whole: one value of each is enough.
    """
    for field in fields(section)[: 1 if isinstance(section, Training) else None]:
        value = getattr(section, field.name)
        if field.name == "grid":
            continue
        inner = changes(value) if is_dataclass(value) else [("", other(field.name, value))]
        for path, changed in inner:
            whole = copy.copy(section)
            object.__setattr__(whole, field.name, changed)  # past the checks of `Choices`
            yield f"{field.name}.{path}".rstrip("."), whole


def all_keys(profile):
    """stage -> (key of its artifact, keys of the artifacts that it is made from, by role)."""
    found = {}
    for name, stage in STAGES.items():
        needs = [need for need in stage.upstream(profile) if need.used]
        before = {need.role: key(stages.settings(need.profile, need.stage)) for need in needs}
        found[name] = key(stages.settings(profile, name)), before
    return found


@pytest.mark.parametrize("name", DIFFERENT)
def test_another_artifact_before_a_stage_gives_it_another_key(name):
    """Whatever field is changed: two models that were made from other weights never share a key."""
    expected = all_keys(PROFILES[name])
    for path, changed in changes(PROFILES[name]):
        for stage, (own, before) in all_keys(changed).items():
            if before != expected[stage][1]:
                assert own != expected[stage][0], (stage, path)


def test_the_virtual_hospitals_have_the_seed_of_the_profile():
    assert profiles.virtual(replace(MINI, seed=4)) == replace(DEMO, seed=4)
    assert profiles.virtual(DEMO) == DEMO
    other = replace(profiles.quick(), seed=4)
    assert profiles.virtual(other) == other


def test_no_stage_of_quick_needs_one_of_the_demo():
    """Its studies have its own cohort and backbone: everything from scratch takes minutes."""
    asked = [(name, profiles.quick()) for name in STAGES]
    while asked:
        name, profile = asked.pop()
        assert profile.name == "quick", name
        asked += stages.upstream(profile, name)


@pytest.mark.parametrize(
    "call",
    [
        lambda store: stages.stage_of("spine"),
        lambda store: stages.settings(DEMO, "spine"),
        lambda store: stages.upstream(DEMO, "spine"),
        lambda store: stages.folder_of(DEMO, "spine", store),
        lambda store: stages.is_done(DEMO, "spine", store),
        lambda store: stages.resolve(DEMO, "spine", store),
    ],
)
def test_an_unknown_stage_is_refused_with_the_known_ones(tmp_path, call):
    with pytest.raises(ValueError, match=r"unknown stage 'spine'; known: \['cohort', 'backbone'"):
        call(Store(tmp_path))
    assert not list(tmp_path.iterdir())


# how stages are made


@pytest.fixture
def toys(monkeypatch):
    """Three stages that write down what they are given; -> names in the order they are made."""
    made = []

    def make(name):
        def fill(folder, profile, inputs):
            made.append(name)
            given = {role: path.name for role, path in inputs.folders.items()}
            assert all(path.is_dir() for path in inputs.folders.values())
            write_json(folder / "given.json", [given, profile.seed])

        return fill

    def needs_of_middle(profile):
        return [
            Need("image source", "first", profile, "after first"),
            Need("start", "first", replace(profile, seed=9), "start"),
            Need("unused", "last", profile, "", used=False),
        ]

    def needs_of_last(profile):
        return [
            Need("one", "middle", profile, "after middle"),
            Need("images", "first", profile),
            Need("images again", "first", profile),
        ]

    table = (
        Stage("first", ("seed",), make("first"), stages.nothing, stages.no_images),
        Stage(
            "middle",
            ("seed", "image_size"),
            make("middle"),
            needs_of_middle,
            stages.no_images,
            version=3,
        ),
        Stage("last", ("seed",), make("last"), needs_of_last, stages.no_images),
    )
    monkeypatch.setattr(stages, "STAGES", {stage.name: stage for stage in table})
    return made


def test_a_stage_is_made_after_what_it_depends_on_and_given_its_folders(toys, tmp_path):
    store = Store(tmp_path)
    folder = stages.resolve(DEMO, "last", store)
    assert folder == stages.folder_of(DEMO, "last", store) and stages.is_done(DEMO, "last", store)
    assert toys == ["first", "first", "middle", "last"], "each once, what is needed first"
    first, middle = (stages.folder_of(DEMO, name, store) for name in ("first", "middle"))
    start = stages.folder_of(replace(DEMO, seed=9), "first", store)
    given, seed = read_json(folder / "given.json")
    assert given == {"one": middle.name, "images": first.name, "images again": first.name}
    assert seed == DEMO.seed
    given, _ = read_json(middle / "given.json")
    assert given == {"image source": first.name, "start": start.name}, "nothing that is not used"


def test_what_is_in_the_store_is_loaded_and_an_ablation_shares_what_comes_before(toys, tmp_path):
    store = Store(tmp_path)
    stages.resolve(DEMO, "last", store)
    toys.clear()
    assert stages.resolve(DEMO, "last", store).is_dir() and toys == []
    stages.resolve(replace(DEMO, image_size=5), "last", store)
    assert sorted(toys) == ["last", "middle"]


def test_a_finished_stage_needs_nothing_before_it(toys, tmp_path):
    """Weights that were handed over alone are enough."""
    store = Store(tmp_path)
    write_json(stages.folder_of(DEMO, "last", store) / "given.json", [])
    stages.resolve(DEMO, "last", store)
    assert toys == [] and len(list(tmp_path.iterdir())) == 1


def test_an_empty_folder_is_no_finished_stage(toys, tmp_path):
    """What a copy of a store leaves that was interrupted early."""
    folder = stages.folder_of(DEMO, "last", Store(tmp_path))
    folder.mkdir(parents=True)
    with pytest.raises(DamagedArtifact, match=f"{folder.name} is damaged: it is empty. Delete "):
        stages.resolve(DEMO, "last", Store(tmp_path))


def test_a_stage_that_fails_is_not_finished_and_what_came_before_it_is(toys, tmp_path):
    store = Store(tmp_path)

    def fails(folder, profile, inputs):
        raise RuntimeError("power cut")

    stages.STAGES["last"] = replace(stages.STAGES["last"], make=fails)
    with pytest.raises(RuntimeError, match="power cut"):
        stages.resolve(DEMO, "last", store)
    assert not stages.is_done(DEMO, "last", store) and stages.is_done(DEMO, "middle", store)


def test_settings_hold_fields_version_and_what_comes_before(toys):
    assert stages.settings(DEMO, "middle") == {
        "recipe": 3,
        "seed": 0,
        "image_size": 128,
        "after first": {"recipe": 1, "seed": 0},
        "start": {"recipe": 1, "seed": 9},
    }
    assert stages.upstream(DEMO, "middle") == [("first", DEMO), ("first", replace(DEMO, seed=9))]
    assert stages.upstream(DEMO, "last") == [("middle", DEMO), ("first", DEMO)], "each once"
