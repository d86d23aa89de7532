"""Extras: what is missing is named, with the command that brings it."""

import importlib.metadata

import pytest
from packaging.requirements import Requirement

from cxrkit.config import extras


def test_the_requirements_of_an_extra_are_not_those_of_the_kit():
    core = {need.name for need in extras.requirements()}
    lessons = {need.name for need in extras.requirements("lessons")}
    assert {"torch", "lazy-loader"} <= core and {"papermill", "jupytext"} <= lessons
    assert not core & lessons


def test_an_extra_that_is_there_is_no_error():
    extras.require_extra("lessons", "cxrkit reproduce")


def test_an_extra_that_is_missing_or_too_old_is_named(monkeypatch):
    needs = [Requirement(text) for text in ("no-such-package", "click>=99", "click>=1")]
    monkeypatch.setattr(extras, "requirements", lambda name="": needs)
    with pytest.raises(extras.MissingExtra) as caught:
        extras.require_extra("lessons", "cxrkit reproduce")
    message = str(caught.value)
    assert message.startswith("cxrkit reproduce needs the extra 'lessons'; missing or too old: no-")
    assert "(needs >=99)" in message and 'pip install "cxrkit[lessons]"' in message


def test_a_kit_that_is_not_installed_is_left_to_its_imports(monkeypatch):
    def missing(name=""):
        raise importlib.metadata.PackageNotFoundError("cxrkit")

    monkeypatch.setattr(extras, "requirements", missing)
    extras.require_extra("lessons", "cxrkit reproduce")
