"""Profiles and Choices: frozen values, defaults that a reader can look up, ablations that change
one thing.
"""

import dataclasses
import json

import pytest

from cxrkit.config import choices as choices_module
from cxrkit.config import profiles, sections
from cxrkit.config.choices import Choices
from cxrkit.pipeline import stages

# SPEC 2.1, the bold values, written out by hand.
DEFAULTS = {
    "brixia_threshold": 1,
    "array_columns": "patient_right",
    "zone_height": "joint",
    "zone_origin": "lungs",
    "lung_sides": "components",
    "map_scale": 16,
    "sigmoid": "before_mask",
    "severity_loss": "mse",
    "severity_score": "soft",
    "class_head": "softmax",
    "mlp_dim": 3072,
    "pretraining_images": "all",
    "class_balance": "equal",
    "map_upsampling": "nearest",
    "map_norm": "none",
    "map_widths": "halved",
    "map_evidence": "tokens",
    "zone_maximum": "pixel",
    "lr_decay": "epochs_10_15",
    "uncertain": "mixed",
    "resize": "plain",
    "augmentation": "affine",
    "stretch": "robust",
    "working_size": "double",
    "order": "equalize_first",
    "threshold_from": "validation",
    "views": "known",
    "normalize": "fixed",
    "severity_start": "classifier",
}


def test_defaults_are_those_of_the_specification():
    assert dataclasses.asdict(Choices()) == DEFAULTS


def test_every_choice_is_explained():
    inside = {name for name in choices_module.OPEN_CHOICES if "." not in name}
    assert inside == {field.name for field in dataclasses.fields(Choices)}
    for question, values in choices_module.OPEN_CHOICES.values():
        assert question and all(values.values()) and len(values) > 1, "one reading is no choice"


def test_a_choice_with_a_dot_is_a_field_of_that_section():
    paper = profiles.paper()
    for name, (_, values) in choices_module.OPEN_CHOICES.items():
        assert profiles.choice_of(paper, name) == next(iter(values)), name
    other = profiles.ablations(paper)["backbone.initial_weights=imagenet"]
    assert other.backbone == dataclasses.replace(paper.backbone, initial_weights="imagenet")
    assert dataclasses.replace(other, backbone=paper.backbone) == paper


def test_an_unknown_value_is_refused_with_the_known_ones():
    with pytest.raises(
        ValueError, match=r"zone_origin .* = 'top'; known values: \['lungs', 'row0'\]"
    ):
        Choices(zone_origin="top")
    with pytest.raises(ValueError):
        dataclasses.replace(Choices(), mlp_dim=1000)


def test_presets_differ_from_the_defaults_where_the_paper_or_the_code_does():
    def changed(choices):
        return {
            name: value
            for name, value in dataclasses.asdict(choices).items()
            if value != DEFAULTS[name]
        }

    stored = {"stretch": "min_max", "working_size": "own"}
    assert changed(Choices.text()) == {
        **stored,
        "threshold_from": "test",
        "lr_decay": "two_thirds",
    }
    assert changed(Choices.author()) == {
        **stored,
        "zone_origin": "row0",
        "class_head": "binary",
        "mlp_dim": 2048,
        "resize": "pad",
    }


@pytest.mark.parametrize("name", profiles.PROFILES)
def test_a_profile_is_frozen_complete_and_json(name):
    profile = profiles.get(name)
    assert profile.name == name and profile.manifests and profile.lesson_minutes > 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        profile.seed = 1
    # no image is turned, which would blur thin lines
    own = {}
    if name in ("demo", "quick", "mini"):
        own = {
            "map_scale": 8,
            "map_evidence": "local",
            "zone_maximum": "tenth",
            "severity_loss": "bce",
        }
    if name in ("demo", "quick"):
        own["augmentation"] = "scanner"
    if name == "mini":
        own |= {"map_evidence": "cells", "severity_start": "backbone"}
    assert json.loads(json.dumps(profile.to_dict()))["choices"] == DEFAULTS | own


def test_the_paper_profile_has_the_paper_s_input_and_demo_needs_no_download():
    assert profiles.paper().image_size == 512 and profiles.demo().manifests == ("virtual",)


def test_an_unknown_profile_is_refused():
    known = r"'big'; known: \['demo', 'quick', 'mini', 'public', 'paper'\]"
    with pytest.raises(ValueError, match=known):
        profiles.get("big")


