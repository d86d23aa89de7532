"""Profiles of real films for tests of settings: nothing of them is trained."""

from dataclasses import replace

from cxrkit.config import profiles
from cxrkit.config.sections import Profile, Severity, Sources


def begins_as_virtual() -> Profile:
    """A profile of real films whose models begin as those of the virtual hospitals."""
    demo = profiles.demo()
    return replace(
        demo,
        name="mini",
        manifests=("cohen", "cxnet", "nih_cxr14"),
        folds=5,
        backbone=replace(demo.backbone, initial_weights="virtual"),
        sources=Sources(joint_views=True, virtual=True, held_out=("cohen", "cxnet")),
        severity=Severity(virtual=True, healthy="zeros"),
        grid=replace(demo.grid, alone=("cohen",)),
    )
