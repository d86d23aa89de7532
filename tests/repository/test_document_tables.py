"""The tables of the documents are those of the recorded results."""

import subprocess
import sys

from tests.conftest import CHECKOUT


def test_tables_of_the_documents_are_what_the_results_say():
    command = [sys.executable, "tools/update_readme.py", "--check"]
    found = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
