"""The common law: infections differ by places alone."""

import numpy as np
import pytest

from cxrkit.simulation import arrangement, atlases, patterns
from cxrkit.simulation.hospital import Hospital

INFECTIONS = ("covid", "bacterial", "tuberculosis")


def drawn(infection, places, n=25, source="lidc"):
    """Lesions of n patients."""
    return [
        arrangement.draw_infection(np.random.default_rng([3, i]), infection, places, source)
        for i in range(n)
    ]


@pytest.mark.parametrize("places", arrangement.PLACES)
def test_number_density_and_area_do_not_tell_the_infection(places):
    """The same generator gives the same foci; radii differ by the factor for the area alone."""
    by_infection = [drawn(name, places, 12) for name in INFECTIONS]
    for lesions in zip(*by_infection, strict=True):
        counts = {tuple(sorted(s.kind for s in patient)) for patient in lesions}
        densities = {tuple(sorted(round(s.hu, 6) for s in patient)) for patient in lesions}
        assert len(counts) == len(densities) == 1
        areas = []
        for patient in lesions:
            foci = [
                arrangement.Focus(np.array(s.centre), np.array(s.radius), s.lobes[0])
                for s in patient
                if s.kind == "ground_glass"
            ]
            areas.append(arrangement.seen_area(foci, 1.0, "lidc"))
        assert max(areas) < 1.12 * min(areas)


def test_textbook_places():
    for patient in drawn("covid", "textbook"):
        sides = {s.lobes for s in patient}
        assert sides == set(atlases.SIDES)
        assert np.mean([s.centre[0] for s in patient]) < 235
    for patient in drawn("bacterial", "textbook"):
        assert len({s.lobes for s in patient}) == 1
    for patient in drawn("tuberculosis", "textbook"):
        assert np.mean([s.centre[0] for s in patient]) > 215


def test_in_the_strict_world_only_the_sides_differ():
    height = {}
    for name in INFECTIONS:
        patients = drawn(name, "sides")
        both = [len({s.lobes for s in patient}) == 2 for patient in patients]
        assert all(both) if name == "covid" else not any(both)
        height[name] = np.mean([s.centre[0] for patient in patients for s in patient])
    # foci that lie side by side in one lung reach a little higher
    assert max(height.values()) - min(height.values()) < 20


def disc_of(radius):
    """Area of a sphere on a film, ray by ray: the oracle of `seen_area`."""
    total = 0.0
    for away in np.arange(0.25, radius, 0.5):
        depth = np.arange(-radius, radius, 0.25) + 0.125
        share = np.clip((1 - np.hypot(depth, away) / radius) / arrangement.RIM, 0, 1)
        seen = np.clip((0.25 * share.sum() - arrangement.THIN) / arrangement.THIN, 0, 1)
        total += seen * 2 * np.pi * away * 0.5
    return total


def test_area_is_that_of_a_sphere():
    """A sphere inside the lung is seen as its disc, without its thin rim."""
    points, lobes, wall = patterns.lung_points("lidc")
    deep = int(wall.argmax())
    focus = arrangement.Focus(points[deep], np.array([24.0, 24.0, 24.0]), int(lobes[deep]))
    area = arrangement.seen_area([focus], 1.0, "lidc")
    assert area == pytest.approx(disc_of(24.0), rel=0.1)
    half = arrangement.factor_for_area([focus], disc_of(17.0), "lidc")
    assert half == pytest.approx(17 / 24, rel=0.08)


@pytest.mark.parametrize("source", atlases.SOURCES)
def test_what_the_diaphragm_hides_is_not_seen(source):
    """A focus in the posterior recess, below the dome, adds no area."""
    points, lobes, _ = patterns.lung_points(source)
    below = np.where(points[:, 0] < 60)[0]
    lowest = below[points[below, 1].argmin()]
    focus = arrangement.Focus(points[lowest], np.array([12.0, 12.0, 12.0]), int(lobes[lowest]))
    assert arrangement.seen_area([focus], 1.0, source) == 0
    grid = arrangement.lung_grid(source)
    assert 0.4 < grid.seen.sum() / grid.side.any(axis=0).sum() < 0.95


@pytest.mark.parametrize("infection", INFECTIONS)
def test_most_of_every_focus_is_seen(infection):
    shares = []
    for patient in drawn(infection, "textbook", 20):
        for s in patient:
            if s.kind == "ground_glass":
                focus = arrangement.Focus(np.array(s.centre), np.array(s.radius), s.lobes[0])
                shares.append(arrangement._seen_share(focus, "lidc"))
    assert np.quantile(shares, 0.1) > 0.6


def test_arrangement_is_the_share_of_patients_of_the_common_law():
    def kinds(share):
        hospital = Hospital("elm", n=60, arrangement=share, size=64)
        infected = [hospital.condition_of(i) for i in range(60)]
        infected = [c for c in infected if c.diagnosis != "normal"]
        own = {"viral_glass", "viral_core", "nodules", "cavity"}
        return [bool(own & {s.kind for s in c.lesions}) for c in infected]

    assert not any(kinds(1.0))
    assert np.mean(kinds(0.0)) > 0.6
    assert 0.02 < np.mean(kinds(0.7)) < np.mean(kinds(0.0))


def test_every_focus_lies_in_a_lung():
    for source in atlases.SOURCES:
        points, lobes, _ = patterns.lung_points(source)
        for lesion in drawn("bacterial", "textbook", 3, source)[0]:
            nearest = np.linalg.norm(points - np.array(lesion.centre), axis=1).argmin()
            assert lobes[nearest] in lesion.lobes
