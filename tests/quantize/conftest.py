"""What the tests of quantised folders share."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def copy(folder, tmp_path):
    """A quantised folder, the module's own, to be changed."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))
