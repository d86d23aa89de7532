"""The names that lessons and other people's code import from the packages `data` and `storage`."""

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

PROMISED = {
    "data": "preprocess equalize blur resize normalize clean_mask roi_pool zones brixia_to_array "
    "read_manifest CXRDataset FINDINGS DIAGNOSES load_image load_mask cached_images",
    "storage": "Store RemoteStore key read_json write_json write_atomic",
}


@pytest.mark.parametrize("package", list(PROMISED))
def test_public_names_are_there_and_no_module_bears_one(package):
    module = importlib.import_module(f"cxrkit.{package}")
    assert set(PROMISED[package].split()) <= set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        assert getattr(module, name) is not None
    public = {name for name in module.__all__ if not inspect.ismodule(getattr(module, name))}
    assert not public & {one.name for one in pkgutil.iter_modules(module.__path__)}


def test_a_public_name_brings_only_its_own_module():
    code = (
        "import sys, cxrkit.data, cxrkit.storage\n"
        "cxrkit.data.FINDINGS, cxrkit.storage.Store\n"
        "assert not {'torch', 'pandas', 'cv2', 'numpy'} & set(sys.modules)\n"
        "cxrkit.data.preprocess\n"
        "assert not {'torch', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
