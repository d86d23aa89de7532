"""The worked examples of docs/extend.md run as they stand, one after the other."""

import re

import pytest

from cxrkit.explain import METHODS
from cxrkit.models import FEATURE_EXTRACTORS
from tests.conftest import CHECKOUT

PAGE = CHECKOUT / "docs" / "extend.md"


def examples():
    """The Python blocks of the page."""
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)


@pytest.fixture
def registries():
    """The registries that the examples add to are afterwards as they were."""
    changed = (METHODS, FEATURE_EXTRACTORS)
    before = [dict(registry) for registry in changed]
    yield
    for registry, entries in zip(changed, before):
        registry.clear()
        registry.update(entries)


def test_the_examples_run(registries, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CXRKIT_STORE", str(tmp_path / "store"))
    found = examples()
    assert len(found) >= 7
    names = {}
    for number, source in enumerate(found, start=1):
        exec(compile(source, f"docs/extend.md, example {number}", "exec"), names)