def test_quick_is_the_demo_with_fewer_films_and_shorter_trainings():
    """The same networks and choices: what runs on quick runs on the demo."""
    demo, quick = profiles.demo(), profiles.quick()
    same = ("image_size", "backbone", "transformer", "severity", "choices", "sources", "variant")
    for name in same:
        assert getattr(quick, name) == getattr(demo, name), name
    trainings = [name for name, value in vars(demo).items() if isinstance(value, sections.Training)]
    for name in trainings:
        long, short = getattr(demo, name), getattr(quick, name)
        assert short.steps < long.steps and short.batch <= long.batch, name
        budget = ("steps", "batch", "warmup", "eval_every")
        changed = {field: getattr(long, field) for field in budget}
        assert dataclasses.replace(short, **changed) == long, name
    for ward in ("findings", "diagnosis", "severity"):
        assert getattr(quick.cohort, ward) < getattr(demo.cohort, ward)
    assert dataclasses.replace(quick.grid, steps=8, max_images=40, batch=0) == demo.grid


def test_what_is_trained_for_a_trial_says_that_it_shows_no_finding():
    """Those that are measured say nothing; a changed profile keeps what its base says."""
    for name in ("demo", "mini", "public", "paper", "paper-local"):
        assert profiles.get(name).caveat == ""
    for name in ("quick", "paper+dry", "demo+dry"):
        assert profiles.get(name).caveat.startswith("No number of this run is a finding")


def test_a_name_may_leave_datasets_out_and_ask_for_a_dry_run():
    paper = profiles.paper()
    name = "paper-local-brixia"
    assert profiles.get(name) == dataclasses.replace(
        paper,
        name=name,
        manifests=(
            "chexpert",
            "chexpert_valid",
            "bimcv_covid19",
            "nih_chestxray14",
            "cohen_full",
        ),
        severity=sections.Severity(),  # the hospitals that take turns lie in `local`
    )
    dry = profiles.get("paper+dry-local")
    assert dry.name == "paper+dry-local" and "local" not in dry.manifests
    for name, training in vars(paper).items():
        if isinstance(training, sections.Training):
            short = getattr(dry, name)
            # the batch is whole
            assert (short.steps, short.batch * short.accumulate) == (2, training.batch)
            assert (
                dataclasses.replace(
                    short,
                    steps=training.steps,
                    batch=training.batch,
                    accumulate=1,
                    warmup=training.warmup,
                )
                == training
            )
    assert (dry.saliency_images, dry.saliency_blocks, dry.max_images) == (2, 2, 3) and (
        paper.saliency_images,
        paper.saliency_blocks,
        paper.max_images,
    ) == (48, 0, 0)
    assert profiles.get("mini+dry").max_images == 0, "no fold without images"
    for same in ("image_size", "backbone", "segmenter", "transformer", "choices", "external"):
        assert getattr(dry, same) == getattr(paper, same)
    for wrong in ("paper-mars", "paper+wet", "demo-local"):
        with pytest.raises(ValueError, match="unknown change"):
            profiles.get(wrong)


def test_results_of_few_images_have_a_name_of_their_own_and_those_of_all_keep_theirs():
    """The key of every stage that reads a table of the profile holds profile.max_images, under its
    first name, and only where not all are taken.
    """
    for name in profiles.PROFILES:
        whole = profiles.get(name)
        few = dataclasses.replace(whole, max_images=3)
        for stage in stages.STAGES:
            reads_no_table = stage in ("cohort", "marker_study")
            reads_no_table |= stage == "alternation" and not whole.severity.alternation
            of_all, of_few = (
                json.dumps(stages.settings(profile, stage)) for profile in (whole, few)
            )
            assert '"films": 3' not in of_all, (name, stage)
            assert (of_few == of_all) == reads_no_table, (name, stage)
            assert reads_no_table or of_few.replace('"films": 3, ', "") == of_all, (name, stage)


def test_each_ablation_changes_one_choice():
    demo = profiles.demo()
    made = profiles.ablations(demo)
    assert len(made) == sum(len(values) - 1 for _, values in choices_module.OPEN_CHOICES.values())
    for label, profile in made.items():
        name, _, value = label.partition("=")
        before = profiles.choice_of(demo, name)
        assert str(profiles.choice_of(profile, name)) == value != str(before)
        section = name.rpartition(".")[0] or "choices"
        assert dataclasses.replace(profile, **{section: getattr(demo, section)}) == demo
        whole, changed = (dataclasses.asdict(getattr(p, section)) for p in (demo, profile))
        assert [field for field in whole if whole[field] != changed[field]] == [
            name.rpartition(".")[2]
        ]
