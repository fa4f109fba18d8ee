"""Puts the root at the end of the path, for `benches`, which is not installed. Why there: benches/__main__.py."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
