"""The confound dial against made-up hospitals: markers by hand, corners that must be empty, and a
letter that must be learnt.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from cxrkit.config import profiles
from cxrkit.config.vocabulary import DIAGNOSES
from cxrkit.models import factory
from cxrkit.shortcuts import marker_study
from cxrkit.simulation import hospital as hospital_module
from cxrkit.simulation import radiograph

SIZE = 128
PROFILE = replace(
    profiles.demo(),
    image_size=64,
    transformer=profiles.ViT(embed_dim=16, depth=1, num_heads=2),
    backbone=profiles.DenseNet(
        growth_rate=4, block_config=(1, 1, 1, 1), num_init_features=8, stem=1, stride=16
    ),
)


@pytest.fixture(scope="module")
def images():
    """Six films of smooth grey with noise, each with a marker in the corner, and their lines of
    films.csv.
    """
    rng, rows, films = np.random.default_rng(0), [], []
    for i in range(6):
        image = (100 + 40 * np.linspace(0, 1, SIZE)[None] + rng.normal(0, 2, (SIZE, SIZE))).astype(
            np.uint8
        )
        top, left, bottom, right = radiograph.write_marker(image, radiograph.MARKERS[i % 3], rng)
        films.append(image)
        rows.append(
            {
                "row": i,
                "number": i,
                "diagnosis": DIAGNOSES[i // 2],
                "group_id": f"g{i}",
                "marker_top": top,
                "marker_left": left,
                "marker_bottom": bottom,
                "marker_right": right,
            }
        )
    return np.stack(films), pd.DataFrame(rows)


@pytest.fixture(scope="module")
def ward(images):
    torch.manual_seed(0)
    return marker_study.ward(
        images[1], images[0], factory.backbone_network(PROFILE).eval(), PROFILE
    )


def test_markers_follow_the_dial_as_they_do_in_a_hospital():
    """Exact at rho = 1, a third by luck at 0, and as often as `cohort.Hospital` writes them in
    between.
    """
    codes = np.arange(3000) % 3
    assert (marker_study.markers(codes, 1.0) == codes).all()
    for rho in (0.0, 0.5):
        own = (marker_study.markers(codes, rho) == codes).mean()
        hospital = hospital_module.Hospital("alder", rho=rho, n=3000)
        theirs = np.mean(
            [
                hospital.marker_of(i, DIAGNOSES[codes[i]]) == radiograph.MARKERS[codes[i]]
                for i in range(3000)
            ]
        )
        assert own == pytest.approx((1 + 2 * rho) / 3, abs=0.03) and own == pytest.approx(
            theirs, abs=0.04
        )
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        marker_study.markers(codes, 1.5)


def test_an_erased_marker_is_gone_and_the_rest_stays(images):
    for image, row in zip(images[0], images[1].to_dict("records"), strict=True):
        clean = marker_study.erase(image, row)
        box = (
            slice(max(0, row["marker_top"]), row["marker_bottom"]),
            slice(row["marker_left"], row["marker_right"]),
        )
        assert image[box].max() > 170 > 155 > clean[box].max(), (
            "bright letters, then the grey of the film, which is 146 at most"
        )
        outside = np.ones_like(image, bool)
        outside[box] = False
        assert (clean[outside] == image[outside]).all()


def test_between_two_markers_only_the_corner_changes(images):
    clean = marker_study.erase(images[0][0], images[1].iloc[0])
    (one, box), (other, _) = marker_study.write(clean, 0, 5), marker_study.write(clean, 2, 5)
    again, _ = marker_study.write(clean, 0, 5)
    changed = np.argwhere(one != other)
    assert (one == again).all() and len(changed) > 10
    assert changed.max() < SIZE // 3 and changed[:, 0].min() >= box[0], (
        "in the upper corner, at one height"
    )


def test_a_ward_holds_every_film_with_every_marker(images, ward):
    assert {name: tuple(x.shape[:2]) for name, x in ward.seen.items()} == dict.fromkeys(
        marker_study.READERS, (3, 6)
    )
    assert (
        ward.seen["pixels"].shape[2:] == (1, 64, 64)
        and ward.seen["first layers"].shape[3:] == ward.seen["corpus"].shape[3:]
    )
    worn = np.array([0, 1, 2, 0, 1, 2])
    picked = ward.wearing("pixels", worn)
    for i, marker in enumerate(worn):
        assert torch.equal(picked[i], ward.seen["pixels"][marker, i].float())
    gap = (ward.seen["pixels"][0] - ward.seen["pixels"][2]).abs().amax((0, 1))
    assert gap[:20, :32].max() > 0.2 and gap[32:, 40:].max() < 0.1


def test_without_a_marker_there_is_nothing_to_exchange(images):
    torch.manual_seed(0)
    bare = marker_study.ward(
        images[1], images[0], factory.backbone_network(PROFILE).eval(), PROFILE, "marker erased"
    )
    assert all(torch.equal(x[0], x[1]) and torch.equal(x[0], x[2]) for x in bare.seen.values())


def test_linear_reader_starts_at_chance_and_standardises():
    features = torch.randn(50, 2, 3, 3) * 7 + 4
    reader = marker_study.Linear(features)
    assert marker_study.probabilities(reader, features) == pytest.approx(1 / 3, abs=0.2)
    z = (features.flatten(1) - reader.mean) / reader.spread
    assert z.mean(0).abs().max() < 1e-5 and torch.allclose(z.std(0), torch.ones(18), atol=1e-2)


def test_a_letter_is_learnt_at_one_and_not_at_zero(monkeypatch):
    """Films of noise in which only the marker differs: at rho = 1 the reader obeys it, at 0 it may
    not.
    """
    rng = np.random.default_rng(0)
    codes = np.arange(240) % 3
    films = torch.tensor(rng.normal(0, 1, (240, 1, 4, 4)), dtype=torch.float32)
    worn = films.expand(3, -1, -1, -1, -1).clone()
    for marker in range(3):
        worn[marker, :, 0, 0, marker] = 3
    table = pd.DataFrame({"group_id": np.arange(240)})
    place = marker_study.Ward(table, codes, {"pixels": worn.half()}, np.zeros((3, 240, 4), int))
    monkeypatch.setattr(marker_study, "DRAWS", 20)
    training = replace(marker_study.LINEAR, lr=1e-2, steps=80)
    found = {}
    for rho in (0.0, 1.0):
        model = marker_study.learn(
            marker_study.Linear,
            place.wearing("pixels", marker_study.markers(codes, rho)),
            codes,
            training,
        )
        found[rho] = (
            marker_study.obeys(marker_study.swapped(model, place, "pixels")),
            marker_study.judge(model, place, "pixels", codes)["value"],
        )
    assert found[1.0][0] > 0.9 and found[1.0][1] > 0.98
    assert found[0.0][0] < 0.7 and found[0.0][1] < 0.9


def test_even_draws_make_every_pair_equally_likely():
    codes, worn = np.array([0, 0, 0, 0, 1, 1, 1, 2]), np.array([0, 0, 0, 1, 1, 1, 0, 2])
    chances = marker_study.even(codes, worn)
    totals = pd.Series(chances).groupby([codes, worn]).sum()
    np.testing.assert_allclose(totals, 1)


def test_obeying_counts_films_whose_answer_changes():
    p = np.zeros((3, 4, 3))
    p[:, :, 0] = 1
    assert marker_study.obeys(p) == 0
    p[2, 1] = (0, 0, 2)
    assert marker_study.obeys(p) == 0.25


def test_relevance_on_the_marker_is_a_share(ward, monkeypatch):
    """A share between 0 and 1 beside the share of cells that carry letters: counted here by hand."""
    monkeypatch.setattr(marker_study, "DRAWS", 20)
    torch.manual_seed(0)
    model, worn = marker_study.vit(ward.seen["first layers"][0], PROFILE).eval(), np.zeros(6, int)
    found = marker_study.on_marker(model, ward, "first layers", worn, SIZE)
    cell = SIZE // ward.seen["first layers"].shape[-1]
    cells = [
        len(
            {
                (y // cell, x // cell)
                for y in range(max(0, top), bottom)
                for x in range(max(0, left), right)
            }
        )
        for top, left, bottom, right in ward.boxes[0]
    ]
    assert (
        found["chance"] == pytest.approx(np.mean(cells) / (SIZE // cell) ** 2)
        and 0 <= found["value"] <= 1
        and found["n"] == 6
    )


def test_wards_take_whole_places_and_no_training_film_twice():
    rows = [
        {
            "ward": "diagnosis",
            "external": int(i % 3 == 2),
            "split": ("train", "val", "test")[i % 2 + (i % 4 == 1)],
            "row": i,
        }
        for i in range(300)
    ]
    places = marker_study.wards(pd.DataFrame(rows))
    assert not set(places["train"]["row"]) & (
        set(places["internal"]["row"]) | set(places["external"]["row"])
    )
    assert (places["train"]["split"] == "train").all() and (
        places["internal"]["split"] != "train"
    ).all()
    assert places["external"]["external"].all() and len(places["external"]) == 100
