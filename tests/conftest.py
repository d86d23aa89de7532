"""Fixtures shared by all tests; `mirror` is the folder with prepared real films, where there is
one.
"""

import functools
import os
import random
import signal
import sys
from pathlib import Path

import pytest

# before torch is imported: waiting threads must not take the core
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("MPLBACKEND", "Agg")

pytest_plugins = ["pytester"]
CHECKOUT = Path(__file__).resolve().parent.parent


def pytest_configure():
    """A shell starts what it puts in the background deaf to Ctrl-C, and processes inherit that:
    those that tests interrupt must hear it.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Refuse names with an address: they differ between the processes of xdist, which then stop."""
    named = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if named:
        raise pytest.UsageError(
            f"{len(named)} tests are named by an address, such as {named[0]}: give their ids"
        )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """The same draws in every run, whatever ran before: before fixtures, which may draw too."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:  # heavy: not for the tests that need none
        sys.modules["torch"].manual_seed(0)


def mirror_folder():
    """`CXRKIT_MIRROR`, else `shared/data` beside the checkout."""
    return Path(os.environ.get("CXRKIT_MIRROR") or CHECKOUT.parent / "shared" / "data")


@pytest.fixture(scope="session")
def mirror():
    """Folder with prepared real films; the test is skipped where there is none."""
    folder = mirror_folder()
    if not folder.is_dir():
        pytest.skip("needs prepared real films: set CXRKIT_MIRROR to their folder")
    if not any(folder.iterdir()):
        pytest.fail(f"{folder} is empty")
    return folder


@pytest.fixture(scope="module", autouse=True)
def fresh():
    """No test depends on which artifacts come with the kit; lessons that nbval runs may."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXRKIT_FRESH", "1")
        yield


@pytest.fixture
def layer(tmp_path, monkeypatch):
    """An empty folder in place of that of the artifacts that come with the kit."""
    from cxrkit.storage import locations, provenance

    folder = tmp_path / "layer"
    folder.mkdir()
    monkeypatch.setattr(locations, "SHIPPED", folder)
    monkeypatch.setattr(provenance, "_said", set())
    monkeypatch.delenv("CXRKIT_FRESH")
    return folder


@pytest.fixture(scope="module")
def few_draws():
    """Intervals from 40 draws of patients instead of hundreds: for stages of which a test reads no
    limits. test_resampling proves these.
    """
    from cxrkit.evaluation import resampling

    with pytest.MonkeyPatch.context() as patch:
        for name in ("bootstrap", "paired_bootstrap"):
            patch.setattr(resampling, name, functools.partial(_fewer, getattr(resampling, name)))
        yield


def _fewer(full, *args, draws=2000, **options):
    return full(*args, draws=min(draws, 40), **options)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """In CI a test that takes `mirror` may not skip while the folder is there: a silent skip would
    look like a pass.
    """
    report = (yield).get_result()
    skipped = report.skipped and not hasattr(report, "wasxfail")
    if (
        skipped
        and "mirror" in getattr(item, "fixturenames", ())
        and os.environ.get("CI")
        and mirror_folder().exists()
    ):
        report.outcome, report.longrepr = (
            "failed",
            f"skipped although {mirror_folder()} exists: {call.excinfo.value}",
        )
