"""The calibration of a model: what `rerank` and the page of the server say of gaps between scores."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from codescaler.errors import InvalidInput, SettingsMismatch

if TYPE_CHECKING:
    from codescaler.engine import Engine
    from codescaler.evaluate.calibration import Calibration
    from codescaler.evaluate.combination import CombinedScorer


def read_model_calibration(engine: "Engine | CombinedScorer", path: Path | None) -> "Calibration | None":
    """Reads the named file, or the file in the model's folder if there is one of these settings."""
    from codescaler.engine import Engine
    from codescaler.evaluate.calibration import CALIBRATION_FILE, read_calibration
    from codescaler.io.files import find_file

    if not isinstance(engine, Engine):
        if path is not None:
            raise InvalidInput(f"--calibration {path} is of one model, and --combine ranks by several; leave it out")
        return None
    found = path or find_file([engine.folder], CALIBRATION_FILE)
    if found is None:
        return None
    try:
        return read_calibration(found, engine.head_digest, engine.text.describe(are_programs=True))
    except SettingsMismatch as error:
        if path is not None:
            raise
        print(f"not used: {error}", file=sys.stderr)  # nobody asked for it
        return None
