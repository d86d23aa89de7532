"""Store: load or make once, never half a result, the same name for the same settings."""

import os
import subprocess
import sys

import filelock
import pytest

from cxrkit.config import paths
from cxrkit.storage import artifacts, atomic, locations

SETTINGS = {"image_size": 128, "choices": {"resize": "plain"}}


def test_key_depends_on_values_not_on_their_order():
    assert artifacts.key({"a": 1, "b": {"c": 2, "d": 3}}) == artifacts.key(
        {"b": {"d": 3, "c": 2}, "a": 1}
    )
    assert artifacts.key({"a": 1}) != artifacts.key({"a": 2})
    assert artifacts.key(SETTINGS) == "8b0cbb3c29d3", (
        "a changed key makes every finished artifact of every user unfindable"
    )


def test_key_refuses_what_json_cannot_say():
    with pytest.raises(ValueError):
        artifacts.key({"lr": float("nan")})


def test_make_is_called_once(tmp_path):
    store, calls = artifacts.Store(tmp_path), []

    def make(folder):
        calls.append(folder.name)
        (folder / "metrics.json").write_text("{}")

    first = store.load_or_make("backbone", SETTINGS, make)
    assert (
        store.load_or_make("backbone", dict(reversed(SETTINGS.items())), make)
        == first
        == store.folder("backbone", SETTINGS)
    )
    assert calls == [first.name + ".part"]
    names = sorted(path.name for path in first.iterdir())
    assert names == ["files.json", "metrics.json", "settings.json"]
    assert atomic.read_json(first / "settings.json") == SETTINGS
    assert (
        store.load_or_make("backbone", SETTINGS | {"image_size": 256}, make) != first
        and len(calls) == 2
    )


def test_a_failed_make_leaves_no_artifact_and_keeps_what_it_had(tmp_path):
    store = artifacts.Store(tmp_path)

    def stops(folder):
        (folder / "checkpoint").write_text("step 10")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.load_or_make("backbone", SETTINGS, stops)
    assert not store.folder("backbone", SETTINGS).exists()
    found = []
    store.load_or_make(
        "backbone", SETTINGS, lambda folder: found.append((folder / "checkpoint").read_text())
    )
    assert found == ["step 10"], "the next call goes on from the checkpoint"


def test_a_process_waits_for_another_that_makes_the_same_artifact_and_says_so(tmp_path):
    store = artifacts.Store(tmp_path)
    folder = store.folder("backbone", SETTINGS)
    code = (
        "import functools, sys; from cxrkit.storage import artifacts, locks\n"
        "artifacts.announced_lock = functools.partial(locks.announced_lock, patience=0.1)\n"
        f"artifacts.Store(sys.argv[1]).load_or_make('backbone', {SETTINGS!r}, lambda folder: None)"
    )
    with filelock.FileLock(folder.with_name(folder.name + ".lock")):
        process = subprocess.Popen(
            [sys.executable, "-c", code, tmp_path], stderr=subprocess.PIPE, text=True
        )
        line = process.stderr.readline()
        assert f"waiting for the process that makes {folder.name} in {tmp_path}" in line
        assert process.poll() is None and not folder.exists()
    process.communicate(timeout=60)
    assert process.returncode == 0 and folder.exists()


def test_write_atomic_replaces_whole_files_only(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "metrics.json"
    atomic.write_json(path, {"auc": 0.5})
    with pytest.raises(ValueError):
        atomic.write_json(path, {"auc": float("nan")})

    def full_disk(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError):
        atomic.write_json(path, {"auc": 0.9})
    assert atomic.read_json(path) == {"auc": 0.5}


def test_damaged_json_names_the_file_and_the_next_step(tmp_path):
    (tmp_path / "metrics.json").write_text('{"auc": 0.')
    with pytest.raises(ValueError, match="metrics.json is no valid JSON .* run the stage again"):
        atomic.read_json(tmp_path / "metrics.json")


def test_the_store_is_where_the_user_says(tmp_path, monkeypatch):
    monkeypatch.setenv("CXRKIT_STORE", str(tmp_path / "here"))
    assert locations.default_root() == tmp_path / "here" == artifacts.Store().root
    monkeypatch.delenv("CXRKIT_STORE")
    assert locations.default_root().name == "artifacts"
    monkeypatch.setattr(paths, "PACKAGE", tmp_path / "site-packages" / "cxrkit")
    assert (
        "cxrkit" in locations.default_root().name
        and "site-packages" not in locations.default_root().parts
    )
